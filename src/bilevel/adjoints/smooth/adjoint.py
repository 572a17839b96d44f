"""The contract of an adjoint of smooth problems: functions in torch, and points that they have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from bilevel.adjoints.smooth.krylov import Solved
from bilevel.adjoints.smooth.stationarity import Stationarity
from bilevel.problem.smooth import SmoothProblem


class SmoothDerivative(Protocol):
    """A point with its derivative."""

    @property
    def answer(self) -> tuple[Tensor, ...]:
        """The point as one tensor of shape ``(B, n)``, differentiable by autograd."""
        ...

    def probe(self) -> Tensor:
        """Return the relative residual of the system of gradients for ones, shape ``(B,)``."""
        ...


class Solvable(Protocol):
    """What solves a linear system when a gradient is taken."""

    @property
    def solved(self) -> Solved | None:
        """The system's solution, once there was a backward pass."""
        ...


@dataclass(frozen=True)
class DifferentiableResponse:
    """A follower's response with its derivative.

    Parameters
    ----------
    y
        The response, a tensor or a tree of tensors with gradient.
    root
        What solves the linear system of the gradient; ``None`` where none is solved.
    """

    y: Any
    root: Solvable | None = None

    @property
    def solution(self) -> Tensor | None:
        """The linear system's solution, once a gradient was taken; the next may start with it."""
        solved = None if self.root is None else self.root.solved
        return None if solved is None else solved.x


class AbstractSmoothAdjoint(ABC):
    """How a follower's response is differentiated in the leader's decision and all inputs.

    It is no ``AbstractAdjoint``: there are no matrices to prepare for, and no layer solver whose
    form it could name. What a solver or a layer finds is handed in, and comes back with its
    derivative. One that also serves ``SmoothBilevelLayer`` has ``leader``, see ``LeaderAdjoint``.
    """

    @abstractmethod
    def differentiate(
        self, problem: SmoothProblem, x: Any, y: Any, z: Sequence[Any], start: Tensor | None = None
    ) -> DifferentiableResponse:
        """Return a follower's response ``y`` with its derivative in ``x``, ``z`` and all captured.

        Parameters
        ----------
        problem
            Whose follower responds.
        x, z
            The leader's decision and the inputs, each a tensor or a tree of tensors.
        y
            The follower's response to them, found by any means; its own gradient is dropped.
        start
            A first guess at the linear system's solution, such as ``solution`` of the last
            response; without meaning where none is solved.

        Raises
        ------
        ProblemError
            If the functions do not take these tensors.
        UnsupportedDerivative
            If the follower's constraints are none that this way of differentiating takes.
        """

    def attach(self, problem: SmoothProblem, x: Any, y: Any, *z: Any) -> Any:
        """Return a follower's response ``y`` with its derivative in ``x``, ``z`` and all captured.

        Parameters
        ----------
        problem, x, y, z
            As in ``differentiate``.

        Returns
        -------
        tensor or tree of tensors
            ``y``, with its derivative.

        Warns
        -----
        BilevelWarning
            If ``y`` is no response: the residual of its optimality conditions is above 1e-5.
        """
        return self.differentiate(problem, x, y, z).y

    def truncation(self, problem: SmoothProblem, x: Any, y: Any, *z: Any) -> float | None:
        """Return which share of the derivative is left out; ``None``: nothing is.

        Parameters
        ----------
        problem, x, y, z
            As in ``differentiate``.
        """
        del problem, x, y, z
        return None


class LeaderAdjoint(Protocol):
    """What ``SmoothBilevelLayer`` asks of an adjoint."""

    def leader(self, st: Stationarity, u: Tensor, z: Sequence[Any]) -> SmoothDerivative:
        """Return the answer ``u`` of a whole problem with its derivative in ``z``.

        Parameters
        ----------
        st
            The scalars: ``u`` is a stationary point of ``st.at(z).leader``, in each row.
        u
            The answer, without gradient, shape ``(B, n)``.
        z
            The inputs, each a tensor or a tree of tensors.
        """
        ...
