# shellcheck shell=sh
# checkpoint_common.sh - what tests of checkpoints share that make_checkpoint writes: a temporary folder, a count of
# checks. Scripts include it with their own first arguments, and it removes these:
#     . "$(dirname "$0")/checkpoint_common.sh"        # WANMPI MAKE_CHECKPOINT SAME_LATENTS
wanmpi=$(realpath "$1") make=$(realpath "$2") same=$(realpath "$3")
shift 3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
count=0
wrong=0

# need COMMAND...: without it there is nothing to test
need() {
    "$@" >log 2>&1 || {
        cat log
        exit 1
    }
}
