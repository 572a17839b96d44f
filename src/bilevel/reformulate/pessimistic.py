"""The pessimistic problem with LP followers as one program, by dualizing the worst case."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp

from bilevel.problem.functions import Array, Monomials, Objective, Rows
from bilevel.problem.standard import StandardForm
from bilevel.reformulate.builder import Builder
from bilevel.reformulate.encodings import SOS1, AbstractEncoding
from bilevel.reformulate.products import Linearizer
from bilevel.reformulate.reformulation import (
    AbstractReformulation,
    Reformulated,
    add_multipliers,
    begin,
    stationarity,
)
from bilevel.reformulate.strong_duality import gap_row
from bilevel.reformulate.worst_case import dual_rows, dual_value, homogenised, split
from bilevel.response.response import is_nash
from bilevel.structure import Stance


@dataclass(frozen=True)
class InnerDual(AbstractReformulation):
    r"""The worst answer for the leader, dualized; the follower's value by a homogenised copy.

    For a follower ``min d(x)'y s.t. A y <= b(x)`` and a leader function ``c(x)'y`` the worst value
    over the best answers equals, by LP duality and ``t phi(x) = min {d'v : A v <= t b(x)}``,

        min  lam'b(x) + d(x)'v
        s.t. A'lam + t d(x) = c(x),   A v <= t b(x),   lam >= 0,  t >= 0

    which joins the leader's own minimization. A copy of the follower's optimality conditions for
    ``y`` bounds the value from the optimistic side. Each coupling constraint gets a block of its
    own, so it holds for every best answer.

    Parameters
    ----------
    encoding
        How products with binaries are written.

    Notes
    -----
    ``t`` has no bound; where the value keeps growing with ``t`` the optimum is not attained
    (spec T4). ``WorstCase`` looks after that. Valid for LP followers that do not see each other
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
        reasons = []
        if form.stance is not Stance.PESSIMISTIC:
            reasons.append("The worst case is dualized for the pessimistic stance only.")
        if is_nash(form):
            reasons.append("The pessimistic problem is not defined for followers in equilibrium.")
        if form.prices or form.values:
            reasons.append("Prices and follower values are not supported in pessimistic problems.")
        if not all(f.is_linear for f in form.followers):
            reasons.append("The worst case is dualized for LP followers only.")
        mask = form.follower_mask
        if form.objective.P[mask][:, mask].nnz or any(c.A[:, mask].nnz for c in form.cones):
            reasons.append("The leader's objective must be linear in the followers' variables.")
        factors = form.rows.products.factors
        if mask[factors].all(axis=1).any():
            reasons.append("The leader's constraints must be linear in the followers' variables.")
        # An epigraph that the leader minimises over answers follower by follower: the worst answer
        # must be taken before that minimum, which this form does not do.
        if _epigraph_of_answers(form):
            reasons.append(
                "The leader's problem must be linear in the followers' variables (no absolute "
                "values or maxima of them)."
            )
        own_products = [_has_pure_products(form, k) for k in range(len(form.followers))]
        if any(own_products):
            reasons.append("A product of two leader variables stands in a follower's constraint.")
        return tuple(reasons)

    def apply(self, form: StandardForm) -> Reformulated:
        """See the abstract method."""
        builder = begin(form)
        linearizer = Linearizer(builder, self.encoding)
        mask = form.follower_mask
        for follower in form.followers:
            # The optimistic side: y is a best answer.
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
        target = _objective_row(form, mask, worst, len(builder))
        # worst >= c'y for the optimistic y, and worst >= the dual value of the worst case.
        builder.rows(linearizer.rows(target))
        self._block(builder, linearizer, form, target, 0, "worst")
        for r in np.flatnonzero(touched):
            for row in _as_inequalities(form.rows, int(r)):
                if not _follows_from_optimality(form, row):
                    self._block(builder, linearizer, form, row, 0, f"worst {form.rows.names[r]}")
        rest = _leader_part(form, mask)
        n = len(builder)
        c = np.zeros(n)
        c[: form.n] = rest.c
        c[worst] += 1.0
        objective = replace(rest.pad(n), c=c)
        empty = tuple(np.empty(0, int) for _ in form.followers)
        scales = tuple(i for i, name in enumerate(builder.names) if name.endswith(".t]"))
        program = builder.build(objective)
        return Reformulated(program, form.n, empty, self.encoding.proved, scales=scales)

    def _block(
        self,
        builder: Builder,
        linearizer: Linearizer,
        form: StandardForm,
        row: Rows,
        r: int,
        label: str,
    ) -> None:
        """Add: row ``r`` holds for every best answer of the followers."""
        parts_linear, parts_products = [], []
        rest, costs = split(form, row, r)
        for k, follower in enumerate(form.followers):
            lam = add_multipliers(builder, follower, None, label=label)
            name = f"{label}[{follower.name}"
            t = builder.column(f"{name}.t]", 0.0, self.largest_t)
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
        vector[: len(rest[0])] = rest[0]
        for columns, values in parts_linear:
            np.add.at(vector, columns, values)
        factors = np.concatenate([rest[1].factors, *(f for f, _ in parts_products)])
        value = np.concatenate([rest[1].value, *(v for _, v in parts_products)])
        total = Rows(
            sp.csr_array(vector[None, :]),
            row.b[[r]],
            np.zeros(1, bool),
            Monomials.collect(np.zeros(len(value), int), factors, value),
            (label,),
        )
        builder.rows(linearizer.rows(total))


def _epigraph_of_answers(form: StandardForm) -> bool:
    """Return whether auxiliary leader columns are tied to follower columns by leader rows."""
    auxiliary = np.array([name.startswith("epigraph[") for name in form.columns.names])
    auxiliary &= ~form.follower_mask
    if not auxiliary.any():
        return False
    both = form.rows.touches(auxiliary) & form.rows.touches(form.follower_mask)
    return bool(both.any())


def _has_pure_products(form: StandardForm, k: int) -> bool:
    mask = np.zeros(form.n, bool)
    mask[form.followers[k].columns] = True
    factors = form.followers[k].rows.products.factors
    return bool((~mask[factors].any(axis=1)).any()) if len(factors) else False


def _objective_row(form: StandardForm, mask: Array, worst: int, n: int) -> Rows:
    """Return ``F's terms with follower columns - worst <= 0``."""
    linear = np.zeros(n)
    linear[: form.n] = np.where(mask, form.objective.c, 0.0)
    linear[worst] = -1.0
    cross = form.objective.P[np.flatnonzero(mask)].tocoo()
    factors = np.column_stack([np.flatnonzero(mask)[cross.row], cross.col])
    products = Monomials.collect(np.zeros(cross.nnz, int), factors, cross.data)
    return Rows(sp.csr_array(linear[None, :]), np.zeros(1), np.zeros(1, bool), products, ("worst",))


def _leader_part(form: StandardForm, mask: Array) -> Objective:
    keep = sp.diags_array((~mask).astype(float))
    P = sp.csr_array(keep @ form.objective.P @ keep)
    P.eliminate_zeros()
    return replace(form.objective, P=P, c=np.where(mask, 0.0, form.objective.c))


def _as_inequalities(rows: Rows, r: int) -> list[Rows]:
    single = np.zeros(len(rows), bool)
    single[r] = True
    row = rows.take(single)
    if not row.equality[0]:
        return [row]
    flipped = Rows(
        -row.A,
        -row.b,
        np.zeros(1, bool),
        replace(row.products, value=-row.products.value),
        row.names,
    )
    return [replace(row, equality=np.zeros(1, bool)), flipped]


def _follows_from_optimality(form: StandardForm, row: Rows) -> bool:
    """Return whether a row asks for no more of a follower than a small objective value.

    A row ``a f(y) + ... <= b`` with ``a >= 0`` that holds for one best answer holds for all.
    """
    if len(row.products):
        return False
    line = row.A.toarray().ravel()
    for follower in form.followers:
        cost, part = follower.objective.c[follower.columns], line[follower.columns]
        if not part.any():
            continue
        others = np.ones(form.n, bool)
        others[follower.columns] = False
        if follower.objective.P[follower.columns][:, others].nnz:
            return False
        scale = (part @ cost) / max(float(cost @ cost), 1e-300)
        if scale < 0 or not np.allclose(part, scale * cost, rtol=1e-12, atol=1e-12):
            return False
    return True
