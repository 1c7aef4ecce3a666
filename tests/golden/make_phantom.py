"""Records final latents of Phantom's program for a small random model: phantom.safetensors.

Usage: python make_phantom.py WAN2.1_CHECKOUT PHANTOM_CHECKOUT WANMPI OUT.safetensors
  one, two   [C, T + n, H, W]   the last latent and the latents of n reference images; of "two" other scales
PHANTOM_CHECKOUT has generate.py and phantom_wan/subject2video.py, whose functions run with the modules of Wan2.1, in
float32 on the CPU. The checkpoint is that of `WANMPI synth`, the texts those that WANMPI encodes.
Needs torch, torchvision, diffusers, einops, easydict, h5py."""
import ast
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import types

import h5py
import official
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file

wan21, phantom, wanmpi, out_path = sys.argv[1:]
here = os.path.dirname(os.path.abspath(__file__))
vae_file, model_file, solvers = official.modules(wan21, "wan.modules.vae", "wan.modules.model", "wan.utils.fm_solvers_unipc")
folder = os.path.join(tempfile.mkdtemp(), "tiny")
subprocess.run([wanmpi, "synth", "--preset", "tiny", "--out", folder], check=True)
subprocess.run([wanmpi, "generate", "--ckpt_dir", folder, "--task", "t2v-1.3B", "--size", "64*48", "--frame_num", "1",
                "--sample_steps", "1", "--prompt", "Two cats boxing", "--save_file", folder + "/x.png", "--run_file",
                folder + "/x.h5"], check=True)
with h5py.File(folder + "/x.h5") as run:
    texts = [torch.from_numpy(run["text/" + name][()]) for name in ("cond", "uncond")]
with open(folder + "/config.json") as f:
    config = {k: v for k, v in json.load(f).items() if not k.startswith("_")}
state = load_file(folder + "/diffusion_pytorch_model.safetensors")
model = model_file.WanModel(**{**config, "text_dim": state["text_embedding.0.weight"].shape[1]})
model.load_state_dict(state)
model = model.eval().requires_grad_(False).float()
make = vae_file._video_vae
width = torch.load(folder + "/Wan2.1_VAE.pth")["encoder.conv1.weight"].shape[0]
vae_file._video_vae = lambda **k: make(**{**k, "dim": width})
vae = vae_file.WanVAE(vae_pth=folder + "/Wan2.1_VAE.pth", device="cpu")


def functions(path, *names):
    scope = dict(torch=torch, math=math, sys=sys, random=None, contextmanager=contextlib.contextmanager, Image=Image,
                 ImageOps=ImageOps, TF=TF, gc=None, dist=types.SimpleNamespace(is_initialized=lambda: False),
                 tqdm=lambda x: x, FlowUniPCMultistepScheduler=solvers.FlowUniPCMultistepScheduler,
                 amp=types.SimpleNamespace(autocast=lambda **_: contextlib.nullcontext()))
    nodes = [n for n in ast.walk(ast.parse(open(path).read())) if isinstance(n, ast.FunctionDef) and n.name in names]
    exec(compile(ast.Module(nodes, []), path, "exec"), scope)
    return [scope[name] for name in names]


load_ref_images, = functions(phantom + "/generate.py", "load_ref_images")
generate, get_vae_latents = functions(phantom + "/phantom_wan/subject2video.py", "generate", "get_vae_latents")
out = {}


def record(name, images, **arguments):
    p = types.SimpleNamespace(vae=vae, vae_stride=(4, 8, 8), patch_size=(1, 2, 2), sp_size=1, device="cpu", t5_cpu=True,
                              num_train_timesteps=1000, param_dtype=torch.float32, model=model, rank=0,
                              sample_neg_prompt="negative",
                              text_encoder=lambda prompts, _: [texts[prompts[0] == "negative"]])
    p.get_vae_latents = lambda refs, device: get_vae_latents(p, refs, device)
    vae.decode = lambda latents: out.__setitem__(name, latents[0]) or [None]
    refs = load_ref_images(",".join(os.path.join(here, "image_%s.png" % i) for i in images), (64, 48))
    generate(p, "prompt", refs, size=(64, 48), frame_num=9, sampling_steps=4, seed=11, offload_model=False, **arguments)
    out[name] = torch.cat([out[name], p.get_vae_latents(refs, "cpu")], 1).contiguous()
    print(name, tuple(out[name].shape), float(out[name].std()))


record("one", ["wide"])
record("two", ["tall", "odd"], guide_scale_img=3.0, guide_scale_text=6.0, shift=8.0)
save_file(out, out_path)
