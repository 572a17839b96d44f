"""One solve as a measurement: its claim, its evidence, its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import bilevel as bl
from benchmarks.case import Measurement, Record
from benchmarks.peers import PeerAnswer
from bilevel.certificates import certify
from bilevel.problem.standard import StandardForm
from bilevel.program import relative_gap
from bilevel.solution import Tolerances
from bilevel.solvers.solver import Request

#: Tells how a solution counts: ``(outcome, note)``.
Judge = Callable[[bl.Solution], tuple[str, str]]
#: Answers a problem given as matrices within seconds.
Answer = Callable[[StandardForm, float], PeerAnswer]
#: Values and bounds of different methods agree within this, relative to ``max(1, |value|)``.
AGREEMENT = 1e-5

# Moments of a trace that a record keeps, about.
_KEPT = 50


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


def measure_form(form: StandardForm, answer: Answer, limit: float) -> Measurement:
    """Measure an answer from matrices, timing that alone, for a problem that has an optimum.

    Compiling stands before and the certificate behind the measured time. Without a known value an
    accepted ``OPTIMAL`` counts as solved; ``contradictions`` compares what the methods said.
    """
    form = replace(form)  # nothing is left of what another method or round has made of it
    began = time.perf_counter()
    try:
        found = answer(form, limit)
    except (bl.UnsupportedProblem, bl.BackendNotFound) as error:
        return Measurement("refused", type(error).__name__, note=str(error)[:300])
    seconds = time.perf_counter() - began
    certificate = None if found.z is None else certify(form, found.z, Tolerances())
    accepted = certificate is not None and certificate.accepted
    outcome = "unproved"
    if found.claim in ("INFEASIBLE", "UNBOUNDED"):
        outcome = "wrong"
    elif found.claim == "FAILED" or (certificate is not None and not accepted):
        outcome = "failed"
    elif found.claim == "OPTIMAL":
        outcome = "solved"
    value = None if certificate is None else certificate.leader_value
    return Measurement(
        outcome,
        found.claim,
        value,
        found.bound,
        seconds,
        certificate=evidence(certificate),
        note=" ".join(certificate.notes)[:300] if certificate is not None else "",
        extra={
            "gap": relative_gap(value, found.bound),
            "nodes": found.nodes,
            "backend_status": found.raw_status,
            "trace": found.trace[:: len(found.trace) // _KEPT + 1],
        },
    )


def answer_of(solver: Any) -> Answer:
    """Return a solver of the library as a function of matrices and a time limit."""

    def answer(form: StandardForm, limit: float) -> PeerAnswer:
        if reasons := solver.accepts(form):
            raise bl.UnsupportedProblem(reasons)
        found = solver.run(form, Request(time_limit=limit))
        if "interrupt" in found.backend_status.lower():
            raise KeyboardInterrupt
        sign = form.objective.sign
        return PeerAnswer(
            found.status.name,
            found.w,
            None if found.w is None else sign * form.objective.evaluate(found.w),
            float(sign * found.bound) if np.isfinite(found.bound) else None,
            found.backend_status,
            found.nodes,
            found.trace,
        )

    return answer


def contradictions(records: Sequence[Record]) -> list[str]:
    """Return claims about minima that a verified point of another method refutes."""
    best: dict[str, float] = {}
    for r in records:
        if r["value"] is not None and (r["certificate"] or {}).get("accepted"):
            best[r["instance"]] = min(best.get(r["instance"], float("inf")), r["value"])
    found = []
    for r in records:
        known = best.get(r["instance"])
        if known is None or r["outcome"] == "refused":
            continue
        above = known + AGREEMENT * max(1.0, abs(known))
        if r["outcome"] == "solved" and r["value"] > above:
            found.append(f"{r['method']}, {r['instance']}: {r['value']:.9g}, but {known:.9g} found")
        elif r["bound"] is not None and r["bound"] > above:
            found.append(f"{r['method']}, {r['instance']}: bound {r['bound']:.9g} over {known:.9g}")
    return found
