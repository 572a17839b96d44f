"""Moving constraints of a follower to the leader."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

import cvxpy as cp
from cvxpy.constraints import Equality, Inequality, NonNeg, NonPos, Zero

from bilevel.errors import ProblemError
from bilevel.problem.problem import Follower, Problem

_PENALTIES = ("drop", "quadratic", "l1")


def lift(
    problem: Problem,
    constraints: Any,
    penalty: str = "drop",
    weight: float | None = None,
    atol: float = 0.0,
) -> Problem:
    r"""Return the problem in which the leader answers for some of a follower's constraints.

    With ``s(x, y)`` the violations of the lifted constraints, ``max(g, 0)`` and ``|h|``,

        leader      min  F(x, y)                  s.t. G(x, y) <= 0,  s(x, y) <= atol
        follower    min  f(x, y) + weight * p(s)  s.t. its other constraints

    where ``p`` is 0 (``"drop"``), ``sum(s**2)`` (``"quadratic"``) or ``sum(s)`` (``"l1"``).

    Parameters
    ----------
    problem
        The problem, which is left as it is.
    constraints
        A constraint object of a follower, several of them (also of several followers), or a
        ``Follower`` for all of its constraints.
    penalty
        What the follower pays for violating them.
    weight
        Price of a violation, positive; needed by ``"quadratic"`` and ``"l1"``, never invented.
    atol
        What violation the leader allows, in units of the constraint; ``"quadratic"`` needs one.

    Returns
    -------
    Problem
        Over the same variables, so that ``bl.verify(problem, solution)`` judges its points in the
        original. Its followers are new objects with the names of the old ones.

    Raises
    ------
    ProblemError
        If a constraint is no follower's, the leader uses its multiplier, weight or tolerance do
        not fit the penalty, a cone is to be penalized, or a follower is left without a
        constraint that determines one of its variables.

    Notes
    -----
    With ``atol = 0`` this is a **restriction**, under either stance: a feasible point of the lifted
    problem is feasible for the original one, for a follower that could do no better with fewer
    constraints cannot do better with more. The converse fails, so the best lifted value may be
    worse, and there may be no lifted point at all.

    ``"l1"`` is **equal** to the original if at every decision the follower has multipliers of the
    lifted constraints with no entry above ``weight`` in magnitude (``follower.dual`` tells them at
    a point); a pessimistic leader needs ``weight`` to exceed them. A smaller weight only restricts.

    ``"quadratic"`` leaves violations of about ``multiplier / (2 * weight)``, never 0 where the
    constraint matters, so with ``atol = 0`` it would equal ``"drop"``. With ``atol > 0`` the lifted
    problem neither restricts nor relaxes the original: its followers may break their
    constraints by ``atol``, and the optimal value changes accordingly.

    References
    ----------
    Kotary, Sharma, King, Vrabie, Fioretto and Drgona (2025), *A Method for Learning to Solve
    Parametric Bilevel Optimization with Coupling Constraints*, arXiv:2507.09050, section 4.3 and
    appendices D.1 and E.1, where the lifted problem is called equivalent; the instance T22 is the
    counterexample. Exact penalties: Han and Mangasarian (1979), *Exact penalty functions in
    nonlinear programming*, Mathematical Programming 17.

    Examples
    --------
    >>> import cvxpy as cp, bilevel as bl
    >>> x, y = cp.Variable(name="x"), cp.Variable(name="y")
    >>> demand = y >= x
    >>> follower = bl.Follower(
    ...     cp.Minimize(0.5 * cp.square(y)), [demand], variables=[y]
    ... )
    >>> problem = bl.Problem(cp.Maximize(x), [x >= 0, x <= 1], followers=[follower])
    >>> exact = bl.lift(problem, demand, penalty="l1", weight=1.0)
    >>> for each in (problem, bl.lift(problem, demand), exact):
    ...     print(abs(round(bl.solve(each).leader_value, 6)))
    1.0
    0.0
    1.0
    """
    if not isinstance(problem, Problem):
        raise ProblemError(f"problem must be a bilevel.Problem, not {type(problem).__name__}.")
    price = _price(penalty, weight, atol)
    lifted = _lifted(problem, constraints)
    used = {v.id for part in (problem.objective, *problem.constraints) for v in part.variables()}
    followers = []
    for follower in problem.followers:
        moved = [c for c in follower.constraints if c.id in lifted]
        for constraint in moved:
            if constraint.id in follower.duals and follower.duals[constraint.id].id in used:
                raise ProblemError(
                    f"The leader uses the multiplier of constraint {constraint} of follower "
                    f"{follower.name!r}, which exists only while the follower has the constraint: "
                    f"lift another one, or take the multiplier out of the leader's problem."
                )
        followers.append(_relieved(follower, moved, penalty, price) if moved else follower)
    leader = [c for c in problem.constraints if c.id not in lifted]
    demanded = [row for c in lifted.values() for row in _demanded(c, float(atol))]
    return problem.replace(constraints=[*leader, *demanded], followers=followers)


def _price(penalty: str, weight: Any, atol: Any) -> float:
    """Return the weight as a number, after checking what belongs to the penalty."""
    if penalty not in _PENALTIES:
        raise ProblemError(f"penalty must be one of {list(_PENALTIES)}, not {penalty!r}.")
    if not _is_number(atol) or atol < 0:
        raise ProblemError(f"atol must be a finite number of at least 0, not {atol!r}.")
    if penalty == "drop":
        if weight is not None:
            raise ProblemError(
                "penalty='drop' has no weight: the follower pays nothing. Leave weight out, or "
                "choose penalty='quadratic' or 'l1'."
            )
        return 0.0
    if weight is None:
        raise ProblemError(
            f"penalty={penalty!r} needs a weight. None is invented, because only the size of the "
            f"follower's multipliers tells which one is large enough."
        )
    if not _is_number(weight) or weight <= 0:
        raise ProblemError(f"weight must be a positive, finite number, not {weight!r}.")
    if penalty == "quadratic" and atol == 0:
        raise ProblemError(
            "penalty='quadratic' needs atol > 0. A quadratic price vanishes on the constraint, so "
            "a follower who pays it violates every constraint that matters, by about multiplier / "
            "(2 * weight). Give such an atol, or choose penalty='drop', to which atol=0 amounts, "
            "or 'l1', which is exact for a large enough weight."
        )
    return float(weight)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _lifted(problem: Problem, constraints: Any) -> dict[int, Any]:
    """Return the constraints to lift by their ids, after checking that each is a follower's."""
    if isinstance(constraints, Follower):
        if not any(constraints is own for own in problem.followers):
            raise ProblemError(
                f"Follower {constraints.name!r} is not in this problem, whose followers are "
                f"{[follower.name for follower in problem.followers]}."
            )
        constraints = constraints.constraints
    listed: list[Any] = (
        list(constraints)
        if isinstance(constraints, Iterable) and not isinstance(constraints, cp.Constraint)
        else [constraints]
    )
    if not listed:
        raise ProblemError("There is nothing to lift: name at least one constraint of a follower.")
    for constraint in listed:
        if not any(constraint is own for f in problem.followers for own in f.constraints):
            whose = " (it is the leader's)" if _among(constraint, problem.constraints) else ""
            raise ProblemError(
                f"{constraint} is not a constraint of a follower{whose}; pass the very object that "
                f"stands in the list of {_names(problem)} (keep it in a name: demand = y >= x)."
            )
    return {constraint.id: constraint for constraint in listed}


