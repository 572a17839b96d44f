r"""The optimality conditions of a bilevel problem on its active constraints, as one gradient.

With the follower's conditions ``C = (grad_y (f + lam'g), g_J, lam_B)`` and the leader's active rows
``G_A`` as equations, an answer is a stationary point of

    L(w, lam, mu; theta) = F(w; theta) + mu' (C, G_A)(w, lam; theta),

where ``J`` are the follower's active rows and ``B`` those that are active with multiplier zero: the
leader's optimum often lies where the follower's response has a kink, and stays there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, jacrev

from bilevel.adjoints.bilevel.level import LevelFunctions
from bilevel.problem.functions import Array
from bilevel.problem.standard import LEADER, Columns


@dataclass(frozen=True)
class Tie:
    """A leader column that equals a follower's multiplier, or its value (``row`` is ``None``)."""

    column: int
    follower: int
    row: int | None


@dataclass(frozen=True)
class ActivePattern:
    """What holds with equality at an answer.

    Parameters
    ----------
    free
        The columns that may move: those that are not integer.
    active
        For each follower its active rows ``J``.
    kinked
        For each follower the rows ``B`` of ``J`` whose multiplier is zero.
    leader
        The leader's active rows, counted over ``Conditions.leader_rows``.
    """

    free: Array
    active: tuple[Array, ...]
    kinked: tuple[Array, ...]
    leader: Array


def touched_rows(followers: Sequence[LevelFunctions], columns: Columns) -> list[Array]:
    """Return for each follower which of its rows contain its own columns, booleans."""
    n = len(columns)
    own = [np.flatnonzero(columns.owner == k) for k in range(len(followers))]
    found: list[Array] = []
    for follower, mine in zip(followers, own, strict=True):
        found.append(np.asarray(follower.structure(n)[:, mine].any(axis=-1)))
    return found


class Conditions:
    """A bilevel problem's functions and what is made of them at an active set.

    Parameters
    ----------
    leader, followers
        The levels' functions.
    columns
        Owners, integrality, and the leader's bounds.
    touched
        For each follower which of its rows contain its own columns: ``touched_rows``.
    ties
        Leader columns that stand for multipliers and values.

    Attributes
    ----------
    rows
        For each follower the numbers of the rows that contain its own columns.
    """

    def __init__(
        self,
        leader: LevelFunctions,
        followers: Sequence[LevelFunctions],
        columns: Columns,
        touched: Sequence[Array],
        ties: tuple[Tie, ...] = (),
    ) -> None:
        self.leader = leader
        self.followers = tuple(followers)
        self.columns = columns
        self.ties = ties
        self.own = [np.flatnonzero(columns.owner == k) for k in range(len(followers))]
        self.rows = [torch.from_numpy(np.flatnonzero(mask)) for mask in touched]
        self._moved = [torch.from_numpy(np.flatnonzero(~mask)) for mask in touched]
        leads = columns.owner == LEADER
        self._above = torch.from_numpy(np.flatnonzero(leads & np.isfinite(columns.upper)))
        self._below = torch.from_numpy(np.flatnonzero(leads & np.isfinite(columns.lower)))
        self._upper, self._lower = (torch.from_numpy(b) for b in (columns.upper, columns.lower))
        parts = [torch.from_numpy(leader.equality)]
        parts += [
            torch.from_numpy(f.equality)[moved]
            for f, moved in zip(followers, self._moved, strict=True)
        ]
        bounds = len(self._above) + len(self._below) + len(leader.kinds)
        parts.append(torch.zeros(bounds, dtype=torch.bool))
        self.leader_equality = torch.cat(parts).numpy()

    def leader_rows(self, w: Tensor, theta: Tensor) -> Tensor:
        """Return all of the leader's constraints: rows, rows without answers, bounds, cones."""
        parts = [self.leader.rows(w, theta)]
        parts += [f.rows(w, theta)[m] for f, m in zip(self.followers, self._moved, strict=True)]
        parts += [w[self._above] - self._upper[self._above]]
        parts += [self._lower[self._below] - w[self._below]]
        for value in self.leader.cones(w, theta):
            parts.append((torch.linalg.vector_norm(value[1:]) - value[0])[None])
        return torch.cat(parts)

    def follower_rows(self, k: int, w: Tensor, theta: Tensor) -> Tensor:
        """Return the rows of follower ``k`` that contain its own columns."""
        return self.followers[k].rows(w, theta)[self.rows[k]]

    def stationarity(self, k: int, w: Tensor, lam: Tensor, v: Tensor, theta: Tensor) -> Tensor:
        """Return the gradient of follower ``k``'s Lagrangian in its own columns."""

        def lagrangian(point: Tensor) -> Tensor:
            level = self.followers[k]
            value = level.objective(point, theta) + lam @ self.follower_rows(k, point, theta)
            start = 0
            for cone in level.cones(point, theta):
                stop = start + len(cone)
                value = value - project(v[start:stop]) @ cone
                start = stop
            return value

        return grad(lagrangian)(w)[torch.from_numpy(self.own[k])]

    def value(self, k: int, w: Tensor, theta: Tensor) -> Tensor:
        """Return follower ``k``'s objective in its own sense."""
        value = self.followers[k].objective(w, theta)
        return -value if self.followers[k].maximize else value


