"""Records final latents of the official programs for small random models: tasks.safetensors, tasks.h5.

Usage: python make_tasks.py WAN2.1_CHECKOUT WAN2.2_CHECKOUT WANMPI OUT_FOLDER
Runs the official generate() of each task in float32 on the CPU, with a checkpoint that `WANMPI synth` writes and the
images image_*.png of this folder. Attention is PyTorch's, and text encoders are replaced by the rows in text.
  tasks.h5: text/cond, text/uncond [rows, text_dim], for --text
  TASK.SOLVER[.IMAGE]     [C, T, H, W]      the latent after STEPS steps
Needs torch, torchvision, diffusers, einops, easydict, ftfy, imageio, transformers, h5py."""
import json
import os
import subprocess
import sys
import tempfile
import types

import h5py
import diffusers.models.modeling_utils  # before the official modules
import numpy as np
import torch
import torch.cuda.amp
import torchvision.transforms.functional as TF
from PIL import Image
from safetensors.torch import load_file, save_file

wan21, wan22, wanmpi, out_path = sys.argv[1:]
here = os.path.dirname(os.path.abspath(__file__))
STEPS, SEED, AREA, TEXT_DIM = 4, 11, 64 * 48, 64

torch.cuda.amp.autocast = lambda **_: torch.autocast("cpu", enabled=False)
torch.amp.autocast = lambda *_, **__: torch.autocast("cpu", enabled=False)
torch.cuda.synchronize = lambda *_: None
torch.cuda.current_device = lambda: "cpu"


def attention(q, k, v, *_, **__):
    y = torch.nn.functional.scaled_dot_product_attention(*(x.float().transpose(1, 2) for x in (q, k, v)))
    return y.transpose(1, 2).contiguous().type(q.dtype)


def official(checkout, *names):
    """The modules wan.NAME of a checkout, without wan/__init__.py, which imports every task."""
    for name in [n for n in sys.modules if n == "wan" or n.startswith("wan.")]:
        del sys.modules[name]
    for folder in ["wan", "wan.modules", "wan.distributed", "wan.utils"]:
        package = types.ModuleType(folder)
        package.__path__ = [os.path.join(checkout, *folder.split("."))]
        sys.modules[folder] = package
    fake = types.ModuleType("wan.modules.attention")
    fake.flash_attention = fake.attention = attention
    sys.modules["wan.modules.attention"] = fake
    return [__import__("wan." + n, fromlist=["x"]) for n in names]


def synth(preset):
    """A checkpoint of random weights, without its text encoder."""
    folder = os.path.join(tempfile.mkdtemp(), preset)
    subprocess.run([wanmpi, "synth", "--preset", preset, "--out", folder], check=True)
    return folder


def shapes(path):
    state = torch.load(path, map_location="cpu")
    return {name: tuple(value.shape) for name, value in state.items()}


def vae21(module, folder):
    path = os.path.join(folder, "Wan2.1_VAE.pth")
    s = shapes(path)
    make, z = module._video_vae, s["conv2.weight"][0]
    module._video_vae = lambda **k: make(**{**k, "dim": s["encoder.conv1.weight"][0], "z_dim": z})
    cls = getattr(module, "WanVAE", None) or module.Wan2_1_VAE
    return cls(z_dim=z, vae_pth=path, device="cpu")


