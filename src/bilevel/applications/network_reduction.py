"""A metabolic network with fewer fluxes and bounds, and the same answers at sufficient growth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cvxpy as cp
import numpy as np
import scipy.linalg as la
import scipy.sparse as sp

from bilevel.applications.metabolic_model import MetabolicModel, optimum

if TYPE_CHECKING:
    from bilevel.problem.functions import Array

# HiGHS's own feasibility tolerance: a flux that cannot exceed it is no flux.
ZERO = 1e-7


@dataclass(frozen=True, eq=False)
class ReducedNetwork:
    r"""Fluxes ``v = T u`` with ``S u == 0``, for all ``v`` of the cell that grow at least so much.

    Parameters
    ----------
    T
        Shape (reactions, m): every reaction is a multiple of one entry of ``u``, or blocked.
    S
        Shape (rows, m), its rows independent.
    lower, upper
        Bounds of ``u`` that the model's bounds of ``v`` amount to, shape (m,).
    least, most
        Least and greatest value that each entry of ``u`` attains, shape (m,).
    """

    T: Any
    S: Any
    lower: Array
    upper: Array
    least: Array
    most: Array

    def group(self, reaction: int) -> tuple[int, float] | None:
        """Return the entry of ``u`` and the factor that give a reaction; ``None`` if blocked."""
        entry = self.T[[reaction]]
        return (int(entry.indices[0]), float(entry.data[0])) if entry.nnz else None

    def expression(self, reaction: int, u: Any) -> Any:
        """Return the flux of a reaction that is not blocked, in terms of ``u``."""
        column, factor = self.group(reaction) or (0, 0.0)
        return factor * u[column]

    @property
    def removable(self) -> Array:
        """Whether each entry of ``u`` may be 0."""
        return (self.least <= ZERO) & (self.most >= -ZERO)

    @property
    def touches_lower(self) -> Array:
        """Whether each entry of ``u`` attains its lower bound."""
        reach = self.least - ZERO * np.maximum(1.0, np.abs(self.least))
        return np.isfinite(self.lower) & (reach <= self.lower)

    @property
    def touches_upper(self) -> Array:
        """Whether each entry of ``u`` attains its upper bound."""
        reach = self.most + ZERO * np.maximum(1.0, np.abs(self.most))
        return np.isfinite(self.upper) & (reach >= self.upper)


def reduce_network(cell: MetabolicModel, biomass: int, floor: float) -> ReducedNetwork:
    """Return the fluxes of a cell that grows at least at rate ``floor``, with fewer unknowns.

    Notes
    -----
    Let ``P`` hold the fluxes with growth at least the floor. Knockouts only shrink ``P``. What is
    used about it therefore holds for every design that can reach the floor:

    - Two reactions that alone make and use up a metabolite have proportional fluxes: one unknown.
    - A flux that is 0 throughout ``P`` is left out; one that is nowhere 0 is essential.
    - Steady-state rows that depend on the others are left out.
    - A bound that no point of ``P`` attains may be left out, and so may all such bounds at once: a
      segment from a point of ``P`` to a point beyond a bound that was left out would meet that
      bound inside ``P``.

    A design that cannot reach the floor cannot reach it in the reduced network either, by the same
    argument. Steady states, growth and production at or above the floor are the same; multipliers
    are not, as the rows differ.

    References
    ----------
    Mahadevan & Schilling, *Metabolic Engineering* 5 (2003) 264-276 (flux variability); Burgard,
    Nikolaev, Schilling & Maranas, *Genome Research* 14 (2004) 301-312 (coupled and blocked fluxes).

    Examples
    --------
    Two routes from A to X, the second with a product P that leaves the cell at the same rate:

    >>> from bilevel.applications.metabolic_model import MetabolicModel
    >>> from bilevel.applications.network_reduction import reduce_network
    >>> S = [[1, -1, -1, 0, 0], [0, 1, 1, -1, 0], [0, 0, 1, 0, -1]]
    >>> cell = MetabolicModel(
    ...     ("A_in", "r1", "r2", "growth", "P_out"),
    ...     ("A", "X", "P"),
    ...     S,
    ...     [0.0] * 5,
    ...     [10.0] * 5,
    ...     [False, True, True, False, False],
    ...     "growth",
    ... )
    >>> print(reduce_network(cell, 3, 5.0).T.shape[1])
    4
    """
    lower = cell.lower.copy()
    upper = cell.upper.copy()
    lower[biomass] = max(lower[biomass], floor)
    T, _ = _merge(cell.S)
    least, most = _ranges(_independent(cell.S @ T), *_bounds(T, lower, upper))
    alive = (least < -ZERO) | (most > ZERO)
    T = T[:, alive]
    least = least[alive]
    most = most[alive]
    # Metabolites whose other reactions are blocked now have two left.
    M, kept = _merge(cell.S @ T)
    T = sp.csr_array(T @ M)
    bounds = _bounds(T, cell.lower, cell.upper)
    return ReducedNetwork(T, _independent(cell.S @ T), *bounds, least[kept], most[kept])


def follower_rows(
    network: ReducedNetwork, groups: Array, removed: cp.Variable, flux: cp.Variable
) -> list[Any]:
    """Return the follower's rows: steady state, bounds that matter, and knockouts."""
    fixed = network.lower == network.upper
    free = ~fixed
    free[groups] = False
    rows = [network.S @ flux == 0] if network.S.shape[0] else []
    index = np.flatnonzero(fixed)
    if len(index):
        rows.append(flux[index] == network.lower[index])
    index = np.flatnonzero(free & network.touches_lower)
    if len(index):
        rows.append(flux[index] >= network.lower[index])
    index = np.flatnonzero(free & network.touches_upper)
    if len(index):
        rows.append(flux[index] <= network.upper[index])
    # A limit of 0 stays 0 under a knockout; where no flux goes beyond 0 anyway, no row is needed.
    most = np.minimum(network.upper, network.most + 1e-3 * np.abs(network.most))[groups]
    least = np.maximum(network.lower, network.least - 1e-3 * np.abs(network.least))[groups]
    up = np.flatnonzero(most > ZERO)
    down = np.flatnonzero(least < -ZERO)
    if len(up):
        rows.append(flux[groups[up]] + cp.multiply(most[up], removed[up]) <= most[up])
    if len(down):
        rows.append(flux[groups[down]] + cp.multiply(least[down], removed[down]) >= least[down])
    for signed, bound, index in ((1, network.lower, up), (-1, network.upper, down)):
        one_way = groups[index][np.abs(bound[groups[index]]) <= ZERO]
        if len(one_way):
            rows.append(signed * flux[one_way] >= 0)
    return rows


