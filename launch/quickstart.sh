#!/bin/sh
# From a fresh checkout to a video: installs what is missing, builds into ./build, and runs the main
# job on two ranks with a small checkpoint: model/demo where it is there, else random weights.
set -eu
cd "$(dirname "$0")/.."

launch/deps.sh
[ -f build/build.ninja ] || meson setup build >/dev/null
ninja -C build --quiet wanmpi

checkpoint=model/demo
if [ ! -e model/demo/config.json ]; then
    checkpoint=build/demo-checkpoint
    [ -e $checkpoint ] || build/wanmpi synth --preset tiny --out $checkpoint
fi

if [ "$(id -u)" = 0 ]; then # Open MPI asks root twice; a container has no other user
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export OMPI_MCA_btl_vader_single_copy_mechanism=none # needs rights that containers lack
fi
mpirun -q --oversubscribe -n 2 build/wanmpi generate --task t2v-1.3B --ckpt_dir $checkpoint \
    --size 128*128 --frame_num 17 --sample_steps 8 --base_seed 7 \
    --prompt "A small cat in boxing gloves on a stage" \
    --save_file build/quickstart.mp4 --contact_sheet build/quickstart.png

[ $checkpoint = model/demo ] || echo "The weights are random, so the picture is noise: see README.md for a real checkpoint."
echo "Look at it: ffplay -loop 0 build/quickstart.mp4, or any browser; all its frames are in build/quickstart.png"
