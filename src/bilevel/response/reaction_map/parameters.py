"""Which of the leader's columns followers see, and whether their response is piecewise affine."""

from __future__ import annotations

import numpy as np

from bilevel.problem.functions import Array
from bilevel.problem.standard import LEADER, StandardForm
from bilevel.structure import Stance, Structure

_LARGEST = 2


def parameter_columns(form: StandardForm) -> Array:
    """Return the leader columns that the followers see, shape ``(d,)``."""
    return np.flatnonzero(form.linking_mask & (form.columns.owner == LEADER))


def response_columns(form: StandardForm) -> Array:
    """Return the followers' columns in the order of the followers, shape ``(n,)``."""
    return np.concatenate([follower.columns for follower in form.followers]).astype(int)


def reasons_against(form: StandardForm) -> list[str]:
    """Return why there is no reaction map of a problem's followers; empty if there is one."""
    other = "WorstCase()" if form.stance is Stance.PESSIMISTIC else "SingleLevel(KKT())"
    use = f"use {other} instead."
    columns = form.columns
    reasons = list(form.integer_followers)
    instead = "use Continuation() instead"
    if form.stance is Stance.PESSIMISTIC:
        instead = "Continuation() takes it in optimistic problems only"
    reasons += [
        f"Follower {follower.name!r} has cones (norms, logarithms, exponentials or matrix "
        f"inequalities), so its response is not piecewise affine; {instead}."
        for follower in form.followers
        if follower.cones
    ]
    if Structure.NASH in form.structure:
        reasons.append(
            f"Followers see each other's variables: their response is an equilibrium, of which "
            f"there is no reaction map; {use}"
        )
    theta = parameter_columns(form)
    if len(theta) > _LARGEST:
        names = ", ".join(columns.names[j] for j in theta[:5]) + (", ..." if theta[5:].size else "")
        reasons.append(
            f"The followers depend on {len(theta)} columns of the leader ({names}); a reaction map "
            f"is over one or two; {use}"
        )
    reasons += [
        f"The leader's column {columns.names[j]} is integer; a reaction map is over continuous "
        f"ones; {use}"
        for j in theta[columns.integer[theta]]
    ]
    for follower in form.followers:
        if follower.rows.products.row.size:
            row = follower.rows.names[int(follower.rows.products.row[0])]
            reasons.append(
                f"Constraint {row} of follower {follower.name!r} contains a product of variables, "
                f"so the response is not piecewise affine in the leader's; {use}"
            )
        if follower.objective.cubic.row.size:
            reasons.append(
                f"A leader variable scales the quadratic term of follower {follower.name!r}, so "
                f"the response is not piecewise affine; {use}"
            )
    return reasons
