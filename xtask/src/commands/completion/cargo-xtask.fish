# Completion of `cargo xtask` for fish, beside what completes cargo itself:
#   cargo xtask completion fish > ~/.config/fish/conf.d/cargo-xtask.fish
# It asks the binary that cargo has built for this tree; where there is none, nothing is offered.

function __cargo_xtask_asked
    set -l words (commandline -opc)
    test (count $words) -ge 2; and test "$words[2]" = xtask
end

function __cargo_xtask_candidates
    set -l root $PWD
    while not test -d $root/infra/kubernetes/helmfiles
        test -n "$root"; or return
        set root (string replace -r '/[^/]*$' '' -- $root)
    end
    set -l target $root/target
    for named in $CARGO_TARGET_DIR $CARGO_BUILD_TARGET_DIR
        test -n "$named"; or continue
        set target $named
        break
    end
    test -x $target/debug/xtask; or return
    set -l words (commandline -opc)
    for candidate in ($target/debug/xtask complete -- $words[3..-1] (commandline -ct) 2>/dev/null)
        if test "$candidate" = :files
            __fish_complete_path (commandline -ct)
        else
            echo $candidate
        end
    end
end

complete -c cargo -n __cargo_xtask_asked -f -k -a '(__cargo_xtask_candidates)'
