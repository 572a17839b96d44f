"""The reaction map against followers that are solved again, and textbook answers."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import bilevel as bl
from bilevel import ProblemError, UnsupportedProblem
from bilevel.response.reaction_map.polygons import area


def maps(name):
    """Return a textbook problem's map with its regions from left to right."""
    found = bl.reaction(bl.instances.get(name).problem)
    assert found.is_complete
    return found, sorted(found.regions, key=lambda region: region.corners[0].tolist())


def ends(regions):
    return [sorted(region.corners.ravel().tolist()) for region in regions]


def answers(regions):
    return [(region.K.ravel().tolist(), region.k.tolist()) for region in regions]


def test_t1_is_one_region():
    found, regions = maps("T1")
    assert (len(found), ends(regions), answers(regions)) == (1, [[0.0, 1.0]], [([1.0], [0.0])])
    assert not found.kinks


def test_t2_clips_at_its_kinks():
    found, regions = maps("T2")
    assert ends(regions) == [[-np.inf, -1.0], [-1.0, 1.0], [1.0, np.inf]]
    assert answers(regions) == [([0.0], [-1.0]), ([1.0], [0.0]), ([0.0], [1.0])]
    assert [kink.corners.tolist() for kink in found.kinks] == [[[-1.0]], [[1.0]]]
    # The multiplier of y <= 1 is 2 (x - 1) to the right of the kink.
    np.testing.assert_allclose(regions[2].K_dual.ravel(), [0.0, 2.0])
    np.testing.assert_allclose(regions[2].k_dual, [0.0, -2.0])


def test_t3_projects_onto_a_triangle():
    found, regions = maps("T3")
    assert ends(regions) == [[-1.0, 0.0], [0.0, 0.5], [0.5, 2.0]]
    assert answers(regions) == [
        ([0.0, 0.0], [0.0, 0.0]),
        ([1.0, 1.0], [0.0, 0.0]),
        ([0.0, 0.0], [0.5, 0.5]),
    ]
    np.testing.assert_allclose(found([0.25]), [0.25, 0.25])


def test_t4_has_several_answers_at_one_price():
    found, regions = maps("T4")
    assert ends(regions) == [[0.0, 2.0], [2.0, 3.0]]
    assert answers(regions) == [([0.0], [1.0]), ([0.0], [0.0])]
    (tie,) = found.set_valued
    assert tie.corners.tolist() == [[2.0]]
    low, high = found.ranges([2.0])
    np.testing.assert_allclose([low[0], high[0]], [0.0, 1.0], atol=1e-7)
    low, high = found.ranges([1.0])
    assert low == high == [1.0]


