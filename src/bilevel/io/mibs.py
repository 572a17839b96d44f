"""The companion file of an MPS file that says what belongs to the follower (AUX, as for MibS).

References: the reader in the sources of MibS (``MibSModel::readAuxiliaryData``) and its page on
input files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from bilevel.io.linear import FOLLOWER_OBJECTIVE, Division, LinearProgram
from bilevel.io.text import Source, read_text
from bilevel.problem.functions import Array

Token = tuple[str, int]

_LISTS = ("LC", "LR", "LO", "IC")
_SINGLE = {"N": "N", "M": "M", "OS": "OS", "IB": "IB"} | {
    "@NUMVARS": "N",
    "@NUMCONSTRS": "M",
    "@NUMCONSTR": "M",
}
_ROWS_BEGIN = ("@CONSTRSBEGIN", "@CONSTRBEGIN", "@CONSTSBEGIN")
_ENDS = ("@VARSEND", "@CONSTRSEND", "@CONSTREND", "@CONSTSEND")
_IGNORED = ("@NAME", "@MPS", "@LP")


@dataclass
class _Companion:
    """What a companion file says, as tokens with their lines."""

    source: Source
    single: dict[str, Token] = field(default_factory=dict)
    lists: dict[str, list[Token]] = field(default_factory=lambda: {key: [] for key in _LISTS})

    def count(self, key: str, what: str) -> int:
        """Return ``N`` or ``M``."""
        if key not in self.single:
            raise self.source.error(None, f"There is no number of {what} ({key}).")
        return self.source.integer(*self.single[key], f"The number of {what}")

    def expect(self, key: str, count: int, what: str) -> list[Token]:
        """Return a list, after comparing its length with the number the file declares."""
        tokens = self.lists[key]
        if len(tokens) != count:
            line = tokens[-1][1] if tokens else None
            raise self.source.error(
                line, f"{count} {what} are declared, but {len(tokens)} are listed ({key})."
            )
        return tokens

    def numbers(self, key: str, count: int, what: str) -> Array:
        """Return a list of numbers."""
        tokens = self.expect(key, count, what)
        return np.array([self.source.number(t, n, f"{key}") for t, n in tokens], float)


def read_division(path: str | Path, program: LinearProgram) -> tuple[LinearProgram, Division]:
    """Return what belongs to the follower, and the linear program of both levels.

    Parameters
    ----------
    path
        The companion file, in any of its dialects.
    program
        The linear program; of an interdiction problem, the follower's.

    Raises
    ------
    ProblemError
        If the file is malformed or does not fit the program; the message names the line.
    """
    said = _parse(read_text(path))
    n = said.count("N", "follower variables")
    m = said.count("M", "follower rows")
    if not n:
        raise said.source.error(said.single["N"][1], "The follower decides no variable.")
    if "IB" in said.single:
        program = _interdiction(said, program, n)
    elif said.lists["IC"]:
        line = said.lists["IC"][0][1]
        raise said.source.error(line, "Interdiction costs (IC) need a budget (IB).")
    columns = _places(said, "LC", n, program.columns, "follower variables")
    rows = _places(said, "LR", m, program.rows, "follower rows")
    cost = np.zeros(len(program.columns))
    cost[columns] = said.numbers("LO", n, "follower objective coefficients")
    return program, _division(said, program, columns, rows, cost)


def _division(
    said: _Companion, program: LinearProgram, columns: Array, rows: Array, cost: Array
) -> Division:
    sense, line = said.single.get("OS", ("1", 0))
    if sense not in ("1", "-1"):
        raise said.source.error(line, f"OS must be 1 (minimize) or -1 (maximize), not {sense!r}.")
    own = np.zeros(len(cost), bool)
    mine = np.zeros(len(program.rows), bool)
    own[columns] = True
    mine[rows] = True
    full, constant = program.free.get(FOLLOWER_OBJECTIVE, (cost, 0.0))
    if not np.array_equal(full[own], cost[own]):
        full = cost
        constant = 0.0
    return Division(own, mine, full, constant, sense == "-1")


def _places(said: _Companion, key: str, count: int, names: Sequence[str], what: str) -> Array:
    """Return the columns or rows that are listed, by name or by number from 0."""
    place = {name: i for i, name in enumerate(names)}
    found: dict[int, int] = {}
    for token, line in said.expect(key, count, what):
        number = place.get(token)
        if number is None:
            if not (token.isascii() and token.isdigit()):
                raise said.source.error(line, f"{key} names {token!r}, which the MPS file lacks.")
            number = int(token)
            if number >= len(names):
                raise said.source.error(
                    line, f"{key} {number} is too large: there are {len(names)}, counted from 0."
                )
        if number in found:
            raise said.source.error(
                line,
                f"{key} lists {names[number]!r} a second time (before in line {found[number]}).",
            )
        found[number] = line
    return np.array(list(found), int)


def _interdiction(said: _Companion, program: LinearProgram, n: int) -> LinearProgram:
    """Return the program of both levels: leader's binaries first, the follower's columns behind."""
    if n != len(program.columns):
        raise said.source.error(
            said.single["N"][1],
            f"An interdiction file counts all {len(program.columns)} columns of the MPS file as "
            f"follower variables, not {n}.",
        )
    costs = said.numbers("IC", n, "interdiction costs")
    budget = said.source.number(*said.single["IB"], "The interdiction budget")
    if not np.isfinite(program.upper).all():
        worst = program.columns[int(np.flatnonzero(~np.isfinite(program.upper))[0])]
        raise said.source.error(
            None, f"Column {worst!r} can be interdicted and needs an upper bound in the MPS file."
        )
    stop = sp.hstack([sp.diags_array(program.upper), sp.eye_array(n)])
    return replace(
        program,
        columns=(*(f"x[{name}]" for name in program.columns), *program.columns),
        rows=("budget", *program.rows, *(f"interdict[{name}]" for name in program.columns)),
        cost=np.concatenate([np.zeros(n), -program.cost]),
        constant=-program.constant,
        A=sp.csr_array(
            sp.vstack(
                [
                    sp.csr_array((costs, (np.zeros(n, int), np.arange(n))), shape=(1, 2 * n)),
                    sp.hstack([sp.csr_array(program.A.shape), program.A]),
                    stop,
                ]
            )
        ),
        row_lower=np.concatenate([[-np.inf], program.row_lower, np.full(n, -np.inf)]),
        row_upper=np.concatenate([[budget], program.row_upper, program.upper]),
        lower=np.concatenate([np.zeros(n), program.lower]),
        upper=np.concatenate([np.ones(n), program.upper]),
        integer=np.concatenate([np.ones(n, bool), program.integer]),
        free={},
    )


def _parse(source: Source) -> _Companion:
    """Return a companion's content; what a token means depends on the tokens before it only."""
    said = _Companion(source)
    tokens = [(t, n) for n, text in enumerate(source.lines, 1) for t in text.split()]
    if not tokens:
        raise source.error(None, "The file is empty.")
    at = 0
    while at < len(tokens):
        key, line = tokens[at]
        at += 1
        if key in _SINGLE:
            if _SINGLE[key] in said.single:
                raise source.error(line, f"{key} appears a second time.")
            said.single[_SINGLE[key]] = _first(source, tokens, at)
            at += 1
        elif key in _LISTS:
            # One value follows each key; where two lines have run together, there are more.
            said.lists[key].append(_first(source, tokens, at))
            at += 1
            while at < len(tokens) and _is_number(tokens[at][0]):
                said.lists[key].append(tokens[at])
                at += 1
        elif key == "@VARSBEGIN":
            block = _block(said, tokens[at:], "N", 2)
            said.lists["LC"] += block[::2]
            said.lists["LO"] += block[1::2]
            at += len(block)
        elif key in _ROWS_BEGIN:
            block = _block(said, tokens[at:], "M", 1)
            said.lists["LR"] += block
            at += len(block)
        elif key in _IGNORED:
            rest = tokens[at][1] if at < len(tokens) and tokens[at][0][0] != "@" else 0
            while at < len(tokens) and tokens[at][1] == rest:
                at += 1
        elif key not in _ENDS:
            raise source.error(
                line, f"{key!r} is no key of a companion file, or one entry more than declared."
            )
    return said


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def _first(source: Source, tokens: Sequence[Token], at: int) -> Token:
    if at == len(tokens):
        key, line = tokens[at - 1]
        raise source.error(line, f"{key} has no value; the file may be truncated.")
    return tokens[at]


def _block(said: _Companion, tokens: Sequence[Token], key: str, width: int) -> list[Token]:
    """Return the tokens up to the next key with @, or as many as are declared."""
    size = len(tokens)
    if key in said.single:
        size = width * said.source.integer(*said.single[key], key)
    found = []
    for token in tokens[:size]:
        if token[0].startswith("@"):
            break
        found.append(token)
    if len(found) % width:
        raise said.source.error(
            found[-1][1], f"Names and coefficients do not pair up; the last is {found[-1][0]!r}."
        )
    return found
