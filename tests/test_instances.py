"""The known answers of the textbook instances, against brute force that solves nothing.

Every level is evaluated on a grid that contains the points in question; the followers' best
responses are the grid points with the best value, and both stances are read off them.
"""

import itertools
from fractions import Fraction

import cvxpy as cp
import numpy as np
import pytest
from scipy.optimize import linprog

from bilevel import Auto, ProblemError, Stance, Status, instances
from bilevel.errors import UnsupportedProblem

EXACT = 1e-9
ROOT_HALF = np.sqrt(0.5)


def line(first, last, step):
    """Return multiples of a step, computed so that 4/3 on the grid is the 4/3 of an answer."""
    step = Fraction(step)
    return [float(i * step) for i in range(int(first / step), int(last / step) + 1)]


# For every name the grid of each entry. Multipliers of all of a follower's constraints are listed
# where the leader uses one.
WELL = {"x": [line(-1, 1, "1/4")], "y": [[*line(-2, 2, "1/100"), -ROOT_HALF, ROOT_HALF]]}
SUPPLY = {"x": [line(1, 4, "1/2")], "y": [line(0, 5, "1/8"), line(0, 2, "1/8")]}
CELL = {"k": [[0, 1]], "uptake": [line(0, 10, 1)], "r1": [line(0, 10, 1)], "r2": [line(0, 10, 1)]}
PRICED = {"dual[y.c0]": [line(0, 5, "1/2")], "dual[y.c1]": [line(0, 5, "1/2")]}
GRIDS = {
    "T1": {"x": [line(0, 1, "1/8")], "y": [line(-1, 2, "1/8")]},
    "T2": {"x": [line(-4, 4, "1/8")], "y": [line(-1, 1, "1/8")]},
    "T2b": {"x": [line(-4, 4, "1/8")], "y": [line(-1, 1, "1/8")]},
    "T3": {"x": [line(-1, 2, "1/8")], "y": [line(0, 1, "1/8")] * 2},
    "T4": {"x": [line(0, 3, "1/8")], "y": [line(0, 1, "1/8")]},
    "T5": {"x": [line(-1, 1, "1/8")], "b": [[0, 1]], "y": [line(-1, 1, "1/2")]},
    "T6": {"x": [line(-2, 2, "1/4")], "y": [line(0, 3, "1/4")], **PRICED},
    "T6b": {"x": [line(-2, 2, "1/4")], "y": [line(0, 3, "1/4")], **PRICED},
    "T7": WELL,
    "T7b": WELL,
    "T8": {"x": [line(-1, 2, "1/4")], "y": [line(-1, 2, "1/4")]}
    | {"dual[y.c0]": [line(0, 2, "1/8")], "dual[y.c1]": [line(0, 2, "1/8")]},
    "T8b": {"x": [[0.3]], "y": [line(-1, 1, "1/8")]}
    | {"dual[y.c0]": [[0.3, 1.3, 10.3, 1000.3]], "dual[y.c1]": [[0, 1, 10, 1000]]},
    "T9": SUPPLY,
    "T9b": SUPPLY,
    "T14": CELL,
    "T14b": CELL,
    "T14c": CELL,
    "T16": {"x": [line(0, 10, "1/4")], "y": [line(0, 6, "1/8")]},
    "T19": {"u": [line(-2, 4, "1/3")] * 2},
    "T22": {"x": [line(0, 1, "1/8")], "y": [line(-1, 2, "1/8")]},
    "T22b": {"x": [line(0, 1, "1/8")], "y": [line(-1, 2, "1/8")]},
}
ANSWERED = [
    pytest.param(instance, stance, id=f"{instance.name}-{stance.value}")
    for instance in instances.all_instances()
    for stance in Stance
    if instance.answer(stance) is not None and instance.answer(stance).status is Status.OPTIMAL
]


