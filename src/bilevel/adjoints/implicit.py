"""Derivatives of smooth answers by the implicit function theorem, matrix-free."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bilevel.adjoints.function import AbstractRule, apply
from bilevel.adjoints.linear import Product, Solved, cg, diagonal, direct, minres
from bilevel.adjoints.nested import nested
from bilevel.adjoints.stationarity import Hessian, Scalar, Stationarity
from bilevel.errors import BilevelWarning, ProblemError
from bilevel.problem.precision import attainable
from bilevel.problem.smooth import Instances, SmoothProblem
from bilevel.problem.trees import Tree, flatten, still, unflatten

#: Above this residual of the optimality conditions the formula is not a derivative of the answer.
NOT_A_SOLUTION = 1e-5
_Derivatives = tuple[Hessian, list[Tensor]]
_METHODS = ("auto", "dense", "minres", "cg", "nested")
_DENSE = 128


@dataclass(frozen=True)
class Implicit:
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
    limit
        Most products with ``H``.
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
    BIGRAD, Theorem 2, Algorithm 1 and appendix A.6.

    Examples
    --------
    >>> import bilevel as bl, torch
    >>> from bilevel import adjoints
    >>> problem = bl.SmoothProblem(
    ...     F=lambda x, y: (y - 1) ** 2, f=lambda x, y: (x.exp() * y - 2) ** 2
    ... )
    >>> x = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    >>> y = adjoints.Implicit().attach(problem, x, torch.tensor(2.0, dtype=torch.float64))
    >>> problem.F(x, y).backward()
    >>> print(x.grad.item())
    -4.0
    """

    method: str = "auto"
    rtol: float = 1e-10
    limit: int = 10_000
    precondition: Product | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise ProblemError(f"Implicit's method must be one of {_METHODS}, not {self.method!r}.")
        if not 0 < self.rtol < 1 or self.limit < 1:
            raise ProblemError("Implicit needs 0 < rtol < 1 and limit >= 1.")

    def attach(self, problem: SmoothProblem, x: Any, y: Any, *z: Any) -> Any:
        """Return a follower's answer ``y`` with its derivative in ``x``, ``z`` and all captured.

        Parameters
        ----------
        problem
            Whose follower answers.
        x, z
            The leader's decision and the inputs, each a tensor or a tree of tensors.
        y
            The follower's answer to them, found by any means; its own gradient is dropped.

        Returns
        -------
        tensor or tree of tensors
            ``y``, with the implicit derivative.

        Raises
        ------
        ProblemError
            If the functions do not take these tensors.

        Warns
        -----
        BilevelWarning
            If ``y`` is no answer: the residual of its optimality conditions is above 1e-5.
        """
        root, shape_y = self.root(problem, x, y, z)
        return shape_y.tree(root.answer[0][0, : shape_y.size])

    def root(
        self, problem: SmoothProblem, x: Any, y: Any, z: Sequence[Any], start: Tensor | None = None
    ) -> tuple[Root, Tree]:
        """Return a follower's answer as a root, and the shapes of ``y``, its first entries.

        Parameters
        ----------
        problem, x, y, z
            As in ``attach``.
        start
            A first guess at the linear system's solution, such as ``solved.x`` of a root nearby.
        """
        shape_x, shape_y = Tree(x, "x"), Tree(y, "y")
        flat_x, flat_y = shape_x.flat(x, copy=False), shape_y.flat(y, copy=False).detach()
        flat_x, flat_y = flat_x.unsqueeze(0), flat_y.unsqueeze(0)
        instances = Instances(problem, shape_x, shape_y, still(tuple(z)))
        st, w = Stationarity.of(instances, flat_x.detach(), flat_y).recover(flat_x.detach(), flat_y)
        return self.follower(st, flat_x, w, z, start), shape_y

    def follower(
        self, st: Stationarity, x: Tensor, w: Tensor, z: Sequence[Any], start: Tensor | None = None
    ) -> Root:
        """Return the root that is a follower's answer ``w`` to ``x`` and ``z``."""
        leaves, spec = flatten(tuple(z))

        def make(own: Sequence[Tensor]) -> Scalar:
            at, given = st.at(unflatten(spec, own[1:])), own[0]
            return lambda w: at.follower(given, w)

        definite = st.follower_size == st.sizes[1]
        return Root(self, make, w, [x, *leaves], definite, start)

    def leader(
        self, st: Stationarity, u: Tensor, z: Sequence[Any], start: Tensor | None = None
    ) -> Root:
        """Return the root that is the answer ``u`` of a whole problem to ``z``."""
        leaves, spec = flatten(tuple(z))

        def make(own: Sequence[Tensor]) -> Scalar:
            return st.at(unflatten(spec, own)).leader

        root = Root(self, make, u, leaves, False, start)
        if self.method == "nested":
            root.other = lambda own, b: nested(st.at(unflatten(spec, own)), u, b, self)
        return root

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
        M, rtol, limit = self.precondition, attainable(self.rtol, b, 10), self.limit
        if method == "cg":
            helper, used = diagonal(H, b) if M is None else (M, 0)
            found = cg(H, b, start=start, precondition=helper, rtol=rtol, limit=limit)
            products = found.products + used
            if bool(found.is_positive.all()):
                return replace(found, products=products)
            again = minres(H, b, precondition=M, rtol=rtol, limit=limit)
            return Solved(again.x, again.residual, products + again.products, found.is_positive)
        return minres(H, b, start=start, precondition=M, rtol=rtol, limit=limit)


