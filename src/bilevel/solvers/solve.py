"""The front door: which driver solves a problem, which keywords it uses, and the checks of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import cvxpy as cp
import numpy as np

from bilevel.errors import ProblemError, SolveFailed
from bilevel.problem.abstract import AbstractProblem
from bilevel.problem.problem import Problem
from bilevel.program import Progress
from bilevel.solution import Solution
from bilevel.solvers.solver import AbstractSolver

if TYPE_CHECKING:
    from bilevel.problem.smooth import SmoothProblem
    from bilevel.smooth_solution import SmoothSolution
    from bilevel.solvers.smooth.solver import AbstractSmoothSolver

Callback = Callable[[Progress], bool | None]

_Result = TypeVar("_Result", covariant=True)


class ForeignProblem(Protocol[_Result]):
    """An ``AbstractProblem`` of a class outside this package, as type checkers see it."""

    @property
    def solution_type(self) -> type[_Result]:
        """The type of its solutions."""
        ...


@overload
def solve(
    problem: Problem,
    solver: AbstractSolver | None = None,
    *,
    parameters: Mapping[cp.Parameter, Any] | None = None,
    start: Mapping[cp.Variable, Any]
    | Mapping[str, Any]
    | Mapping[cp.Variable | str, Any]
    | Solution
    | None = None,
    time_limit: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    seed: int | None = None,
    callback: Callback | None = None,
    options: Mapping[str, Any] | None = None,
    verbose: bool | None = None,
    throw: bool = True,
) -> Solution: ...


@overload
def solve(
    problem: SmoothProblem,
    solver: AbstractSmoothSolver | None = None,
    *,
    parameters: Any = None,
    start: tuple[Any, Any],
    time_limit: float | None = None,
    callback: Callback | None = None,
    throw: bool = True,
) -> SmoothSolution: ...


@overload
def solve(
    problem: ForeignProblem[_Result],
    solver: Any = None,
    *,
    parameters: Any = None,
    start: Any = None,
    time_limit: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    seed: int | None = None,
    callback: Callback | None = None,
    options: Mapping[str, Any] | None = None,
    verbose: bool | None = None,
    throw: bool = True,
) -> _Result: ...


def solve(
    problem: Any,
    solver: Any = None,
    *,
    parameters: Any = None,
    start: Any = None,
    time_limit: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    seed: int | None = None,
    callback: Callback | None = None,
    options: Mapping[str, Any] | None = None,
    verbose: bool | None = None,
    throw: bool = True,
) -> Any:
    r"""Solve a bilevel problem and return its solution with a certificate.

        minimize    F(x, y)
        subject to  G(x, y) <= 0,  y_k in argmin of follower k

    Parameters
    ----------
    problem
        The problem. A ``SmoothProblem`` takes ``start=(x, y)`` and its inputs as ``parameters``, a
        tensor or a tuple of them; of the other keywords it uses ``time_limit``, ``callback`` and
        ``throw``, and a ``SmoothSolution`` is returned.
    solver
        How to solve it; ``Auto()`` if left out, and for a ``SmoothProblem`` ``ReducedNewton()`` or
        ``HypergradientDescent()``, by size.
    parameters
        Values by CVXPY parameter, overriding ``parameter.value``; threads then need not share it.
    start
        A point to begin with, by variable or variable name; or the solution of an earlier solve,
        whose search ``Branching`` goes on with if a limit ended it and no number has changed:
        nodes, seconds and trace then continue too.
    time_limit
        Seconds; the best point so far is returned when it is met.
    rtol, atol
        ``OPTIMAL`` is claimed if ``|value - bound| <= atol + rtol * max(1, |value|)``; 1e-6 and
        1e-8 if left out.
    seed
        For randomised choices inside the backend.
    callback
        Called with ``Progress`` (seconds, incumbent, bound, gap, nodes); ``True`` stops the solve.
    options
        Passed to the backend's vendor verbatim.
    verbose
        Whether the vendor may write to the terminal; it may not if left out.
    throw
        Whether to raise ``SolveFailed`` when there is no usable point.

    Returns
    -------
    Solution
        Status, values, bound, certificate and statistics. Values are also stored in the CVXPY
        variables, as CVXPY does.

    Raises
    ------
    ProblemError
        If an argument or a parameter value is malformed, or a keyword is given that problems of
        this kind do not use.
    UnsupportedProblem
        If the solver is not valid for the problem.
    BackendNotFound
        If the backend's package is not installed.
    SolveFailed
        If there is no usable point and ``throw`` is true; it carries the solution.

    Notes
    -----
    The certificate comes from solving every follower again by another route. A point that does
    not pass is never reported as solved: the status becomes ``FAILED``, and the certificate says
    why. Ctrl-C ends the search and returns the best point so far.

    Examples
    --------
    >>> import cvxpy as cp, bilevel as bl
    >>> price, demand = cp.Variable(name="price"), cp.Variable(name="demand")
    >>> buyer = bl.Follower(
    ...     cp.Maximize(10 * demand - demand**2 - price * demand),
    ...     [demand >= 0],
    ...     variables=[demand],
    ... )
    >>> problem = bl.Problem(
    ...     cp.Maximize((price - 1) * demand),
    ...     [price >= 1, price <= 10],
    ...     followers=[buyer],
    ... )
    >>> solution = bl.solve(problem)
    >>> print(
    ...     solution.status.name,
    ...     round(solution.leader_value, 4),
    ...     solution.certificate.accepted,
    ... )
    OPTIMAL 10.125 True
    """
    if not isinstance(problem, AbstractProblem):
        raise ProblemError(
            f"problem must be a bilevel.Problem or another bilevel.AbstractProblem, not "
            f"{type(problem).__name__}."
        )
    told = {
        "parameters": parameters,
        "start": start,
        "time_limit": time_limit,
        "rtol": rtol,
        "atol": atol,
        "seed": seed,
        "callback": callback,
        "options": options,
        "verbose": verbose,
    }
    given = {name: value for name, value in told.items() if value is not None}
    drive, used = _driver(type(problem))
    if refused := [name for name in given if name not in used]:
        kind = type(problem).__name__
        takes = [*(name for name in told if name in used), "throw"]
        raise ProblemError(
            f"bl.solve takes no {' and no '.join(refused)} for a {kind}: its keywords are "
            f"{', '.join(takes)}. What belongs to a method is an argument of the solver object."
        )
    _check(given)
    solution = drive(problem, solver, **given)
    if throw and not solution.status.has_point:
        raise SolveFailed(solution)
    return solution


@cache
def _driver(kind: type[AbstractProblem]) -> tuple[Callable[..., Any], frozenset[str]]:
    """Return what solves a kind of problem, and the keywords it uses."""
    entry = getattr(kind, "driver", None)
    place, colon, name = entry.partition(":") if isinstance(entry, str) else ("", "", "")
    if not (place and colon and name):
        raise ProblemError(
            f"{kind.__name__} does not say how it is solved: its class needs driver = "
            f"'package.module:function' (see bilevel.AbstractProblem)."
        )
    found = getattr(import_module(place), name, None)
    if not callable(found):
        raise ProblemError(
            f"{kind.__name__} says that {entry} solves it, but {place} has no such function."
        )
    parameters = signature(found).parameters.values()
    return found, frozenset(p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY)


def _check(given: Mapping[str, Any]) -> None:
    """Raise ``ProblemError`` where a keyword that means the same for all problems is malformed."""
    limit = given.get("time_limit")
    if limit is not None and not (is_number(limit) and limit > 0):
        raise ProblemError(f"time_limit must be a positive number of seconds, not {_shown(limit)}.")
    seed = given.get("seed")
    is_whole = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
    if seed is not None and not (is_whole and 0 <= seed < 2**31):
        raise ProblemError(f"seed must be an integer from 0 to 2**31 - 1, not {_shown(seed)}.")
    callback = given.get("callback")
    if callback is not None and not callable(callback):
        raise ProblemError(f"callback must be a function of one Progress, not {_shown(callback)}.")
    for name in ("rtol", "atol"):
        value = given.get(name, 0.0)
        if not (is_number(value) and np.isfinite(value) and value >= 0):
            raise ProblemError(
                f"{name} must be a finite number, zero or more, not {_shown(value)}."
            )
    options = given.get("options", {})
    if not (isinstance(options, Mapping) and all(isinstance(key, str) for key in options)):
        raise ProblemError(
            f"options must be a mapping from the vendor's names to values, not {_shown(options)}."
        )
    verbose = given.get("verbose", False)
    if not isinstance(verbose, (bool, np.bool_)):
        raise ProblemError(f"verbose must be True or False, not {_shown(verbose)}.")


def is_number(value: Any) -> bool:
    """Return whether something is one real number, and not a truth value."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """Return a number or a word as it is, and of everything else its type."""
    is_plain = is_number(value) or isinstance(value, (bool, str))
    return repr(value) if is_plain else f"an object of type {type(value).__name__}"
