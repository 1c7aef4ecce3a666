#!/usr/bin/env bash
# clips.sh FOLDER: writes the clips of the tests of VACE there, lossless, from the images of golden/
golden=$(dirname "$(realpath "$0")")/golden
clip() { # clip FILE IMAGE FILTER FLAGS...
    ffmpeg -v error -y -loop 1 -framerate 16 -i "$golden/image_$2.png" -vf "$3" -frames:v 14 -c:v ffv1 -pix_fmt bgr0 \
        "${@:4}" "$1"
}
cd "$1" || exit 1
clip clip.mkv wide crop=54:40:n:5
clip mask.mkv wide "crop=32:24:n:5,format=gray,lutyuv=y='if(gt(val,110),255,0)'"
clip grey.mkv tall crop=40:30:n:9
clip other.mkv wide crop=54:40:n:5,negate
clip short.mkv wide crop=54:40:n:5 -frames:v 5
clip rate.mkv wide "crop=54:40:n:5,setpts='(N+0.1*N*N)/16/TB'" -fps_mode vfr
ffmpeg -v error -y -i clip.mkv -c:v libx264rgb -qp 0 upright.mp4
ffmpeg -v error -y -display_rotation -90 -i upright.mp4 -c copy turned.mp4 2>/dev/null ||
    ffmpeg -v error -y -i upright.mp4 -c copy -metadata:s:v:0 rotate=270 turned.mp4
