"""Statements and expressions of the part of AMPL in which BASBLib is written."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cvxpy as cp

from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.io.text import Source

_FUNCTIONS: dict[str, tuple[Callable[[float], float], Callable[[Any], Any] | None]] = {
    "exp": (math.exp, cp.exp),
    "log": (math.log, cp.log),
    "sqrt": (math.sqrt, cp.sqrt),
    "abs": (abs, cp.abs),
    "sin": (math.sin, None),
    "cos": (math.cos, None),
    "tan": (math.tan, None),
}
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
_SUM = re.compile(r"\bsum\s*\{\s*(\w+)\s+in\s+([^}]*)\}")


@dataclass(frozen=True)
class Statement:
    """The text up to a semicolon, comments removed, and the line where it begins."""

    text: str
    line: int


def statements(source: Source) -> Iterator[Statement]:
    """Return a file's statements.

    Raises
    ------
    ProblemError
        If the last one has no semicolon.
    """
    text = "\n".join(line.partition("#")[0] for line in source.lines)
    start = 0
    for part in text.split(";"):
        body = part.strip()
        line = 1 + text.count("\n", 0, start + len(part) - len(part.lstrip()))
        start += len(part) + 1
        if start > len(text):
            if body:
                raise source.error(line, f"{_short(body)!r} does not end with a semicolon.")
            return
        if body:
            yield Statement(body, line)


@dataclass(frozen=True)
class Indexed:
    """A parameter or variable with an index: the value of each."""

    entries: Mapping[Any, Any]


@dataclass
class Expressions:
    """Turns a text into a number or a CVXPY expression.

    Parameters
    ----------
    source
        The file.
    names
        What names mean: numbers, CVXPY variables or ``Indexed``.
    sets
        Sets of whole numbers.
    hidden
        Names that are known and must not occur here, with the reason.
    """

    source: Source
    names: dict[str, Any]
    sets: dict[str, Sequence[int]]
    hidden: dict[str, str]

    def evaluate(self, text: str, line: int, local: Mapping[str, int] | None = None) -> Any:
        """Return the value of an expression that begins in a line.

        Raises
        ------
        ProblemError
            If it is malformed or contains an unknown name.
        UnsupportedProblem
            If CVXPY has no such function of variables.
        """
        try:
            tree = ast.parse(f"({_sums(text.replace('^', '**'))}\n)", mode="eval")
        except (RecursionError, MemoryError):
            raise self.source.error(line, f"{_short(text)!r} has too many terms.") from None
        except SyntaxError as error:
            at = line + (error.lineno or 1) - 1
            raise self.source.error(at, f"{_short(text)!r} is no expression.") from None
        try:
            return self._value(tree.body, line, local or {})
        except RecursionError:
            raise self.source.error(line, f"{_short(text)!r} has too many terms.") from None
        except (ZeroDivisionError, OverflowError, ValueError) as error:
            if isinstance(error, ProblemError):
                raise
            raise self.source.error(line, f"{_short(text)!r} has no value: {error}.") from error

    def number(
        self, text: str, line: int, what: str, local: Mapping[str, int] | None = None
    ) -> float:
        """Return the value of an expression without variables."""
        value = self.evaluate(text, line, local)
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.source.error(line, f"{what} must be a number, not {_short(text)!r}.")
        return float(value)

    def members(self, text: str, line: int) -> Sequence[int]:
        """Return the set that a name or a range ``1..4`` means."""
        text = text.strip().removeprefix("{").removesuffix("}").strip()
        if text in self.sets:
            return self.sets[text]
        found = re.fullmatch(r"(\d+)\s*\.\.\s*(\d+)", text)
        if found is None or int(found[1]) > int(found[2]):
            raise self.source.error(line, f"{text!r} is no set; write a range such as 1..4.")
        return range(int(found[1]), int(found[2]) + 1)

    def _value(self, node: ast.expr, first: int, local: Mapping[str, int]) -> Any:
        line = first + node.lineno - 1

        def value(part: ast.expr) -> Any:
            return self._value(part, first, local)

        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return number
            case ast.Name(id=name) if name in local:
                return local[name]
            case ast.Name(id=name) | ast.Subscript(value=ast.Name(id=name)):
                index = value(node.slice) if isinstance(node, ast.Subscript) else None
                return self._named(name, index, line)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
                return -value(operand) if isinstance(sign, ast.USub) else value(operand)
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                return value(left) / self._constant(value(right), node, line, "divides by")
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                exponent = self._constant(value(right), node, line, "has an exponent with")
                return self._power(value(left), exponent, node, line)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
                return _OPERATORS[type(sign)](value(left), value(right))
            case ast.Call(
                func=ast.Name(id="sum"), args=[ast.Constant(value=text), ast.Lambda() as f]
            ):
                index = f.args.args[0].arg
                terms = [{**local, index: i} for i in self.members(str(text), line)]
                return sum(self._value(f.body, first, known) for known in terms)
            case ast.Call(func=ast.Name(id=name), args=[argument]) if name in _FUNCTIONS:
                plain, atom = _FUNCTIONS[name]
                inner = value(argument)
                if not isinstance(inner, cp.Expression):
                    return plain(inner)
                if atom is None:
                    raise self._unsupported(node, line, f"takes {name} of variables")
                return atom(inner)
        raise self.source.error(line, f"{_short(ast.unparse(node))!r} is not understood.")

    def _named(self, name: str, index: Any, line: int) -> Any:
        if name in self.hidden:
            raise self.source.error(line, f"{name!r} must not occur here: {self.hidden[name]}.")
        if name not in self.names:
            raise self.source.error(line, f"{name!r} is declared nowhere before.")
        meant = self.names[name]
        if index is None and not isinstance(meant, Indexed):
            return meant
        if not isinstance(meant, Indexed) or index not in meant.entries:
            known = "needs an index" if index is None else f"has no entry {index}"
            raise self.source.error(line, f"{name!r} {known}.")
        return meant.entries[index]

    def _power(self, base: Any, exponent: float, node: ast.expr, line: int) -> Any:
        if not isinstance(base, cp.Expression):
            return base**exponent
        if exponent < 0:
            raise self._unsupported(node, line, "divides by variables")
        if exponent != int(exponent):
            return cp.power(base, exponent)
        if exponent < 2:
            return base if exponent else 1.0
        # CVXPY's own odd powers are for nonnegative numbers only.
        if exponent % 2:
            return base * self._power(base, exponent - 1, node, line)
        return cp.power(base, int(exponent))

    def _constant(self, value: Any, node: ast.expr, line: int, what: str) -> float:
        if isinstance(value, cp.Expression):
            raise self._unsupported(node, line, f"{what} variables")
        return value

    def _unsupported(self, node: ast.expr, line: int, what: str) -> UnsupportedProblem:
        text = _short(ast.unparse(node).replace("**", "^"))
        return UnsupportedProblem(
            f"{self.source.path}, line {line}: {text} {what}, which cannot be modelled here "
            f"(levels are linear or quadratic, leader variables may multiply the follower's)."
        )


def _sums(text: str) -> str:
    """Return ``sum {i in S} term`` as a call; a term ends before the next + or -."""
    while (found := _SUM.search(text)) is not None:
        end = found.end()
        depth = 0
        end += len(text[end:]) - len(text[end:].lstrip(" \n\t+-"))
        while end < len(text) and not (depth <= 0 and text[end] in "+-)"):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        index, members = found.groups()
        term = text[found.end() : end]
        text = f"{text[: found.start()]}sum({members!r}, lambda {index}: ({term})){text[end:]}"
    return text


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."
