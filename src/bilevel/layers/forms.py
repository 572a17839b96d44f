"""Which layer solver takes a batch of programs in which form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from bilevel.adjoints import Form, Solve
from bilevel.layers.conic import ConicSolver
from bilevel.layers.options import Options
from bilevel.layers.quadratic import QuadraticSolver
from bilevel.layers.result import Record
from bilevel.layers.sparse import SparseSolver
from bilevel.problem.functions import Array
from bilevel.problem.parametric import ParametricProgram


class LayerSolver(Solve, Protocol):
    """Solves one batch, and keeps what a layer reports of it.

    Attributes
    ----------
    record
        What was found out about each instance; ``None`` before the batch is solved.
    active
        The active rows, with which the next batch may start; ``None`` where that is of no use.
    """

    record: Record | None
    active: Array | None


class MakeSolver(Protocol):
    """Makes the layer solver of one call."""

    def __call__(
        self, program: ParametricProgram, options: Options, start: Array | None = None, /
    ) -> LayerSolver:
        """Return a solver.

        Parameters
        ----------
        program
            For the numbers of equations and cones.
        options
            The backend and what happens to instances without an answer.
        start
            Active rows to begin with, shape ``(B, m)``, or ``None``.
        """
        ...


SOLVERS: Mapping[Form, MakeSolver] = {
    Form.DENSE: QuadraticSolver,
    Form.SPARSE: SparseSolver,
    Form.CONIC: ConicSolver,
}
