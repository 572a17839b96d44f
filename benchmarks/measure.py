"""One call of ``bl.solve`` as a measurement: its claim, its evidence, its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import bilevel as bl
from benchmarks.case import Measurement

#: Tells how a solution counts: ``(outcome, note)``.
Judge = Callable[[bl.Solution], tuple[str, str]]


def measure_solve(
    problem: bl.Problem,
    solver: Any,
    limit: float,
    judge: Judge,
    extra: Callable[[bl.Solution], Mapping[str, Any]] | None = None,
    **arguments: Any,
) -> Measurement:
    """Solve once, timing that alone, and describe what came back; refusing is no failure."""
    began = time.perf_counter()
    try:
        solution = bl.solve(problem, solver, time_limit=limit, throw=False, **arguments)
    except (bl.UnsupportedProblem, bl.BackendNotFound) as error:
        return Measurement("refused", type(error).__name__, note=str(error)[:300])
    seconds = time.perf_counter() - began
    stop_if_interrupted(solution)
    outcome, note = judge(solution)
    stats = solution.stats
    return Measurement(
        outcome,
        solution.status.name,
        solution.leader_value,
        solution.bound,
        seconds,
        certificate=evidence(solution.certificate),
        note=" ".join(part for part in (note, stats.note) if part)[:300],
        extra={
            "gap": solution.gap,
            "nodes": stats.nodes,
            "build_seconds": stats.build_seconds,
            "solve_seconds": stats.solve_seconds,
            "verify_seconds": stats.verify_seconds,
            "backend_status": stats.backend_status,
            **(extra(solution) if extra is not None and solution.status.has_point else {}),
        },
    )


def stop_if_interrupted(solution: bl.Solution) -> None:
    """Raise ``KeyboardInterrupt`` again where a backend caught it: half a solve is no result."""
    if "interrupt" in solution.stats.backend_status.lower():
        raise KeyboardInterrupt


def evidence(certificate: bl.Certificate | None) -> dict[str, Any] | None:
    """Return a certificate's figures without its prose."""
    if certificate is None:
        return None
    return {
        "accepted": certificate.accepted,
        "follower_gap": certificate.follower_gap,
        "violation": max(
            certificate.leader_violation,
            certificate.coupling_violation,
            certificate.follower_violation,
        ),
        "integrality_violation": certificate.integrality_violation,
        "optimistic_value": certificate.optimistic_value,
        "pessimistic_value": certificate.pessimistic_value,
        "route": certificate.route,
    }
