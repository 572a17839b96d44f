"""The benchmark of layers: its reference is right, and wrong gradients are noticed."""

import builtins
from types import SimpleNamespace

import daqp
import numpy as np
import pytest
from benchmarks.cases import layers as case
from benchmarks.layer_data import Programs, flags, judge_gradients, tighten
from benchmarks.layer_targets import (
    ASKED,
    CHECKED,
    COMPILING,
    MOREAU,
    NEIGHBOURS,
    OURS,
    PROXQP,
    TIGHT,
    group_of,
    judge_layers,
)
from benchmarks.run import measure, plan


def loss(data, w):
    """The loss by another solver, which ends at a vertex of its active set."""
    P, q, A, b, G, h = data
    low, kinds = np.append(b, np.full(len(h), -1e30)), np.repeat([5, 0], [len(b), len(h)])
    rows = np.ascontiguousarray(np.vstack([A, G]))
    y, _, code, _ = daqp.solve(
        P, q, rows, np.append(b, h), low, kinds.astype(np.int32), primal_tol=1e-12
    )
    assert code == 1
    return w @ y


def test_the_reference_is_the_derivative_of_another_solvers_answer():
    programs, rng, step = Programs.draw(5, 4, 1), np.random.default_rng(0), 1e-5
    for k, w in enumerate(programs.w):
        data = [part[k] for part in programs.data]
        assert loss(data, w) == pytest.approx(w @ programs.reference.y[k], abs=1e-10)
        for j, gradient in enumerate(part[k] for part in programs.reference.gradients):
            move = rng.normal(size=gradient.shape)
            move = move + move.T if j == 0 else move
            ends = []
            for sign in (1, -1):
                moved = list(data)
                moved[j] = data[j] + sign * step * move
                ends.append(loss(moved, w))
            slope = (ends[0] - ends[1]) / (2 * step)
            assert slope == pytest.approx((gradient * move).sum(), rel=1e-6, abs=1e-6)


def test_errors_see_what_is_off_and_take_the_symmetric_part():
    programs = Programs.draw(5, 3, 0)
    known = programs.reference.gradients
    twist = np.triu(np.ones((5, 5)), 1)
    assert programs.reference.errors((known[0] + twist - twist.T, *known[1:])).max() < 1e-14
    off = [part.copy() for part in known]
    off[4][1] *= 1.12
    errors = programs.reference.errors(off)
    assert errors[[0, 2]].max() == 0.0
    assert errors[1] > 1e-3
    through = (2 * programs.roots @ known[0], *known[1:])
    assert programs.reference.errors(through, programs.roots).max() < 1e-14
    half = programs.head(2)
    assert programs.reference.errors([part[:2] for part in through], half.roots).max() < 1e-14


def test_tightened_programs_keep_their_answers_and_are_close_to_a_change():
    programs = Programs.draw(5, 16, 0)
    tight = tighten(programs, 0)
    np.testing.assert_allclose(tight.reference.y, programs.reference.y, atol=1e-12)
    assert tight.reference.margin.max() < 1e-3
    assert 0 < tight.reference.is_degenerate.sum() < 16
    assert not programs.reference.is_degenerate.any()


def test_rows_that_are_not_those_of_the_optimum_are_refused():
    from benchmarks.layer_data import solve

    programs = Programs.draw(5, 4, 0)
    with pytest.raises(ArithmeticError, match="active rows"):
        solve(programs, ~programs.reference.active)


@pytest.mark.parametrize(
    ("errors", "degenerate", "flagged", "outcome", "silent"),
    [
        ([1e-12, 1e-9], [0, 0], [0, 0], "solved", 0),
        ([1e-12, 1e-5], [0, 0], [0, 0], "solved", 1),
        ([1e-12, 0.12], [0, 0], [0, 0], "wrong", 1),
        ([1e-12, np.nan], [0, 0], [0, 0], "wrong", 1),
        ([1e-12, 0.12], [0, 1], [0, 0], "wrong", 1),
        ([1e-12, 0.12], [0, 1], [0, 1], "solved", 0),
        ([1e-12, 0.12], [0, 1], None, "solved", None),
        ([1e-12, 0.12], [0, 0], None, "wrong", None),
    ],
)
def test_only_what_is_flagged_may_be_off(errors, degenerate, flagged, outcome, silent):
    marks = None if flagged is None else np.array(flagged, bool)
    found, extra = judge_gradients(np.array(errors), np.array(degenerate, bool), marks)
    assert found == outcome
    assert extra.get("above_unflagged") == silent


