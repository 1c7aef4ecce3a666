#!/bin/sh
# Fuzzes the reader of one kind of outside file with libFuzzer, AddressSanitizer and UBSan. Builds
# with clang. Inputs that reach new code are kept in BUILD/corpus/TARGET, failing ones in
# BUILD/TARGET-*: copy those to corpus/TARGET, whose files every test run reads.
#     run.sh TARGET [SECONDS] [BUILD]     TARGET: a folder of corpus/; 60 seconds; build-fuzz
target=${1:?run.sh TARGET [SECONDS] [BUILD]}
here=$(cd "$(dirname "$0")" && pwd)
build=${3:-$here/../../build-fuzz}
[ -d "$here/corpus/$target" ] || {
    echo "no target $target; there are: $(ls "$here/corpus" | tr '\n' ' ')"
    exit 2
}
[ -d "$build/meson-private" ] || CC="${CC:-clang}" CXX="${CXX:-clang++}" \
    meson setup "$build" "$here/../.." -Dcuda=disabled -Dfuzz=true -Dbuildtype=debugoptimized || exit 1
ninja -C "$build" "tests/fuzz/fuzz_$target" || exit 1
mkdir -p "$build/corpus/$target"
supp=$here/../lsan.supp dict=
[ ! -f "$here/$target.supp" ] || supp=$here/$target.supp
[ ! -f "$here/$target.dict" ] || dict="-dict=$here/$target.dict"
ASAN_OPTIONS=detect_odr_violation=0 LSAN_OPTIONS=suppressions="$supp:print_suppressions=0" \
    "$build/tests/fuzz/fuzz_$target" -max_len=65536 -malloc_limit_mb=64 -rss_limit_mb=1024 -timeout=10 \
    -print_final_stats=1 -max_total_time="${2:-60}" -artifact_prefix="$build/$target-" $dict \
    "$build/corpus/$target" "$here/corpus/$target"