def vae22(module, folder):
    path = os.path.join(folder, "Wan2.2_VAE.pth")
    s = shapes(path)
    make = module._video_vae
    sizes = dict(dim=s["encoder.conv1.weight"][0], dec_dim=s["decoder.conv1.weight"][0] // 4)
    module._video_vae = lambda **k: make(**{**k, **sizes})
    return module.Wan2_2_VAE(z_dim=s["conv2.weight"][0], vae_pth=path, device="cpu")


def dit(module, folder):
    with open(os.path.join(folder, "config.json")) as f:
        config = {k: v for k, v in json.load(f).items() if not k.startswith("_")}
    state = load_file(os.path.join(folder, "diffusion_pytorch_model.safetensors"))
    model = module.WanModel(**{**config, "text_dim": state["text_embedding.0.weight"].shape[1]})
    model.load_state_dict(state)
    return model.eval().requires_grad_(False).float()


text = {}
generator = torch.Generator().manual_seed(3)
for name, rows in (("cond", 7), ("uncond", 5)):
    text["text/" + name] = torch.randn(rows, TEXT_DIM, generator=generator)


class Texts:
    """In place of the text encoder: called with the prompt, then with the negative prompt."""
    def __init__(self):
        self.rows = [text["text/cond"], text["text/uncond"]]
        self.model = types.SimpleNamespace(to=lambda *_: None, cpu=lambda: None)

    def __call__(self, *_):
        rows = self.rows.pop(0)
        self.rows.append(rows)
        return [rows]


def program(cls, **members):
    """An instance without its constructor, which needs a GPU. Its decode keeps the final latent."""
    p = cls.__new__(cls)
    common = dict(device=torch.device("cpu"), rank=0, t5_cpu=False, num_train_timesteps=1000,
                  param_dtype=torch.float32, vae_stride=(4, 8, 8), patch_size=(1, 2, 2), sp_size=1,
                  sample_neg_prompt="negative", text_encoder=Texts(), init_on_cpu=True)
    for name, value in {**common, **members}.items():
        setattr(p, name, value)

    def keep(latents):
        p.latent = latents[0]
        return [None]

    p.vae.decode = keep
    return p


def picture(name):
    return Image.open(os.path.join(here, "image_%s.png" % name)).convert("RGB")


out = {}
SOLVERS = ("unipc", "dpm++")


def record(case, p, solver, **arguments):
    p.generate("prompt", sampling_steps=STEPS, sample_solver=solver, seed=SEED, offload_model=False, **arguments)
    out["%s.%s" % (case, solver)] = p.latent.contiguous()
    print(case, solver, tuple(p.latent.shape), float(p.latent.std()))

# ---- Wan2.1 ----

t2v, vae_file, model_file = official(wan21, "text2video", "modules.vae", "modules.model")

folder = synth("tiny")
for solver in SOLVERS:
    p = program(t2v.WanT2V, vae=vae21(vae_file, folder), model=dit(model_file, folder))
    record("t2v", p, solver, size=(64, 48), frame_num=9, shift=5.0, guide_scale=5.0)

# ---- Wan2.2 ----

i2v, ti2v, vae_file, vae22_file, model_file = official(
    wan22, "image2video", "textimage2video", "modules.vae2_1", "modules.vae2_2", "modules.model")


def experts(folder):
    return dict(boundary=BOUNDARY, high_noise_model=dit(model_file, os.path.join(folder, "high_noise_model")),
                low_noise_model=dit(model_file, os.path.join(folder, "low_noise_model")),
                vae=vae21(vae_file, folder))


folder = synth("tiny-i2v-A14B")
BOUNDARY = 0.9
for solver, name in zip(SOLVERS, ("tall", "odd")):
    p = program(i2v.WanI2V, **experts(folder))
    record("i2v-A14B." + name, p, solver, img=picture(name), max_area=AREA, frame_num=9, shift=5.0,
           guide_scale=(3.5, 3.0))

folder = synth("tiny-5B")
for solver, name in zip(SOLVERS + SOLVERS, (None, None, "wide", "tall")):
    p = program(ti2v.WanTI2V, vae=vae22(vae22_file, folder), model=dit(model_file, folder), vae_stride=(4, 16, 16))
    image = {} if name is None else dict(img=picture(name), max_area=128 * 64)
    record("ti2v" if name is None else "ti2v." + name, p, solver, size=(128, 64), frame_num=9, shift=5.0,
           guide_scale=5.0, **image)
save_file(out, os.path.join(out_path, "tasks.safetensors"))
with h5py.File(os.path.join(out_path, "tasks.h5"), "w") as f:
    for name, rows in text.items():
        f[name] = rows.numpy()
