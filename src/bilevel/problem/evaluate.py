"""Values of CVXPY expressions from values by variable; nothing that CVXPY stores is touched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.atoms.atom import Atom

from bilevel.errors import ProblemError, UnknownVariable
from bilevel.problem.leaves import label


def evaluate(expression: Any, values: Mapping[int, Any], parameters: Mapping[int, Any]) -> Any:
    """Return the value of an expression, as ``expression.value`` would be.

    Parameters
    ----------
    expression
        A CVXPY expression, or ``cvxpy.Minimize`` or ``cvxpy.Maximize`` of one.
    values, parameters
        Values by id of the variables and of the parameters. A parameter that is not among them
        counts with its own value.

    Raises
    ------
    UnknownVariable
        If a variable has no value.
    ProblemError
        If a parameter has no value, or the object is no expression that can be evaluated.
    """
    if isinstance(expression, (cp.Minimize, cp.Maximize)):
        expression = expression.args[0]
    if isinstance(expression, cp.Variable):
        if expression.id not in values:
            raise UnknownVariable(f"{label(expression)} has no value in this solution")
        return values[expression.id]
    if isinstance(expression, cp.Parameter):
        value = parameters.get(expression.id)
        value = expression.value if value is None else value
        if value is None:
            raise ProblemError(f"Parameter {label(expression)} has no value: set it first.")
        return value
    if isinstance(expression, cp.Constant):
        return expression.value
    if not isinstance(expression, Atom):
        raise ProblemError(
            f"A solution gives values of variables, of their names and of CVXPY expressions, not "
            f"of an object of type {type(expression).__name__}."
        )
    if 0 in expression.shape:
        return np.zeros(expression.shape)
    node: Any = expression  # every atom has this method, but the base class does not declare it
    value = node.numeric([evaluate(a, values, parameters) for a in node.args])
    value = value.toarray() if sp.issparse(value) else value
    return np.reshape(value, expression.shape, order="F")
