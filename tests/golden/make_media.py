#!/usr/bin/env python3
"""Records how PIL, PyTorch and the official programs resize images and choose sizes: media.safetensors.

    pip install pillow==11.3.0 torch torchvision numpy safetensors
    python3 tests/golden/make_media.py WAN2.1_CHECKOUT WAN2.2_CHECKOUT tests/golden/media.safetensors

    pil.FILTER.W.H.OUT_W.OUT_H    u8 [OUT_H, OUT_W, 3]   Image.resize of the image below
    torch.W.H.OUT_W.OUT_H         f32                    interpolate(bicubic) of it in [-1, 1]
    fill.W.H.OUT_W.OUT_H          f32                    the statements of Wan2.2's TI2V
    stretch.TYPE.W.H.OUT_W.OUT_H  f32                    DiffSynth's preprocessing, TYPE bf16 or fp32
    last.W1.H1.W2.H2.OUT_W.OUT_H  f32                    the last image of FLF2V
    size.in [n, 3]                width, height of an image, and area
    size.area, size.grid [n, 2]   the video's size, 0 where the program fails
PyTorch's result depends on the CPU: one with AVX2 is needed. Pillow 13 resizes rows and columns in another
order where an image becomes wider and lower; the versions of the official programs' time do not."""
import ast
import random
import sys
import types

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from PIL import Image
from safetensors.numpy import save_file

wan21, wan22, out_path = sys.argv[1:]
assert torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def picture(w, h):
    """A smooth left half, a right half of noise; test_media.c has the same formula."""
    y, x = np.mgrid[:h, :w].astype(np.uint64)
    channels = []
    for c in range(3):
        smooth = (3 * x + 2 * y + 40 * c) % 512
        smooth = np.where(smooth > 255, 511 - smooth, smooth)
        noise = (((x + 641 * y + 97 * c + 1) * 2654435761) >> 13) & 255
        channels.append(np.where(2 * x < w, smooth, noise))
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def statements(path, function, names):
    """The source of the assignments to `names` in a function of an official file."""
    tree = ast.parse(open(path).read())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            found = [s for s in ast.walk(node) if isinstance(s, ast.Assign) and
                     isinstance(s.targets[0], ast.Name) and s.targets[0].id in names]
            return sorted(found, key=lambda s: s.lineno)
    raise KeyError(function)


def run(nodes, scope):
    exec(compile(ast.Module(nodes, []), "official", "exec"), scope)
    return scope


def function(path, name):
    tree = ast.parse(open(path).read())
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    return run(found, {})[name]


def unit(image):
    return TF.to_tensor(image).sub_(0.5).div_(0.5)


def last(tensor):
    return tensor.permute(1, 2, 0).contiguous().numpy()


best_output_size = function(wan22 + "/wan/utils/utils.py", "best_output_size")
area_code = statements(wan21 + "/wan/image2video.py", "generate", ("aspect_ratio", "lat_h", "lat_w"))
area_code22 = statements(wan22 + "/wan/image2video.py", "generate", ("aspect_ratio", "lat_h", "lat_w"))
self = types.SimpleNamespace(vae_stride=(4, 8, 8), patch_size=(1, 2, 2))


def size_area(w, h, area):
    got = [run(code, dict(self=self, np=np, h=h, w=w, max_area=area)) for code in (area_code, area_code22)]
    assert got[0]["lat_h"] == got[1]["lat_h"] and got[0]["lat_w"] == got[1]["lat_w"]
    size = [8 * got[0]["lat_w"], 8 * got[0]["lat_h"]]
    return size if min(size) > 0 else [0, 0]


def size_grid(w, h, area):
    try:
        return list(best_output_size(w, h, 32, 32, area))
    except (ZeroDivisionError, AssertionError):
        return [0, 0]


def fill(image, ow, oh):
    iw, ih = image.width, image.height
    scale = max(ow / iw, oh / ih)
    image = image.resize((round(iw * scale), round(ih * scale)), Image.LANCZOS)
    x1, y1 = (image.width - ow) // 2, (image.height - oh) // 2
    return unit(image.crop((x1, y1, x1 + ow, y1 + oh)))


def flf_last(first_size, image, ow, oh):
    tree = ast.parse(open(wan21 + "/wan/first_last_frame2video.py").read())
    branch = [n for n in ast.walk(tree) if isinstance(n, ast.If) and
              ast.unparse(n.test) == "first_frame_size != last_frame_size"]
    scope = dict(first_frame_size=first_size, last_frame_size=image.size, last_frame=unit(image), TF=TF)
    return F.interpolate(run(branch, scope)["last_frame"][None], size=(oh, ow), mode="bicubic")[0]


def stretch(image, ow, oh, dtype):
    tensor = torch.Tensor(np.array(image.resize((ow, oh)), dtype=np.float32)).to(dtype)
    return (tensor * (2 / 255) + -1).float().numpy()


tensors = {}
SIZES = [(123, 45, 48, 16), (40, 30, 46, 34), (100, 160, 16, 32), (17, 200, 32, 16), (32, 24, 32, 24),
         (32, 24, 32, 40), (32, 24, 48, 24), (5, 3, 32, 16), (1, 1, 16, 8), (611, 401, 32, 16)]
for w, h, ow, oh in SIZES:
    image, key = picture(w, h), ".%d.%d.%d.%d" % (w, h, ow, oh)
    for name, number in (("bicubic", Image.BICUBIC), ("lanczos", Image.LANCZOS)):
        tensors["pil." + name + key] = np.asarray(image.resize((ow, oh), number))
    tensors["torch" + key] = last(F.interpolate(unit(image)[None], size=(oh, ow), mode="bicubic")[0])
for w, h, ow, oh in SIZES[:3] + SIZES[-1:]:
    image, key = picture(w, h), ".%d.%d.%d.%d" % (w, h, ow, oh)
    tensors["fill" + key] = last(fill(image, ow, oh))
    tensors["stretch.fp32" + key] = stretch(image, ow, oh, torch.float32)
    tensors["stretch.bf16" + key] = stretch(image, ow, oh, torch.bfloat16)
for first, second in (((90, 60), (90, 60)), ((90, 60), (45, 30)), ((90, 60), (31, 77)), ((60, 90), (200, 33)),
                      ((50, 50), (51, 50)), ((33, 47), (120, 121)), ((640, 32), (7, 9))):
    key = ".%d.%d.%d.%d.24.16" % (first + second)
    tensors["last" + key] = last(flf_last(first, picture(*second), 24, 16))

rng = random.Random(4)
AREAS = [720 * 1280, 480 * 832, 704 * 1280, 1024 * 704, 1024 * 1024, 64 * 64, 400 * 720]
inputs = [(w, h, a) for w, h in ((1, 1), (1, 5000), (5000, 1), (720, 1280), (1280, 720), (832, 480), (1024, 1024),
                                 (1920, 1080), (4032, 3024), (3024, 4032), (1000, 999), (16, 9), (65535, 65535))
          for a in AREAS]
while len(inputs) < 700:
    inputs.append((int(2 ** rng.uniform(0, 14)), int(2 ** rng.uniform(0, 14)), rng.choice(AREAS)))
tensors["size.in"] = np.array(inputs, dtype=np.float32)
for name, rule in (("size.area", size_area), ("size.grid", size_grid)):
    tensors[name] = np.array([rule(*i) for i in inputs], dtype=np.float32)
    print(name, sum(1 for s in tensors[name] if s[0] == 0), "of", len(inputs), "fail")
save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, out_path)
