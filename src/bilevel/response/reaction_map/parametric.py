"""All followers together as one program in the leader's parameters, and its optimal partitions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from bilevel.backends import Purpose
from bilevel.problem.functions import NO_PRODUCTS, Array, Objective, Rows
from bilevel.problem.standard import StandardForm
from bilevel.program import Termination
from bilevel.response.best_response import continuous_program, solve_continuous
from bilevel.response.reaction_map.parameters import parameter_columns, response_columns
from bilevel.response.reaction_map.polyhedra import Polyhedron

_EMPTY = 1e-12
# A singular value below this share of the largest one is rounding.
_RANK = 1e-9
_UNIQUE = 1e-7


@dataclass(frozen=True)
class Partition:
    """Which rows hold with equality at every best response, and which multipliers may be positive.

    Parameters
    ----------
    tight
        Rows that are tight at every best response, shape ``(m,)``.
    priced
        Rows with a positive multiplier in some optimal vector of multipliers, shape ``(m,)``;
        equations always.
    """

    tight: Array
    priced: Array

    @property
    def key(self) -> bytes:
        """A hashable name."""
        return self.tight.tobytes() + self.priced.tobytes()


@dataclass(frozen=True)
class Parametric:
    r"""``min y'Qy/2 + (c + D t)'y  s.t.  A y + B t <= b`` (``==`` where ``equality``).

    Rows are scaled to unit norm and the objective to entries of at most one; ``unit`` are the
    factors that give multipliers of the original rows.

    Parameters
    ----------
    Q, c, D
        Objective, shapes ``(n, n)``, ``(n,)``, ``(n, d)``.
    A, B, b, equality
        Rows, shapes ``(m, n)``, ``(m, d)``, ``(m,)``, ``(m,)``.
    unit
        Shape ``(m,)``.
    """

    Q: Array
    c: Array
    D: Array
    A: Array
    B: Array
    b: Array
    equality: Array
    unit: Array

    @classmethod
    def scaled(
        cls, objective: tuple[Array, Array, Array], rows: tuple[Array, Array, Array, Array]
    ) -> Parametric:
        """Return the program ``(Q, c, D)``, ``(A, B, b, equality)`` with scaled data."""
        Q, c, D = objective
        A, B, b, equality = rows
        size = max((float(abs(part).max(initial=0.0)) for part in objective), default=0.0)
        size = size if size > 0 else 1.0
        norm = np.linalg.norm(A, axis=1)
        factor = 1.0 / np.where(norm > _EMPTY, norm, 1.0)
        wide = factor[:, None]
        return cls(
            Q / size, c / size, D / size, A * wide, B * wide, b * factor, equality, size * factor
        )

    @classmethod
    def of(cls, form: StandardForm) -> Parametric:
        """Return the followers of a problem; several that do not see each other are one."""
        theta = parameter_columns(form)
        own = response_columns(form)
        n = form.n
        P = sp.csr_array((n, n))
        c = np.zeros(n)
        for follower in form.followers:
            mine = np.zeros(n)
            mine[follower.columns] = 1.0
            P = P + sp.diags_array(mine) @ follower.objective.P
            c = c + mine * follower.objective.c
        P = sp.csr_array(P)
        rows = Rows.stack(*(follower.rows for follower in form.followers))
        objective = (P[own][:, own].toarray(), c[own], P[own][:, theta].toarray())
        A = rows.A.tocsc()
        return cls.scaled(
            objective, (A[:, own].toarray(), A[:, theta].toarray(), rows.b, rows.equality)
        )

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of parameters, of the followers' columns and of rows."""
        return self.D.shape[1], self.D.shape[0], len(self.b)

    def solve(self, theta: Array) -> tuple[Array, Array] | None:
        """Return a best response and its multipliers (of the scaled rows); ``None`` without one."""
        m = len(self.b)
        rows = Rows(
            sp.csr_array(self.A),
            self.b - self.B @ theta,
            self.equality,
            NO_PRODUCTS,
            ("row",) * m,
        )
        objective = Objective(sp.csr_array(self.Q), self.c + self.D @ theta)
        raw, _ = solve_continuous(continuous_program(objective, rows), Purpose.ACTIVE_SET)
        if raw is None or raw.termination is not Termination.OPTIMAL or raw.duals is None:
            return None
        return np.asarray(raw.v), np.where(self.equality, raw.duals, np.maximum(raw.duals, 0.0))

    def partition(self, theta: Array, tolerance: float, span: Array) -> Partition | None:
        """Return the optimal partition at ``theta``, read off with a tolerance.

        Steps ``dy`` and ``dlam`` from one optimal pair over all optimal pairs, by linear programs
        that always contain the zero step. ``span`` is the extent of the parameters, shape ``(d,)``;
        tolerances are relative to how much a slack or a multiplier may change over it.
        """
        pair = self.solve(theta)
        if pair is None:
            return None
        y, lam = pair
        m = len(self.b)
        rhs = self.b - self.B @ theta
        slack = np.maximum(rhs - self.A @ y, 0.0)
        gradient = self.c + self.D @ theta + self.Q @ y
        steep = max(1.0, _largest(gradient), _largest(abs(self.D) @ span))
        wide = np.maximum(np.maximum(1.0, abs(rhs)), abs(self.B) @ span)
        used = self.equality | (lam > tolerance * steep)
        E = np.vstack([self.Q[np.any(self.Q != 0, axis=1)], self.A[used]])
        every = np.ones(m, bool)
        loose = _positive(E, -self.A, slack, ~used, every, wide, tolerance)
        free = np.flatnonzero(~loose)
        start = np.where(used, lam, 0.0)[free]
        signed = ~self.equality[free]
        scale = np.full(len(free), steep)
        priced = self.equality.copy()
        priced[free] |= _positive(
            self.A[free].T, np.eye(len(free)), start, signed, signed, scale, tolerance
        )
        return Partition(~loose, priced)

    def pairs(self, partition: Partition) -> Polyhedron:
        """Return all ``(t, y, lam of the priced rows)`` that are optimal in a partition."""
        d, n, _ = self.sizes
        tight = partition.tight
        priced = np.flatnonzero(partition.priced)
        k = len(priced)
        loose = ~tight
        E = np.vstack(
            [
                np.hstack([self.D, self.Q, self.A[priced].T]),
                np.hstack([self.B[tight], self.A[tight], np.zeros((tight.sum(), k))]),
            ]
        )
        signed = ~self.equality[priced]
        sign = np.hstack([np.zeros((signed.sum(), d + n)), -np.eye(k)[signed]])
        G = np.vstack([np.hstack([self.B[loose], self.A[loose], np.zeros((loose.sum(), k))]), sign])
        return Polyhedron(
            E,
            np.concatenate([-self.c, self.b[tight]]),
            G,
            np.concatenate([self.b[loose], np.zeros(signed.sum())]),
        )

    def selection(self, partition: Partition) -> tuple[Array, Array, Array]:
        """Return ``S, s`` of an optimal ``(y, lam) = S t + s``, and a basis of all differences.

        Signs and loose rows are left out, so that it need not be optimal where there is a choice.
        """
        d = self.sizes[0]
        pairs = self.pairs(partition)
        U, sizes, Vt = np.linalg.svd(pairs.E[:, d:])
        rank = int((sizes > _RANK * max(1.0, sizes.max(initial=0.0))).sum())
        # Where the cell has fewer dimensions than parameters, the equations also tie those; the
        # least-squares solution of all of them is right on the cell.
        inverse = Vt[:rank].T @ (U[:, :rank] / sizes[:rank]).T
        return -inverse @ pairs.E[:, :d], inverse @ pairs.e, Vt[rank:].T

    def maps(self, partition: Partition, own: Array) -> tuple[Array | None, ...]:
        """Return ``K, k`` of ``y = K t + k`` and the same of the multipliers in a partition.

        They are ``None`` where the entries ``own`` of the response, or the multipliers, are not
        unique.
        """
        d, n, m = self.sizes
        slope, start, null = self.selection(partition)
        response = multipliers = (None, None)
        if abs(null[:n][own]).max(initial=0.0) < _UNIQUE:
            response = slope[:n], start[:n]
        if abs(null[n:]).max(initial=0.0) < _UNIQUE:
            priced = partition.priced
            multipliers = np.zeros((m, d)), np.zeros(m)
            multipliers[0][priced] = slope[n:] * self.unit[priced, None]
            multipliers[1][priced] = start[n:] * self.unit[priced]
        return *response, *multipliers

    def among(self, partition: Partition, objective: tuple[Array, Array, Array]) -> Parametric:
        """Return the program with another objective over the best responses of a partition."""
        n = self.sizes[1]
        slope, start, _ = self.selection(partition)
        curved = np.any(self.Q != 0, axis=1)
        flat = self.Q[curved]
        rows = (
            np.vstack([self.A, flat]),
            np.vstack([self.B, -flat @ slope[:n]]),
            np.append(self.b, flat @ start[:n]),
            np.append(partition.tight, np.ones(len(flat), bool)),
        )
        return Parametric.scaled(objective, rows)

    def solvable(self) -> Polyhedron:
        """Return ``(t, y, y', lam)``: parameters with a feasible response and feasible multipliers.

        Its image in the parameters is where a best response exists.
        """
        d, n, m = self.sizes
        primal = np.hstack([self.B, self.A, np.zeros((m, n + m))])
        equality = self.equality
        dual = np.hstack([self.D, np.zeros((n, n)), self.Q, self.A.T])
        sign = np.hstack([np.zeros((m, d + 2 * n)), -np.eye(m)])[~equality]
        return Polyhedron(
            np.vstack([primal[equality], dual]),
            np.concatenate([self.b[equality], -self.c]),
            np.vstack([primal[~equality], sign]),
            np.concatenate([self.b[~equality], np.zeros((~equality).sum())]),
        )


