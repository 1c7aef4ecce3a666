"""Checks whether clips show their captions, by counting pixels; single objects on plain backgrounds only.

    measure.py requests FILE.jsonl [--seed 0]     writes the 64 held-out captions, one request per line
    measure.py requests FILE.jsonl --images       the same for I2V, with their drawings' first frames, as
                                                  000.png ... beside FILE
    measure.py clips FOLDER                       evaluates FOLDER/000.mp4 ... or FOLDER/000/*.png; if there is
                                                  FOLDER/000.png, also whether it is the first frame
    measure.py truth                              evaluates drawings of these captions, and of trained ones

The background colour of a frame is the median of its border. A pixel belongs to the object if its distance
from the background colour is at least half that of the object's own colour, so pixels of soft edges and
faint trails are counted where they mostly belong.
  colour     the name whose colour is nearest to most of the object's pixels
  direction  from the centroid of the first frames to that of the last frames
  shape      the object's area divided by its bounding box's, median over the frames; the nearest of RATIOS,
             which are measured on render.py's drawings of trained scenes (`measure.py truth` prints them)
"""

import argparse
import glob
import json
import os
import subprocess

import numpy

import render

RATIOS = {"star": 0.42, "triangle": 0.555, "ring": 0.67, "circle": 0.795, "square": 1.0}
DIFFERENT = 60  # pixels at this distance from the background colour are used to find the object's colour


def masks(clip):
    """clip [T, H, W, 3] u8 -> [T, H, W] bool."""
    away = []
    for frame in clip.astype(numpy.float32):
        border = numpy.concatenate(
            [
                frame[:3].reshape(-1, 3),
                frame[-3:].reshape(-1, 3),
                frame[:, :3].reshape(-1, 3),
                frame[:, -3:].reshape(-1, 3),
            ]
        )
        away.append(numpy.linalg.norm(frame - numpy.median(border, 0), axis=-1))
    away = numpy.stack(away)
    some = away > DIFFERENT
    return away > numpy.median(away[some]) / 2 if some.any() else some


def colour_of(clip, mask):
    names = list(render.COLOURS)
    palette = numpy.array([render.COLOURS[n][0] for n in names], numpy.float32)
    pixels = clip[mask].astype(numpy.float32)
    if len(pixels) == 0:
        return None
    nearest = numpy.linalg.norm(pixels[:, None] - palette, axis=-1).argmin(1)
    return names[numpy.bincount(nearest, minlength=len(names)).argmax()]


def centroid(mask):
    y, x = numpy.nonzero(mask)
    return (x.mean(), y.mean()) if len(x) else None


def direction_of(mask):
    found = [c for c in map(centroid, mask) if c]
    if len(found) < 4:
        return None
    (x0, y0), (x1, y1) = numpy.mean(found[:2], 0), numpy.mean(found[-2:], 0)
    dx, dy = x1 - x0, y1 - y0
    if max(abs(dx), abs(dy)) < 0.1 * mask.shape[1]:
        return "still"
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"


def shape_of(mask):
    ratios = []
    for m in mask:
        y, x = numpy.nonzero(m)
        if len(x) < 30:
            continue
        # the box excludes half a percent of the pixels, so that single outliers do not enlarge it
        x0, x1 = numpy.percentile(x, [0.25, 99.75])
        y0, y1 = numpy.percentile(y, [0.25, 99.75])
        if x.min() > 0 and y.min() > 0 and x.max() < m.shape[1] - 1 and y.max() < m.shape[0] - 1:
            ratios.append(len(x) / ((x1 - x0 + 1) * (y1 - y0 + 1)))
    if not ratios:
        return None, 0.0
    ratio = float(numpy.median(ratios))
    return min(RATIOS, key=lambda s: abs(RATIOS[s] - ratio)), ratio


def report(results, verbose=True):
    """results: [((caption, colour, shape, motion), clip)] -> correct ones in percent."""
    right = {"colour": [], "direction": [], "shape": []}
    for i, ((caption, colour, shape, motion), clip) in enumerate(results):
        mask = masks(clip)
        got = {
            "colour": colour_of(clip, mask),
            "shape": shape_of(mask)[0],
            "direction": direction_of(mask),
        }
        want = {"colour": colour, "shape": shape}
        if motion in render.DIRECTIONS:
            want["direction"] = motion
        for key, value in want.items():
            right[key].append(got[key] == value)
            if verbose and got[key] != value:
                print(
                    f"{i:03d} {key}: {got[key]} (ratio {shape_of(mask)[1]:.2f}), not {value}: {caption}"
                )
    figures = {key: 100 * sum(v) / max(1, len(v)) for key, v in right.items()}
    print(", ".join(f"{key} {figures[key]:.1f}% of {len(v)}" for key, v in right.items()))
    return figures