class Root(AbstractRule):
    """A stationary point as a function of tensors in its scalar.

    Parameters
    ----------
    adjoint
        Solves the linear system.
    make
        Returns the scalar for given inputs.
    u
        The stationary point, shape ``(B, n)``.
    inputs
        The tensors that the scalar is given; those that its functions capture are found.
    definite
        Whether the second derivative ought to be positive definite.
    start
        A first guess at the system's solution.

    Attributes
    ----------
    solved
        The linear system of the last backward pass.
    other
        Solves the system by other means, if there are any.
    """

    order = 1
    foldable = False
    what = "a smooth answer"

    def __init__(
        self,
        adjoint: Implicit,
        make: Callable[[Sequence[Tensor]], Scalar],
        u: Tensor,
        inputs: Sequence[Tensor],
        definite: bool,
        start: Tensor | None,
    ) -> None:
        self._adjoint, self._make, self._u = adjoint, make, u.detach()
        self._inputs = list(inputs)
        self._definite, self._start = definite, start
        # What was evaluated to see whether u is an answer serves the first backward pass too.
        self._kept: _Derivatives | None = self._derivatives(self._inputs)
        H, own = self._kept
        known = {id(H.u), *map(id, own)}
        self._captured = [leaf for leaf in H.leaves() if id(leaf) not in known]
        self._residual = torch.linalg.vector_norm(H.gradient.detach(), dim=-1)
        self.solved: Solved | None = None
        self.other: Callable[[Sequence[Tensor], Tensor], Solved] | None = None

    @property
    def answer(self) -> tuple[Tensor, ...]:
        """The stationary point, differentiable."""
        residual = float(self._residual.max())
        if not residual <= attainable(NOT_A_SOLUTION, self._u):
            warnings.warn(
                f"The optimality conditions fail by {residual:.1e}: this is not an answer, and "
                f"what is returned not its derivative. Solve more accurately.",
                BilevelWarning,
                stacklevel=3,
            )
        return apply(self, *self._inputs, *self._captured)

    def probe(self) -> Tensor:
        """Return the relative residual of the linear system for a gradient of ones."""
        H, _ = self._kept or self._derivatives(self._inputs)
        return self._adjoint.solve(H, torch.ones_like(self._u), self._definite).residual

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the stationary point."""
        return (self._u.clone(),)

    def backward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """Return the gradients of ``grads`` times the answer, by one linear system."""
        if grads[0] is None:
            return (None,) * len(inputs)
        H, own = self._kept or self._derivatives(inputs[: len(self._inputs)])
        self._kept = None  # the graph is freed with this call
        b = grads[0].detach()
        if self.other is not None:
            solved = self.other([one.detach() for one in own], b)
        else:
            start = None if self._start is None else -self._start
            solved = self._adjoint.solve(H, b, self._definite, start)
        del b
        self.solved = replace(solved, x=solved.x.neg_())
        wanted = [one for one in (*own, *self._captured) if one.requires_grad]
        found = iter(H.along(wanted, self.solved.x))
        return [next(found) if one.requires_grad else None for one in (*own, *self._captured)]

    def _derivatives(self, inputs: Sequence[Tensor]) -> _Derivatives:
        """Return the scalar's derivatives in ``u``, and the inputs of which it is made."""
        with torch.enable_grad():
            own = [one.detach().requires_grad_(one.requires_grad) for one in inputs]
            return Hessian(self._make(own), self._u), own
