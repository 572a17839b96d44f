"""One level's CVXPY problem, compiled once, and its arrays at any parameter values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.error import DCPError
from cvxpy.reductions.cvx_attr2constr import CvxAttr2Constr
from cvxpy.reductions.dcp2cone.cone_matrix_stuffing import ConeMatrixStuffing
from cvxpy.reductions.dcp2cone.dcp2cone import Dcp2Cone
from cvxpy.reductions.eliminate_zero_sized import EliminateZeroSized

from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.problem.cones import symmetrizer
from bilevel.problem.functions import Array, Kind
from bilevel.problem.names import row_name
from bilevel.problem.rewrite import Rewriter

_REFUSED = {"PowCone3D": "power", "PowConeND": "power"}
_CONIC = {"ExpCone": Kind.EXPONENTIAL, "PSD": Kind.SEMIDEFINITE}


class NotParametric(Exception):
    """The level is not affine in its parameters: it must be compiled for every new value."""


@dataclass(frozen=True)
class LevelArrays:
    """Arrays of a level in its own columns: plain leaves, auxiliary ones and products.

    Row blocks are named by the id of their CVXPY constraint; a value is ``A w - b``.
    """

    P: sp.csr_array
    c: Array
    constant: float
    A: sp.csr_array
    b: Array


@dataclass(frozen=True)
class Tensor:
    """Entries of an array, each a sum of multiples of parameters.

    Parameters
    ----------
    row, column
        Place of the term in the array, shape ``(t,)``.
    parameter
        Which entry of the parameters it multiplies.
    value
        The coefficient.
    """

    row: Array
    column: Array
    parameter: Array
    value: Array

    def take(self, mask: Array) -> Tensor:
        """Keep the terms of a mask."""
        return Tensor(self.row[mask], self.column[mask], self.parameter[mask], self.value[mask])


class Level:
    """A compiled level, and the only reader of what the compiler returns.

    Its own columns are those of plain leaves, auxiliary ones and products; ``places`` says where
    they stand in a problem's. ``linear_rows`` are its rows but for those of ``cone_rows`` and of
    ``sides``, which define the factors of products.

    Parameters
    ----------
    who
        How messages call it, such as ``"follower 'carrier'"``.
    objective
        The user's objective.
    constraints
        The user's constraints and those that attributes imply.
    rewriter
        Puts plain leaves in and takes products out. It remembers what it has rewritten, so each
        level needs its own: a product that two levels share must be taken out in both.
    conic
        Whether exponential and semidefinite cones are taken.
    """

    def __init__(
        self,
        who: str,
        objective: Any,
        constraints: Sequence[Any],
        rewriter: Rewriter,
        conic: bool = False,
    ) -> None:
        self.who = who
        self._conic = conic
        self.maximize = isinstance(objective, cp.Maximize)
        target = rewriter.expression(objective.args[0])
        rows = [rewriter.constraint(constraint) for constraint in constraints]
        self.products = tuple(rewriter.products)
        sides = [(left == 0, right == 0) for _, left, right in self.products]
        target = -target if self.maximize else target
        self._check_convex(objective, constraints, target, rows)
        program = _compile(
            who, cp.Problem(cp.Minimize(target), rows + [c for pair in sides for c in pair])
        )
        self._program = program
        self._blocks(constraints, sides)
        self.n = program.x.size
        self.has_parameters = any(i >= 0 for i in program.param_id_to_size)

    def _check_convex(
        self, objective: Any, constraints: Sequence[Any], target: Any, rows: Sequence[Any]
    ) -> None:
        for user, row in zip(constraints, rows, strict=True):
            if not row.is_dcp():
                raise UnsupportedProblem(
                    f"Constraint {user} of {self.who} is not convex (by CVXPY's rules, products of "
                    f"variables and squares apart). Write it with linear or convex terms."
                )
        if not target.is_convex():
            sense = "maximizes" if self.maximize else "minimizes"
            raise UnsupportedProblem(
                f"The objective of {self.who}, which {sense} {objective.args[0]}, is not "
                f"{'concave' if self.maximize else 'convex'} (by CVXPY's rules, products and "
                f"squares apart). Only linear and convex quadratic objectives are supported."
            )

    def _blocks(self, constraints: Sequence[Any], sides: Sequence[tuple[Any, Any]]) -> None:
        user = {constraint.id: i for i, constraint in enumerate(constraints)}
        side = {c.id: (k, s) for k, pair in enumerate(sides) for s, c in enumerate(pair)}
        self.row_constraint = np.full(self._program.constr_size, -1)
        self.row_entry = np.zeros(self._program.constr_size, int)
        self.equality = np.zeros(self._program.constr_size, bool)
        self.cone_rows: list[Array] = []
        self.cone_kinds: list[Kind] = []
        side_rows = [[np.empty(0, int)] * 2 for _ in sides]
        start = 0
        for block in self._program.constraints:
            index = np.arange(start, start + block.size)
            start += block.size
            kind = type(block).__name__
            if block.id in side:
                k, which = side[block.id]
                side_rows[k][which] = index
                continue
            self.row_constraint[index] = user.get(block.id, -1)
            self.row_entry[index] = np.arange(block.size)
            if kind == "Zero":
                self.equality[index] = True
            elif kind == "SOC":
                self._add_cones(Kind.SECOND_ORDER, _second_order(block, index))
            elif kind == "ExpCone" and self._conic:
                self._add_cones(Kind.EXPONENTIAL, list(index.reshape(3, -1).T))
            elif kind == "PSD" and self._conic:
                self._add_cones(Kind.SEMIDEFINITE, list(index.reshape(-1, block.shape[-1] ** 2)))
            elif kind != "NonNeg":
                self._refuse_cone(kind)
        self.row_names = tuple(
            row_name(constraints[number], number, entry) if number >= 0 else "epigraph"
            for number, entry in zip(
                self.row_constraint.tolist(), self.row_entry.tolist(), strict=True
            )
        )
        none = np.empty(0, int)
        #: Rows of the left and of the right factors of all entries of products, in order.
        self.sides = tuple(np.concatenate([none, *(pair[s] for pair in side_rows)]) for s in (0, 1))
        #: A matrix's entries become its scaled triangle; ``None`` for cones that keep their rows.
        self.triangles = tuple(
            symmetrizer(round(np.sqrt(len(rows)))) if kind is Kind.SEMIDEFINITE else None
            for rows, kind in zip(self.cone_rows, self.cone_kinds, strict=True)
        )
        self.linear_rows = np.ones(self._program.constr_size, bool)
        self.linear_rows[np.concatenate([*self.sides, *self.cone_rows])] = False

    def _add_cones(self, kind: Kind, rows: list[Array]) -> None:
        self.cone_rows += rows
        self.cone_kinds += [kind] * len(rows)

    def _refuse_cone(self, kind: str) -> None:
        name = _CONIC[kind].value if kind in _CONIC else _REFUSED.get(kind, kind)
        takes = "second-order, exponential and semidefinite" if self._conic else "second-order"
        raise UnsupportedProblem(
            f"The problem of {self.who} needs a {name} cone. Besides linear and quadratic terms it "
            f"may have {takes} cones only."
        )

    def places(self, starts: Mapping[int, int], first: int) -> tuple[Array, int]:
        """Return where this level's columns stand among a problem's.

        Parameters
        ----------
        starts
            The first column of each plain leaf, by its id.
        first
            Where auxiliary columns begin.

        Returns
        -------
        tuple
            The place of each column, or ``-2 - k`` for entry ``k`` of the products, shape
            ``(n,)``; and the next column that is free.
        """
        program = self._program
        place = np.full(self.n, -1)
        products = {p.id for p, _, _ in self.products}
        for variable in program.variables:
            if variable.id in products:
                continue
            begin = starts.get(variable.id, first)
            if variable.id not in starts:
                first += variable.size
            own = program.var_id_to_col[variable.id]
            place[own : own + variable.size] = np.arange(begin, begin + variable.size)
        entry = 0
        for p, _, _ in self.products:
            own = program.var_id_to_col.get(p.id)
            if own is not None:
                place[own : own + p.size] = -2 - np.arange(entry, entry + p.size)
            entry += p.size
        return place, first

    def arrays(self, values: Mapping[int, Array]) -> LevelArrays:
        """Return the arrays at parameter values, keyed by the id of our plain parameter."""
        program = self._program
        needed = {i: values[i] for i in program.param_id_to_size if i in values}
        if program.P is None:
            c, constant, A, b = program.apply_parameters(needed)
            P = sp.csr_array((self.n, self.n))
        else:
            P, c, constant, A, b = program.apply_parameters(needed, quad_obj=True)
        A = sp.csr_array(A)
        self._check_finite(c, constant, A, b)
        # The compiler says h = A w + b == 0, A w + b >= 0 or A w + b in a cone; here a value is
        # A w - b, and an inequality is g = A w - b <= 0.
        flip = self.equality | ~self.linear_rows
        sign = np.where(flip, 1.0, -1.0)
        A.data = A.data * np.repeat(sign, np.diff(A.indptr))
        return LevelArrays(sp.csr_array(P), c, float(constant), A, -sign * b)

    def tensors(self) -> dict[str, Tensor]:
        """Return what the arrays are made of: each entry an affine function of the parameters.

        Keys are ``P``, ``c``, ``constant``, ``A`` and ``b``, in the signs of ``arrays``; the
        objective is the sum of ``P``'s entries times both columns, without a factor of one half.
        Parameters are numbered as in ``parameter_starts``.
        """
        program = self._program
        n = self.n
        m = self._program.constr_size
        sign = np.where(self.equality | ~self.linear_rows, 1.0, -1.0)
        rows = sp.coo_array(program.A)
        row = rows.coords[0] % max(m, 1)
        column = rows.coords[0] // max(m, 1)
        entries = rows.data * sign[row]
        inside = column < n
        costs = sp.coo_array(program.q)
        linear = costs.coords[0] < n
        none = np.empty(0, int)
        square = Tensor(none, none, none, np.empty(0))
        if program.P is not None:
            entry = sp.coo_array(program.P)
            first = entry.coords[0] % n
            second = entry.coords[0] // n
            is_counted_once = _is_triangle(first, second) & (first != second)
            value = np.where(is_counted_once, 1.0, 0.5) * entry.data
            square = Tensor(first, second, entry.coords[1], value)
        zero = np.zeros(len(costs.data), int)
        return {
            "P": square,
            "c": Tensor(costs.coords[0], zero, costs.coords[1], costs.data).take(linear),
            "constant": Tensor(zero, zero, costs.coords[1], costs.data).take(~linear),
            "A": Tensor(row, column, rows.coords[1], entries).take(inside),
            "b": Tensor(row, np.zeros(len(row), int), rows.coords[1], -entries).take(~inside),
        }

    @property
    def parameter_starts(self) -> Mapping[int, int]:
        """Where each plain parameter's entries start, column by column; key -1: the number one."""
        return self._program.param_id_to_col

    def _check_finite(self, c: Array, constant: Any, A: sp.csr_array, b: Array) -> None:
        if not (np.isfinite(c).all() and np.isfinite(constant)):
            raise ProblemError(f"The objective of {self.who} contains NaN or infinite data.")
        bad = ~np.isfinite(b)
        bad[np.repeat(np.arange(A.shape[0]), np.diff(A.indptr))[~np.isfinite(A.data)]] = True
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            number = self.row_constraint[row]
            where = f"Constraint {number} (counted from 0)" if number >= 0 else "A product of terms"
            raise ProblemError(
                f"{where} of {self.who} contains NaN or infinite data; leave a constraint out "
                f"rather than giving it an infinite side."
            )