def test_a_report_warns_by_kind_or_margin():
    torch = pytest.importorskip("torch")
    from bilevel.adjoints import GradientKind

    exact, bent = GradientKind.CLASSICAL, GradientKind.ONE_SIDED
    report = SimpleNamespace(kind=(exact, bent, exact), margin=torch.tensor([0.1, 0.1, 1e-9]))
    assert flags(report).tolist() == [False, True, True]
    assert flags(None) is None


def ours():
    """Return the measurements of the library at the small size, in this process."""
    pytest.importorskip("torch")
    jobs = [job for job in plan([case.CASE], "small", 1) if job.method.name == OURS]
    return [job for job in jobs if job.instance.group != COMPILING]


# Differences of whole bilevel problems take seconds each.
LONG = ("QP-QP", "LP-QP 1", "LP-QP 2", "QP-SOCP")


@pytest.mark.slow
def test_every_difference_is_confirmed():
    jobs = [job for job in ours() if job.instance.name.startswith(LONG)]
    assert len(jobs) == 6
    assert {measure(job).outcome for job in jobs} == {"solved"}


def test_the_small_size_is_solved_by_the_library():
    jobs = [job for job in ours() if not job.instance.name.startswith(LONG)]
    assert {job.instance.group for job in jobs} >= {CHECKED, NEIGHBOURS, TIGHT}
    found = {job.instance.name: measure(job) for job in jobs}
    assert "LP-QP 0" in found
    assert {one.outcome for one in found.values()} == {"solved"}
    errors = [one.extra for one in found.values() if "median_error" in one.extra]
    assert len(errors) == 3
    assert max(extra["median_error"] for extra in errors) < 1e-10
    assert max(extra["largest_error"] for extra in errors) < 1e-6
    assert sum(extra["above_unflagged"] for extra in errors) == 0


def test_differences_notice_a_wrong_gradient():
    pytest.importorskip("torch")
    from benchmarks.layer_checks import difference_error
    from benchmarks.layer_subjects import DIFFERENTIATED

    subject = DIFFERENTIATED["follower QP"]()

    def half(P, q, *rest):
        return subject.layer(P, (q + q.detach()) / 2, *rest)

    assert difference_error(subject.layer, subject.inputs) < 1e-6
    assert difference_error(half, subject.inputs) > 1e-3


@pytest.mark.parametrize("package", ["moreau", "proxsuite", "cvxpylayers"])
def test_peers_are_left_out_with_a_reason_where_they_are_missing(monkeypatch, package):
    pytest.importorskip("torch")
    from benchmarks import layer_peers

    original = builtins.__import__

    def without(name, *rest, **options):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(name, name=package)
        return original(name, *rest, **options)

    for layer in (layer_peers.moreau_layer, layer_peers.proxsuite_layer):
        layer.cache_clear()
    layer_peers.cvxpylayers_layer.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    jobs = [
        job
        for job in plan([case.CASE], "small", 1)
        if job.method.name.startswith(package) and job.instance.group == group_of((10, 1))
    ]
    (found,) = map(measure, jobs)
    assert found.outcome == "refused"
    assert package in found.note
    assert "extra `peers`" in found.note


def timed(method, seconds, shape, **extra):
    fields = {"group": group_of(shape), "instance": str(shape), "round": 0, "outcome": "solved"}
    figures = {"instances": 1, "median_error": 1e-15, "largest_error": 1e-15}
    if method == OURS:
        figures |= {"above": 0, "above_unflagged": 0}
    own = {"method": method, "peer": method != OURS, "seconds": seconds}
    return fields | own | {"extra": figures | extra}


def test_targets_compare_with_the_faster_peer():
    records = [timed(OURS, 1e-3, shape) for shape in ASKED]
    records += [timed(MOREAU, 5e-3, shape) for shape in ASKED]
    records += [timed(PROXQP, 1.5e-3, shape) for shape in ASKED]
    found = judge_layers(records)
    assert [target.reached for target in found[:4]] == [True, True, False, False]
    assert found[2].found.startswith("1.50x")
    assert found[4].found == "not measured"
    assert not judge_layers(records[4:])[0].reached


def test_targets_see_errors_that_nobody_was_told_of():
    records = [timed(OURS, 1e-3, shape) for shape in ASKED]
    assert [target.reached for target in judge_layers(records)[5:8]] == [True, True, True]
    silent = timed(OURS, 1e-3, (10, 1), above=1, above_unflagged=1, largest_error=1e-5)
    assert [t.reached for t in judge_layers([*records, silent])[5:8]] == [True, False, False]
    broken = records[0] | {"outcome": "failed", "seconds": None, "extra": {}}
    assert [t.reached for t in judge_layers([*records, broken])[5:8]] == [True, True, False]
    infinite = timed(OURS, 1e-3, (10, 1), largest_error=None)
    assert not judge_layers([*records, infinite])[6].reached
