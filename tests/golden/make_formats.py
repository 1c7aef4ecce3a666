"""Writes quantized weight files and the values that the reference packages compute from them, for test_formats.c.

    python make_formats.py      (gguf 0.19, safetensors, torch, comfy-kitchen 0.2.40)

formats.safetensors has one U8 tensor `file.NAME` for each weight file, and a F32 tensor `NAME:TENSOR` for each tensor
in it. The numbers of GGUF's blocks are random bits, so that every bit of every field is used, with finite scales."""
import json
import os
import sys
import tempfile

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from gguf import quants
from safetensors.torch import save, save_file

here = os.path.dirname(os.path.abspath(__file__))
out = {}
torch.manual_seed(5)
rng = np.random.default_rng(5)


def add(name, data, tensors):
    out["file." + name] = torch.frombuffer(bytearray(data), dtype=torch.uint8).clone()
    for key, value in tensors.items():
        out[f"{name}:{key}"] = value.float().contiguous().clone()


def blocks(kind, shape):
    """Random blocks of a tensor of this shape; the f16 scales in them are finite and small."""
    size, width = gguf.GGML_QUANT_SIZES[kind]
    n = shape[0] * shape[1] // size
    data = rng.integers(0, 256, (n, width), dtype=np.uint8)
    halves = {Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0], Q.IQ4_NL: [0], Q.Q2_K: [80, 82],
              Q.Q3_K: [108], Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208], Q.IQ4_XS: [0]}[kind]
    for at in halves:
        scale = rng.normal(0, 0.01, n).astype(np.float16)
        scale[0] = np.float16(6e-8)  # subnormal
        data[:, at:at + 2] = scale.view(np.uint8).reshape(n, 2)
    return data.reshape(shape[0], -1)


