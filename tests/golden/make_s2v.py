"""Records results of the official S2V transformer for a small model: s2v.safetensors.

Usage: python make_s2v.py WAN2.2_CHECKOUT OUT.safetensors
Weights and inputs are computed by value(name) of official.py, as in tests/test_s2v.c.
  v.CASE.BRANCH   [C, T, H, W]       one forward: the first clip, without motion frames and pose video, or a later one
  tokens.BRANCH   [F, TOKENS, C]     the audio encoder's tokens for each latent frame, of a later clip
  frame.BRANCH    [F, C]             its token for the frame"""
import sys
import types

import official
import torch
from official import value
from safetensors.torch import save_file

wan, out_path = sys.argv[1:]
sys.modules["librosa"] = types.ModuleType("librosa")
(s2v,) = official.modules(wan, "wan.modules.s2v.model_s2v")
sys.modules["wan.modules.model"].flash_attention = official.flash_attention
T, H, W, WIDTH, DIM = 3, 8, 16, 24, 96


def weight(name, shape):
    if name == "casual_audio_encoder.weights":
        return 1 + value(name, shape) / 4
    if "trainable_cond_mask" in name or "padding_tokens" in name:
        return value(name, shape)
    if "audio_injector" in name and ".o." in name:
        return value(name, shape)
    return official.weight(name, shape)


model = s2v.WanModel_S2V(
    cond_dim=16, audio_dim=WIDTH, enable_adain=True, audio_inject_layers=[0, 2], zero_timestep=True, enable_motioner=False,
    enable_framepack=True, framepack_drop_mode="padd", text_len=24, in_dim=16, dim=DIM, ffn_dim=160, freq_dim=32,
    text_dim=40, out_dim=16, num_heads=4, num_layers=3).eval().requires_grad_(False)
state = {n: weight(n, tuple(p.shape)) for n, p in model.state_dict().items()}
model.load_state_dict(state)
latent = 2 * value("latent", (16, T, H, W))
audio = value("audio", (25, 4 * T, WIDTH)).permute(0, 2, 1)[None]
out = {}
for case, t in ("first", 999), ("later", 501):
    for branch in "cond", "uncond":
        later = case == "later"
        v = model([latent], t=torch.tensor([t]), context=[4 * value("text." + branch, (7, 40))], seq_len=T * H * W // 4,
                  ref_latents=[4 * value("reference", (16, 1, H, W))], motion_latents=[value("motion", (16, 19, H, W))],
                  cond_states=[value("pose", (16, T, H, W)) * later], audio_input=audio * (branch == "cond"),
                  motion_frames=[73, 19], drop_motion_frames=not later)[0]
        out["v.%s.%s" % (case, branch)] = v.contiguous()
        print(case, branch, v.pow(2).mean().sqrt().item())
        if later:
            out["tokens." + branch] = model.merged_audio_emb[0].clone()
            out["frame." + branch] = model.audio_emb_global[0, :, 0].clone()
v = out["v.later.cond"]
for name in "reference", "motion", "pose", "audio":  # each input matters
    args = dict(ref_latents=[4 * value("reference", (16, 1, H, W))], motion_latents=[value("motion", (16, 19, H, W))],
                cond_states=[value("pose", (16, T, H, W))], audio_input=audio)
    key = {"reference": "ref_latents", "motion": "motion_latents", "pose": "cond_states", "audio": "audio_input"}[name]
    args[key] = args[key] * 0 if name == "audio" else [args[key][0] * 0]
    other = model([latent], t=torch.tensor([501]), context=[4 * value("text.cond", (7, 40))], seq_len=T * H * W // 4,
                  motion_frames=[73, 19], drop_motion_frames=False, **args)[0]
    print(name, ((v - other).norm() / v.norm()).item())
save_file(out, out_path)
