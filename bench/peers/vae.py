"""Times diffusers' Wan2.1 VAE and transformers' umT5-xxl encoder with random weights.

    python3 vae.py [--json FILE] CASE...

A case is decode:480|720:bf16|fp32, encode:480|720:bf16|fp32 or text. Needs torch, diffusers and transformers."""
import argparse
import json
import os
import statistics
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import diffusers
import torch
import transformers
from diffusers import AutoencoderKLWan

LATENTS = {"480": (1, 16, 21, 60, 104), "720": (1, 16, 21, 90, 160)}
CLIPS = {"480": (1, 3, 81, 480, 832), "720": (1, 3, 81, 720, 1280)}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

parser = argparse.ArgumentParser()
parser.add_argument("--json")
parser.add_argument("--runs", type=int, default=2)
parser.add_argument("cases", nargs="+")
args = parser.parse_args()
torch.manual_seed(0)


def timed(call):
    out = []
    for _ in range(args.runs + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        out.append(time.perf_counter() - start)
    return out[1:]


def text():
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = transformers.UMT5EncoderModel(transformers.UMT5Config(
            vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
            feed_forward_proj="gated-gelu", is_encoder_decoder=False)).eval()
    torch.set_default_dtype(torch.float32)
    ids = torch.randint(0, 250000, (1, 512), device="cuda")
    return timed(lambda: model(ids)[0])


def vae(what, size, dtype):
    model = AutoencoderKLWan().to("cuda", dtype).eval()
    x = torch.randn((LATENTS if what == "decode" else CLIPS)[size], device="cuda", dtype=dtype)
    torch.cuda.reset_peak_memory_stats()
    if what == "decode":
        return timed(lambda: model.decode(x, return_dict=False)[0])
    return timed(lambda: model.encode(x))


results = []
with torch.no_grad():
    for case in args.cases:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        what, size, dtype = case.split(":") if ":" in case else (case, "", "bf16")
        try:
            seconds = text() if what == "text" else vae(what, size, DTYPES[dtype])
        except Exception as e:
            print(f"{case}: {type(e).__name__}: {str(e)[:300]}", flush=True)
            continue
        peak = torch.cuda.max_memory_allocated() / 2**30
        results.append({"peer": "diffusers " + diffusers.__version__ + ", torch " + torch.__version__,
                        "test": "text" if what == "text" else "vae " + what, "size": size,
                        "dtype": dtype, "ranks": 1, "median_s": statistics.median(seconds),
                        "runs_s": seconds, "peak_gib": peak})
        print(f"diffusers {case}: {' '.join('%.3f' % s for s in seconds)} s, {peak:.1f} GiB", flush=True)
        if args.json:
            with open(args.json, "w") as f:
                json.dump({"results": results}, f, indent=1)