class Sampled:
    """A CVXPY expression as a function of many points, known from single evaluations only."""

    def __init__(self, expression, columns):
        self.expression = expression
        self.variables = expression.variables()
        names = [v.name() for v in self.variables]
        self.own = np.array([i for name in names for i in columns[name]], int)
        one = np.eye(len(self.own))
        self.c = self.at(0 * one.sum(axis=0))
        up, down = (np.array([self.at(sign * e) for e in one]) for sign in (1, -1))
        self.g = ((up - down) / 2).reshape(len(one), len(self.c))
        self.H = np.array([[self.at(e + d) for d in one] for e in one])
        self.H = self.H.reshape(len(one), len(one), len(self.c)) + self.c
        self.H -= up.reshape(self.g.shape)[:, None] + up.reshape(self.g.shape)[None, :]
        probe = np.linspace(0.3, 0.7, len(one))
        self.is_quadratic = np.allclose(self.quadratic(probe[None]), self.at(probe), atol=EXACT)

    def at(self, point):
        """Evaluate at one point of the expression's own variables."""
        first = 0
        for variable in self.variables:
            part = point[first : first + variable.size]
            # Unlike the setter of value, this lets a boolean variable be any number.
            variable.save_value(np.reshape(part, variable.shape, order="F"))
            first += variable.size
        return np.ravel(self.expression.value, order="F").astype(float)

    def quadratic(self, own):
        """Evaluate the quadratic function that agrees at the sampled points."""
        return self.c + own @ self.g + np.einsum("pi,pj,ijk->pk", own, own, self.H) / 2

    def __call__(self, points):
        own = points[:, self.own]
        if self.is_quadratic:
            return self.quadratic(own)
        distinct, where = np.unique(own, axis=0, return_inverse=True)
        return np.array([self.at(point) for point in distinct])[where.ravel()]

    def gradient(self, points, column):
        """Return the derivative by one column, one row per point."""
        entry = np.flatnonzero(self.own == column)
        if not len(entry):
            return np.zeros((len(points), len(self.c)))
        return self.g[entry[0]] + np.einsum("pj,jk->pk", points[:, self.own], self.H[entry[0]])


class Table:
    """All combinations of grid values, and which of them are best responses of the follower."""

    def __init__(self, problem, grids):
        (follower,) = problem.followers
        self.columns, entries = {}, []
        for name, grid in grids.items():
            self.columns[name] = np.arange(len(entries), len(entries) + len(grid))
            entries += grid
        self.points = np.array(list(itertools.product(*entries)), float)
        leading = [i for v in problem.variables for i in self.columns[v.name()]]
        _, self.decision = np.unique(self.points[:, leading], axis=0, return_inverse=True)
        self.decision = self.decision.ravel()
        self.follower = follower
        sign, value = self.minimized(follower.objective)
        self.answers = self.within(follower.constraints)
        best = self.over_decisions(np.minimum, value, self.answers, np.inf)
        self.answers &= value <= best + EXACT
        self.columns[follower.value.name()] = np.array([self.points.shape[1]])
        self.points = np.column_stack([self.points, sign * value])
        if any(name.startswith("dual") for name in grids):
            self.answers &= self.has_multipliers()
        self.sign, self.F = self.minimized(problem.objective)
        self.answers &= self.within(problem.constraints)
        parts = [problem.objective, *problem.constraints, follower.objective]
        parts += follower.constraints
        used = {v.name() for part in parts for v in part.variables()}
        self.names = [name for name in self.columns if name in used]

    def minimized(self, objective):
        """Return the sign of a sense, and the objective to minimize at all points."""
        sign = 1 if isinstance(objective, cp.Minimize) else -1
        return sign, sign * Sampled(objective.args[0], self.columns)(self.points)[:, 0]

    def within(self, constraints):
        """Return which points satisfy constraints."""
        ok = np.ones(len(self.points), bool)
        for constraint in constraints:
            rows = Sampled(constraint.expr, self.columns)(self.points)
            violation = abs(rows) if isinstance(constraint, cp.constraints.Equality) else rows
            ok &= (violation <= EXACT).all(axis=1)
        return ok

    def has_multipliers(self):
        """Return which points carry multipliers that satisfy the optimality conditions."""
        sampled = Sampled(self.follower.objective.args[0], self.columns)
        (y,) = self.columns[self.follower.variables[0].name()]
        slope, ok = sampled.gradient(self.points, y)[:, 0], True
        for number, constraint in enumerate(self.follower.constraints):
            lam = self.points[:, self.columns[f"dual[y.c{number}]"][0]]
            row = Sampled(constraint.expr, self.columns)
            slope = slope + lam * row.gradient(self.points, y)[:, 0]
            ok &= abs(lam * row(self.points)[:, 0]) <= EXACT
        return ok & (abs(slope) <= EXACT)

    def over_decisions(self, ufunc, values, mask, empty):
        """Return for each point the extreme of values over the points with its decision."""
        result = np.full(self.decision.max() + 1, empty)
        ufunc.at(result, self.decision[mask], values[mask])
        return result[self.decision]

    def optima(self, stance):
        """Return the leader's best value under a stance, and which points attain it."""
        if stance is Stance.OPTIMISTIC:
            value = np.where(self.answers, self.F, np.inf)
        else:
            worst = self.over_decisions(np.maximum, self.F, self.answers, -np.inf)
            value = np.where(self.answers & (worst - EXACT <= self.F), worst, np.inf)
        best = value.min()
        return self.sign * best, value <= best + EXACT

    def common(self, mask):
        """Return by name what is the same at all chosen points."""
        found = {}
        for name in self.names:
            part = self.points[mask][:, self.columns[name]]
            if np.ptp(part, axis=0).max() <= EXACT:
                found[name] = part[0]
        return found

    def where(self, **values):
        """Return which best responses have given values."""
        mask = self.answers.copy()
        for name, value in values.items():
            mask &= self[name] == value
        return mask

    def __getitem__(self, name):
        return self.points[:, self.columns[name][0]]


