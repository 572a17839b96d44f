"""Minibatches of a level, and what one step of SOBA learns from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from bilevel.errors import ProblemError
from bilevel.problem.samples import SampleMean
from bilevel.problem.trees import Tree

Objective = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Minibatch:
    """Some samples of one level.

    Parameters
    ----------
    objective
        The mean over them.
    share
        How many they are of all samples.
    place
        Which of the level's fixed batches; 0 where they are drawn anew.
    weight
        By which a mean over batches must count this one to be the mean over samples.
    """

    objective: Objective
    share: float
    place: int = 0
    weight: float = 1.0


class Sampler:
    """The batches of one level; an objective that is no ``SampleMean`` is one batch.

    Parameters
    ----------
    objective
        The level's objective.
    size
        Samples in a batch; more than there are means all.
    generator
        Draws the batches.
    fixed
        Whether the batches stay the same, and one is drawn at each step; otherwise the samples are
        shuffled for every pass, and what is left over at its end waits for the next one.
    """

    def __init__(
        self, objective: Objective, size: int, generator: torch.Generator, fixed: bool
    ) -> None:
        self._objective = objective
        self._generator = generator
        self._count = len(objective) if isinstance(objective, SampleMean) else 1
        self._size = min(size, self._count)
        self._order: list[Tensor] = []
        self._batches: list[Minibatch] = []
        if fixed:
            parts = -(-self._count // self._size)
            self._batches = [
                self._batch(index, place, parts)
                for place, index in enumerate(self._permuted().tensor_split(parts))
            ]

    @property
    def steps_a_pass(self) -> int:
        """How many steps see about as many samples as there are."""
        return len(self._batches) or max(1, self._count // self._size)

    def draw(self) -> Minibatch:
        """Return a batch whose expectation, weighted, is the whole objective."""
        if self._batches:
            i = torch.randint(len(self._batches), (), generator=self._generator)
            return self._batches[int(i)]
        if not self._order:
            whole = self._count // self._size * self._size
            self._order = list(self._permuted()[:whole].split(self._size))
        return self._batch(self._order.pop())

    def _permuted(self) -> Tensor:
        return torch.randperm(self._count, generator=self._generator)

    def _batch(self, index: Tensor, place: int = 0, parts: int = 0) -> Minibatch:
        share = len(index) / self._count
        weight = share * parts if parts else 1.0
        if not isinstance(self._objective, SampleMean) or share == 1.0:
            return Minibatch(self._objective, 1.0)
        return Minibatch(self._objective.over(index), share, place, weight)

    def check(self, name: str, x: Any, y: Any, z: Sequence[Any]) -> None:
        """Raise ``ProblemError`` where the objective is not the mean of those of its batches."""
        if not isinstance(self._objective, SampleMean) or self._count == 1:
            return
        with torch.no_grad():
            halves = self._permuted().tensor_split(2)
            parts = [len(i) / self._count * self._objective.over(i)(x, y, *z) for i in halves]
            mean = float(sum(parts))
            whole = self._objective(x, y, *z)
        allowed = 10 * torch.finfo(whole.dtype).eps ** 0.5 * (1 + abs(float(whole)))
        if abs(mean - float(whole)) > allowed:
            raise ProblemError(
                f"{name} is not a mean over its samples: over all of them it is {float(whole):.6g}"
                f", and the mean of two halves {mean:.6g}. Its loss must return the mean of the "
                f"samples it is given (.mean(), not .sum()), and nothing random."
            )


@dataclass(frozen=True, eq=False)
class Iterate:
    """Where a step is taken: flat vectors, with the shapes of the trees.

    Parameters
    ----------
    x, y, v
        The decisions and the co-state, which tends to ``f_yy^-1 F_y``.
    trees
        The shapes of ``x`` and ``y``.
    z
        The inputs.
    """

    x: Tensor
    y: Tensor
    v: Tensor
    trees: tuple[Tree, Tree]
    z: tuple[Any, ...]

    def evaluate(self, objective: Objective, x: Tensor, y: Tensor) -> Tensor:
        """Return an objective at flat decisions."""
        return objective(self.trees[0].tree(x), self.trees[1].tree(y), *self.z)


def follower_part(batch: Minibatch, at: Iterate) -> Tensor:
    """Return ``f_y``, ``f_yy v`` and ``f_xy v`` in one vector, by two passes through autograd."""
    x = at.x.detach().requires_grad_()
    y = at.y.detach().requires_grad_()
    with torch.enable_grad():
        value = at.evaluate(batch.objective, x, y)
        (slope,) = _derivatives(value, (y,), create_graph=True)
        if slope.requires_grad:
            cross, curved = _derivatives(slope, (x, y), at.v)
        else:
            cross = torch.zeros_like(x)
            curved = torch.zeros_like(y)
    return torch.cat([slope.detach(), curved, cross])


def leader_part(batch: Minibatch, at: Iterate) -> tuple[float, Tensor]:
    """Return ``F``, and ``F_y`` and ``F_x`` in one vector."""
    x = at.x.detach().requires_grad_()
    y = at.y.detach().requires_grad_()
    with torch.enable_grad():
        value = at.evaluate(batch.objective, x, y)
        in_x, in_y = _derivatives(value, (x, y))
    return float(value.detach()), torch.cat([in_y, in_x])


def _derivatives(
    value: Tensor, of: Sequence[Tensor], v: Tensor | None = None, create_graph: bool = False
) -> tuple[Tensor, ...]:
    if not value.requires_grad:
        return tuple(torch.zeros_like(one) for one in of)
    return torch.autograd.grad(
        value, of, v, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )


def directions(follower: Tensor, leader: Tensor, at: Iterate) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``D_y``, ``D_v`` and ``D_x`` from what batches of either level add.

    .. code-block:: text

        D_y = f_y,    D_v = f_yy v - F_y,    D_x = F_x - f_xy v

    References
    ----------
    Dagréou, Ablin, Vaiter and Moreau, NeurIPS 2022, equation (3), with the other sign of ``v``.
    """
    m = len(at.y)
    slope, curved, cross = follower.split([m, m, len(at.x)])
    in_y, in_x = leader.split([m, len(at.x)])
    return slope, curved - in_y, in_x - cross


