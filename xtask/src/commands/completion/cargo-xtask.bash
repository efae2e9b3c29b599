# Completion of `cargo xtask` for bash, after what completes cargo itself (rustup, bash-completion):
#   cargo xtask completion bash > ~/.cargo-xtask.bash; echo '. ~/.cargo-xtask.bash' >> ~/.bashrc
# It asks the binary that cargo has built for this tree; where there is none, nothing is offered.

__cargo_xtask_binary() {
    local root=$PWD
    until [[ -d $root/infra/kubernetes/helmfiles ]]; do
        [[ -n $root ]] || return 1
        root=${root%/*}
    done
    local binary=${CARGO_TARGET_DIR:-${CARGO_BUILD_TARGET_DIR:-$root/target}}/debug/xtask
    [[ -x $binary ]] && printf '%s\n' "$binary"
}

_cargo_xtask() {
    local line=${COMP_LINE:0:COMP_POINT} words=()
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    if [[ ${words[1]-} != xtask || ${#words[@]} -lt 3 ]]; then
        __cargo_xtask_others "$@"
        return
    fi
    local binary candidate word=${words[${#words[@]} - 1]} before=
    binary=$(__cargo_xtask_binary) || return 0
    # Bash replaces what follows the last of the characters at which it breaks words.
    case $word in *[=:]*) before=${word%"${word##*[=:]}"} ;; esac
    COMPREPLY=()
    # Without mapfile, -1 as an index and much of compopt: macOS has bash 3.2.
    while IFS= read -r candidate; do
        candidate=${candidate%%$'\t'*}
        if [[ $candidate == :files ]]; then
            compopt -o default 2>/dev/null
        else
            COMPREPLY+=("${candidate#"$before"}")
        fi
    done < <("$binary" complete -- "${words[@]:2}" 2>/dev/null)
    # A list goes on after its comma.
    [[ $word == *,* ]] && compopt -o nospace 2>/dev/null
    return 0
}

# What completes the rest of cargo's command line, which bash-completion loads when it is first asked for.
__cargo_xtask_others() {
    if [[ -z $__cargo_xtask_before ]]; then
        if declare -F _comp_load >/dev/null; then
            _comp_load cargo
        elif declare -F __load_completion >/dev/null; then
            __load_completion cargo
        fi
        __cargo_xtask_wrap
    fi
    compopt -o bashdefault -o default 2>/dev/null
    [[ -z $__cargo_xtask_before ]] || "$__cargo_xtask_before" "$@"
}

__cargo_xtask_wrap() {
    local now
    now=$(complete -p cargo 2>/dev/null)
    if [[ $now =~ \ -F\ ([^ ]+) && ${BASH_REMATCH[1]} != _cargo_xtask ]]; then
        __cargo_xtask_before=${BASH_REMATCH[1]}
    fi
    complete -F _cargo_xtask cargo
}

__cargo_xtask_before=
__cargo_xtask_wrap
