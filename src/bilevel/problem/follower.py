"""A follower, written in CVXPY."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import cvxpy as cp
from cvxpy.constraints import Equality, Inequality, NonNeg, NonPos, Zero

from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.problem.leaves import label

_LINEAR = (Equality, Inequality, NonNeg, NonPos, Zero)


class Derived(cp.Variable):
    """A variable that stands for a follower's multiplier or optimal value."""


class Follower:
    r"""One follower: it minimizes or maximizes over its own variables, the leader's being given.

        minimize    f(x, y)           over y, for the leader's decision x
        subject to  g(x, y) <= 0,  h(x, y) == 0

    Parameters
    ----------
    objective
        ``cvxpy.Minimize`` or ``cvxpy.Maximize`` of a scalar, linear or convex quadratic in the
        follower's variables. Leader variables may multiply them. Norms, logarithms, exponentials
        and eigenvalues are taken too, but only by ``Continuation``.
    constraints
        CVXPY constraints, linear in the follower's variables or, for ``Continuation``, convex.
    variables
        The variables this follower decides. A variable in no follower's list is the leader's.
    name
        Used in messages and as the key of ``solution.follower_values``.

    Raises
    ------
    ProblemError
        If the objective is not CVXPY's, no variable is listed, or a listed variable occurs nowhere
        in the follower's problem.

    Notes
    -----
    Convexity in the follower's own variables is checked when the problem is compiled. A follower
    that is infeasible or unbounded for some leader decisions takes these decisions away from the
    leader.

    Examples
    --------
    >>> import cvxpy as cp, bilevel as bl
    >>> x, y = cp.Variable(name="x"), cp.Variable(name="y")
    >>> follower = bl.Follower(
    ...     cp.Minimize(y), [y >= x, y >= 1 - x], variables=[y], name="carrier"
    ... )
    >>> problem = bl.Problem(
    ...     cp.Maximize(-y), [x >= 0, x <= 1], followers=[follower]
    ... )
    >>> print(round(bl.solve(problem).leader_value, 6))
    -0.5
    """

    def __init__(
        self,
        objective: Any,
        constraints: Iterable[Any],
        variables: Sequence[cp.Variable] | cp.Variable,
        name: str | None = None,
    ) -> None:
        self.variables = as_variables(variables)
        self.name = name if name is not None else label(self.variables[0])
        self.objective = as_objective(objective, f"follower {self.name!r}")
        self.constraints = as_constraints(constraints, f"follower {self.name!r}")
        seen = {v.id for part in (self.objective, *self.constraints) for v in part.variables()}
        for variable in self.variables:
            if variable.id not in seen:
                raise ProblemError(
                    f"Follower {self.name!r} lists variable {label(variable)}, which occurs "
                    f"neither in its objective nor in its constraints, so any value is a response. "
                    f"Remove it from variables, or add the constraint that determines it."
                )
        self.duals: dict[int, Derived] = {}
        self._value = Derived(name=f"value[{self.name}]")
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # A lock belongs to a process, and CVXPY gives copies other ids.
        numbers = {c.id: number for number, c in enumerate(self.constraints)}
        duals = {numbers[i]: dual for i, dual in self.duals.items()}
        return vars(self) | {"_lock": None, "duals": duals}

    def __setstate__(self, state: dict[str, Any]) -> None:
        constraints = state["constraints"]
        duals = {constraints[number].id: dual for number, dual in state["duals"].items()}
        vars(self).update(state | {"_lock": threading.Lock(), "duals": duals})

    def __repr__(self) -> str:
        listed = ", ".join(label(v) for v in self.variables)
        return f"Follower({self.name!r}, variables=[{listed}])"

    def dual(self, constraint: Any) -> cp.Variable:
        """Return the multiplier of one of this follower's constraints.

        Parameters
        ----------
        constraint
            A constraint object from the follower's list.

        Returns
        -------
        cvxpy.Variable
            Of the constraint's shape; its sign is that of CVXPY's ``dual_value`` when the follower
            is solved alone. ``bl.solve`` stores its value, also where the leader does not use it.

        Raises
        ------
        ProblemError
            If the constraint is not one of the follower's.
        UnsupportedProblem
            If it is a cone, such as a matrix inequality: its multiplier is not a leader variable.

        Notes
        -----
        Where multipliers are not unique, an optimistic leader chooses among them, which can make
        its problem unbounded (instance T8b).

        Examples
        --------
        >>> import cvxpy as cp, bilevel as bl
        >>> x, y = cp.Variable(name="x"), cp.Variable(name="y")
        >>> demand = y >= x
        >>> follower = bl.Follower(cp.Minimize(cp.square(y)), [demand], variables=[y])
        >>> price = follower.dual(demand)
        >>> problem = bl.Problem(
        ...     cp.Maximize(price), [x >= 0, x <= 3], followers=[follower]
        ... )
        >>> print(round(bl.solve(problem)[price].item(), 5))
        6.0
        """
        if not any(constraint is own for own in self.constraints):
            raise ProblemError(
                f"The object of type {type(constraint).__name__} is not a constraint of follower "
                f"{self.name!r}; pass the very object that stands in its list (keep it in a "
                f"name: capacity = x + y <= 8)."
            )
        number = next(i for i, own in enumerate(self.constraints) if own is constraint)
        if not isinstance(constraint, _LINEAR):
            raise UnsupportedProblem(
                f"Constraint {number} of follower {self.name!r} is a cone, of type "
                f"{type(constraint).__name__}; multipliers of cones cannot be used. Write a "
                f"bound on a norm as norm(y) <= r, whose multiplier is a number."
            )
        with self._lock:
            if constraint.id not in self.duals:
                self.duals[constraint.id] = Derived(
                    constraint.shape, name=f"dual[{self.name}.c{number}]"
                )
            return self.duals[constraint.id]

    @property
    def value(self) -> cp.Variable:
        """The follower's optimal value, in its own sense, for use in the leader's problem."""
        return self._value


