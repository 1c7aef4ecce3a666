"""Records results of the official Wan2.2 program in fp32 on the CPU: experts.safetensors.

Usage: python make_experts.py WANMPI WAN2.2_CHECKOUT OUT.safetensors
  final.SOLVER    [C, T, H, W]  the last latent of T2V-A14B: its own loop over two experts, whose weights are
                                those of `wanmpi synth --preset tiny-A14B`; run_experts.sh makes the same video
  segments.F.T    [C, T, H, W]  one forward of case "a" of make_dit.py, with its weights, in which the tokens of
                                the first F frames have time 0 and the others time T, as in TI2V"""
import subprocess
import sys
import tempfile

import h5py
import official
import torch
from easydict import EasyDict
from official import value, weight
from safetensors.torch import load_file, save_file

wanmpi, wan, out_path = sys.argv[1:]
model_file = official.module(wan, "wan.modules.model")
pipeline_file = official.module(wan, "wan.text2video")
configs = official.module(wan, "wan.configs.wan_t2v_A14B")
SIZE, FRAMES, STEPS, SEED = (64, 48), 5, 6, 7
out = {}


def expert(folder):
    weights = load_file(f"{folder}/diffusion_pytorch_model.safetensors")
    m = model_file.WanModel(model_type="t2v", text_len=512, in_dim=16, dim=128, ffn_dim=256, freq_dim=64,
                            text_dim=64, out_dim=16, num_heads=4, num_layers=3)
    m.load_state_dict(weights)
    return m.eval().requires_grad_(False)


def pipeline(folder, texts):
    p = object.__new__(pipeline_file.WanT2V)
    p.__dict__.update(
        device=torch.device("cpu"), config=configs.t2v_A14B, rank=0, t5_cpu=True, init_on_cpu=False, sp_size=1,
        num_train_timesteps=1000, boundary=configs.t2v_A14B.boundary, param_dtype=torch.float32,
        vae_stride=(4, 8, 8), patch_size=(1, 2, 2), sample_neg_prompt="negative",
        text_encoder=lambda prompts, device: [texts[prompts[0]]],
        vae=EasyDict(model=EasyDict(z_dim=16), decode=lambda latents: latents),
        high_noise_model=expert(folder + "/high_noise_model"), low_noise_model=expert(folder + "/low_noise_model"))
    return p


with tempfile.TemporaryDirectory() as folder:
    subprocess.run([wanmpi, "synth", "--preset", "tiny-A14B", "--out", folder + "/m"], check=True)
    subprocess.run([wanmpi, "generate", "--ckpt_dir", folder + "/m", "--size", "%d*%d" % SIZE, "--frame_num",
                    str(FRAMES), "--sample_steps", "1", "--base_seed", str(SEED), "--prompt", "Two cats boxing",
                    "--save_file", folder + "/x.mp4", "--run_file", folder + "/x.h5"], check=True)
    with h5py.File(folder + "/x.h5") as run:
        texts = {"prompt": torch.from_numpy(run["text/cond"][()]),
                 "negative": torch.from_numpy(run["text/uncond"][()])}
    p = pipeline(folder + "/m", texts)
    c = configs.t2v_A14B
    for solver in ("unipc", "dpm++"):
        x = p.generate("prompt", SIZE, FRAMES, c.sample_shift, solver, STEPS, c.sample_guide_scale, seed=SEED,
                       offload_model=False)
        out[f"final.{solver}"] = x
        print(solver, "rms", x.pow(2).mean().sqrt().item())

m = model_file.WanModel(model_type="ti2v", text_len=24, in_dim=16, dim=72, ffn_dim=200, freq_dim=32, text_dim=40,
                        out_dim=16, num_heads=12, num_layers=3)
m.load_state_dict({k: weight(k, p.shape) for k, p in m.state_dict().items()})
x, text = 2 * value("latent", (16, 3, 6, 10)), 4 * value("text.cond", (7, 40))
for known in (1, 2):
    for t in (999, 501, 36):
        times = torch.full((1, 45), float(t))
        times[:, : known * 15] = 0
        with torch.no_grad():
            out[f"segments.{known}.{t}"] = m.eval()([x], t=times, context=[text], seq_len=45)[0]
save_file({k: v.contiguous() for k, v in out.items()}, out_path)
