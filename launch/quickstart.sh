#!/bin/sh
# From a fresh checkout to a first video: installs what is missing, builds into ./build, and runs
# "wanmpi generate" on two ranks with the small trained checkpoint in model/demo.
set -eu
cd "$(dirname "$0")/.."

launch/deps.sh
[ -f build/build.ninja ] || meson setup build >/dev/null
ninja -C build --quiet wanmpi

if [ "$(id -u)" = 0 ]; then # Open MPI asks root twice; a container has no other user
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
mpirun --oversubscribe -n 2 build/wanmpi generate --task t2v-1.3B --ckpt_dir model/demo \
    --size 128*128 --frame_num 17 --sample_steps 8 --base_seed 2 \
    --prompt "a large yellow star moves left on a navy background" \
    --save_file build/quickstart.mp4 --contact_sheet build/quickstart.png

echo "The video is build/quickstart.mp4 (play it with ffplay -loop 0, or in a browser);"
echo "up to 16 of its frames are in the image build/quickstart.png."