def _merge(A: Any) -> tuple[Any, Array]:
    """Return ``M`` and ``kept`` with ``u = M u[kept]`` for all ``A u == 0``, by rows of two."""
    M = sp.csr_array(sp.eye_array(A.shape[1]))
    kept = np.arange(A.shape[1])
    while True:
        B = _clean(A @ M)
        used = set()
        gone = []
        stays = []
        factors = []
        for start in B.indptr[:-1][np.diff(B.indptr) == 2]:
            (i, j), (a, b) = B.indices[start : start + 2], B.data[start : start + 2]
            if used.isdisjoint((i, j)):
                used.update((i, j))
                if abs(a) > abs(b):  # the larger flux stays, so that factors are at most 1
                    i, j, a, b = j, i, b, a
                gone.append(j)
                stays.append(i)
                factors.append(-a / b)
        if not gone:
            return M, kept
        E = sp.lil_array(sp.eye_array(B.shape[1]))
        E[gone, gone] = 0.0
        E[gone, stays] = factors
        keep = np.setdiff1d(np.arange(B.shape[1]), gone)
        M = sp.csr_array(M @ sp.csc_array(E)[:, keep])
        kept = kept[keep]


def _clean(A: Any) -> Any:
    """Return a matrix without the rounding errors of its coefficients, which are of order 1."""
    A = sp.csr_array(A)
    A.data[np.abs(A.data) < 1e-12] = 0.0
    A.eliminate_zeros()
    return A


def _independent(A: Any) -> Any:
    """Return rows of which all others are combinations."""
    A = _clean(A)
    A = A[np.diff(A.indptr) > 0]
    if 0 in A.shape:
        return A
    factors: Any = la.qr(A.toarray().T, mode="r", pivoting=True)
    diagonal = np.abs(np.diag(factors[0]))
    order = factors[1]
    rank = int((diagonal > 1e-10 * diagonal[0]).sum())
    return A[np.sort(order[:rank])]


def _bounds(T: Any, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Return the bounds of ``u`` that ``lower <= T u <= upper`` amounts to."""
    low = np.full(T.shape[1], -np.inf)
    high = np.full(T.shape[1], np.inf)
    entries = sp.coo_array(T)
    ends = np.array([lower, upper])[:, entries.row] / entries.data
    np.maximum.at(low, entries.col, ends.min(axis=0))
    np.minimum.at(high, entries.col, ends.max(axis=0))
    return low, high


def _ranges(S: Any, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Return the least and greatest value of each flux (flux variability analysis)."""
    ends = []
    low = np.full(len(lower), np.inf)
    high = np.full(len(lower), -np.inf)
    for maximize in (True, False):
        end = (upper if maximize else lower).copy()
        for j in range(len(lower)):
            # A bound that some point attains is the extreme value: no program needed.
            if high[j] >= upper[j] if maximize else low[j] <= lower[j]:
                continue
            value, point = optimum(S, lower, upper, np.eye(1, len(lower), j)[0], maximize)
            if value is not None:
                end[j] = value
            if point is not None:
                low = np.minimum(low, point)
                high = np.maximum(high, point)
        ends.append(end)
    return ends[1], ends[0]
