#!/bin/sh
# make_s2v_inputs.sh FOLDER: the sound and the pose video of the tests of S2V, sound.wav of 1.4 s and
# poses.mkv, of which every second frame is used, until it ends in the second clip.
cd "$1" || exit 1
ffmpeg -v error -y -f lavfi -i "aevalsrc=0.3*sin(2*PI*(300*t+200*t*t))+0.1*sin(2*PI*900*t):d=1.4:s=16000" \
    -c:a pcm_s16le -bitexact sound.wav
ffmpeg -v error -y -f lavfi -i "testsrc=s=96x70:r=32:d=1.2" -c:v ffv1 -pix_fmt bgr0 poses.mkv
