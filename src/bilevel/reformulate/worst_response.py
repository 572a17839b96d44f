"""The pessimistic problem with LP followers as one program, by two levels of optimality."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bilevel.problem.standard import StandardForm
from bilevel.reformulate.encodings import SOS1, AbstractEncoding
from bilevel.reformulate.kkt import optimality
from bilevel.reformulate.pessimistic_parts import (
    as_inequalities,
    dual_rows,
    follows_from_optimality,
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
)


@dataclass(frozen=True)
class WorstResponse(AbstractReformulation):
    r"""The followers' response is a best one, and of these the worst for the leader.

    With a follower ``min d'y s.t. A y <= b(x)`` and the leader's costs ``c(x)'y``, both by their
    optimality conditions over the same slacks ``s = b(x) - A y``:

        A'mu + d = 0,          mu >= 0,   mu_i s_i = 0       (y is a best response)
        A'lam + t d = c(x),    lam >= 0,  lam_i s_i = 0      (no best response is worse)

    ``t`` is free: every best response has the same value, so it is the multiplier of an equation.

    Parameters
    ----------
    encoding
        How complementarity is written.

    Notes
    -----
    All rows are linear if leader columns enter the followers' right-hand sides only, which is
    required here; then the worst value is continuous in the decision and the optimum is attained.
    Coupling constraints must be implied by a good value of the follower's objective. ``InnerDual``
    takes the other cases.

    References
    ----------
    Zeng (2020), *Operations Research Letters* 48, on the pessimistic problem as an optimistic one;
    here by LP duality on the face of best responses.

    Examples
    --------
    >>> import cvxpy as cp, bilevel as bl
    >>> x, y, z = (cp.Variable(name=name) for name in "xyz")
    >>> follower = bl.Follower(
    ...     cp.Minimize(-y), [y <= x, y <= 6 - x, z >= 0, z <= x], variables=[y, z]
    ... )
    >>> problem = bl.Problem(
    ...     cp.Minimize(x / 2 - y - z),
    ...     [x >= 0, x <= 4],
    ...     [follower],
    ...     stance="pessimistic",
    ... )
    >>> solver = bl.SingleLevel(bl.WorstResponse())
    >>> print(round(bl.solve(problem, solver).leader_value, 6))
    -1.5
    """

    encoding: AbstractEncoding = field(default_factory=SOS1)

    def accepts(self, form: StandardForm) -> tuple[str, ...]:
        """See the abstract method."""
        reasons = reasons_against(form)
        mask = form.follower_mask
        for follower in form.followers:
            others = np.ones(form.n, bool)
            others[follower.columns] = False
            products = follower.rows.products.row.size
            if products or follower.objective.P[follower.columns][:, others].nnz:
                reasons.append(
                    f"A leader variable multiplies variables of follower {follower.name!r}; use "
                    f"InnerDual."
                )
        for r in np.flatnonzero(form.rows.touches(mask)).tolist():
            for row in as_inequalities(form.rows, r):
                if not follows_from_optimality(form, row):
                    reasons.append(
                        f"Coupling constraint {form.rows.names[r]} would need a worst response of "
                        f"its own; use InnerDual."
                    )
        return tuple(dict.fromkeys(reasons))

    def apply(self, form: StandardForm) -> Reformulated:
        """See the abstract method."""
        builder = begin(form)
        linearizer = Linearizer(builder, self.encoding)
        mask = form.follower_mask
        _, costs = split(form, objective_row(form, mask, form.n), 0)
        multipliers = []
        note = ""
        for k, follower in enumerate(form.followers):
            best, slacks, rows, note = optimality(form, k, builder, self.encoding)
            multipliers.append(best)
            for part in rows:
                builder.rows(linearizer.rows(part))
            worst = add_multipliers(builder, follower, None, label="worst")
            t = builder.column(f"worst[{follower.name}.t]", -np.inf, np.inf)
            inequality = np.flatnonzero(~follower.rows.equality)
            for r, slack in zip(inequality.tolist(), slacks.tolist(), strict=True):
                name = f"worst {follower.name}.{follower.rows.names[r]}"
                self.encoding.pair(builder, int(worst[r]), slack, name, (np.inf, np.inf))
            builder.rows(linearizer.rows(dual_rows(form, k, worst, t, costs[k], len(builder))))
        builder.rows(linearizer.rows(form.rows))
        objective = linearizer.objective(form.objective)
        program = builder.build(objective)
        return Reformulated(program, form.n, tuple(multipliers), self.encoding.proved, note)
