"""Whether a layer keeps its promises: neighbours do not matter, gradients are differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.layer_data import Programs
from benchmarks.layer_peers import make_bilevel
from bilevel.status import Status

_STEP = 1e-4
_BAD = 1


def difference_error(layer: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> float:
    """Return the largest difference between gradients and finite differences of full re-solves.

    The loss is a random linear function of everything that the layer returns; every entry of every
    input is moved, all in one batch, and the differences are of fourth order. The error is relative
    to the largest entry of the gradient, at least one.
    """
    torch.manual_seed(0)
    leaves = [part.detach().double().clone().requires_grad_() for part in inputs]
    values = layer(*leaves)
    weights = [torch.randn_like(value) for value in values]
    gradients = torch.autograd.grad(values, leaves, weights)
    exact = torch.cat([part.reshape(-1) for part in gradients])
    shifts = _STEP * torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64)
    moves = shifts[:, None, None] * torch.eye(len(exact), dtype=torch.float64)
    points = torch.cat([part.detach().reshape(-1) for part in leaves]) + moves.flatten(0, 1)
    parts = points.split([part.numel() for part in leaves], dim=-1)
    moved = layer(*(one.reshape(-1, *leaf.shape) for one, leaf in zip(parts, leaves, strict=True)))
    losses = sum(
        (weight * value).reshape(len(points), -1).sum(-1)
        for weight, value in zip(weights, moved, strict=True)
    )
    far_below, below, above, far_above = torch.as_tensor(losses).reshape(4, -1)
    slope = (far_below - 8 * below + 8 * above - far_above) / (12 * _STEP)
    return float((slope - exact).abs().max() / exact.abs().max().clamp(min=1.0))


def changed_neighbours(n: int) -> str:
    """Return what differs when one instance of four becomes infeasible; empty if nothing.

    Values and gradients of the other three are compared bit for bit with those of the batch in
    which the fourth is feasible, and of a batch of the three alone.
    """
    whole = Programs.draw(n, 4, 0)
    G, h = whole.G.copy(), whole.h.copy()
    G[_BAD, 1], h[_BAD, :2] = -G[_BAD, 0], -1.0
    others = [i for i in range(4) if i != _BAD]
    layer = make_bilevel(n, on_failure="nan")

    def run(programs: Programs) -> tuple[Any, tuple[Tensor, ...]]:
        leaves = [torch.from_numpy(part.copy()).requires_grad_() for part in programs.data]
        answer = layer.solve(*leaves)
        (y,) = answer.values
        gradients = torch.autograd.grad(y, leaves, torch.from_numpy(programs.w.copy()))
        return answer, (y.detach(), *gradients)

    answer, spoilt = run(replace(whole, G=G, h=h))
    _, intact = run(whole)
    _, alone = run(Programs(*(part[others] for part in (*whole.data, whole.w))))
    found = []
    if [one is Status.OPTIMAL for one in answer.status] != [i != _BAD for i in range(4)]:
        found.append(f"statuses are {', '.join(one.name for one in answer.status)}")
    if not all(torch.equal(a[others], b[others]) for a, b in zip(spoilt, intact, strict=True)):
        found.append("the others differ from those beside a feasible instance")
    if not all(torch.equal(a[others], b) for a, b in zip(spoilt, alone, strict=True)):
        found.append("the others differ from those alone")
    if any(bool(part[_BAD].any()) for part in spoilt[1:]):
        found.append("the infeasible instance has a gradient")
    return "; ".join(found)
