"""Layers: time and exactness of gradients beside other libraries' layers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

from benchmarks.case import Case, Instance, Measurement, Method
from benchmarks.layer_compile import in_own_process
from benchmarks.layer_data import ASKED_ERROR, Programs, flags, judge_gradients, tighten
from benchmarks.layer_targets import (
    CHECKED,
    COMPILING,
    CVXPYLAYERS,
    MOREAU,
    NEIGHBOURS,
    OURS,
    PROXQP,
    TIGHT,
    group_of,
    judge_layers,
)

#: Variables and batch; draws, calls per measurement, and how many instances CVXPY's layer gets.
SHAPES: dict[str, dict[tuple[int, int], tuple[int, int, int]]] = {
    "small": {(10, 1): (1, 20, 1), (10, 16): (1, 5, 8)},
    "full": {
        (10, 1): (5, 40, 1),
        (10, 128): (3, 15, 32),
        (50, 128): (3, 5, 8),
        (100, 32): (3, 5, 8),
    },
}
COMPILED = {"small": (50,), "full": (200, 400)}

_COUNTS = SHAPES["small"] | SHAPES["full"]
_QPS = frozenset(group_of(shape) for shape in _COUNTS)
_BATCHES = _QPS | {TIGHT}


@cache
def _draw(n: int, batch: int, seed: int) -> Programs:
    return Programs.draw(n, batch, seed)


@cache
def _tight(n: int, batch: int, seed: int) -> Programs:
    return tighten(_draw(n, batch, seed), seed)


def _instances(size: str) -> Sequence[Instance]:
    from benchmarks.layer_subjects import DIFFERENTIATED

    found = [
        Instance(f"{group_of(shape)}, draw {i}", lambda s=shape, i=i: _draw(*s, i), group_of(shape))
        for shape, (draws, _, _) in SHAPES[size].items()
        for i in range(draws)
    ]
    shape = list(SHAPES[size])[1]
    found.append(Instance(f"{TIGHT}, {group_of(shape)}", lambda: _tight(*shape, 0), TIGHT))
    for group, counts in ((COMPILING, COMPILED[size]), (NEIGHBOURS, (10, 50))):
        found += [Instance(f"{group}, n = {n}", lambda n=n: n, group) for n in counts]
    found += [Instance(name, make, CHECKED) for name, make in DIFFERENTIATED.items()]
    return found


def _calls(name: str) -> Callable[[Programs, float], Measurement]:
    """Return the run of a layer on quadratic programs."""

    def run(programs: Programs, limit: float) -> Measurement:
        del limit
        from benchmarks import layer_peers

        batch, n = programs.q.shape
        _, calls, share = _COUNTS[n, batch]
        has_root = name == CVXPYLAYERS
        mine = programs.head(share) if has_root else programs
        if has_root and batch > 1:
            calls = 2
        make = {
            OURS: layer_peers.bilevel_layer,
            MOREAU: layer_peers.moreau_layer,
            PROXQP: layer_peers.proxsuite_layer,
            CVXPYLAYERS: layer_peers.cvxpylayers_layer,
        }[name]
        try:
            layer = make(n, len(mine))
        except ImportError as error:
            return _missing(error.name)
        data = mine.through_roots if has_root else mine.data
        found = layer_peers.time_calls(layer, data, mine.w, calls)
        errors = programs.reference.errors(found.gradients, mine.roots if has_root else None)
        degenerate = programs.reference.is_degenerate[: len(mine)]
        outcome, extra = judge_gradients(errors, degenerate, flags(found.report))
        extra |= {
            "forward_seconds": found.forward / len(mine),
            "backward_seconds": found.backward / len(mine),
        }
        return Measurement(outcome, seconds=found.both / len(mine), extra=extra)

    return run


def _missing(package: str | None) -> Measurement:
    note = f"{package} is not installed (extra `peers`)."
    return Measurement("refused", "BackendNotFound", note=note)


def _compile(library: str) -> Callable[[int, float], Measurement]:
    def run(n: int, limit: float) -> Measurement:
        if find_spec(library) is None:
            return _missing(library)
        try:
            found = in_own_process(library, n, limit)
        except subprocess.TimeoutExpired:
            return Measurement("unproved", "TIME_LIMIT", seconds=limit)
        extra = {"megabytes": found["megabytes"]}
        return Measurement("solved", seconds=found["seconds"], extra=extra)

    return run


def _neighbours(n: int, limit: float) -> Measurement:
    del limit
    from benchmarks.layer_checks import changed_neighbours

    changed = changed_neighbours(n)
    return Measurement("wrong" if changed else "solved", note=changed)


def _differences(subject: Any, limit: float) -> Measurement:
    del limit
    from benchmarks.layer_checks import difference_error

    error = difference_error(subject.layer, subject.inputs)
    return Measurement("solved" if error <= ASKED_ERROR else "wrong", extra={"error": error})


def _why_missing() -> str:
    return "" if find_spec("torch") else "PyTorch is not installed (extra `torch`)."


CASE = Case(
    name="layers",
    title="Layers",
    claim=(
        "QP layers, forward and backward: at least as fast as the faster of Moreau and ProxQP at "
        "(10, 1), 1.3 times at (10, 128), twice at (50, 128) and (100, 32); 15 times as fast as "
        "cvxpylayers' default; gradients exact to 1e-10 in the median and 1e-6 at most, or flagged."
    ),
    instances=_instances,
    methods=(
        Method(OURS, _calls(OURS), groups=_BATCHES),
        Method(MOREAU, _calls(MOREAU), True, _BATCHES),
        Method(PROXQP, _calls(PROXQP), True, _BATCHES),
        Method(CVXPYLAYERS, _calls(CVXPYLAYERS), True, _QPS),
        Method(OURS, _compile("bilevel"), groups=frozenset({COMPILING})),
        Method(CVXPYLAYERS, _compile("cvxpylayers"), True, frozenset({COMPILING})),
        Method(OURS, _neighbours, groups=frozenset({NEIGHBOURS})),
        Method(OURS, _differences, groups=frozenset({CHECKED})),
    ),
    baseline=OURS,
    time_limit=120.0,
    repeats=7,
    notes=(
        "Dense random programs with `n` inequalities and `n/5` equations; all of P, q, A, b, G and "
        "h differ in each instance of a batch and get gradients. Seconds are per instance, forward "
        "and backward, the median of several calls after one that does not count; layers are made "
        "before. The library's time includes its report, whose kinds and margins are read. All "
        "methods work in double precision, on one thread (diffcp with `n_jobs_forward=1` and "
        "`n_jobs_backward=1`), with their own default settings otherwise. cvxpylayers uses its "
        "default solver (SCS with diffcp's derivative) and a root of P as parameter, because a "
        "quadratic form with a parameter breaks its rules; it gets 1 to 32 instances of a batch. "
        "Errors are relative, over all data of an instance, to a dense system on the active rows "
        "that Clarabel finds, refined in extended precision; a gradient off by more than 1e-3 is "
        "called wrong, whoever gives it, unless a report flags it or, without a report, the "
        "program is degenerate. The group `tight` has programs that are close to a change of "
        "their active rows, by 1e-4 down to 1e-15. Compiling is measured in a process of its own, "
        "imports done before; memory is the rise of the highest resident set. A single program of "
        "10 variables is dominated by what Python and autograd need for a call. Tried for it, "
        "in this order, each kept if it was faster: LAPACK by torch's batched functions; "
        "compiled loops for factors, solves and the check of an answer; NumPy instead of "
        "torch in the forward pass, inputs checked in one pass, and no look at the signature "
        "at every call; gradients of all data in one loop from what the forward pass keeps; "
        "data and answer as one recorded step (no faster, left out). DAQP spreads a batch over "
        "as many threads as torch has where its matrices have 400,000 entries or more; with "
        "one thread, as here, it does not matter."
    ),
    judge=judge_layers,
    missing=_why_missing,
)
