"""Followers replaced by conditions that a parameter relaxes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from bilevel.problem.cones import order, to_matrix, triangle
from bilevel.problem.functions import NO_PRODUCTS, Array, Cone, Kind, Monomials, Rows
from bilevel.problem.standard import StandardForm
from bilevel.reformulate.builder import Builder
from bilevel.reformulate.encodings import SOS1
from bilevel.reformulate.kkt import add_dual_variables, optimality
from bilevel.reformulate.reformulation import Reformulated, begin

# A factor of a singular matrix is a singular point of the program; a start is moved away from it.
_SHIFT = 1e-2


def relaxed(form: StandardForm) -> tuple[Reformulated, Rows]:
    r"""Return the followers' optimality conditions with complementarity in rows of its own.

        stationarity, feasibility,   lam >= 0,  s >= 0,       lam_i s_i <= t  for each row
                                     z in K*,   A w - b in K, z'(A w - b) <= t  for each cone

    Returns
    -------
    tuple
        The program without complementarity, and the rows ``... <= 0`` that a solver relaxes. The
        multipliers of a follower are those of its rows, then those of its cones.

    Notes
    -----
    The sum of the relaxed rows' left sides is the gap between the follower's value and its dual
    value. Semidefinite matrices are written ``L L'`` with a triangular ``L``, so that only
    products remain; the other cones stay in the program.

    References
    ----------
    Scholtes (2001), *SIAM Journal on Optimization* 11, 918-936; Burer and Monteiro (2003),
    *Mathematical Programming* 95, 329-357, on the factorization.
    """
    builder = begin(form)
    multipliers = []
    gaps = _Gaps()
    for k, follower in enumerate(form.followers):
        columns, _, (feasible, stationary), _ = optimality(form, k, builder, SOS1())
        builder.rows(feasible)
        for cone in follower.cones:
            z = _cone(builder, cone, follower.name, form.n, gaps)
            columns = np.append(columns, z)
            transposed = cone.A[:, follower.columns].T.tocoo()
            shape = (len(follower.columns), len(builder))
            extra = sp.coo_array((-transposed.data, (transposed.row, z[transposed.col])), shape)
            stationary = stationary.pad(len(builder))
            stationary = replace(stationary, A=sp.csr_array(stationary.A + extra))
        builder.rows(stationary)
        multipliers.append(columns)
    builder.rows(form.rows)
    add_dual_variables(builder, form, multipliers)
    program = builder.build(form.objective)
    for name, pair in program.sos1:
        gaps.add(name, pair[:1], pair[1:])
    reformed = Reformulated(replace(program, sos1=()), form.n, tuple(multipliers))
    return reformed, gaps.rows(program.n)


class _Gaps:
    """Collects the rows that say how far a pair of vectors is from being complementary."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._pairs: list[tuple[Array, Array]] = []

    def add(
        self, name: str, first: Array | tuple[int, ...], second: Array | tuple[int, ...]
    ) -> None:
        self._names.append(name)
        self._pairs.append((np.array(first, int), np.array(second, int)))

    def rows(self, n: int) -> Rows:
        count = len(self._names)
        row = np.repeat(np.arange(count), [len(first) for first, _ in self._pairs])
        parts = [np.column_stack(pair) for pair in self._pairs]
        factors = np.concatenate([np.empty((0, 2), int), *parts])
        terms = Monomials.collect(row, factors, np.ones(len(row)))
        none = np.zeros(count)
        return Rows(sp.csr_array((count, n)), none, none.astype(bool), terms, tuple(self._names))


def _cone(builder: Builder, cone: Cone, who: str, n: int, gaps: _Gaps) -> Array:
    """Add a cone's slack and multiplier, both in their cones; return the multiplier's columns."""
    label = f"{who}.{cone.name}"
    size = len(cone.b)
    low = np.full(size, -np.inf)
    dual_low = np.full(size, -np.inf)
    if cone.kind is Kind.SECOND_ORDER:
        low[0] = dual_low[0] = 0.0
    if cone.kind is Kind.EXPONENTIAL:
        low[1:] = 0.0
        dual_low[2] = 0.0
    dual_up = np.full(size, np.inf)
    if cone.kind is Kind.EXPONENTIAL:
        dual_up[0] = 0.0
    z = builder.columns([f"dual[{label}.{i}]" for i in range(size)], dual_low, dual_up)
    s = builder.columns(
        [f"slack[{label}.{i}]" for i in range(size)],
        low,
        np.inf,
        recipe=lambda v: cone.A @ v[:n] - cone.b,
    )
    builder.rows(_ties(cone, s, len(builder)))
    if cone.kind is Kind.SEMIDEFINITE:
        _factor(builder, s, f"{label}.slack")
        _factor(builder, z, f"{label}.dual")
    else:
        width = len(builder)
        identity = sp.csr_array(sp.eye_array(size))
        dual = identity
        if cone.kind is Kind.EXPONENTIAL:
            # (u, v, w) lies in the dual cone if and only if (u - v, -u, w) lies in the cone.
            dual = sp.csr_array(np.array([[1.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
        builder.cones += tuple(
            Cone(_spread(map_, columns, width), np.zeros(size), f"{label}.{side}", cone.kind)
            for map_, columns, side in ((identity, s, "slack"), (dual, z, "dual"))
        )
    gaps.add(f"gap[{label}]", z, s)
    return z


def _ties(cone: Cone, slack: Array, width: int) -> Rows:
    """Return the equations ``A w - s = b``."""
    size = len(slack)
    minus = _spread(sp.csr_array(-sp.eye_array(size)), slack, width)
    A = sp.csr_array(cone.pad(width).A + minus)
    names = tuple(f"{cone.name}[{i}]" for i in range(size))
    return Rows(A, cone.b, np.ones(size, bool), NO_PRODUCTS, names)


def _spread(matrix: sp.csr_array, columns: Array, width: int) -> sp.csr_array:
    coo = matrix.tocoo()
    place = (coo.row, columns[coo.col])
    return sp.csr_array(sp.coo_array((coo.data, place), shape=(matrix.shape[0], width)))


def _factor(builder: Builder, entries: Array, label: str) -> None:
    """Add a triangular matrix ``L`` with ``L L'`` equal to the matrix of the scaled triangle."""
    size = order(len(entries))
    row, column = triangle(size)

    def factorize(v: Array) -> Array:
        matrix = to_matrix(v[entries])
        values, vectors = np.linalg.eigh(matrix)
        positive = (vectors * np.maximum(values, _SHIFT)) @ vectors.T
        return np.linalg.cholesky(positive)[column, row]

    names = [f"factor[{label}.{i}]" for i in range(len(entries))]
    lower = np.where(row == column, 0.0, -np.inf)
    L = builder.columns(names, lower, np.inf, recipe=factorize)
    place = {(int(j), int(i)): int(c) for i, j, c in zip(row, column, L, strict=True)}
    for i, j, entry in zip(row, column, entries, strict=True):
        scale = 1.0 if i == j else np.sqrt(2.0)
        terms = [(place[i, k], place[j, k], -scale) for k in range(min(i, j) + 1)]
        name = f"factor[{label}.{i}.{j}]"
        builder.row([entry], [1.0], 0.0, name, equality=True, products=terms)
