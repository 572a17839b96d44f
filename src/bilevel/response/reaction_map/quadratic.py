"""Exact minima of a quadratic over a polyhedron: convex ones, and those with two directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from bilevel.backends import Purpose
from bilevel.errors import BackendError, UnsupportedProblem
from bilevel.problem.functions import NO_PRODUCTS, Array, Objective, Rows
from bilevel.program import Termination
from bilevel.response.best_response import continuous_program, solve_continuous
from bilevel.response.reaction_map.polyhedra import Polyhedron

_RANK = 1e-9
_ZERO = 1e-11
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Minimum:
    """How a minimization ended.

    Parameters
    ----------
    termination
        ``OPTIMAL``, ``INFEASIBLE`` or ``UNBOUNDED``.
    v
        A minimiser.
    value
        The minimum.
    bound
        What is proved from below.
    minimisers
        All minimisers, where the quadratic is convex.
    """

    termination: Termination
    v: Array | None = None
    value: float = np.inf
    bound: float = np.inf
    minimisers: Polyhedron | None = None


def minimise(P: Array, c: Array, constant: float, over: Polyhedron) -> Minimum:
    """Return the minimum of ``v'Pv/2 + c'v + constant`` over a polyhedron.

    Parameters
    ----------
    P, c, constant
        The quadratic; ``P`` is symmetric.
    over
        The polyhedron; its equations are eliminated, so that only curvature within them counts.

    Raises
    ------
    UnsupportedProblem
        If the quadratic is not convex there and depends on more than two directions, or on two
        that are not bounded.
    BackendError
        If no backend reaches a verdict.
    """
    base, N = _solutions(over.E, over.e)
    if base is None:
        return Minimum(Termination.INFEASIBLE)
    size = max(float(abs(P).max(initial=0.0)), float(abs(c).max(initial=0.0)), _ZERO)
    H = N.T @ P @ N
    g = N.T @ (P @ base + c)
    H = np.where(abs(H) <= _ZERO * size, 0.0, 0.5 * (H + H.T))
    G = over.G @ N
    h = over.g - over.G @ base
    # A row that the equations decide must not be left to a backend's tolerance.
    empty = abs(G).max(axis=1, initial=0.0) <= _ZERO * np.maximum(1.0, abs(over.G).max(initial=1.0))
    if (h[empty] < -1e-7 * np.maximum(1.0, abs(over.g[empty]))).any():
        return Minimum(Termination.INFEASIBLE)
    inner = Polyhedron(np.empty((0, N.shape[1])), np.empty(0), G[~empty], h[~empty])
    found = _reduced(H, g, inner)
    if found.v is None:
        return found
    v = base + N @ found.v
    shift = constant + float(base @ (0.5 * P @ base + c))
    value = float(v @ (0.5 * P @ v + c)) + constant
    minimisers = None
    if found.minimisers is not None:
        slope = P @ v + c
        tolerance = _TOLERANCE * max(1.0, abs(value))
        minimisers = Polyhedron(
            np.vstack([over.E, N @ H @ N.T]),
            np.concatenate([over.e, N @ H @ found.v]),
            np.vstack([over.G, slope]),
            np.append(over.g, slope @ v + tolerance),
        )
    return Minimum(Termination.OPTIMAL, v, value, found.bound + shift, minimisers)


def _solutions(E: Array, e: Array) -> tuple[Array | None, Array]:
    """Return a solution of ``E v = e`` and an orthonormal basis of the others' differences."""
    U, s, Vt = np.linalg.svd(E)
    rank = int((s > _RANK * max(1.0, s.max(initial=0.0))).sum())
    base = Vt[:rank].T @ ((U[:, :rank].T @ e) / s[:rank])
    wrong = abs(E @ base - e).max(initial=0.0)
    return (base if wrong <= 1e-7 * max(1.0, abs(e).max(initial=0.0)) else None), Vt[rank:].T


def _reduced(H: Array, g: Array, over: Polyhedron) -> Minimum:
    if not H.any():
        ended, u = over.minimise(g)
        value = np.inf if u is None else float(g @ u)
        return Minimum(ended, u, value, value, None if u is None else over)
    least, largest = np.linalg.eigvalsh(H)[[0, -1]]
    if least >= -_RANK * max(largest, -least):
        return _convex(H, g, over)
    return _indefinite(H, g, over)


def _convex(H: Array, g: Array, over: Polyhedron) -> Minimum:
    count = len(over.g)
    rows = Rows(sp.csr_array(over.G), over.g, np.zeros(count, bool), NO_PRODUCTS, ("row",) * count)
    program = continuous_program(Objective(sp.csr_array(H), g), rows)
    raw, _ = solve_continuous(program, Purpose.CURVED)
    if raw is not None and raw.termination is Termination.OPTIMAL and raw.v is not None:
        value = float(raw.v @ (0.5 * H @ raw.v + g))
        return Minimum(Termination.OPTIMAL, raw.v, value, min(raw.bound, value), over)
    if over.minimise(np.zeros(len(g)))[0] is Termination.INFEASIBLE:
        return Minimum(Termination.INFEASIBLE)
    away = Polyhedron(
        H,
        np.zeros(len(g)),
        np.vstack([over.G, -np.eye(len(g)), np.eye(len(g))]),
        (np.concatenate([np.zeros(count), np.ones(2 * len(g))])),
    )
    _, step = away.minimise(g)
    if step is not None and g @ step < -1e-7 * max(1.0, abs(g).max()):
        return Minimum(Termination.UNBOUNDED)
    ended = "without a response" if raw is None else raw.termination.value
    raise BackendError(f"A convex quadratic program of the reaction map ended in {ended}.")


def _indefinite(H: Array, g: Array, over: Polyhedron) -> Minimum:
    """Minimise over the image in the directions that matter: the minimum lies on its border."""
    U, s, _ = np.linalg.svd(np.column_stack([H / abs(H).max(), g / max(abs(g).max(), 1e-300)]))
    M = U[:, s > 1e-8 * s[0]].T
    if len(M) > 2:
        raise UnsupportedProblem(
            f"The leader's objective is not convex over the followers' responses and depends on "
            f"{len(M)} independent directions there; two can be minimized exactly. Use "
            f"SingleLevel(KKT())."
        )
    if len(M) == 1:
        corners = [over.minimise(sign * M[0]) for sign in (1.0, -1.0)]
        if corners[0][0] is Termination.INFEASIBLE:
            return Minimum(Termination.INFEASIBLE)
        # Concave along its only direction.
        if any(u is None for _, u in corners):
            return Minimum(Termination.UNBOUNDED)
        points = [u for _, u in corners if u is not None]
    else:
        image = over.shadow(M)
        if image is None:
            raise UnsupportedProblem(
                "The leader's objective is not convex over an unbounded set of the followers' "
                "responses. Bound the leader's variables, or use SingleLevel(KKT())."
            )
        points = list(image[1])
        if not points:
            return Minimum(Termination.INFEASIBLE)

    def value(u: Array) -> float:
        return float(u @ (0.5 * H @ u + g))

    candidates = list(points)
    for first, last in zip(points, points[1:] + points[:1], strict=True):
        step = last - first
        curvature = float(step @ H @ step)
        slope = float((H @ first + g) @ step)
        if curvature > 0 and 0 < -slope < curvature:
            candidates.append(first - slope / curvature * step)
    best = min(candidates, key=value)
    return Minimum(Termination.OPTIMAL, best, value(best), value(best))
