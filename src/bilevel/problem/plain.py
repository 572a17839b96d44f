"""Parameters and attributes without CVXPY's attributes: plain parameters, and rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cvxpy as cp
import numpy as np

from bilevel.errors import UnsupportedProblem
from bilevel.problem.affine import ONE
from bilevel.problem.functions import Array
from bilevel.problem.leaves import Leaf, label
from bilevel.problem.level import Level


def plain_parameter(parameter: Any) -> cp.Parameter:
    """Return a parameter of the same shape and sign for one, or for another level's variable."""
    if parameter.is_complex():
        raise UnsupportedProblem(f"Parameter {label(parameter)} is complex; use real data.")
    return cp.Parameter(
        parameter.shape,
        name=label(parameter),
        nonneg=parameter.is_nonneg(),
        nonpos=parameter.is_nonpos() and not parameter.is_nonneg(),
    )


def source_of(inputs: Sequence[Any], plain: Mapping[int, cp.Parameter], level: Level) -> Array:
    """Return, for each compiled parameter entry, its index in ``theta``.

    ``theta`` holds the entries of the inputs one after the other, each row by row.
    """
    starts = level.parameter_starts
    source = np.full(starts[-1] + 1, ONE)
    first = 0
    for leaf in inputs:
        start = starts.get(plain[leaf.id].id)
        if start is not None:
            index = np.arange(first, first + leaf.size).reshape(leaf.shape)
            source[start : start + leaf.size] = index.ravel(order="F")
        first += leaf.size
    return source


def attribute_rows(leaf: Leaf) -> list[Any]:
    """Bounds that a follower's variable declares, as constraints: each has a multiplier."""
    variable, (lower, upper) = leaf.variable, leaf.bounds
    rows = []
    vector = cp.vec(variable, order="F")
    for bound, build in ((lower, lambda v, s: v >= s), (upper, lambda v, s: v <= s)):
        finite = np.flatnonzero(np.isfinite(bound))
        if len(finite):
            part = vector if len(finite) == variable.size else vector[finite]
            rows.append(build(part, bound[finite]))
    if variable.attributes.get("PSD"):
        rows.append(variable >> 0)
    if variable.attributes.get("NSD"):
        rows.append(variable << 0)
    return rows
