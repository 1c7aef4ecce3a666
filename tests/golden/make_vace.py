"""Records results of the official VACE for small random models: vace.safetensors.

Usage: python make_vace.py WAN2.1_CHECKOUT DIFFSYNTH_CHECKOUT WANMPI OUT.safetensors
  v.vace.t, half.vace.t   one forward of the transformer at time t, as in make_dit.py; weights and inputs by value(name)
  frames.CASE             i64 [n]          the frames of a clip that the official processor takes
  pixels.CASE             u8 [T, h, w, 3]  what it makes of the first 2 of them; mask.CASE u8 [T, h, w] of the mask
  reference.tall          f32 [h, w, 3]    a reference image on its canvas
  sizes                   i64 [n, 7]       width, height and frames of a clip, area -> width, height and frames of the video
  CASE.SOLVER             [C, T, H, W]     the last latent of the official generate() in float32 on the CPU, with the
                                           frames of the reference images; of "diffsynth" of DiffSynth-Studio
The clips are those of clips.sh, the checkpoint that of `WANMPI synth`, the texts those that WANMPI encodes from PROMPT,
the reference images image_*.png of this folder. Needs torch, torchvision, diffusers, einops, easydict, ftfy, h5py and
decord."""
import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import unittest.mock

import h5py
import numpy as np
import official
import torch
import torch._dynamo  # before packages are replaced below
from PIL import Image
from official import value, weight
from safetensors.torch import load_file, save_file

wan, diffsynth, wanmpi, out_path = sys.argv[1:]
here = os.path.dirname(os.path.abspath(__file__))
PROMPT = "Two cats boxing"
torch.amp.autocast = lambda *_, **__: torch.autocast("cpu", enabled=False)
vace, model_file, vae_file, processor = official.modules(wan, "wan.vace", "wan.modules.vace_model", "wan.modules.vae",
                                                         "wan.utils.vace_processor")
linspace = np.linspace
np.linspace = lambda a, b, n: linspace(np.float64(a), np.float64(b), n)  # as numpy 1, which the official program needs
torch.set_num_threads(2)  # one thread takes another kernel for the reference images
out = {}

# ---- the transformer


