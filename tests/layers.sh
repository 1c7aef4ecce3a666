#!/bin/sh
# Fails on an #include that points upward in  runtime < kernels < parallel < model < launch, on one
# that is not written from the root, and on a library outside its home (style.md).
#     layers.sh [ROOT]
here=$(cd "$(dirname "$0")/.." && pwd)

check() { # ROOT: prints what is wrong there, and counts what was looked at
    cd "$1" || exit 1
    find runtime kernels parallel model launch -name '*.[ch]' -o -name '*.cc' -o -name '*.cpp' \
        -o -name '*.cu' -o -name '*.cuh' 2>/dev/null | xargs awk '
        BEGIN {
            n = split("runtime kernels parallel model launch", order, " ")
            for (i = 1; i <= n; i++)
                level[order[i]] = i
            # headers that begin so belong to these folders
            home["mpi.h"] = "parallel"
            home["nccl"] = "parallel"
            home["cuda_runtime"] = "runtime kernels/cuda parallel"
            home["nvtx3"] = "runtime"
            home["cublas"] = "kernels/cuda"
            home["cudnn"] = "kernels/cuda"
            home["dnnl"] = "kernels/cpu"
            home["oneapi"] = "kernels/cpu"
            home["cblas"] = "kernels/cpu"
            home["hdf5"] = "runtime"
            home["minizip"] = "runtime"
            home["cjson"] = "runtime model launch"
            home["md5.h"] = "model"
            home["sentencepiece"] = "model"
            home["utf8proc"] = "model"
            home["hwloc"] = "launch"
            home["libav"] = "launch"
            home["libsw"] = "launch"
        }
        /^[ \t]*#[ \t]*include[ \t]*[<"]/ {
            seen++
            name = $0
            sub(/^[^<"]*[<"]/, "", name)
            sub(/[>"].*/, "", name)
            folder = FILENAME
            sub(/\/.*/, "", folder)
            if ($0 ~ /"/) {
                target = name
                sub(/\/.*/, "", target)
                if (!(target in level))
                    print FILENAME ":" FNR ": \"" name "\" is not one of the layers"
                else if (level[target] > level[folder])
                    print FILENAME ":" FNR ": " folder " includes " name ", which is above it"
                next
            }
            for (library in home) {
                if (index(name, library) != 1)
                    continue
                n = split(home[library], allowed, " ")
                good = 0
                for (i = 1; i <= n; i++)
                    good += index(FILENAME, allowed[i] "/") == 1
                if (!good)
                    print FILENAME ":" FNR ": <" name "> belongs in " home[library]
            }
        }
        END { print "includes: " seen + 0 }'
}

verdict() { # ROOT: the lines that say what is wrong
    check "$1" | grep -v '^includes: '
}

if [ $# = 1 ]; then
    wrong=$(verdict "$1")
    echo "$wrong"
    [ -z "$wrong" ]
    exit
fi

# It must find what is wrong in a tree made wrong.
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir "$tree/runtime" "$tree/kernels" "$tree/parallel" "$tree/model" "$tree/launch"
echo '#include "model/transformer/dit.h"' >"$tree/runtime/a.c"
echo ' #  include "launch/plan.h"' >"$tree/model/b.h"
echo '#include "local.h"' >"$tree/launch/c.c"
echo '#include <mpi.h>' >"$tree/model/d.c"
printf '#include "runtime/a.h"\n#include <stdio.h>\n' >"$tree/launch/e.c"
found=$(verdict "$tree" | wc -l)
if [ "$found" != 4 ]; then
    echo "layers: the check itself is broken: it found $found of 4"
    exit 1
fi

wrong=$(verdict "$here")
[ -z "$wrong" ] || echo "$wrong"
echo "layers: $(check "$here" | sed -n 's/^includes: //p') includes, $(printf '%s' "$wrong" | grep -c .) wrong"
[ -z "$wrong" ]