class ActiveConditions:
    """``L`` and its derivatives at one active set and one instance.

    Unknowns are, in this order, the free columns, for each follower the multipliers of its active
    rows and ``v`` of its cones, and the multipliers ``mu`` of all equations.
    """

    def __init__(self, conditions: Conditions, pattern: ActivePattern, w: Array) -> None:
        self._all = conditions
        self.pattern = pattern
        self._fixed = torch.from_numpy(w.copy())
        self._free = torch.from_numpy(pattern.free)
        self._active = [torch.from_numpy(J) for J in pattern.active]
        self._kinked = [torch.from_numpy(B) for B in pattern.kinked]
        self._leader = torch.from_numpy(pattern.leader)
        self._cones = [sum(f.cone_sizes) for f in conditions.followers]
        self.sizes = [len(pattern.free)]
        for J, size in zip(pattern.active, self._cones, strict=True):
            self.sizes += [len(J), size]
        self.count = sum(self.sizes)

    def split(self, u: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return all columns, all multipliers of each follower, and ``v`` of its cones."""
        free, *rest = u.split_with_sizes(self.sizes)
        w = self._fixed.index_copy(0, self._free, free)
        lam = []
        for k, J in enumerate(self._active):
            zeros = torch.zeros(len(self._all.rows[k]), dtype=u.dtype)
            lam.append(zeros.index_copy(0, J, rest[2 * k]))
        return w, lam, [rest[2 * k + 1] for k in range(len(lam))]

    def equations(self, u: Tensor, theta: Tensor) -> Tensor:
        """Return everything that holds with equality."""
        conditions = self._all
        w, lam, v = self.split(u)
        parts = []
        for k, J in enumerate(self._active):
            parts.append(conditions.stationarity(k, w, lam[k], v[k], theta))
            parts.append(conditions.follower_rows(k, w, theta)[J])
            parts.append(lam[k][self._kinked[k]])
            start = 0
            for cone in conditions.followers[k].cones(w, theta):
                part = v[k][start : start + len(cone)]
                parts.append(cone - project(part) + part)
                start += len(cone)
        parts.append(conditions.leader_rows(w, theta)[self._leader])
        for tie in conditions.ties:
            value = (
                conditions.value(tie.follower, w, theta)
                if tie.row is None
                else lam[tie.follower][tie.row]
            )
            parts.append((w[tie.column] - value)[None])
        return torch.cat(parts)

    def lagrangian(self, total: Tensor, theta: Tensor) -> Tensor:
        """Return ``L``."""
        u = total[: self.count]
        mu = total[self.count :]
        w, _, _ = self.split(u)
        return self._all.leader.objective(w, theta) + mu @ self.equations(u, theta)

    def gradient(self, total: Tensor, theta: Tensor) -> Tensor:
        """Return the gradient of ``L``, zero at an answer."""
        return grad(self.lagrangian)(total, theta)

    def hessian(self, total: Tensor, theta: Tensor) -> Tensor:
        """Return the Hessian of ``L``."""
        return jacrev(grad(self.lagrangian))(total, theta)

    def multipliers(self, u: Tensor, theta: Tensor) -> Tensor:
        """Return the ``mu`` that fit stationarity best."""
        slope = grad(lambda x: self._all.leader.objective(self.split(x)[0], theta))(u)
        jacobian = jacrev(self.equations)(u, theta)
        return torch.linalg.lstsq(jacobian.T, -slope[:, None], driver="gelsd").solution[:, 0]

    def places(self) -> dict[str, Any]:
        """Return where ``mu`` of the active and the kinked rows and of the leader's rows stand."""
        start = 0
        active = []
        kinked = []
        for k, J in enumerate(self._active):
            start += len(self._all.own[k])
            active.append(slice(start, start + len(J)))
            start += len(J)
            kinked.append(slice(start, start + len(self._kinked[k])))
            start += len(self._kinked[k]) + self._cones[k]
        return {
            "active": active,
            "kinked": kinked,
            "leader": slice(start, start + len(self._leader)),
        }


def project(v: Tensor) -> Tensor:
    """Return the projection onto the second-order cone, differentiable twice off its kinks."""
    t = v[0]
    x = v[1:]
    square = (x * x).sum()
    size = torch.where(square > 0, square, torch.ones_like(square)).sqrt()
    outside = 0.5 * (1 + t / size) * torch.cat([size[None], x])
    norm = torch.where(square > 0, size, torch.zeros_like(size))
    return torch.where(norm <= t, v, torch.where(norm <= -t, torch.zeros_like(v), outside))
