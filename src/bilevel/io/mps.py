"""MPS files, fixed and free: a linear program with names, and errors with a line.

A reader of our own, because the ones at hand say what is wrong with a file, but not where; tests
compare it with that of HiGHS.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from bilevel.errors import ProblemError
from bilevel.io.linear import FOLLOWER_OBJECTIVE, LinearProgram
from bilevel.io.text import Source, read_text
from bilevel.problem.functions import Array


def read_mps(path: str | Path) -> LinearProgram:
    """Return the linear program of an MPS file.

    Blanks separate the fields; if they do not lead through the file, the fields are taken from
    their fixed places, so that names may contain blanks.

    Raises
    ------
    ProblemError
        If the file is malformed; the message names the line.
    """
    source = read_text(path)
    free = _Reader(source, fixed=False)
    fixed = _Reader(source, fixed=True)
    try:
        return free.read()
    except ProblemError as error:
        try:
            return fixed.read()
        except ProblemError as second:
            # The reading that came farther knows better what is wrong.
            raise (second if fixed.line > free.line else error) from None


_CONSTANT = f"* {FOLLOWER_OBJECTIVE} constant"
_SENSES = {"MIN": False, "MAX": True}
_BLANK = ((0, 1), (3, 4), (12, 14), (22, 24), (36, 39), (47, 49), (61, None))
_FIELDS = ((1, 3), (4, 12), (14, 22), (24, 36), (39, 47), (49, 61))
_WITHOUT_VALUE = ("FR", "MI", "PL", "BV")
_BOUNDS = ("LO", "UP", "FX", "LI", "UI", *_WITHOUT_VALUE)


class _Reader:
    """One reading of one file; ``line`` is how far it came."""

    def __init__(self, source: Source, fixed: bool) -> None:
        self._source = source
        self._fixed = fixed
        self.line = 0
        self._kinds: dict[str, str] = {}
        self._columns: dict[str, int] = {}
        self._entries: dict[str, tuple[list[int], list[float]]] = {}
        self._in_column: set[str] = set()
        self._marked = False
        self._integer: list[bool] = []
        self._rhs: dict[str, float] = {}
        self._ranges: dict[str, float] = {}
        self._bounds: dict[tuple[int, str], float] = {}
        self._bound_line: dict[int, int] = {}
        self._maximize = False
        self._constant = 0.0
        self._sections = {
            "OBJSENSE": self._objsense,
            "ROWS": self._row,
            "COLUMNS": self._column,
            "RHS": self._side,
            "RANGES": self._range,
            "BOUNDS": self._bound,
        }

    def read(self) -> LinearProgram:
        """Return the program."""
        section = ""
        seen = set()
        for tokens, is_header in self._tokens():
            if not is_header:
                if section not in self._sections:
                    raise self._error(f"Data outside of a section: {' '.join(tokens)!r}.")
                self._sections[section](tokens)
                continue
            section = tokens[0].upper()
            if section == "ENDATA":
                return self._program()
            if section != "NAME" and section not in self._sections:
                raise self._error(
                    f"Section {tokens[0]!r} is unknown; known are NAME, "
                    f"{', '.join(self._sections)} and ENDATA (data lines begin with a blank)."
                )
            if section in seen:
                raise self._error(f"Section {section} appears a second time.")
            seen.add(section)
            if section == "OBJSENSE" and len(tokens) > 1:
                self._objsense(tokens[1:])
        raise self._error("The file ends without ENDATA; it may be truncated.")

    def _tokens(self) -> Iterator[tuple[list[str], bool]]:
        for line, text in enumerate(self._source.lines, 1):
            self.line = line
            if text.startswith(_CONSTANT):
                self._constant = self._number(text.removeprefix(_CONSTANT).strip(), "A constant")
            if not text.strip() or text.startswith("*"):
                continue
            is_header = not text[0].isspace()
            yield self._split(text) if self._fixed and not is_header else text.split(), is_header

    def _split(self, text: str) -> list[str]:
        text = text.rstrip()
        if "\t" in text or any(text[a:b].strip() for a, b in _BLANK):
            raise self._error("The line fits neither the free nor the fixed format of MPS files.")
        return [field for a, b in _FIELDS if (field := text[a:b].strip())]

    def _number(self, token: str, what: str, infinite: bool = False) -> float:
        return self._source.number(token, self.line, what, infinite)

    def _error(self, message: str, line: int | None = None) -> ProblemError:
        return self._source.error(line or self.line, message)

    def _objsense(self, tokens: list[str]) -> None:
        sense = tokens[0].upper()[:3]
        if len(tokens) != 1 or sense not in _SENSES:
            raise self._error(f"OBJSENSE must be MIN or MAX, not {' '.join(tokens)!r}.")
        self._maximize = _SENSES[sense]

    def _row(self, tokens: list[str]) -> None:
        if len(tokens) != 2 or tokens[0].upper() not in ("N", "E", "L", "G"):
            raise self._error(f"A row is N, E, L or G and a name, not {' '.join(tokens)!r}.")
        kind = tokens[0].upper()
        name = tokens[1]
        if name in self._kinds:
            raise self._error(f"Row {name!r} appears a second time.")
        self._kinds[name] = kind
        self._entries[name] = ([], [])

    def _column(self, tokens: list[str]) -> None:
        if len(tokens) > 2 and tokens[1] == "'MARKER'":
            mark = tokens[-1].strip("'").upper()
            if mark not in ("INTORG", "INTEND"):
                raise self._error(f"A marker must be INTORG or INTEND, not {tokens[-1]}.")
            self._marked = mark == "INTORG"
            return
        name = tokens[0]
        number = len(self._columns) - 1
        if self._columns.get(name) != number or number < 0:
            if name in self._columns:
                raise self._error(f"Column {name!r} appears again after others.")
            number = self._columns[name] = len(self._columns)
            self._integer.append(self._marked)
            self._in_column = set()
        for row, value in self._pairs(tokens[1:], f"column {name!r}"):
            if row in self._in_column:
                raise self._error(f"Column {name!r} has a second entry in row {row!r}.")
            self._in_column.add(row)
            self._entries[row][0].append(number)
            self._entries[row][1].append(value)

    def _pairs(self, tokens: list[str], what: str) -> Iterator[tuple[str, float]]:
        """Return the rows and numbers of a data line."""
        if len(tokens) not in (2, 4):
            raise self._error(
                f"In {what}, one or two pairs of row and number are expected, not "
                f"{' '.join(tokens)!r}."
            )
        for row, token in zip(tokens[::2], tokens[1::2], strict=True):
            if row not in self._kinds:
                raise self._error(f"In {what}, row {row!r} is not one of ROWS.")
            yield row, self._number(token, f"Row {row!r} in {what}")

    def _side(self, tokens: list[str]) -> None:
        self._collect(tokens, self._rhs, "RHS")

    def _range(self, tokens: list[str]) -> None:
        self._collect(tokens, self._ranges, "RANGES")

    def _collect(self, tokens: list[str], target: dict[str, float], what: str) -> None:
        # The name of the set may be missing.
        for row, value in self._pairs(tokens[len(tokens) % 2 :], what):
            if row in target:
                raise self._error(f"{what} names row {row!r} a second time.")
            if what == "RANGES" and self._kinds[row] == "N":
                raise self._error(f"Row {row!r} is free (N) and can have no range.")
            target[row] = value

    def _bound(self, tokens: list[str]) -> None:
        kind = tokens[0].upper()
        known = self._columns
        if kind not in _BOUNDS:
            raise self._error(f"Bound {tokens[0]!r} is unknown; known are {', '.join(_BOUNDS)}.")
        # kind, set, column, value; the set may be missing, and a value that has no meaning.
        rest = tokens[1:]
        needed = 1 if kind in _WITHOUT_VALUE else 2
        named = len(rest) == 2 and (rest[1] in known or rest[0] not in known)
        if len(rest) == 3 or (named and needed == 1):
            rest = rest[1:]
        if not needed <= len(rest) <= 2:
            raise self._error(f"A bound of kind {kind} is incomplete: {' '.join(tokens)!r}.")
        name = rest[0]
        if name not in known:
            raise self._error(f"BOUNDS names column {name!r}, which is not one of COLUMNS.")
        number = known[name]
        value = math.nan
        if needed == 2:
            what = f"The bound {kind} of column {name!r}"
            value = self._number(rest[1], what, infinite=True)
            if value == (math.inf if kind in ("LO", "LI", "FX") else -math.inf):
                raise self._error(f"{what} leaves no value.")
        if kind in ("BV", "LI", "UI"):
            self._integer[number] = True
        for side, bound in _sides(kind, value):
            if self._bounds.setdefault((number, side), bound) != bound:
                raise self._error(f"The {side} bound of column {name!r} is given a second time.")
        self._bound_line[number] = self.line

    def _program(self) -> LinearProgram:
        costs = [name for name, kind in self._kinds.items() if kind == "N"]
        if not costs:
            raise self._error("ROWS has no objective, which is the first row of kind N.")
        if not self._columns:
            raise self._error("COLUMNS is empty.")
        names = [name for name, kind in self._kinds.items() if kind != "N"]
        functions = {name: self._function(name) for name in costs}
        cost, constant = functions.pop(costs[0])
        lower, upper = self._column_bounds()
        entries = [self._entries[name] for name in names]
        count = [len(index) for index, _ in entries]
        A = sp.csr_array(
            (
                np.array([v for _, values in entries for v in values], float),
                np.array([j for index, _ in entries for j in index], int),
                np.concatenate([[0], np.cumsum(count, dtype=int)]),
            ),
            shape=(len(names), len(self._columns)),
        )
        sides = np.array([self._row_sides(name) for name in names], float).reshape(-1, 2)
        return LinearProgram(
            tuple(self._columns),
            tuple(names),
            cost,
            constant,
            self._maximize,
            A,
            sides[:, 0],
            sides[:, 1],
            lower,
            upper,
            np.array(self._integer, bool),
            functions,
        )

    def _function(self, name: str) -> tuple[Array, float]:
        """Return an N row; its right-hand side is subtracted."""
        coefficients = np.zeros(len(self._columns))
        index, values = self._entries[name]
        coefficients[index] = values
        constant = self._constant if name == FOLLOWER_OBJECTIVE else 0.0
        return coefficients, constant - self._rhs.get(name, 0.0)

    def _row_sides(self, name: str) -> tuple[float, float]:
        kind = self._kinds[name]
        rhs = self._rhs.get(name, 0.0)
        span = self._ranges.get(name)
        if span is None:
            return (-math.inf if kind == "L" else rhs), (math.inf if kind == "G" else rhs)
        if kind == "L" or (kind == "E" and span < 0):
            return rhs - abs(span), rhs
        return rhs, rhs + abs(span)

    def _column_bounds(self) -> tuple[Array, Array]:
        lower = np.zeros(len(self._columns))
        upper = np.full(len(self._columns), math.inf)
        # An integer column without bounds is binary, as for COIN's readers and HiGHS.
        upper[self._integer] = 1.0
        for number in self._bound_line:
            low = self._bounds.get((number, "lower"))
            high = self._bounds.get((number, "upper"))
            upper[number] = math.inf if high is None else high
            # A negative upper bound alone means that there is no lower one (COIN, CPLEX, Gurobi).
            lower[number] = (-math.inf if upper[number] < 0 else 0.0) if low is None else low
            if lower[number] > upper[number]:
                raise self._error(
                    f"Column {list(self._columns)[number]!r} has lower bound {lower[number]:g} "
                    f"above its upper bound {upper[number]:g}.",
                    self._bound_line[number],
                )
        return lower, upper


def _sides(kind: str, value: float) -> list[tuple[str, float]]:
    """Return which sides a bound sets, and to what."""
    if kind == "FR":
        return [("lower", -math.inf), ("upper", math.inf)]
    if kind == "BV":
        return [("lower", 0.0), ("upper", 1.0)]
    if kind == "FX":
        return [("lower", value), ("upper", value)]
    if kind == "MI":
        return [("lower", -math.inf)]
    if kind in ("UP", "UI", "PL"):
        return [("upper", math.inf if kind == "PL" else value)]
    return [("lower", value)]
