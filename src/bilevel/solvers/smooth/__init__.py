"""Solvers of smooth problems; they need torch."""

from bilevel.solvers.smooth.descent import HypergradientDescent
from bilevel.solvers.smooth.follower import Newton
from bilevel.solvers.smooth.reduced import ReducedNewton
from bilevel.solvers.smooth.solver import AbstractSmoothSolver, Task
from bilevel.solvers.smooth.stochastic import SOBA

__all__ = [
    "SOBA",
    "AbstractSmoothSolver",
    "HypergradientDescent",
    "Newton",
    "ReducedNewton",
    "Task",
]
