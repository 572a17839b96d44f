"""How an answer is differentiated with respect to its data; an adjoint is an argument."""

from bilevel import needs_torch  # noqa: F401  first, so that it says what to install
from bilevel.adjoints.adjoint import Diagnosis, GradientKind
from bilevel.adjoints.convex.cone import Cone
from bilevel.adjoints.convex.kkt import KKT
from bilevel.adjoints.smooth.implicit import Implicit
from bilevel.adjoints.smooth.unrolled import Unrolled

__all__ = ["KKT", "Cone", "Diagnosis", "GradientKind", "Implicit", "Unrolled"]
