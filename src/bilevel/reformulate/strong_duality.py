"""Followers replaced by primal and dual feasibility and equal values."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from bilevel.problem.functions import Array, Monomials, Rows
from bilevel.problem.standard import FollowerForm, StandardForm
from bilevel.reformulate.encodings import SOS1, AbstractEncoding
from bilevel.reformulate.exchange import exchange
from bilevel.reformulate.kkt import add_dual_variables
from bilevel.reformulate.products import Linearizer
from bilevel.reformulate.reformulation import (
    AbstractReformulation,
    Reformulated,
    add_multipliers,
    begin,
    refuse_cones,
    stationarity,
)
from bilevel.structure import Stance


@dataclass(frozen=True)
class StrongDuality(AbstractReformulation):
    r"""Each follower becomes ``g <= 0``, stationarity, and no gap between its two values.

        y'P y + c(x)'y + lam'b(x) <= 0        (A y <= b(x), P y + c(x) + A'lam = 0, lam >= 0)

    One row replaces all complementarity conditions. Its products of a multiplier with a binary
    leader variable are written exactly, without any bound, by ``encoding``, those with a bounded
    integer one after it is written in binaries; products with continuous leader variables are left
    to a global solver.

    Parameters
    ----------
    encoding
        How a product with a binary is written: ``SOS1``, ``Indicator``, ``BigM``, or ``Product`` to
        leave it to the backend.

    Notes
    -----
    The method of choice where all leader variables that enter the follower are binary
    (interdiction, strain design): no complementarity remains. With continuous ones prefer ``KKT``.
    A quadratic follower makes the row a convex quadratic.

    References
    ----------
    Burgard, Pharkya and Maranas (2003), *Biotechnology and Bioengineering* 84; Kleinert, Labbe,
    Ljubic and Schmidt (2021), *EURO Journal on Computational Optimization* 9, section 5.

    Examples
    --------
    >>> import bilevel as bl
    >>> solver = bl.SingleLevel(bl.StrongDuality())
    >>> print(
    ...     round(bl.solve(bl.instances.get("T14").problem, solver).leader_value, 6)
    ... )
    10.0
    """

    encoding: AbstractEncoding = field(default_factory=SOS1)

    def accepts(self, form: StandardForm) -> tuple[str, ...]:
        """See the abstract method."""
        reasons = [*form.integer_followers, *refuse_cones(form)]
        if form.stance is Stance.PESSIMISTIC:
            reasons.append(
                "Strong duality describes the optimistic problem; use WorstCase or Auto for the "
                "pessimistic one."
            )
        reasons.extend(
            f"The gap row of follower {follower.name!r} would multiply three variables; use KKT."
            for follower in form.followers
            if follower.objective.cubic.row.size or _pure_products(follower).any()
        )
        return tuple(reasons)

    def apply(self, form: StandardForm) -> Reformulated:
        """See the abstract method."""
        builder = begin(form)
        linearizer = Linearizer(builder, self.encoding, self.encoding.box(form))
        multipliers = []
        origins = []
        tolerant = False
        for k, follower in enumerate(form.followers):
            bounds = self.encoding.bounds(form, k, slacks=False)
            columns = add_multipliers(
                builder, follower, None if bounds is None else bounds.multiplier
            )
            multipliers.append(columns)
            origins.append("" if bounds is None else bounds.origin)
            builder.rows(linearizer.rows(follower.rows))
            builder.rows(linearizer.rows(stationarity(follower, columns, len(builder))))
            gap = linearizer.rows(gap_row(follower, columns, len(builder)))
            tolerant |= gap.products.row.size > 0
            builder.rows(gap)
        builder.rows(linearizer.rows(form.rows))
        add_dual_variables(builder, form, multipliers)
        cost = exchange(form.objective, form.followers, multipliers, len(builder))
        objective = linearizer.objective(cost)
        note = "; ".join(dict.fromkeys(o for o in origins if o))
        proved = self.encoding.proved
        program = builder.build(objective)
        return Reformulated(
            program, form.n, tuple(multipliers), proved, note, tolerant, bits=linearizer.bits
        )


def gap_row(follower: FollowerForm, multipliers: Array, n: int) -> Rows:
    """Return the row that says the follower's primal value does not exceed its dual value."""
    own = follower.columns
    mask = np.zeros(n, bool)
    mask[own] = True
    linear = np.zeros(n)
    linear[own] = follower.objective.c[own]
    linear[multipliers] += follower.rows.b
    cross = follower.objective.P[own].tocoo()
    others = follower.rows.A.tocoo()
    outside = ~mask[others.col]
    factors = np.concatenate(
        [
            np.column_stack([own[cross.row], cross.col]),
            np.column_stack([multipliers[others.row[outside]], others.col[outside]]),
        ]
    )
    value = np.concatenate([cross.data, -1.0 * others.data[outside]])
    return Rows(
        sp.csr_array(linear[None, :]),
        np.zeros(1),
        np.zeros(1, bool),
        Monomials.collect(np.zeros(len(value), int), factors, value),
        (gap_name(follower),),
    )


def gap_name(follower: FollowerForm) -> str:
    """Return the name of a follower's gap row."""
    return f"gap[{follower.name}]"


def _pure_products(follower: FollowerForm) -> Array:
    """Return which products of a follower's rows contain none of its own columns."""
    mask = np.zeros(follower.rows.A.shape[1], bool)
    mask[follower.columns] = True
    return np.logical_not(mask[follower.rows.products.factors].any(axis=1))
