"""From one level in CVXPY to a ``ParametricProgram``: compiled once, all else are parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from bilevel.errors import UnsupportedProblem
from bilevel.problem.affine import Affine, AffineMatrix, Terms
from bilevel.problem.cones import Kind
from bilevel.problem.curvature import Curvature, Side, split
from bilevel.problem.empty_rows import drop_empty_rows
from bilevel.problem.functions import Array
from bilevel.problem.leaves import Leaf, label, make_leaf
from bilevel.problem.level import Level, NotParametric, Tensor
from bilevel.problem.parametric import ConeBlock, ParametricProgram
from bilevel.problem.plain import attribute_rows, plain_parameter, source_of
from bilevel.problem.rewrite import Rewriter


def compile_program(
    who: str,
    objective: Any,
    constraints: Sequence[Any],
    variables: Iterable[cp.Variable],
    inputs: Sequence[Any],
) -> ParametricProgram:
    """Compile one convex problem; everything but ``variables`` is an input.

    Raises
    ------
    UnsupportedProblem
        If the problem is not convex in its variables, has integers, needs a cone that is not
        supported, or multiplies parameters in a way that CVXPY's parametric rules exclude.
    """
    leaves = {}
    first = 0
    rows = list(constraints)
    for variable in variables:
        _refuse_integers(who, variable)
        leaf = make_leaf(variable, first, semidefinite=True)
        leaves[variable.id] = leaf
        first += leaf.plain.size
        rows += attribute_rows(leaf)
    known = {i: leaf.expression for i, leaf in leaves.items()}
    plain = {p.id: plain_parameter(p) for p in inputs}
    known |= plain
    rewriter = _LinearRows(known, plain)
    try:
        level = Level(who, objective, rows, rewriter, conic=True)
    except NotParametric:
        raise UnsupportedProblem(_not_parametric(who, objective, rows)) from None
    source = source_of(inputs, plain, level)
    return _Assembly(level, leaves, first, source).program(who, tuple(inputs))


class _LinearRows(Rewriter):
    """Takes products out of objectives only; CVXPY writes squares in constraints as cones."""

    def __init__(self, variables: dict[int, Any], parameters: dict[int, Any]) -> None:
        super().__init__(variables, parameters)
        self._rows = _Plain(variables, parameters)

    def constraint(self, node: Any) -> Any:
        return self._rows.constraint(node)


class _Plain(Rewriter):
    """Puts plain leaves in and leaves products to CVXPY."""

    def _multiply(self, node: Any, left: Any, right: Any) -> Any:
        return node.copy([left, right])

    def _square(self, node: Any, arguments: list[Any]) -> Any | None:
        return None


class _Assembly:
    """Puts a compiled level's terms over columns, rows in the order of ``ParametricProgram``."""

    def __init__(self, level: Level, leaves: dict[int, Leaf], first: int, source: Array) -> None:
        self.level = level
        self.leaves = leaves
        self.source = source
        self.tensors = level.tensors()
        starts = {leaf.plain.id: leaf.first for leaf in leaves.values()}
        self.place, self.n = level.places(starts, first)

    def program(self, who: str, inputs: tuple[Any, ...]) -> ParametricProgram:
        level = self.level
        n = self.n
        order = [np.flatnonzero(level.linear_rows & level.equality)]
        order += [np.flatnonzero(level.linear_rows & ~level.equality)]
        maps = []
        cones = []
        start = sum(map(len, order))
        for kind, rows, triangle in zip(
            level.cone_kinds, level.cone_rows, level.triangles, strict=True
        ):
            map_ = sp.eye_array(len(rows), format="csr") if triangle is None else triangle
            size = map_.shape[0]
            maps.append((rows, map_))
            cones.append(ConeBlock(kind, start, start + size))
            start += size
        spread = _spread(order, maps, len(level.linear_rows), start)
        A = self._rows(self.tensors["A"], spread)
        b = self._rows(self.tensors["b"], spread)
        curved, H, q, r = self._objective()
        constraint = np.full(start, -1)
        entry = np.zeros(start, int)
        linear = np.concatenate(order)
        constraint[: len(linear)] = level.row_constraint[linear]
        entry[: len(linear)] = level.row_entry[linear]
        for block, rows in zip(cones, level.cone_rows, strict=True):
            constraint[block.start : block.stop] = level.row_constraint[rows[0]]
            # The rows of a matrix are a triangle; their entry is the number of the matrix.
            of_matrix = level.row_entry[rows[0]] // len(rows)
            is_matrix = block.kind is Kind.SEMIDEFINITE
            entry[block.start : block.stop] = of_matrix if is_matrix else level.row_entry[rows]
        names = [f"epigraph[{i}]" for i in range(n)]
        for leaf in self.leaves.values():
            names[leaf.first : leaf.first + leaf.plain.size] = leaf.names
        A = A.move(A.place)
        made = ParametricProgram(
            who,
            inputs,
            self.leaves,
            tuple(names),
            level.maximize,
            AffineMatrix.collect(H, (n, n)),
            Affine.collect(q, n),
            Affine.collect(r, 1),
            AffineMatrix.collect(A, (start, n)),
            Affine.collect(b, start),
            curved,
            len(order[0]),
            len(order[1]),
            tuple(cones),
            constraint,
            entry,
        )
        return drop_empty_rows(made)

    def _rows(self, tensor: Tensor, spread: sp.csr_array) -> Terms:
        """Return the terms of a tensor's rows, rearranged; places count row by row."""
        inside = spread.indptr[tensor.row + 1] - spread.indptr[tensor.row]
        which = np.repeat(np.arange(len(tensor.row)), inside)
        offset = np.arange(len(which)) - np.repeat(np.cumsum(inside) - inside, inside)
        at = spread.indptr[tensor.row[which]] + offset
        value = tensor.value[which] * spread.data[at]
        row = spread.indices[at]
        column = tensor.column[which]
        if tensor is self.tensors["A"]:
            if (self.place[column] < 0).any():
                raise UnsupportedProblem(
                    f"A constraint of {self.level.who} contains a product of variables."
                )
            row = row * self.n + self.place[column]
        return Terms(row, self.source[tensor.parameter[which]], value)

    def _objective(self) -> tuple[tuple[Curvature, ...], Terms, Terms, Terms]:
        c = self.tensors["c"]
        square = self.tensors["P"]
        product = -2 - self.place[c.row]
        weighted = product >= 0
        source = self.source[c.parameter]
        weight = Terms(product, source, c.value).take(weighted)
        q = Terms(self.place[c.row], source, c.value).take(~weighted)
        constant = self.tensors["constant"]
        r = Terms(constant.row, self.source[constant.parameter], constant.value)
        H = self._square(square)
        products = len(self.level.sides[0])
        if not products:
            return (), H, q, r
        left = self._side(0)
        right = self._side(1)
        curved, more = split(left, right, Affine.collect(weight, products), self.n)
        return curved, Terms.join(H, more[0]), Terms.join(q, more[1]), Terms.join(r, more[2])

    def _square(self, tensor: Tensor) -> Terms:
        row = self.place[tensor.row]
        column = self.place[tensor.column]
        if (row < 0).any() or (column < 0).any():
            raise UnsupportedProblem(
                f"The objective of {self.level.who} has degree four or more in its variables."
            )
        return Terms(row * self.n + column, self.source[tensor.parameter], tensor.value)

    def _side(self, which: int) -> Side:
        """Return the left or right factors of all products."""
        rows = self.level.sides[which]
        position = np.full(len(self.level.linear_rows), -1)
        position[rows] = np.arange(len(rows))
        A = self.tensors["A"]
        b = self.tensors["b"]
        own = position[A.row] >= 0
        if (self.place[A.column[own]] < 0).any():
            raise UnsupportedProblem(
                f"The objective of {self.level.who} multiplies three or more variables."
            )
        place = position[A.row] * self.n + self.place[A.column]
        linear = Terms(place, self.source[A.parameter], A.value).take(own)
        own = position[b.row] >= 0
        offset = Terms(position[b.row], self.source[b.parameter], np.negative(b.value)).take(own)
        return Side(
            AffineMatrix.collect(linear, (len(rows), self.n)), Affine.collect(offset, len(rows))
        )


