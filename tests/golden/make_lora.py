"""Records adapters in each dialect and what their reference makes of a small model: the folder lora/.

Usage: python make_lora.py OUT_FOLDER        (needs torch, diffusers, peft, accelerate, lycoris-lora, toml)
Writes the model (config.json, diffusion_pytorch_model.safetensors, official names, f32), NAME.safetensors for each adapter,
and expected.safetensors with "CASE/TENSOR" f32 for each tensor that the adapters of a case change.
References: PEFT (merge_and_unload), diffusers (load_lora_adapter, fuse_lora), LyCORIS (the modules' output); ComfyUI's and
LightX2V's formulas are transcribed, in f64."""
import json
import os
import sys

import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.locon import LoConModule

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
torch.manual_seed(5)
DIM, FFN = 24, 32
RENAMES = [("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
           ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
           ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
           ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
           ("condition_embedder.time_proj", "time_projection.1"), ("attn1.to_q", "self_attn.q"),
           ("attn1.to_k", "self_attn.k"), ("attn1.to_v", "self_attn.v"), ("attn1.to_out.0", "self_attn.o"),
           ("attn1.norm_", "self_attn.norm_"), ("attn2.to_q", "cross_attn.q"), ("attn2.to_k", "cross_attn.k"),
           ("attn2.to_v", "cross_attn.v"), ("attn2.to_out.0", "cross_attn.o"), ("attn2.norm_", "cross_attn.norm_"),
           ("norm2", "norm3"), ("ffn.net.0.proj", "ffn.0"), ("ffn.net.2", "ffn.2"), ("proj_out", "head.head")]


def official(name):
    for other, ours in RENAMES:
        name = name.replace(other, ours)
    if name == "scale_shift_table":
        return "head.modulation"
    return name.replace("scale_shift_table", "modulation")


def model():
    m = WanTransformer3DModel(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=DIM // 2, in_channels=4,
                              out_channels=4, text_dim=8, freq_dim=8, ffn_dim=FFN, num_layers=2, cross_attn_norm=True,
                              qk_norm="rms_norm_across_heads", rope_max_seq_len=16)
    m.load_state_dict(start)
    return m.requires_grad_(False)


def rnd(*shape, scale=0.1):
    return torch.randn(*shape) * scale


start = None
first = WanTransformer3DModel(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=DIM // 2, in_channels=4,
                              out_channels=4, text_dim=8, freq_dim=8, ffn_dim=FFN, num_layers=2, cross_attn_norm=True,
                              qk_norm="rms_norm_across_heads", rope_max_seq_len=16)
start = {n: rnd(*p.shape, scale=0.3) for n, p in first.state_dict().items()}
base = {official(n): v.contiguous() for n, v in start.items()}
save_file(base, f"{out}/diffusion_pytorch_model.safetensors")
json.dump({"_class_name": "WanModel", "dim": DIM, "ffn_dim": FFN, "freq_dim": 8, "in_dim": 4, "num_heads": 2,
           "num_layers": 2, "out_dim": 4, "text_dim": 8, "text_len": 512, "model_type": "t2v", "eps": 1e-6},
          open(f"{out}/config.json", "w"), indent=1)
expected = {}


def record(case, tensors, wanted, metadata=None):
    """tensors: of the adapter's file, None if the case has no file of its own; wanted: official name -> merged."""
    if tensors is not None:
        save_file({n: v.contiguous() for n, v in tensors.items()}, f"{out}/{case}.safetensors", metadata=metadata)
    for name, value in wanted.items():
        assert value.shape == base[name].shape, (case, name)
        expected[f"{case}/{name}"] = value.float().contiguous()


def add(name, change, strength=1.0, before=None):
    w = (base[name] if before is None else before).double()
    return w + strength * change.double().reshape(w.shape)


# ---- ComfyUI and LightX2V: factors with and without alpha, and full differences ----
def pair(name, rank):
    w = base[name + ".weight"]
    return rnd(w.shape[0], rank), rnd(rank, *w.shape[1:])


def product(up, down, c=1.0):
    return c * up.double().flatten(1) @ down.double().flatten(1)


up, down = pair("blocks.0.self_attn.q", 4)
up2, down2 = pair("blocks.1.ffn.2", 4)
up3, down3 = pair("patch_embedding", 3)
diffs = {"blocks.0.diff_m": ("blocks.0.modulation", 1), "blocks.1.norm3.diff": ("blocks.1.norm3.weight", 1),
         "blocks.1.norm3.diff_b": ("blocks.1.norm3.bias", 1), "head.head.diff": ("head.head.weight", 1),
         "head.head.diff_b": ("head.head.bias", 1), "head.diff_m": ("head.modulation", 1),
         "time_projection.1.diff_b": ("time_projection.1.bias", 1),
         "blocks.0.self_attn.norm_q.diff": ("blocks.0.self_attn.norm_q.weight", 1)}
file, want = {}, {}
for key, (name, _) in diffs.items():
    file["diffusion_model." + key] = rnd(*base[name].shape)
    want[name] = add(name, file["diffusion_model." + key])
for name, a, b, alpha in (("blocks.0.self_attn.q", up, down, None), ("blocks.1.ffn.2", up2, down2, 2.0),
                          ("patch_embedding", up3, down3, 6.0)):
    file[f"diffusion_model.{name}.lora_up.weight"] = a.reshape(*a.shape, *[1] * (b.dim() - 2))
    file[f"diffusion_model.{name}.lora_down.weight"] = b
    if alpha is not None:
        file[f"diffusion_model.{name}.alpha"] = torch.tensor(alpha)
    want[name + ".weight"] = add(name + ".weight", product(a, b, 1 if alpha is None else alpha / b.shape[0]))
record("comfy", file, want)
comfy = (file, want)

# ---- kohya and musubi, VideoX-Fun: underscores, bf16 factors ----
for case, prefix in ("kohya", "lora_unet_"), ("videox", "lora_unet__"):
    file, want = {}, {}
    for name, alpha in ("blocks.0.cross_attn.k", 2.0), ("blocks.1.ffn.0", 4.0):
        a, b = (t.bfloat16() for t in pair(name, 4))
        key = prefix + name.replace(".", "_")
        file |= {key + ".lora_up.weight": a, key + ".lora_down.weight": b, key + ".alpha": torch.tensor(alpha)}
        want[name + ".weight"] = add(name + ".weight", product(a, b, alpha / 4))
    record(case, file, want)

# ---- DiffSynth and ai-toolkit: no alpha ----
for case, key in ("diffsynth", "{}.lora_{}.default.weight"), ("aitoolkit", "diffusion_model.{}.lora_{}.weight"), \
                 ("generic_a", "{}.lora_{}"), ("unianimate", "pipe.dit.{}.lora_{}.default.weight"):
    a, b = pair("blocks.1.self_attn.o", 2)
    record(case, {key.format("blocks.1.self_attn.o", "B"): a, key.format("blocks.1.self_attn.o", "A"): b},
           {"blocks.1.self_attn.o.weight": add("blocks.1.self_attn.o.weight", product(a, b))})
for case, upper, lower in ("generic_linear", ".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"), \
                          ("generic_dot", ".lora.up.weight", ".lora.down.weight"), \
                          ("generic_flat", "_lora.up.weight", "_lora.down.weight"):
    a, b = pair("blocks.0.cross_attn.q", 2)
    record(case, {"blocks.0.attn2.to_q" + upper: a, "blocks.0.attn2.to_q" + lower: b},
           {"blocks.0.cross_attn.q.weight": add("blocks.0.cross_attn.q.weight", product(a, b))})


# ---- PEFT and diffusers ----
def peft_case(case, prefix, metadata, **settings):
    m = model()
    config = LoraConfig(init_lora_weights=False, target_modules=["blocks.0.attn1.to_q", "blocks.1.ffn.net.0.proj"],
                        **settings)
    p = get_peft_model(m, config)
    for n, v in p.named_parameters():
        if "lora_" in n:
            v.data = rnd(*v.shape) + (1 if "magnitude" in n else 0)
    file = {n.replace("base_model.model.", prefix): v.clone() for n, v in get_peft_model_state_dict(p).items()}
    merged = {official(n): v for n, v in p.merge_and_unload().state_dict().items()}
    record(case, file, {n: merged[n] for n in base if not torch.equal(merged[n], base[n])}, metadata)


def header(config):
    return {"format": "pt", "lora_adapter_metadata": json.dumps({"transformer." + k: v for k, v in config.items()})}


peft_case("peft", "base_model.model.", header({"r": 4, "lora_alpha": 2}), r=4, lora_alpha=2)
peft_case("diffusers", "transformer.",
          header({"r": 4, "lora_alpha": 6, "alpha_pattern": {"to_q": 3}, "rank_pattern": {"to_q": 2},
                  "use_rslora": False}), r=4, lora_alpha=6, rank_pattern={"to_q": 2}, alpha_pattern={"to_q": 3})
peft_case("rslora", "transformer.", header({"r": 4, "lora_alpha": 4, "use_rslora": True}), r=4, lora_alpha=4,
          use_rslora=True)
peft_case("peft_dora", "base_model.model.", None, r=4, lora_alpha=4, use_dora=True)
peft_case("peft_bias", "", None, r=4, lora_alpha=4, lora_bias=True)

# diffusers' loader reads what the row "peft" of our table reads
a, b = pair("blocks.0.self_attn.v", 4)
file = {"transformer.blocks.0.attn1.to_v.lora_B.weight": a, "transformer.blocks.0.attn1.to_v.lora_A.weight": b}
m = model()
m.load_lora_adapter(dict(file), prefix="transformer",
                    metadata={"transformer.r": 4, "transformer.lora_alpha": 8,
                              "transformer.target_modules": ["blocks.0.attn1.to_v"]})
m.fuse_lora(lora_scale=0.5)
m.unload_lora()
merged = {official(n.replace("base_layer.", "")): p for n, p in m.state_dict().items()}
record("loader", file, {"blocks.0.self_attn.v.weight": merged["blocks.0.self_attn.v.weight"]},
       header({"r": 4, "lora_alpha": 8}))


# ---- LyCORIS ----
def lycoris_case(case, key, kind, name, **settings):
    w = base[name + ".weight"]
    module = torch.nn.Linear(w.shape[1], w.shape[0]) if w.dim() == 2 else \
        torch.nn.Conv3d(w.shape[1], w.shape[0], w.shape[2:], stride=w.shape[2:])
    module.weight.data = w.clone()
    l = kind("x", module, **settings)
    l.eval()
    for n, p in l.named_parameters():
        if n.startswith("org_module"):
            continue
        p.data = rnd(*p.shape, scale=0.3) + (1 if n == "dora_scale" else 0)
    state = {n: v.clone().float() for n, v in l.custom_state_dict().items()} if hasattr(l, "custom_state_dict") else \
        {n: v for n, v in l.state_dict().items() if not n.startswith("org_module")}
    # What the module computes, not get_merged_weight: that of 4.1.3 multiplies LoHa and LoKr by alpha / rank twice.
    basis = torch.eye(w[0].numel()).reshape(-1, *w.shape[1:])
    with torch.no_grad():
        module.bias.zero_()
        merged = l(basis).reshape(len(basis), -1).T
    record(case, {f"{key}.{n}": v for n, v in state.items()}, {name + ".weight": merged.reshape(w.shape)})


lycoris_case("loha", "lycoris_blocks_0_ffn_0", LohaModule, "blocks.0.ffn.0", lora_dim=3, alpha=2)
lycoris_case("loha_tucker", "patch_embedding", LohaModule, "patch_embedding", lora_dim=3, alpha=2, use_tucker=True)
lycoris_case("lokr", "lycoris_blocks_0_attn1_to_q", LokrModule, "blocks.0.self_attn.q", lora_dim=2, alpha=1, factor=4)
lycoris_case("lokr_full", "diffusion_model.blocks.0.ffn.2", LokrModule, "blocks.0.ffn.2", lora_dim=100, alpha=1,
             factor=4, full_matrix=True)
lycoris_case("lokr_both", "lycoris_blocks_0_ffn_0", LokrModule, "blocks.0.ffn.0", lora_dim=1, alpha=2, factor=4,
             decompose_both=True)
lycoris_case("lokr_tucker", "diffusion_model.patch_embedding", LokrModule, "patch_embedding", lora_dim=2, alpha=2,
             factor=2, use_tucker=True)
lycoris_case("locon_tucker", "lycoris_patch_embedding", LoConModule, "patch_embedding", lora_dim=3, alpha=2,
             use_tucker=True)
lycoris_case("dora_columns", "lycoris_blocks_1_self_attn_k", LoConModule, "blocks.1.self_attn.k", lora_dim=3, alpha=3,
             weight_decompose=True, wd_on_out=False)
record("norms", file := {"lycoris_blocks_0_norm3.w_norm": rnd(DIM), "lycoris_blocks_0_norm3.b_norm": rnd(DIM)},
       {"blocks.0.norm3.weight": add("blocks.0.norm3.weight", file["lycoris_blocks_0_norm3.w_norm"]),
        "blocks.0.norm3.bias": add("blocks.0.norm3.bias", file["lycoris_blocks_0_norm3.b_norm"])})

# ---- DoRA and set_weight of ComfyUI ----
name = "blocks.1.cross_attn.v"
a, b = pair(name, 3)
scale = rnd(DIM, 1) + 1
w = base[name + ".weight"].double()
changed = (w + product(a, b, 2 / 3)) * (scale.double() / (w.norm(dim=1, keepdim=True) + torch.finfo(torch.float32).eps))
file = {f"diffusion_model.{name}.lora_up.weight": a, f"diffusion_model.{name}.lora_down.weight": b,
        f"diffusion_model.{name}.alpha": torch.tensor(2.0), f"diffusion_model.{name}.dora_scale": scale}
record("dora_rows", file, {name + ".weight": changed})
record("dora_half", None, {name + ".weight": w + 0.5 * (changed - w)})
file = {"diffusion_model.blocks.0.norm3.set_weight": rnd(DIM)}
record("set", file, {"blocks.0.norm3.weight": file["diffusion_model.blocks.0.norm3.set_weight"]})

# ---- several: comfy at 0.5, then another on the same tensor at -2; before a DoRA ----
a, b = pair("blocks.0.self_attn.q", 2)
second = {"blocks.0.self_attn.q.lora_B.weight": a, "blocks.0.self_attn.q.lora_A.weight": b}
half = {n: base[n].double() + 0.5 * (v - base[n].double()) for n, v in comfy[1].items()}
record("stacked", second, half | {"blocks.0.self_attn.q.weight":
                                  half["blocks.0.self_attn.q.weight"] - 2 * product(a, b)})
a, b = pair(name, 2)
before = w + 0.7 * product(a, b)
rows = load_file(f"{out}/dora_rows.safetensors")
again = (before + product(rows[f"diffusion_model.{name}.lora_up.weight"], rows[f"diffusion_model.{name}.lora_down.weight"],
                          2 / 3)) * (scale.double() / (before.norm(dim=1, keepdim=True) + torch.finfo(torch.float32).eps))
record("stacked_dora", {f"{name}.lora_B.weight": a, f"{name}.lora_A.weight": b}, {name + ".weight": again})

save_file(expected, f"{out}/expected.safetensors")
print(len({n.split("/")[0] for n in expected}), "cases,", len(expected), "tensors")
