"""The pessimistic problem with LP followers as one program, by dualizing the worst case."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp

from bilevel.problem.functions import Array, Monomials, Objective, Rows
from bilevel.problem.standard import StandardForm
from bilevel.reformulate.builder import Builder
from bilevel.reformulate.encodings import SOS1, AbstractEncoding
from bilevel.reformulate.pessimistic_parts import (
    as_inequalities,
    dual_rows,
    dual_value,
    follows_from_optimality,
    homogenised,
    objective_row,
    reasons_against,
    split,
)
from bilevel.reformulate.products import Linearizer
from bilevel.reformulate.reformulation import (
    AbstractReformulation,
    Reformulated,
    add_multipliers,
    begin,
    stationarity,
)
from bilevel.reformulate.strong_duality import gap_row


@dataclass(frozen=True)
class InnerDual(AbstractReformulation):
    r"""The worst response for the leader, dualized; the follower's value by a homogenised copy.

    For a follower ``min d(x)'y s.t. A y <= b(x)`` and a leader function ``c(x)'y`` the worst value
    over the best responses equals, by LP duality and ``t phi(x) = min {d'v : A v <= t b(x)}``,

        min  lam'b(x) + d(x)'v
        s.t. A'lam + t d(x) = c(x),   A v <= t b(x),   lam >= 0,  t >= 0

    which joins the leader's own minimization. A copy of the follower's optimality conditions for
    ``y`` bounds the value from the optimistic side. Each coupling constraint gets a block of its
    own, so it holds for every best response.

    Parameters
    ----------
    encoding
        How products with binaries are written.

    Notes
    -----
    ``t`` has no bound; where the value keeps growing with ``t`` the optimum is not attained
    (instance T4). ``WorstCase`` looks after that. Valid for LP followers that do not see each other
    and a leader objective and constraints linear in their variables.

    References
    ----------
    Wiesemann, Tsoukalas, Kleniati and Rustem (2013), *SIAM Journal on Optimization* 23; Zeng
    (2020), *Operations Research Letters* 48. Formulation: LP duality, see above.

    Examples
    --------
    >>> import bilevel as bl
    >>> problem = bl.instances.get("T14").problem.replace(stance="pessimistic")
    >>> print(round(bl.solve(problem).leader_value, 6))
    9.0
    """

    encoding: AbstractEncoding = field(default_factory=SOS1)
    largest_t: float = np.inf

    def accepts(self, form: StandardForm) -> tuple[str, ...]:
        """See the abstract method."""
        return tuple(reasons_against(form))

    def apply(self, form: StandardForm) -> Reformulated:
        """See the abstract method."""
        builder = begin(form)
        linearizer = Linearizer(builder, self.encoding)
        mask = form.follower_mask
        for follower in form.followers:
            # The optimistic side: y is a best response.
            columns = add_multipliers(builder, follower, None)
            for part in (
                follower.rows,
                stationarity(follower, columns, len(builder)),
                gap_row(follower, columns, len(builder)),
            ):
                builder.rows(linearizer.rows(part))
        touched = form.rows.touches(mask)
        builder.rows(linearizer.rows(form.rows))
        worst = builder.column("worst", -np.inf, np.inf)
        target = objective_row(form, mask, len(builder), worst)
        # worst >= c'y for the optimistic y, and worst >= the dual value of the worst case.
        builder.rows(linearizer.rows(target))
        scales = self._block(builder, linearizer, form, target, 0, "worst")
        for r in np.flatnonzero(touched):
            for row in as_inequalities(form.rows, int(r)):
                if not follows_from_optimality(form, row):
                    label = f"worst {form.rows.names[r]}"
                    scales += self._block(builder, linearizer, form, row, 0, label)
        remaining = _leader_part(form, mask)
        n = len(builder)
        c = np.zeros(n)
        c[: form.n] = remaining.c
        c[worst] += 1.0
        objective = replace(remaining.pad(n), c=c)
        empty = tuple(np.empty(0, int) for _ in form.followers)
        program = builder.build(objective)
        return Reformulated(program, form.n, empty, self.encoding.proved, scales=tuple(scales))

    def _block(
        self,
        builder: Builder,
        linearizer: Linearizer,
        form: StandardForm,
        row: Rows,
        r: int,
        label: str,
    ) -> list[int]:
        """Add: row ``r`` holds for every best response of followers. Return the scales ``t``."""
        parts_linear = []
        parts_products = []
        scales = []
        remaining, costs = split(form, row, r)
        for k, follower in enumerate(form.followers):
            lam = add_multipliers(builder, follower, None, label=label)
            name = f"{label}[{follower.name}"
            t = builder.column(f"{name}.t]", 0.0, self.largest_t)
            scales.append(t)
            copy = builder.columns(
                [f"{name}.{form.columns.names[j]}]" for j in follower.columns], -np.inf, np.inf
            )
            n = len(builder)
            builder.rows(linearizer.rows(dual_rows(form, k, lam, t, costs[k], n)))
            builder.rows(linearizer.rows(homogenised(form, k, copy, t, n)))
            linear, products = dual_value(form, k, lam, copy)
            parts_linear.append(linear)
            parts_products.append(products)
        n = len(builder)
        vector = np.zeros(n)
        vector[: len(remaining[0])] = remaining[0]
        for columns, values in parts_linear:
            np.add.at(vector, columns, values)
        factors = np.concatenate([remaining[1].factors, *(f for f, _ in parts_products)])
        value = np.concatenate([remaining[1].value, *(v for _, v in parts_products)])
        total = Rows(
            sp.csr_array(vector[None, :]),
            row.b[[r]],
            np.zeros(1, bool),
            Monomials.collect(np.zeros(len(value), int), factors, value),
            (label,),
        )
        builder.rows(linearizer.rows(total))
        return scales


def _leader_part(form: StandardForm, mask: Array) -> Objective:
    keep = sp.diags_array((~mask).astype(float))
    P = sp.csr_array(keep @ form.objective.P @ keep)
    P.eliminate_zeros()
    return replace(form.objective, P=P, c=np.where(mask, 0.0, form.objective.c))
