"""The one table of methods that a person can name, and what accepts a given problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from bilevel import backends
from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.problem.standard import StandardForm
from bilevel.reformulate import (
    KKT,
    SOS1,
    AbstractEncoding,
    BigM,
    Indicator,
    InnerDual,
    Product,
    StrongDuality,
)
from bilevel.solvers import (
    AbstractSolver,
    Auto,
    Branching,
    Continuation,
    OuterApproximation,
    SingleLevel,
    Substitution,
    WorstCase,
)


@dataclass(frozen=True)
class Method:
    """A method by the name that a person writes.

    Parameters
    ----------
    name
        As in ``--method name`` or ``--method name:setting=number,...``.
    accepts, needs, claims
        What a person should know, as short as a table's cell.
    reformulation
        ``KKT`` or ``StrongDuality``; ``None`` for methods that are more than one program.
    encoding
        Its argument.
    build
        Makes the solver of a method that is more than one program.
    on
        Makes it on the backend of a name, if it takes more than one.
    only
        The one backend it has, if that may be named.
    """

    name: str
    accepts: str
    needs: str
    claims: str
    reformulation: type[KKT] | type[StrongDuality] | None = None
    encoding: type[AbstractEncoding] = SOS1
    build: Callable[[], AbstractSolver] | None = None
    on: Callable[[str], AbstractSolver] | None = None
    only: str | None = None

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of the numbers that may follow the method's name."""
        return tuple(f.name for f in fields(self.encoding)) if self.reformulation else ()  # type: ignore[arg-type]

    def solver(self, backend: str | None = None, **settings: float) -> AbstractSolver:
        """Return the solver, on a backend if one is asked for."""
        if self.reformulation is not None:
            reformulation = self.reformulation(self.encoding(**settings))
            return SingleLevel(reformulation, backend or "scip")
        if self.build is None:
            raise TypeError(f"The row of {self.name!r} has neither reformulation= nor build=.")
        if backend is None or backend == self.only:
            return self.build()
        if self.on is not None:
            return self.on(backend)
        raise ProblemError(
            f"Method {self.name!r} chooses the backend itself; name a method with --backend, "
            f"such as --method kkt-bigm --backend {backend}."
        )


def _worst_case(backend: str) -> AbstractSolver:
    return WorstCase(SingleLevel(backend=backend), SingleLevel(InnerDual(), backend))


_CONVEX = "optimistic, convex followers"
_BINARY = f"{_CONVEX}; for binary leaders"
_INTEGER = f"{_CONVEX}; integer linking variables"
_SCIP = "SCIP"
_DERIVED = "bounds: derived or yours"
_EXACT = "OPTIMAL"
_CAPPED = "OPTIMAL; FEASIBLE with your bounds"
_NOT_RELAXED = "OPTIMAL if eps=0"

METHODS = (
    Method("auto", "what any method accepts", "nothing", "as the method it chooses", build=Auto),
    Method(
        "branching",
        "both stances, convex followers and relaxations",
        "nothing",
        _EXACT,
        build=Branching,
    ),
    Method("kkt-sos1", _CONVEX, _SCIP, _EXACT, KKT, SOS1),
    Method("kkt-indicator", _CONVEX, _SCIP, _EXACT, KKT, Indicator),
    Method("kkt-bigm", _CONVEX, _DERIVED, _CAPPED, KKT, BigM),
    Method("kkt-product", _CONVEX, _SCIP, _NOT_RELAXED, KKT, Product),
    Method("strong-duality", _BINARY, _SCIP, _EXACT, StrongDuality, SOS1),
    Method("strong-duality-indicator", _BINARY, _SCIP, _EXACT, StrongDuality, Indicator),
    Method("strong-duality-bigm", _BINARY, _DERIVED, _CAPPED, StrongDuality, BigM),
    Method("strong-duality-product", _BINARY, _SCIP, _EXACT, StrongDuality, Product),
    Method(
        "outer-approximation",
        _INTEGER,
        "SCIP; HiGHS: derived bounds",
        _EXACT,
        build=OuterApproximation,
        on=OuterApproximation,
    ),
    Method(
        "continuation",
        f"{_CONVEX}, also conic",
        "CasADi",
        "STATIONARY (local)",
        build=Continuation,
        only="ipopt",
    ),
    Method(
        "substitution",
        "1 or 2 linking columns",
        "nothing",
        "OPTIMAL or NOT_ATTAINED",
        build=Substitution,
    ),
    Method(
        "worst-case",
        "pessimistic, followers linear",
        _SCIP,
        "OPTIMAL or NOT_ATTAINED",
        build=WorstCase,
        on=_worst_case,
    ),
)
_BY_NAME = {method.name: method for method in METHODS}


