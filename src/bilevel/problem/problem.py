"""The user's problem: a leader and its followers, written in CVXPY."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import cvxpy as cp

from bilevel.errors import ProblemError
from bilevel.problem.abstract import AbstractProblem
from bilevel.problem.canonicalize import Canonical, DualSource, LevelSource
from bilevel.problem.follower import Derived, Follower, as_constraints, as_objective
from bilevel.problem.leaves import Leaf, label
from bilevel.problem.standard import StandardForm
from bilevel.structure import Stance, Structure
from bilevel.tables import formula, table

#: So many constraints of a level are shown in a notebook.
_SHOWN = 20


class Problem(AbstractProblem):
    r"""A leader that decides first, and followers that respond optimally.

        minimize    F(x, y)
        subject to  G(x, y) <= 0,  y_k in argmin of follower k, for each k

    Parameters
    ----------
    objective
        The leader's ``cvxpy.Minimize`` or ``cvxpy.Maximize``.
    constraints
        The leader's constraints; those with follower variables are coupling constraints.
    followers
        At least one ``Follower``.
    stance
        ``"optimistic"`` (of several best responses the follower takes the one the leader likes
        best) or ``"pessimistic"`` (the worst).
    variables
        Variables of the leader that occur in followers' problems only, such as a bid. Those of its
        own objective and constraints need not be named.

    Raises
    ------
    ProblemError
        If a variable has two owners or none, a named variable occurs nowhere, two followers share
        a name, or there is no follower.

    Notes
    -----
    A variable that occurs in the leader's problem and in no follower's list is the leader's. With
    several followers, one follower's problem may contain another's variables: the response is then
    a Nash equilibrium among them. Parameters may occur at both levels; new values need no second
    compilation.

    References
    ----------
    Dempe, *Foundations of Bilevel Programming* (2002), sections 3 and 5.

    Examples
    --------
    >>> import cvxpy as cp, bilevel as bl
    >>> x, y = cp.Variable(name="x"), cp.Variable(name="y")
    >>> follower = bl.Follower(
    ...     cp.Minimize(-y),
    ...     [x + y <= 8, 4 * x + y >= 8, 2 * x + y <= 13, 2 * x <= 7 * y],
    ...     variables=[y],
    ... )
    >>> problem = bl.Problem(
    ...     cp.Minimize(3 * x + y), [0 <= x, x <= 5], followers=[follower]
    ... )
    >>> print(round(bl.solve(problem).leader_value, 6))
    8.0
    """

    driver: ClassVar[str] = "bilevel.solvers.compiled:solve_compiled"

    def __init__(
        self,
        objective: Any,
        constraints: Iterable[Any] = (),
        followers: Iterable[Follower] = (),
        stance: Literal["optimistic", "pessimistic"] | Stance = Stance.OPTIMISTIC,
        variables: Sequence[cp.Variable] | cp.Variable = (),
    ) -> None:
        self.objective = as_objective(objective, "the leader")
        self.constraints = as_constraints(constraints, "the leader")
        self.followers = _followers(followers)
        self.stance = _stance(stance)
        self._named = _named(variables)
        self.variables = _own(self)
        self._canonical: Canonical | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # A lock belongs to a process, and CVXPY gives copies other ids than the compilation knows.
        return vars(self) | {"_lock": None, "_canonical": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"_lock": threading.Lock()})

    def __repr__(self) -> str:
        names = ", ".join(repr(follower.name) for follower in self.followers)
        return f"Problem(followers=[{names}], stance={self.stance.value!r})"

    def _repr_html_(self) -> str:
        """Return the formulas of both levels, as CVXPY writes them, as a table for a notebook."""
        sides = [("leader", self.variables, self.objective, self.constraints)]
        sides += [
            (f"follower {f.name}", f.variables, f.objective, f.constraints) for f in self.followers
        ]
        rows = []
        for name, variables, objective, constraints in sides:
            names = [f"{label(v)}{v.shape if v.shape else ''}" for v in variables]
            formulas = [formula(objective), *(formula(c) for c in constraints[:_SHOWN])]
            if len(constraints) > _SHOWN:
                formulas.append(f"… and {len(constraints) - _SHOWN} more constraints")
            lines = "\nsubject to  ".join(formulas[:2])
            rows.append((name, ", ".join(names), "\n".join([lines, *formulas[2:]])))
        head = ("level", "decides", "problem")
        return table(rows, head=head, caption=f"Bilevel problem, {self.stance.value}")

    def replace(self, **changes: Any) -> Problem:
        """Return the same problem with some constructor arguments changed.

        Examples
        --------
        >>> import bilevel as bl
        >>> problem = bl.instances.get("T4").problem.replace(stance="pessimistic")
        >>> print(problem.stance.value)
        pessimistic
        """
        arguments: dict[str, Any] = {
            "objective": self.objective,
            "constraints": self.constraints,
            "followers": self.followers,
            "stance": self.stance,
            "variables": self._named,
        }
        if unknown := set(changes) - set(arguments):
            raise ProblemError(
                f"replace does not know {sorted(unknown)}; it takes {sorted(arguments)}."
            )
        twin = Problem(**(arguments | changes))
        if set(changes) <= {"stance"}:
            twin._canonical = self._canonical
        return twin

    @property
    def structure(self) -> Structure:
        """Flags of the compiled problem, at the parameters' present values."""
        return self.compile().structure

    def summary(self) -> str:
        """Return the sizes of the levels and the structure, for people to read.

        Examples
        --------
        >>> import bilevel as bl
        >>> print(bl.instances.get("T16").problem.summary().splitlines()[0])
        leader             1 variable, 2 constraint rows
        """
        sides = [("leader", self.variables, self.constraints)]
        sides += [(f"follower {f.name}", f.variables, f.constraints) for f in self.followers]
        lines = []
        for name, variables, constraints in sides:
            whole = sum(int(self.leaves[v.id].integer.sum()) for v in variables)
            rows = sum(constraint.size for constraint in constraints)
            lines.append(
                f"{name:<18} {_count(sum(v.size for v in variables), 'variable')}"
                f"{f' ({whole} integer)' if whole else ''}, {_count(rows, 'constraint row')}"
            )
        return "\n".join([*lines, *self.structure.sentences()])

    @property
    def parameters(self) -> tuple[cp.Parameter, ...]:
        """All CVXPY parameters of both levels."""
        return self.canonical.parameters

    @property
    def canonical(self) -> Canonical:
        """The compilation, made on first use and kept."""
        with self._lock:
            if self._canonical is None:
                self._canonical = _canonical(self)
            return self._canonical

    def compile(self, parameters: Mapping[cp.Parameter, Any] | None = None) -> StandardForm:
        """Return the problem's matrices at parameter values.

        Parameters
        ----------
        parameters
            Values that override ``parameter.value``; keys are the parameter objects.

        Raises
        ------
        ProblemError
            If a value is missing, misshapen or not finite, or data contain NaN.
        UnsupportedProblem
            If a follower is not convex or a level needs cones that are not supported.

        Examples
        --------
        >>> import bilevel as bl
        >>> form = bl.instances.get("T1").problem.compile()
        >>> print(form.n, len(form.followers))
        2 1
        """
        given = dict(parameters or {})
        known = {p.id for p in self.parameters}
        for key in given:
            if not isinstance(key, cp.Parameter) or key.id not in known:
                what = label(key) if isinstance(key, cp.Parameter) else f"A {type(key).__name__}"
                raise ProblemError(
                    f"{what} is not a parameter of this problem; the keys are its cvxpy.Parameter "
                    f"objects: {', '.join(label(p) for p in self.parameters) or 'none'}."
                )
        return self.canonical.at(given, self.stance)

    @property
    def leaves(self) -> dict[int, Leaf]:
        """For each variable's id, where its columns are."""
        return self.canonical.leaves


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _followers(followers: Iterable[Follower]) -> tuple[Follower, ...]:
    if followers is None:
        raise ProblemError("A bilevel problem needs at least one follower.")
    listed = (followers,) if isinstance(followers, Follower) else tuple(followers)
    if not listed:
        raise ProblemError("A bilevel problem needs at least one follower.")
    for follower in listed:
        if not isinstance(follower, Follower):
            raise ProblemError(
                f"followers must hold bilevel.Follower objects, not an object of type "
                f"{type(follower).__name__}."
            )
    names = [follower.name for follower in listed]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ProblemError(
            f"Two followers are called {sorted(twice)[0]!r}; give each its own name."
        )
    return listed


