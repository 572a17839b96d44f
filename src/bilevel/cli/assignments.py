"""``NAME=VALUE`` on the command line: points of ``--at`` and parameters of ``--set``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bilevel.errors import ProblemError

if TYPE_CHECKING:
    from bilevel.problem.problem import Problem


def assignments(texts: Sequence[str] | None, option: str) -> dict[str, Any]:
    """Return values by name.

    Parameters
    ----------
    texts
        ``NAME=VALUE`` each, where the value is a number, numbers between commas, or a JSON list.
    option
        Where they stand, for messages.

    Raises
    ------
    ProblemError
        If a text has another form, or a name is given twice.
    """
    found: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = (word.strip() for word in text.rpartition("="))
        if not equals or not name:
            raise ProblemError(f"{option} takes NAME=VALUE, such as {option} x=1.5, not {text!r}.")
        if name in found:
            raise ProblemError(f"{option} gives {name!r} twice; give it once.")
        found[name] = _value(name, value, option)
    return found


def _value(name: str, text: str, option: str) -> Any:
    try:
        # Numbers between commas are what lies between the brackets of a list.
        return json.loads(f"[{text}]" if "," in text and text[:1] not in "[{" else text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ProblemError(
            f"The value of {name!r} in {option} must be a number or a JSON list such as [1, 2.5], "
            f"which may be written 1,2.5."
        ) from error


def set_parameters(problem: Problem, given: dict[str, Any]) -> None:
    """Give parameters of a problem other values than its file does.

    Parameters
    ----------
    problem
        Its ``cvxpy.Parameter`` are looked up by name.
    given
        Values by name: a number, or lists in the parameter's shape.

    Raises
    ------
    ProblemError
        If there is no such parameter, several share its name, or its value has another shape or is
        against what the parameter was declared to be.
    """
    import numpy as np

    if not given:
        return
    for name, value in given.items():
        named = [p for p in problem.parameters if p.name() == name]
        if not named:
            known = ", ".join(p.name() for p in problem.parameters)
            raise ProblemError(
                f"The problem has no parameter {name!r}; "
                + (f"its parameters are {known}." if known else "it has no cvxpy.Parameter at all.")
            )
        if len(named) > 1:
            raise ProblemError(
                f"{len(named)} parameters are called {name!r}; give each a name of its own, "
                f"cvxpy.Parameter(name=...)."
            )
        if not _is_numeric(value):
            raise ProblemError(
                f"The value of {name!r} in --set must be a finite number or a list of them."
            )
        shape = named[0].shape
        try:
            array = np.asarray(value, float)
        except ValueError:  # lists of several lengths
            raise ProblemError(
                f"Parameter {name!r} has shape {shape}; the lists in --set have several lengths."
            ) from None
        if array.shape != shape:
            raise ProblemError(
                f"Parameter {name!r} has shape {shape}, the value in --set {array.shape}."
            )
        try:
            named[0].value = array
        except ValueError as error:  # nonneg, symmetric, ...
            raise ProblemError(f"Parameter {name!r} in --set: {error}") from error


def _is_numeric(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_numeric(entry) for entry in value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
