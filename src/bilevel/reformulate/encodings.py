"""How a program says that one of two columns is zero.

An encoding is an argument. ``pair`` writes complementarity of a multiplier and a slack;
``implication`` that a column is zero when a binary has a given value: so a product with a binary
becomes linear.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.problem.functions import Array
from bilevel.problem.standard import StandardForm
from bilevel.reformulate.bounds import multiplier_bounds, slack_bounds
from bilevel.reformulate.builder import Builder
from bilevel.reformulate.mccormick import box_of, product_columns


@dataclass(frozen=True)
class PairBounds:
    """Upper bounds of a follower's multipliers and slacks, each ``(m,)``, and their origin."""

    multiplier: Array
    slack: Array
    origin: str


class AbstractEncoding(ABC):
    """One way to write ``a >= 0, b >= 0, a * b = 0``."""

    #: Whether products with a binary are written by ``implication``, not left to the backend.
    linearizes: ClassVar[bool] = True
    #: Whether the encoding loses nothing; with bounds from the user it may.
    proved: bool = True

    def bounds(self, form: StandardForm, k: int, slacks: bool = True) -> PairBounds | None:
        """Return the bounds this encoding needs for follower ``k``, ``None`` if it needs none.

        Parameters
        ----------
        form
            The problem.
        k
            Index of the follower.
        slacks
            Whether slacks need bounds too.

        Raises
        ------
        UnsupportedProblem
            If it needs bounds and they can be neither derived nor were given.
        """
        del form, k, slacks

    def box(self, form: StandardForm) -> tuple[Array, Array] | None:
        """Return bounds of all columns, as far as this encoding needs them for products."""
        del form

    @abstractmethod
    def pair(
        self, builder: Builder, multiplier: int, slack: int, name: str, bounds: tuple[float, float]
    ) -> None:
        """Add complementarity of two nonnegative columns.

        Parameters
        ----------
        builder
            Where to add it.
        multiplier, slack
            The two columns.
        name
            Readable name of the pair.
        bounds
            Upper bounds of the two, infinite where the encoding asked for none.
        """

    @abstractmethod
    def implication(
        self, builder: Builder, binary: int, active: int, target: int, name: str
    ) -> None:
        """Add: if ``binary`` equals ``active``, column ``target`` is zero."""


@dataclass(frozen=True)
class SOS1(AbstractEncoding):
    """Special ordered sets of type 1: the backend branches on them; exact, no bound needed.

    Notes
    -----
    Needs a backend with SOS1 sets (SCIP). Exact whatever the size of multipliers.

    References
    ----------
    Kleinert and Schmidt (2023), *Computational Management Science* 20.

    Examples
    --------
    >>> import bilevel as bl
    >>> problem = bl.instances.get("T1").problem
    >>> solution = bl.solve(problem, bl.SingleLevel(bl.KKT(bl.SOS1())))
    >>> print(solution.status.name)
    OPTIMAL
    """

    def pair(
        self, builder: Builder, multiplier: int, slack: int, name: str, bounds: tuple[float, float]
    ) -> None:
        """See the abstract method."""
        del bounds
        builder.sos1(f"sos1[{name}]", (multiplier, slack))

    def implication(
        self, builder: Builder, binary: int, active: int, target: int, name: str
    ) -> None:
        """See the abstract method."""
        switch = binary if active else builder.complement(binary)
        builder.sos1(f"sos1[{name}]", (target, switch))


@dataclass(frozen=True)
class Indicator(AbstractEncoding):
    """A binary and two indicator constraints per pair; exact, no bound needed.

    Notes
    -----
    Needs a backend with indicator constraints (SCIP). Usually slower than ``SOS1``.

    Examples
    --------
    >>> import bilevel as bl
    >>> problem = bl.instances.get("T1").problem
    >>> solution = bl.solve(problem, bl.SingleLevel(bl.KKT(bl.Indicator())))
    >>> print(solution.status.name)
    OPTIMAL
    """

    def pair(
        self, builder: Builder, multiplier: int, slack: int, name: str, bounds: tuple[float, float]
    ) -> None:
        """See the abstract method."""
        del bounds
        switch = _switch(builder, multiplier, slack, name)
        builder.indicator(switch, 0, multiplier, f"indicator[{name}.dual]")
        builder.indicator(switch, 1, slack, f"indicator[{name}.slack]")

    def implication(
        self, builder: Builder, binary: int, active: int, target: int, name: str
    ) -> None:
        """See the abstract method."""
        builder.indicator(binary, active, target, f"indicator[{name}]")