def _stance(stance: Any) -> Stance:
    try:
        return Stance(stance)
    except ValueError as error:
        given = repr(stance) if isinstance(stance, str) else f"a {type(stance).__name__}"
        raise ProblemError(f"stance must be 'optimistic' or 'pessimistic', not {given}.") from error


def _named(variables: Any) -> tuple[cp.Variable, ...]:
    """Return the variables that are named as the leader's, checked."""
    if not isinstance(variables, (cp.Variable, Iterable)):
        raise ProblemError(
            f"The leader's variables must be a list of cvxpy.Variable objects, not an object of "
            f"type {type(variables).__name__}."
        )
    listed = (variables,) if isinstance(variables, cp.Variable) else tuple(variables)
    for variable in listed:
        if not isinstance(variable, cp.Variable):
            raise ProblemError(
                f"The leader's variables must be cvxpy.Variable objects, not objects of type "
                f"{type(variable).__name__}."
            )
        if isinstance(variable, Derived):
            raise ProblemError(
                f"The leader's variables name {label(variable)}, which a follower determines; "
                f"remove it from variables."
            )
    return tuple({variable.id: variable for variable in listed}.values())


def _own(problem: Problem) -> tuple[cp.Variable, ...]:
    """Return the leader's variables, after checking that every variable has one owner."""
    owner: dict[int, str] = {}
    for follower in problem.followers:
        for variable in follower.variables:
            if variable.id in owner:
                raise ProblemError(
                    f"Variable {label(variable)} is listed by followers {owner[variable.id]!r} and "
                    f"{follower.name!r}; exactly one must decide it."
                )
            owner[variable.id] = follower.name
    derived = {v.id for f in problem.followers for v in (*f.duals.values(), f._value)}
    parts = (problem.objective, *problem.constraints)
    leader = {
        v.id: v
        for part in parts
        for v in part.variables()
        if v.id not in owner and v.id not in derived
    }
    leader |= {variable.id: variable for variable in problem._named}
    _check_named(problem, owner)
    for variable in leader.values():
        if isinstance(variable, Derived):
            raise ProblemError(
                f"The leader uses {label(variable)} of a follower that is not in this problem."
            )
    for follower in problem.followers:
        for part in (follower.objective, *follower.constraints):
            for variable in part.variables():
                if variable.id in derived:
                    raise ProblemError(
                        f"Follower {follower.name!r} uses {label(variable)}; multipliers and "
                        f"values of followers may be used by the leader only."
                    )
                if variable.id not in owner and variable.id not in leader:
                    raise ProblemError(
                        f"Variable {label(variable)} occurs only in follower {follower.name!r} and "
                        f"is in no follower's list. Add it to variables=[...] of the follower that "
                        f"decides it, or to variables=[...] of the bilevel.Problem if the leader "
                        f"does."
                    )
    return tuple(leader.values())


