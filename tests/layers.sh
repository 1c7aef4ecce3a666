#!/bin/sh
# Fails on an #include that points upward in  runtime < kernels < parallel < model < launch, on one
# that is not written from the root, on a circle between the sub-folders of model/ or launch/, on a library
# outside its home, and on a source file of more than 700 lines.
#     layers.sh [ROOT]
here=$(cd "$(dirname "$0")/.." && pwd)

# KNOWN CIRCLES: includes between sub-folders, as FROM>TO, that are tolerated until they are removed.
known=""

check() { # ROOT: prints what is wrong there, and counts the includes
    cd "$1" || exit 1
    find runtime kernels parallel model launch bench tests \( -name '*.[ch]' -o -name '*.cc' -o -name '*.cpp' \
        -o -name '*.cu' -o -name '*.cuh' -o -name '*.sh' -o -name '*.py' \) \
        -exec awk 'FNR == 701 { print FILENAME ": more than 700 lines" }' {} + 2>/dev/null
    find runtime kernels parallel model launch -name '*.[ch]' -o -name '*.cc' -o -name '*.cpp' \
        -o -name '*.cu' -o -name '*.cuh' 2>/dev/null | xargs awk -v known="$2" '
        # The node of a file in the graph of folders: its sub-folder of model or launch, or the folder.
        function node(path, part) {
            return split(path, part, "/") > 2 && part[1] ~ /^(model|launch)$/ ? part[1] "/" part[2] : part[1]
        }
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
            home["sha2.h"] = "runtime"
            home["sentencepiece"] = "model"
            home["utf8proc"] = "model"
            home["hwloc"] = "launch"
            home["libav"] = "launch"
            home["libsw"] = "launch"
            home["jpeglib.h"] = "launch"
            home["jerror.h"] = "launch"
            n = split(known, list, /[ \n]+/)
            for (i = 1; i <= n; i++)
                tolerated[list[i]]
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
                else if (node(FILENAME) != node(name) && !(node(FILENAME) ">" node(name) in edge)) {
                    edge[node(FILENAME) ">" node(name)] = FILENAME ":" FNR
                    nodes[node(FILENAME)]
                    nodes[node(name)]
                }
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
        END {
            for (e in edge)
                if (!(e in tolerated))
                    reaches[e]
            for (k in nodes) # all paths: through one node more in every turn
                for (i in nodes)
                    if (i ">" k in reaches)
                        for (j in nodes)
                            if (k ">" j in reaches)
                                reaches[i ">" j]
            for (e in edge) {
                split(e, end, ">")
                if (!(e in tolerated) && end[2] ">" end[1] in reaches)
                    print edge[e] ": " end[1] " includes " end[2] ", a circle of folders"
            }
            for (e in tolerated)
                if (e in edge)
                    print "known: " e " (" edge[e] ")"
            print "includes: " seen + 0
        }'
}

verdict() { # ROOT [KNOWN]: the lines that say what is wrong
    check "$@" | grep -v '^includes: \|^known: '
}

if [ $# = 1 ]; then
    wrong=$(verdict "$1" "$known")
    echo "$wrong"
    [ -z "$wrong" ]
    exit
fi

# It must find what is wrong in trees made wrong, and nothing in one that is right.
trees=$(mktemp -d)
trap 'rm -rf "$trees"' EXIT

file() { # PATH INCLUDED...: a file of the tree at hand
    path=$tree/$1
    mkdir -p "$(dirname "$path")"
    shift
    printf '#include "%s"\n' "$@" >"$path"
}

expect() { # COUNT PATTERN [KNOWN]: that many lines of this kind, and no other
    found=$(verdict "$tree" "$3" | grep -c "$2")
    all=$(verdict "$tree" "$3" | grep -c .)
    if [ "$found" != "$1" ] || [ "$all" != "$1" ]; then
        echo "layers: the check itself is broken: $found lines of '$2' and $all in all, not $1, in $tree:"
        verdict "$tree" "$3"
        exit 1
    fi
    tree=$trees/$((tests += 1))
}

tests=0
tree=$trees/0
file runtime/a.c model/transformer/dit.h
mkdir "$tree/model" "$tree/launch"
echo ' #  include "launch/plan.h"' >"$tree/model/b.h"
echo '#include "local.h"' >"$tree/launch/c.c"
echo '#include <mpi.h>' >"$tree/model/d.c"
printf '#include "runtime/a.h"\n#include <stdio.h>\n' >"$tree/launch/e.c"
expect 4 'which is above it\|one of the layers\|belongs in'

two_folders() {
    file model/a/a.c model/a/a.h model/b/b.h runtime/a.h
    file model/b/b.h model/a/a.h
    file model/c/c.c model/a/a.h model/b/b.h
}
two_folders
expect 2 'a circle of folders'
two_folders
expect 0 . 'model/c>model/b model/b>model/a'

file model/a/a.c model/b/b.h
file model/b/b.c model/c/deep/c.h
file model/c/deep/c.h model/d/d.h
file model/d/d.c model/a/a.h model/e/e.h
expect 4 'a circle of folders'

file launch/main.c launch/video/video.h launch/bench/bench.h
file launch/bench/bench.c launch/main.h model/a/a.h
expect 2 'launch.*a circle of folders'

file model/top.c model/a/a.h
file model/a/a.c model/top.h
expect 2 'model.*a circle of folders'

file model/a/a.c model/a/a.h model/b/b.h model/c/c.h parallel/mesh.h
file model/b/b.c model/c/c.h
file launch/main.c launch/video/video.h model/a/a.h
file launch/video/video.c launch/video/video.h runtime/status.h
yes '// a line' | head -700 >"$tree/launch/long.c"
expect 0 .

mkdir -p "$tree/model/a" "$tree/tests"
yes '// a line' | head -701 | tee "$tree/model/a/long.h" >"$tree/tests/long.sh"
expect 2 'more than 700 lines'

check "$here" "$known" >"$trees/found"
sed -n 's/^known: /layers: known circle: /p' "$trees/found"
wrong=$(grep -v '^includes: \|^known: ' "$trees/found")
[ -z "$wrong" ] || echo "$wrong"
echo "layers: $(sed -n 's/^includes: //p' "$trees/found") includes, $tests trees made up, $(printf '%s' "$wrong" | grep -c .) wrong"
[ -z "$wrong" ]
