"""The one ``torch.autograd.Function`` of the library: any map with a rule for its derivative."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from bilevel.errors import UnsupportedDerivative


class Rule(Protocol):
    """What is asked of a map that is to be differentiated; see ``AbstractRule``."""

    @property
    def order(self) -> int | None:
        """How often the map may be differentiated; ``None``: as often as one likes."""
        ...

    @property
    def what(self) -> str:
        """How messages call it."""
        ...

    @property
    def differentiable(self) -> int | None:
        """How many of the outputs, the first ones, have a derivative; ``None``: all."""
        ...

    @property
    def foldable(self) -> bool:
        """Whether a mapped axis may become part of the batch."""
        ...

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs."""
        ...

    def backward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """Return the vector-Jacobian product."""
        ...


class AbstractRule(ABC):
    """A map of batched tensors and how it is differentiated.

    Attributes
    ----------
    order
        How often the map may be differentiated; ``None``: as often as one likes.
    what
        How messages call it.
    differentiable
        How many of the outputs, the first ones, have a derivative; ``None``: all.
    foldable
        Whether a mapped axis may become part of the batch; else ``torch.func`` is refused.
    """

    order: int | None = None
    what: str = "this layer"
    differentiable: int | None = None
    foldable: bool = True

    @abstractmethod
    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs, each with the batch as first axis; no gradient is recorded here."""

    @abstractmethod
    def backward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """Return the vector-Jacobian product, in operations that can be differentiated again.

        Parameters
        ----------
        inputs, outputs
            What ``forward`` was given and has returned; differentiable where they are.
        grads
            Gradients with respect to the outputs; ``None`` where there is none.

        Returns
        -------
        sequence
            One gradient for each input, of its shape; ``None`` for zero. Where the operations are
            none that autograd may differentiate again, the class says ``order = 1``, and a second
            derivative raises.
        """


class Differentiable(torch.autograd.Function):
    """``apply(rule, depth, *inputs)``; ``depth`` counts how often this was differentiated before.

    It holds nothing itself: every rule computes its vector-Jacobian product with operations that
    autograd records, and with this very function where it solves. That gives all orders.
    """

    @staticmethod
    def forward(rule: Rule, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the rule's outputs."""
        return rule.forward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep inputs and outputs for the vector-Jacobian product."""
        rule, *tensors = inputs
        ctx.rule = rule
        ctx.count = len(tensors)
        if rule.differentiable is not None:
            ctx.mark_non_differentiable(*output[rule.differentiable :])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        """Return the rule's vector-Jacobian product."""
        saved = ctx.saved_tensors
        inputs = saved[: ctx.count]
        outputs = saved[ctx.count :]
        if ctx.rule.order == 1 and torch.is_grad_enabled():
            # Only the caller's wish for a graph switches this on in a backward pass.
            found = ctx.rule.backward(inputs, outputs, grads)
            refuse = _Refusal(ctx.rule.what)
            found = [g if g is None else Differentiable.apply(refuse, g, *inputs)[0] for g in found]
            return (None, *found)
        return (None, *ctx.rule.backward(inputs, outputs, grads))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Refuse forward mode."""
        raise UnsupportedDerivative(
            f"Forward-mode derivatives of {ctx.rule.what} are not available: use "
            f"torch.func.jacrev instead of jacfwd, and jacrev(jacrev(f)) instead of hessian(f)."
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], rule: Rule, *inputs: Tensor) -> Any:
        """Fold the mapped axis into the batch, call again, and unfold."""
        if not rule.foldable:
            raise UnsupportedDerivative(
                f"torch.func cannot map over {rule.what}; use tensor.backward(), "
                f"torch.autograd.grad or torch.autograd.functional.jacobian."
            )
        size = info.batch_size
        folded = []
        for tensor, dim in zip(inputs, in_dims[1:], strict=True):
            whole = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            folded.append(whole.reshape(whole.shape[0] * whole.shape[1], *whole.shape[2:]))
        outputs = Differentiable.apply(rule, *folded)
        unfolded = tuple(one.reshape(size, len(one) // size, *one.shape[1:]) for one in outputs)
        return unfolded, (0,) * len(unfolded)


class _Refusal(AbstractRule):
    """The identity, which refuses to be differentiated."""

    def __init__(self, what: str) -> None:
        self.what = what

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (inputs[0].clone(),)

    def backward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        raise UnsupportedDerivative(
            f"The second derivative of {self.what} is not available: its first derivative is "
            f"right, but not a function that can be differentiated again."
        )


def apply(rule: Rule, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return a rule's outputs, differentiable by its vector-Jacobian product.

    Examples
    --------
    >>> import torch
    >>> from bilevel.adjoints.function import AbstractRule, apply
    >>> class Cube(AbstractRule):
    ...     def forward(self, x):
    ...         return (x**3,)
    ...
    ...     def backward(self, inputs, outputs, grads):
    ...         return (3 * inputs[0] ** 2 * grads[0],)
    >>> x = torch.tensor([2.0], requires_grad=True)
    >>> (slope,) = torch.autograd.grad(apply(Cube(), x)[0], x, create_graph=True)
    >>> print(slope.item(), torch.autograd.grad(slope, x)[0].item())
    12.0 12.0
    """
    if torch._C._are_functorch_transforms_active():
        return Differentiable.apply(rule, *inputs)
    if not torch.is_grad_enabled():
        return rule.forward(*inputs)
    return _record(rule, *inputs)


def is_plain() -> bool:
    """Return whether nothing is recorded or transformed, so that NumPy may compute."""
    return not torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active()


# Where no transform is active this is all that ``apply`` does, but for inspecting the signature of
# ``forward`` to fill in defaults, which takes longer than solving a small program.
_record: Any = super(torch.autograd.Function, Differentiable).apply  # type: ignore[misc]


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


if TYPE_CHECKING:
    #: ``compiler_disabled(function, *arguments)`` calls what ``torch.compile`` cannot trace.
    compiler_disabled: Any


def __getattr__(name: str) -> Any:
    """Make ``compiler_disabled`` when a layer asks for it: torch's compiler takes long to load."""
    if name != "compiler_disabled":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = disabled = torch.compiler.disable(_call)
    return disabled
