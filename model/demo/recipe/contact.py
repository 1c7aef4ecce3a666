"""Makes an image that shows the effect of guidance, negative prompt and seed, from videos of wanmpi.

    contact.py requests FILE.jsonl    writes one request per video
    contact.py sheet FILE.jpg         draws the videos in the current folder, two per row
"""

import argparse
import json

import numpy
from PIL import Image, ImageDraw

import measure

PROMPT = "an orange star and a small blue square bounce in a desert as night falls"
OPEN = "a large red circle moves right"  # no background specified
VIDEOS = [  # label, request
    ("guidance 5, seed 4", {"prompt": PROMPT, "base_seed": 4}),
    ("guidance 1, seed 4", {"prompt": PROMPT, "base_seed": 4, "sample_guide_scale": 1.0}),
    ("guidance 5, seed 5", {"prompt": PROMPT, "base_seed": 5}),
    ("guidance 5, seed 6", {"prompt": PROMPT, "base_seed": 6}),
    ("default negative prompt", {"prompt": OPEN, "base_seed": 5}),
    (
        'negative prompt "on a white background"',
        {"prompt": OPEN, "base_seed": 5, "negative_prompt": "on a white background"},
    ),
]
COLUMNS, LABEL = 4, 12


def requests():
    for i, (label, request) in enumerate(VIDEOS):
        yield label, {**request, "save_file": f"contact-{i}.mp4"}


def sheet(path):
    cells = []
    for label, request in requests():
        clip = measure.read_clip(request["save_file"])
        at = [round(k * (len(clip) - 1) / (COLUMNS - 1)) for k in range(COLUMNS)]
        strip = numpy.concatenate([clip[k] for k in at], 1)
        head = Image.new("RGB", (strip.shape[1], LABEL), "white")
        ImageDraw.Draw(head).text((2, 0), label, "black")
        cells.append(numpy.concatenate([numpy.array(head), strip]))
    rows = [numpy.concatenate(cells[i : i + 2], 1) for i in range(0, len(cells), 2)]
    Image.fromarray(numpy.concatenate(rows)).save(path, quality=90)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["requests", "sheet"])
    parser.add_argument("path")
    a = parser.parse_args()
    if a.what == "sheet":
        sheet(a.path)
        return
    with open(a.path, "w") as f:
        for _, request in requests():
            f.write(json.dumps(request, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
