"""Writes weight files with PyTorch and safetensors, and the tensor names of diffusers and transformers, for
test_tensorfile.c and test_checkpoint.c. Values are quarters, exact in every dtype: element i of x is i / 4.

    python make_files.py        (torch, safetensors, diffusers, transformers)"""
import io
import os
import zipfile

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

here = os.path.dirname(os.path.abspath(__file__))
x = (torch.arange(15, dtype=torch.float32) / 4).reshape(3, 5)
small = torch.arange(8, dtype=torch.float32)

torch.save({"a": x, "transposed": x.t(), "row": x[1], "column": x[:, 2], "half": x.half(),
            "bf16": x.bfloat16(), "double": x.double(), "scalar": torch.tensor(0.25),
            "expanded": x[0, 1].expand(4, 2), "empty": torch.zeros(0, 3),
            "long": torch.arange(3)}, os.path.join(here, "flat.pth"))
module = torch.nn.Module()
module.inner = torch.nn.Linear(5, 3)
module.inner.weight = torch.nn.Parameter(x)
torch.save({"state_dict": module.state_dict(), "epoch": 3, "rate": 0.5, "betas": [0.9, 0.999]},
           os.path.join(here, "wrapped.pth"))
torch.save({"outer": {"inner": {"x": x}}, "p": torch.nn.Parameter(x)},
           os.path.join(here, "nested.pth"))
save_file({"f32": x, "f16": x.half(), "bf16": x.bfloat16(), "f64": x.double(),
           "e4m3": small.to(torch.float8_e4m3fn), "e5m2": small.to(torch.float8_e5m2),
           "i64": torch.arange(3), "i32": torch.arange(3, dtype=torch.int32),
           "i16": torch.arange(3, dtype=torch.int16), "i8": torch.arange(3, dtype=torch.int8),
           "u8": torch.arange(3, dtype=torch.uint8), "bool": torch.tensor([True, False]),
           "empty": torch.zeros(0, 3), "scalar": torch.tensor(0.25)},
          os.path.join(here, "dtypes.safetensors"), metadata={"format": "pt"})


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


torch.save({"a": x, "evil": Evil()}, os.path.join(here, "evil.pth"))
with zipfile.ZipFile(os.path.join(here, "nested.pth")) as source, \
        zipfile.ZipFile(os.path.join(here, "deflated.pth"), "w", zipfile.ZIP_DEFLATED) as target:
    for name in source.namelist():
        target.writestr(name, source.read(name))
with zipfile.ZipFile(os.path.join(here, "nested.pth")) as source, \
        zipfile.ZipFile(os.path.join(here, "zip64.pth"), "w") as target:
    first = next(name for name in source.namelist() if name.endswith("data.pkl"))
    zipfile.ZIP64_LIMIT = len(source.read(first))  # writes ZIP64 fields, as for entries after 4 GiB
    for name in sorted(source.namelist(), key=lambda name: name != first):
        target.writestr(name, source.read(name))

# Tensor names and shapes of the libraries' models, at the sizes of the preset "tiny",
# and of the VAE of "tiny-5B".
with torch.device("meta"):
    parts = [
        WanTransformer3DModel(patch_size=(1, 2, 2), num_attention_heads=4, attention_head_dim=32,
                              in_channels=16, out_channels=16, text_dim=64, freq_dim=64,
                              ffn_dim=256, num_layers=3, cross_attn_norm=True,
                              qk_norm="rms_norm_across_heads", eps=1e-6),
        UMT5EncoderModel(UMT5Config(vocab_size=2048, d_model=64, d_kv=16, d_ff=128, num_layers=2,
                                    num_heads=4, feed_forward_proj="gated-gelu")),
        AutoencoderKLWan(base_dim=16, z_dim=16),
        AutoencoderKLWan(base_dim=16, decoder_base_dim=24, z_dim=48, is_residual=True,
                         in_channels=12, out_channels=12, patch_size=2,
                         temperal_downsample=[False, True, True]),
        CLIPVisionModel(CLIPVisionConfig(hidden_size=160, intermediate_size=320, num_hidden_layers=3,
                                         num_attention_heads=2, image_size=56, patch_size=14, hidden_act="gelu")),
    ]
with open(os.path.join(here, "names_diffusers.txt"), "w") as out:
    for part, model in enumerate(parts):
        for name, tensor in sorted(model.state_dict().items()):
            if part == 4 and not name.startswith("vision_model."):
                name = "vision_model." + name  # in files; newer versions omit it in memory
            if name != "encoder.embed_tokens.weight":  # tied to shared.weight, and not saved
                out.write(" ".join([str(part), name, *map(str, tensor.shape)]) + "\n")
