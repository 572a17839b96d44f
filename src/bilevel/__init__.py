"""Bilevel optimization: model a leader and its followers in CVXPY, solve with a certificate."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bilevel import instances
from bilevel.errors import (
    BackendError,
    BackendNotFound,
    BatchFailed,
    BilevelError,
    BilevelWarning,
    CheckpointError,
    ProblemError,
    SolveFailed,
    UnsupportedDerivative,
    UnsupportedProblem,
)
from bilevel.io import read, write
from bilevel.problem.problem import Follower, Problem
from bilevel.program import Progress
from bilevel.reformulate import (
    KKT,
    SOS1,
    BigM,
    Indicator,
    InnerDual,
    Product,
    StrongDuality,
    WorstAnswer,
    lift,
)
from bilevel.response.reaction_map.reaction import reaction
from bilevel.response.reaction_map.reaction_map import ReactionMap, Region
from bilevel.smooth_solution import SmoothSolution
from bilevel.solution import Certificate, Solution, Stats, Tolerances
from bilevel.solvers import (
    Auto,
    Branching,
    Choice,
    Continuation,
    OuterApproximation,
    SingleLevel,
    Substitution,
    WorstCase,
    solve,
)
from bilevel.status import Status
from bilevel.structure import Stance, Structure
from bilevel.verify import verify

if TYPE_CHECKING:
    from bilevel.layers.gradcheck import gradcheck
    from bilevel.problem.samples import SampleMean
    from bilevel.problem.smooth import SmoothProblem
    from bilevel.solvers.smooth import SOBA, HypergradientDescent, ReducedNewton

__version__ = "0.1.0"


# What needs torch is imported when it is asked for.
_WITH_TORCH = {
    "HypergradientDescent": "bilevel.solvers.smooth",
    "ReducedNewton": "bilevel.solvers.smooth",
    "SOBA": "bilevel.solvers.smooth",
    "SampleMean": "bilevel.problem.samples",
    "SmoothProblem": "bilevel.problem.smooth",
    "gradcheck": "bilevel.layers.gradcheck",
}


def __getattr__(name: str) -> Any:
    if name in _WITH_TORCH:
        return getattr(import_module(_WITH_TORCH[name]), name)
    raise AttributeError(f"module 'bilevel' has no attribute {name!r}")


__all__ = [
    "KKT",
    "SOBA",
    "SOS1",
    "Auto",
    "BackendError",
    "BackendNotFound",
    "BatchFailed",
    "BigM",
    "BilevelError",
    "BilevelWarning",
    "Branching",
    "Certificate",
    "CheckpointError",
    "Choice",
    "Continuation",
    "Follower",
    "HypergradientDescent",
    "Indicator",
    "InnerDual",
    "OuterApproximation",
    "Problem",
    "ProblemError",
    "Product",
    "Progress",
    "ReactionMap",
    "ReducedNewton",
    "Region",
    "SampleMean",
    "SingleLevel",
    "SmoothProblem",
    "SmoothSolution",
    "Solution",
    "SolveFailed",
    "Stance",
    "Stats",
    "Status",
    "StrongDuality",
    "Structure",
    "Substitution",
    "Tolerances",
    "UnsupportedDerivative",
    "UnsupportedProblem",
    "WorstAnswer",
    "WorstCase",
    "gradcheck",
    "instances",
    "lift",
    "reaction",
    "read",
    "solve",
    "verify",
    "write",
]
