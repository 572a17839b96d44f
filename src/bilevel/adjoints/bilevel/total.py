"""The derivative of a bilevel problem's answer: one linear system on the active constraints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import grad

from bilevel.adjoints.adjoint import GradientKind
from bilevel.adjoints.bilevel.active_set import ActiveSet
from bilevel.adjoints.bilevel.conditions import ActiveConditions, Conditions
from bilevel.problem.functions import Array

_STEPS = 8
_SINGULAR = 1e-12
#: The largest residual with which a derivative is called one.
_STATIONARY = 1e-8


@dataclass(frozen=True)
class BilevelRoot:
    """An answer with the system that gives its derivative.

    Parameters
    ----------
    active
        The conditions at its active set.
    total
        Columns, multipliers and ``mu``.
    H
        The Hessian of ``L``.
    inverse
        Of the Hessian; its pseudo-inverse where that is singular.
    w
        All columns, polished.
    lam
        For each follower all multipliers of its rows.
    kind
        What the derivative of the columns is.
    residual, margin
        As in ``Report``.
    unique_multipliers
        Whether the derivative of multipliers is one, too.
    notes
        What else there is to say.
    """

    active: ActiveConditions
    total: Tensor
    H: Array
    inverse: Array
    w: Array
    lam: tuple[Array, ...]
    kind: GradientKind
    residual: float
    margin: float
    unique_multipliers: bool
    notes: tuple[str, ...]

    def pull(self, gw: Array, glam: Sequence[Array], theta: Tensor) -> Tensor:
        """Return the gradient by ``theta`` from gradients by columns and multipliers."""
        pattern = self.active.pattern
        sizes = self.active.sizes
        rhs = np.zeros(len(self.total))
        rhs[: sizes[0]] = gw[pattern.free]
        start = sizes[0]
        for k, J in enumerate(pattern.active):
            rhs[start : start + len(J)] = glam[k][J]
            start += len(J) + sizes[2 + 2 * k]
        q = torch.from_numpy(self.inverse @ rhs)
        return -grad(lambda t: q @ self.active.gradient(self.total, t))(theta)

    def probe(self) -> float:
        """Return the relative residual of the adjoint system for a right-hand side of ones."""
        return float(abs(self.H @ self.inverse.sum(-1) - 1).max(initial=0.0))


def find_root(
    conditions: Conditions, w: Array, theta: Tensor, cone_duals: Sequence[Array]
) -> BilevelRoot:
    """Return the active conditions at an answer, polished by Newton's method.

    Parameters
    ----------
    conditions
        The problem.
    w
        All columns of an answer, right to about ``1e-6``.
    theta
        Inputs, the last entry one.
    cone_duals
        For each follower the multipliers of its cones, one after the other.
    """
    finder = ActiveSet(conditions, w, theta, cone_duals)
    pattern, u = finder.pattern()
    pattern, u, weak, wrong = finder.sort_out(pattern, u)
    active = ActiveConditions(conditions, pattern, w)
    total = torch.cat([u, active.multipliers(u, theta)])
    total, residual = _polish(active, total, theta)
    H = active.hessian(total, theta).numpy()
    named = ~conditions.columns.auxiliary[pattern.free]
    inverse, loose, loose_multipliers = _invert(H, active, named)
    point, lam, _ = active.split(total[: active.count])
    notes = list(weak) + list(wrong)
    kind = GradientKind.ONE_SIDED if weak else GradientKind.CLASSICAL
    if residual > _STATIONARY or loose or wrong:
        kind = GradientKind.SURROGATE
        if residual > _STATIONARY:
            notes.append(f"the optimality conditions fail by {residual:.1e}")
        if loose:
            notes.append("the answer is not unique, or not to first order")
    if loose_multipliers:
        notes.append("a follower's multipliers are not unique")
    return BilevelRoot(
        active,
        total,
        H,
        inverse,
        point.numpy(),
        tuple(part.numpy() for part in lam),
        kind,
        residual,
        finder.margin(active, total),
        not loose_multipliers,
        tuple(dict.fromkeys(notes)),
    )


def _polish(active: ActiveConditions, total: Tensor, theta: Tensor) -> tuple[Tensor, float]:
    """Take Newton steps while the gradient of ``L`` becomes smaller."""
    best = total
    slope = active.gradient(total, theta)
    size = 1.0 + float(total[active.count :].abs().max()) if len(total) > active.count else 1.0
    error = float(slope.abs().max()) / size if len(slope) else 0.0
    for _ in range(_STEPS):
        if error <= 1e-14:
            break
        H = active.hessian(best, theta)
        step = torch.linalg.lstsq(H, -slope[:, None], driver="gelsd", rcond=_SINGULAR).solution
        other = best + step[:, 0]
        found = active.gradient(other, theta)
        new = float(found.abs().max()) / size
        if not new < error:
            break
        best = other
        slope = found
        error = new
    return best, error


def _invert(H: Array, active: ActiveConditions, named: Array) -> tuple[Array, bool, bool]:
    """Return the (pseudo-)inverse, and whether it leaves columns or multipliers free.

    Columns that the compilation introduced do not count: an epigraph has room where it is slack.
    """
    if not len(H) or not np.isfinite(H).all():
        return np.zeros_like(H), len(H) > 0, len(H) > 0
    values, vectors = np.linalg.eigh((H + H.T) / 2)
    zero = abs(values) <= _SINGULAR * max(1.0, abs(values).max())
    scaled = np.where(zero, 0.0, 1.0 / np.where(zero, 1.0, values))
    inverse = (vectors * scaled) @ vectors.T
    loose = abs(vectors[: active.count, zero])
    columns = loose[: active.sizes[0]][named].max(initial=0.0) > 1e-6
    parts = np.split(loose, np.cumsum(active.sizes)[:-1])[1::2]
    multipliers = max([0.0, *(part.max(initial=0.0) for part in parts)]) > 1e-6
    return inverse, bool(columns), bool(multipliers)
