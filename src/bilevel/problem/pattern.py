"""What stays the same from one set of parameter values to the next."""

from __future__ import annotations

from collections.abc import Sequence

from bilevel.problem.expand import Expanded
from bilevel.problem.functions import Array
from bilevel.problem.standard import Columns, StandardForm


class Pattern:
    """What follows from the levels' matrices alone: row owners, and a form's structure."""

    _SHARED = ("follower_mask", "coupled_rows", "linking_mask", "structure")

    def __init__(
        self, expanded: tuple[Expanded, ...], own: list[Array], touched: list[Array]
    ) -> None:
        self._expanded = expanded
        self.own = own
        self.touched = touched
        self._columns: Columns | None = None
        self._first: StandardForm | None = None

    def matches(self, expanded: Sequence[Expanded]) -> bool:
        """Return whether other levels have the very same matrices."""
        return all(
            new.rows.A is old.rows.A
            and new.objective.P is old.objective.P
            and new.objective.cubic is old.objective.cubic
            for new, old in zip(expanded, self._expanded, strict=True)
        )

    def share(self, form: StandardForm, columns: Columns) -> None:
        """Give a form the structure that an earlier one with the same matrices has computed."""
        if self._first is None or self._columns is not columns:
            self._first = form
            self._columns = columns
            return
        known = vars(self._first)
        vars(form).update({name: known[name] for name in self._SHARED if name in known})
