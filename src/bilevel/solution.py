"""Answers and evidence: frozen records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import cvxpy as cp
import numpy as np

from bilevel.deprecation import Renamed
from bilevel.errors import UnknownVariable
from bilevel.problem.evaluate import evaluate
from bilevel.problem.follower import Derived
from bilevel.program import Moment, Resume, relative_gap
from bilevel.status import Status
from bilevel.tables import table

#: So many variables, and entries of one, are shown in a notebook.
_SHOWN = 12
_MAPPINGS = ("follower_values", "values", "names", "entries", "parameters")


@dataclass(frozen=True)
class Tolerances:
    """Tolerances of a certificate.

    Parameters
    ----------
    violation
        Absolute, on rows scaled to unit norm.
    gap
        Follower gap, relative to ``max(1, |value|)``.
    integrality
        Absolute.

    Examples
    --------
    >>> from bilevel.solution import Tolerances
    >>> Tolerances().gap
    1e-06
    """

    violation: float = 1e-6
    gap: float = 1e-6
    integrality: float = 1e-6


@dataclass(frozen=True)
class Certificate:
    """Independent evidence about one point: every follower was solved again.

    Parameters
    ----------
    accepted
        Whether all figures lie within the tolerances.
    leader_value
        The leader's objective at the point, in its own sense.
    leader_violation, coupling_violation, integrality_violation
        Largest violation of leader rows without and with follower variables, and of integrality.
    follower_violation
        Largest violation of a follower's own rows.
    follower_gap
        Largest amount, relative to ``max(1, |value|)``, by which a follower could still improve.
    follower_gaps
        The same for each follower, by name.
    follower_values
        Each follower's objective at the point, in its own sense.
    optimistic_value, pessimistic_value
        Best and worst value of the leader over the followers' best responses to this leader
        decision; ``None`` where they were not computed (``notes`` says why).
    unique_response
        Whether the followers' best response is unique; ``None`` where unknown.
    unique_multipliers
        Whether the followers' multipliers are unique; ``None`` where unknown.
    multiplier_violation
        How far the multipliers the leader uses are from being optimal multipliers.
    route
        How the followers were solved again.
    tolerances
        The tolerances used.
    notes
        Sentences about anything unusual, including why a point was refused.
    scales
        In which units the point was judged, where they are not those it was given in: factors of
        columns and objectives, powers of two.

    Examples
    --------
    >>> import bilevel as bl
    >>> instance = bl.instances.get("T4")
    >>> certificate = bl.verify(instance.problem, {"x": 2.0, "y": 1.0})
    >>> certificate.accepted, certificate.unique_response
    (True, False)
    >>> print(
    ...     round(certificate.optimistic_value, 6),
    ...     abs(round(certificate.pessimistic_value, 6)),
    ... )
    2.0 0.0
    """

    accepted: bool
    leader_value: float
    leader_violation: float
    coupling_violation: float
    integrality_violation: float
    follower_violation: float
    follower_gap: float
    follower_gaps: Mapping[str, float]
    follower_values: Mapping[str, float]
    optimistic_value: float | None
    pessimistic_value: float | None
    unique_response: bool | None
    unique_multipliers: bool | None
    multiplier_violation: float
    route: str
    tolerances: Tolerances
    notes: tuple[str, ...] = ()
    scales: tuple[str, ...] = ()

    unique_answer = Renamed("unique_response")

    def summary(self) -> str:
        """Return the certificate as a few lines of text."""
        t = self.tolerances
        verdict = "accepted" if self.accepted else "REFUSED"
        lines = [
            f"certificate        {verdict} (followers solved again: {self.route})",
            f"  leader violation   {self.leader_violation:.1e}   coupling "
            f"{self.coupling_violation:.1e}   integrality {self.integrality_violation:.1e}",
            f"  follower violation {self.follower_violation:.1e}   follower gap "
            f"{self.follower_gap:.1e}   multipliers {self.multiplier_violation:.1e}",
            f"  tolerances         violation {t.violation:g}, gap {t.gap:g}, integrality "
            f"{t.integrality:g}",
        ]
        if self.optimistic_value is not None or self.pessimistic_value is not None:
            lines.append(
                f"  at this decision   optimistic {_number(self.optimistic_value)}   pessimistic "
                f"{_number(self.pessimistic_value)}   response "
                f"{_unique(self.unique_response)}, multipliers {_unique(self.unique_multipliers)}"
            )
        lines.extend(f"  scale              {scale}" for scale in self.scales)
        lines.extend(f"  note               {note}" for note in self.notes)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return the certificate as a table for a notebook."""
        rows: list[tuple[str, Any]] = [
            ("verdict", "accepted" if self.accepted else "REFUSED"),
            ("leader value", self.leader_value),
            *((f"value of follower {name}", v) for name, v in self.follower_values.items()),
            ("leader violation", self.leader_violation),
            ("coupling violation", self.coupling_violation),
            ("integrality violation", self.integrality_violation),
            ("follower violation", self.follower_violation),
            *((f"gap of follower {name}", gap) for name, gap in self.follower_gaps.items()),
            ("multiplier violation", self.multiplier_violation),
            ("optimistic value here", self.optimistic_value),
            ("pessimistic value here", self.pessimistic_value),
            ("response", _unique(self.unique_response)),
            ("multipliers", _unique(self.unique_multipliers)),
            ("solved again by", self.route),
            *(("scale", scale) for scale in self.scales),
            *(("note", note) for note in self.notes),
        ]
        return table(rows, caption="Certificate")

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, ready for JSON."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain["follower_gaps"] = dict(self.follower_gaps)
        plain["follower_values"] = dict(self.follower_values)
        plain["tolerances"] = dict(vars(self.tolerances))
        plain["notes"] = list(self.notes)
        plain["scales"] = list(self.scales)
        return plain