def table(name, **changes):
    """Return the table of an instance, with some of its grids changed."""
    return Table(instances.get(name).problem, GRIDS[name] | changes)


def reduced(name):
    """Return the leader's optimistic value by its decision x."""
    t = table(name)
    best = t.over_decisions(np.minimum, t.F, t.answers, np.inf)
    return dict(zip(t["x"], best, strict=True))


# ------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize(("instance", "stance"), ANSWERED)
def test_brute_force_finds_the_known_answer(instance, stance):
    known = instance.answer(stance)
    found = table(instance.name)
    value, mask = found.optima(stance)
    assert value == pytest.approx(known.value, abs=EXACT)
    common = found.common(mask)
    assert set(common) == set(known.point)
    for name, expected in known.point.items():
        np.testing.assert_allclose(common[name], np.ravel(expected), atol=EXACT)
    assert known.unique == (np.count_nonzero(mask) == 1)


def test_pessimistic_price_is_approached_and_not_attained():
    known = instances.get("T4").pessimistic
    assert known.status is Status.NOT_ATTAINED
    for step in ("1/8", "1/64", "1/512"):
        found = table("T4", x=[line(0, 3, step)])
        value, mask = found.optima(Stance.PESSIMISTIC)
        assert value == pytest.approx(known.value - float(Fraction(step)), abs=EXACT)
        assert found["x"][mask].max() < 2
        assert found.F[found.where(x=2)].max() == 0


def test_multipliers_make_the_leader_unbounded():
    assert instances.get("T8b").optimistic.status is Status.UNBOUNDED
    found = table("T8b")
    earned = -found.F[found.answers]
    np.testing.assert_allclose(np.sort(earned), [0.3, 1.3, 10.3, 1000.3])


def test_worst_answer_to_priorities_has_no_bound():
    worst = []
    for width in (4, 40):
        found = table("T19", u=[line(-width, width, "1/3")] * 2)
        worst.append(found.F[found.answers].max())
    assert worst[1] > 50 * worst[0]


# -------------------------------------------------------------------------------------- notes


def test_reduced_objective_is_not_convex():
    F = reduced("T2")
    assert (F[0], F[2], F[1]) == (5, 4, 5)
    assert F[0.5] == 4.5 == min(value for x, value in F.items() if x <= 1)
    assert F[0.875] < F[1] > F[1.125]


def test_projection_onto_the_triangle():
    found = table("T3")
    for x, *y in found.points[found.answers][:, :3]:
        np.testing.assert_allclose(y, [min(max(x, 0), 0.5)] * 2, atol=EXACT)
    F = reduced("T3")
    assert F[-1] == -1 < F[-0.875]


def test_reaction_and_multipliers_of_the_quadratic_follower():
    found = table("T6")
    x, y, lam, other = found.points[found.answers][:, :4].T
    np.testing.assert_allclose(np.sort(x), line(-2, 2, "1/4"))
    np.testing.assert_allclose(y, np.maximum(-x, x + 1))
    np.testing.assert_allclose(lam, np.maximum(0, 2 * x + 1))
    np.testing.assert_allclose(other, 0)


