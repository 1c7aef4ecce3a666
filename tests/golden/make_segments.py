"""Records forwards of the official Wan2.2 transformer with a time per token, in fp32 on the CPU: segments.safetensors.

Usage: python make_segments.py WAN2.2_CHECKOUT OUT.safetensors
  segments.F.T    [C, T, H, W]  one forward of case "a" of make_dit.py, with its weights, in which the tokens of
                                the first F frames have time 0 and the others time T, as in TI2V"""
import sys

import official
import torch
from official import value, weight
from safetensors.torch import save_file

wan, out_path = sys.argv[1:]
(model_file,) = official.modules(wan, "wan.modules.model")
out = {}
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
