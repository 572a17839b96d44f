"""A convex program of one level whose matrices are functions of its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bilevel.problem.affine import Affine, AffineMatrix
from bilevel.problem.cones import Kind
from bilevel.problem.curvature import Curvature
from bilevel.problem.functions import Array
from bilevel.problem.leaves import Leaf, label


@dataclass(frozen=True)
class ConeBlock:
    """Rows ``start`` to ``stop`` of a program, whose slack lies in one cone."""

    kind: Kind
    start: int
    stop: int


@dataclass(frozen=True)
class ParametricProgram:
    r"""``min y'P y / 2 + q'y + r`` subject to ``A y + s = b``, ``s`` in a product of cones.

    ``P = H + H'``. All data are functions of the inputs ``theta``: affine, but for squares of
    parametric expressions (``curved``), which are multiplied out where ``theta`` is known.

    Parameters
    ----------
    who
        How messages call it.
    inputs
        The CVXPY parameters (and leader variables) that may change; ``theta`` holds their entries
        one after the other, each row by row.
    leaves
        Columns of each variable, by its id.
    names
        One name per column; auxiliary ones are called ``epigraph``.
    maximize
        Whether the user maximizes the negative of the objective.
    H, q, r, A, b
        The affine part of the data.
    curved
        Squares of parametric expressions in the objective.
    equalities, inequalities
        How many rows have slack zero, and how many of those that follow a slack of at least zero.
    cones
        The rows after those.
    row_constraint, row_entry
        Which constraint each row belongs to (``-1``: an auxiliary one), and which entry of it.

    Notes
    -----
    Multipliers ``z`` follow the Lagrangian ``f + z'(A y - b)`` with ``z`` in the dual cone.
    """

    who: str
    inputs: tuple[Any, ...]
    leaves: dict[int, Leaf]
    names: tuple[str, ...]
    maximize: bool
    H: AffineMatrix
    q: Affine
    r: Affine
    A: AffineMatrix
    b: Affine
    curved: tuple[Curvature, ...]
    equalities: int
    inequalities: int
    cones: tuple[ConeBlock, ...]
    row_constraint: Array
    row_entry: Array

    @cached_property
    def slots(self) -> tuple[tuple[str, tuple[int, ...], int], ...]:
        """Name, shape and size of each input."""
        return tuple((label(leaf), tuple(leaf.shape), int(leaf.size)) for leaf in self.inputs)

    @cached_property
    def named(self) -> Array:
        """Which columns are the user's, shape ``(n,)``; the others are epigraphs."""
        return np.arange(self.n) < sum(leaf.plain.size for leaf in self.leaves.values())

    @property
    def n(self) -> int:
        """Number of columns."""
        return len(self.names)

    @property
    def m(self) -> int:
        """Number of rows."""
        return self.b.size

    @cached_property
    def row_names(self) -> tuple[str, ...]:
        """One readable name per row."""
        pairs = zip(self.row_constraint.tolist(), self.row_entry.tolist(), strict=True)
        return tuple("epigraph" if c < 0 else f"c{c}[{e}]" for c, e in pairs)
