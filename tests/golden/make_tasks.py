"""Records final latents of the official programs for small random models: tasks.safetensors.

Usage: python make_tasks.py WAN2.1_CHECKOUT WAN2.2_CHECKOUT DIFFSYNTH_CHECKOUT WANMPI OUT.safetensors
  TASK[.IMAGE].SOLVER   [C, T, H, W]   the last latent of the official generate() in float32 on the CPU; of tasks "inp"
                                       of DiffSynth-Studio's WanVideoPipeline
The checkpoints are those of `WANMPI synth`, the texts those that WANMPI encodes from PROMPT, the images image_*.png
of this folder. Needs torch, torchvision, diffusers, einops, easydict, ftfy, imageio, transformers, h5py."""
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest.mock

import h5py
import official
import PIL.ImageOps
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file

wan21, wan22, diffsynth, wanmpi, out_path = sys.argv[1:]
here = os.path.dirname(os.path.abspath(__file__))
PROMPT, SOLVERS = "Two cats boxing", ("unipc", "dpm++")
torch.amp.autocast = lambda *_, **__: torch.autocast("cpu", enabled=False)


def files(preset, size, *flags):
    """A checkpoint of random weights, and its texts for the prompt and the task's negative prompt."""
    folder = os.path.join(tempfile.mkdtemp(), preset)
    names = ["first_frame", "last_frame"] if "flf2v" in preset else ["image"] if "i2v-" in preset else []
    image = [word for name in names for word in ("--" + name, os.path.join(here, "image_odd.png"))]
    subprocess.run([wanmpi, "synth", "--preset", preset, "--out", folder], check=True)
    subprocess.run([wanmpi, "generate", "--ckpt_dir", folder, "--size", size, "--frame_num", "1", "--sample_steps", "1",
                    "--prompt", PROMPT, "--save_file", folder + "/x.mp4", "--run_file", folder + "/x.h5", *image, *flags],
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


def clip(module, folder):
    """The official image encoder with the widths of the file, without its text encoder."""
    state = torch.load(os.path.join(folder, "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"))
    shape = {key.removeprefix("visual."): value.shape for key, value in state.items()}
    dim, _, _, patch = shape["patch_embedding.weight"]
    visual = module.VisionTransformer(
        image_size=round((shape["pos_embedding"][1] - 1) ** 0.5) * patch, patch_size=patch, dim=dim,
        mlp_ratio=shape["transformer.0.mlp.0.weight"][0] / dim, out_dim=shape["head"][1], num_heads=dim // 80,
        num_layers=1 + max(int(key.split(".")[1]) for key in shape if key.startswith("transformer")), activation="gelu")
    visual.load_state_dict({key.removeprefix("visual."): value for key, value in state.items()})
    p = object.__new__(module.CLIPModel)
    p.dtype = torch.float32
    p.model = torch.nn.Module()
    p.model.visual, p.model.image_size = visual.eval().requires_grad_(False), visual.image_size
    p.transforms = torchvision.transforms.Compose([torchvision.transforms.Normalize(
        mean=[0.48145466, 0.4578275, 0.40821073], std=[0.26862954, 0.26130258, 0.27577711])])
    return p


def dit(module, folder):
    with open(os.path.join(folder, "config.json")) as f:
        config = {k: v for k, v in json.load(f).items() if not k.startswith("_")}
    state = load_file(os.path.join(folder, "diffusion_pytorch_model.safetensors"))
    if "img_emb.proj.0.weight" in state:  # the official module has constants for these sizes
        width, embedding = len(state["img_emb.proj.0.weight"]), module.MLPProj
        module.MLPProj = lambda _, out_dim, flf_pos_emb=False: embedding(width, out_dim, False)
    model = module.WanModel(**{**config, "text_dim": state["text_embedding.0.weight"].shape[1]})
    if "img_emb.proj.0.weight" in state:
        module.MLPProj = embedding
    if "img_emb.emb_pos" in state:
        module.FIRST_LAST_FRAME_CONTEXT_TOKEN_NUMBER = state["img_emb.emb_pos"].shape[1]
        model.img_emb.emb_pos = torch.nn.Parameter(state["img_emb.emb_pos"])
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

i2v, flf2v, clip_file = official.modules(wan21, "wan.image2video", "wan.first_last_frame2video", "wan.modules.clip",
                                         keep=True)
folder, texts = files("tiny-i2v-14B", "64*48")
encoder = clip(clip_file, folder)
for solver, name in zip(SOLVERS, ("tall", "odd")):
    p = program(i2v.WanI2V, texts, vae=vae(vae_file, folder, "Wan2.1_VAE.pth"), model=dit(model_file, folder), clip=encoder)
    record("i2v." + name, p, solver, img=picture(name), max_area=64 * 48, frame_num=9, shift=5.0, guide_scale=5.0)

folder, texts = files("tiny-flf2v-14B", "64*48")
for solver, (first, last) in zip(SOLVERS, (("odd", "odd"), ("wide", "odd"))):
    p = program(flf2v.WanFLF2V, texts, vae=vae(vae_file, folder, "Wan2.1_VAE.pth"), model=dit(model_file, folder),
                clip=clip(clip_file, folder))
    turned = PIL.ImageOps.mirror(picture(last))
    record("flf2v." + first, p, solver, first_frame=picture(first), last_frame=turned, max_area=64 * 48, frame_num=81,
           shift=16.0, guide_scale=5.0)

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


def diffsynth_package(tokens, width):
    """DiffSynth-Studio's pipeline, with the sizes of a small image encoder where it has constants, and without packages
    that only training and downloads need."""
    copy = tempfile.mkdtemp()
    shutil.copytree(os.path.join(diffsynth, "diffsynth"), copy + "/diffsynth")
    path = copy + "/diffsynth/models/wan_video_dit.py"
    with open(path) as f:
        text = f.read()
    for constant, small in ("[:, :257]", f"[:, :{tokens}]"), ("[:, 257:]", f"[:, {tokens}:]"), ("MLP(1280", f"MLP({width}"):
        assert constant in text
        text = text.replace(constant, small)
    with open(path, "w") as f:
        f.write(text)
    for name in ("pandas", "modelscope", "peft"):
        sys.modules[name] = unittest.mock.MagicMock()
    sys.path.insert(0, copy)
    return importlib.import_module("diffsynth.pipelines.wan_video")


folder, texts = files("tiny-i2v-14B", "64*48", "--task", "inp-1.3B")
encoder = clip(clip_file, folder).model
state = load_file(os.path.join(folder, "diffusion_pytorch_model.safetensors"))
w = diffsynth_package(encoder.visual.pos_embedding.shape[1], encoder.visual.dim)
with open(os.path.join(folder, "config.json")) as f:
    config = json.load(f)
keys = "dim in_dim ffn_dim out_dim freq_dim eps num_heads num_layers".split()
pipe = w.WanVideoPipeline(device="cpu", torch_dtype=torch.float32)
pipe.dit = w.WanModel(**{key: config[key] for key in keys}, text_dim=texts[0].shape[1], patch_size=(1, 2, 2),
                      has_image_input=True).eval().requires_grad_(False)
pipe.dit.load_state_dict(state)
weights = torch.load(os.path.join(folder, "Wan2.1_VAE.pth"))
vae_module = sys.modules[w.WanVideoVAE.__module__]
make = vae_module.VideoVAE_
vae_module.VideoVAE_ = lambda **k: make(dim=weights["encoder.conv1.weight"].shape[0], **k)
pipe.vae = w.WanVideoVAE()
pipe.vae.model.load_state_dict(weights)
pipe.image_encoder = w.WanImageEncoder.__new__(w.WanImageEncoder)
torch.nn.Module.__init__(pipe.image_encoder)
pipe.image_encoder.model = encoder
pipe.image_encoder.transforms = clip(clip_file, folder).transforms
padded = [torch.nn.functional.pad(t, (0, 0, 0, 512 - len(t)))[None] for t in texts]
w.WanVideoUnit_PromptEmbedder.process = lambda self, pipe, prompt, positive: {"context": padded[not positive]}
pipe.vae.decode = lambda latents, **_: out.__setitem__(case, latents[0].contiguous())
pipe.vae_output_to_video = lambda video: None
for name, end in ("tall", None), ("wide", "odd"):
    case = "inp.%s.euler" % name
    pipe("prompt", input_image=picture(name), end_image=end and picture(end), seed=11, height=48, width=64, num_frames=9,
         num_inference_steps=4, tiled=False)
    print(case, tuple(out[case].shape), float(out[case].std()))
save_file(out, out_path)
