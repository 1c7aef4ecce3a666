#!/bin/sh
# Every C and C++ file is as clang-format leaves it. Other versions than 14 see some lines differently.
cd "$(dirname "$0")/.." || exit 1
format=$(command -v clang-format-14 || command -v clang-format) || {
    echo "format: skipped, no clang-format here"
    exit 77
}
case $($format --version) in
*'version 14.'*) ;;
*)
    echo "format: skipped, needs clang-format 14 and found $($format --version)"
    exit 77
    ;;
esac
files=$(find runtime kernels parallel model launch bench tests -name '*.[ch]' -o -name '*.cc' \
    -o -name '*.cpp' -o -name '*.cu')
$format --dry-run --Werror $files || exit 1
echo "format: $(echo "$files" | wc -l) files"