class Memory:
    """The last derivative of each fixed batch, for directions of less variance.

    Notes
    -----
    It begins with zeros. The direction ``w_i (new_i - old_i) + mean of w_j old_j`` is unbiased
    whatever is remembered, and exact once nothing moves any more.

    References
    ----------
    Defazio, Bach and Lacoste-Julien, SAGA, NeurIPS 2014; Dagréou et al., 2022, section 3.2.
    """

    def __init__(self, parts: int) -> None:
        self._old: dict[int, Tensor] = {}
        self._mean: Tensor | float = 0.0
        self._parts = parts

    def reduced(self, batch: Minibatch, new: Tensor) -> Tensor:
        """Return the direction, and remember the batch's derivative."""
        change = batch.weight * (new - self._old.get(batch.place, 0.0))
        found = change + self._mean
        self._mean = self._mean + change / self._parts
        self._old[batch.place] = new
        return found


def curvature(sampler: Sampler, at: Iterate, count: int) -> tuple[float, float]:
    """Return the largest eigenvalue of ``f_yy`` over some batches, and what was seen, in passes.

    The power method takes another batch for each product; the last half of them is looked at.
    """
    # Drawn, since a vector such as ones may be an eigenvector: a softmax does not see it.
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(at.y.shape, generator=generator, dtype=at.y.dtype).to(at.y.device)
    sizes = [0.0]
    seen = 0.0
    for k in range(count):
        batch = sampler.draw()
        seen += batch.share
        v = v / vector_norm(v).clamp(min=torch.finfo(v.dtype).tiny)
        here = Iterate(at.x, at.y, v, at.trees, at.z)
        v = follower_part(batch, here).split([len(v), len(v), len(at.x)])[1]
        if k >= count // 2:
            sizes.append(float(vector_norm(v)))
    return max(sizes), seen