def parse(text: str, backend: str | None = None) -> AbstractSolver:
    """Return the solver that a person names.

    Parameters
    ----------
    text
        ``name`` or ``name:setting=number,setting=number``, such as
        ``kkt-bigm:multiplier=10,slack=50``.
    backend
        Name of a backend, or ``None`` for the method's own.

    Raises
    ------
    ProblemError
        If the name or a setting is unknown.
    BackendNotFound
        If the backend's package is not installed.
    """
    name, colon, rest = text.strip().partition(":")
    method = _BY_NAME.get(name)
    if method is None:
        raise ProblemError(
            f"There is no method {name!r}; the known ones are {', '.join(_BY_NAME)} (see: bilevel "
            f"methods)."
        )
    settings = dict(_setting(method, part) for part in rest.split(",")) if colon else {}
    if backend is not None:
        backends.get(backend)
    return method.solver(backend, **settings)


def _setting(method: Method, part: str) -> tuple[str, float]:
    name, _, value = (word.strip() for word in part.partition("="))
    if name not in method.settings:
        takes = ", ".join(f"{known}=NUMBER" for known in method.settings) or "no setting"
        raise ProblemError(f"Method {method.name!r} has no setting {name!r}; it takes {takes}.")
    try:
        return name, float(value)
    except ValueError:
        raise ProblemError(
            f"Setting {name!r} of method {method.name!r} must be a number, not {value!r}: "
            f"{method.name}:{name}=10."
        ) from None


def refusals(solver: AbstractSolver, form: StandardForm) -> tuple[str, ...]:
    """Return why a solver cannot take a problem, after building its program; empty if it can."""
    if reasons := solver.accepts(form):
        return reasons
    if not isinstance(solver, (SingleLevel, Continuation)):
        return ()
    backend = solver.backend if isinstance(solver, SingleLevel) else "ipopt"
    if backend not in backends.available():
        return (f"Backend {backend!r} is not installed.",)
    if isinstance(solver, Continuation):
        return ()
    try:
        program = solver.reformulation.apply(form).program
    except UnsupportedProblem as error:
        return error.reasons
    missing = backends.get(solver.backend).missing(program)
    return (f"Backend {solver.backend!r} cannot take {missing.sentence()}.",) if missing else ()


def table(form: StandardForm | None) -> list[dict[str, Any]]:
    """Return the table's rows by the names of its columns, ready for JSON."""
    if form is None:
        names = ("name", "accepts", "needs", "claims")
        general = [{name: getattr(m, name) for name in names} for m in METHODS]
        return [
            row | {"settings": list(m.settings)} for row, m in zip(general, METHODS, strict=True)
        ]
    return [
        {"name": name, "accepts": accepts, "why": why or None} for name, accepts, why in rows(form)
    ]


def rows(form: StandardForm | None) -> Sequence[tuple[Any, ...]]:
    """Return the table's rows: methods in general, or the verdict of each on one problem."""
    if form is None:
        return [(m.name, m.accepts, m.needs, m.claims, ", ".join(m.settings)) for m in METHODS]
    verdicts = []
    for method in METHODS:
        reasons = refusals(method.solver(), form)
        verdicts.append((method.name, not reasons, " ".join(reasons)))
    return verdicts
