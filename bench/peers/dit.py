"""Times one forward of diffusers' Wan transformer with random weights, one CFG branch.

    python3 dit.py [--json FILE] CASE...
    torchrun --nproc_per_node=4 dit.py [--json FILE] CASE...

A case is MODEL:SIZE:c|e[:ATTENTION[:PARALLEL]], compiled or eager: 14B:720:c, 1.3B:480:e:_flash_3. MODEL is 14B
(also each expert of T2V-A14B), I2V-A14B, 1.3B, 5B, 5B-image (5B with one time per token, as diffusers' pipeline gives
it) or, to try the script, tiny or tiny-5B. SIZE is 480 or 720, 81 frames; for 5B 704 (1280*704, 121 frames); for the
tiny ones 64. Batch 1, bf16. ATTENTION is one backend of diffusers, several joined by + (each is timed, one that fails
is reported), or `best`: the fastest that this process has timed with the same PARALLEL. PARALLEL, on several GPUs:
ulysses, ring, or ring2 (ring 2 x Ulysses of the rest). Needs torch and diffusers; _flash_3_hub is taken from the
package fa3-fwd if that is installed."""
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
from diffusers.models import attention_dispatch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

SHAPES = {  # heads, ffn, layers, channels in and out
    "14B": (40, 13824, 40, 16, 16), "I2V-A14B": (40, 13824, 40, 36, 16), "1.3B": (12, 8960, 30, 16, 16),
    "5B": (24, 14336, 30, 48, 48), "5B-image": (24, 14336, 30, 48, 48), "tiny": (8, 2048, 2, 16, 16),
    "tiny-5B": (2, 512, 2, 48, 48), "tiny-5B-image": (2, 512, 2, 48, 48)}
LATENTS = {"480": (21, 60, 104), "720": (21, 90, 160), "704": (31, 44, 80), "64": (2, 4, 4)}

parser = argparse.ArgumentParser()
parser.add_argument("--json")
parser.add_argument("--runs", type=int, default=2)
parser.add_argument("--device", default="cuda", help="cpu: on one rank, to try the script")
parser.add_argument("cases", nargs="+")
args = parser.parse_args()
rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
cuda = args.device == "cuda"
dev = torch.device("cuda", rank) if cuda else torch.device("cpu")
if cuda:
    torch.cuda.set_device(dev)
if world > 1:
    torch.distributed.init_process_group("nccl", device_id=dev)


def wait():
    if cuda:
        torch.cuda.synchronize()


def use_fa3_package():
    """diffusers downloads FlashAttention 3 from the Hub; the package has the same functions."""
    try:
        import fa3_fwd_interface as fa3
    except ImportError:
        return
    name = attention_dispatch.AttentionBackendName._FLASH_3_HUB
    kernel = attention_dispatch._HUB_KERNELS_REGISTRY[name]
    kernel.kernel_fn = fa3.flash_attn_func
    kernel.wrapped_forward_fn = kernel.wrapped_backward_fn = fa3._flash_attn_forward  # there is no backward here
    check = attention_dispatch._check_attention_backend_requirements
    attention_dispatch._check_attention_backend_requirements = lambda b: None if b == name else check(b)


def degrees(parallel):
    if parallel == "ring2":
        return {"ring_degree": 2, "ulysses_degree": world // 2}
    return {parallel + "_degree": world}


def build(name, parallel):
    heads, ffn, layers, channels_in, channels_out = SHAPES[name]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=heads, attention_head_dim=128, in_channels=channels_in,
            out_channels=channels_out, text_dim=4096, freq_dim=256, ffn_dim=ffn, num_layers=layers,
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
    if parallel != "single":
        config = degrees(parallel)
        if parallel == "ulysses" and heads % world != 0:
            config["ulysses_anything"] = True
        model.set_attention_backend("_native_cudnn")
        model.enable_parallelism(config=diffusers.ContextParallelConfig(**config))
    return model


def forwards(name, size, warm):
    g = torch.Generator(device=dev).manual_seed(1)
    x = torch.randn((1, SHAPES[name][3], *LATENTS[size]), device=dev, dtype=torch.bfloat16, generator=g)
    text = torch.randn(1, 512, 4096, device=dev, dtype=torch.bfloat16, generator=g)
    t = torch.tensor([500], device=dev)
    if name.endswith("-image"):  # 0 for the tokens of the first frame
        frames, h, w = LATENTS[size]
        t = t.expand(1, frames * (h // 2) * (w // 2)).clone()
        t[:, :(h // 2) * (w // 2)] = 0
    out = []
    with torch.no_grad():
        for _ in range(warm + args.runs):
            wait()
            if world > 1:
                torch.distributed.barrier()
            start = time.perf_counter()
            model(x, t, text, return_dict=False)
            wait()
            out.append(time.perf_counter() - start)
    return out[warm:]


def one_case(name, size, how, backend, parallel):
    """Seconds of each run, on the slowest rank."""
    global model, built
    if built != (name, parallel):
        model = built = None
        torch.cuda.empty_cache()
        model, built = build(name, parallel), (name, parallel)
    model.set_attention_backend(backend)
    torch._dynamo.reset()  # compile again for each size
    if how == "c":
        model.compile_repeated_blocks(fullgraph=parallel == "single", dynamic=False)
    else:
        for block in model.blocks:
            block._compiled_call_impl = None
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = forwards(name, size, warm=1)
    if world > 1:
        slowest = torch.tensor(seconds, device=dev)
        torch.distributed.all_reduce(slowest, torch.distributed.ReduceOp.MAX)
        seconds = slowest.tolist()
    return seconds


def best(parallel):
    timed = [r for r in results if r["parallel"] == parallel]
    first = timed[0] if timed else {}
    # the backends were compared on the first model and size
    same = [r for r in timed if (r["model"], r["size"], r["how"]) == (first["model"], first["size"], first["how"])]
    return min(same, key=lambda r: r["median_s"])["attention"] if same else "_native_cudnn"


use_fa3_package()
model, built, results = None, None, []
for case in args.cases:
    name, size, how, backends, parallel = (case.split(":") + ["", ""])[:5]
    parallel = "single" if world == 1 else parallel or "ulysses"
    for backend in (backends or "_native_cudnn").split("+"):
        began = time.perf_counter()
        backend = best(parallel) if backend == "best" else backend
        try:
            seconds = one_case(name, size, how, backend, parallel)
        except Exception as e:
            if rank == 0:
                print(f"diffusers {case} {backend}: {type(e).__name__}: {str(e)[:300]}", flush=True)
            continue
        one = {"peer": "diffusers " + diffusers.__version__ + ", torch " + torch.__version__, "test": "dit",
               "model": name, "size": size, "how": "compiled" if how == "c" else "eager",
               "attention": backend, "parallel": parallel, "ranks": world,
               "median_s": statistics.median(seconds), "runs_s": seconds,
               "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else 0}
        results.append(one)
        if rank == 0:
            print(f"diffusers {name} {size}P {one['how']} {parallel} x{world} {backend}: "
                  f"{' '.join('%.3f' % s for s in seconds)} s/forward, {one['peak_gib']:.1f} GiB "
                  f"({time.perf_counter() - began:.0f} s with compilation)", flush=True)
            if args.json:
                with open(args.json, "w") as f:
                    json.dump({"results": results}, f, indent=1)
if world > 1:
    torch.distributed.destroy_process_group()