def as_variables(variables: Any) -> tuple[cp.Variable, ...]:
    """Return a follower's variables as a tuple, checked."""
    if not isinstance(variables, (cp.Variable, Iterable)):
        raise ProblemError(
            f"A follower's variables must be a list of cvxpy.Variable objects, not an object of "
            f"type {type(variables).__name__}."
        )
    listed = (variables,) if isinstance(variables, cp.Variable) else tuple(variables)
    for variable in listed:
        if not isinstance(variable, cp.Variable):
            raise ProblemError(
                f"A follower's variables must be cvxpy.Variable objects, not objects of type "
                f"{type(variable).__name__}."
            )
    if not listed:
        raise ProblemError("A follower needs at least one entry in variables: what it decides.")
    if len({v.id for v in listed}) < len(listed):
        raise ProblemError("A follower lists the same variable twice.")
    return listed


def as_objective(objective: Any, who: str) -> Any:
    """Return a level's objective, checked."""
    if not isinstance(objective, (cp.Minimize, cp.Maximize)):
        raise ProblemError(
            f"The objective of {who} must be cvxpy.Minimize(...) or cvxpy.Maximize(...), not "
            f"{type(objective).__name__}."
        )
    return objective


def as_constraints(constraints: Iterable[Any], who: str) -> tuple[Any, ...]:
    """Return a level's constraints as a tuple, checked."""
    listed = []
    if not isinstance(constraints, Iterable):
        raise ProblemError(
            f"The constraints of {who} must be a list, not an object of type "
            f"{type(constraints).__name__}."
        )
    for constraint in constraints:
        if not isinstance(constraint, cp.Constraint):
            raise ProblemError(
                f"A constraint of {who} is an object of type {type(constraint).__name__}, not a "
                f"CVXPY constraint. A comparison of two numbers gives a plain truth value."
            )
        listed.append(constraint)
    if len({c.id for c in listed}) < len(listed):
        raise ProblemError(f"{who} lists the same constraint object twice.")
    return tuple(listed)
