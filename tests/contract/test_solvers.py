"""Every solver of the registry on every textbook instance: claims, values, evidence, no memory."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.registry import SOLVERS, rows

import bilevel as bl
from bilevel import Stance, Status, UnsupportedProblem

KNOWN = [
    pytest.param(instance, stance, id=f"{instance.name}-{stance.value}")
    for instance in bl.instances.all_instances()
    for stance in Stance
    if instance.solvable and instance.answer(stance) is not None
]
UNSOLVABLE = [i for i in bl.instances.all_instances() if not i.solvable]


def solved(row, problem):
    """Solve, or return ``None`` after checking that the refusal was to be expected."""
    solver = row.build()
    reasons = solver.accepts(problem.compile())
    try:
        limit = 2.0 if row.struggles & problem.structure else 60.0
        solution = bl.solve(problem, solver, throw=False, time_limit=limit)
    except UnsupportedProblem as refusal:
        assert row.must_refuse(problem) or row.may_refuse, f"{row.name} refused: {refusal}"
        assert refusal.reasons
        assert all(len(reason.split()) > 3 for reason in refusal.reasons)
        return None
    assert not row.must_refuse(problem), f"{row.name} should have refused"
    assert not reasons, "accepted by solve although accepts() names reasons"
    return solution


def known_value(problem, name, solution):
    """Return the value of a variable, a multiplier or a follower's value by its name."""
    for follower in problem.followers:
        if name == follower.value.name():
            return solution.follower_values[follower.name]
    return solution[name]


def check(row, problem, answer, solution):
    """Compare a solution with the known answer."""
    maximizes = type(problem.objective).__name__ == "Maximize"
    if answer.status is Status.UNBOUNDED:
        assert solution.status is Status.UNBOUNDED or not row.exact
        return
    room = row.tolerance * max(1.0, abs(answer.value))
    if solution.bound is not None:
        ahead = solution.bound - answer.value if maximizes else answer.value - solution.bound
        assert ahead >= -room, f"the bound {solution.bound} cuts off {answer.value}"
    assert solution.certificate.accepted, solution.summary()
    if answer.status is Status.NOT_ATTAINED:
        assert solution.status is Status.NOT_ATTAINED
        assert solution.bound == pytest.approx(answer.value, abs=1e-4)
        assert solution.leader_value == pytest.approx(answer.value, abs=1e-2)
        return
    proves = row.proves and not row.struggles & problem.structure
    allowed = {Status.OPTIMAL} if proves else {Status.OPTIMAL, Status.FEASIBLE}
    if not row.exact:
        allowed = {Status.STATIONARY} if row.local else {Status.FEASIBLE}
        assert solution.bound is None, (
            "neither an M from the user nor a local method proves a bound"
        )
    assert solution.status in allowed, solution.summary()
    assert solution.leader_value == pytest.approx(answer.value, abs=room)
    if answer.unique:
        for name, expected in answer.point.items():
            found = known_value(problem, name, solution)
            # A value within r of the optimum leaves sqrt(r) to the point of a curved problem.
            np.testing.assert_allclose(found, expected, atol=max(1e-3, 10 * room))


@pytest.mark.parametrize(("instance", "stance"), KNOWN)
@pytest.mark.parametrize("row", rows(SOLVERS))
def test_answer_status_and_certificate(row, instance, stance):
    problem = instance.problem.replace(stance=stance)
    first = solved(row, problem)
    if first is None:
        return
    check(row, problem, instance.answer(stance), first)
    # The same objects again: what was stored in the variables must not matter.
    for variable in problem.variables:
        variable.save_value(np.full(variable.shape, -7.0))
    if row.struggles & problem.structure:
        return  # where the clock stops it, two runs may differ
    second = solved(row, problem)
    assert (second.status, second.leader_value, second.bound) == (
        first.status,
        first.leader_value,
        first.bound,
    )
    for key, value in first.values.items():
        np.testing.assert_array_equal(second.values[key], value)


@pytest.mark.parametrize("instance", UNSOLVABLE, ids=lambda instance: instance.name)
@pytest.mark.parametrize("row", rows(SOLVERS))
def test_what_nobody_solves_is_refused(row, instance):
    for stance in row.stances:
        with pytest.raises(UnsupportedProblem, match="follower") as refusal:
            bl.solve(instance.problem.replace(stance=stance), row.build())
        assert refusal.value.reasons


