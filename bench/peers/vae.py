"""Times diffusers' VAEs of Wan2.1 and Wan2.2 and transformers' umT5-xxl encoder with random weights.

    python3 vae.py [--json FILE] [--runs N] [--device cpu] CASE...

A case is text, or decode|encode:SIZE:bf16|fp32[:2.1|2.2[:HOW]], as in decode:480:bf16 and encode:704:bf16:2.2:cl. SIZE
is 480 or 720 (832*480 or 1280*720, 81 frames), 704 (1280*704, 121 frames) or WIDTH*HEIGHT*FRAMES. HOW has the
letters e (eager, the default) or c (the encoder or decoder compiled by torch.compile), l (weights and input
channels last) and b (cuDNN chooses its algorithms by timing them). `2.1-tiny` and `2.2-tiny` are narrow, to try the
script on a CPU. Each timed run comes after one that compiles. Needs torch, diffusers and, for text, transformers."""
import argparse
import json
import os
import statistics
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
import diffusers
import torch
from diffusers import AutoencoderKLWan

SIZES = {"480": (832, 480, 81), "720": (1280, 720, 81), "704": (1280, 704, 121)}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
WAN22 = {"z_dim": 48, "is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2,
         "scale_factor_temporal": 4, "scale_factor_spatial": 16, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48}
CONFIGS = {"2.1": {}, "2.2": {"base_dim": 160, "decoder_base_dim": 256, **WAN22},
           "2.1-tiny": {"base_dim": 16}, "2.2-tiny": {"base_dim": 16, "decoder_base_dim": 32, **WAN22}}

parser = argparse.ArgumentParser()
parser.add_argument("--json")
parser.add_argument("--runs", type=int, default=2)
parser.add_argument("--device", default="cuda")
parser.add_argument("cases", nargs="+")
args = parser.parse_args()
cuda = args.device == "cuda"
torch.manual_seed(0)


def timed(call):
    out = []
    for _ in range(args.runs + 1):
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if cuda:
            torch.cuda.synchronize()
        out.append(time.perf_counter() - start)
    return out[1:]


def text():
    import transformers
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(args.device):
        model = transformers.UMT5EncoderModel(transformers.UMT5Config(
            vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
            feed_forward_proj="gated-gelu", is_encoder_decoder=False)).eval()
    torch.set_default_dtype(torch.float32)
    ids = torch.randint(0, 250000, (1, 512), device=args.device)
    return timed(lambda: model(ids)[0])


def vae(what, size, dtype, version, how):
    width, height, frames = SIZES[size] if size in SIZES else map(int, size.split("*"))
    with torch.device(args.device):
        model = AutoencoderKLWan(**CONFIGS[version]).to(dtype).eval()
    stride = model.config.scale_factor_spatial
    shape = (1, 3, frames, height, width)
    if what == "decode":
        shape = (1, model.config.z_dim, (frames + 3) // 4, height // stride, width // stride)
    x = torch.randn(shape, device=args.device, dtype=dtype)
    if "l" in how:
        x = x.to(memory_format=torch.channels_last_3d)
        for p in model.parameters():
            if p.dim() >= 4:
                p.data = p.data.to(memory_format=torch.channels_last_3d if p.dim() == 5 else torch.channels_last)
    torch.backends.cudnn.benchmark = "b" in how
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 64  # each chunk's cache is another case until the third
    if "c" in how:
        (model.decoder if what == "decode" else model.encoder).compile(dynamic=False)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    if what == "decode":
        return timed(lambda: model.decode(x, return_dict=False)[0])
    return timed(lambda: model.encode(x, return_dict=False)[0].mode())


results = []
with torch.no_grad():
    for case in args.cases:
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        what, size, dtype, version, how = (case.split(":") + ["", "bf16", "2.1", "e"][len(case.split(":")) - 1:])[:5]
        try:
            seconds = text() if what == "text" else vae(what, size, DTYPES[dtype], version, how)
        except Exception as e:
            print(f"{case}: {type(e).__name__}: {str(e)[:300]}", flush=True)
            continue
        peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0
        results.append({"peer": "diffusers " + diffusers.__version__ + ", torch " + torch.__version__,
                        "test": "text" if what == "text" else "vae " + what, "size": size, "vae": version,
                        "how": how, "dtype": dtype, "ranks": 1, "median_s": statistics.median(seconds),
                        "runs_s": seconds, "peak_gib": peak})
        print(f"diffusers {case}: {' '.join('%.3f' % s for s in seconds)} s, {peak:.1f} GiB "
              f"({time.perf_counter() - began:.0f} s in all)", flush=True)
        if args.json:
            with open(args.json, "w") as f:
                json.dump({"results": results}, f, indent=1)
