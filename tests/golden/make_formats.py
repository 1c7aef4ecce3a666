"""Writes quantized weight files and the values that the reference packages compute from them, for test_formats.c.

    python make_formats.py      (gguf 0.19, safetensors, torch, comfy-kitchen 0.2.40)

formats.safetensors has one U8 tensor `file.NAME` for each weight file, and `NAME:TENSOR`, the MD5 of its values as F32,
for each tensor in it. The numbers of GGUF's blocks are random bits, so that every bit of every field is used, with
finite scales. The files dit_* are transformers, for whole runs; `spiece` is the model whose tokens are in
tokenizer.gguf."""
import hashlib
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
        digest = hashlib.md5(value.float().contiguous().numpy().tobytes()).digest()
        out[f"{name}:{key}"] = torch.frombuffer(bytearray(digest), dtype=torch.uint8).clone()


def blocks(kind, shape, std=0.01):
    """Random blocks of a tensor of this shape; the f16 scales in them are finite and small."""
    size, width = gguf.GGML_QUANT_SIZES[kind]
    n = shape[0] * shape[1] // size
    data = rng.integers(0, 256, (n, width), dtype=np.uint8)
    halves = {Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0], Q.IQ4_NL: [0], Q.Q2_K: [80, 82],
              Q.Q3_K: [108], Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208], Q.IQ4_XS: [0]}[kind]
    for at in halves:
        scale = rng.normal(0, std, n).astype(np.float16)
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


E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def from_e2m1(packed):
    """Two numbers in a byte, the low half first, as LightX2V."""
    pair = torch.stack([packed & 15, packed >> 4], -1).reshape(packed.shape[0], -1).long()
    return torch.where(pair & 8 == 0, E2M1[pair & 7], -E2M1[pair & 7])


