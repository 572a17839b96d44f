"""A tax on emissions, and many firms that respond by producing less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cvxpy as cp
import numpy as np

from bilevel.applications.data import number, numbers
from bilevel.errors import ProblemError
from bilevel.problem.problem import Follower, Problem

if TYPE_CHECKING:
    from bilevel.problem.functions import Array
    from bilevel.solution import Solution

__all__ = ["EmissionTax", "emission_tax"]

_OBJECTIVES = ("revenue", "welfare")


@dataclass(frozen=True, eq=False)
class EmissionTax:
    """A tax problem, with the way back from its variables to firms.

    Parameters
    ----------
    problem
        What ``bl.solve`` takes.
    tax
        The leader's variable, per unit of emissions.
    output
        For each firm the follower's variable.
    intensity
        Emissions per unit of output, shape (firms,).
    largest_tax
        Upper bound of the tax.
    """

    problem: Problem
    tax: cp.Variable = field(repr=False)
    output: tuple[cp.Variable, ...] = field(repr=False)
    intensity: Array = field(repr=False)
    largest_tax: float

    def outputs(self, solution: Solution) -> Array:
        """Return each firm's output, shape (firms,)."""
        return np.array([solution[variable] for variable in self.output], float).ravel()

    def emissions(self, solution: Solution) -> Array:
        """Return each firm's emissions, shape (firms,)."""
        return self.intensity * self.outputs(solution)


def emission_tax(
    margin: Sequence[float],
    slope: float | Sequence[float],
    intensity: float | Sequence[float],
    *,
    objective: str = "revenue",
    damage: float = 0.0,
    quota: float | None = None,
    max_tax: float | None = None,
) -> EmissionTax:
    r"""Return the problem of a government that taxes the emissions of many firms.

        maximize    tax * E, or welfare                                       over tax >= 0
        subject to  E = sum_i intensity_i q_i,  E <= quota
                    q_i in argmax { margin_i q - slope_i q**2 / 2 - tax * intensity_i q : q >= 0 }

    Welfare is the firms' profit before the tax, less ``damage * E``.

    Parameters
    ----------
    margin
        Profit of each firm's first unit, above 0; one entry per firm.
    slope
        How the profit of a unit falls with output, above 0; one for all, or one per firm.
    intensity
        Emissions per unit, above 0; one for all, or one per firm.
    objective
        ``"revenue"`` or ``"welfare"``.
    damage
        Of one unit of emissions, at least 0; used by ``"welfare"``.
    quota
        Limit on all emissions; ``None`` for none.
    max_tax
        Limit on the tax; ``None`` for none.

    Returns
    -------
    EmissionTax
        Its ``problem`` goes to ``bl.solve``.

    Raises
    ------
    ProblemError
        If a number is NaN or out of place (the message names the firm), or ``max_tax`` is too low
        for the quota.

    Notes
    -----
    Every firm is a follower with a unique response, ``max(0, margin - tax * intensity) / slope``.
    No firm emits anything at a tax of ``max_i margin_i / intensity_i``, which is therefore an upper
    bound.

    The revenue is one product of two leader variables, the tax and the emissions, which a coupling
    constraint ties to the firms' responses. Written firm by firm without a product, as
    ``sum_i margin_i q_i - slope_i q_i**2``, it is concave, but its relaxation knows nothing of the
    tax, whose range is what branch and bound has to cut.

    References
    ----------
    Pigou, *The Economics of Welfare* (1920): without quota, the best tax for welfare is the damage.

    Examples
    --------
    >>> import bilevel as bl
    >>> from bilevel.applications.tax import emission_tax
    >>> game = emission_tax(
    ...     [8.0, 12.0, 20.0], 1.0, [1.0, 2.0, 1.0], objective="welfare", damage=3.0
    ... )
    >>> solution = bl.solve(game.problem)
    >>> print(round(float(solution[game.tax]), 3), game.outputs(solution).round(3))
    3.0 [ 5.  6. 17.]
    """
    firms = range(np.size(margin))
    gain = numbers(margin, firms, "margin of firm", above=0.0, remedy="Leave the firm out.")
    fall = numbers(slope, firms, "slope of firm", above=0.0)
    emits = numbers(intensity, firms, "intensity of firm", above=0.0, remedy="Leave the firm out.")
    if objective not in _OBJECTIVES:
        raise ProblemError(f"objective must be one of {list(_OBJECTIVES)}, not {objective!r}.")
    harm = number(damage, "damage", least=0.0)
    if not len(gain):
        raise ProblemError("There is no firm to be taxed: give at least one margin.")
    largest = float((gain / emits).max())
    if max_tax is not None:
        largest = min(largest, number(max_tax, "max_tax", least=0.0))
    limit = None if quota is None else number(quota, "quota", least=0.0)
    lowest = float(emits @ (np.maximum(gain - largest * emits, 0.0) / fall))
    if limit is not None and lowest > limit * (1 + 1e-9):
        raise ProblemError(
            f"The quota of {limit:g} cannot be met: at a tax of {largest:g} the firms still emit "
            f"{lowest:.6g}. Raise max_tax or the quota."
        )
    tax = cp.Variable(name="tax")
    output = tuple(cp.Variable(name=f"output[{i}]") for i in firms)
    followers = [
        Follower(
            cp.Maximize(gain[i] * q - fall[i] / 2 * cp.square(q) - emits[i] * tax * q),
            [q >= 0],
            [q],
            f"firm {i}",
        )
        for i, q in enumerate(output)
    ]
    together = cp.hstack(output)
    total = emits @ together
    rows = [tax >= 0, tax <= largest]
    if objective == "revenue":
        emissions = cp.Variable(name="emissions")
        rows += [emissions == total, emissions >= 0, emissions <= float(emits @ (gain / fall))]
        total = emissions
        aim = tax * emissions
    else:
        profit = gain @ together - cp.sum(cp.multiply(fall / 2, cp.square(together)))
        aim = profit - harm * total
    if limit is not None:
        rows.append(total <= limit)
    problem = Problem(cp.Maximize(aim), rows, followers)
    return EmissionTax(problem, tax, output, emits, largest)
