"""How an answer is differentiated with respect to its data; an adjoint is an argument."""

from bilevel import needs_torch  # noqa: F401  first, so that it says what to install
from bilevel.adjoints.adjoint import (
    AbstractAdjoint,
    Diagnosis,
    Form,
    GradientKind,
    Prepared,
    ResponseRule,
    Responses,
    Solve,
)
from bilevel.adjoints.bilevel.adjoint import AbstractBilevelAdjoint, BilevelPrepared
from bilevel.adjoints.convex.cone import Cone
from bilevel.adjoints.convex.kkt import KKT
from bilevel.adjoints.function import AbstractRule
from bilevel.adjoints.smooth.adjoint import (
    AbstractSmoothAdjoint,
    DifferentiableResponse,
    LeaderAdjoint,
)
from bilevel.adjoints.smooth.implicit import Implicit
from bilevel.adjoints.smooth.unrolled import Unrolled

__all__ = [
    "KKT",
    "AbstractAdjoint",
    "AbstractBilevelAdjoint",
    "AbstractRule",
    "AbstractSmoothAdjoint",
    "BilevelPrepared",
    "Cone",
    "Diagnosis",
    "DifferentiableResponse",
    "Form",
    "GradientKind",
    "Implicit",
    "LeaderAdjoint",
    "Prepared",
    "ResponseRule",
    "Responses",
    "Solve",
    "Unrolled",
]
