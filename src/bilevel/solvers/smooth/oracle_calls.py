"""How often functions are differentiated, whoever does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bilevel.adjoints.smooth.replay import on_repetition
from bilevel.problem.samples import SampleMean
from bilevel.problem.smooth import SmoothProblem
from bilevel.problem.trees import flatten, leaves, unflatten


@dataclass
class Tally:
    """Gradients of ``F`` and ``f``, and products with second derivatives, in passes over the data.

    Parameters
    ----------
    gradients
        A gradient of either function, in all its arguments, is one; over some of the samples of a
        ``SampleMean``, as much as they are of all.
    products
        A product with the second derivative is one; a dense matrix as many as ``y`` has entries.
        A product in ``x`` and ``y`` at once is one.

    Examples
    --------
    >>> import bilevel as bl, torch
    >>> from bilevel.solvers.smooth.oracle_calls import Tally
    >>> problem, tally = (
    ...     bl.SmoothProblem(lambda x, y: x * y, lambda x, y: x * y**2),
    ...     Tally(),
    ... )
    >>> x, y = torch.tensor([2.0, 3.0], requires_grad=True)
    >>> (g,) = torch.autograd.grad(
    ...     tally.watch(problem).f(x, y), y, create_graph=True
    ... )
    >>> (product,) = torch.autograd.grad(g, x)
    >>> print(product.item(), tally.gradients, tally.products)
    6.0 1.0 1.0
    """

    gradients: float = 0
    products: float = 0

    def more(self, products: float) -> None:
        """Count products."""
        self.products += products

    def watch(self, problem: SmoothProblem) -> SmoothProblem:
        """Return the same problem, whose objectives are counted here when differentiated."""
        return replace(problem, F=self._counted(problem.F), f=self._counted(problem.f))

    def _counted(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if isinstance(function, SampleMean):
            return replace(function, loss=self._weighed(function.loss, len(function)))
        return self._weighed(function, None)

    def _weighed(self, function: Callable[..., Tensor], count: int | None) -> Callable[..., Tensor]:
        """Return a function that counts by the share of ``count`` samples it is given."""

        def counted(x: Any, y: Any, *z: Any) -> Any:
            weight = 1.0 if count is None else len(leaves(z[-1])[0]) / count
            parts, spec = flatten(y)
            # Behind y: what differentiates a gradient passes here. Behind the value: gradients do.
            parts = _Argument.apply(self, weight, *parts) if parts else parts
            value = function(x, unflatten(spec, parts), *z)
            return _Value.apply(self, weight, value) if isinstance(value, Tensor) else value

        return counted


class _Value(torch.autograd.Function):
    """The identity, whose derivative counts as a gradient."""

    @staticmethod
    def forward(ctx: Any, tally: Tally, weight: float, value: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.tally = tally
        ctx.weight = weight
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.tally.gradients += ctx.weight
        return None, None, grad


class _Argument(torch.autograd.Function):
    """The identity, whose second derivative counts as a product."""

    @staticmethod
    def forward(ctx: Any, tally: Tally, weight: float, *parts: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.tally = tally
        ctx.weight = weight
        return tuple(part.view_as(part) for part in parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if not torch.is_grad_enabled():
            return (None, None, *grads)
        return (None, None, *_Gradient.apply(ctx.tally, ctx.weight, *grads))


class _Gradient(torch.autograd.Function):
    """The identity, whose derivative counts as a product."""

    @staticmethod
    def forward(ctx: Any, tally: Tally, weight: float, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.tally = tally
        ctx.weight = weight
        return tuple(grad.view_as(grad) for grad in grads)

    @staticmethod
    def backward(ctx: Any, *vectors: Tensor) -> Any:
        size = sum(vector.numel() for vector in vectors)
        more = ctx.weight * (size if _is_many(vectors[0]) else 1)
        ctx.tally.more(more)
        on_repetition(partial(ctx.tally.more, more))
        return (None, None, *vectors)


def _is_many(vector: Tensor) -> bool:
    """Return whether autograd maps over a batch of vectors: such a tensor has no storage."""
    try:
        vector.untyped_storage()
    except NotImplementedError:
        return True
    return False
