"""Numbers that users give, checked with a message that says which one is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bilevel.errors import ProblemError

if TYPE_CHECKING:
    from bilevel.problem.functions import Array


def number(
    value: Any, what: str, *, above: float = -np.inf, least: float = -np.inf, remedy: str = ""
) -> float:
    """Return a finite number, or say what it should have been.

    Parameters
    ----------
    value
        What the user gave.
    what
        Begins the message: "The demand of node 3".
    above, least
        Open and closed lower limits.
    remedy
        Ends the message.

    Raises
    ------
    ProblemError
        If it is no finite number within the limits.
    """
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise ProblemError(f"{what} must be a number, not {value!r}.") from None
    if not np.isfinite(result):
        raise ProblemError(f"{what} must be finite, not {result}.")
    if result <= above or result < least:
        wanted = f"above {above:g}" if result <= above else f"at least {least:g}"
        raise ProblemError(
            f"{what} must be {wanted}, not {result:g}.{' ' if remedy else ''}{remedy}"
        )
    return result


def numbers(values: Any, names: Sequence[Any], what: str, **limits: Any) -> Array:
    """Return one number per name, each checked by ``number``; a scalar stands for all.

    Parameters
    ----------
    values
        A scalar or a sequence as long as ``names``.
    names
        Of what the numbers describe, for messages.
    what
        What the numbers are: "demand of node".
    limits
        As ``number`` takes them.
    """
    listed = [values] * len(names) if np.ndim(values) == 0 else list(values)
    if len(listed) != len(names):
        raise ProblemError(
            f"There are {len(names)} of what has a {what}, but {len(listed)} values."
        )
    pairs = zip(listed, names, strict=True)
    return np.array([number(value, f"The {what} {name!r}", **limits) for value, name in pairs])
