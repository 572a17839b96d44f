"""What a leader can reach, piece by piece: regions of the reaction map with the responses there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from bilevel.errors import UnsupportedProblem
from bilevel.problem.functions import Array, Objective
from bilevel.problem.standard import LEADER, StandardForm, is_convex
from bilevel.response.reaction_map.cells import Explorer
from bilevel.response.reaction_map.domain import Domain
from bilevel.response.reaction_map.joint import Joint, join, linear_rows
from bilevel.response.reaction_map.parameters import (
    parameter_columns,
    reasons_against,
    response_columns,
)
from bilevel.response.reaction_map.polyhedra import Polyhedron
from bilevel.response.reaction_map.quadratic import Minimum, minimise
from bilevel.response.reaction_map.reaction_map import ReactionMap, Region
from bilevel.structure import Stance

_NEAR = 1e-6


@dataclass(frozen=True)
class Piece:
    """A region with responses that are worth the same to the leader, joined with its constraints.

    Parameters
    ----------
    region
        Where.
    pairs
        The followers' optimal pairs there, whatever the leader's constraints.
    joint
        Decisions with these responses, and what else the leader decides.
    """

    region: Region
    pairs: Polyhedron
    joint: Joint

    def minimise(self, objective: Objective) -> Minimum:
        """Return the leader's minimum over the closed piece."""
        S = self.joint.select
        P = S.T @ (objective.P @ S)
        c = S.T @ objective.c
        return minimise(P, c, objective.constant, self.joint.polyhedron)

    def columns(self, form: StandardForm, v: Array) -> Array:
        """Return all columns of the problem at a point of the piece."""
        w = self.joint.select @ v
        for column, k in form.values:
            objective = form.followers[k].objective
            w[column] = objective.sign * objective.evaluate(w)
        return w

    def deepest(self, among: Polyhedron) -> tuple[Array | None, float]:
        """Return the point whose parameters lie deepest inside the region, and how deep.

        ``among`` is a part of the piece. Walls of the region that are not its own but the leader's
        do not count: the followers respond in the same way on them.
        """
        A, b = self._own_walls()
        n = among.n
        q = len(b)
        wide = Polyhedron(
            np.hstack([among.E, np.zeros((len(among.e), 1))]),
            among.e,
            np.vstack(
                [
                    np.hstack([among.G, np.zeros((len(among.g), 1))]),
                    np.hstack([A, np.zeros((q, n - A.shape[1])), np.ones((q, 1))]),
                    np.append(np.zeros(n), 1.0)[None],
                ]
            ),
            np.concatenate([among.g, b, [1.0]]),
        )
        _, found = wide.minimise(-np.append(np.zeros(n), 1.0))
        return (None, -np.inf) if found is None else (found[:n], float(found[n]))

    def _own_walls(self) -> tuple[Array, Array]:
        A = self.region.A
        b = self.region.b
        ends = [self.pairs.extent(row) for row in A]
        tolerance = _NEAR * np.maximum(1.0, abs(b))
        # What has no interior has no inside across itself.
        own = [
            end is not None and end[1] <= limit and end[1] - end[0] > width
            for end, limit, width in zip(ends, b + tolerance, tolerance, strict=True)
        ]
        return A[own], b[own]


def reasons_against_pieces(form: StandardForm) -> list[str]:
    """Return why the leader cannot be minimized over the regions of a reaction map."""
    reasons = reasons_against(form)
    columns = form.columns
    other = "Use SingleLevel(KKT())."
    theta = parameter_columns(form)
    if form.dual_variables and form.stance is Stance.PESSIMISTIC:
        reasons.append(
            "Multipliers stand in the leader's problem, and a pessimistic stance is about "
            "responses: it does not say which of several multipliers counts. Use WorstCase() where "
            "followers are strictly convex."
        )
    for j in np.flatnonzero(columns.integer & (columns.owner == LEADER)):
        if j not in theta:
            reasons.append(f"The leader's column {columns.names[j]} is integer. {other}")
    if form.cones:
        reasons.append(f"The leader has a cone constraint, {form.cones[0].name}. {other}")
    if form.objective.cubic.row.size:
        reasons.append(f"The leader's objective is cubic. {other}")
    values = _value_rows(form)
    for r in np.unique(form.rows.products.row):
        if r not in values:
            name = form.rows.names[r]
            reasons.append(f"The leader's constraint {name} contains a product. {other}")
    for r, column in values.items():
        others = np.arange(len(form.rows)) != r
        mask = np.arange(form.n) == column
        used = form.rows.touches(mask)[others].any() or form.objective.P[[column]].nnz
        if r in form.rows.products.row and used:
            reasons.append(
                f"{columns.names[column]}, the value of a follower, is quadratic in the decision "
                f"and enters more than the linear part of the leader's objective. {other}"
            )
    return reasons


