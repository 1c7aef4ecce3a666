#!/usr/bin/env python3
"""Writes image files of many kinds and the pixels that PIL reads from them: images.safetensors.

    pip install pillow==11.3.0 numpy safetensors        and ffmpeg
    python3 tests/golden/make_images.py tests/golden/images.safetensors

    file.NAME   u8 [bytes]     the file
    rgb.NAME    u8 [h, w, 3]   Image.open(NAME).convert('RGB'), turned by ImageOps.exif_transpose
Exceptions: of 16-bit grey the upper bytes; clips have the first frame as the command ffmpeg converts it. For
AVIF and CMYK TIFF the test allows a difference."""
import io
import os
import struct
import subprocess
import sys
import tempfile
import zlib

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file

rng = np.random.default_rng(1)
tensors = {}


def picture(w, h):
    y, x = np.mgrid[:h, :w]
    a = np.stack([127 + 120 * np.sin(x / 7 + y / 11), 127 + 120 * np.sin(x / 3 - y / 5 + 1),
                  127 + 100 * np.cos(x * y / 90)], -1)
    return Image.fromarray(np.clip(a + rng.normal(0, 12, a.shape), 0, 255).astype(np.uint8))


def add(name, data, rgb=None):
    if rgb is None:
        image = Image.open(io.BytesIO(data))
        rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    tensors["file." + name] = np.frombuffer(data, dtype=np.uint8)
    tensors["rgb." + name] = np.ascontiguousarray(rgb)


def save(image, name, **options):
    out = io.BytesIO()
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(name.split(".")[-1], name.split(".")[-1].upper())
    image.save(out, kind, **options)
    add(name, out.getvalue())


def png(w, h, color_type, samples):
    """A PNG of 16-bit samples [h, w, n], which PIL does not write."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, color_type, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def oriented(value):
    exif = Image.Exif()
    exif[0x112] = value
    return exif


for w, h in ((21, 17), (22, 16)):
    image = picture(w, h)
    for sampling in ("4:4:4", "4:2:2", "4:2:0", "4:1:1"):
        save(image, "w%d-%s.jpg" % (w, sampling.replace(":", "")), quality=90, subsampling=sampling)
    save(image, "w%d.webp" % w, quality=80)
    for value in range(1, 9):
        if w == 21:
            save(image, "turn-%d.jpg" % value, quality=95, exif=oriented(value))
image = picture(21, 17)
alpha = image.convert("RGBA")
alpha.putalpha(image.getchannel(0))
save(image, "progressive.jpg", quality=85, progressive=True)
save(image.convert("L"), "grey.jpg")
save(image.convert("CMYK"), "cmyk.jpg")
save(image, "rgb.png")
save(alpha, "alpha.png")
save(image.convert("L"), "grey.png")
save(alpha.convert("LA"), "grey-alpha.png")
save(image.convert("1"), "bits.png")
save(image.quantize(200), "palette.png", transparency=3)
save(image.quantize(13), "palette-4.png", bits=4)
save(image, "turn-6.png", exif=oriented(6))
save(image.convert("RGB"), "rgb.bmp")
save(image.quantize(100), "palette.bmp")
save(alpha, "alpha.bmp")
save(image, "lzw.tif", compression="tiff_lzw")
save(image, "turn-8.tif", compression="tiff_deflate", tiffinfo={274: 8})
save(image.convert("L"), "grey.tif", compression="packbits")
save(alpha, "alpha.tif")
save(image.convert("CMYK"), "cmyk.tif")
save(image, "first.gif", save_all=True, append_images=[image.rotate(180)])
save(image, "lossless.webp", lossless=True)
save(alpha, "alpha.webp", quality=70)
save(image, "turn-3.webp", lossless=True, exif=oriented(3))
save(image, "animated.webp", save_all=True, append_images=[image.rotate(180)], quality=80)
save(image, "still.avif", quality=90)

samples = rng.integers(0, 65536, (9, 11, 4))
add("rgb-16.png", png(11, 9, 2, samples[..., :3]))
add("alpha-16.png", png(11, 9, 6, samples))
add("grey-16.png", png(11, 9, 0, samples[..., :1]), np.repeat(samples[..., :1] >> 8, 3, -1).astype(np.uint8))
assert (tensors["rgb.rgb-16.png"] == samples[..., :3] >> 8).all()

with tempfile.TemporaryDirectory() as folder:
    def ffmpeg(*args):
        return subprocess.run(["ffmpeg", "-v", "error", "-y", *args], check=True, capture_output=True).stdout

    plain, turned = os.path.join(folder, "plain.mp4"), os.path.join(folder, "turned.mp4")
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x48:rate=5:duration=1", "-pix_fmt", "yuv420p", "-an", plain)
    ffmpeg("-i", plain, "-c", "copy", "-metadata:s:v", "rotate=90", turned)
    sound = os.path.join(folder, "sound.m4a")
    ffmpeg("-f", "lavfi", "-i", "sine=duration=0.1", "-b:a", "8k", sound)
    for path, w, h in ((plain, 64, 48), (turned, 48, 64)):
        raw = ffmpeg("-i", path, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24",
                     "-sws_flags", "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp", "-")
        add(os.path.basename(path), open(path, "rb").read(), np.frombuffer(raw, np.uint8).reshape(h, w, 3))
    add("sound.m4a", open(sound, "rb").read(), np.zeros((0, 0, 3), np.uint8))  # refused
out = io.BytesIO()
image.save(out, "TIFF", compression="jpeg")
add("jpeg.tif", out.getvalue(), np.zeros((0, 0, 3), np.uint8))  # refused
save_file(tensors, sys.argv[1])
print(len(tensors) // 2, "files")
