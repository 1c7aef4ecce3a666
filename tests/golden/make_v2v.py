"""Records final latents of DiffSynth-Studio's WanVideoPipeline for small random models, from clips and in windows:
v2v.safetensors.

Usage: python make_v2v.py DIFFSYNTH_CHECKOUT CONTEXT.py WANMPI OUT.safetensors
  v2v.*       [C, T, H, W]   video to video, of the clip that run_video.sh makes: parts of image_wide.png
  window.*    the same in DiffSynth's windows of latent frames
  context.*   the same with DiffSynth's windows replaced by ComfyUI-WanVideoWrapper's context windows, those of its
              CONTEXT.py; of I2V each window has the start image as its first frame
  windows.KIND.FUSE.FRAMES.SIZE.STRIDE.OVERLAP.STEP   [n, frames] the weights of each window's frames, over their sum
The checkpoints are those of `WANMPI synth`, the texts those that WANMPI encodes from PROMPT; all in float32 on the CPU.
Needs torch, torchvision, einops, h5py, and what DiffSynth imports."""
import importlib
import importlib.util
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

diffsynth, context_path, wanmpi, out_path = sys.argv[1:]
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
    with open(os.path.join(folder, "high_noise_model" if "A14B" in folder else "", "config.json")) as f:
        config = json.load(f)
    keys = "dim in_dim ffn_dim out_dim freq_dim eps num_heads num_layers".split()
    pipe = w.WanVideoPipeline(device="cpu", torch_dtype=torch.float32)
    parts = {"dit": "high_noise_model", "dit2": "low_noise_model"} if "A14B" in folder else {"dit": ""}
    for part, path in parts.items():
        dit = w.WanModel(**{key: config[key] for key in keys}, text_dim=texts[0].shape[1], patch_size=(1, 2, 2),
                         has_image_input=False, **flags).eval().requires_grad_(False)
        dit.load_state_dict(load_file(os.path.join(folder, path, "diffusion_pytorch_model.safetensors")))
        setattr(pipe, part, dit)
    pipe.vae = vae(folder, name)
    pipe.height_division_factor = pipe.width_division_factor = pipe.vae.upsampling_factor * 2
    pipe.texts = [torch.nn.functional.pad(t, (0, 0, 0, 512 - len(t)))[None] for t in texts]
    pipe.vae.decode = lambda latents, **_: out.__setitem__(case, latents[0].contiguous())
    pipe.vae_output_to_video = lambda video: None
    return pipe


def clip(frames, width, height):
    wide = Image.open(os.path.join(here, "image_wide.png")).convert("RGB")
    return [crop_and_resize(wide.crop((n, 5, n + 54, 45)), height, width) for n in range(frames)]


out = {}
w.WanVideoUnit_PromptEmbedder.process = lambda self, pipe, prompt, positive: {"context": pipe.texts[not positive]}


def record(name, pipe, width=64, height=48, frames=9, steps=4, video=True, tiled=False, **arguments):
    global case
    case = name
    if video:
        arguments["input_video"] = clip(frames, width, height)
    pipe("prompt", negative_prompt="negative", seed=11, height=height, width=width, num_frames=frames,
         num_inference_steps=steps, tiled=tiled, **arguments)
    print(case, tuple(out[case].shape), float(out[case].std()))


t2v = pipeline(*files("tiny", "64*48"))
record("v2v.0.7", t2v, denoising_strength=0.7)
record("v2v.0.3", t2v, denoising_strength=0.3)
record("v2v.tiled", t2v, denoising_strength=0.7, tiled=True, tile_size=(4, 5), tile_stride=(2, 3))
record("window.4.3", t2v, frames=25, video=False, sliding_window_size=4, sliding_window_stride=3)
record("window.4.4", t2v, frames=21, denoising_strength=0.6, sliding_window_size=4, sliding_window_stride=4)
spec = importlib.util.spec_from_file_location("context", context_path)
context = importlib.util.module_from_spec(spec)
spec.loader.exec_module(context)
for kind, size, frames, stride, overlap, step in (
        ("static_standard", 5, 23, 1, 2, 0), ("static_standard", 21, 81, 1, 4, 3), ("uniform_standard", 5, 23, 1, 2, 3),
        ("uniform_standard", 6, 40, 2, 3, 5), ("uniform_standard", 21, 81, 1, 4, 1), ("uniform_looped", 5, 23, 1, 2, 3),
        ("uniform_looped", 6, 33, 3, 1, 6)):
    windows = list(getattr(context, kind)(step, 50, frames, size, stride, overlap))
    for fuse in "linear", "pyramid":
        rows = torch.zeros(len(windows), frames)
        for row, c in zip(rows, windows):
            row[c] = context.create_window_mask(torch.ones(1, len(c), 1, 1), c, frames, overlap, "looped" in kind,
                                                fuse)[0, :, 0, 0]
        out[f"windows.{kind}.{fuse}.{frames}.{size}.{stride}.{overlap}.{step}"] = rows / rows.sum(0)


class ContextTiler(w.TemporalTiler_BCTHW):
    """The loop over windows of ComfyUI-WanVideoWrapper's sampler."""
    fuse = "linear"

    def run(self, model_fn, size, overlap, *_, model_kwargs, **__):
        latents, y = model_kwargs["latents"], model_kwargs.get("y")
        frames = latents.shape[2]
        total, count = torch.zeros_like(latents), torch.zeros_like(latents)
        for c in context.static_standard(0, 4, frames, size, 1, overlap):
            part = None if y is None else y[:, :, c].clone()
            if y is not None:
                part[:, :, 0] = y[:, :, 0]
            v = model_fn(**{**model_kwargs, "latents": latents[:, :, c], "y": part})
            mask = context.create_window_mask(v[0], c, frames, overlap, False, self.fuse)
            total[0][:, c] += v[0] * mask
            count[0][:, c] += mask
        return total / count


ti2v = pipeline(*files("tiny-5B", "128*64"), "Wan2.2_VAE.pth", seperated_timestep=True, require_clip_embedding=False,
                require_vae_embedding=False, fuse_vae_embedding_in_latents=True)
record("v2v.ti2v", ti2v, width=128, height=64, denoising_strength=0.8)
w.TemporalTiler_BCTHW = ContextTiler  # with the overlap for a stride
record("context.linear", t2v, frames=33, video=False, sliding_window_size=4, sliding_window_stride=2)
i2v = pipeline(*files("tiny-i2v-A14B", "64*48", "--image", os.path.join(here, "image_wide.png")),
               require_clip_embedding=False)
ContextTiler.fuse = "pyramid"
record("context.i2v", i2v, frames=29, video=False, sliding_window_size=4, sliding_window_stride=2,
       input_image=Image.open(os.path.join(here, "image_wide.png")).convert("RGB").crop((3, 1, 67, 49)),
       switch_DiT_boundary=0.9)
save_file(out, out_path)