def leader_objective(form: StandardForm) -> Objective:
    """Return the leader's objective with followers' values written out."""
    objective = form.objective
    P = objective.P
    c = objective.c.copy()
    constant = objective.constant
    for row, column in _value_rows(form).items():
        if row not in form.rows.products.row:
            continue
        follower = form.followers[dict(form.values)[column]].objective
        factor = c[column] * follower.sign
        P = P + factor * follower.P
        constant = constant + factor * follower.constant
        c = c + factor * follower.c
        c[column] = 0.0
    return Objective(sp.csr_array(P), c, constant, maximize=objective.maximize)


def _value_rows(form: StandardForm) -> dict[int, int]:
    """Return for each row that defines a follower's value the column of that value."""
    place = {name: row for row, name in enumerate(form.rows.names)}
    return {place[f"value[{form.followers[k].name}]"]: column for column, k in form.values}


def best_pieces(found: ReactionMap) -> Iterator[Piece]:
    """Yield the pieces of the optimistic problem; their union is its whole feasible set.

    What lies between regions counts only where it holds more than their limits: where there are
    several responses, or several multipliers that the leader may choose from.
    """
    form = found.form
    rows = linear_rows(found.form, True)
    chosen = [
        part
        for part in found.boundary
        if not part.is_unique or (form.dual_variables and part.K_dual is None)
    ]
    for part in (*found.regions, *chosen):
        pairs = found.program.pairs(part.partition)
        yield Piece(part, pairs, join(form, pairs, rows, _ties(found, part)))


def worst_pieces(found: ReactionMap, stop: Callable[[], bool]) -> Iterator[Piece | None]:
    """Yield the pieces of the pessimistic problem; ``None`` where some of them are missing.

    Where followers have several responses the worst for the leader are those of a second parametric
    program over them.

    Raises
    ------
    UnsupportedProblem
        If the worst responses there are not those of a convex parametric program.
    """
    form = found.form
    rows = linear_rows(found.form, True)
    if found.set_valued:
        _check_worst(form)
    own = response_columns(form)
    theta = parameter_columns(form)
    P = form.objective.P
    c = form.objective.c
    against = (-P[own][:, own].toarray(), -c[own], -P[own][:, theta].toarray())
    d, n, _ = found.program.sizes
    for part in (*found.regions, *found.boundary):
        pairs = found.program.pairs(part.partition)
        if part.is_unique:
            yield Piece(part, pairs, join(form, pairs, rows))
            continue
        worst = found.program.among(part.partition, against)
        here = Domain.around(part.corners, part.dimension).restrict(worst.solvable())
        domain = Domain.of(here, d)
        if domain is None:
            yield None
            continue
        cells, missed = Explorer(worst, domain, stop, inner_only=True).run()
        if missed > 0:
            yield None
        for cell in cells:
            both = _meet(pairs, worst.pairs(cell.partition), d + n)
            yield Piece(part, pairs, join(form, both, rows))


def _check_worst(form: StandardForm) -> None:
    own = response_columns(form)
    against = Objective(-form.objective.P, -form.objective.c)
    remaining = (form.columns.owner == LEADER) & ~np.isin(
        np.arange(form.n), parameter_columns(form)
    )
    reasons = []
    if form.values:
        reasons.append("the followers' values stand in the leader's problem")
    if form.coupled_rows.any():
        names = [form.rows.names[r] for r in np.flatnonzero(form.coupled_rows)]
        reasons.append(f"the leader's constraint {names[0]} contains responses")
    if not is_convex(against, own):
        reasons.append("the leader's objective is convex, not concave, in the responses")
    if form.objective.P[own][:, np.flatnonzero(remaining)].nnz:
        reasons.append("the leader's objective multiplies responses and variables no follower sees")
    if reasons:
        raise UnsupportedProblem(
            f"Followers have several best responses to some decisions, and {reason}, so the worst "
            f"response is not piecewise affine; use WorstCase()."
            for reason in reasons
        )


def _ties(found: ReactionMap, part: Region) -> tuple[tuple[int, int, float], ...]:
    """Return where the multipliers that the leader uses stand in a region's pairs."""
    form = found.form
    priced = part.partition.priced
    d, n, _ = found.program.sizes
    first = np.cumsum([0] + [len(follower.rows) for follower in form.followers])
    ties = []
    for dual in form.dual_variables:
        row = int(first[dual.follower]) + dual.row
        place = d + n + int(priced[:row].sum()) if priced[row] else -1
        ties.append((dual.column, place, float(found.program.unit[row])))
    return tuple(ties)


def _meet(first: Polyhedron, second: Polyhedron, shared: int) -> Polyhedron:
    """Return the points that lie in both, which share their first columns."""

    def one(matrix: Array) -> Array:
        return np.hstack([matrix, np.zeros((len(matrix), second.n - shared))])

    def two(matrix: Array) -> Array:
        middle = np.zeros((len(matrix), first.n - shared))
        return np.hstack([matrix[:, :shared], middle, matrix[:, shared:]])

    return Polyhedron(
        np.vstack([one(first.E), two(second.E)]),
        np.concatenate([first.e, second.e]),
        np.vstack([one(first.G), two(second.G)]),
        np.concatenate([first.g, second.g]),
    )
