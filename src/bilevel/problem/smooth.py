"""Bilevel problems given by torch functions, and their view as functions of flat vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from bilevel.errors import ProblemError
from bilevel.problem.abstract import AbstractProblem
from bilevel.problem.trees import Tree, leaves, mapped

Function = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class SmoothProblem(AbstractProblem):
    r"""A leader and a follower whose objectives and constraints are torch functions.

    .. code-block:: text

        minimize    F(x, y, *z)                 over x, where y is optimal for
          subject to  H(x, y, *z) = 0,  G(x, y, *z) <= 0
        minimize    f(x, y, *z)                 over y, x held fixed
          subject to  h(x, y, *z) = 0,  g(x, y, *z) <= 0

    Parameters
    ----------
    F, f
        Leader's and follower's objective: functions of ``(x, y, *z)`` that return a scalar. ``x``,
        ``y`` and each ``z`` are a tensor, or a dict, list or tuple of tensors.
    H, G
        The leader's constraints, or ``None``: functions that return a vector.
    h, g
        The follower's constraints, or ``None``. They may depend on ``x`` and on ``z``.
    zero_sum
        Whether ``f = -F``; see ``min_max`` and ``max_min``.

    Raises
    ------
    ProblemError
        If a function cannot be called.

    Notes
    -----
    The functions are written for one instance; a layer maps them over a batch. Derivatives of the
    answer take second derivatives of all functions, and derivatives of the leader's answer third
    ones of the follower's; both must exist, and the follower's second derivative in ``y`` must be
    positive definite on the directions its active constraints leave, or the answer is refused or
    marked. Tensors with gradient that the functions capture (weights of a network) are
    differentiated like ``z``.

    References
    ----------
    Alesiani (2023), *Implicit Bilevel Optimization: Differentiating through Bilevel Optimization
    Programming* (BIGRAD), AAAI, section 2.1.

    Examples
    --------
    >>> import bilevel as bl, torch
    >>> problem = bl.SmoothProblem(
    ...     F=lambda x, y: (x - 2) ** 2 + (y + 1) ** 2,
    ...     f=lambda x, y: (y - x) ** 2 / 2,
    ... )
    >>> x = y = torch.tensor(1.0)
    >>> print(problem.F(x, y).item(), problem.zero_sum)
    5.0 False
    """

    driver: ClassVar[str] = "bilevel.solvers.smooth.solve:solve_smooth"

    F: Function
    f: Function
    H: Function | None = None
    G: Function | None = None
    h: Function | None = None
    g: Function | None = None
    zero_sum: bool = False

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            given = getattr(self, name)
            if name != "zero_sum" and not callable(given) and (given is not None or name in "Ff"):
                raise ProblemError(
                    f"{name} of a SmoothProblem must be a function of (x, y, *z) that returns a "
                    f"tensor, not an object of type {type(given).__name__}."
                )

    @classmethod
    def min_max(cls, payoff: Function, **constraints: Function | None) -> SmoothProblem:
        """Return ``min over x of max over y of payoff``; ``x`` moves first.

        It equals ``max over y of min over x`` at a saddle point only.

        Parameters
        ----------
        payoff
            What the leader loses and the follower wins.
        constraints
            ``H``, ``G``, ``h``, ``g``.

        References
        ----------
        Alesiani (2023), *Implicit Bilevel Optimization: Differentiating through Bilevel
        Optimization Programming* (BIGRAD), AAAI, section 2.1, where the order is printed the wrong
        way round.

        Examples
        --------
        >>> import bilevel as bl, torch
        >>> game = bl.SmoothProblem.min_max(lambda x, y: x * y - y**2 / 2)
        >>> game.f(torch.tensor(1.0), torch.tensor(2.0)).item()
        -0.0
        """
        return cls(payoff, _negative(payoff), zero_sum=True, **constraints)

    @classmethod
    def max_min(cls, payoff: Function, **constraints: Function | None) -> SmoothProblem:
        """Return ``max over x of min over y of payoff``; ``x`` moves first.

        Parameters
        ----------
        payoff
            What the leader wins and the follower loses.
        constraints
            ``H``, ``G``, ``h``, ``g``.

        Notes
        -----
        ``F`` is minus the payoff, since leaders minimize: a solution's ``leader_value`` is minus
        the game's value, its ``follower_value`` the value.

        Examples
        --------
        >>> import bilevel as bl, torch
        >>> game = bl.SmoothProblem.max_min(lambda x, y: x * y + y**2 / 2)
        >>> game.F(torch.tensor(1.0), torch.tensor(2.0)).item()
        -4.0
        """
        return cls(_negative(payoff), payoff, zero_sum=True, **constraints)


def _negative(function: Function) -> Function:
    return lambda *arguments: -function(*arguments)


def check_inputs(z: Sequence[Any], dtype: torch.dtype) -> None:
    """Raise ``ProblemError`` where inputs are no tensors, or of another precision than ``x``.

    Parameters
    ----------
    z
        The inputs, trees of tensors.
    dtype
        Of ``x`` and ``y``.
    """
    for leaf in leaves(tuple(z)):
        if not isinstance(leaf, Tensor):
            raise ProblemError(
                f"An input must consist of tensors, not of {type(leaf).__name__}; torch.as_tensor "
                f"makes one."
            )
        if leaf.is_floating_point() and leaf.dtype != dtype:
            raise ProblemError(
                f"An input has dtype {leaf.dtype} and the start {dtype}: convert one of them, such "
                f"as by input.to({dtype})."
            )


class Instances:
    """A smooth problem at given inputs ``z``, as functions of the rows of two matrices.

    Parameters
    ----------
    problem
        The functions.
    x, y
        The shapes of one instance's decisions.
    z
        The inputs.
    in_dims
        For each input, 0 if its first axis is the batch, ``None`` if all instances share it.
    """

    def __init__(
        self,
        problem: SmoothProblem,
        x: Tree,
        y: Tree,
        z: Sequence[Any] = (),
        in_dims: Sequence[int | None] | None = None,
    ) -> None:
        self.problem = problem
        self.x = x
        self.y = y
        self.z = tuple(z)
        self.in_dims = (None,) * len(self.z) if in_dims is None else tuple(in_dims)
        sizes = {
            leaf.shape[0] if leaf.ndim else 0
            for part, dim in zip(self.z, self.in_dims, strict=True)
            if dim is not None
            for leaf in leaves(part)
        }
        if sizes == {0}:
            raise ProblemError("A batched input z has no instance: it is empty, or has no axis.")
        if len(sizes) > 1:
            raise ProblemError(f"The inputs z have different batch sizes: {sorted(sizes)}.")
        self.is_batched = bool(sizes)
        self.count = next(iter(sizes), 1)

    def at(self, z: Sequence[Any]) -> Instances:
        """Return the same problem at other inputs of the same shapes."""
        return Instances(self.problem, self.x, self.y, z, self.in_dims)

    def one(self, i: int) -> Instances:
        """Return instance ``i`` alone."""
        if not self.is_batched:
            return self
        return Instances(self.problem, self.x, self.y, self.taken(self.z, i))

    def taken(self, z: Sequence[Any], index: Any) -> tuple[Any, ...]:
        """Return inputs, with only some instances of those that have a batch axis."""
        return tuple(
            part if dim is None else mapped(lambda leaf: leaf[index], part)
            for part, dim in zip(z, self.in_dims, strict=True)
        )

    def value(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        """Return an objective, shape ``(B,)``."""
        found = self._call(getattr(self.problem, name), x, y)
        if found.ndim > 2 or found[0].numel() != 1:
            raise ProblemError(
                f"{name} must return a scalar for one instance, not shape {tuple(found.shape[1:])}."
            )
        return found.reshape(-1)

    def vector(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        """Return a constraint function, shape ``(B, k)``; ``(B, 0)`` where there is none."""
        function = getattr(self.problem, name)
        if function is None:
            return x.new_zeros(self.count, 0)
        return self._call(function, x, y).reshape(self.count, -1)

    def _call(self, function: Function, x: Tensor, y: Tensor) -> Tensor:
        if not self.is_batched:
            found = function(self.x.tree(x.squeeze(0)), self.y.tree(y.squeeze(0)), *self.z)
            return self._tensor(found).unsqueeze(0)

        def one(x: Tensor, y: Tensor, *z: Any) -> Tensor:
            return self._tensor(function(self.x.tree(x), self.y.tree(y), *z))

        return torch.func.vmap(one, (0, 0, *self.in_dims))(x, y, *self.z)

    @staticmethod
    def _tensor(found: Any) -> Tensor:
        if not isinstance(found, Tensor):
            raise ProblemError(
                f"A function of a SmoothProblem returned {type(found).__name__}, not a tensor; "
                f"write it with torch operations, without .item() or NumPy."
            )
        return found


def nodes_behind(tensor: Tensor) -> Iterator[Any]:
    """Yield the nodes of the graph that a tensor comes from, each once."""
    seen = set()
    open_nodes = [tensor.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            open_nodes += [before for before, _ in node.next_functions]


def leaves_behind(tensor: Tensor) -> list[Tensor]:
    """Return the leaves with gradient on which a tensor depends, as its graph tells."""
    if tensor.grad_fn is None and tensor.requires_grad:
        return [tensor]
    return [node.variable for node in nodes_behind(tensor) if hasattr(node, "variable")]
