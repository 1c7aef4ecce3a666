#!/bin/sh
# fault.sh PROGRAM MPIRUN ARGS...: a failed assert on one rank of two, and alone, is one line on
# stderr, ends the whole job with status 70, long before the other ranks' deadline, and leaves no stack dump and no core.
program=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
shift
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
ulimit -c unlimited 2>/dev/null
done=0 failed=0

check() { # NAME LINE COMMAND...
    name=$1 line=$2
    shift 2
    start=$(date +%s)
    timeout -k 5 300 "$@" >out 2>err
    status=$?
    seconds=$(($(date +%s) - start))
    done=$((done + 1))
    if [ $status -ne 70 ] || [ "$(cat err)" != "$line" ] ||
        [ -n "$(find . -name 'core*')" ]; then
        failed=$((failed + 1))
        echo "$name: status $status after $seconds s, wanted '$line':"
        cat out err
    fi
}

number() { # FILE TEXT: the line of the file that has the text
    grep -n "$2" "$here/$1" | cut -d: -f1
}

c=$(number test_fault.c '    assert(')
says="wanmpi: internal fault: tests/test_fault.c:$c: w->size == 0; please report it"
cxx=$(number test_fault_cxx.cc '    assert(')
for how in main thread threads; do
    check "$how" "$says" "$@" -n 2 "$program" "$how"
    [ "$how" = threads ] || grep -q 'what was printed before' out || {
        failed=$((failed + 1))
        echo "$how: what was printed before is lost"
    }
done
check cxx "wanmpi: internal fault: tests/test_fault_cxx.cc:$cxx: ranks < 0; please report it" \
    "$@" -n 2 "$program" cxx
check early "$says" "$program" early
check alone "$says" "$program" main
check "alone, thread" "$says" "$program" thread
check "one by mpirun" "$says" "$@" -n 1 "$program" main
echo "fault: $done ways, $failed wrong"
[ $failed = 0 ]