def _among(constraint: Any, constraints: Iterable[Any]) -> bool:
    return any(constraint is own for own in constraints)


def _names(problem: Problem) -> str:
    return " or ".join(f"follower {follower.name!r}" for follower in problem.followers)


def _relieved(follower: Follower, moved: list[Any], penalty: str, price: float) -> Follower:
    """Return the follower without some constraints, for whose violation it pays."""
    objective = follower.objective
    if penalty != "drop":
        paid = price * sum(_penalty(follower, constraint, penalty) for constraint in moved)
        sign = -1 if isinstance(objective, cp.Maximize) else 1
        objective = type(objective)(objective.args[0] + sign * paid)
    kept = [c for c in follower.constraints if not _among(c, moved)]
    try:
        twin = Follower(objective, kept, follower.variables, follower.name)
    except ProblemError as error:
        raise ProblemError(
            f"Without {', '.join(str(c) for c in moved)}, nothing determines all variables of "
            f"follower {follower.name!r}: lift fewer constraints, or choose a penalty. ({error})"
        ) from error
    # Dual variables and values that the leader uses go on meaning this follower's.
    ids = {constraint.id for constraint in kept}
    twin.duals.update({i: dual for i, dual in follower.duals.items() if i in ids})
    twin._value = follower._value
    return twin


def _penalty(follower: Follower, constraint: Any, penalty: str) -> Any:
    rows = _rows(constraint)
    if rows is None:
        raise ProblemError(
            f"Constraint {constraint} of follower {follower.name!r} is a "
            f"{type(constraint).__name__}; only equations and inequalities can be penalized. Lift "
            f"it by penalty='drop'."
        )
    value, equation = rows
    violation = cp.abs(value) if equation else cp.pos(value)
    if penalty == "l1":
        return cp.sum(violation)
    return cp.sum_squares(value if equation else violation)


def _demanded(constraint: Any, atol: float) -> list[Any]:
    """Return what the leader demands of a lifted constraint."""
    if atol == 0:
        return [constraint]
    rows = _rows(constraint)
    if rows is None:
        raise ProblemError(
            f"atol > 0 is for equations and inequalities; {constraint} is a "
            f"{type(constraint).__name__}. Lift it with atol=0."
        )
    value, equation = rows
    return [value <= atol, value >= -atol] if equation else [value <= atol]


def _rows(constraint: Any) -> tuple[Any, bool] | None:
    """Return ``g`` of ``g <= 0`` or ``h`` of ``h == 0``, and whether it is an equation."""
    if isinstance(constraint, (Equality, Zero)):
        return constraint.expr, True
    if isinstance(constraint, (Inequality, NonPos)):
        return constraint.expr, False
    if isinstance(constraint, NonNeg):
        return -constraint.args[0], False
    return None
