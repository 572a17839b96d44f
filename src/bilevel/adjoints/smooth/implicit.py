"""Derivatives of smooth answers by the implicit function theorem, matrix-free."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from bilevel.adjoints.smooth.adjoint import AbstractSmoothAdjoint, DifferentiableResponse
from bilevel.adjoints.smooth.krylov import Product, Solved, cg, diagonal, direct, minres
from bilevel.adjoints.smooth.nested import nested
from bilevel.adjoints.smooth.root import Root
from bilevel.adjoints.smooth.stationarity import ACTIVE, Hessian, Scalar, Stationarity
from bilevel.deprecation import renamed_fields
from bilevel.errors import BilevelWarning, ProblemError
from bilevel.problem.precision import attainable
from bilevel.problem.smooth import Instances, SmoothProblem
from bilevel.problem.trees import Tree, detached, flatten, unflatten

Method = Literal["auto", "dense", "minres", "cg", "nested"]

_DENSE = 128


@renamed_fields(limit="max_steps")
@dataclass(frozen=True)
class Implicit(AbstractSmoothAdjoint):
    """Theorem 2 of BIGRAD: one symmetric linear system, by products alone or dense.

    .. code-block:: text

        H q = -dL/du,    dL/dz = L_z + d/dz (q' grad_u l(u; z)),    H = second derivative of l

    ``l`` is the scalar of ``adjoints.stationarity`` whose stationary point ``u`` holds the answer.
    All third derivatives are in it. Memory is a fixed number of vectors of the size of ``u``.

    Parameters
    ----------
    method
        ``"dense"`` builds ``H``; ``"cg"`` and ``"minres"`` multiply with it, the first for a
        follower alone, whose ``H`` is positive definite; ``"nested"`` is the paper's algorithm for
        a whole problem, GMRES around conjugate gradients. ``"auto"`` takes ``"dense"`` up to 128
        unknowns, else ``"cg"`` for a follower without constraints and ``"minres"`` otherwise.
    rtol
        Relative residual at which an iteration stops.
    max_steps
        Most steps of an iteration, one product with ``H`` each.
    precondition
        Function of ``(B, n)`` that approximates the product with the inverse of ``H``; positive
        definite. Without one, conjugate gradients take the diagonal of ``H`` where they can
        estimate it well enough from four products.

    Notes
    -----
    The answer must satisfy its optimality conditions: ``residual`` tells by how much it does not,
    and above 1e-5 a warning says that the result is no derivative of the answer.

    References
    ----------
    Alesiani (2023), *Implicit Bilevel Optimization: Differentiating through Bilevel Optimization
    Programming* (BIGRAD), AAAI, Theorem 2, Algorithm 1 and appendix A.6.

    Examples
    --------
    >>> import bilevel as bl, torch
    >>> from bilevel import adjoints
    >>> problem = bl.SmoothProblem(
    ...     F=lambda x, y: (y - 1) ** 2, f=lambda x, y: (x.exp() * y - 2) ** 2
    ... )
    >>> x = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    >>> y = adjoints.Implicit().attach(
    ...     problem, x, torch.tensor(2.0, dtype=torch.float64)
    ... )
    >>> problem.F(x, y).backward()
    >>> print(x.grad.item())
    -4.0
    """

    method: Method = "auto"
    rtol: float = 1e-10
    max_steps: int = 10_000
    precondition: Product | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        known = get_args(Method)
        if self.method not in known:
            raise ProblemError(f"Implicit's method must be one of {known}, not {self.method!r}.")
        if not 0 < self.rtol < 1 or self.max_steps < 1:
            raise ProblemError("Implicit needs 0 < rtol < 1 and max_steps >= 1.")

    def differentiate(
        self, problem: SmoothProblem, x: Any, y: Any, z: Sequence[Any], start: Tensor | None = None
    ) -> DifferentiableResponse:
        """See the abstract method; any constraints of the follower's are taken."""
        root, shape_y = self.root(problem, x, y, z, start)
        return DifferentiableResponse(shape_y.tree(root.answer[0][0, : shape_y.size]), root)

    def root(
        self, problem: SmoothProblem, x: Any, y: Any, z: Sequence[Any], start: Tensor | None = None
    ) -> tuple[Root, Tree]:
        """Return a follower's response as a root, and the shapes of ``y``, its first entries.

        Parameters
        ----------
        problem, x, y, z
            As in ``differentiate``.
        start
            A first guess at the linear system's solution, such as ``solved.x`` of a root nearby.
        """
        shape_x = Tree(x, "x")
        shape_y = Tree(y, "y")
        flat_x = shape_x.flat(x, copy=False)
        flat_y = shape_y.flat(y, copy=False).detach()
        flat_x = flat_x.unsqueeze(0)
        flat_y = flat_y.unsqueeze(0)
        instances = Instances(problem, shape_x, shape_y, detached(tuple(z)))
        st, w = Stationarity.of(instances, flat_x.detach(), flat_y).recover(flat_x.detach(), flat_y)
        _warn_of_weakly_active(st, flat_x.detach(), w)
        return self.follower(st, flat_x, w, z, start), shape_y

    def follower(
        self, st: Stationarity, x: Tensor, w: Tensor, z: Sequence[Any], start: Tensor | None = None
    ) -> Root:
        """Return the root that is a follower's response ``w`` to ``x`` and ``z``."""
        leaves, spec = flatten(tuple(z))

        def make(own: Sequence[Tensor]) -> Scalar:
            at = st.at(unflatten(spec, own[1:]))
            given = own[0]
            return lambda w: at.follower(given, w)

        definite = st.follower_size == st.sizes[1]
        return Root(self, make, w, [x, *leaves], definite, start)

    def leader(
        self, st: Stationarity, u: Tensor, z: Sequence[Any], start: Tensor | None = None
    ) -> Root:
        """Return the root that is a whole problem's answer ``u``; see ``LeaderAdjoint``."""
        leaves, spec = flatten(tuple(z))

        def make(own: Sequence[Tensor]) -> Scalar:
            return st.at(unflatten(spec, own)).leader

        def eliminate(own: Sequence[Tensor], b: Tensor) -> Solved:
            return nested(st.at(unflatten(spec, own)), u, b, self)

        other = eliminate if self.method == "nested" else None
        return Root(self, make, u, leaves, False, start, other)

    def solve(self, H: Hessian, b: Tensor, definite: bool, start: Tensor | None = None) -> Solved:
        """Solve ``H q = b`` for each instance.

        Parameters
        ----------
        H
            The second derivative.
        b
            Shape ``(B, n)``.
        definite
            Whether ``H`` ought to be positive definite.
        start
            A first guess.
        """
        method = self.method
        if method in ("auto", "nested"):
            method = "dense" if b.shape[-1] <= _DENSE else "cg" if definite else "minres"
        if method == "dense":
            return direct(H.dense(), b, definite)
        M = self.precondition
        rtol = attainable(self.rtol, b, 10)
        most = self.max_steps
        if method == "cg":
            helper, used = diagonal(H, b) if M is None else (M, 0)
            found = cg(H, b, start=start, precondition=helper, rtol=rtol, max_steps=most)
            products = found.products + used
            if bool(found.is_positive.all()):
                return replace(found, products=products)
            again = minres(H, b, precondition=M, rtol=rtol, max_steps=most)
            return Solved(again.x, again.residual, products + again.products, found.is_positive)
        return minres(H, b, start=start, precondition=M, rtol=rtol, max_steps=most)


def _warn_of_weakly_active(st: Stationarity, x: Tensor, w: Tensor) -> None:
    if not st.sizes[3]:
        return
    m, p = st.sizes[1:3]
    with torch.no_grad():
        slack = -st.instances.vector("g", x, w[:, :m])
    weak = torch.maximum(w[:, m + p :], slack).amin()
    if float(weak) <= attainable(ACTIVE, w):
        warnings.warn(
            "A row of the follower's g is active with multiplier zero: its answer has a kink "
            "there, and the derivative is that of one side.",
            BilevelWarning,
            stacklevel=5,
        )
