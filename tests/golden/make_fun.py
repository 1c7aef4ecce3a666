"""Records final latents of DiffSynth-Studio's WanVideoPipeline for small random models of Fun, and rays of cameras:
fun.safetensors.

Usage: python make_fun.py WAN2.1_CHECKOUT DIFFSYNTH_CHECKOUT WANMPI OUT.safetensors
  CASE                [C, T, H, W]    the last latent in float32 on the CPU; the cases are those of run_fun.sh
  rays.DIRECTION      [F, 3, 5, 6]    the rays of a camera that moves, of pixels of 48 rows and 64 columns
  rays.origin         the same, from an origin that is turned
The checkpoints are those of `WANMPI synth`, the texts those that WANMPI encodes from PROMPT, the images image_*.png of
this folder, and the control is the clip that run_fun.sh makes: parts of image_wide.png. Needs torch, torchvision,
diffusers, einops, easydict, ftfy, transformers, h5py, and what DiffSynth imports."""
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
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file

wan21, diffsynth, wanmpi, out_path = sys.argv[1:]
here = os.path.dirname(os.path.abspath(__file__))
PROMPT = "Two cats boxing"
ORIGIN = (0, 0.61, 0.9, 0.45, 0.52, 0, 0, 0.96, 0.05, -0.27, 0.3, -0.02, 0.99, 0.11, -0.1, 0.28, -0.1, 0.95, 0.2)


def synth(preset):
    folder = os.path.join(tempfile.mkdtemp(), preset)
    subprocess.run([wanmpi, "synth", "--preset", preset, "--out", folder], check=True)
    return folder


def encode_texts():
    folder = synth("tiny")
    subprocess.run([wanmpi, "generate", "--ckpt_dir", folder, "--task", "t2v-1.3B", "--size", "64*48", "--frame_num", "1",
                    "--sample_steps", "1", "--prompt", PROMPT, "--save_file", folder + "/x.mp4", "--run_file",
                    folder + "/x.h5"], check=True)
    with h5py.File(folder + "/x.h5") as run:
        return [torch.from_numpy(run["text/" + name][()]) for name in ("cond", "uncond")]


def image_encoder(module, folder):
    """The official image encoder with the widths of the file, without its text encoder."""
    state = torch.load(os.path.join(folder, "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"))
    state = {key.removeprefix("visual."): value for key, value in state.items()}
    dim, _, _, patch = state["patch_embedding.weight"].shape
    visual = module.VisionTransformer(
        image_size=round((state["pos_embedding"].shape[1] - 1) ** 0.5) * patch, patch_size=patch, dim=dim,
        mlp_ratio=state["transformer.0.mlp.0.weight"].shape[0] / dim, out_dim=state["head"].shape[1], num_heads=dim // 80,
        num_layers=1 + max(int(key.split(".")[1]) for key in state if key.startswith("transformer")), activation="gelu")
    visual.load_state_dict(state)
    return visual.eval().requires_grad_(False)


def diffsynth_package(tokens, width):
    """DiffSynth-Studio's pipeline, with the sizes of a small image encoder where it has constants, and without packages
    that only training and downloads need."""
    copy = tempfile.mkdtemp()
    shutil.copytree(os.path.join(diffsynth, "diffsynth"), copy + "/diffsynth")
    changes = {"models/wan_video_dit.py": (("[:, :257]", f"[:, :{tokens}]"), ("[:, 257:]", f"[:, {tokens}:]"),
                                           ("MLP(1280", f"MLP({width}")),
               "pipelines/wan_video.py": (("(1, 257, 1280)", f"(1, {tokens}, {width})"),)}
    for name, pairs in changes.items():
        path = copy + "/diffsynth/" + name
        with open(path) as f:
            text = f.read()
        for constant, small in pairs:
            assert constant in text
            text = text.replace(constant, small)
        with open(path, "w") as f:
            f.write(text)
    for name in ("pandas", "modelscope", "peft", "imageio", "imageio.v3"):
        sys.modules[name] = unittest.mock.MagicMock()
    sys.path.insert(0, copy)
    return importlib.import_module("diffsynth.pipelines.wan_video")


texts = encode_texts()
clip_file, = official.modules(wan21, "wan.modules.clip")
visual = image_encoder(clip_file, synth("tiny-control"))
w = diffsynth_package(visual.pos_embedding.shape[1], visual.dim)
crop_and_resize = importlib.import_module("diffsynth.utils.data").crop_and_resize
camera = importlib.import_module("diffsynth.models.wan_video_camera_controller")
padded = [torch.nn.functional.pad(t, (0, 0, 0, 512 - len(t)))[None] for t in texts]
w.WanVideoUnit_PromptEmbedder.process = lambda self, pipe, prompt, positive: {"context": padded[not positive]}


