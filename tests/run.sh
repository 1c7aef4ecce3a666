#!/bin/sh
# Installs what is missing, builds into ./build, runs every test. The last line counts them.
cd "$(dirname "$0")/.." || exit 1

failed() {
    echo "0 passed, 1 failed"
    exit 1
}

launch/deps.sh || failed
[ -f build/build.ninja ] || meson setup build || failed
ninja -C build || failed
log=$(mktemp)
# one more than the cores, as tests often wait: for processes to start, or for a deadline
meson test -C build --no-rebuild --print-errorlogs --num-processes $(($(nproc) + 1)) 2>&1 | tee "$log"
# meson's summary, lines like "Ok:   12"
awk '
    /^(Ok|Expected Fail): / { passed += $NF; seen = 1 }
    /^(Fail|Unexpected Pass|Timeout): / { failed += $NF }
    /^Skipped: / && $NF > 0 { print $NF " skipped: they say above what they lacked" }
    END {
        if (!seen || passed + failed == 0) failed = 1
        printf "%d passed, %d failed\n", passed, failed
        exit failed > 0
    }' "$log"
status=$?
rm -f "$log"
exit $status
