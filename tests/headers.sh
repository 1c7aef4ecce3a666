#!/bin/sh
# Every header compiles alone: as C, and where C++ and CUDA files include it as C++ too.
cd "$(dirname "$0")/.." || exit 1
flags="-I. -D_GNU_SOURCE -Wall -Wextra -Wno-unused-parameter -Werror -fsyntax-only"
flags="$flags $(pkg-config --cflags ompi hdf5)"
count=0
wrong=0

compile() { # compiler, language, standard, header
    count=$((count + 1))
    echo "#include \"$4\"" | $1 -x "$2" "-std=$3" $flags - || {
        echo "$4 does not compile alone as $3"
        wrong=$((wrong + 1))
    }
}

for header in $(find runtime kernels parallel model launch -name "*.h"); do
    compile "${CC:-cc}" c gnu11 "$header"
done
for header in runtime/*.h kernels/*.h; do
    compile "${CXX:-c++}" c++ gnu++17 "$header"
done
echo "headers: $count compiled, $wrong failed"
[ $wrong = 0 ] && [ $count -gt 10 ]
