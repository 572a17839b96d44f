"""Polyhedra given by rows, and their exact images on a line or a plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from bilevel.backends import Purpose
from bilevel.errors import BackendError
from bilevel.problem.functions import NO_PRODUCTS, Array, Objective, Rows
from bilevel.program import Termination
from bilevel.response.best_response import continuous_program, solve_continuous
from bilevel.response.reaction_map.polygons import tidy

_NEAR = 1e-9
_MOST_CORNERS = 1000


@dataclass(frozen=True)
class Polyhedron:
    """``{v : E v = e, G v <= g}``.

    Parameters
    ----------
    E, e
        Equations, shapes ``(p, n)`` and ``(p,)``.
    G, g
        Inequalities, shapes ``(q, n)`` and ``(q,)``.
    """

    E: Array
    e: Array
    G: Array
    g: Array

    @property
    def n(self) -> int:
        """Dimension of the space."""
        return self.E.shape[1]

    def also(self, G: Array, g: Array) -> Polyhedron:
        """Return the part that meets more inequalities over the first columns."""
        wide = np.zeros((len(G), self.n))
        wide[:, : G.shape[1]] = G
        return Polyhedron(self.E, self.e, np.vstack([self.G, wide]), np.append(self.g, g))

    def minimise(self, c: Array) -> tuple[Termination, Array | None]:
        """Return ``OPTIMAL`` and a minimiser of ``c'v``, or ``INFEASIBLE`` or ``UNBOUNDED``.

        Raises
        ------
        BackendError
            If no backend reaches a verdict.
        """
        if self.n == 0:
            holds = _holds(self.e, self.g)
            return (Termination.OPTIMAL, c) if holds else (Termination.INFEASIBLE, None)
        count = len(self.e) + len(self.g)
        rows = Rows(
            sp.csr_array(np.vstack([self.E, self.G])),
            np.concatenate([self.e, self.g]),
            np.arange(count) < len(self.e),
            NO_PRODUCTS,
            ("row",) * count,
        )
        program = continuous_program(Objective(sp.csr_array((self.n, self.n)), c), rows)
        raw, _ = solve_continuous(program, Purpose.CONVEX)
        if raw is not None and raw.termination is Termination.OPTIMAL and raw.v is not None:
            return Termination.OPTIMAL, raw.v
        ended = Termination.NUMERICAL if raw is None else raw.termination
        if ended is Termination.INFEASIBLE_OR_UNBOUNDED:
            feasible = self.minimise(np.zeros(self.n))[0] is Termination.OPTIMAL
            ended = Termination.UNBOUNDED if feasible else Termination.INFEASIBLE
        if ended not in (Termination.INFEASIBLE, Termination.UNBOUNDED):
            raise BackendError(f"A linear program of the reaction map ended in {ended.value}.")
        return ended, None

    def extent(self, direction: Array) -> tuple[float, float] | None:
        """Return the least and the largest ``direction'v``, infinite where unbounded.

        ``None`` stands for the empty polyhedron. ``direction`` is over the first columns.
        """
        c = np.zeros(self.n)
        c[: len(direction)] = direction
        ends = []
        for sign in (1.0, -1.0):
            ended, v = self.minimise(sign * c)
            if ended is Termination.INFEASIBLE:
                return None
            ends.append(-sign * np.inf if v is None else float(c @ v))
        return ends[0], max(ends)

    def shadow(self, M: Array) -> tuple[Array, Array] | None:
        """Return the corners of the image ``{M v}`` in the plane and a point ``v`` above each.

        Parameters
        ----------
        M
            Shape ``(2, n)``; scaled such that the image is of the order of one.

        Returns
        -------
        tuple or None
            Corners counterclockwise, shape ``(k, 2)``, with ``k`` 0 (empty), 1 or 2 (a point or a
            segment) or more, and points ``(k, n)``. ``None`` if the image is unbounded.

        Notes
        -----
        A corner is found for each direction by a linear program; an edge is one for which no
        point lies further out. No vertex of the polyhedron is enumerated, and degeneracy does no
        harm.
        """
        found: list[Array] = []
        for direction in ((0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)):
            ended, v = self.minimise(-np.array(direction) @ M)
            if ended is Termination.INFEASIBLE:
                return np.empty((0, 2)), np.empty((0, self.n))
            if v is None:
                return None
            found.append(v)
        near = _NEAR * max(1.0, float(max(abs(M @ v).max() for v in found)))
        ring = _distinct(found, M, near)
        i = 0
        while i < len(ring) and 1 < len(ring) < _MOST_CORNERS:
            here = M @ ring[i]
            after = M @ ring[(i + 1) % len(ring)]
            step = after - here
            normal = np.array([step[1], -step[0]]) / np.hypot(*step)
            ended, v = self.minimise(-normal @ M)
            if v is None:
                return None
            beyond = normal @ (M @ v - here)
            if beyond > near and min(np.hypot(*(M @ v - p)) for p in (here, after)) > near:
                ring.insert(i + 1, v)
            else:
                i += 1
        points = np.array([M @ v for v in ring]).reshape(-1, 2)
        corners = tidy(points, near)
        kept = [int(np.argmin(((points - corner) ** 2).sum(axis=1))) for corner in corners]
        return corners, np.array([ring[j] for j in kept])


def _holds(e: Array, g: Array) -> bool:
    """Return whether the only point of a space without columns meets its rows."""
    return bool(abs(e).max(initial=0.0) <= _NEAR and g.min(initial=0.0) >= -_NEAR)


def _distinct(points: list[Array], M: Array, near: float) -> list[Array]:
    """Return points whose images differ, in their order around."""
    kept: list[Array] = []
    for v in points:
        if all(np.hypot(*(M @ v - M @ other)) > near for other in kept):
            kept.append(v)
    return kept