def first_frames(count):
    """The first frames of drawings for the held-out captions, [128, 128, 3] u8 each."""
    import torch

    if count == 0:
        return []
    p = torch.tensor([render.params(scene) for scene, _ in render.test_scenes(count)])
    frames = render.render(p, torch.zeros(len(p), 1), 128, 128)[:, :, 0]
    return list(((frames + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def read_image(path):
    from PIL import Image

    return numpy.array(Image.open(path).convert("RGB"))


def report_first(images, frames):
    """Compares first frames with the images that were given for them, both u8."""
    psnr = []
    for image, frame in zip(images, frames):
        error = numpy.square(image.astype(numpy.float64) - frame).mean()
        psnr.append(10 * numpy.log10(255**2 / max(error, 1e-3)))
    print(
        f"first frame: PSNR {numpy.mean(psnr):.2f} dB, minimum {min(psnr):.2f}, "
        f"{sum(p >= 30 for p in psnr)} of {len(psnr)} at least 30"
    )


def read_clip(path):
    """Reads a folder of PNGs, or a video file with ffmpeg -> [T, H, W, 3] u8."""
    if os.path.isdir(path):
        from PIL import Image

        return numpy.stack(
            [numpy.array(Image.open(f).convert("RGB")) for f in sorted(glob.glob(path + "/*.png"))]
        )
    size = subprocess.run(
        [
            "ffprobe",
            "-v",
            "error",
            "-select_streams",
            "v:0",
            "-show_entries",
            "stream=width,height",
            "-of",
            "csv=p=0",
            path,
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    width, height = map(int, size.split(","))
    raw = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        check=True,
        capture_output=True,
    ).stdout
    return numpy.frombuffer(raw, numpy.uint8).reshape(-1, height, width, 3)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["requests", "clips", "truth"])
    parser.add_argument("path", nargs="?")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first request; it increases by one per request"
    )
    parser.add_argument("--count", type=int, default=64, help="of captions")
    parser.add_argument("--images", action="store_true", help="requests: for I2V")
    a = parser.parse_args()
    cases = render.test_cases(a.count)
    if a.what == "requests":
        with open(a.path, "w") as f:
            for i, case in enumerate(cases):
                request = {"prompt": case[0], "base_seed": a.seed + i, "save_file": f"{i:03d}.mp4"}
                if a.images:
                    request["image"] = f"{i:03d}.png"
                f.write(json.dumps(request, ensure_ascii=False) + "\n")
        if a.images:
            from PIL import Image

            for i, frame in enumerate(first_frames(a.count)):
                Image.fromarray(frame).save(
                    os.path.join(os.path.dirname(a.path), f"{i:03d}.png")
                )
    elif a.what == "clips":
        found, given, first = [], [], []
        for i, case in enumerate(cases):
            for name in (f"{i:03d}.mp4", f"{i:03d}"):
                if os.path.exists(os.path.join(a.path, name)):
                    found.append((case, read_clip(os.path.join(a.path, name))))
                    image = os.path.join(a.path, f"{i:03d}.png")
                    if os.path.exists(image):
                        given.append(read_image(image))
                        first.append(found[-1][1][0])
                    break
        print(f"{len(found)} of {len(cases)} clips found")
        report(found)
        if given:
            report_first(given, first)
    else:
        import torch

        for name, known in (("trained", True), ("held out", False)):
            drawn = render.test_scenes(128 if known else 64, known=known)
            p = torch.tensor([render.params(scene) for scene, _ in drawn])
            clips = render.render(p, render.clip_times(len(p), 17), 128, 128)
            clips = ((clips + 1) * 127.5).to(torch.uint8).permute(0, 2, 3, 4, 1).numpy()
            print(name, end=": ")
            report([(case, clip) for (_, case), clip in zip(drawn, clips)])
            for shape in RATIOS:
                found = [
                    shape_of(masks(c))[1] for (_, case), c in zip(drawn, clips) if case[2] == shape
                ]
                print(
                    f"  {shape}: {min(found):.3f} to {max(found):.3f}, median {numpy.median(found):.3f}"
                )


if __name__ == "__main__":
    main()
