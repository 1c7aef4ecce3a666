# shellcheck shell=sh
# cli_common.sh - what tests of one command on one rank share: the program, a temporary folder, a count of checks.
# The command's output is in `out` and `err`. Scripts include it with their own first argument, WANMPI:
#     . "$(dirname "$0")/cli_common.sh"
wanmpi=$(realpath "$1")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
count=0
wrong=0

bad() {
    wrong=$((wrong + 1))
    echo "$*"
    sed 's/^/    /' out err
}
