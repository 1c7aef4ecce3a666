#!/bin/sh
# Our VAE and the official one in turn, so that both see the same machine; the best of each counts.
#
#     bench/vae.sh BUILD PYTHON WAN21 [rounds [threads [frames [height [width]]]]]
set -eu
build=$1 python=$2 wan=$3
here=$(dirname "$0")
rounds=${4:-3}
shift 3
[ $# -eq 0 ] || shift
for round in $(seq "$rounds"); do
    "$build/bench/bench_vae" "$@" | sed 's/^/ours:   /'
    "$python" "$here/peer_vae.py" "$wan" "$@" | sed 's/^/theirs: /'
done