def test_t6_has_the_multipliers_of_the_book():
    found, regions = maps("T6")
    assert ends(regions) == [[-2.0, -0.5], [-0.5, 2.0]]
    assert answers(regions) == [([-1.0], [0.0]), ([1.0], [1.0])]
    np.testing.assert_allclose(regions[1].K_dual.ravel(), [2.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(regions[1].k_dual, [1.0, 0.0], atol=1e-12)


def test_t8_survives_a_duplicated_constraint():
    found, regions = maps("T8")
    assert ends(regions) == [[-np.inf, np.inf]]
    assert answers(regions) == [([1.0], [0.0])]
    assert regions[0].K_dual is None, "the multipliers are not unique"


def test_t8b_is_a_point_and_t19_has_no_parameter():
    found, regions = maps("T8b")
    assert ends(regions) == [[0.3]]
    assert found([0.3]).tolist() == [0.0]
    found, regions = maps("T19")
    assert len(found) == 1
    assert found.set_valued == found.regions
    assert found([]).sum() == pytest.approx(2.0, abs=1e-7)


def test_t9_is_affine_between_its_bounds():
    found, regions = maps("T9")
    assert ends(regions) == [[1.0, 4.0]]
    np.testing.assert_allclose(found([3.0]), [3.25, 0.75])
    np.testing.assert_allclose(regions[0].k_dual, [2.0, 0.0, 1.0], atol=1e-9)


def test_t16_is_the_demand():
    found, regions = maps("T16")
    assert ends(regions) == [[0.0, 10.0]]
    assert answers(regions) == [([-0.5], [5.0])]


def test_projection_onto_a_triangle_from_the_plane_has_seven_regions():
    x, y = cp.Variable(2, name="x"), cp.Variable(2, name="y")
    follower = bl.Follower(
        cp.Minimize(cp.sum_squares(y - x)), [y >= 0, cp.sum(y) <= 1], variables=[y]
    )
    problem = bl.Problem(cp.Minimize(cp.sum(x)), [x >= -1, x <= 2], followers=[follower])
    found = bl.reaction(problem)
    assert found.is_complete
    assert len(found) == 7  # inside, three sides, three corners
    assert sum(area(region.corners) for region in found.regions) == pytest.approx(9.0)
    assert len(found.kinks) == 9
    inside = next(region for region in found.regions if area(region.corners) < 0.6)
    assert area(inside.corners) == pytest.approx(0.5)
    np.testing.assert_allclose(inside.K, np.eye(2), atol=1e-9)
    np.testing.assert_allclose(found([2.0, 2.0]), [0.5, 0.5], atol=1e-9)


def test_two_followers_are_one_map():
    x = cp.Variable(2, name="x")
    a, b = cp.Variable(name="a"), cp.Variable(name="b")
    first = bl.Follower(cp.Minimize(cp.square(a - x[0])), [a <= 1], variables=[a], name="one")
    second = bl.Follower(cp.Maximize(b), [b <= x[1], b <= 2], variables=[b], name="two")
    problem = bl.Problem(cp.Minimize(a + b), [x >= 0, x <= 4], followers=[first, second])
    found = bl.reaction(problem)
    assert len(found) == 4
    assert found.responses == ("a", "b")
    np.testing.assert_allclose(found([3.0, 1.5]), [1.0, 1.5], atol=1e-9)


def test_several_answers_on_a_whole_region():
    x, y = cp.Variable(name="x"), cp.Variable(2, name="y")
    rows = [y >= 0, y <= 1, cp.sum(y) >= x]
    follower = bl.Follower(cp.Minimize(cp.sum(y)), rows, variables=[y])
    problem = bl.Problem(cp.Minimize(x), [x >= 0.5, x <= 1.5], followers=[follower])
    found = bl.reaction(problem)
    assert {region.is_unique for region in found.regions} == {False}
    low, high = found.ranges([0.75])
    np.testing.assert_allclose([low, high], [[0.0, 0.0], [0.75, 0.75]], atol=1e-7)
    assert found([0.75]).sum() == pytest.approx(0.75)


def random_follower(seed, d, quadratic):
    """Return data of a follower that is feasible and bounded on the box."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    A = np.vstack([rng.integers(-2, 3, (m, n)), np.eye(n), -np.eye(n)]).astype(float)
    B = np.vstack([rng.integers(-2, 3, (m, d)), np.zeros((2 * n, d))]).astype(float)
    b = np.concatenate([rng.integers(1, 6, m), np.full(2 * n, 3.0)])
    if rng.random() < 0.3:
        A, B, b = np.vstack([A, A[:1]]), np.vstack([B, B[:1]]), np.append(b, b[:1])
    root = rng.integers(-2, 3, (n, int(rng.integers(1, n + 1)))) * quadratic
    D = rng.integers(-2, 3, (n, d)) * float(rng.random() < 0.6)
    return root @ root.T.astype(float), rng.integers(-3, 4, n).astype(float), D, A, B, b


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 2), st.booleans())
def test_random_maps_against_followers_solved_again(seed, d, quadratic):
    Q, c, D, A, B, b = random_follower(seed, d, quadratic)
    x, y = cp.Variable(d, name="x"), cp.Variable(len(c), name="y")
    cost = 0.5 * cp.quad_form(y, cp.psd_wrap(Q)) + (c + D @ x) @ y
    follower = bl.Follower(cp.Minimize(cost), [A @ y + B @ x <= b], variables=[y])
    problem = bl.Problem(cp.Minimize(cp.sum(x)), [x >= -2, x <= 2], followers=[follower])
    found = bl.reaction(problem)
    assume(len(found.parameters) == d)
    assert found.is_complete
    rng, inside = np.random.default_rng(seed), 0
    for theta in rng.uniform(-2, 2, (12, d)):
        exists = linprog(0 * c, A, b - B @ theta, bounds=(None, None)).status == 0
        if not exists:
            with pytest.raises(ProblemError, match="outside the domain"):
                found(theta)
            continue
        inside += 1
        value = found(theta)
        assert (A @ value + B @ theta <= b + 1e-7).all()
        program = cp.Problem(
            cp.Minimize(0.5 * cp.quad_form(y, cp.psd_wrap(Q)) + (c + D @ theta) @ y),
            [A @ y + B @ theta <= b],
        )
        program.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-11)
        ours = 0.5 * value @ Q @ value + (c + D @ theta) @ value
        assert ours == pytest.approx(program.value, abs=1e-6)
        low, high = found.ranges(theta)
        assert (low <= y.value + 1e-4).all()
        assert (y.value <= high + 1e-4).all()
        if (high - low).max() < 1e-9:
            np.testing.assert_allclose(value, y.value, atol=1e-4)


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_ranges_are_those_of_linear_programs(seed):
    _, c, D, A, B, b = random_follower(seed, 1, False)
    c, D = np.sign(c) * (abs(c) > 1), 0 * D
    x, y = cp.Variable(1, name="x"), cp.Variable(len(c), name="y")
    follower = bl.Follower(cp.Minimize(c @ y), [A @ y + B @ x <= b], variables=[y])
    problem = bl.Problem(cp.Minimize(cp.sum(x)), [x >= 0, x <= 0.5], followers=[follower])
    found = bl.reaction(problem)
    for part in (*found.regions, *found.boundary):
        theta = part.corners.mean(axis=0)
        if theta.size == 0:
            continue  # no row contains x: there is nothing to react to
        best = linprog(c, A, b - B @ theta, bounds=(None, None))
        rows, sides = np.vstack([A, c]), np.append(b - B @ theta, best.fun + 1e-10)
        low, high = found.ranges(theta)
        for i, unit in enumerate(np.eye(len(c))):
            least = linprog(unit, rows, sides, bounds=(None, None)).fun
            most = -linprog(-unit, rows, sides, bounds=(None, None)).fun
            assert [low[i], high[i]] == pytest.approx([least, most], abs=1e-5)


class TestBadInput:
    """What has no reaction map is refused with the reason and a way out."""

    def test_too_many_parameters(self):
        x, y = cp.Variable(3, name="x"), cp.Variable(name="y")
        follower = bl.Follower(cp.Minimize(cp.square(y - cp.sum(x))), [], variables=[y])
        problem = bl.Problem(cp.Minimize(y), [x >= 0, x <= 1], followers=[follower])
        with pytest.raises(UnsupportedProblem, match=r"3 columns.*x\[0\].*SingleLevel"):
            bl.reaction(problem)
        with pytest.raises(UnsupportedProblem, match="WorstCase"):
            bl.solve(problem.replace(stance="pessimistic"), bl.Substitution())

    def test_integer_parameter(self):
        x, y = cp.Variable(name="x", integer=True), cp.Variable(name="y")
        follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
        problem = bl.Problem(cp.Minimize(x), [x >= 0, x <= 1], followers=[follower])
        with pytest.raises(UnsupportedProblem, match="x is integer"):
            bl.reaction(problem)

    def test_integer_follower(self):
        x, y = cp.Variable(name="x"), cp.Variable(name="y", integer=True)
        follower = bl.Follower(cp.Minimize(y), [y >= x, y <= 5], variables=[y], name="maker")
        problem = bl.Problem(cp.Minimize(x), [x >= 0, x <= 1], followers=[follower])
        with pytest.raises(UnsupportedProblem, match="'maker' decides the integer variable y"):
            bl.reaction(problem)
        with pytest.raises(UnsupportedProblem, match="'maker' decides the integer variable y"):
            bl.solve(problem, bl.Substitution())

    def test_conic_follower(self):
        x, y = cp.Variable(name="x"), cp.Variable(2, name="y")
        rows = [cp.norm(y) <= 1]
        follower = bl.Follower(cp.Minimize(y[0] + x * y[1]), rows, variables=[y], name="maker")
        problem = bl.Problem(cp.Minimize(x), [x >= 0, x <= 1], followers=[follower])
        with pytest.raises(UnsupportedProblem, match=r"'maker' has cones.*use Continuation\(\)"):
            bl.reaction(problem)
        with pytest.raises(UnsupportedProblem, match="'maker' has cones"):
            bl.solve(problem, bl.Substitution())
        with pytest.raises(UnsupportedProblem, match="optimistic problems only"):
            bl.solve(problem.replace(stance="pessimistic"), bl.Substitution())

    def test_products_in_a_row(self):
        x, y = cp.Variable(name="x"), cp.Variable(name="y")
        follower = bl.Follower(cp.Minimize(y), [x * y >= 1, y >= 0], variables=[y], name="maker")
        problem = bl.Problem(cp.Minimize(x), [x >= 1, x <= 2], followers=[follower])
        with pytest.raises(UnsupportedProblem, match="'maker' contains a product"):
            bl.reaction(problem)

    def test_leader_scales_the_curvature(self):
        x, y = cp.Variable(name="x"), cp.Variable(name="y")
        follower = bl.Follower(cp.Minimize(x * cp.square(y) - y), [], variables=[y], name="maker")
        problem = bl.Problem(cp.Minimize(x), [x >= 1, x <= 2], followers=[follower])
        with pytest.raises(UnsupportedProblem, match="scales the quadratic term"):
            bl.reaction(problem)

    def test_unbounded_plane(self):
        x, y = cp.Variable(2, name="x"), cp.Variable(name="y")
        follower = bl.Follower(cp.Minimize(cp.square(y - cp.sum(x))), [], variables=[y])
        problem = bl.Problem(cp.Minimize(y), [x >= 0], followers=[follower])
        with pytest.raises(UnsupportedProblem, match=r"nothing bounds x\[0\], x\[1\]"):
            bl.reaction(problem)

    def test_empty_domain(self):
        x, y = cp.Variable(name="x"), cp.Variable(name="y")
        follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
        problem = bl.Problem(cp.Minimize(x), [x >= 1, x <= 0], followers=[follower])
        with pytest.raises(ProblemError, match="map is empty"):
            bl.reaction(problem)

    def test_wrong_parameters_and_types(self):
        found = bl.reaction(bl.instances.get("T1").problem)
        with pytest.raises(ProblemError, match="outside the domain"):
            found([2.0])
        for wrong in ([0.5, 0.5], [np.nan], []):
            with pytest.raises(ProblemError, match="needs 1 finite"):
                found(wrong)
        with pytest.raises(ProblemError, match=r"must be a bilevel\.Problem"):
            bl.reaction("T1")


def test_a_map_cut_off_by_the_clock_says_so():
    found = bl.reaction(bl.instances.get("T2").problem, time_limit=1e-9)
    assert not found.is_complete
    assert "INCOMPLETE" in found.summary()


def test_scales_of_parameters_do_not_matter():
    x, y = cp.Variable(2, name="x"), cp.Variable(2, name="y")
    target = cp.hstack([x[0] * 1e-4, x[1] * 1e3])
    follower = bl.Follower(
        cp.Minimize(cp.sum_squares(y - target)), [y >= 0, cp.sum(y) <= 1], variables=[y]
    )
    box = [x >= np.array([-1e4, -1e-3]), x <= np.array([2e4, 2e-3])]
    found = bl.reaction(bl.Problem(cp.Minimize(cp.sum(x)), box, followers=[follower]))
    assert found.is_complete
    assert len(found) == 7


def test_a_wide_domain_is_never_called_complete():
    """A region of width one is thinner than 1e-7 of the domain, and the best point lies in it."""
    x, w = cp.Variable(name="x"), cp.Variable(name="w")
    follower = bl.Follower(cp.Minimize(cp.square(w - x)), [w >= 0, w <= 1], [w])
    leader = cp.Minimize(cp.square(w - 0.5) + 0 * x)
    problem = bl.Problem(leader, [x >= -1e7, x <= 1e7], [follower])
    assert not bl.reaction(problem).is_complete
    solution = bl.solve(problem, bl.Substitution(), throw=False)
    assert solution.status is not bl.Status.OPTIMAL
