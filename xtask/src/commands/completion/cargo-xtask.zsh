# Completion of `cargo xtask` for zsh, after `compinit`:
#   cargo xtask completion zsh > ~/.cargo-xtask.zsh; echo '. ~/.cargo-xtask.zsh' >> ~/.zshrc
# It asks the binary that cargo has built for this tree; where there is none, nothing is offered.

__cargo_xtask_binary() {
    local root=$PWD
    until [[ -d $root/infra/kubernetes/helmfiles ]]; do
        [[ -n $root ]] || return 1
        root=${root%/*}
    done
    local binary=${CARGO_TARGET_DIR:-${CARGO_BUILD_TARGET_DIR:-$root/target}}/debug/xtask
    [[ -x $binary ]] && print -r -- $binary
}

_cargo_xtask() {
    if (( CURRENT < 3 )) || [[ $words[2] != xtask ]]; then
        ${__cargo_xtask_before:-_default} "$@"
        return
    fi
    local binary candidate value about
    local -a offered described
    binary=$(__cargo_xtask_binary) || return 1
    offered=("${(@f)$($binary complete -- "${(@Q)words[3,CURRENT]}" 2>/dev/null)}")
    for candidate in $offered; do
        if [[ $candidate == :files ]]; then
            _files
            return
        fi
        value=${candidate%%$'\t'*} about=
        [[ $candidate == *$'\t'* ]] && about=:${candidate#*$'\t'}
        described+=("${value//:/\\:}$about")
    done
    (( $#described )) && _describe -V 'cargo xtask' described
}

if (( $+functions[compdef] )); then
    [[ ${_comps[cargo]-} == _cargo_xtask ]] || typeset -g __cargo_xtask_before=${_comps[cargo]-}
    compdef _cargo_xtask cargo
fi