def _spread(order: list[Array], maps: list[Any], rows: int, total: int) -> sp.csr_array:
    """Return, for each compiled row, where it goes; a cone's slack is the value itself."""
    linear = np.concatenate(order)
    parts = [(linear, np.arange(len(linear)), np.ones(len(linear)))]
    start = len(linear)
    for index, matrix in maps:
        entry = matrix.tocoo()
        parts.append((index[entry.col], start + entry.row, -entry.data))
        start += matrix.shape[0]
    source, target, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    return sp.csr_array((value, (source, target)), shape=(rows, total))


def _refuse_integers(who: str, variable: cp.Variable) -> None:
    if variable.attributes.get("boolean") or variable.attributes.get("integer"):
        raise UnsupportedProblem(
            f"Variable {label(variable)} of {who} is integer, so its answer jumps and has no "
            f"derivative; this layer is for continuous variables."
        )


def _not_parametric(who: str, objective: Any, rows: Sequence[Any]) -> str:
    for number, row in enumerate(rows):
        if not row.is_dpp():
            return (
                f"Constraint {number} (counted from 0) of {who} is not affine in its parameters "
                f"and leader variables (CVXPY's DPP rules): {row}. Make a product or function of "
                f"parameters a parameter of its own, or name an inner product of variables by a "
                f"new variable and an equation."
            )
    return (
        f"The objective of {who} is not affine in its parameters and leader variables, squares "
        f"apart (CVXPY's DPP rules): {objective}. Make a product or function of parameters a "
        f"parameter of its own."
    )
