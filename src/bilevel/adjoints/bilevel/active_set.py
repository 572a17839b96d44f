"""Which constraints of both levels hold a bilevel answer, and with which multipliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor
from torch.func import grad, jacrev

from bilevel.adjoints.bilevel.conditions import ActiveConditions, ActivePattern, Conditions
from bilevel.problem.functions import Array

#: A row nearer than that to equality is active, relative, on rows of unit norm.
_TIGHT = 1e-6
#: A multiplier below that counts as zero, relative to the gradient.
_FORCE = 1e-7


class ActiveSet:
    """Finds the active set of one answer."""

    def __init__(
        self, conditions: Conditions, w: Array, theta: Tensor, cone_duals: Sequence[Array]
    ) -> None:
        self._conditions = conditions
        self._theta = theta
        self._w = torch.from_numpy(w.copy())
        self._cone_duals = cone_duals
        slope = grad(conditions.leader.objective)(self._w, theta)
        self._size = 1.0 + float(slope.abs().max())

    def pattern(self) -> tuple[ActivePattern, Tensor]:
        """Return what looks active, and the unknowns without ``mu``."""
        c = self._conditions
        w = self._w
        theta = self._theta
        active = []
        kinked = []
        free = np.flatnonzero(~c.columns.integer)
        parts = [w[torch.from_numpy(free)]]
        for k, rows in enumerate(c.rows):
            value = c.follower_rows(k, w, theta).numpy()
            jacobian = jacrev(lambda p, k=k: c.follower_rows(k, p, theta))(w).numpy()
            equality = c.followers[k].equality[rows.numpy()]
            J = np.flatnonzero(equality | (value > -self._tolerances(jacobian)))
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
        tight = c.leader_equality | (value > -self._tolerances(jacobian))
        leader = np.flatnonzero(tight & moves)
        return ActivePattern(free, tuple(active), tuple(kinked), leader), torch.cat(parts)

    def sort_out(
        self, pattern: ActivePattern, u: Tensor
    ) -> tuple[ActivePattern, Tensor, list[str], list[str]]:
        """Release what is weakly active; say what has a multiplier of the wrong sign."""
        weak: list[str] = []
        wrong: list[str] = []
        for _ in range(3):
            active = ActiveConditions(self._conditions, pattern, self._w.numpy())
            mu = active.multipliers(u, self._theta).numpy()
            changed, found = self._release(pattern, mu, active)
            wrong = found
            if changed is pattern:
                break
            weak.append("a constraint is weakly active, or a kink is passed")
            u = self._carry(u, pattern, changed)
            pattern = changed
        return pattern, u, weak, wrong

    def margin(self, active: ActiveConditions, total: Tensor) -> float:
        """Return how far an answer is from another active set."""
        c = self._conditions
        pattern = active.pattern
        theta = self._theta
        w, lam, _ = active.split(total[: active.count])
        mu = total[active.count :].numpy()
        places = active.places()
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
            found += list(abs(mu[places["active"][k]][at_kink]))
            jacobian = jacrev(lambda p, k=k: c.follower_rows(k, p, theta))(w).numpy()[J]
            # Where multipliers are not unique, that of a multiplier at zero says nothing.
            if len(J) and np.linalg.matrix_rank(jacobian[:, c.own[k]]) == len(J):
                found += list(abs(mu[places["kinked"][k]]))
        value = c.leader_rows(w, theta).numpy()
        inside = np.zeros(len(value), bool)
        inside[pattern.leader] = True
        found += list(abs(value[~inside]))
        forced = ~c.leader_equality[pattern.leader]
        found += list(abs(mu[places["leader"]][forced]))
        return float(min(found)) / self._size

    def _tolerances(self, jacobian: Array) -> Array:
        size = 1.0 + float(self._w.abs().max()) if len(self._w) else 1.0
        return _TIGHT * size * np.maximum(np.linalg.norm(jacobian, axis=-1), 1e-9)

    def _multipliers(
        self, k: int, J: Array, jacobian: Array, equality: Array
    ) -> tuple[Array, float]:
        """Return non-negative multipliers (of any sign for equations) that fit best."""
        c = self._conditions
        w = self._w
        zeros = torch.zeros(len(c.rows[k]), dtype=w.dtype)
        slope = c.stationarity(k, w, zeros, self._cone_values(k), self._theta).numpy()
        matrix = jacobian[J].T
        rhs = -slope
        size = 1.0 + float(abs(slope).max(initial=0.0))
        for tie in c.ties:
            if tie.follower == k and tie.row is not None:
                matrix = np.vstack([matrix, size * (tie.row == J)[None, :]])
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
        self, pattern: ActivePattern, mu: Array, active: ActiveConditions
    ) -> tuple[ActivePattern, list[str]]:
        c = self._conditions
        places = active.places()
        small = _FORCE * self._size
        wrong = []
        force = mu[places["leader"]]
        inequality = ~c.leader_equality[pattern.leader]
        if (force[inequality] < -1e3 * small).any():
            wrong.append("a constraint of the leader pushes the wrong way")
        leader = pattern.leader[~inequality | (abs(force) > small)]
        actives = []
        kinks = []
        for k, J in enumerate(pattern.active):
            B = pattern.kinked[k]
            at = np.isin(J, pattern.kinked[k])
            row = mu[places["active"][k]][at]
            zero = mu[places["kinked"][k]]
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

    def _carry(self, u: Tensor, old: ActivePattern, new: ActivePattern) -> Tensor:
        """Return the unknowns for another pattern."""
        before = ActiveConditions(self._conditions, old, self._w.numpy())
        w, lam, v = before.split(u)
        parts = [w[torch.from_numpy(new.free)]]
        for k, J in enumerate(new.active):
            parts += [lam[k][torch.from_numpy(J)], v[k]]
        return torch.cat(parts)
