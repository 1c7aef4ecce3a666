"""Records final latents of the official S2V program for a small random model: s2v_task.safetensors.

Usage: python make_s2v_task.py WAN2.2_CHECKOUT WANMPI OUT.safetensors
  CASE   [C, T, H, W]   the latent of the second of two clips of the official generate() in float32 on the CPU: of the
                        sound alone ("sound"), and with a pose video and --start_from_ref ("all")
The checkpoint is that of `WANMPI synth --preset tiny-s2v --seed 1`, the text that which WANMPI encodes, sound.wav and
poses.mkv those of tests/run_s2v.sh."""
import os
import subprocess
import sys
import tempfile
import types

import h5py
import numpy as np
import official
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

wan22, wanmpi, out_path = sys.argv[1:]
here = os.path.dirname(os.path.abspath(__file__))
work = tempfile.mkdtemp()
folder = work + "/model"
torch.amp.autocast = lambda *_, **__: torch.autocast("cpu", enabled=False)
WIDTH, HEIGHT, FRAMES = 64, 64, 12


def load_audio(path, sr):
    data = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-f", "s16le", "-"], capture_output=True, check=True).stdout
    return np.frombuffer(data, np.int16).astype(np.float32) / 32768, sr


class Reader:
    """decord's VideoReader for what is used of it: the frames are RGB in the file."""

    def __init__(self, path):
        probe = subprocess.run(["ffprobe", "-v", "error", "-select_streams", "v", "-show_entries",
                                "stream=width,height,avg_frame_rate", "-of", "csv=p=0", path],
                               capture_output=True, check=True, text=True).stdout.strip().split(",")
        raw = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
                             capture_output=True, check=True).stdout
        self.frames = np.frombuffer(raw, np.uint8).reshape(-1, int(probe[1]), int(probe[0]), 3).copy()
        self.fps = eval(probe[2])

    def get_avg_fps(self):
        return self.fps

    def __len__(self):
        return len(self.frames)

    def get_batch(self, indices):
        return types.SimpleNamespace(asnumpy=lambda: self.frames[indices])


for name, members in ("librosa", dict(load=load_audio)), ("decord", dict(VideoReader=Reader)):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__dict__.update(members)
subprocess.run([os.path.join(here, "..", "make_s2v_inputs.sh"), work], check=True)
subprocess.run([wanmpi, "synth", "--preset", "tiny-s2v", "--seed", "1", "--out", folder], check=True)
subprocess.run([wanmpi, "generate", "--ckpt_dir", folder, "--image", here + "/image_tall.png", "--audio",
                work + "/sound.wav", "--size", "64*64", "--infer_frames", "4", "--num_clip", "1", "--sample_steps", "1",
                "--prompt", "Two cats boxing", "--save_file", work + "/x.mp4", "--run_file", work + "/x.h5"], check=True)
with h5py.File(work + "/x.h5") as run:
    texts = [torch.from_numpy(run["text/" + name][()]) for name in ("cond", "uncond")]

s2v, model_file, vae_file, audio_file = official.modules(
    wan22, "wan.speech2video", "wan.modules.s2v.model_s2v", "wan.modules.vae2_1", "wan.modules.s2v.audio_encoder")
state = load_file(folder + "/diffusion_pytorch_model.safetensors")
encoder = model_file.CausalAudioEncoder
model_file.CausalAudioEncoder = lambda **k: encoder(num_layers=state["casual_audio_encoder.weights"].shape[1], **k)
model = model_file.WanModel_S2V(
    cond_dim=16, audio_dim=64, enable_adain=True, audio_inject_layers=[0, 2], zero_timestep=True, enable_motioner=False,
    enable_framepack=True, framepack_drop_mode="padd", text_len=512, in_dim=16, dim=128, ffn_dim=256, freq_dim=64,
    text_dim=64, out_dim=16, num_heads=4, num_layers=3)
model.load_state_dict(state)
model.eval().requires_grad_(False)

s = {key: value.shape for key, value in torch.load(folder + "/Wan2.1_VAE.pth", map_location="cpu").items()}
make = vae_file._video_vae
vae_file._video_vae = lambda **k: make(**{**k, "dim": s["encoder.conv1.weight"][0]})
vae = vae_file.Wan2_1_VAE(vae_pth=folder + "/Wan2.1_VAE.pth", device="cpu")

wav2vec2 = transformers.Wav2Vec2ForCTC.from_pretrained(folder + "/wav2vec2-large-xlsr-53-english",
                                                       attn_implementation="eager").eval().requires_grad_(False)


def recognize(values, output_hidden_states):
    result = wav2vec2.wav2vec2(values, output_hidden_states=True)  # see make_wav2vec2.py
    return types.SimpleNamespace(hidden_states=result.hidden_states[:-1] + (result.last_hidden_state,))


recognize.device = torch.device("cpu")
audio = object.__new__(audio_file.AudioEncoder)
audio.processor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
audio.model, audio.video_rate = recognize, 30

program = object.__new__(s2v.WanS2V)
program.__dict__.update(
    device=torch.device("cpu"), rank=0, t5_cpu=True, init_on_cpu=False, sp_size=1, num_train_timesteps=1000,
    param_dtype=torch.float32, sample_neg_prompt="negative", vae=vae, noise_model=model, audio_encoder=audio,
    text_encoder=lambda prompts, _: [texts[prompts[0] == "negative"]], motion_frames=73, drop_first_motion=True, fps=16,
    audio_sample_m=0)
decode, latents, out = vae.decode, [], {}


def keep(x):
    latents.append(x[0][:, -FRAMES // 4:].clone())
    return decode(x)


vae.decode = keep
for case, more in ("sound", {}), ("all", dict(pose_video=work + "/poses.mkv", init_first_frame=True)):
    latents.clear()
    frames = program.generate("prompt", here + "/image_tall.png", work + "/sound.wav", False, None, None, None, num_repeat=2,
                              max_area=WIDTH * HEIGHT, infer_frames=FRAMES, shift=3.0, sampling_steps=2, guide_scale=4.5,
                              seed=11, offload_model=False, **more)
    assert len(latents) == 2
    out[case] = latents[1].contiguous()
    print(case, tuple(out[case].shape), float(out[case].std()), tuple(frames.shape))
save_file(out, out_path)
