"""Bilevel optimization: model a leader and its followers in CVXPY, solve with a certificate."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bilevel import adjoints as adjoints
    from bilevel import applications as applications
    from bilevel import backends as backends
    from bilevel import errors as errors
    from bilevel import instances as instances
    from bilevel import layers as layers
    from bilevel import learning as learning
    from bilevel import plots as plots
    from bilevel.certificates import verify
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
    from bilevel.layers.gradcheck import gradcheck
    from bilevel.problem.abstract import AbstractProblem
    from bilevel.problem.follower import Follower
    from bilevel.problem.problem import Problem
    from bilevel.problem.samples import SampleMean
    from bilevel.problem.smooth import SmoothProblem
    from bilevel.program import Progress
    from bilevel.reformulate import (
        KKT,
        SOS1,
        BigM,
        Indicator,
        InnerDual,
        Product,
        StrongDuality,
        WorstResponse,
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
    )
    from bilevel.solvers.smooth import SOBA, HypergradientDescent, ReducedNewton
    from bilevel.solvers.solve import solve
    from bilevel.status import Status
    from bilevel.structure import Stance, Structure

__version__ = "0.1.0"

# A name and the module that holds it, imported when it is first asked for: so the help of the
# command line needs no CVXPY, and what is not used costs no time. TYPE_CHECKING above says the
# same to type checkers.
_LATER = {
    "AbstractProblem": "bilevel.problem.abstract",
    "Auto": "bilevel.solvers",
    "BackendError": "bilevel.errors",
    "BackendNotFound": "bilevel.errors",
    "BatchFailed": "bilevel.errors",
    "BigM": "bilevel.reformulate",
    "BilevelError": "bilevel.errors",
    "BilevelWarning": "bilevel.errors",
    "Branching": "bilevel.solvers",
    "Certificate": "bilevel.solution",
    "CheckpointError": "bilevel.errors",
    "Choice": "bilevel.solvers",
    "Continuation": "bilevel.solvers",
    "Follower": "bilevel.problem.follower",
    "HypergradientDescent": "bilevel.solvers.smooth",
    "Indicator": "bilevel.reformulate",
    "InnerDual": "bilevel.reformulate",
    "KKT": "bilevel.reformulate",
    "OuterApproximation": "bilevel.solvers",
    "Problem": "bilevel.problem.problem",
    "ProblemError": "bilevel.errors",
    "Product": "bilevel.reformulate",
    "Progress": "bilevel.program",
    "ReactionMap": "bilevel.response.reaction_map.reaction_map",
    "ReducedNewton": "bilevel.solvers.smooth",
    "Region": "bilevel.response.reaction_map.reaction_map",
    "SOBA": "bilevel.solvers.smooth",
    "SOS1": "bilevel.reformulate",
    "SampleMean": "bilevel.problem.samples",
    "SingleLevel": "bilevel.solvers",
    "SmoothProblem": "bilevel.problem.smooth",
    "SmoothSolution": "bilevel.smooth_solution",
    "Solution": "bilevel.solution",
    "SolveFailed": "bilevel.errors",
    "Stance": "bilevel.structure",
    "Stats": "bilevel.solution",
    "Status": "bilevel.status",
    "StrongDuality": "bilevel.reformulate",
    "Structure": "bilevel.structure",
    "Substitution": "bilevel.solvers",
    "Tolerances": "bilevel.solution",
    "UnsupportedDerivative": "bilevel.errors",
    "UnsupportedProblem": "bilevel.errors",
    "WorstResponse": "bilevel.reformulate",
    "WorstCase": "bilevel.solvers",
    "gradcheck": "bilevel.layers.gradcheck",
    "lift": "bilevel.reformulate",
    "reaction": "bilevel.response.reaction_map.reaction",
    "read": "bilevel.io",
    "solve": "bilevel.solvers.solve",
    "verify": "bilevel.certificates",
    "write": "bilevel.io",
}
_RENAMED = {"WorstAnswer": "WorstResponse"}
_ROOMS = frozenset(
    {
        "adjoints",
        "applications",
        "backends",
        "errors",
        "instances",
        "io",
        "layers",
        "learning",
        "plots",
        "problem",
        "program",
        "reformulate",
        "response",
        "smooth_solution",
        "solution",
        "solvers",
        "status",
        "structure",
    }
)

_WITH_TORCH = frozenset(
    {
        "HypergradientDescent",
        "ReducedNewton",
        "SOBA",
        "SampleMean",
        "SmoothProblem",
        "adjoints",
        "gradcheck",
        "layers",
        "learning",
    }
)

if not TYPE_CHECKING:  # or a type checker would take every misspelt name for one of these

    def __getattr__(name: str) -> Any:
        if name in _RENAMED:
            from bilevel.deprecation import renamed_attribute

            return renamed_attribute("bilevel", name, _RENAMED)
        if name not in _LATER and name not in _ROOMS:
            raise AttributeError(f"module 'bilevel' has no attribute {name!r}")
        if name in _WITH_TORCH:
            from bilevel.errors import BackendNotFound
            from bilevel.extras import require, stand_in

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
    "AbstractProblem",
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
    "WorstCase",
    "WorstResponse",
    "gradcheck",
    "instances",
    "lift",
    "reaction",
    "read",
    "solve",
    "verify",
    "write",
]
