"""Records final latents of DiffSynth-Studio's WanVideoPipeline for small random models, from clips and in windows:
v2v.safetensors.

Usage: python make_v2v.py DIFFSYNTH_CHECKOUT WANMPI OUT.safetensors
  v2v.*      [C, T, H, W]   video to video, of the clip that run_video.sh makes: parts of image_wide.png
  window.*   the same in windows of latent frames
The checkpoints are those of `WANMPI synth`, the texts those that WANMPI encodes from PROMPT; all in float32 on the CPU.
Needs torch, torchvision, einops, h5py, and what DiffSynth imports."""
import importlib
import json
import os
import subprocess
import sys
import tempfile
import unittest.mock

import h5py
import torch
import torch._dynamo  # before packages are replaced below
from PIL import Image
from safetensors.torch import load_file, save_file

diffsynth, wanmpi, out_path = sys.argv[1:]
here = os.path.dirname(os.path.abspath(__file__))
PROMPT = "Two cats boxing"
for name in ("pandas", "modelscope", "peft", "imageio", "imageio.v3"):
    sys.modules[name] = unittest.mock.MagicMock()
sys.path.insert(0, diffsynth)
w = importlib.import_module("diffsynth.pipelines.wan_video")
crop_and_resize = importlib.import_module("diffsynth.utils.data").crop_and_resize


def files(preset, size, *flags):
    folder = os.path.join(tempfile.mkdtemp(), preset)
    subprocess.run([wanmpi, "synth", "--preset", preset, "--out", folder], check=True)
    subprocess.run([wanmpi, "generate", "--ckpt_dir", folder, "--size", size, "--frame_num", "1", "--sample_steps", "1",
                    "--prompt", PROMPT, "--save_file", folder + "/x.mp4", "--run_file", folder + "/x.h5", *flags],
                   check=True)
    with h5py.File(folder + "/x.h5") as run:
        return folder, [torch.from_numpy(run["text/" + name][()]) for name in ("cond", "uncond")]


def vae(folder, name):
    weights = torch.load(os.path.join(folder, name))
    module = sys.modules[w.WanVideoVAE.__module__]
    cls, sizes = "VideoVAE_", {"dim": weights["encoder.conv1.weight"].shape[0]}
    wrapper = w.WanVideoVAE
    if name == "Wan2.2_VAE.pth":
        cls, wrapper, sizes["dec_dim"] = "VideoVAE38_", module.WanVideoVAE38, weights["decoder.conv1.weight"].shape[0] // 4
        sizes["dim"] = weights["encoder.conv1.weight"].shape[0]
    make = getattr(module, cls)
    setattr(module, cls, lambda **k: make(**{**k, **sizes}))
    result = wrapper()
    setattr(module, cls, make)
    result.model.load_state_dict(weights)
    return result


def pipeline(folder, texts, name="Wan2.1_VAE.pth", **flags):
    with open(os.path.join(folder, "config.json")) as f:
        config = json.load(f)
    keys = "dim in_dim ffn_dim out_dim freq_dim eps num_heads num_layers".split()
    pipe = w.WanVideoPipeline(device="cpu", torch_dtype=torch.float32)
    pipe.dit = w.WanModel(**{key: config[key] for key in keys}, text_dim=texts[0].shape[1], patch_size=(1, 2, 2),
                          has_image_input=False, **flags).eval().requires_grad_(False)
    pipe.dit.load_state_dict(load_file(os.path.join(folder, "diffusion_pytorch_model.safetensors")))
    pipe.vae = vae(folder, name)
    pipe.height_division_factor = pipe.width_division_factor = pipe.vae.upsampling_factor * 2
    padded = [torch.nn.functional.pad(t, (0, 0, 0, 512 - len(t)))[None] for t in texts]
    w.WanVideoUnit_PromptEmbedder.process = lambda self, pipe, prompt, positive: {"context": padded[not positive]}
    pipe.vae.decode = lambda latents, **_: out.__setitem__(case, latents[0].contiguous())
    pipe.vae_output_to_video = lambda video: None
    return pipe


def clip(frames, width, height):
    wide = Image.open(os.path.join(here, "image_wide.png")).convert("RGB")
    return [crop_and_resize(wide.crop((n, 5, n + 54, 45)), height, width) for n in range(frames)]


out = {}


def record(name, pipe, width=64, height=48, frames=9, steps=4, video=True, **arguments):
    global case
    case = name
    if video:
        arguments["input_video"] = clip(frames, width, height)
    pipe("prompt", negative_prompt="negative", seed=11, height=height, width=width, num_frames=frames,
         num_inference_steps=steps, tiled=False, **arguments)
    print(case, tuple(out[case].shape), float(out[case].std()))


t2v = pipeline(*files("tiny", "64*48"))
record("v2v.0.7", t2v, denoising_strength=0.7)
record("v2v.0.3", t2v, denoising_strength=0.3)
record("window.4.3", t2v, frames=25, video=False, sliding_window_size=4, sliding_window_stride=3)
record("window.4.4", t2v, frames=21, denoising_strength=0.6, sliding_window_size=4, sliding_window_stride=4)
ti2v = pipeline(*files("tiny-5B", "128*64"), "Wan2.2_VAE.pth", seperated_timestep=True, require_clip_embedding=False,
                require_vae_embedding=False, fuse_vae_embedding_in_latents=True)
record("v2v.ti2v", ti2v, width=128, height=64, denoising_strength=0.8)
save_file(out, out_path)