def _check_named(problem: Problem, owner: Mapping[int, str]) -> None:
    """Raise ``ProblemError`` if a variable named as the leader's is a follower's, or nobody's."""
    levels = (problem, *problem.followers)
    used = {
        variable.id
        for level in (levels if problem._named else ())
        for part in (level.objective, *level.constraints)
        for variable in part.variables()
    }
    for variable in problem._named:
        if variable.id in owner:
            raise ProblemError(
                f"Variable {label(variable)} is named as the leader's and listed by follower "
                f"{owner[variable.id]!r}; exactly one must decide it."
            )
        if variable.id not in used:
            raise ProblemError(
                f"The leader's variables name {label(variable)}, which occurs in neither level, so "
                f"any value is a response. Remove it from variables, or add the constraint that "
                f"determines it."
            )


def _canonical(problem: Problem) -> Canonical:
    used = {v.id for part in (problem.objective, *problem.constraints) for v in part.variables()}
    leader = LevelSource("the leader", problem.objective, problem.constraints, problem.variables)
    sources = []
    dual_variables = []
    values = []
    for k, follower in enumerate(problem.followers):
        who = f"follower {follower.name!r}"
        sources.append(
            LevelSource(who, follower.objective, follower.constraints, follower.variables)
        )
        for number, constraint in enumerate(follower.constraints):
            dual = follower.duals.get(constraint.id)
            if dual is not None and dual.id in used:
                dual_variables.append(DualSource(dual, k, number))
        if follower._value.id in used:
            values.append((follower._value, k))
    return Canonical(leader, sources, dual_variables, values, [f.name for f in problem.followers])
