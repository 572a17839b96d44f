"""The contract of an adjoint of both levels at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from bilevel.adjoints.adjoint import GradientKind
from bilevel.adjoints.bilevel.conditions import Conditions
from bilevel.problem.functions import Array


class BilevelDerivative(Protocol):
    """What a ``BilevelLayer`` needs to know of one instance's answer.

    Attributes
    ----------
    w
        All columns, shape ``(n,)``.
    lam
        For each follower the multipliers of the rows that contain its own columns.
    kind
        What the derivative of the columns is.
    residual, margin
        As in ``bilevel.layers.Report``.
    unique_multipliers
        Whether the derivative of multipliers is one, too.
    notes
        What else there is to say.
    """

    @property
    def w(self) -> Array:
        """All columns."""
        ...

    @property
    def lam(self) -> tuple[Array, ...]:
        """Multipliers of each follower."""
        ...

    @property
    def kind(self) -> GradientKind:
        """What the derivative of the columns is."""
        ...

    @property
    def residual(self) -> float:
        """By how much the optimality conditions fail."""
        ...

    @property
    def margin(self) -> float:
        """How far the answer is from another active set."""
        ...

    @property
    def unique_multipliers(self) -> bool:
        """Whether the derivative of multipliers is one, too."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What else there is to say."""
        ...

    def pull(self, gw: Array, glam: Sequence[Array], theta: Tensor) -> Tensor:
        """Return the gradient by ``theta`` from gradients by columns and multipliers."""
        ...

    def probe(self) -> float:
        """Return the relative residual of the adjoint system for a right-hand side of ones."""
        ...


class FindDerivative(Protocol):
    """Makes the derivative of one instance's answer."""

    def __call__(
        self, w: Array, theta: Tensor, cone_duals: Sequence[Array], /
    ) -> BilevelDerivative:
        """Return the answer, polished, with its derivative.

        Parameters
        ----------
        w
            All columns of an answer, right to about ``1e-6``.
        theta
            The inputs, the last entry one.
        cone_duals
            For each follower the multipliers of its cones, one after the other.
        """
        ...


@dataclass(frozen=True)
class BilevelPrepared:
    """An adjoint made ready for one bilevel problem.

    Parameters
    ----------
    find
        Makes the derivative of one instance's answer.
    demands_exact
        Whether an instance without a derivative in the usual sense raises.
    """

    find: FindDerivative
    demands_exact: bool = False


class AbstractBilevelAdjoint(ABC):
    """How the answer of a bilevel problem is differentiated with respect to its parameters.

    It is no ``AbstractAdjoint``: both levels' answers have no single program in matrices, but a
    point and conditions that hold there, and the layer's solver is any solver of bilevel problems.
    """

    @abstractmethod
    def prepare_bilevel(self, conditions: Conditions) -> BilevelPrepared:
        """Return what makes derivatives of a problem's answers; called once, by the layer.

        Parameters
        ----------
        conditions
            Both levels' functions, in torch.

        Raises
        ------
        ProblemError
            If the adjoint's options are none for a bilevel problem.
        """
