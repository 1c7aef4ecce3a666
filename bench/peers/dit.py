"""Times one forward of diffusers' Wan transformer with random weights, one CFG branch.

    python3 dit.py [--json FILE] CASE...
    torchrun --nproc_per_node=2 dit.py --parallel ulysses|ring [--json FILE] CASE...

A case is MODEL:480|720:c|e[:ATTENTION], compiled or eager: 14B:720:c, 1.3B:480:e:_flash_3. 81 frames,
batch 1, bf16. Needs torch and diffusers."""
import argparse
import json
import os
import statistics
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
import diffusers
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

SHAPES = {"14B": (40, 13824, 40), "1.3B": (12, 8960, 30)}  # heads, ffn, layers
LATENTS = {"480": (1, 16, 21, 60, 104), "720": (1, 16, 21, 90, 160)}

parser = argparse.ArgumentParser()
parser.add_argument("--parallel", choices=("ulysses", "ring"))
parser.add_argument("--json")
parser.add_argument("--runs", type=int, default=2)
parser.add_argument("cases", nargs="+")
args = parser.parse_args()
rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
dev = torch.device("cuda", rank)
torch.cuda.set_device(dev)
if world > 1:
    torch.distributed.init_process_group("nccl", device_id=dev)


def build(name):
    heads, ffn, layers = SHAPES[name]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=heads, attention_head_dim=128, in_channels=16,
            out_channels=16, text_dim=4096, freq_dim=256, ffn_dim=ffn, num_layers=layers,
            cross_attn_norm=True, qk_norm="rms_norm_across_heads")
    model = model.to_empty(device=dev)
    torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.dim() < 2 and "norm" in key and key.endswith("weight"):
                p.fill_(1)
            else:
                p.normal_(0, 0.02)
    model.rope = WanRotaryPosEmbed(128, (1, 2, 2), 1024).to(dev)  # its tables are f32
    model.eval()
    if args.parallel:
        from diffusers import ContextParallelConfig
        model.set_attention_backend("_native_cudnn")
        model.enable_parallelism(config=ContextParallelConfig(**{args.parallel + "_degree": world}))
    return model


def forwards(model, size, warm):
    g = torch.Generator(device=dev).manual_seed(1)
    x = torch.randn(LATENTS[size], device=dev, dtype=torch.bfloat16, generator=g)
    text = torch.randn(1, 512, 4096, device=dev, dtype=torch.bfloat16, generator=g)
    t = torch.tensor([500], device=dev)
    out = []
    with torch.no_grad():
        for _ in range(warm + args.runs):
            torch.cuda.synchronize()
            if world > 1:
                torch.distributed.barrier()
            start = time.perf_counter()
            model(x, t, text, return_dict=False)
            torch.cuda.synchronize()
            out.append(time.perf_counter() - start)
    return out[warm:]


model, built, results = None, None, []
for case in args.cases:
    name, size, how, backend = (case.split(":") + ["_native_cudnn"])[:4]
    try:
        if built != name:
            model = None
            torch.cuda.empty_cache()
            model, built = build(name), name
        if not args.parallel:
            model.set_attention_backend(backend)
        torch._dynamo.reset()  # compile again for each size
        if how == "c":
            model.compile_repeated_blocks(fullgraph=not args.parallel, dynamic=False)
        else:
            for block in model.blocks:
                block._compiled_call_impl = None
        torch.cuda.reset_peak_memory_stats()
        seconds = forwards(model, size, warm=1)
    except Exception as e:
        if rank == 0:
            print(f"diffusers {case}: {type(e).__name__}: {str(e)[:300]}", flush=True)
        continue
    one = {"peer": "diffusers " + diffusers.__version__ + ", torch " + torch.__version__, "test": "dit",
           "model": name, "size": size, "how": "compiled" if how == "c" else "eager",
           "attention": backend, "parallel": args.parallel or "single", "ranks": world,
           "median_s": statistics.median(seconds), "runs_s": seconds,
           "peak_gib": torch.cuda.max_memory_allocated() / 2**30}
    results.append(one)
    if rank == 0:
        print(f"diffusers {name} {size}P {one['how']} {one['parallel']} x{world} {backend}: "
              f"{' '.join('%.3f' % s for s in seconds)} s/forward, {one['peak_gib']:.1f} GiB", flush=True)
        if args.json:
            with open(args.json, "w") as f:
                json.dump({"results": results}, f, indent=1)
if world > 1:
    torch.distributed.destroy_process_group()
