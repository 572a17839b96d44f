"""The derivative of a bilevel problem's answer: which constraints hold it, and the linear system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor
from torch.func import grad, jacrev

from bilevel.adjoints.adjoint import GradientKind
from bilevel.adjoints.conditions import ActiveConditions, Conditions, Pattern
from bilevel.problem.functions import Array

#: A row nearer than that to equality is active, relative, on rows of unit norm.
_TIGHT = 1e-6
#: A multiplier below that counts as zero, relative to the gradient.
_FORCE = 1e-7
_STEPS = 8
_SINGULAR = 1e-12
#: The largest residual with which a derivative is called one.
_STATIONARY = 1e-8


@dataclass(frozen=True)
class Root:
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
        pattern, sizes = self.active.pattern, self.active.sizes
        rhs = np.zeros(len(self.total))
        rhs[: sizes[0]] = gw[pattern.free]
        start = sizes[0]
        for k, J in enumerate(pattern.active):
            rhs[start : start + len(J)] = glam[k][J]
            start += len(J) + sizes[2 + 2 * k]
        q = torch.from_numpy(self.inverse @ rhs)
        return -grad(lambda t: q @ self.active.gradient(self.total, t))(theta)


def find_root(
    conditions: Conditions, w: Array, theta: Tensor, cone_duals: Sequence[Array]
) -> Root:
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
    finder = _Finder(conditions, w, theta, cone_duals)
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
    return Root(
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


class _Finder:
    """Finds the active set of one answer."""

    def __init__(
        self, conditions: Conditions, w: Array, theta: Tensor, cone_duals: Sequence[Array]
    ) -> None:
        self._conditions, self._theta = conditions, theta
        self._w, self._cone_duals = torch.from_numpy(w.copy()), cone_duals
        slope = grad(conditions.leader.objective)(self._w, theta)
        self._size = 1.0 + float(slope.abs().max())

    def pattern(self) -> tuple[Pattern, Tensor]:
        """Return what looks active, and the unknowns without ``mu``."""
        c, w, theta = self._conditions, self._w, self._theta
        active, kinked = [], []
        free = np.flatnonzero(~c.columns.integer)
        parts = [w[torch.from_numpy(free)]]
        for k, rows in enumerate(c.rows):
            value = c.follower_rows(k, w, theta).numpy()
            jacobian = jacrev(lambda p, k=k: c.follower_rows(k, p, theta))(w).numpy()
            equality = c.followers[k].equality[rows.numpy()]
            J = np.flatnonzero(equality | (value > -self._room(jacobian)))
            lam, size = self._multipliers(k, J, jacobian[:, c.own[k]], equality)
            strength = lam * np.linalg.norm(jacobian[J][:, c.own[k]], axis=-1)
            strict = equality[J] | (strength > _FORCE * size)
            active.append(J)
            kinked.append(J[~strict])
            cones = self._cone_values(k)
            parts += [torch.from_numpy(np.where(strict, lam, 0.0)), cones]
        value = c.leader_rows(w, theta).numpy()
        jacobian = jacrev(lambda p: c.leader_rows(p, theta))(w).numpy()
        # Rows without a column that may move say nothing.
        moves = abs(jacobian[:, free]).sum(-1) > 0
        tight = c.leader_equality | (value > -self._room(jacobian))
        leader = np.flatnonzero(tight & moves)
        return Pattern(free, tuple(active), tuple(kinked), leader), torch.cat(parts)

    def sort_out(
        self, pattern: Pattern, u: Tensor
    ) -> tuple[Pattern, Tensor, list[str], list[str]]:
        """Release what is active without force; say what has a multiplier of the wrong sign."""
        weak: list[str] = []
        wrong: list[str] = []
        for _ in range(3):
            active = ActiveConditions(self._conditions, pattern, self._w.numpy())
            mu = active.multipliers(u, self._theta).numpy()
            changed, found = self._release(pattern, mu, active)
            wrong = found
            if changed is pattern:
                break
            weak.append("a constraint is active without force, or a kink is passed")
            u, pattern = self._carry(u, pattern, changed), changed
        return pattern, u, weak, wrong

    def margin(self, active: ActiveConditions, total: Tensor) -> float:
        """Return how far an answer is from another active set."""
        c, pattern, theta = self._conditions, active.pattern, self._theta
        w, lam, _ = active.split(total[: active.count])
        mu, places = total[active.count :].numpy(), active.places()
        found = [np.inf]
        for k, J in enumerate(pattern.active):
            inside = np.zeros(len(c.rows[k]), bool)
            inside[J] = True
            equality = c.followers[k].equality[c.rows[k].numpy()]
            value = c.follower_rows(k, w, theta).numpy()
            found += list(abs(value[~inside]))
            strict = inside & ~equality
            strict[pattern.kinked[k]] = False
            found += list(abs(lam[k].numpy()[strict]))
            at_kink = np.isin(J, pattern.kinked[k])
            found += list(abs(mu[places["active"][k]][at_kink])) + list(abs(mu[places["kinked"][k]]))
        value = c.leader_rows(w, theta).numpy()
        inside = np.zeros(len(value), bool)
        inside[pattern.leader] = True
        found += list(abs(value[~inside]))
        forced = ~c.leader_equality[pattern.leader]
        found += list(abs(mu[places["leader"]][forced]))
        return float(min(found)) / self._size

    def _room(self, jacobian: Array) -> Array:
        size = 1.0 + float(self._w.abs().max()) if len(self._w) else 1.0
        return _TIGHT * size * np.maximum(np.linalg.norm(jacobian, axis=-1), 1e-9)

    def _multipliers(
        self, k: int, J: Array, jacobian: Array, equality: Array
    ) -> tuple[Array, float]:
        """Return non-negative multipliers (of any sign for equations) that fit best."""
        c, w = self._conditions, self._w
        zeros = torch.zeros(len(c.rows[k]), dtype=w.dtype)
        slope = c.stationarity(k, w, zeros, self._cone_values(k), self._theta).numpy()
        matrix, rhs = jacobian[J].T, -slope
        size = 1.0 + float(abs(slope).max(initial=0.0))
        for tie in c.ties:
            if tie.follower == k and tie.row is not None:
                matrix = np.vstack([matrix, size * (J == tie.row)[None, :]])
                rhs = np.append(rhs, size * float(w[tie.column]))
        free = equality[J]
        both = np.hstack([matrix, -matrix[:, free]])
        if not both.size:
            return np.zeros(len(J)), size
        found = nnls(both, rhs, maxiter=50 * both.shape[1] + 100)[0]
        lam = found[: len(J)]
        lam[free] -= found[len(J) :]
        return lam, size

    def _cone_values(self, k: int) -> Tensor:
        """Return ``v = z - s`` of follower ``k``'s cones."""
        values = self._conditions.followers[k].cones(self._w, self._theta)
        if not values:
            return torch.zeros(0, dtype=self._w.dtype)
        return torch.from_numpy(self._cone_duals[k]) - torch.cat(values)

    def _release(
        self, pattern: Pattern, mu: Array, active: ActiveConditions
    ) -> tuple[Pattern, list[str]]:
        c, places, small = self._conditions, active.places(), _FORCE * self._size
        wrong = []
        force = mu[places["leader"]]
        inequality = ~c.leader_equality[pattern.leader]
        if (force[inequality] < -1e3 * small).any():
            wrong.append("a constraint of the leader pushes the wrong way")
        leader = pattern.leader[~inequality | (abs(force) > small)]
        actives, kinks = [], []
        for k, J in enumerate(pattern.active):
            B, at = pattern.kinked[k], np.isin(J, pattern.kinked[k])
            row, zero = mu[places["active"][k]][at], mu[places["kinked"][k]]
            own = c.own[k]
            jacobian = jacrev(lambda p, k=k: c.follower_rows(k, p, self._theta))(self._w).numpy()
            rank = np.linalg.matrix_rank(jacobian[J][:, own]) if len(J) else 0
            unique = rank == len(J)
            if (row < -1e3 * small).any() or (unique and (zero > 1e3 * small).any()):
                wrong.append("the answer lies at a kink that does not hold it to first order")
            inactive = abs(row) <= small
            pressed = (abs(zero) <= small) & ~inactive & unique
            actives.append(J[~np.isin(J, B[inactive])])
            kinks.append(B[~inactive & ~pressed])
        changed = replace(pattern, active=tuple(actives), kinked=tuple(kinks), leader=leader)
        same = all(
            len(a) == len(b)
            for a, b in zip(
                (*changed.active, *changed.kinked, changed.leader),
                (*pattern.active, *pattern.kinked, pattern.leader),
                strict=True,
            )
        )
        return (pattern if same else changed), wrong

    def _carry(self, u: Tensor, old: Pattern, new: Pattern) -> Tensor:
        """Return the unknowns for another pattern."""
        before = ActiveConditions(self._conditions, old, self._w.numpy())
        w, lam, v = before.split(u)
        parts = [w[torch.from_numpy(new.free)]]
        for k, J in enumerate(new.active):
            parts += [lam[k][torch.from_numpy(J)], v[k]]
        return torch.cat(parts)


def _polish(active: ActiveConditions, total: Tensor, theta: Tensor) -> tuple[Tensor, float]:
    """Take Newton steps while the gradient of ``L`` becomes smaller."""
    best, slope = total, active.gradient(total, theta)
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
        best, slope, error = other, found, new
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