def dit(folder, **flags):
    with open(os.path.join(folder, "config.json")) as f:
        config = json.load(f)
    keys = "dim in_dim ffn_dim out_dim freq_dim eps num_heads num_layers".split()
    model = w.WanModel(**{key: config[key] for key in keys}, text_dim=texts[0].shape[1], patch_size=(1, 2, 2), **flags)
    model.load_state_dict(load_file(os.path.join(folder, "diffusion_pytorch_model.safetensors")))
    return model.eval().requires_grad_(False)


def pipeline(preset, experts=False, clip=True, **flags):
    folder = synth(preset)
    flags.update(has_image_input=clip, require_clip_embedding=clip)
    pipe = w.WanVideoPipeline(device="cpu", torch_dtype=torch.float32)
    pipe.folder = folder
    pipe.dit = dit(folder + "/high_noise_model" * experts, **flags)
    pipe.dit2 = dit(folder + "/low_noise_model", **flags) if experts else None
    weights = torch.load(os.path.join(folder, "Wan2.1_VAE.pth"))
    module = sys.modules[w.WanVideoVAE.__module__]
    make = module.VideoVAE_
    module.VideoVAE_ = lambda **k: make(dim=weights["encoder.conv1.weight"].shape[0], **k)
    pipe.vae = w.WanVideoVAE()
    module.VideoVAE_ = make
    pipe.vae.model.load_state_dict(weights)
    if clip:
        pipe.image_encoder = w.WanImageEncoder.__new__(w.WanImageEncoder)
        torch.nn.Module.__init__(pipe.image_encoder)
        pipe.image_encoder.model = torch.nn.Module()
        pipe.image_encoder.model.visual, pipe.image_encoder.model.image_size = visual, visual.image_size
        pipe.image_encoder.transforms = torchvision.transforms.Compose([torchvision.transforms.Normalize(
            mean=[0.48145466, 0.4578275, 0.40821073], std=[0.26862954, 0.26130258, 0.27577711])])
    pipe.vae.decode = lambda latents, **_: out.__setitem__(case, latents[0].contiguous())
    pipe.vae_output_to_video = lambda video: None
    return pipe


def picture(name):
    return Image.open(os.path.join(here, "image_%s.png" % name)).convert("RGB")


def control(frames=5):
    wide = picture("wide")
    return [crop_and_resize(wide.crop((n, 5, n + 54, 45)), 48, 64) for n in range(frames)]


out = {}


def record(name, pipe, **arguments):
    global case
    case = name
    pipe("prompt", negative_prompt="negative", seed=11, height=48, width=64, num_frames=5, num_inference_steps=4,
         tiled=False, **arguments)
    print(case, tuple(out[case].shape), float(out[case].std()))


pipe = pipeline("tiny-control")
record("control", pipe, control_video=control())
record("control.image", pipe, control_video=control(), input_image=picture("tall"))
pipe = pipeline("tiny-control-ref", has_ref_conv=True)
record("control-ref.none", pipe, control_video=control())
record("control-ref", pipe, control_video=control(), reference_image=picture("odd"))
record("control-ref.image", pipe, control_video=control(), reference_image=picture("odd"), input_image=picture("tall"))
pipe = pipeline("tiny-camera", add_control_adapter=True)
record("camera.LeftUp", pipe, input_image=picture("tall"), camera_control_direction="LeftUp")
record("camera.In", pipe, input_image=picture("tall"), camera_control_direction="In", camera_control_speed=0.1,
       camera_control_origin=ORIGIN)
record("inp-A14B", pipeline("tiny-i2v-A14B", True, False), input_image=picture("wide"), end_image=picture("odd"))
pipe = pipeline("tiny-control-A14B", True, False, has_ref_conv=True)
record("control-A14B", pipe, control_video=control())
record("control-A14B.ref", pipe, control_video=control(), reference_image=picture("odd"))
record("camera-A14B", pipeline("tiny-camera-A14B", True, False, add_control_adapter=True), input_image=picture("tall"),
       camera_control_direction="RightDown")

pipe = pipeline("tiny-speed", False, False)
weights = load_file(os.path.join(pipe.folder, "motion_controller", "model.safetensors"))
motion = importlib.import_module("diffsynth.models.wan_video_motion_controller")
pipe.motion_controller = motion.WanMotionControllerModel(*reversed(weights["linear.0.weight"].shape)).eval()
pipe.motion_controller.load_state_dict(weights)
record("speed", pipe, motion_bucket_id=70)


def rays(direction, speed, origin):
    poses = camera.generate_camera_coordinates(direction, 5, speed, origin)
    return camera.process_pose_file(poses, 64, 48)[:, ::23, ::15].contiguous()


default = camera.generate_camera_coordinates("Left", 1)[0]
for direction in "Left Right Up Down LeftUp LeftDown RightUp RightDown In Out".split():
    out["rays." + direction] = rays(direction, 1 / 54, default)
out["rays.origin"] = rays("LeftDown", 0.1, ORIGIN)
save_file(out, out_path)
