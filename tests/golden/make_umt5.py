"""Records results of the official text encoder for a small model: umt5.safetensors.

Usage: python make_umt5.py WAN2.1_CHECKOUT OUT.safetensors
Weights and token ids are computed by value(name) below, as in tests/dit_model.h and tests/test_umt5.c.
The script also checks that transformers' UMT5EncoderModel agrees with the official module.
  out.LENGTH   [LENGTH, C] f32    the official module in fp32, called as in the pipeline: padded to 512
                                  tokens, with a mask, then truncated to LENGTH
  half.LENGTH  [LENGTH, C] bf16   the same in bf16"""
import importlib.util
import sys
import types

import numpy as np
import torch
from official import value
from safetensors.torch import save_file
from transformers import UMT5Config, UMT5EncoderModel

wan, out_path = sys.argv[1:]
VOCAB, DIM, INNER, FFN, HEADS, LAYERS = 1300, 64, 48, 96, 4, 3
LENGTHS = [1, 7, 100, 512]


def weight(name, shape):
    if "norm" in name:
        return (1 + value(name, shape) / 4).bfloat16().float()
    if "embedding" in name:
        return value(name, shape) * 2  # large enough that attention differs between keys
    return value(name, shape) / (4 if name.endswith(("q.weight", "k.weight")) else 8)


def tokens(length):
    """Some ids occur twice; the last is EOS."""
    ids = ((value("tokens", (length,)) * 64 + 63.5).long() * 37 + 11) % VOCAB
    ids[-1] = 1
    return ids


package = types.ModuleType("wan_modules")
package.__path__ = [wan + "/wan/modules"]
sys.modules["wan_modules"] = package
torch.cuda.current_device = lambda: "cpu"  # evaluated there as a default argument
spec = importlib.util.spec_from_file_location("wan_modules.t5", wan + "/wan/modules/t5.py")
t5 = importlib.util.module_from_spec(spec)
spec.loader.exec_module(t5)

official = t5.T5Encoder(VOCAB, DIM, INNER, FFN, HEADS, LAYERS, num_buckets=32, shared_pos=False,
                        dropout=0.1).eval()
official.load_state_dict({n: weight(n, tuple(p.shape)) for n, p in official.state_dict().items()})

NAMES = {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}
for i in range(LAYERS):
    for ours, theirs in [("norm1", "0.layer_norm"), ("attn.q", "0.SelfAttention.q"),
                         ("attn.k", "0.SelfAttention.k"), ("attn.v", "0.SelfAttention.v"),
                         ("attn.o", "0.SelfAttention.o"),
                         ("pos_embedding.embedding", "0.SelfAttention.relative_attention_bias"),
                         ("norm2", "1.layer_norm"), ("ffn.gate.0", "1.DenseReluDense.wi_0"),
                         ("ffn.fc1", "1.DenseReluDense.wi_1"), ("ffn.fc2", "1.DenseReluDense.wo")]:
        NAMES[f"blocks.{i}.{ours}.weight"] = f"encoder.block.{i}.layer.{theirs}.weight"
hugging = UMT5EncoderModel(UMT5Config(vocab_size=VOCAB, d_model=DIM, d_kv=INNER // HEADS, d_ff=FFN,
                                      num_heads=HEADS, num_layers=LAYERS)).eval()
renamed = {NAMES[n]: p for n, p in official.state_dict().items()}
missing, unknown = hugging.load_state_dict(renamed, strict=False)
assert not unknown and set(missing) <= {"encoder.embed_tokens.weight"}

tensors = {}
with torch.no_grad():
    for kind in ["out", "half"]:
        for length in LENGTHS:
            ids = torch.zeros(1, 512, dtype=torch.long)
            ids[0, :length] = tokens(length)
            mask = (torch.arange(512) < length).long()[None]
            y = official(ids, mask)[0, :length]
            tensors[f"{kind}.{length}"] = y.clone()
            if kind == "out":
                z = hugging(input_ids=ids, attention_mask=mask).last_hidden_state[0, :length]
                difference = ((y - z).norm() / y.norm()).item()
                print(length, "official to transformers:", difference)
                assert difference < 1e-5
            else:
                full = tensors[f"out.{length}"]
                print(length, "bf16 to fp32:", ((y.float() - full).norm() / full.norm()).item())
        official = official.to(torch.bfloat16)
save_file(tensors, out_path)