def symmetric(P: sp.csr_array) -> sp.csr_array:
    """Return the matrix of ``w'P w / 2``, of which the compiler may hand over one triangle."""
    row, column = P.tocoo().coords
    if _is_triangle(row, column):
        P = P + P.T - sp.diags_array(P.diagonal())
    return sp.csr_array(P)


def _is_triangle(row: Array, column: Array) -> bool:
    """Return whether all entries off the diagonal stand on one side of it, if there are any."""
    return bool((row > column).any() != (row < column).any())


def _compile(who: str, problem: cp.Problem) -> Any:
    """Run CVXPY's reductions to cone form.

    ``get_problem_data`` runs the same ones, and then chooses a solver and rearranges rows for it,
    which is not needed here (``benchmarks/cases/compile.py`` compares the two).
    """
    if not problem.is_dcp():
        raise UnsupportedProblem(
            f"The problem of {who} is not convex by CVXPY's rules (products of affine terms and "
            f"their squares apart). Only linear and convex quadratic problems are supported."
        )
    if not problem.is_dpp():
        raise NotParametric
    quadratic = problem.objective.expr.has_quadratic_term()
    reductions = (
        Dcp2Cone(quad_obj=quadratic),
        CvxAttr2Constr(),
        EliminateZeroSized(),
        ConeMatrixStuffing(quad_obj=quadratic, canon_backend="COO"),
    )
    program: Any = problem
    try:
        for reduction in reductions:
            program, _ = reduction.apply(program)
    except DCPError as error:
        raise UnsupportedProblem(f"The problem of {who} is not convex: {error}") from error
    return program


def _second_order(block: Any, index: Array) -> list[Array]:
    """Return the rows of each cone ``(t, u)`` of a block: first all ``t``, then all ``u``."""
    bound, inner = block.args
    grid = index[bound.size :].reshape(np.atleast_1d(inner.shape), order="F")
    grid = grid.reshape(-1, 1) if grid.ndim == 1 else grid
    vectors = grid.T if block.axis == 0 else grid
    return [np.concatenate([[t], u]) for t, u in zip(index[: bound.size], vectors, strict=True)]
