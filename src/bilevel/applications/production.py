"""What a given strain grows and makes, by linear programs and without the bilevel solvers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bilevel.applications.metabolic_model import MetabolicModel, optimum
from bilevel.errors import ProblemError

if TYPE_CHECKING:
    from bilevel.applications.strain_design import StrainDesign
    from bilevel.problem.functions import Array

# Growth is held at its maximum up to this; a program with an exact value may be refused.
_SLACK = 1e-10


@dataclass(frozen=True)
class Production:
    """Growth and production of one strain.

    Parameters
    ----------
    growth
        Maximal growth, 1/h; ``None`` if the strain cannot live (no steady state).
    promised, pessimistic
        Greatest and least production at maximal growth, mmol/gDW/h.
    guaranteed
        Least production at any growth above the floor; ``None`` if the floor cannot be reached.
    """

    growth: float | None
    promised: float | None
    pessimistic: float | None
    guaranteed: float | None


@dataclass(frozen=True, eq=False)
class Envelope:
    """Production that is possible at given growth.

    Parameters
    ----------
    growth
        Growth rates, 1/h, shape (n,).
    least, most
        Least and greatest production at each, mmol/gDW/h, shape (n,).
    """

    growth: Array
    least: Array
    most: Array


def evaluate(design: StrainDesign, knockouts: Iterable[str] = ()) -> Production:
    """Return growth and production of any strain, by linear programs over the whole network.

    Parameters
    ----------
    design
        Gives the cell in its medium, the product and the growth floor.
    knockouts
        Ids of removed reactions, whether candidates of the design or not; none for the wild type.

    Raises
    ------
    ProblemError
        If the cell has no reaction of such an id.

    Notes
    -----
    Nothing of the design's problem is used, neither its reduction of the network nor the solution:
    the figures check both.

    Examples
    --------
    A becomes X by r1, or X and the product P by r2; X is growth.

    >>> from bilevel.applications.metabolic_model import MetabolicModel
    >>> from bilevel.applications.strain_design import evaluate, strain_design
    >>> S = [[1, -1, -1, 0, 0], [0, 1, 1, -1, 0], [0, 0, 1, 0, -1]]
    >>> cell = MetabolicModel(
    ...     ("A_in", "r1", "r2", "growth", "P_out"),
    ...     ("A", "X", "P"),
    ...     S,
    ...     [0.0] * 5,
    ...     [10.0] * 5,
    ...     [False, True, True, False, False],
    ...     "growth",
    ... )
    >>> design = strain_design(cell, product="P", n_knockouts=1, growth_floor=5.0)
    >>> strain = evaluate(design, ["r1"])
    >>> print(round(strain.promised, 6), round(strain.guaranteed, 6))
    10.0 5.0
    """
    cell = design.cell.without(knockouts)
    c = _product(design)
    biomass = cell.index(design.biomass)
    growth, _ = optimum(cell.S, cell.lower, cell.upper, np.eye(1, len(c), biomass)[0])
    if growth is None:
        return Production(None, None, None, None)
    floor = design.growth_floor
    return Production(
        growth,
        _extreme(cell, c, biomass, growth - _SLACK, True),
        _extreme(cell, c, biomass, growth - _SLACK, False),
        _extreme(cell, c, biomass, floor, False) if growth >= floor - _SLACK else None,
    )


def envelope(design: StrainDesign, knockouts: Iterable[str] = (), n: int = 21) -> Envelope:
    """Return the least and greatest production at ``n`` growth rates from least to greatest.

    Parameters
    ----------
    design
        Gives the cell in its medium and the product.
    knockouts
        Ids of removed reactions; none for the wild type.
    n
        Number of growth rates, at least 2.

    Raises
    ------
    ProblemError
        If the cell has no reaction of such an id, or cannot live without these.

    Examples
    --------
    A becomes X by r1, or X and the product P by r2; X is growth.

    >>> from bilevel.applications.metabolic_model import MetabolicModel
    >>> from bilevel.applications.strain_design import envelope, strain_design
    >>> S = [[1, -1, -1, 0, 0], [0, 1, 1, -1, 0], [0, 0, 1, 0, -1]]
    >>> cell = MetabolicModel(
    ...     ("A_in", "r1", "r2", "growth", "P_out"),
    ...     ("A", "X", "P"),
    ...     S,
    ...     [0.0] * 5,
    ...     [10.0] * 5,
    ...     [False, True, True, False, False],
    ...     "growth",
    ... )
    >>> design = strain_design(cell, product="P", n_knockouts=1, growth_floor=5.0)
    >>> shape = envelope(design, n=3)
    >>> print(shape.growth.round(6).tolist(), shape.most.round(6).tolist())
    [0.0, 5.0, 10.0] [0.0, 5.0, 10.0]
    """
    if n < 2:
        raise ProblemError(f"An envelope needs at least 2 growth rates, not {n}.")
    cell = design.cell.without(knockouts)
    c = _product(design)
    biomass = cell.index(design.biomass)
    e = np.eye(1, len(c), biomass)[0]
    least, most = (optimum(cell.S, cell.lower, cell.upper, e, up)[0] for up in (False, True))
    if least is None or most is None:
        raise ProblemError(
            f"Without {', '.join(knockouts) or 'any knockout'} the cell has no steady state in "
            f"this medium, so it has no production envelope."
        )
    rates = np.linspace(least, most, n)
    # Steps back from the ends by rounding only, where a program may be refused.
    inside = np.clip(rates, least, most - _SLACK)
    ends = [[_extreme(cell, c, biomass, g, up, g + _SLACK) for g in inside] for up in (False, True)]
    return Envelope(rates, *np.array(ends, dtype=float))


def _product(design: StrainDesign) -> Array:
    column, sign = design.cell.exchange(design.product)
    return sign * np.eye(1, len(design.cell.reactions), column)[0]


def _extreme(
    cell: MetabolicModel, c: Array, biomass: int, least: float, maximize: bool, most: float = np.inf
) -> float | None:
    """Return the extreme production at growth from ``least`` to ``most``."""
    lower = cell.lower.copy()
    upper = cell.upper.copy()
    lower[biomass] = min(max(lower[biomass], least), upper[biomass])
    upper[biomass] = min(upper[biomass], most)
    return optimum(cell.S, lower, upper, c, maximize)[0]