@dataclass(frozen=True)
class Stats:
    """How an answer was found.

    Parameters
    ----------
    method
        The solver, as it would be written.
    reason
        Why this method.
    backend, backend_status
        The vendor and its own status word.
    build_seconds, solve_seconds, verify_seconds
        Time to compile and reformulate, inside the solver, and to verify.
    nodes
        Branch-and-bound nodes.
    note
        A sentence about anything unusual.
    trace
        ``(seconds, incumbent, bound)`` whenever one of them improved.
    gradients, products
        Gradients of ``F`` and ``f``, products with second derivatives, in passes over the data.
    resume
        Where ``bl.solve(..., start=solution)`` goes on, if a limit ended a search that can.

    Examples
    --------
    >>> from bilevel.solution import Stats
    >>> Stats(method="SingleLevel").nodes
    0
    """

    method: str
    reason: str = ""
    backend: str = ""
    backend_status: str = ""
    build_seconds: float = 0.0
    solve_seconds: float = 0.0
    verify_seconds: float = 0.0
    nodes: int = 0
    note: str = ""
    trace: tuple[Moment, ...] = ()
    gradients: float = 0.0
    products: float = 0.0
    resume: Resume | None = field(default=None, repr=False, compare=False)
    rest = Renamed("resume")


@dataclass(frozen=True, repr=False)
class Solution:
    """The answer to a bilevel problem.

    ``solution[expression]`` is the value of a CVXPY expression of variables of either level, of
    ``follower.dual(constraint)`` and of ``follower.value``, at the parameters of this solve;
    ``solution["x"]`` that of the variable called x.

    Parameters
    ----------
    status
        What is claimed.
    leader_value
        The leader's objective in its own sense, ``None`` without a point.
    follower_values
        Each follower's objective in its own sense, by name.
    bound
        Proved bound on the leader's optimal value, in its own sense; ``None`` if none is proved.
    certificate
        Evidence about the point.
    stats
        How it was found.
    values
        Values by variable id.
    names
        Variable ids by name, so that ``solution["x"]`` works.
    entries
        ``(variable id, place)`` by name, for entries that a file gives names.
    parameters
        The parameters' values in this solve, by parameter id.
    late
        Returns values by variable id of multipliers that were first asked for after the solve;
        ``None`` if it cannot be known, as in a copy from another process.

    Examples
    --------
    >>> import bilevel as bl
    >>> problem = bl.instances.get("T16").problem
    >>> solution = bl.solve(problem)
    >>> print(
    ...     solution.status.name,
    ...     round(solution.leader_value, 4),
    ...     round(float(solution["x"]), 4),
    ... )
    OPTIMAL 10.125 5.5
    >>> (x,) = problem.variables
    >>> print(round(float(solution[3 * x + 1]), 4))
    17.5
    """

    status: Status
    leader_value: float | None
    follower_values: Mapping[str, float]
    bound: float | None
    certificate: Certificate | None
    stats: Stats
    values: Mapping[int, Any] = field(default_factory=dict, repr=False)
    names: Mapping[str, int] = field(default_factory=dict, repr=False)
    entries: Mapping[str, tuple[int, int]] = field(default_factory=dict, repr=False)
    parameters: Mapping[int, Any] = field(default_factory=dict, repr=False)
    late: Callable[[], Mapping[int, Any]] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in _MAPPINGS:
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def gap(self) -> float | None:
        """``|leader_value - bound| / max(1, |leader_value|)``, ``None`` where one is unknown."""
        return relative_gap(self.leader_value, self.bound)

    def __getitem__(self, expression: cp.Expression | cp.Minimize | cp.Maximize | str) -> Any:
        """Return the value of a CVXPY expression, or of the variable of a name.

        Parameters
        ----------
        expression
            Of variables of the problem, multipliers and values of its followers, and parameters;
            an objective; or a name. Nothing is stored in CVXPY variables.

        Raises
        ------
        UnknownVariable
            If a variable has no value here; a ``ProblemError`` and a ``KeyError``.
        ProblemError
            If a parameter has no value, or the object is no expression.
        """
        try:
            if not isinstance(expression, str):
                return evaluate(expression, self._values_of(expression), self.parameters)
            if expression in self.names and self.names[expression] in self.values:
                return self.values[self.names[expression]]
            if expression in self.entries:
                owner, place = self.entries[expression]
                return self.values[owner][place]
            raise UnknownVariable(f"{expression} has no value in this solution")
        except UnknownVariable as error:
            known = ", ".join(sorted(self.names)) or "none: there is no point"
            raise UnknownVariable(f"{error} (known: {known}).") from None

    def _values_of(self, expression: Any) -> Mapping[int, Any]:
        """Return values by variable id, with late ones if an expression needs them."""
        if self.late is None or not self.status.has_point or not hasattr(expression, "variables"):
            return self.values
        missing = [v for v in expression.variables() if v.id not in self.values]
        if not any(isinstance(variable, Derived) for variable in missing):
            return self.values
        return {**self.late(), **self.values}

    def __getstate__(self) -> dict[str, Any]:
        # What multipliers are computed from stays behind, and a view of a dict does not travel.
        plain = {name: dict(getattr(self, name)) for name in _MAPPINGS}
        return vars(self) | plain | {"late": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.__post_init__()

    def __repr__(self) -> str:
        gap = "unknown" if self.gap is None else format(self.gap, ".1e")
        return (
            f"Solution({self.status.name}, leader_value={_number(self.leader_value)}, gap={gap}, "
            f"method={self.stats.method})"
        )

    def _repr_html_(self) -> str:
        """Return status, values and certificate as tables for a notebook."""
        stats = self.stats
        rows: list[tuple[str, Any]] = [
            ("status", f"{self.status.name}: {self.status.value}"),
            ("leader value", self.leader_value),
            ("bound", self.bound),
            ("gap", self.gap),
            *((f"value of follower {name}", v) for name, v in self.follower_values.items()),
            ("method", stats.method),
            ("why", stats.reason),
            ("note", stats.note),
        ]
        entries = {i for i, _ in self.entries.values()}
        values = [(name, self.values[i]) for name, i in self.names.items() if i not in entries]
        values += [(name, self.values[i][place]) for name, (i, place) in self.entries.items()]
        shown = [(name, _entry(value)) for name, value in values[:_SHOWN]]
        if len(values) > _SHOWN:
            shown.append(("…", f"{len(values) - _SHOWN} more"))
        parts = [table([row for row in rows if row[1] not in ("", None)], caption="Solution")]
        parts += [table(shown, head=("variable", "value"))] if shown else []
        parts += [] if self.certificate is None else [self.certificate._repr_html_()]
        return "\n".join(parts)

    def summary(self) -> str:
        """Return status, values, bound, certificate and the reason for the method as text."""
        stats = self.stats
        lines = [
            f"status             {self.status.name}: {self.status.value}",
            f"leader value       {_number(self.leader_value)}   bound {_number(self.bound)}   gap "
            f"{'unknown' if self.gap is None else format(self.gap, '.1e')}",
        ]
        lines += [f"follower value     {v:.9g}   ({k})" for k, v in self.follower_values.items()]
        lines += [f"method             {stats.method}"]
        lines += [f"why                {stats.reason}"] if stats.reason else []
        lines.append(
            f"effort             {stats.solve_seconds:.2f} s solving, {stats.build_seconds:.2f} s "
            f"building, {stats.verify_seconds:.2f} s verifying, {stats.nodes} nodes"
        )
        lines += [f"note               {stats.note}"] if stats.note else []
        lines += [] if self.certificate is None else [self.certificate.summary()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, ready for JSON."""
        named = {i for i, _ in self.entries.values()}
        by_id = {i: name for name, i in self.names.items() if i not in named}
        stats = {name: value for name, value in vars(self.stats).items() if name != "resume"}
        stats["trace"] = [list(moment) for moment in self.stats.trace]
        return {
            "status": self.status.name,
            "meaning": self.status.value,
            "leader_value": self.leader_value,
            "bound": self.bound,
            "gap": self.gap,
            "follower_values": dict(self.follower_values),
            "values": {
                by_id[i]: value.tolist() if hasattr(value, "tolist") else value
                for i, value in self.values.items()
                if i in by_id
            }
            | {name: float(self.values[i][place]) for name, (i, place) in self.entries.items()},
            "stats": stats,
            "certificate": None if self.certificate is None else self.certificate.to_dict(),
        }


def _entry(value: Any) -> Any:
    """Return a value as a cell: a number, a few entries, or a shape."""
    array = np.asarray(value)
    if array.ndim == 0:
        return float(array)
    if array.size > _SHOWN:
        return f"array of shape {array.shape}"
    return np.array2string(array, precision=6, suppress_small=True)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.9g}"


def _unique(flag: bool | None) -> str:
    return {True: "unique", False: "NOT unique", None: "uniqueness unknown"}[flag]
