"""Names of single entries of variables and constraints, such as those that a file gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cvxpy as cp


class NamedVariable(cp.Variable):
    """A vector variable whose entries have names of their own.

    Parameters
    ----------
    entries
        One name per entry.
    name
        The vector's own name.
    attributes
        As for ``cvxpy.Variable``.
    """

    def __init__(self, entries: Sequence[str], name: str, **attributes: Any) -> None:
        self.entries = tuple(entries)
        super().__init__(len(self.entries), name=name, **attributes)


def name_rows(constraint: Any, names: Sequence[str]) -> Any:
    """Return a CVXPY constraint after giving its rows names of their own."""
    constraint.row_names = tuple(names)
    return constraint


def row_name(constraint: Any, number: int, entry: int) -> str:
    """Return the name of one row of a level's constraint, counted from 0."""
    names = getattr(constraint, "row_names", None)
    return f"c{number}[{entry}]" if names is None else names[entry]