def tiled_scales(rows, groups, bits, dtype):
    """Random scales in tiles of 128 x 4, and those of the rows and groups."""
    wide = -(-groups // 4) * 4
    stored = torch.randint(bits[0], bits[1], (-(-rows // 128) * 128, wide), dtype=torch.uint8).view(dtype)
    tiles = stored.float().reshape(-1, wide // 4, 32, 4, 4).permute(0, 3, 2, 1, 4)
    return stored, tiles.reshape(-1, wide)[:rows, :groups]


def grouped(q, scales):
    return (q.reshape(*scales.shape, -1) * scales.unsqueeze(-1)).reshape(q.shape)


def lightx2v_layer(kind, name, rows, columns, e8m0=(100, 140), whole=2688 / 0.37):
    """Random numbers in nvfp4, mxfp4 or mxfp8 of LightX2V, and the values, as lightx2v_kernel/test/nvfp4_nvfp4/
    test_bench1.py has them. "alpha": without the factor of the weight's scales."""
    packed = torch.randint(0, 0x7f if kind == "mxfp8" else 0x100, (rows, columns // (1 if kind == "mxfp8" else 2)),
                           dtype=torch.uint8)
    numbers = packed.view(torch.float8_e4m3fn).float() if kind == "mxfp8" else from_e2m1(packed)
    if kind.startswith("mx"):
        stored, scales = tiled_scales(rows, columns // 32, e8m0, torch.float8_e8m0fnu)
        return {f"{name}.weight": packed, f"{name}.weight_scale": stored}, grouped(numbers, scales)
    stored, scales = tiled_scales(rows, columns // 16, (1, 0x7f), torch.float8_e4m3fn)
    t, whole = {f"{name}.weight": packed, f"{name}.weight_scale": stored}, torch.tensor(whole)
    if kind == "alpha":
        t[name + ".input_global_scale"] = torch.tensor(2688 / 5.1)
        t[name + ".alpha"] = 1 / (t[name + ".input_global_scale"] * whole)
        return t, grouped(numbers, scales * (t[name + ".input_global_scale"] * t[name + ".alpha"]))
    t |= {f"{name}.weight_global_scale": whole, f"{name}.input_absmax": torch.tensor(5.1)}
    return t, grouped(numbers, scales / whole)


def lightx2v():
    t, want = {}, {}
    for kind, name, rows, columns in [("nvfp4", "nv", 130, 48), ("nvfp4", "nv_wide", 3, 224), ("alpha", "nv_alpha", 3, 32),
                                      ("mxfp4", "mx4", 129, 160), ("mxfp8", "mx8", 3, 160)]:
        tensors, want[name + ".weight"] = lightx2v_layer(kind, name, rows, columns)
        t |= tensors
    add("lightx2v.safetensors", save({k: v.clone() for k, v in t.items()}), want)


def convrot_layer(format, name, w, size):
    """A rotated layer of Comfy, quantized by comfy-kitchen. Its product with the Hadamard matrix is in f32, in an order that
    depends on the machine; here it is in f64, and must be as near as the order of f32 allows."""
    from comfy_kitchen.backends.eager import convrot_w4a4, quantization as ck

    if format == "convrot_w4a4":
        q, scale = convrot_w4a4.quantize_convrot_w4a4_weight(w, size)
        reference = convrot_w4a4.dequantize_convrot_w4a4_weight(q, scale, size)
        flat = convrot_w4a4._unpack_int4_row_major(q).float() * scale.reshape(-1, 1)
    else:
        q, scale = ck.quantize_int8_convrot_weight(w, size)
        reference = ck.dequantize_int8_convrot_weight(q, scale, size)
        flat = ck.dequantize_int8_simple(q, scale)
    note = {"format": format, "convrot": True} | ({} if size == 256 else {"convrot_groupsize": size})
    exact = ck._rotate_weight(flat.double(), ck._build_hadamard(size, dtype=torch.float64), size)
    assert (reference - exact).abs().max() <= 2e-6 * exact.abs().max(), name
    return {f"{name}.weight": q, f"{name}.weight_scale": scale, f"{name}.comfy_quant":
            torch.frombuffer(bytearray(json.dumps(note).encode()), dtype=torch.uint8).clone()}, exact.float()


def convrot():
    t, want = {}, {}
    for name, format, shape, size in [("int8", "int8_tensorwise", (5, 512), 256), ("small", "int8_tensorwise", (3, 48), 16),
                                      ("int4", "convrot_w4a4", (3, 512), 256), ("int4_64", "convrot_w4a4", (5, 128), 64)]:
        tensors, want[name + ".weight"] = convrot_layer(format, name, torch.randn(shape), size)
        t |= tensors
    add("convrot.safetensors", save({k: v.clone() for k, v in t.items()}), want)


def dit_bits():
    """A transformer whose matrices are in these formats."""
    t, f, want = dit_values(dit_shapes(32, 128, 1)), {}, {}
    for name, value in t.items():
        layer = name.removesuffix(".weight")
        if not name.startswith("blocks") or len(value.shape) != 2:
            want[name] = f[name] = value.bfloat16()
            continue
        if ".cross_attn." in name:
            tensors, want[name] = convrot_layer("int8_tensorwise", layer, value, 16)
        else:
            kind = "nvfp4" if ".self_attn." in name else "mxfp4" if ".ffn.0" in name else "mxfp8"
            exponents = (115, 124) if kind == "mxfp4" else (110, 117)
            tensors, want[name] = lightx2v_layer(kind, layer, *value.shape, exponents, 1e4)
        f |= tensors
    add("dit_bits.safetensors", save({k: v.clone() for k, v in f.items()}), want)


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


def dit_shapes(dim, ffn, layers, text=64, freq=64, channels=16):
    """Names and shapes of a transformer's tensors."""
    def linear(name, n, m):
        return {name + ".weight": (n, m), name + ".bias": (n,)}

    shapes = {"patch_embedding.weight": (dim, channels, 1, 2, 2), "patch_embedding.bias": (dim,)}
    shapes |= linear("text_embedding.0", dim, text) | linear("text_embedding.2", dim, dim)
    shapes |= linear("time_embedding.0", dim, freq) | linear("time_embedding.2", dim, dim)
    shapes |= linear("time_projection.1", 6 * dim, dim) | linear("head.head", 4 * channels, dim)
    shapes["head.modulation"] = (1, 2, dim)
    for i in range(layers):
        block = f"blocks.{i}."
        for attn in ["self_attn.", "cross_attn."]:
            for x in "qkvo":
                shapes |= linear(block + attn + x, dim, dim)
            shapes |= {block + attn + "norm_q.weight": (dim,), block + attn + "norm_k.weight": (dim,)}
        shapes |= linear(block + "norm3", dim, dim) | {block + "norm3.weight": (dim,), block + "modulation": (1, 6, dim)}
        shapes |= linear(block + "ffn.0", ffn, dim) | linear(block + "ffn.2", dim, ffn)
    return shapes


def dit_values(shapes):
    return {name: 1 + 0.1 * torch.randn(shape) if "norm" in name and "weight" in name
            else torch.randn(shape) * (0.1 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5)
            for name, shape in shapes.items()}


def dits():
    """The same transformers as users have them: a GGUF file of mixed types, and scaled fp8 and int8."""
    shapes = dit_shapes(32, 256, 2)
    t = dit_values(shapes)
    kinds = {"self_attn": [Q.Q8_0, Q.Q5_0], "cross_attn": [Q.Q4_0, Q.IQ4_NL], "ffn.0": [Q.Q4_1, Q.Q5_1],
             "ffn.2": [Q.Q4_K, Q.Q6_K]}
    want = {}

    def add_all(writer):
        writer.add_quantization_version(2)
        writer.add_file_type(15)
        for name, value in t.items():
            kind = [k[int(name.split(".")[1])] for part, k in kinds.items() if f".{part}." in name]
            if len(value.shape) != 2 or not kind:  # as ComfyUI-GGUF: 1-D and small tensors F32, others BF16
                if value.numel() <= 1024 or len(value.shape) == 5:
                    writer.add_tensor(name, value.numpy())
                    want[name] = value
                else:
                    writer.add_tensor(name, value.bfloat16().view(torch.uint8).numpy(), raw_dtype=Q.BF16)
                    want[name] = value.bfloat16()
                continue
            large = kind[0] in (Q.Q4_K, Q.Q6_K, Q.IQ4_NL)  # which the package only decodes
            data = blocks(kind[0], value.shape, 2e-4) if large else quants.quantize(value.numpy(), kind[0])
            writer.add_tensor(name, data, raw_dtype=kind[0])
            want[name] = torch.from_numpy(quants.dequantize(data, kind[0]))

    add("dit_mixed.gguf", write_gguf(add_all), want)
    shapes = dit_shapes(16, 64, 1)
    t, f, want = dit_values(shapes), {}, {}
    for name, value in t.items():  # Comfy-Org: every Linear
        if name.endswith("weight") and len(value.shape) == 2:
            f[name], scale = fp8(value, torch.float8_e4m3fn, None)
            f[name.replace("weight", "scale_weight")], f[name.replace("weight", "scale_input")] = scale, torch.tensor(1.0)
            want[name] = f[name].float() * scale
        else:
            want[name] = f[name] = value.half()
    f["scaled_fp8"] = torch.zeros(0, dtype=torch.float8_e4m3fn)
    add("dit_comfy.safetensors", save(f), want)
    f, want = {}, {}
    for name, value in t.items():  # LightX2V: matrices of the blocks, one scale for each row
        if name.startswith("blocks") and len(value.shape) == 2:
            scale = value.abs().amax(1, keepdim=True) / 127
            if ".cross_attn." in name:
                f[name], scale = fp8(value, torch.float8_e4m3fn, 1)
            else:
                f[name] = (value / scale).round().clamp(-128, 127).to(torch.int8)
            f[name + "_scale"] = scale
            want[name] = f[name].float() * scale
        else:
            want[name] = f[name] = value.bfloat16()
    add("dit_lightx2v.safetensors", save({k: v.clone() for k, v in f.items()}), want)


def tokenizer():
    """A small SentencePiece model with normalization, and its tokens in GGUF as llama.cpp converts them."""
    import sentencepiece

    with tempfile.TemporaryDirectory() as folder:
        text, rules = os.path.join(folder, "text"), os.path.join(folder, "rules.tsv")
        with open(text, "w") as f:
            f.write("two cats boxing in the ring\nthe \u732b sat on a mat\n\u00e9t\u00e9 \u00fcber\n" * 20)
        with open(rules, "w") as f:
            f.write("FF21\t41\n1D55C\t6B\n65 301\tE9\n2460\t31\n")
        sentencepiece.SentencePieceTrainer.Train(
            f"--input={text} --model_prefix={folder}/m --vocab_size=70 --hard_vocab_limit=false --pad_id=0 --eos_id=1"
            f" --bos_id=-1 --unk_id=2 --minloglevel=2 --num_threads=1 --normalization_rule_tsv={rules}")
        with open(os.path.join(folder, "m.model"), "rb") as f:
            model = f.read()
    out["spiece"] = torch.frombuffer(bytearray(model), dtype=torch.uint8).clone()
    sp = sentencepiece.SentencePieceProcessor(model_proto=model)
    n = sp.get_piece_size()
    # as sentencepiece_model.proto numbers them: 1 normal, 2 unknown, 3 control
    types = [2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 1 for i in range(n)] + [5] * 4
    from sentencepiece import sentencepiece_model_pb2 as pb
    proto = pb.ModelProto()
    proto.ParseFromString(model)

    def add_all(writer):
        writer.add_tokenizer_model("t5")
        writer.add_tokenizer_pre("default")
        writer.add_token_list([sp.id_to_piece(i) for i in range(n)] + [f"[PAD{i}]" for i in range(n, n + 4)])
        writer.add_token_scores([sp.get_score(i) for i in range(n)] + [-10000.0] * 4)
        writer.add_token_types(types)
        writer.add_add_space_prefix(proto.normalizer_spec.add_dummy_prefix)
        writer.add_remove_extra_whitespaces(proto.normalizer_spec.remove_extra_whitespaces)
        writer.add_precompiled_charsmap(proto.normalizer_spec.precompiled_charsmap)
        writer.add_tensor("none", np.zeros(1, dtype=np.float32))

    add("tokenizer.gguf", write_gguf(add_all), {"none": torch.zeros(1)})


if __name__ == "__main__":
    ggufs()
    scaled()
    comfy()
    pickles()
    dits()
    tokenizer()
    lightx2v()
    convrot()
    dit_bits()
    save_file(out, os.path.join(here, "formats.safetensors"))
