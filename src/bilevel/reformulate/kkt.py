"""Followers replaced by their Karush-Kuhn-Tucker conditions."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bilevel.problem.functions import Array, Rows
from bilevel.problem.standard import StandardForm
from bilevel.reformulate.builder import Builder
from bilevel.reformulate.encodings import SOS1, AbstractEncoding
from bilevel.reformulate.exchange import exchange
from bilevel.reformulate.products import Linearizer
from bilevel.reformulate.reformulation import (
    AbstractReformulation,
    Reformulated,
    add_multipliers,
    begin,
    refuse_cones,
    stationarity,
    with_slacks,
)
from bilevel.structure import Stance


@dataclass(frozen=True)
class KKT(AbstractReformulation):
    r"""Each follower becomes feasibility, stationarity and complementarity.

        grad_y f + lam' grad_y g + nu' grad_y h = 0,   g + s = 0,   h = 0,
        lam >= 0,  s >= 0,  lam_i s_i = 0

    Parameters
    ----------
    encoding
        How ``lam_i s_i = 0`` is written: ``SOS1``, ``Indicator``, ``BigM`` or ``Product``.

    Notes
    -----
    Exact for convex followers with linear constraints (no constraint qualification is needed).
    Followers that see each other's variables are stacked: the response is a Nash equilibrium.

    References
    ----------
    Fortuny-Amat and McCarl (1981), *A Representation and Economic Interpretation of a Two-Level
    Programming Problem*, Journal of the Operational Research Society 32. Instance T6 is an example
    by hand.

    Examples
    --------
    >>> import bilevel as bl
    >>> solver = bl.SingleLevel(bl.KKT(bl.SOS1()), backend="scip")
    >>> print(
    ...     round(bl.solve(bl.instances.get("T16").problem, solver).leader_value, 5)
    ... )
    10.125
    """

    encoding: AbstractEncoding = field(default_factory=SOS1)

    def accepts(self, form: StandardForm) -> tuple[str, ...]:
        """See the abstract method."""
        if form.stance is Stance.PESSIMISTIC:
            return (
                *form.integer_followers,
                "KKT conditions describe the optimistic problem; use WorstCase or Auto for the "
                "pessimistic one.",
            )
        return form.integer_followers + refuse_cones(form)

    def apply(self, form: StandardForm) -> Reformulated:
        """See the abstract method."""
        builder = begin(form)
        linearizer = Linearizer(builder, self.encoding, self.encoding.box(form))
        multipliers = []
        origins = []
        for k in range(len(form.followers)):
            columns, _, rows, origin = optimality(form, k, builder, self.encoding)
            multipliers.append(columns)
            origins.append(origin)
            for part in rows:
                builder.rows(linearizer.rows(part))
        builder.rows(linearizer.rows(form.rows))
        add_dual_variables(builder, form, multipliers)
        cost = exchange(form.objective, form.followers, multipliers, len(builder))
        objective = linearizer.objective(cost)
        note = "; ".join(dict.fromkeys(o for o in origins if o))
        proved = self.encoding.proved
        program = builder.build(objective)
        tolerant = not self.encoding.linearizes
        return Reformulated(program, form.n, tuple(multipliers), proved, note, tolerant)


def optimality(
    form: StandardForm, k: int, builder: Builder, encoding: AbstractEncoding
) -> tuple[Array, Array, tuple[Rows, Rows], str]:
    """Add follower ``k``'s multipliers, slacks and complementarity.

    Returns
    -------
    tuple
        Multiplier columns, slack columns (of the inequalities), the rows that remain to be
        added (feasibility and stationarity), and the origin of bounds.
    """
    follower = form.followers[k]
    bounds = encoding.bounds(form, k)
    rows = follower.rows
    upper = None if bounds is None else bounds.multiplier
    columns = add_multipliers(builder, follower, upper)
    inequality = np.flatnonzero(~rows.equality)
    slacks = builder.columns(
        [f"slack[{follower.name}.{rows.names[r]}]" for r in inequality],
        0.0,
        np.inf if bounds is None else bounds.slack[inequality],
        recipe=lambda v: np.maximum(-rows.evaluate(v[: form.n])[inequality], 0.0),
    )
    for r, slack in zip(inequality, slacks, strict=True):
        limits = (np.inf, np.inf)
        if bounds is not None:
            limits = (float(bounds.multiplier[r]), float(bounds.slack[r]))
        name = f"{follower.name}.{rows.names[r]}"
        encoding.pair(builder, int(columns[r]), int(slack), name, limits)
    n = len(builder)
    parts = (with_slacks(rows, slacks, n), stationarity(follower, columns, n))
    return columns, slacks, parts, "" if bounds is None else bounds.origin


def add_dual_variables(builder: Builder, form: StandardForm, multipliers: list[np.ndarray]) -> None:
    """Tie the leader's dual variables to the followers' multipliers."""
    for dual in form.dual_variables:
        target = int(multipliers[dual.follower][dual.row])
        name = form.columns.names[dual.column]
        builder.row([dual.column, target], [1.0, -1.0], 0.0, name, equality=True)
