"""Records final latents of the official programs for small random models: tasks.safetensors.

Usage: python make_tasks.py WAN2.1_CHECKOUT WAN2.2_CHECKOUT WANMPI OUT.safetensors
  TASK[.IMAGE].SOLVER   [C, T, H, W]   the last latent of the official generate() in float32 on the CPU
The checkpoints are those of `WANMPI synth`, the texts those that WANMPI encodes from PROMPT, the images image_*.png
of this folder. Needs torch, torchvision, diffusers, einops, easydict, ftfy, imageio, transformers, h5py."""
import json
import os
import subprocess
import sys
import tempfile
import types

import h5py
import official
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

wan21, wan22, wanmpi, out_path = sys.argv[1:]
here = os.path.dirname(os.path.abspath(__file__))
PROMPT, SOLVERS = "Two cats boxing", ("unipc", "dpm++")
torch.amp.autocast = lambda *_, **__: torch.autocast("cpu", enabled=False)


def files(preset, size):
    """A checkpoint of random weights, and its texts for the prompt and the default negative prompt."""
    folder = os.path.join(tempfile.mkdtemp(), preset)
    image = ["--image", os.path.join(here, "image_odd.png")] if "i2v" in preset else []
    subprocess.run([wanmpi, "synth", "--preset", preset, "--out", folder], check=True)
    subprocess.run([wanmpi, "generate", "--ckpt_dir", folder, "--size", size, "--frame_num", "1", "--sample_steps", "1",
                    "--prompt", PROMPT, "--save_file", folder + "/x.mp4", "--run_file", folder + "/x.h5", *image],
                   check=True)
    with h5py.File(folder + "/x.h5") as run:
        return folder, [torch.from_numpy(run["text/" + name][()]) for name in ("cond", "uncond")]


def vae(module, folder, name):
    """The official VAE with the widths of the file, which its constructors do not take."""
    path = os.path.join(folder, name)
    s = {key: value.shape for key, value in torch.load(path, map_location="cpu").items()}
    make, sizes = module._video_vae, {"dim": s["encoder.conv1.weight"][0]}
    if name == "Wan2.2_VAE.pth":
        sizes["dec_dim"] = s["decoder.conv1.weight"][0] // 4
    module._video_vae = lambda **k: make(**{**k, **sizes})
    cls = [getattr(module, c) for c in ("WanVAE", "Wan2_1_VAE", "Wan2_2_VAE") if hasattr(module, c)][0]
    result = cls(vae_pth=path, device="cpu")
    module._video_vae = make
    return result


def dit(module, folder):
    with open(os.path.join(folder, "config.json")) as f:
        config = {k: v for k, v in json.load(f).items() if not k.startswith("_")}
    state = load_file(os.path.join(folder, "diffusion_pytorch_model.safetensors"))
    model = module.WanModel(**{**config, "text_dim": state["text_embedding.0.weight"].shape[1]})
    model.load_state_dict(state)
    return model.eval().requires_grad_(False).float()


def program(cls, texts, **members):
    """An instance without its constructor, which needs a GPU. Its decode keeps the last latent."""
    p = object.__new__(cls)
    p.__dict__.update(device=torch.device("cpu"), rank=0, t5_cpu=True, init_on_cpu=False, sp_size=1,
                      num_train_timesteps=1000, param_dtype=torch.float32, vae_stride=(4, 8, 8), patch_size=(1, 2, 2),
                      sample_neg_prompt="negative",
                      text_encoder=lambda prompts, _: [texts[prompts[0] == "negative"]])
    p.__dict__.update(members)

    def keep(latents):
        p.latent = latents[0]
        return [None]

    p.vae.decode = keep
    return p


def picture(name):
    return Image.open(os.path.join(here, "image_%s.png" % name)).convert("RGB")


out = {}


def record(case, p, solver, seed=11, steps=4, **arguments):
    p.generate("prompt", sampling_steps=steps, sample_solver=solver, seed=seed, offload_model=False, **arguments)
    out["%s.%s" % (case, solver)] = p.latent.contiguous()
    print(case, solver, tuple(p.latent.shape), float(p.latent.std()))


def pair(folder, boundary):
    return dict(boundary=boundary, vae=vae(vae_file, folder, "Wan2.1_VAE.pth"),
                high_noise_model=dit(model_file, os.path.join(folder, "high_noise_model")),
                low_noise_model=dit(model_file, os.path.join(folder, "low_noise_model")))


t2v, vae_file, model_file = official.modules(wan21, "wan.text2video", "wan.modules.vae", "wan.modules.model")
folder, texts = files("tiny", "64*48")
for solver in SOLVERS:
    p = program(t2v.WanT2V, texts, vae=vae(vae_file, folder, "Wan2.1_VAE.pth"), model=dit(model_file, folder))
    record("t2v", p, solver, size=(64, 48), frame_num=9, shift=5.0, guide_scale=5.0)

t2v, i2v, ti2v, vae_file, vae22_file, model_file = official.modules(
    wan22, "wan.text2video", "wan.image2video", "wan.textimage2video", "wan.modules.vae2_1", "wan.modules.vae2_2",
    "wan.modules.model")
folder, texts = files("tiny-A14B", "64*48")
for solver in SOLVERS:
    p = program(t2v.WanT2V, texts, **pair(folder, 0.875))
    record("t2v-A14B", p, solver, seed=7, steps=6, size=(64, 48), frame_num=5, shift=12.0, guide_scale=(3.0, 4.0))

folder, texts = files("tiny-i2v-A14B", "64*48")
for solver, name in zip(SOLVERS, ("tall", "odd")):
    p = program(i2v.WanI2V, texts, **pair(folder, 0.9))
    record("i2v-A14B." + name, p, solver, img=picture(name), max_area=64 * 48, frame_num=9, shift=5.0,
           guide_scale=(3.5, 3.0))

folder, texts = files("tiny-5B", "128*64")
for solver, name in zip(SOLVERS + SOLVERS, (None, None, "wide", "tall")):
    p = program(ti2v.WanTI2V, texts, vae=vae(vae22_file, folder, "Wan2.2_VAE.pth"), model=dit(model_file, folder),
                vae_stride=(4, 16, 16))
    image = {} if name is None else dict(img=picture(name), max_area=128 * 64)
    record("ti2v" if name is None else "ti2v." + name, p, solver, size=(128, 64), frame_num=9, shift=5.0,
           guide_scale=5.0, **image)
save_file(out, out_path)