@dataclass(frozen=True)
class BigM(AbstractEncoding):
    """A binary and two linear rows per pair, with bounds that are derived or given, never invented.

    Parameters
    ----------
    multiplier
        Upper bound of every multiplier. ``None``: derive one by an LP per multiplier.
    slack
        Upper bound of every slack. ``None``: derive one by an LP per slack.

    Notes
    -----
    A bound that is too small cuts off the optimum and no check of the response can reveal it, so
    with a bound of yours the status never exceeds ``FEASIBLE`` and no bound is claimed. Deriving
    fails where multipliers are unbounded (for example when a variable has both bounds); use
    ``SOS1`` then. Works on every backend with integers.

    References
    ----------
    Pineda and Morales (2019), *IEEE Transactions on Power Systems* 34; Kleinert, Labbe, Plein and
    Schmidt (2020), *Operations Research* 68.

    Examples
    --------
    >>> import bilevel as bl
    >>> problem = bl.instances.get("T6b").problem
    >>> solution = bl.solve(
    ...     problem, bl.SingleLevel(bl.KKT(bl.BigM(multiplier=1.0, slack=10.0)))
    ... )
    >>> print(solution.status.name, round(solution.leader_value, 4))
    FEASIBLE 8.0
    """

    multiplier: float | None = None
    slack: float | None = None

    def __post_init__(self) -> None:
        for name in ("multiplier", "slack"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ProblemError(f"BigM({name}=...) must be a positive finite number.")

    @property
    def proved(self) -> bool:  # type: ignore[override]
        """Whether both bounds are derived."""
        return self.multiplier is None and self.slack is None

    def bounds(self, form: StandardForm, k: int, slacks: bool = True) -> PairBounds:
        """See the abstract method."""
        m = len(form.followers[k].rows)
        # What the user gives is in the user's units.
        units = form.followers[k].units or (1.0, 1.0)
        said = []
        if self.multiplier is None:
            # Strong duality bounds only what is multiplied by a leader's column.
            needed = None if slacks else form.followers[k].rows.touches(form.linking(k))
            multiplier, origin = multiplier_bounds(form, k, needed)
            said.append(f"multipliers: {origin}")
        else:
            multiplier = np.full(m, float(self.multiplier)) / units[0]
            said.append("multipliers: given by the user, not proved")
        if not slacks:
            slack = np.full(m, np.inf)
        elif self.slack is None:
            slack, origin = slack_bounds(form, k)
            said.append(f"slacks: {origin}")
        else:
            slack = np.full(m, float(self.slack)) / units[1]
            said.append("slacks: given by the user, not proved")
        return PairBounds(multiplier, slack, "; ".join(said))

    def box(self, form: StandardForm) -> tuple[Array, Array]:
        """See the abstract method; one LP for each open side of a factor."""
        return box_of(form, product_columns(form))

    def pair(
        self, builder: Builder, multiplier: int, slack: int, name: str, bounds: tuple[float, float]
    ) -> None:
        """See the abstract method."""
        switch = _switch(builder, multiplier, slack, name)
        builder.row([multiplier, switch], [1.0, -bounds[0]], 0.0, f"bigm[{name}.dual]")
        builder.row([slack, switch], [1.0, bounds[1]], bounds[1], f"bigm[{name}.slack]")

    def implication(
        self, builder: Builder, binary: int, active: int, target: int, name: str
    ) -> None:
        """See the abstract method."""
        sides = zip((-1.0, 1.0), builder.bounds(target), strict=True)
        for sign, bound in sides:
            if not np.isfinite(size := sign * bound):
                raise UnsupportedProblem(
                    f"BigM needs a bound on {builder.names[target]} to write a product with a "
                    f"binary, and none is known. Bound the follower's variables, give "
                    f"BigM(multiplier=...), or use SOS1 or Indicator on SCIP."
                )
            # sign * target <= size * (binary is not active)
            slope, rhs = (size, size) if active else (-size, 0.0)
            builder.row([target, binary], [sign, slope], rhs, f"bigm[{name}]")


@dataclass(frozen=True)
class Product(AbstractEncoding):
    """The product of the pair is at most ``eps``; a nonconvex row for a global solver.

    Parameters
    ----------
    eps
        Zero keeps the problem exact. A positive value relaxes the followers' optimality and caps
        the status at what the certificate supports.

    Notes
    -----
    SCIP solves it by spatial branching; with unbounded multipliers this can be slow.

    Examples
    --------
    >>> import bilevel as bl
    >>> problem = bl.instances.get("T1").problem
    >>> solution = bl.solve(problem, bl.SingleLevel(bl.KKT(bl.Product())))
    >>> print(solution.status.name)
    OPTIMAL
    """

    linearizes: ClassVar[bool] = False
    eps: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.eps) and self.eps >= 0):
            raise ProblemError("Product(eps=...) must be a finite number, zero or more.")

    def pair(
        self, builder: Builder, multiplier: int, slack: int, name: str, bounds: tuple[float, float]
    ) -> None:
        """See the abstract method."""
        del bounds
        terms = [(multiplier, slack, 1.0)]
        builder.row([], [], self.eps, f"product[{name}]", products=terms)

    def implication(
        self, builder: Builder, binary: int, active: int, target: int, name: str
    ) -> None:
        """See the abstract method; products with binaries are left to the backend."""
        factor = (target, binary, 1.0)
        linear = ([], []) if active else ([target], [1.0])
        sign = 1.0 if active else -1.0
        products = [(factor[0], factor[1], sign)]
        builder.row(*linear, 0.0, f"product[{name}]", equality=True, products=products)


def _switch(builder: Builder, multiplier: int, slack: int, name: str) -> int:
    """Add the binary of a pair: 1 where the multiplier may be positive."""
    return builder.column(
        f"active[{name}]",
        0.0,
        1.0,
        recipe=lambda v: float(v[multiplier] > v[slack]),
        integer=True,
    )
