"""The test libraries are read as they are printed, and a wrong value would be noticed."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from benchmarks import corpora
from benchmarks.cases import auto as auto_case
from benchmarks.cases.libraries import CASE, is_better, is_right, judge_listed
from benchmarks.corpora import Listed, has_quadratic_follower, to_problem
from benchmarks.methods import AUTO
from benchmarks.run import measure, plan

import bilevel as bl


def listed(**changes):
    fields = {
        "name": "own",
        "library": "none",
        "nx": 1,
        "ny": 1,
        "F": "(x[0] - 1)**2 + y[0]",
        "f": "(y[0] - x[0])**2",
        "G": ("-x[0]", "x[0] - 3"),
        "H": (),
        "g": ("-y[0]",),
        "h": (),
        "F_star": 0.75,
        "own": None,
    }
    return Listed(**fields | changes)


def value_of(problem):
    solution = bl.solve(problem, time_limit=20)
    assert solution.status is bl.Status.OPTIMAL
    return solution.leader_value


def test_a_problem_is_solved_as_printed():
    assert value_of(to_problem(listed())) == pytest.approx(0.75, abs=1e-6)


@pytest.mark.parametrize(
    ("F", "best"),
    [
        ("x[0]**3 - 3*x[0]**2 + y[0]", min(t**3 - 3 * t**2 + t for t in np.linspace(0, 3, 30001))),
        ("(x[0] - 2)**4 + y[0]/2", min((t - 2) ** 4 + t / 2 for t in np.linspace(0, 3, 30001))),
        ("-x[0]**2*y[0]**2", -81.0),
        ("x[0]*y[0]**2 - 4*y[0]", min(t**3 - 4 * t for t in np.linspace(0, 3, 30001))),
    ],
)
def test_higher_degrees_of_the_leader_become_products(F, best):
    # The follower responds with y = x in [0, 3].
    assert value_of(to_problem(listed(F=F))) == pytest.approx(best, rel=1e-5, abs=1e-5)


def test_equations_and_unused_variables():
    problem = listed(nx=2, F="y[0]", H=("x[0] - 2",), h=("y[0] - x[0] - x[1]",), G=("1 - x[1]",))
    assert value_of(to_problem(problem)) == pytest.approx(3.0, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"f": "x[0]**3*y[0]"}, True),
        ({"f": "exp(x[0])*y[0]"}, True),
        ({"f": "y[0]**3"}, False),
        ({"f": "exp(y[0])"}, False),
        ({"g": ("y[0]**2 - 1",)}, False),
    ],
)
def test_which_followers_are_quadratic(changes, expected):
    assert has_quadratic_follower(listed(**changes)) is expected


def test_what_the_library_cannot_express_is_refused_with_a_reason():
    for changes in ({"g": ("y[0]**2 - x[0]",)}, {"f": "exp(x[0])*y[0]"}):
        with pytest.raises(bl.UnsupportedProblem, match="follower"):
            to_problem(listed(**changes)).compile()


@pytest.mark.parametrize(
    ("F_star", "own", "reference"),
    [(225.0, 224.99998, 225.0), (-8.92, -8.917203, -8.917203), (3.0, None, 3.0)],
)
def test_the_more_precise_value_counts(F_star, own, reference):
    assert listed(F_star=F_star, own=own).reference == reference


def solved(value, status=bl.Status.OPTIMAL, bound=None, accepted=True):
    return SimpleNamespace(
        status=status,
        leader_value=value,
        bound=value if bound is None else bound,
        certificate=SimpleNamespace(accepted=accepted),
    )


@pytest.mark.parametrize(
    ("solution", "outcome"),
    [
        (solved(2.0), "solved"),
        (solved(2.1), "wrong"),
        (solved(1.9), "solved"),  # better than both
        (solved(1.9, accepted=False), "wrong"),
        (solved(2.0, accepted=False), "wrong"),
        (solved(2.0, bl.Status.FEASIBLE, 1.0), "unproved"),
        (solved(3.0, bl.Status.FEASIBLE, 2.5), "wrong"),
        (SimpleNamespace(status=bl.Status.INFEASIBLE), "wrong"),
        (SimpleNamespace(status=bl.Status.FAILED), "failed"),
    ],
)
def test_wrong_answers_are_noticed(solution, outcome):
    problem = listed(F_star=2.0, own=2.0)
    full = SimpleNamespace(
        **{"leader_value": None, "bound": None, "certificate": None} | vars(solution)
    )
    assert judge_listed(problem, full)[0] == outcome


def test_better_than_both_is_right_and_named():
    problem = listed(F_star=2.0, own=2.01)
    assert is_better(problem, solved(1.9))
    assert is_right(problem, solved(1.9))
    assert not is_better(problem, solved(1.9, accepted=False))
    assert not is_better(problem, solved(2.0))


def test_the_small_libraries_are_right():
    if why := corpora.missing():
        pytest.skip(why)
    jobs = [job for job in plan([CASE], "small", 1) if job.method.name == AUTO]
    found = [measure(job) for job in jobs]
    assert {one.outcome for one in found} == {"solved"}
    assert all(one.extra["right"] and one.certificate["accepted"] for one in found)


@pytest.mark.slow
def test_every_listed_problem_is_right_or_refused():
    if why := corpora.missing():
        pytest.skip(why)
    jobs = [job for job in plan([CASE], "full", 1) if job.method.name == AUTO]
    found = {job.instance.name: measure(job) for job in jobs}
    refused = {name for name, one in found.items() if one.outcome == "refused"}
    assert refused == {
        "BASBLib mb_2007_03",
        "BASBLib d_1992_01",
        "BOLIB MitsosBarton2006Ex38",
    }
    assert {one.outcome for name, one in found.items() if name not in refused} == {"solved"}
    assert len(found) == 61


def timed(method, seconds, instance="one", outcome="solved"):
    fields = {"group": "g", "instance": instance, "peer": False, "round": 0}
    return fields | {"method": method, "seconds": seconds, "outcome": outcome}


@pytest.mark.parametrize(
    ("mine", "other", "lost"),
    [(1.0, 1.0, 0), (1.19, 1.0, 0), (1.21, 1.0, 1), (0.029, 0.01, 0), (0.031, 0.01, 1)],
)
def test_auto_has_a_tolerance(mine, other, lost):
    found, count = auto_case.missed([timed(AUTO, mine), timed("other", other)])
    assert (len(found), count) == (lost, 1)


def test_auto_misses_what_only_another_method_proves():
    records = [timed(AUTO, 1.0, outcome="unproved"), timed("other", 5.0)]
    records += [timed(name, 1.0, "two", "unproved") for name in (AUTO, "other")]
    found, count = auto_case.missed(records)
    assert (list(found), count) == (["one"], 1)


def test_auto_targets_name_each_group():
    found = auto_case.CASE.judge([timed(AUTO, 1.0), timed("other", 0.1)])
    assert [target.reached for target in found] == [False, False]
    assert "other 0.10 s" in found[1].found


def test_listed_problems_are_immutable():
    problem = listed()
    assert replace(problem, name="twin").F == problem.F
    with pytest.raises(AttributeError):
        problem.name = "twin"
