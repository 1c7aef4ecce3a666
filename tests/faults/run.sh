#!/usr/bin/env bash
# run.sh BUILD: all fault campaigns of this folder on the program of a build folder. They take many minutes; a quick
# part of each is in the test suite. The last lines count the cases.
here=$(dirname "$(realpath "$0")")
build=$(realpath "${1:?run.sh BUILD}")
bad=0
for script in "$here"/*.sh; do
    case $(basename "$script") in run.sh | common.sh) continue ;; esac
    echo "== $(basename "$script")"
    bash "$script" "$build"
    status=$?
    [ $status = 0 ] || [ $status = 77 ] || bad=$((bad + 1))
done
echo "campaigns with wrong cases: $bad"
[ $bad = 0 ]
