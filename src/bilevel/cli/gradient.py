"""Checking the gradient of a problem's answer by its parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import bilevel as bl
from bilevel.errors import BackendNotFound, ProblemError
from bilevel.problem.leaves import label
from bilevel.solvers import Auto

if TYPE_CHECKING:
    from bilevel.layers import GradientCheck
    from bilevel.layers.bilevel import EquilibriumName


def check(
    problem: bl.Problem, solver: Any, equilibrium: str, step: float, tolerance: float
) -> GradientCheck:
    """Compare the gradient by every parameter, at its value, with finite differences."""
    if not problem.parameters:
        raise ProblemError(
            "The problem has no cvxpy.Parameter, so there is nothing to differentiate by."
        )
    for parameter in problem.parameters:
        if parameter.value is None:
            raise ProblemError(f"Parameter {label(parameter)} has no value; set it in the file.")
    try:
        from bilevel.layers import BilevelLayer, gradcheck, tensors_of
    except ImportError as error:
        raise BackendNotFound(
            "Gradients need the package torch, which is not installed: pip install "
            '"bilevel[torch]".'
        ) from error
    variables = [*problem.variables, *(v for f in problem.followers for v in f.variables)]
    chosen = None if isinstance(solver, Auto) else solver
    game = cast("EquilibriumName", equilibrium)  # the layer itself refuses other words
    layer = BilevelLayer(problem, problem.parameters, variables, chosen, equilibrium=game)
    inputs = tensors_of(problem.parameters)
    return gradcheck(layer, inputs, step=step, tolerance=tolerance)


def to_dict(found: GradientCheck) -> dict[str, Any]:
    """Return plain numbers and strings, ready for JSON."""
    return {
        "passed": found.passed,
        "error": found.error,
        "errors": list(found.errors),
        "compared": list(found.compared),
        "kinds": [kind.name for kind in found.kinds],
        "tolerance": found.tolerance,
    }