def _positive(
    E: Array,
    F: Array,
    start: Array,
    asked: Array,
    signed: Array,
    scale: Array,
    tolerance: float,
) -> Array:
    """Return which entries ``asked`` of ``start + F v`` are positive for some ``v``, ``E v = 0``.

    The entries ``signed`` must not become negative. One linear program makes as many entries
    positive as it can; it is repeated until none is left.
    """
    count, n = F.shape
    found = np.zeros(count, bool)
    while (remaining := np.flatnonzero(asked & ~found)).size:
        k = len(remaining)
        reached = np.hstack([-F[remaining], np.eye(k)])
        kept = np.hstack([-F[signed], np.zeros((signed.sum(), k))])
        capped = np.hstack([np.zeros((k, n)), np.eye(k)])
        steps = Polyhedron(
            np.hstack([E, np.zeros((len(E), k))]),
            np.zeros(len(E)),
            np.vstack([reached, kept, capped]),
            np.concatenate([start[remaining], start[signed], scale[remaining]]),
        )
        _, v = steps.minimise(-np.concatenate([np.zeros(n), 1.0 / scale[remaining]]))
        fresh = np.zeros(count, bool)
        if v is not None:
            fresh[remaining] = v[n:] > tolerance * scale[remaining]
        if not fresh.any():
            break
        found |= fresh
    return found


def _largest(values: Array) -> float:
    return float(abs(values).max(initial=0.0))
