"""Gene knockouts that make a cell produce: the engineer leads, the growing cell follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any

import cvxpy as cp
import numpy as np

from bilevel.applications.metabolic_model import MetabolicModel, load_model, optimum
from bilevel.applications.network_reduction import (
    ZERO,
    ReducedNetwork,
    follower_rows,
    reduce_network,
)
from bilevel.applications.production import Envelope, Production, envelope, evaluate
from bilevel.errors import ProblemError
from bilevel.problem.problem import Follower, Problem

if TYPE_CHECKING:
    from bilevel.solution import Solution

__all__ = ["Envelope", "Production", "StrainDesign", "envelope", "evaluate", "strain_design"]

_COUPLINGS = ("weak", "pessimistic", "strong")


@dataclass(frozen=True, eq=False)
class StrainDesign:
    """A strain design problem, with the way back from its variables to reactions.

    Parameters
    ----------
    problem
        What ``bl.solve`` takes.
    cell
        The whole metabolic model in its medium; the problem holds a reduced one.
    product, biomass
        Ids of the reaction whose flux is produced and of the one that is growth.
    coupling, n_knockouts, growth_floor
        As given to ``strain_design``.
    candidates
        The reactions among which the leader chooses: one of each group of equal effect.
    alternatives
        For each candidate, the reactions whose removal has the same effect, itself among them.
    removed
        The leader's boolean variable, one entry per candidate: 1 if it is removed.
    flux
        The follower's variable: fluxes of the reduced network.
    network
        The reduced network; ``network.T @ flux`` are the fluxes of all reactions.
    """

    problem: Problem
    cell: MetabolicModel = field(repr=False)
    product: str
    biomass: str
    coupling: str
    n_knockouts: int
    growth_floor: float
    candidates: tuple[str, ...] = field(repr=False)
    alternatives: Mapping[str, tuple[str, ...]] = field(repr=False)
    removed: cp.Variable = field(repr=False)
    flux: cp.Variable = field(repr=False)
    network: ReducedNetwork = field(repr=False)

    def knockouts(self, solution: Solution) -> tuple[str, ...]:
        """Return the ids of the reactions that a solution removes."""
        chosen = np.flatnonzero(np.asarray(solution[self.removed]) > 0.5)
        return tuple(self.candidates[j] for j in chosen)

    def fluxes(self, solution: Solution) -> dict[str, float]:
        """Return the flux of every reaction in a solution, mmol/gDW/h (growth in 1/h)."""
        values = self.network.T @ np.asarray(solution[self.flux])
        return dict(zip(self.cell.reactions, values.tolist(), strict=True))


def strain_design(
    model: Any = None,
    *,
    product: str,
    n_knockouts: int,
    coupling: str = "weak",
    growth_floor: float = 0.05,
    medium: Mapping[str, float] | None = None,
    anaerobic: bool = False,
    biomass: str | None = None,
    candidates: Iterable[str] | None = None,
) -> StrainDesign:
    r"""Return the problem of an engineer who removes reactions so that a growing cell produces.

        maximize    production                                  over k in {0, 1}^candidates
        subject to  sum(k) <= n_knockouts,  growth >= growth_floor
                    v in argmax { growth : S v == 0, lower <= v <= upper, v_j == 0 if k_j == 1 }

    Parameters
    ----------
    model
        ``None`` for the *E. coli* core model of the package cobra; a ``cobra.Model``, the path of
        a model file, the name of a packaged model, or a ``MetabolicModel``.
    product
        Id of a reaction, or of a metabolite that the cell excretes (``"succ_e"``).
    n_knockouts
        How many reactions may be removed, at least 0.
    coupling
        ``"weak"``: production at maximal growth, where the cell has the choice as the engineer
        likes it. ``"pessimistic"``: the least production at maximal growth. ``"strong"``: the
        least production at any growth above the floor; the cell then minimizes production.
    growth_floor
        Least growth of the strain, 1/h.
    medium
        Largest uptake, mmol/gDW/h, by exchange reaction or metabolite (``{"glc__D_e": 10}``).
        Exchanges that are not named keep the model's bounds.
    anaerobic
        Whether the uptake of oxygen is closed.
    biomass
        Id of the reaction that is growth; ``None`` for the model's objective.
    candidates
        Reactions that may be removed; ``None`` for all that are associated with a gene.

    Returns
    -------
    StrainDesign
        Its ``problem`` goes to ``bl.solve``; ``evaluate`` checks any set of knockouts.

    Raises
    ------
    ProblemError
        If an id is unknown, the floor cannot be reached, the product cannot be made, or no
        candidate is left.
    BackendNotFound
        If cobra is needed and not installed.

    Notes
    -----
    Reactions are removed, not genes: the rules between them are used only to find the candidates.

    The network is reduced without a change of any design's growth or production
    (``reduce_network``): for the core model from 69 binaries, 95 fluxes and 262 follower rows to
    37, 57 and 112. Essential candidates, without which the floor cannot be reached, and candidates
    without flux are not offered. A flux that may be removed is limited by what it attains in the
    network without knockouts, and 0.1 % more, so that this limit is never active in a strain that
    keeps the reaction.

    A design that cannot reach the floor is not available, in each coupling: for ``"strong"`` the
    cell has no response to it, for the others it violates the leader's constraint.

    References
    ----------
    Burgard, Pharkya & Maranas, *Biotechnology and Bioengineering* 84 (2003) 647-657 (OptKnock:
    weak). Tepper & Shlomi, *Bioinformatics* 26 (2010) 536-543 (RobustKnock: pessimistic). Klamt &
    Mahadevan, *Metabolic Engineering* 30 (2015) 166-178 (strong coupling). Orth, Fleming &
    Palsson, *EcoSal Plus* 4 (2010) (the core model).

    Examples
    --------
    >>> import bilevel as bl
    >>> from bilevel.applications.strain_design import evaluate, strain_design
    >>> design = strain_design(product="succ_e", n_knockouts=1, anaerobic=True)
    >>> solution = bl.solve(design.problem)
    >>> print(design.knockouts(solution), round(solution.leader_value, 3))
    ('PYK',) 6.968
    >>> print(round(evaluate(design, ["PYK"]).guaranteed, 3))
    0.0
    """
    _check(n_knockouts, coupling, growth_floor)
    cell = load_model(model).in_medium(medium, anaerobic)
    growth_column = _biomass(cell, biomass)
    _check_growth(cell, growth_column, growth_floor)
    network = reduce_network(cell, growth_column, growth_floor)
    column, sign = cell.exchange(product)
    _check_product(cell, network, column, sign, growth_floor)
    offered = _candidates(cell, network, candidates)
    alternatives = {names[0]: names for names in offered.values()}

    groups = np.array(list(offered))
    removed = cp.Variable(len(groups), boolean=True, name="removed")
    flux = cp.Variable(network.T.shape[1], name="flux")
    growth = network.expression(growth_column, flux)
    production = sign * network.expression(column, flux)
    rows = follower_rows(network, groups, removed, flux)
    few = cp.sum(removed) <= n_knockouts
    if coupling == "strong":
        if cell.lower[growth_column] < growth_floor:
            rows.append(growth >= growth_floor)
        cell_problem = Follower(cp.Minimize(production), rows, [flux], "cell")
        leader_rows = [few]
    else:
        cell_problem = Follower(cp.Maximize(growth), rows, [flux], "cell")
        leader_rows = [few, growth >= growth_floor]
    stance = "pessimistic" if coupling == "pessimistic" else "optimistic"
    return StrainDesign(
        Problem(cp.Maximize(production), leader_rows, [cell_problem], stance),
        cell,
        cell.reactions[column],
        cell.reactions[growth_column],
        coupling,
        int(n_knockouts),
        float(growth_floor),
        tuple(alternatives),
        alternatives,
        removed,
        flux,
        network,
    )


def _check(n_knockouts: Any, coupling: str, growth_floor: float) -> None:
    if isinstance(n_knockouts, bool) or not isinstance(n_knockouts, Integral) or n_knockouts < 0:
        raise ProblemError(f"n_knockouts must be an integer of at least 0, not {n_knockouts!r}.")
    if coupling not in _COUPLINGS:
        raise ProblemError(f"coupling must be one of {list(_COUPLINGS)}, not {coupling!r}.")
    if not 0 <= growth_floor < np.inf:
        raise ProblemError(f"growth_floor must be at least 0 and finite, not {growth_floor!r}.")


def _biomass(cell: MetabolicModel, biomass: str | None) -> int:
    name = biomass if biomass is not None else cell.biomass
    if name is None:
        raise ProblemError(
            "The metabolic model does not say which reaction is growth (its objective is not the "
            "maximization of one reaction): name it by biomass=."
        )
    return cell.index(name)


def _check_growth(cell: MetabolicModel, column: int, floor: float) -> None:
    growth, _ = optimum(cell.S, cell.lower, cell.upper, np.eye(1, len(cell.lower), column)[0])
    name = cell.reactions[column]
    if growth is None:
        raise ProblemError(
            "The cell has no steady state in this medium, even without knockouts: allow more "
            "uptake by medium=, or relax the model's lower bounds (such as maintenance)."
        )
    if np.isinf(growth):
        raise ProblemError(
            f"Growth ({name!r}) is unbounded in this medium: bound the uptake of some nutrient."
        )
    if growth < max(floor, ZERO):
        raise ProblemError(
            f"The growth floor of {floor:g} /h cannot be reached in this medium even without "
            f"knockouts: {name!r} is at most {max(0.0, growth):.6g} /h. Lower growth_floor or "
            f"allow more uptake by medium=."
        )


def _check_product(
    cell: MetabolicModel, network: ReducedNetwork, column: int, sign: float, floor: float
) -> None:
    name = cell.reactions[column]
    group = network.group(column)
    most = 0.0
    if group is not None:
        most = float(np.max(sign * group[1] * np.array([network.least, network.most])[:, group[0]]))
    if most <= ZERO:
        raise ProblemError(
            f"The product ({name!r}) cannot be made in this medium at growth of {floor:g} /h or "
            f"more, with or without knockouts."
        )
    if np.isinf(most):
        raise ProblemError(
            f"The production of {name!r} is unbounded in this medium: bound some uptake, or the "
            f"reactions of the model that run without limit."
        )


def _candidates(
    cell: MetabolicModel, network: ReducedNetwork, candidates: Iterable[str] | None
) -> dict[int, tuple[str, ...]]:
    """Return the candidates to offer: those of equal effect, by their entry of the fluxes."""
    if candidates is None:
        names = [cell.reactions[j] for j in np.flatnonzero(cell.has_gene)]
    else:
        names = [candidates] if isinstance(candidates, str) else list(dict.fromkeys(candidates))
    found: dict[int, list[str]] = {}
    for name in names:
        group = network.group(cell.index(name))
        if group is not None and network.removable[group[0]]:
            found.setdefault(group[0], []).append(name)
    if not found:
        raise ProblemError(
            f"No reaction can be removed: of {len(names)} candidates, each is essential for the "
            f"growth floor or carries no flux in this medium."
        )
    ends = np.array([network.least, network.most])
    for group, (name, *_) in found.items():
        if not np.isfinite(ends[:, group]).all():
            raise ProblemError(
                f"The flux of candidate {name!r} is unbounded, so its removal cannot be written "
                f"as a linear constraint: give it finite bounds in the model (such as 1000)."
            )
    return {group: tuple(listed) for group, listed in found.items()}
