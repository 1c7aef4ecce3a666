#!/bin/sh
# Runs our VAE and the official one alternately on the CPU, so that other load affects both; compare the
# minimum of each.
#
#     bench/vae.sh BUILD PYTHON WAN21 [rounds [threads [frames [height [width]]]]]
set -eu
build=$1 python=$2 wan=$3
here=$(dirname "$0")
rounds=${4:-3} threads=${5:-2} frames=${6:-17} height=${7:-128} width=${8:-128}
for round in $(seq "$rounds"); do
    "$build/bench/bench_vae" --device cpu --threads "$threads" --frames "$frames" --height "$height" \
        --width "$width" --runs 1 | sed 's/^/ours:   /'
    "$python" "$here/peer_vae.py" "$wan" "$threads" "$frames" "$height" "$width" | sed 's/^/theirs: /'
done
