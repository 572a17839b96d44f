"""Problems in the dialect of BASBLib: AMPL, the levels told apart by names.

``x...`` are variables of the leader, ``y...`` of the follower; ``outer_obj``, ``outer_con...``,
``inner_obj``, ``inner_con...`` are objectives and constraints. Rows called ``stationarity...`` and
``complementarity...`` and the multipliers ``l...`` are optimality conditions that the authors wrote
down for other solvers; they are not part of the problem.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cvxpy as cp
import numpy as np

from bilevel.errors import UnsupportedProblem
from bilevel.io.ampl import Expressions, Indexed, Statement, statements
from bilevel.io.text import Source, read_text
from bilevel.problem.follower import Follower
from bilevel.problem.names import NamedVariable, name_rows
from bilevel.problem.problem import Problem

_NAME = r"([A-Za-z_]\w*)"
_INDEX = r"(?:\{\s*(?:(\w+)\s+in\s+)?([^}]*)\})?"
_SET = re.compile(rf"set\s+{_NAME}\s*:=\s*(.+)", re.S)
_PARAM = re.compile(rf"param\s+{_NAME}\s*{_INDEX}\s*(?::=\s*(.+))?", re.S)
_VAR = re.compile(rf"var\s+{_NAME}\s*{_INDEX}\s*(.*)", re.S)
_GOAL = re.compile(rf"(minimize|maximize)\s+{_NAME}\s*:(.+)", re.S)
_ROW = re.compile(rf"{_NAME}\s*:(?!=)(.+)", re.S)
_SUBJECT = re.compile(r"(subject\s+to|s\.t\.)\s*")
_BOUND = re.compile(r"(>=|<=)([^<>=,]+)")
_RELATION = re.compile(r"(<=|>=|==?)")
_RELATE = {"<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b, "=": lambda a, b: a == b}
_NOT_OURS = ("stationarity", "complementarity")
_WHY_HIDDEN = "it is a multiplier of the optimality conditions, which are not part of the problem"


@dataclass(frozen=True)
class _Row:
    """An objective or a constraint of the file."""

    name: str
    line: int
    text: str
    value: Any
    maximize: bool = False


@dataclass(frozen=True)
class _Levels:
    """The two levels of a file: variables, objectives, constraints."""

    leader: tuple[cp.Variable, ...]
    follower: tuple[cp.Variable, ...]
    outer: _Row | None
    inner: _Row | None
    outer_rows: tuple[_Row, ...] = ()
    inner_rows: tuple[_Row, ...] = ()

    def problem(self) -> Problem:
        """Return the problem; every variable occurs in the problem of its owner."""
        answer = Follower(
            _goal(self.inner, self.follower, self.inner_rows),
            [row.value for row in self.inner_rows],
            self.follower,
            name="follower",
        )
        goal = _goal(self.outer, self.leader, self.outer_rows)
        return Problem(goal, [row.value for row in self.outer_rows], [answer])


def read_basblib(path: str | Path) -> Problem:
    """Return the bilevel problem of a ``.mod`` file.

    Raises
    ------
    ProblemError
        If the file is malformed; the message names the line.
    UnsupportedProblem
        If an expression cannot be modelled here; the message names it and its line.
    """
    source = read_text(path)
    levels = _Reader(source).read()
    problem = levels.problem()
    try:
        problem.compile()
    except UnsupportedProblem as error:
        raise _blame(source, levels, error) from error
    return problem


def _goal(row: _Row | None, variables: Sequence[cp.Variable], rows: Sequence[_Row]) -> Any:
    value = 0.0 if row is None else row.value
    value = value if isinstance(value, cp.Expression) else cp.Constant(value)
    seen = {v.id for part in (value, *(r.value for r in rows)) for v in part.variables()}
    for variable in variables:
        if variable.id not in seen:
            value = value + cp.sum(0.0 * variable)
    return cp.Maximize(value) if row is not None and row.maximize else cp.Minimize(value)


def _blame(source: Source, levels: _Levels, error: UnsupportedProblem) -> UnsupportedProblem:
    """Return an error that names the first row that cannot be modelled even alone."""
    alone = replace(levels, outer=None, inner=None, outer_rows=(), inner_rows=())
    trials = [(levels.outer, replace(alone, outer=levels.outer))]
    trials += [(row, replace(alone, outer_rows=(row,))) for row in levels.outer_rows]
    trials += [(levels.inner, replace(alone, inner=levels.inner))]
    trials += [(row, replace(alone, inner_rows=(row,))) for row in levels.inner_rows]
    for row, trial in trials:
        try:
            trial.problem().compile()
        except UnsupportedProblem as reason:
            if row is not None:
                text = " ".join(row.text.split())
                return UnsupportedProblem(
                    f"{source.path}, line {row.line}: {row.name}: {text} cannot be modelled here. "
                    f"{reason}"
                )
    return UnsupportedProblem(f"{source.path}: {error}")


class _Reader:
    """One reading of one file."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known = Expressions(source, {}, {}, {})
        self._declared: dict[str, tuple[int, Sequence[int] | None]] = {}
        self._variables: list[tuple[Statement, re.Match[str]]] = []
        self._owned: dict[str, list[cp.Variable]] = {"x": [], "y": []}
        self._rows: dict[str, list[_Row]] = {
            kind: [] for kind in ("outer_obj", "outer_con", "inner_obj", "inner_con")
        }

    def read(self) -> _Levels:
        """Return the levels; data are read first, because bounds need them."""
        listed = list(statements(self._source))
        data = next((i for i, s in enumerate(listed) if s.text == "data"), len(listed))
        model = [self._declare(statement) for statement in listed[:data]]
        for statement in listed[data + 1 :]:
            self._values(statement)
        for statement in filter(None, model):
            self._model(statement)
        rows = self._rows
        for kind in ("outer_obj", "inner_obj"):
            if len(rows[kind]) != 1:
                line = rows[kind][-1].line if rows[kind] else None
                raise self._source.error(line, f"There must be one {kind}, not {len(rows[kind])}.")
        if not self._owned["y"]:
            raise self._source.error(None, "There is no variable of the follower (y...).")
        return _Levels(
            tuple(self._owned["x"]),
            tuple(self._owned["y"]),
            rows["outer_obj"][0],
            rows["inner_obj"][0],
            tuple(rows["outer_con"]),
            tuple(rows["inner_con"]),
        )

    def _declare(self, statement: Statement) -> Statement | None:
        """Take in a set or parameter; return what is neither."""
        text = statement.text
        line = statement.line
        if found := _SET.fullmatch(text):
            self._new(found[1], line)
            self._known.sets[found[1]] = self._known.members(found[2], line)
        elif found := _PARAM.fullmatch(text):
            self._new(found[1], line)
            if found[3] is not None:
                self._declared[found[1]] = (line, self._known.members(found[3], line))
            elif found[4] is not None:
                self._known.names[found[1]] = self._known.number(found[4], line, found[1])
            else:
                self._declared[found[1]] = (line, None)
        else:
            return statement
        return None

    def _new(self, name: str, line: int) -> None:
        known = self._known
        if name in known.names or name in known.sets or name in self._declared:
            raise self._source.error(line, f"{name!r} is declared a second time.")

    def _values(self, statement: Statement) -> None:
        """Take in a parameter's values from the data section."""
        found = _PARAM.fullmatch(statement.text)
        if found is None or found[4] is None or found[1] not in self._declared:
            raise self._source.error(
                statement.line, "In the data, values of a declared parameter are expected."
            )
        name = found[1]
        line = statement.line
        if name in self._known.names:
            raise self._source.error(line, f"Parameter {name!r} has values already.")
        members = self._declared[name][1]
        tokens = found[4].split()
        if members is None:
            self._known.names[name] = self._source.number(" ".join(tokens), line, name)
            return
        if len(tokens) % 2:
            raise self._source.error(line, f"Indices and values of {name!r} do not pair up.")
        values = {
            self._source.integer(i, line, f"An index of {name!r}"): self._source.number(
                v, line, f"{name}[{i}]"
            )
            for i, v in zip(tokens[::2], tokens[1::2], strict=True)
        }
        if set(values) != set(members) or len(values) != len(tokens) // 2:
            raise self._source.error(
                line, f"The values of {name!r} do not match its {len(members)} indices."
            )
        self._known.names[name] = Indexed(values)

    def _model(self, statement: Statement) -> None:
        text = statement.text
        line = statement.line
        if found := _VAR.fullmatch(text):
            self._variable(found, line)
        elif found := _GOAL.fullmatch(text):
            if found[2] != "outer_obj":
                raise self._source.error(
                    line, f"The objective is called outer_obj, not {found[2]}."
                )
            value = self._known.evaluate(found[3], line)
            self._rows["outer_obj"].append(
                _Row("outer_obj", line, found[3], value, found[1] == "maximize")
            )
        else:
            self._row(statement)

    def _variable(self, found: re.Match[str], line: int) -> None:
        name, index, members, rest = found.groups()
        self._new(name, line)
        if name in self._known.hidden:
            raise self._source.error(line, f"{name!r} is declared a second time.")
        if name[0] == "l":
            self._known.hidden[name] = _WHY_HIDDEN
            return
        if name[0] not in self._owned:
            raise self._source.error(
                line, f"Variable {name!r} begins with none of x (leader), y (follower), l."
            )
        if _BOUND.sub("", rest).strip(" ,\n\t"):
            raise self._source.error(line, f"{rest.strip()!r} is not understood after {name!r}.")
        places = [None] if members is None else list(self._known.members(members, line))
        bounds = [self._bounds(rest, line, name, index, i) for i in places]
        lower, upper = (np.array(side) for side in zip(*bounds, strict=True))
        if members is None:
            variable: Any = cp.Variable(name=name, bounds=[lower[0], upper[0]])
            self._known.names[name] = variable
        else:
            entries = [f"{name}[{i}]" for i in places]
            variable = NamedVariable(entries, name, bounds=[lower, upper])
            self._known.names[name] = Indexed({i: variable[k] for k, i in enumerate(places)})
        self._owned[name[0]].append(variable)

    def _bounds(
        self, text: str, line: int, name: str, index: str | None, place: int | None
    ) -> tuple[float, float]:
        sides = {">=": -np.inf, "<=": np.inf}
        local = {} if index is None or place is None else {index: place}
        for relation, bound in _BOUND.findall(text):
            sides[relation] = self._known.number(bound, line, f"A bound of {name!r}", local)
        if sides[">="] > sides["<="]:
            raise self._source.error(line, f"The bounds of {name!r} leave no value.")
        return sides[">="], sides["<="]

    def _row(self, statement: Statement) -> None:
        text = _SUBJECT.sub("", statement.text, count=1)
        line = statement.line + statement.text.count("\n", 0, len(statement.text) - len(text))
        found = _ROW.fullmatch(text)
        if found is None:
            word = " ".join(text.split())[:40]
            raise self._source.error(line, f"{word!r} begins no statement of this dialect.")
        name, body = found.groups()
        if name.startswith(_NOT_OURS):
            return
        kind = next((kind for kind in self._rows if name.startswith(kind)), None)
        if kind is None or kind == "outer_obj":
            raise self._source.error(
                line, f"Row {name!r} has none of the names inner_obj, outer_con..., inner_con...."
            )
        parts = _RELATION.split(body)
        if len(parts) != 3:
            raise self._source.error(line, f"Row {name!r} needs one of <=, >= and =.")
        left, right = (
            self._known.evaluate(part, line + body.count("\n", 0, body.find(part)))
            for part in (parts[0], parts[2])
        )
        if kind == "inner_obj":
            is_zero = not isinstance(right, cp.Expression) and right == 0
            value = left if parts[1] in ("=", "==") and is_zero else None
        else:
            value = _RELATE[parts[1][:2].replace("==", "=")](left, right)
        if value is None or isinstance(value, (bool, np.bool_)):
            wanted = "end in = 0" if kind == "inner_obj" else "contain a variable"
            raise self._source.error(line, f"Row {name!r} must {wanted}.")
        if kind != "inner_obj":
            name_rows(value, [name])
        self._rows[kind].append(_Row(name, line, body, value))