def test_multiplier_beyond_a_small_bound():
    found = table("T6b")
    assert found["dual[y.c0]"][found.where(x=2, y=3)] == [5]
    cut = found.answers & (found["dual[y.c0]"] <= 1)
    assert found.F[cut].min() == 8
    assert found.F[found.where(x=0, y=1)] == [8]


@pytest.mark.parametrize(("name", "is_minimum"), [("T7", False), ("T7b", True)])
def test_spurious_point_of_the_nonconvex_follower(name, is_minimum):
    problem = instances.get(name).problem
    f = Sampled(problem.followers[0].objective.args[0], {"y": [0]})
    at, near, best = (f.at(np.array([y]))[0] for y in (0, 0.01, ROOT_HALF))
    assert f.at(np.array([-0.01]))[0] == near
    assert abs(near - at) < 2e-4
    assert (near > at) == is_minimum
    assert best == pytest.approx(-1 / 240 if is_minimum else -0.25)
    assert Sampled(problem.objective.args[0], {"x": [0], "y": [1]}).at(np.zeros(2)) == [0]


def test_duplicate_multipliers_are_bounded_by_their_sum():
    found = table("T8")
    both = found["dual[y.c0]"] + found["dual[y.c1]"]
    np.testing.assert_allclose(both[found.answers], 1)
    assert np.unique(found["dual[y.c0]"][found.answers]).tolist() == line(0, 1, "1/8")


def test_value_of_the_supplier_and_the_dual_that_must_not_be_minimized():
    found = table("T9")
    value = found["value[supplier]"]
    np.testing.assert_allclose(value[found.answers], (2 + 2.25 * found["x"])[found.answers])
    cost, A, b = [2, 3], np.array([[1, 1], [1, 0], [0, 1]]), np.array([2, 0, 0.25])
    primal = linprog(cost, -A, -b, bounds=(None, None))
    np.testing.assert_allclose(-primal.ineqlin.marginals, [2, 0, 1])
    assert primal.fun == pytest.approx(4.25)
    assert linprog(b, A_eq=A.T, b_eq=cost).fun == pytest.approx(0.75)
    assert linprog([-c for c in cost], -A, -b, bounds=(None, None)).status == 3


@pytest.mark.parametrize(
    ("name", "without", "with_knockout"),
    [("T14", (0, 10), (10, 10)), ("T14b", (10, 10), (10, 10)), ("T14c", (0, 0), (5, 5))],
)
def test_product_of_the_cell(name, without, with_knockout):
    found = table(name)
    for k, expected in ((0, without), (1, with_knockout)):
        product = found["r2"][found.where(k=k)]
        assert (product.min(), product.max()) == expected


@pytest.mark.parametrize("k", [0, 1])
def test_largest_growth_is_the_same_with_and_without_the_knockout(k):
    found = table("T14b")
    assert found["value[cell]"][found.where(k=k)] == [10]


def test_weighted_priorities_miss_the_answer():
    rho = 1e4
    u = np.linalg.solve(2 * rho * np.ones((2, 2)) + np.diag([2, 4]), [4 * rho, 4 * rho])
    assert rho * (4 / 3 - u[0]) == pytest.approx(0.889, abs=1e-3)


# ------------------------------------------------------------------------------------ records


@pytest.mark.parametrize("instance", instances.all_instances(), ids=lambda instance: instance.name)
def test_instance_is_accepted_or_refused_as_it_says(instance):
    assert set(instance.optimistic.point) <= {
        *(v.name() for v in instance.problem.variables),
        *(v.name() for f in instance.problem.followers for v in f.variables),
        *("dual[y.c0]", "value[supplier]"),
    }
    if instance.solvable:
        assert instance.problem.compile().n > 0
    else:
        with pytest.raises(UnsupportedProblem, match="follower"):
            Auto().choose(instance.problem)


def test_problems_share_no_variables():
    first, second = instances.get("T9").problem, instances.get("T9").problem
    assert {v.id for v in first.variables}.isdisjoint(v.id for v in second.variables)


def test_instances_are_found_by_name():
    assert instances.names() == tuple(GRIDS)
    assert instances.get("T14c") in instances.all_instances()


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ProblemError, match=r"'T3b'.*'T14c'"):
        instances.get("T3b")


def test_answers_cannot_be_changed():
    with pytest.raises(TypeError):
        instances.get("T1").optimistic.point["x"] = 1.0
