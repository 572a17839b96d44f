"""The followers' response as a piecewise affine function of one or two leader parameters."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.problem.functions import Array
from bilevel.problem.problem import Problem
from bilevel.problem.standard import StandardForm
from bilevel.response.reaction_map.cells import Cell, Explorer
from bilevel.response.reaction_map.domain import Domain, halfspaces
from bilevel.response.reaction_map.joint import join, linear_rows
from bilevel.response.reaction_map.parameters import (
    parameter_columns,
    reasons_against,
    response_columns,
)
from bilevel.response.reaction_map.parametric import Parametric
from bilevel.response.reaction_map.reaction_map import ReactionMap, Region


def reaction(
    problem: Problem,
    *,
    parameters: Mapping[Any, Any] | None = None,
    time_limit: float | None = None,
) -> ReactionMap:
    r"""Return the followers' response as a piecewise affine function of the leader's decision.

        y(t) in argmin over y of  y'Qy/2 + (c + D t)'y  s.t.  A y + B t <= b

    Parameters
    ----------
    problem
        Its followers are linear or convex quadratic, do not see each other and depend on one or two
        columns ``t`` of the leader (none is allowed too).
    parameters
        Parameter values that override ``parameter.value``.
    time_limit
        Seconds, after which the regions found so far are returned.

    Returns
    -------
    ReactionMap
        Regions, kinks, set-valued places; callable.

    Raises
    ------
    ProblemError
        If no decision meets the leader's constraints and has a response, or ``time_limit`` is not
        positive.
    UnsupportedProblem
        If the response is not piecewise affine, there are too many parameters, or two parameters
        are not bounded.

    Notes
    -----
    The regions are those of constant optimal partition: which rows are tight at all best responses,
    and which multipliers can be positive. It is unique where bases and active sets are not, so
    duplicated constraints, dependent gradients and ties need no special care. Each partition gives
    a polyhedron of optimal pairs, whose image in the parameters is computed by linear programs.
    Regions are found at points that no other covers, until their union is the domain. Leader
    constraints that contain responses do not restrict the domain, unless it were unbounded.

    References
    ----------
    Berkelaar, Roos and Terlaky (1997), "The optimal set and optimal partition approach to linear
    and quadratic programming"; Bemporad, Morari, Dua and Pistikopoulos (2002), *Automatica* 38, on
    critical regions.

    Examples
    --------
    >>> import bilevel as bl
    >>> reaction = bl.reaction(bl.instances.get("T4").problem)
    >>> print(len(reaction), reaction.set_valued[0].corners.tolist())
    2 [[2.0]]
    >>> low, high = reaction.ranges([2.0])
    >>> print(low.round(6) + 0.0, high.round(6))
    [0.] [1.]
    """
    if not isinstance(problem, Problem):
        raise ProblemError(f"problem must be a bilevel.Problem, not {type(problem).__name__}.")
    if time_limit is not None and not time_limit > 0:
        raise ProblemError(f"time_limit must be a positive number of seconds, not {time_limit}.")
    form = problem.compile(parameters)
    if reasons := reasons_against(form):
        raise UnsupportedProblem(reasons)
    ends = np.inf if time_limit is None else time.perf_counter() + time_limit
    found = explore(form, lambda: time.perf_counter() > ends)
    if found is None:
        raise ProblemError(
            "The reaction map is empty: no decision meets the leader's constraints and has a best "
            "response of every follower. bl.solve tells which of both it is."
        )
    return found


def explore(form: StandardForm, stop: Callable[[], bool]) -> ReactionMap | None:
    """Return the reaction map of a problem that has one; ``None`` if its domain is empty."""
    program = Parametric.of(form)
    domain = _domain(form, program)
    if domain.dimension < 0:
        return None
    cells, missed = Explorer(program, domain, stop).run()
    theta = parameter_columns(form)
    own = response_columns(form)
    names = form.columns.names
    auxiliary = form.columns.auxiliary
    regions = [_region(program, domain, cell, ~auxiliary[own]) for cell in cells]
    top = domain.dimension
    return ReactionMap(
        tuple(names[j] for j in theta),
        tuple(names[j] for j in own if not auxiliary[j]),
        tuple(region for region in regions if region.dimension == top),
        tuple(region for region in regions if region.dimension < top),
        domain.corners * domain.size,
        missed,
        form,
        program,
    )


def has_response(form: StandardForm) -> bool:
    """Return whether the followers have a best response to some decision of the leader."""
    return _domain(form, Parametric.of(form)).dimension >= 0


def _domain(form: StandardForm, program: Parametric) -> Domain:
    d = len(parameter_columns(form))
    for coupled in (False, True):
        joint = join(form, program.solvable(), linear_rows(form, coupled))
        domain = Domain.of(joint.polyhedron, d)
        if domain is not None and np.isfinite(domain.corners).all():
            return domain
        if domain is not None and coupled:
            return domain
    names = ", ".join(form.columns.names[j] for j in parameter_columns(form))
    raise UnsupportedProblem(
        f"A reaction map over two parameters needs a bounded domain, and nothing bounds {names}; "
        f"add constraints such as {names.partition(',')[0]} <= 100 to the leader, or use "
        f"SingleLevel(KKT())."
    )


def _region(program: Parametric, domain: Domain, cell: Cell, own: Array) -> Region:
    K, k, K_dual, k_dual = (_clean(part) for part in program.maps(cell.partition, own))
    A, b = halfspaces(cell.corners)
    A = A / domain.size
    norm = np.linalg.norm(A, axis=1)
    corners = _clean(cell.corners * domain.size)
    if K is not None and k is not None:
        K = K[own]
        k = k[own]
    return Region(
        A / norm[:, None], b / norm, corners, cell.dimension, K, k, K_dual, k_dual, cell.partition
    )


def _clean(values: Any) -> Any:
    """Round what is a rounding error."""
    return None if values is None else np.where(abs(values) < 1e-12, 0.0, np.round(values, 12))
