#!/bin/sh
# Installs what building and running wanmpi needs and this machine lacks, on Debian 12, Ubuntu 24.04
# and newer. Where there is no apt it says what to install by other means.
set -eu

# Debian's package, then how it is found when there is no apt: p:NAME by pkg-config, c:NAME as a
# command, h:PATH as a header.
needs='
build-essential    c:c++
meson              c:meson
ninja-build        c:ninja
pkg-config         c:pkg-config
libopenmpi-dev     p:ompi
openmpi-bin        c:mpirun
libhdf5-dev        p:hdf5
libavcodec-dev     p:libavcodec
libavformat-dev    p:libavformat
libavutil-dev      p:libavutil
libswresample-dev  p:libswresample
libswscale-dev     p:libswscale
libjpeg-dev        p:libjpeg
libhwloc-dev       p:hwloc
libsentencepiece-dev p:sentencepiece
libcjson-dev       p:libcjson
libmd-dev          p:libmd
libminizip-dev     p:minizip
libutf8proc-dev    p:libutf8proc
zlib1g-dev         p:zlib
ffmpeg             c:ffprobe
procps             c:pkill
'

missing=
if command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; then
    for package in $(echo "$needs" | awk 'NF { print $1 }'); do
        case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true) in
        *' installed') ;;
        *) # another package may stand in for it, as pkgconf does for pkg-config
            [ "$package" = pkg-config ] && command -v pkg-config >/dev/null ||
                missing="$missing $package" ;;
        esac
    done
    [ -n "$missing" ] || exit 0
    root=
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "deps: not root and no sudo here; have somebody run: apt-get install$missing" >&2
            exit 1
        fi
        root=sudo
    fi
    echo "deps: installing$missing"
    $root apt-get -qq update
    $root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends $missing >/dev/null
    exit 0
fi

for need in $(echo "$needs" | awk 'NF { print $1 "=" $2 }'); do
    how=${need#*=}
    name=${how#*:}
    case $how in
    p:*) pkg-config --exists "$name" 2>/dev/null || missing="$missing ${need%%=*}" ;;
    c:*) command -v "$name" >/dev/null || missing="$missing ${need%%=*}" ;;
    h:*) echo "#include <$name>" | cc -fsyntax-only -xc++ - 2>/dev/null ||
        missing="$missing ${need%%=*}" ;;
    esac
done
if [ -n "$missing" ]; then
    echo "deps: there is no apt here; please install what Debian calls:$missing" >&2
    exit 1
fi
