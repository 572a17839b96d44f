"""Which entries of an answer a layer returns: variables, multipliers, or the optimal value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bilevel.errors import ProblemError
from bilevel.problem.cones import Kind, triangle
from bilevel.problem.functions import Array
from bilevel.problem.leaves import Leaf, label
from bilevel.problem.parametric import ParametricProgram


@dataclass(frozen=True)
class Output:
    """Entries of the columns, of the multipliers or of the value, in a shape.

    Parameters
    ----------
    source
        ``"y"``, ``"z"`` or ``"value"``.
    index
        Which entries, column by column of the result.
    scale
        Factors, or ``None`` for ones.
    shape
        Of the result, without the batch.
    """

    source: str
    index: Array
    scale: Array | None
    shape: tuple[int, ...]

    @cached_property
    def place(self) -> slice | None:
        """The entries as a slice, if they follow each other."""
        first = int(self.index[0]) if len(self.index) else 0
        count = len(self.index)
        follow = np.array_equal(self.index, np.arange(first, first + count))
        return slice(first, first + count) if follow else None

    def read(self, y: Tensor, z: Tensor, value: Tensor | None) -> Tensor:
        """Return the result, batch first."""
        vector = y if self.source == "y" else z if self.source == "z" else value
        if vector is None:
            raise ProblemError("The optimal value was not computed.")
        if self.place is None:
            entries = vector[:, torch.from_numpy(self.index).to(vector.device)]
        else:
            is_whole = len(self.index) == vector.shape[-1]
            entries = vector if is_whole else vector[:, self.place]
        if self.scale is not None:
            entries = entries * torch.from_numpy(self.scale).to(entries)
        if len(self.shape) == 1:
            return entries
        if not self.shape:
            return entries[:, 0]
        order = range(len(self.shape), 0, -1)
        return entries.reshape(-1, *self.shape[::-1]).permute(0, *order)


def find_outputs(
    program: ParametricProgram,
    variables: Sequence[Any],
    constraints: Sequence[Any],
    multipliers: dict[int, int],
    value: Any | None,
) -> tuple[Output, ...]:
    """Return where each requested variable is found.

    Parameters
    ----------
    program
        The compiled program.
    variables
        Variables, dual variables of constraints, multipliers of a follower, or its value.
    constraints
        The problem's constraints, in the order of its rows.
    multipliers
        For ids of multipliers of a follower, the number of the constraint.
    value
        The variable that stands for the optimal value.

    Raises
    ------
    ProblemError
        If a variable is none of these.
    """
    duals = {
        dual.id: (number, part)
        for number, constraint in enumerate(constraints)
        for part, dual in enumerate(constraint.dual_variables)
    }
    duals |= {i: (number, 0) for i, number in multipliers.items()}
    found = []
    for variable in variables:
        key = getattr(variable, "id", None)
        if key in program.leaves:
            found.append(primal(program.leaves[key]))
        elif key in duals:
            number, part = duals[key]
            found.append(_dual(program, constraints[number], number, part, variable.shape))
        elif value is not None and key == value.id:
            sign = -1.0 if program.maximize else 1.0
            found.append(Output("value", np.zeros(1, int), np.array([sign]), ()))
        else:
            name = label(variable) if hasattr(variable, "name") else repr(variable)
            known = ", ".join(label(leaf.variable) for leaf in program.leaves.values())
            raise ProblemError(
                f"{name} is not a variable of {program.who} (its variables: {known}), nor a dual "
                f"variable of one of its constraints (constraint.dual_variables[0])."
            )
    return tuple(found)


def primal(leaf: Leaf) -> Output:
    """Return where a variable is found."""
    shape = tuple(leaf.variable.shape)
    if leaf.basis is None:
        return Output("y", leaf.columns, None, shape)
    basis = leaf.basis.tocsr()
    count = np.diff(basis.indptr)
    index = np.zeros(basis.shape[0], int)
    scale = np.zeros(basis.shape[0])
    index[count == 1] = basis.indices
    scale[count == 1] = basis.data
    return Output("y", leaf.first + index, scale, shape)


def _dual(
    program: ParametricProgram, constraint: Any, number: int, part: int, shape: tuple[int, ...]
) -> Output:
    rows = np.flatnonzero(program.row_constraint == number)
    kinds = {block.kind for block in program.cones if program.row_constraint[block.start] == number}
    if Kind.SEMIDEFINITE in kinds:
        n = shape[-1]
        row, column = triangle(n)
        position = np.zeros((n, n), int)
        position[row, column] = position[column, row] = np.arange(len(row))
        scale = np.where(np.eye(n, dtype=bool), 1.0, np.sqrt(0.5))
        index = rows[position].ravel(order="F")
        return Output("z", index, scale.ravel(order="F"), tuple(shape))
    first = sum(dual.size for dual in constraint.dual_variables[:part])
    size = constraint.dual_variables[part].size
    entry = program.row_entry[rows]
    inside = (entry >= first) & (entry < first + size)
    index = rows[inside][np.argsort(entry[inside])]
    if len(index) != size:
        raise ProblemError(
            f"Constraint {number} (counted from 0) of {program.who} has no multiplier in every "
            f"entry, because some contain no variable."
        )
    return Output("z", index, None, tuple(shape))