def forward(m, x, t):
    context = [4 * value("text.cond", (7, 40))]
    control = value("vace", (24, *x.shape[1:]))
    with torch.autocast("cpu", dtype=torch.bfloat16) if official.half else contextlib.nullcontext():
        return m([x], t=torch.tensor([t]), vace_context=[control], vace_context_scale=0.5, context=context,
                 seq_len=x[0].numel() // 4)[0]


m = model_file.VaceWanModel(vace_layers=[0, 2, 4], vace_in_dim=24, text_len=24, in_dim=16, dim=72, ffn_dim=200, freq_dim=32,
                            text_dim=40, out_dim=16, num_heads=12, num_layers=5)
m.load_state_dict({k: weight(k, p.shape) for k, p in m.state_dict().items()})
m.eval().requires_grad_(False)
x = 2 * value("latent", (16, 3, 6, 10))
for t in (999, 501, 36):
    for official.half in (False, True):
        out[f"{'half' if official.half else 'v'}.vace.{t}"] = forward(m, x, t)
    full, rounded = out[f"v.vace.{t}"], out[f"half.vace.{t}"]
    print(t, "rms", full.pow(2).mean().sqrt().item(), "bf16 from fp32", ((rounded - full).norm() / full.norm()).item())
official.half = False

# ---- the whole program

folder = tempfile.mkdtemp()
subprocess.run([os.path.join(here, "..", "clips.sh"), folder], check=True)
subprocess.run([wanmpi, "synth", "--preset", "tiny-vace", "--out", folder + "/model"], check=True)
subprocess.run([wanmpi, "generate", "--ckpt_dir", folder + "/model", "--size", "64*48", "--frame_num", "1",
                "--sample_steps", "1", "--prompt", PROMPT, "--save_file", folder + "/x.mp4", "--run_file", folder + "/x.h5"],
               check=True)
with h5py.File(folder + "/x.h5") as run:
    texts = [torch.from_numpy(run["text/" + name][()]) for name in ("cond", "uncond")]
path = folder + "/model/Wan2.1_VAE.pth"
make = vae_file._video_vae
dim = torch.load(path)["encoder.conv1.weight"].shape[0]
vae_file._video_vae = lambda **k: make(**{**k, "dim": dim})
p = object.__new__(vace.WanVace)
p.vae = vae_file.WanVAE(vae_pth=path, device="cpu")
with open(folder + "/model/config.json") as f:
    config = {k: v for k, v in json.load(f).items() if not k.startswith("_")}
p.model = vace.VaceWanModel(**{**config, "text_dim": texts[0].shape[1]})
p.model.load_state_dict(load_file(folder + "/model/diffusion_pytorch_model.safetensors"))
p.model.eval().requires_grad_(False)
p.__dict__.update(device=torch.device("cpu"), rank=0, t5_cpu=True, sp_size=1, num_train_timesteps=1000,
                  param_dtype=torch.float32, vae_stride=(4, 8, 8), patch_size=(1, 2, 2), sample_neg_prompt="negative",
                  text_encoder=lambda prompts, _: [texts[prompts[0] == "negative"]])


def prepare(video, mask, references, frames, size):
    """prepare_source with the limits of the official sizes, at this size."""
    pixels = size[0] * size[1]
    p.vid_proc = processor.VaceVideoProcessor((4, 16, 16), pixels, pixels, 16, 16, True, 21 * pixels // 256, keep_last=True)
    p.vid_proc.set_area = p.vid_proc.set_seq_len = lambda _: None

    class Area(int):  # which equals those of the official sizes
        def __eq__(self, other):
            return True

    class Side(int):
        def __mul__(self, other):
            return Area(int(self) * int(other))

    path = lambda name: name and os.path.join(folder, name)
    names = references and [os.path.join(here, "image_%s.png" % name) for name in references]
    return p.prepare_source([path(video)], [path(mask)], [names], frames, (Side(size[0]), size[1]), p.device)


def decode(zs, ref_images=None, vae=None):
    p.latent = zs[0]
    return [None]


p.decode_latent = decode


def record(case, solver, video=None, mask=None, references=None, frames=9, scale=1.0):
    source = prepare(video, mask, references, frames, (64, 48))
    p.generate(PROMPT, *source, size=(64, 48), frame_num=frames, context_scale=scale, shift=16.0, sample_solver=solver,
               sampling_steps=4, guide_scale=5.0, seed=11, offload_model=False)
    out["%s.%s" % (case, solver)] = p.latent.contiguous()
    print(case, solver, tuple(p.latent.shape), float(p.latent.std()))


def pixels(case, video, mask):
    v, m, _ = prepare(video, mask, None, 0, (64, 48))
    ids = p.vid_proc.load_video(os.path.join(folder, video))[1]
    out["frames." + case] = torch.tensor(ids, dtype=torch.int64)
    out["pixels." + case] = ((v[0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0)[:2].contiguous()
    if mask:
        out["mask." + case] = (m[0][0] * 255).round().to(torch.uint8)[:2].contiguous()
    print(case, ids, tuple(v[0].shape))


pixels("clip", "clip.mkv", "mask.mkv")
pixels("rate", "rate.mkv", None)
pixels("turned", "turned.mp4", None)
out["reference.tall"] = prepare(None, None, ["tall"], 1, (64, 48))[2][0][0][:, 0].permute(1, 2, 0).contiguous()
rng, rows = np.random.default_rng(0), []
while len(rows) < 60:
    w, h, n, pixel = (int(v) for v in (*rng.integers(20, 2000, 2), rng.integers(1, 300), rng.choice([480 * 832, 720 * 1280])))
    q = processor.VaceVideoProcessor((4, 16, 16), pixel, pixel, 16, 16, True, 21 * pixel // 256, keep_last=True)
    times = np.array([[i / 16, (i + 1) / 16] for i in range(n)], dtype=np.float32)
    ids, _, (oh, ow), _ = q._get_frameid_bbox(16, times, h, w, None, None)
    rows.append([w, h, n, pixel, ow, oh, len(ids)])
out["sizes"] = torch.tensor(rows, dtype=torch.int64)
record("r2v", "unipc", references=["wide", "tall"])
record("v2v", "dpm++", video="clip.mkv")
record("mv2v", "unipc", video="clip.mkv", mask="mask.mkv", references=["wide", "odd"], scale=0.5)
record("free", "unipc")

# ---- DiffSynth-Studio

decord = sys.modules["decord"]
for name in ("pandas", "modelscope", "peft", "imageio", "imageio.v3"):
    sys.modules[name] = unittest.mock.MagicMock()
sys.path.insert(0, diffsynth)
w = importlib.import_module("diffsynth.pipelines.wan_video")
vace_module = importlib.import_module("diffsynth.models.wan_video_vace")
crop_and_resize = importlib.import_module("diffsynth.utils.data").crop_and_resize
state = load_file(folder + "/model/diffusion_pytorch_model.safetensors")
sizes = {key: config[key] for key in "dim ffn_dim eps num_heads".split()}
pipe = w.WanVideoPipeline(device="cpu", torch_dtype=torch.float32)
pipe.dit = w.WanModel(**sizes, **{key: config[key] for key in "in_dim out_dim freq_dim num_layers".split()},
                      text_dim=texts[0].shape[1], patch_size=(1, 2, 2), has_image_input=False).eval().requires_grad_(False)
pipe.dit.load_state_dict({k: v for k, v in state.items() if not k.startswith("vace_")})
pipe.vace = vace_module.VaceWanModel(vace_layers=config["vace_layers"], **sizes).eval().requires_grad_(False)
pipe.vace.load_state_dict({k: v for k, v in state.items() if k.startswith("vace_")})
module = sys.modules[w.WanVideoVAE.__module__]
make = module.VideoVAE_
module.VideoVAE_ = lambda **k: make(**{**k, "dim": dim})
pipe.vae = w.WanVideoVAE()
pipe.vae.model.load_state_dict(torch.load(path))
pipe.vae.decode = lambda *_, **__: None
pipe.vae_output_to_video = lambda video: None
padded = [torch.nn.functional.pad(t, (0, 0, 0, 512 - len(t)))[None] for t in texts]
w.WanVideoUnit_PromptEmbedder.process = lambda self, pipe, prompt, positive: {"context": padded[not positive]}
step = pipe.scheduler.step


def keep(*arguments, **named):  # the last one is the result with the references
    out["diffsynth.euler"] = step(*arguments, **named)
    return out["diffsynth.euler"]


pipe.scheduler.step = keep


def frames(name, count=9):
    decord.bridge.set_bridge("native")
    clip = decord.VideoReader(os.path.join(folder, name)).get_batch(list(range(count))).asnumpy()
    return [crop_and_resize(Image.fromarray(frame), 48, 64) for frame in clip]


pipe(PROMPT, negative_prompt="negative", seed=11, height=48, width=64, num_frames=9, num_inference_steps=4, tiled=False,
     vace_video=frames("clip.mkv"), vace_video_mask=frames("grey.mkv"), vace_scale=0.5,
     vace_reference_image=[Image.open(os.path.join(here, "image_%s.png" % n)).convert("RGB").resize((64, 48))
                           for n in ("wide", "odd")])
out["diffsynth.euler"] = out["diffsynth.euler"][0].contiguous()
print("diffsynth", tuple(out["diffsynth.euler"].shape), float(out["diffsynth.euler"].std()))
save_file(out, out_path)
