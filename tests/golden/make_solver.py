"""Records the official schedulers and DiffSynth's Euler: solver.safetensors.

Usage: python make_solver.py WAN2.1_CHECKOUT DIFFSYNTH_CHECKOUT OUT.safetensors
Per solver, steps N and shift s:  sigma.SOLVER.N.s [N+1], timestep.SOLVER.N.s [N] and, except for N = 40,
states.SOLVER.N.s [N, 24]: the sample after every step of a run from `start` with the velocities cond[i]
and uncond[i] combined with guidance 5 (shifts 5 and 16), or cond[i] alone (3 and 12).

These velocities are independent from step to step, unlike a network's, so that an error in any weight
shows. But then the last bit of a logarithm shows too (it is divided by a small step twice), and
PyTorch's log has an error of up to 0.87 ulp where it comes from MKL. So torch.log is replaced by a
correctly rounded one for `states`. The runs `smooth`, whose velocities change slowly, use torch.log."""
import importlib.util
import sys

import numpy as np
import torch
from safetensors.torch import save_file


def load(path):
    spec = importlib.util.spec_from_file_location(path.split("/")[-1][:-3], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


wan, diffsynth, out_path = sys.argv[1:]
unipc = load(wan + "/wan/utils/fm_solvers_unipc.py")
dpmpp = load(wan + "/wan/utils/fm_solvers.py")
euler = load(diffsynth + "/diffsynth/diffusion/flow_match.py")


def make(kind, steps, shift):
    if kind == "unipc":
        s = unipc.FlowUniPCMultistepScheduler(num_train_timesteps=1000, shift=1, use_dynamic_shifting=False)
        s.set_timesteps(steps, device="cpu", shift=shift)
    elif kind == "dpm++":
        s = dpmpp.FlowDPMSolverMultistepScheduler(num_train_timesteps=1000, shift=1, use_dynamic_shifting=False)
        dpmpp.retrieve_timesteps(s, device="cpu", sigmas=dpmpp.get_sampling_sigmas(steps, shift))
    else:
        s = euler.FlowMatchScheduler("Wan")
        s.set_timesteps(steps, shift=shift)
    return s


def log_rounded(x):
    with np.errstate(divide="ignore"):
        return torch.from_numpy(np.asarray(np.log(x.double().numpy()))).float()


def run(kind, steps, shift, cond, uncond):
    s = make(kind, steps, shift)
    x, states = start.clone(), []
    for i, t in enumerate(s.timesteps):
        v = cond[i]
        if shift in (5, 16):
            v = uncond[i] + 5.0 * (cond[i] - uncond[i])
        x = s.step(v, t, x) if kind == "euler" else s.step(v, t, x, return_dict=False)[0]
        states.append(x.flatten())
    return torch.stack(states)


torch.manual_seed(3)
SHAPE = (1, 2, 3, 4)
start = torch.randn(SHAPE)
cond, uncond = torch.randn(50, *SHAPE), torch.randn(50, *SHAPE)
drift = torch.arange(50).view(50, 1, 1, 1, 1) / 100
smooth = cond[:1] + drift * cond[1:2], uncond[:1] + drift * uncond[1:2]
out = {"start": start.flatten(), "cond": cond.flatten(1), "uncond": uncond.flatten(1)}
out["smooth_cond"], out["smooth_uncond"] = smooth[0].flatten(1), smooth[1].flatten(1)
for kind in ("unipc", "dpm++", "euler"):
    for steps in (1, 2, 3, 10, 20, 40, 50):
        for shift in (3.0, 5.0, 12.0, 16.0):
            name = f"{kind}.{steps}.{int(shift)}"
            s = make(kind, steps, shift)
            sigma = s.sigmas if kind != "euler" else torch.cat([s.sigmas, torch.zeros(1)])
            out["sigma." + name] = sigma.clone()
            out["timestep." + name] = s.timesteps.float()
            if steps == 40:
                continue
            torch_log, torch.log = torch.log, log_rounded
            out["states." + name] = run(kind, steps, shift, cond, uncond)
            torch.log = torch_log
            out["smooth." + name] = run(kind, steps, shift, *smooth)
save_file(out, out_path)
