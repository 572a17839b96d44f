"""How an answer is differentiated with respect to its data; an adjoint is an argument."""

from bilevel.adjoints.adjoint import Diagnosis, GradientKind
from bilevel.adjoints.cone import Cone
from bilevel.adjoints.implicit import Implicit
from bilevel.adjoints.kkt import KKT
from bilevel.adjoints.unrolled import Unrolled

__all__ = ["KKT", "Cone", "Diagnosis", "GradientKind", "Implicit", "Unrolled"]