@pytest.mark.parametrize("row", rows(SOLVERS))
def test_the_other_stance_is_refused_with_the_method_that_takes_it(row):
    for stance in set(Stance) - row.stances:
        problem = bl.instances.get("T14").problem.replace(stance=stance)
        with pytest.raises(UnsupportedProblem, match=r"pessimistic|optimistic"):
            bl.solve(problem, row.build())


@pytest.mark.parametrize("row", rows(SOLVERS))
def test_two_threads_share_solver_and_problems(row):
    """The same objects in two threads give what they gave one after the other."""
    solver, cases = row.build(), []
    for name in ("T1", "T2", "T6b", "T9", "T14", "T16"):
        for stance in row.stances:
            problem = bl.instances.get(name).problem.replace(stance=stance)
            if row.struggles & problem.structure:
                continue
            try:
                cases.append((problem, bl.solve(problem, solver)))
            except UnsupportedProblem:
                continue
    assert cases
    barrier = threading.Barrier(2)

    def run(_):
        barrier.wait()
        return [bl.solve(problem, solver) for problem, _ in cases]

    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(run, range(2)):
            for (_, alone), together in zip(cases, found, strict=True):
                assert together.status is alone.status
                assert together.leader_value == alone.leader_value
                for key, value in alone.values.items():
                    np.testing.assert_array_equal(together.values[key], value)


@pytest.mark.parametrize("row", rows(SOLVERS))
def test_a_solver_writes_nothing_into_the_problem(row):
    for name in ("T2", "T9", "T14"):
        for stance in row.stances:
            problem = bl.instances.get(name).problem.replace(stance=stance)
            before = picture(problem.compile())
            try:
                bl.solve(problem, row.build())
            except UnsupportedProblem:
                continue
            after = picture(problem.compile())
            assert before.keys() == after.keys()
            for key, value in before.items():
                np.testing.assert_array_equal(after[key], value)


def picture(form):
    """Return copies of all arrays of a compiled problem."""
    parts = {"lower": form.columns.lower, "upper": form.columns.upper, "leader": form.objective.c}
    parts["leader P"], parts["rows"] = form.objective.P.toarray(), form.rows.A.toarray()
    for k, follower in enumerate(form.followers):
        parts[f"f{k}"], parts[f"b{k}"] = follower.objective.c, follower.rows.b
        parts[f"A{k}"], parts[f"P{k}"] = follower.rows.A.toarray(), follower.objective.P.toarray()
        parts[f"products{k}"] = follower.rows.products.value
    return {key: np.array(value) for key, value in parts.items()}


@pytest.mark.backend("scip")
@pytest.mark.parametrize(("instance", "stance"), KNOWN)
def test_auto_says_what_it_would_use_and_uses_it(instance, stance):
    problem = instance.problem.replace(stance=stance)
    try:
        choice = bl.Auto().choose(problem)
    except UnsupportedProblem as refusal:
        assert stance is Stance.PESSIMISTIC
        assert refusal.reasons
        return
    assert choice.reason
    assert not choice.solver.accepts(problem.compile())
    solution = bl.solve(problem, throw=False)
    assert solution.stats.method == repr(choice.solver)
    assert solution.stats.reason == choice.reason


@pytest.mark.backend("scip")
@pytest.mark.parametrize(("instance", "stance"), KNOWN)
def test_solution_and_variables_tell_the_same(instance, stance):
    problem = instance.problem.replace(stance=stance)
    try:
        solution = bl.solve(problem, throw=False)
    except UnsupportedProblem:
        return
    if not solution.status.has_point:
        assert solution.leader_value is None
        assert solution.certificate is None
        assert not solution.values
        return
    assert float(problem.objective.value) == pytest.approx(solution.leader_value, abs=1e-9)
    for follower in problem.followers:
        assert float(follower.objective.value) == pytest.approx(
            solution.follower_values[follower.name], abs=1e-9
        )
        for variable in follower.variables:
            assert solution[variable].shape == variable.shape
            np.testing.assert_array_equal(solution[variable], variable.value)
    assert solution.certificate.leader_value == solution.leader_value
    plain = solution.to_dict()
    assert plain["status"] == solution.status.name
    assert solution.status.name in solution.summary()
    again = bl.verify(problem, solution)
    assert again.accepted
