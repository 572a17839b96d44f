"""Solvers of smooth problems; they need torch."""

from bilevel import needs_torch  # noqa: F401  first, so that it says what to install
from bilevel.solvers.smooth.hypergradient_descent import HypergradientDescent
from bilevel.solvers.smooth.iterate import AbstractIterativeSolver, Search
from bilevel.solvers.smooth.newton import Newton
from bilevel.solvers.smooth.reduced_newton import ReducedNewton
from bilevel.solvers.smooth.soba import SOBA
from bilevel.solvers.smooth.solver import AbstractSmoothSolver, SearchReport, Task

__all__ = [
    "SOBA",
    "AbstractIterativeSolver",
    "AbstractSmoothSolver",
    "HypergradientDescent",
    "Newton",
    "ReducedNewton",
    "Search",
    "SearchReport",
    "Task",
]
