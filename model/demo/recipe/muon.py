"""One optimizer with Muon for matrices and AdamW for all other parameters.

The update of Muon (Jordan et al. 2024) is the momentum with all singular values set to about one. Scaled by
0.2 sqrt(larger dimension) (Liu et al. 2025) it has the size of AdamW's update, so both use one learning rate.
"""

import torch


def orthogonal(g, rounds=5):
    """g [n, rows, columns] -> the same with singular values near 1, by a quintic Newton iteration."""
    x = g.to(torch.bfloat16)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.float().square().sum((-2, -1), keepdim=True).sqrt() + 1e-7).to(x.dtype)
    for _ in range(rounds):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


class Muon:
    """The learning rate is a tensor, so that it can change in a captured CUDA graph."""

    def __init__(self, matrices, others, rate, momentum=0.95, betas=(0.9, 0.98), decay=0.01):
        self.rate, self.momentum, self.decay = rate, momentum, decay
        cuda = rate.is_cuda
        self.adam = torch.optim.AdamW(
            others, lr=rate, betas=betas, weight_decay=0.0, fused=cuda, capturable=cuda
        )
        shapes = {}
        for p in matrices:
            shapes.setdefault((p.shape[0], p[0].numel()), []).append(p)
        self.groups = [
            (shape, params, torch.zeros(len(params), *shape, device=rate.device))
            for shape, params in shapes.items()
        ]

    def zero_grad(self, set_to_none=True):
        self.adam.zero_grad(set_to_none)
        for _, params, _ in self.groups:
            for p in params:
                p.grad = None

    @torch.no_grad()
    def step(self):
        self.adam.step()
        for shape, params, mean in self.groups:
            grads = torch.stack([p.grad.reshape(shape) for p in params])
            mean.lerp_(grads, 1 - self.momentum)
            move = orthogonal(grads.lerp(mean, self.momentum)).float()
            move.mul_(-0.2 * max(shape) ** 0.5 * self.rate)
            torch._foreach_mul_(params, 1 - self.decay * self.rate)
            torch._foreach_add_(params, [m.view_as(p) for m, p in zip(move, params)])
