"""A problem in, a solution out: a reformulation with a backend, or an iteration."""

from bilevel.solvers.auto import Auto, Choice
from bilevel.solvers.branching import Branching
from bilevel.solvers.continuation import Continuation
from bilevel.solvers.outer_approximation import OuterApproximation
from bilevel.solvers.run import Run
from bilevel.solvers.single_level import SingleLevel
from bilevel.solvers.solve import solve
from bilevel.solvers.solver import AbstractSolver, Outcome, Recorder, Request
from bilevel.solvers.substitution import Substitution
from bilevel.solvers.worst_case import WorstCase

__all__ = [
    "AbstractSolver",
    "Auto",
    "Branching",
    "Choice",
    "Continuation",
    "Outcome",
    "OuterApproximation",
    "Recorder",
    "Request",
    "Run",
    "SingleLevel",
    "Substitution",
    "WorstCase",
    "solve",
]
