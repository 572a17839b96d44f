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
from bilevel.extras import require, stand_in
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
    from bilevel import adjoints as adjoints
    from bilevel import applications as applications
    from bilevel import layers as layers
    from bilevel import learning as learning
    from bilevel import plots as plots
    from bilevel.layers.gradcheck import gradcheck
    from bilevel.problem.samples import SampleMean
    from bilevel.problem.smooth import SmoothProblem
    from bilevel.solvers.smooth import SOBA, HypergradientDescent, ReducedNewton

__version__ = "0.1.0"

# What is imported when it is asked for: a name and the module that holds it.
_LATER = {
    "HypergradientDescent": "bilevel.solvers.smooth",
    "ReducedNewton": "bilevel.solvers.smooth",
    "SOBA": "bilevel.solvers.smooth",
    "SampleMean": "bilevel.problem.samples",
    "SmoothProblem": "bilevel.problem.smooth",
    "gradcheck": "bilevel.layers.gradcheck",
}
_ROOMS = frozenset({"adjoints", "applications", "layers", "learning", "plots"})
_WITH_TORCH = frozenset({*_LATER, "adjoints", "layers", "learning"})


def __getattr__(name: str) -> Any:
    if name not in _LATER and name not in _ROOMS:
        raise AttributeError(f"module 'bilevel' has no attribute {name!r}")
    if name in _WITH_TORCH:
        try:
            require("torch", f"bilevel.{name}")
        except BackendNotFound as error:
            # No error yet: hasattr, dir and ``from bilevel import *`` ask for every name.
            return stand_in(name, str(error))
    if name in _ROOMS:
        return import_module(f"bilevel.{name}")
    found = getattr(import_module(_LATER[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *_ROOMS})


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