def write_gguf(add_all):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.gguf")
        writer = gguf.GGUFWriter(path, "wan")
        add_all(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with open(path, "rb") as f:
            return f.read()


def ggufs():
    kinds = [Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.IQ4_NL, Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K, Q.IQ4_XS]
    data = {kind: blocks(kind, (2, 512)) for kind in kinds}
    plain = torch.randn(3, 5)

    def add_all(writer):
        writer.add_quantization_version(2)
        writer.add_array("tokens", ["a", "bc", ""])
        for kind in kinds:
            writer.add_tensor(kind.name, data[kind], raw_dtype=kind)
        writer.add_tensor("F32", plain.numpy())
        writer.add_tensor("F16", plain.half().numpy())
        writer.add_tensor("BF16", plain.bfloat16().view(torch.uint8).numpy(), raw_dtype=Q.BF16)
        writer.add_tensor("axes", torch.arange(24, dtype=torch.float32).reshape(2, 3, 1, 2, 2).numpy())

    values = {kind.name: torch.from_numpy(quants.dequantize(data[kind], kind)) for kind in kinds}
    values |= {"F32": plain, "F16": plain.half(), "BF16": plain.bfloat16(),
               "axes": torch.arange(24, dtype=torch.float32).reshape(2, 3, 1, 2, 2)}
    add("blocks.gguf", write_gguf(add_all), values)


def fp8(x, dtype, dims):
    limit = torch.finfo(dtype).max
    scale = (x.abs().amax(dims, keepdim=bool(dims)) if dims else x.abs().max()) / limit
    return (x / scale).clamp(-limit, limit).to(dtype), scale


def scaled():
    """ComfyUI, Kijai, LightX2V, quanto and TurboDiffusion; the layer's name says which."""
    w, t, want = torch.randn(6, 64), {}, {}

    def layer(name, q, scale, key=".scale_weight", weight=".weight"):
        t[name + weight], t[name + key] = q, scale
        want[name + ".weight"] = q.float() * scale.float()

    e4, s4 = fp8(w, torch.float8_e4m3fn, None)
    e5, s5 = fp8(w, torch.float8_e5m2, None)
    layer("comfy", e4, s4)
    t["comfy.scale_input"], t["comfy.bias"] = torch.tensor(1.0), torch.randn(6).half()
    layer("kijai", e5, s5.reshape(1))
    t["plain.weight"], t["other.weight"] = e4, e5
    want |= {"comfy.bias": t["comfy.bias"], "plain.weight": e4, "other.weight": e5}
    t["scaled_fp8"] = torch.zeros(0, dtype=torch.float8_e4m3fn)
    layer("vector", *fp8(torch.randn(300), torch.float8_e4m3fn, None))
    q, s = fp8(w, torch.float8_e4m3fn, 1)
    layer("rows", q, s, ".weight_scale")
    layer("rows_bf16", q, s.bfloat16(), ".weight_scale")
    t["rows_flat.weight"], t["rows_flat.weight_scale"] = q, s.flatten()
    want["rows_flat.weight"] = q.float() * s
    layer("wide", w.bfloat16(), torch.tensor(0.3))
    groups = torch.rand(6, 4, 1) + 0.1
    t["groups.weight"], t["groups.scale_weight"] = e4, groups
    want["groups.weight"] = (e4.float().reshape(6, 4, 16) * groups).reshape(6, 64)
    s = w.abs().amax(1, keepdim=True).clamp(min=1e-5) / 127
    q = (w / s).round().clamp(-128, 127).to(torch.int8)
    layer("int8", q, s, ".weight_scale")
    layer("int8_tensor", q, torch.tensor(0.01), ".weight_scale")
    layer("quanto", q, s, ".weight._scale", ".weight._data")
    t["quanto.input_scale"], t["quanto.output_scale"] = torch.ones(1), torch.ones(1)
    for name, shape in {"turbo": (131, 3), "turbo_wide": (3, 131)}.items():
        q, grid = torch.randint(-128, 128, shape, dtype=torch.int8), torch.rand(-(-shape[0] // 128), -(-shape[1] // 128))
        t[name + ".int8_weight"], t[name + ".scale"] = q, grid
        grid = grid.repeat_interleave(128, 0).repeat_interleave(128, 1)
        want[name + ".weight"] = q.float() * grid[:shape[0], :shape[1]]
    add("scaled.safetensors", save({k: v.clone() for k, v in t.items()}), want)


def comfy():
    """Comfy quant format 1, quantized and dequantized by comfy-kitchen."""
    from comfy_kitchen.backends.eager import quantization as ck

    w, t, want = torch.randn(8, 32), {}, {}

    def note(text):
        return torch.frombuffer(bytearray(json.dumps(text).encode()), dtype=torch.uint8).clone()

    scale = w.abs().max() / 448
    t |= {"fp8.weight": ck.quantize_per_tensor_fp8(w, scale), "fp8.weight_scale": scale,
          "fp8.input_scale": torch.tensor(1.0), "fp8.comfy_quant": note({"format": "float8_e4m3fn"})}
    want["fp8.weight"] = ck.dequantize_per_tensor_fp8(t["fp8.weight"], scale, torch.float32)
    q, scale = ck.quantize_int8_rowwise(w)
    t |= {"int8.weight": q, "int8.weight_scale": scale, "int8.comfy_quant": note({"format": "int8_tensorwise"})}
    want["int8.weight"] = ck.dequantize_int8_simple(q, scale)
    for name, shape in {"": (160, 32), "_wide": (32, 160)}.items():  # more than one tile of 128 x 4 scales
        w = torch.randn(shape)
        q, scale = ck.quantize_mxfp8(w, True)
        t |= {f"mx{name}.weight": q, f"mx{name}.weight_scale": scale.view(torch.uint8),
              f"mx{name}.comfy_quant": note({"format": "mxfp8"})}
        want[f"mx{name}.weight"] = ck.dequantize_mxfp8(q, scale, torch.float32)
        scale = w.abs().max() / (448 * 6)
        q, small = ck.quantize_nvfp4(w, scale, pad_16x=True)
        t |= {f"nv{name}.weight": q, f"nv{name}.weight_scale": small, f"nv{name}.weight_scale_2": scale}
        want[f"nv{name}.weight"] = ck.dequantize_nvfp4(q, scale, small, torch.float32)
    metadata = json.dumps({"format_version": "1.0", "layers": {"int8": {"format": "int8_tensorwise"}, "nv": "nvfp4"}})
    add("comfy.safetensors", save({k: v.clone() for k, v in t.items()}, {"_quantization_metadata": metadata}), want)


def pickles():
    w = torch.randn(4, 6)
    q, s = fp8(w, torch.float8_e4m3fn, 1)
    q8 = (w * 20).to(torch.int8)
    nested = {"step": 7, "model": {"module.fp8.weight": q, "module.fp8.weight_scale": s, "module.int8.weight": q8,
                                   "module.int8.weight_scale": s.bfloat16(), "module.e5.weight": w.to(torch.float8_e5m2)},
              "optimizer": {"state": {0: {"exp_avg": w}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.pth")
        torch.save(nested, path)
        with open(path, "rb") as f:
            add("nested.pth", f.read(), {"model.module.fp8.weight": q.float() * s,
                                         "model.module.int8.weight": q8.float() * s.bfloat16().float(),
                                         "model.module.e5.weight": w.to(torch.float8_e5m2)})


if __name__ == "__main__":
    ggufs()
    scaled()
    comfy()
    pickles()
    save_file(out, os.path.join(here, "formats.safetensors"))
