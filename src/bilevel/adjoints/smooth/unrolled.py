"""Derivatives of a follower's response through the steps that lead to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vecdot, vector_norm

from bilevel.adjoints.smooth.adjoint import AbstractSmoothAdjoint, DifferentiableResponse
from bilevel.adjoints.smooth.stationarity import Hessian, Stationarity, gradients
from bilevel.errors import ProblemError, UnsupportedDerivative
from bilevel.problem.smooth import Instances, SmoothProblem
from bilevel.problem.trees import Tree, detached


@dataclass(frozen=True)
class Unrolled(AbstractSmoothAdjoint):
    """Gradient steps from a given answer, differentiated one by one.

    .. code-block:: text

        y_k+1 = y_k - a f_y(x, y_k),    J_K = (I - (I - a H)^K) J    at an answer, y_0 held fixed

    Parameters
    ----------
    steps
        How many; memory grows with them.
    step_size
        ``a``; ``None`` takes one over the largest eigenvalue of ``H``, which is estimated.

    Notes
    -----
    The result is the derivative of ``steps`` steps and not of the answer; ``truncation`` estimates
    by how much they differ. It falls by a factor of one minus the inverse condition number a step:
    on a quadratic follower with Hessian ``H``, ``K`` steps of size ``a`` from a fixed start have
    the derivative ``(I - (I - a H)**K) dy*/dx``.

    References
    ----------
    Shaban, Cheng, Hatch and Boots (2019), *Truncated Back-propagation for Bilevel Optimization*,
    AISTATS.

    Examples
    --------
    >>> import bilevel as bl, torch
    >>> from bilevel import adjoints
    >>> problem = bl.SmoothProblem(F=lambda x, y: y, f=lambda x, y: (y - x) ** 2)
    >>> x = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    >>> y = adjoints.Unrolled(steps=3, step_size=0.25).attach(
    ...     problem, x, x.detach()
    ... )
    >>> y.backward()
    >>> print(x.grad.item())
    0.875
    """

    steps: int = 100
    step_size: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or (self.step_size is not None and not self.step_size > 0):
            raise ProblemError("Unrolled needs steps >= 1 and a positive step_size.")

    def differentiate(
        self, problem: SmoothProblem, x: Any, y: Any, z: Sequence[Any], start: Tensor | None = None
    ) -> DifferentiableResponse:
        """Return the last of ``steps`` gradient steps from ``y``; the follower is unconstrained."""
        del start
        shape_x = Tree(x, "x")
        shape_y = Tree(y, "y")
        flat_x = shape_x.flat(x).unsqueeze(0)
        flat_y = shape_y.flat(y).detach().unsqueeze(0)
        instances = Instances(problem, shape_x, shape_y, tuple(z))
        size = self._size(instances, flat_x, flat_y)
        is_recorded = torch.is_grad_enabled()
        with torch.enable_grad():
            for _ in range(self.steps):
                flat_y = flat_y if flat_y.requires_grad else flat_y.requires_grad_()
                (grad,) = gradients(instances.value("f", flat_x, flat_y), (flat_y,))
                flat_y = flat_y - size * grad
                flat_y = flat_y if is_recorded else flat_y.detach()
        return DifferentiableResponse(shape_y.tree(flat_y[0]))

    def truncation(self, problem: SmoothProblem, x: Any, y: Any, *z: Any) -> float:
        """Return an estimate of the relative difference to the derivative of the answer.

        It is ``r^steps`` with ``r`` the largest eigenvalue of ``I - a H`` at ``y``; above one, the
        steps diverge.

        Examples
        --------
        >>> import bilevel as bl, torch
        >>> from bilevel import adjoints
        >>> problem = bl.SmoothProblem(F=lambda x, y: y, f=lambda x, y: (y - x) ** 2)
        >>> x = torch.tensor(1.0, dtype=torch.float64)
        >>> print(adjoints.Unrolled(steps=3, step_size=0.25).truncation(problem, x, x))
        0.125
        """
        shape_x = Tree(x, "x")
        shape_y = Tree(y, "y")
        flat_x, flat_y = (t.flat(s).detach() for t, s in ((shape_x, x), (shape_y, y)))
        instances = Instances(problem, shape_x, shape_y, detached(z))
        size = self._size(instances, flat_x[None], flat_y[None])
        H = Hessian(lambda y: instances.value("f", flat_x[None], y), flat_y[None])
        rate, _ = _largest(lambda v: v - size * H(v), flat_y[None])
        return rate**self.steps

    def _size(self, instances: Instances, x: Tensor, y: Tensor) -> float:
        if any(Stationarity.of(instances, x.detach(), y.detach()).sizes[2:4]):
            raise UnsupportedDerivative(
                "Unrolled takes followers without constraints; use adjoints.Implicit()."
            )
        if self.step_size is not None:
            return self.step_size
        fixed = instances.at(detached(instances.z))
        x = x.detach()
        largest, _ = _largest(Hessian(lambda y: fixed.value("f", x, y), y.detach()), y.detach())
        return 1 / largest if largest > 0 else 1.0


def _largest(product: Any, like: Tensor) -> tuple[float, Tensor]:
    """Return the eigenvalue of largest size by the power method, and its vector."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
    v = v / vector_norm(v)
    old = 0.0
    for _ in range(200):
        new = product(v)
        size = float(vector_norm(new))
        if size == 0.0 or abs(size - old) <= 1e-6 * size:
            break
        v = new / size
        old = size
    return abs(float(vecdot(v, product(v)).sum())), v
