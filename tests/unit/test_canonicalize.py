"""The compiled form of a level against CVXPY itself.

``MODELS`` are followers as functions of the leader's decision and of parameters. Called with CVXPY
variables they are compiled by the library; called with constants they are ordinary CVXPY problems.
Both must have the same objective and constraint values at random points, the same optimal value and
the same multipliers, under minimization and maximization.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from cvxpy.reductions.dcp2cone.cone_matrix_stuffing import ConeMatrixStuffing
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

import bilevel as bl
from bilevel.backends import Purpose
from bilevel.response.best_response import best_response

# CVXPY's own remarks about a variable with a sparsity pattern and about squares of parameters.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Reading from a sparse"),
    pytest.mark.filterwarnings("ignore:You are solving a parameterized problem that is not DPP"),
]

ROW = re.compile(r"c(\d+)\[(\d+)\]")
# Interior-point accuracy of the CVXPY reference, which runs Clarabel at these settings.
ACCURATE = {"solver": "CLARABEL", "tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}


@dataclass(frozen=True)
class Model:
    """A follower that is minimized. ``build(L, P)`` returns objective, constraints, variables.

    ``leader`` and ``parameters`` give a value by name, ``attributes`` what the leader's variables
    declare. ``smooth`` followers need no auxiliary columns; ``prices`` says that multipliers are
    unique at the given decision; ``dpp`` that new parameter values need no second compilation.
    """

    name: str
    build: Callable[[Any, Any], tuple[Any, list[Any], list[cp.Variable]]]
    leader: dict[str, Any] = field(default_factory=lambda: {"x": 0.7})
    parameters: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    declared: dict[str, dict[str, Any]] = field(default_factory=dict)
    smooth: bool = True
    prices: bool = True
    dpp: bool = True


MODELS: list[Model] = []


def model(**facts):
    """Register the decorated function as a model."""

    def register(build):
        MODELS.append(Model(build.__name__, build, **facts))
        return build

    return register


COST = np.array([1.0, 2.0, -1.5])
MATRIX = np.array([[1.0, 2.0, -1.0], [0.5, -1.0, 3.0], [2.0, 1.0, 1.0]])
SHAPED = np.array([[2.0, 0.3, -0.4], [0.3, 1.0, 0.2], [-0.4, 0.2, 1.5]])


# ------------------------------------------------------------------------------- linear followers


@model()
def linear(L, P):
    y = cp.Variable(3, name="y")
    return COST @ y + 4, [MATRIX @ y >= L.x, y >= -1, y <= 5 - L.x], [y]


@model()
def linear_equality(L, P):
    y = cp.Variable(3, name="y")
    return COST @ y, [cp.sum(y) == 1 + L.x, y[0] - y[1] == L.x, y >= -3, y <= 4], [y]


@model()
def only_equations(L, P):
    y = cp.Variable(2, name="y")
    return y[0] + 3 * y[1], [y[0] + y[1] == L.x, y[0] - 2 * y[1] == 1], [y]


@model(prices=False)
def equation_stated_twice(L, P):
    y = cp.Variable(name="y")
    return 2 * y, [y == L.x, 2 * y == 2 * L.x], [y]


@model(prices=False)
def inequality_stated_twice(L, P):
    y = cp.Variable(name="y")
    return y, [y >= L.x, y >= L.x, y <= 9], [y]


@model()
def scalar(L, P):
    y = cp.Variable((), name="y")
    return 3 * y - 2, [y >= L.x, 2 * y <= 9], [y]


@model()
def one_by_one(L, P):
    y = cp.Variable((1, 1), name="y")
    return cp.sum(y), [y >= L.x], [y]


@model()
def two_variables(L, P):
    y, z = cp.Variable(2, name="y"), cp.Variable(name="z")
    return cp.sum(y) - z, [y >= L.x, z <= y[0] + 2 * y[1], z <= 3], [y, z]


@model(leader={"x": 0.7, "k": 1.0}, attributes={"k": {"boolean": True}})
def boolean_leader(L, P):
    y = cp.Variable(2, name="y")
    return -y[0] - 2 * y[1], [y[0] <= 3 * L.k, y[1] <= 2 - L.x, y >= 0], [y]


@model(leader={"x": np.array([0.2, -0.4, 1.1])})
def vector_leader(L, P):
    y = cp.Variable(3, name="y")
    return cp.sum(y), [y >= L.x, MATRIX @ y >= L.x - 1], [y]


@model()
def matrix_variable(L, P):
    Y = cp.Variable((2, 3), name="Y")
    prices = np.arange(1.0, 7.0).reshape(2, 3)
    supply, demand = cp.sum(Y, axis=1) <= np.array([4.0, 6.0]), cp.sum(Y, axis=0) >= 1 + L.x
    return cp.sum(cp.multiply(prices, Y)), [supply, demand, Y >= 0.1], [Y]


@model()
def matrix_constraint(L, P):
    Y = cp.Variable((2, 2), name="Y")
    floor = np.array([[0.0, 1.0], [2.0, 3.0]])
    return cp.trace(np.array([[1.0, 2.0], [3.0, 5.0]]) @ Y), [floor + L.x <= Y, Y <= 9], [Y]


@model(smooth=False, prices=False)
def affine_atoms(L, P):
    y = cp.Variable(4, name="y")
    parts = [
        cp.diff(y) <= 2 + L.x,
        cp.cumsum(y) >= -3 - L.x,
        cp.hstack([y[0], y[-1]]) >= L.x,
        cp.reshape(y, (2, 2), order="C") @ np.array([1.0, -1.0]) <= 4,
        y[::-1] >= -2,
        cp.convolve(np.array([1.0, 2.0]), y)[1:3] <= 7,
    ]
    return cp.sum(cp.multiply(np.array([1.0, 2.0, 0.5, 1.0]), y)) / 2, parts, [y]


@model()
def explicit_cones(L, P):
    y = cp.Variable(2, name="y")
    rows = [cp.constraints.NonNeg(y - L.x), cp.constraints.Zero(y[0] - 2 * y[1] + 1 + L.x)]
    return y[0] + y[1], rows, [y]


# ------------------------------------------------------------------- leader decisions in the data


@model()
def leader_in_objective(L, P):
    y = cp.Variable(2, name="y")
    return (1 + L.x) * y[0] - L.x * y[1] + 3 * L.x, [y >= -1, y <= 2], [y]


@model()
def leader_in_coefficients(L, P):
    y = cp.Variable(2, name="y")
    return cp.sum(y), [L.x * y[0] + y[1] >= 2, y[0] - L.x * y[1] >= -1, y <= 8], [y]


@model(leader={"x": np.array([[1.0, 0.5], [-0.3, 2.0]])})
def leader_matrix_times_follower(L, P):
    y = cp.Variable(2, name="y")
    return y[0] + y[1], [L.x @ y >= np.array([1.0, 2.0])], [y]


@model(leader={"x": np.array([[1.0, 0.5], [-0.3, 2.0]])})
def matrix_times_matrix(L, P):
    Y = cp.Variable((2, 2), name="Y")
    return cp.sum(L.x @ Y) + cp.sum(Y @ L.x) / 2, [Y >= -1, Y <= 3, L.x @ Y <= 20], [Y]


@model(leader={"x": np.array([0.5, -1.0, 2.0])})
def elementwise_products(L, P):
    y = cp.Variable(3, name="y")
    return cp.sum(cp.multiply(L.x, y)) + L.x @ y, [y >= -1, y <= 1 + L.x**2], [y]


@model(leader={"x": 0.7, "z": -0.4})
def leader_products_alone(L, P):
    y = cp.Variable(name="y")
    return cp.square(y) + L.x * L.z, [y >= L.x * L.z + 1], [y]


@model(leader={"x": 1.3}, attributes={"x": {"nonneg": True}})
def leader_scales_a_square(L, P):
    y = cp.Variable(2, name="y")
    return L.x * cp.sum_squares(y - 1) + y[0], [y >= 0.2, cp.sum(y) <= 3], [y]


@model(leader={"x": 1.3}, attributes={"x": {"nonneg": True}})
def leader_scales_a_form(L, P):
    y = cp.Variable(3, name="y")
    return (1 + L.x) * cp.quad_form(y, SHAPED) - cp.sum(y), [y <= 0.2], [y]


# ---------------------------------------------------------------------------- quadratic followers


@model()
def projection(L, P):
    y = cp.Variable(3, name="y")
    return cp.sum_squares(y - L.x), [y >= 0, cp.sum(y) <= 1], [y]


@model()
def quadratic_form(L, P):
    y = cp.Variable(3, name="y")
    return cp.quad_form(y, SHAPED) / 2 + L.x * y[0] - y[2], [y >= -1, MATRIX @ y <= 2], [y]


@model()
def singular_quadratic_form(L, P):
    y = cp.Variable(3, name="y")
    return cp.square(cp.sum(y) - L.x) + y[0], [y >= -1, y <= 2], [y]


@model()
def square_of_both(L, P):
    y = cp.Variable(name="y")
    return cp.square(2 * y - 3 * L.x + 1) / 4, [y <= 0.1], [y]


@model()
def sum_of_powers(L, P):
    y = cp.Variable(2, name="y")
    return cp.sum(y**2) + 3 * y[0] * L.x, [y[0] + y[1] == 1], [y]


@model()
def quadratic_over_constant(L, P):
    y = cp.Variable(2, name="y")
    return cp.quad_over_lin(y - L.x, 4.0) - y[0], [y <= 0.5], [y]


@model()
def quadratic_matrix(L, P):
    Y = cp.Variable((2, 2), name="Y")
    target = np.array([[1.0, 2.0], [3.0, 4.0]])
    return cp.sum_squares(Y - target) + L.x * cp.trace(Y), [cp.sum(Y, axis=0) == 1], [Y]


FORM = np.array([[1.0, 0.5], [0.5, 1.0]])


@model()
def unconstrained_quadratic(L, P):
    y = cp.Variable(2, name="y")
    if isinstance(L.x, cp.Constant):  # CVXPY alone does not read y[0] * y[1]
        return cp.quad_form(y, FORM) - 2 * L.x * cp.sum(y) + 2 * L.x**2, [], [y]
    return cp.sum_squares(y - L.x) + y[0] * y[1], [], [y]


@model()
def product_of_follower_variables(L, P):
    y, z = cp.Variable(name="y"), cp.Variable(name="z")
    f = cp.square(y) + cp.square(z) + y * z + L.x * y
    if isinstance(L.x, cp.Constant):
        f = cp.quad_form(cp.hstack([y, z]), FORM) + L.x * y
    return f, [y + z >= 1], [y, z]


# ------------------------------------------------------------------------------ epigraph followers


@model(smooth=False)
def absolute(L, P):
    y = cp.Variable(2, name="y")
    return cp.abs(y[0] - L.x) + 2 * cp.abs(y[1] + L.x), [cp.sum(y) == 2], [y]


@model(smooth=False)
def one_norm(L, P):
    y = cp.Variable(3, name="y")
    return cp.norm1(y - L.x), [MATRIX @ y >= 1], [y]


@model(smooth=False)
def largest(L, P):
    y = cp.Variable(3, name="y")
    return cp.max(MATRIX @ y + L.x), [cp.sum(y) == 1, y >= -5, y <= 5], [y]


@model(smooth=False)
def larger_of_two(L, P):
    y = cp.Variable(name="y")
    return cp.maximum(y - L.x, 2 * L.x - 3 * y, 0.5), [y <= 4], [y]


@model(smooth=False)
def positive_part(L, P):
    y = cp.Variable(2, name="y")
    return cp.sum(cp.pos(y - L.x)) + 2 * cp.sum(cp.neg(y)), [y[0] + y[1] >= 3], [y]


@model(smooth=False)
def largest_two(L, P):
    y = cp.Variable(4, name="y")
    return cp.sum_largest(y, 2), [np.array([1.0, 2.0, 3.0, 4.0]) @ y >= 6 + L.x, y <= 2], [y]


@model(smooth=False)
def infinity_norm(L, P):
    y = cp.Variable(2, name="y")
    return cp.norm_inf(y) + 0.1 * y[0], [y[0] + 2 * y[1] >= 2 + L.x], [y]


@model(smooth=False)
def absolute_in_constraint(L, P):
    y = cp.Variable(2, name="y")
    return -y[0] - 2 * y[1], [cp.abs(y) <= 1 + L.x, cp.norm1(y) <= 2], [y]


@model(smooth=False)
def huber_loss(L, P):
    y = cp.Variable(name="y")
    return cp.huber(y - 4 * L.x, 1) + 0.1 * y, [y <= 9], [y]


@model(smooth=False)
def quadratic_and_absolute(L, P):
    y = cp.Variable(2, name="y")
    return cp.sum_squares(y - 2 * L.x) + cp.norm1(y), [y[0] - y[1] == 0.3], [y]


@model(smooth=False)
def range_of_entries(L, P):
    y = cp.Variable(3, name="y")
    return cp.max(y) - cp.min(y) + 0.2 * y[0], [y[0] - y[2] >= 1 + L.x, y[1] >= 0, y[2] >= 0], [y]


# ------------------------------------------------------------------------ attributes of variables


@model(leader={"x": 0.7}, declared={"y": {"nonneg": True}})
def nonnegative(L, P):
    y = cp.Variable(2, name="y", nonneg=True)
    return cp.sum(y), [y[0] - y[1] >= L.x], [y]


@model(declared={"y": {"nonpos": True}})
def nonpositive(L, P):
    y = cp.Variable(2, name="y", nonpos=True)
    return -cp.sum(y), [y[0] - y[1] >= L.x], [y]


@model()
def bounds_of_variable(L, P):
    y = cp.Variable(2, name="y", bounds=[np.array([-1.0, -np.inf]), np.array([3.0, 2.0])])
    return y[0] - y[1], [y[0] + y[1] <= 2 + L.x], [y]


@model(leader={"x": 0.7}, attributes={"x": {"bounds": [-1, 1]}})
def bounds_of_leader(L, P):
    y = cp.Variable(name="y", bounds=[-2, 2])
    return cp.square(y - 3 * L.x), [y <= 1.9], [y]


@model(declared={"S": {"symmetric": True}}, prices=False)
def symmetric(L, P):
    S = cp.Variable((2, 2), name="S", symmetric=True)
    return cp.sum_squares(S - np.array([[1.0, 2.0], [0.0, 3.0]])), [cp.trace(S) <= 1 + L.x], [S]


@model(declared={"D": {"diag": True}})
def diagonal(L, P):
    D = cp.Variable((3, 3), name="D", diag=True)
    return cp.trace(D), [cp.diag(D) >= L.x, D[0, 0] + D[1, 1] >= 3], [D]


@model(declared={"T": {"sparsity": ([0, 1, 1], [1, 0, 1])}})
def sparse(L, P):
    T = cp.Variable((2, 2), name="T", sparsity=([0, 1, 1], [1, 0, 1]))
    return cp.sum(T) + T[1, 1], [cp.sum(T, axis=1) >= 1 + L.x, T[1, 0] >= 0, T[1, 1] >= -1], [T]


@model(leader={"x": np.array([[1.0, 0.5], [0.5, 2.0]])}, attributes={"x": {"symmetric": True}})
def symmetric_leader(L, P):
    y = cp.Variable(2, name="y")
    return y[0] + y[1], [L.x @ y >= 1], [y]


# ------------------------------------------------------------------------------------- parameters


@model(parameters={"p": np.array([1.0, 2.0, -0.5])})
def parameter_in_objective(L, P):
    y = cp.Variable(3, name="y")
    return P.p @ y, [y >= -1 - L.x, y <= 1], [y]


@model(parameters={"p": 0.4, "A": MATRIX})
def parameter_in_constraints(L, P):
    y = cp.Variable(3, name="y")
    return cp.sum(y), [P.A @ y >= P.p + L.x, y >= -4], [y]


@model(parameters={"p": 1.7})
def parameter_times_leader_times_follower(L, P):
    y = cp.Variable(2, name="y")
    return P.p * L.x * y[0] + L.x * (P.p * y[1]) + P.p * (L.x * y[1]), [y >= -1, y <= 2], [y]


@model(parameters={"p": np.array([0.5, 2.0])}, leader={"x": np.array([0.3, -0.6])})
def parameter_multiplies_product_in_constraint(L, P):
    y = cp.Variable(2, name="y")
    return cp.sum(y), [cp.multiply(P.p, cp.multiply(L.x, y)) + 2 * y >= 1], [y]


@model(parameters={"P": SHAPED}, declared={"P": {"PSD": True}})
def parametric_quadratic_form(L, P):
    y = cp.Variable(3, name="y")
    return cp.quad_form(y, P.P) / 2 - L.x * cp.sum(y), [y <= 0.3], [y]


@model(parameters={"p": 2.5}, declared={"p": {"nonneg": True}})
def parametric_weights(L, P):
    y = cp.Variable(2, name="y")
    return P.p * cp.sum_squares(y - L.x) + cp.sum(y), [y >= 0.4], [y]


@model(parameters={"p": 2.5}, declared={"p": {"nonneg": True}}, smooth=False)
def parametric_lasso(L, P):
    y = cp.Variable(2, name="y")
    return cp.sum_squares(MATRIX[:2, :2] @ y - 3 * L.x) + P.p * cp.norm1(y), [y[0] <= 5], [y]


@model(parameters={"p": 1.5}, dpp=False)
def square_of_parameter(L, P):
    y = cp.Variable(name="y")
    return y * P.p**2 + L.x, [y >= L.x * P.p], [y]


# ------------------------------------------------------------------------------------------ tools


def by_name(values, attributes, declared, make):
    """Return a namespace of CVXPY leaves with values."""
    leaves = {}
    for name, value in values.items():
        options = {**attributes.get(name, {}), **declared.get(name, {})}
        leaves[name] = make(np.shape(value), name=name, **options)
        leaves[name].value = value
    return SimpleNamespace(**leaves)


class Compiled:
    """A model as a bilevel problem whose leader owns the model's leader variables."""

    def __init__(self, source: Model, maximize: bool = False) -> None:
        self.source = source
        self.L = by_name(source.leader, source.attributes, {}, cp.Variable)
        self.P = by_name(source.parameters, {}, source.declared, cp.Parameter)
        self.f, self.rows, self.variables = source.build(self.L, self.P)
        sense = cp.Maximize(-self.f) if maximize else cp.Minimize(self.f)
        self.sign = -1.0 if maximize else 1.0
        self.follower = bl.Follower(sense, self.rows, variables=self.variables, name="f")
        self.leading = list(vars(self.L).values())
        self.targets = [cp.Parameter(v.shape, name=f"{v.name()} given") for v in self.leading]
        for target, variable in zip(self.targets, self.leading, strict=True):
            target.value = variable.value
        pinned = [v == t for v, t in zip(self.leading, self.targets, strict=True)]
        self.pinned = pinned
        self.problem = bl.Problem(cp.Minimize(0), pinned, followers=[self.follower])
        self.form = self.problem.compile()

    def columns(self, **extra) -> np.ndarray:
        """Return the column vector of the variables' present values."""
        w = np.zeros(self.form.n)
        for leaf in self.problem.leaves.values():
            if leaf.variable.value is not None:
                leaf.write(leaf.variable.value, w)
        return w

    @property
    def auxiliary(self) -> np.ndarray:
        """Indices of the follower's auxiliary columns."""
        named = np.concatenate([self.problem.leaves[v.id].columns for v in self.variables])
        return np.setdiff1d(self.form.followers[0].columns, named)

    def alone(self) -> tuple[cp.Problem, list[Any]]:
        """Return the follower as CVXPY alone sees it, and its constraints."""
        constants = SimpleNamespace(**{n: cp.Constant(v.value) for n, v in vars(self.L).items()})
        f, rows, _ = self.source.build(constants, self.P)
        return cp.Problem(cp.Maximize(-f) if self.sign < 0 else cp.Minimize(f), rows), rows


def randomize(variables, rng, declared) -> None:
    """Give variables random values that respect what they declare."""
    for variable in variables:
        value = rng.normal(size=variable.shape)
        options = declared.get(variable.name(), {})
        if options.get("symmetric"):
            value = value + value.T
        if options.get("diag"):
            value = np.diag(np.diag(value))
        if "sparsity" in options:
            mask = np.zeros(variable.shape)
            mask[tuple(options["sparsity"])] = 1
            value = value * mask
        variable.save_value(value)  # signs and bounds are rows here, so any value may be tried


def randomize_leader(compiled, rng) -> None:
    """Move the leader, within what its variables declare."""
    for variable in compiled.leading:
        value = np.asarray(variable.value) + 0.3 * rng.normal(size=variable.shape)
        options = compiled.source.attributes.get(variable.name(), {})
        if options.get("symmetric"):
            value = (value + value.T) / 2
        if options.get("nonneg"):
            value = abs(value)
        if options.get("boolean"):
            value = np.round(rng.random(variable.shape))
        variable.save_value(value)


def residual(constraint) -> np.ndarray:
    """Return ``g`` or ``h`` of a CVXPY constraint: lhs - rhs, entries in column order."""
    sign = -1.0 if isinstance(constraint, cp.constraints.NonNeg) else 1.0
    expression = constraint.args[0] if len(constraint.args) == 1 else constraint.expr
    return sign * np.ravel(expression.value, order="F")


def by_constraint(names, values) -> dict[int, np.ndarray]:
    """Return compiled rows by constraint number, entries in order."""
    found: dict[int, dict[int, float]] = {}
    for name, value in zip(names, values, strict=True):
        match = ROW.fullmatch(name)
        if match:
            found.setdefault(int(match[1]), {})[int(match[2])] = value
    return {k: np.array([v for _, v in sorted(part.items())]) for k, part in found.items()}


def named(models):
    return [pytest.param(m, id=m.name) for m in models]


SMOOTH = [m for m in MODELS if m.smooth]
CREASED = [m for m in MODELS if not m.smooth]
BOTH = pytest.mark.parametrize("maximize", [False, True], ids=["min", "max"])


# ---------------------------------------------------------------------------- values at any point


@BOTH
@pytest.mark.parametrize("source", named(SMOOTH))
def test_values_at_random_points(source, maximize):
    compiled, rng = Compiled(source, maximize), np.random.default_rng(5)
    form = compiled.form.followers[0]
    assert not len(compiled.auxiliary)
    assert form.objective.maximize == maximize
    for _ in range(4):
        randomize(compiled.variables, rng, source.declared)
        randomize_leader(compiled, rng)
        w = compiled.columns()
        assert form.objective.evaluate(w) == pytest.approx(float(compiled.f.value), abs=1e-9)
        assert form.objective.sign == compiled.sign
        found = by_constraint(form.rows.names, form.rows.evaluate(w))
        for number, constraint in enumerate(compiled.rows):
            np.testing.assert_allclose(found[number], residual(constraint), atol=1e-9)


@pytest.mark.parametrize("source", named(SMOOTH))
def test_equations_are_known(source):
    compiled = Compiled(source)
    form = compiled.form.followers[0]
    found = by_constraint(form.rows.names, form.rows.equality)
    equations = (cp.constraints.Equality, cp.constraints.Zero)
    for number, constraint in enumerate(compiled.rows):
        assert (found[number] == isinstance(constraint, equations)).all()


@BOTH
@pytest.mark.parametrize("source", named(CREASED))
def test_values_at_random_points_after_the_auxiliary_columns_settle(source, maximize):
    """An epigraph column means the least value its rows allow, also where CVXPY has no columns."""
    compiled, rng = Compiled(source, maximize), np.random.default_rng(6)
    form, free = compiled.form.followers[0], compiled.auxiliary
    seen = 0
    for _ in range(12):
        randomize(compiled.variables, rng, source.declared)
        randomize_leader(compiled, rng)
        value = least(form, free, compiled.columns())
        if value is not None:
            seen += 1
            assert value == pytest.approx(float(compiled.f.value), abs=1e-7)
    assert seen


def least(form, free, w) -> float | None:
    """Minimize over auxiliary columns by scipy, dropping rows that contain none of them."""
    mask = np.zeros(len(w), bool)
    mask[free] = True
    rows = form.rows.take(form.rows.touches(mask)).project(free, w)
    objective = form.objective.project(free, w)
    if objective.P.nnz:
        y = cp.Variable(len(free))
        parts = [
            (rows.A[[i]] @ y == rows.b[i]) if rows.equality[i] else (rows.A[[i]] @ y <= rows.b[i])
            for i in range(len(rows))
        ]
        quadratic = 0.5 * cp.quad_form(y, cp.psd_wrap(objective.P.toarray())) + objective.c @ y
        found = cp.Problem(cp.Minimize(quadratic), parts)
        found.solve(**ACCURATE)
        return float(found.value) + objective.constant
    A, b, equal = rows.A.toarray(), rows.b, rows.equality
    found = linprog(objective.c, A[~equal], b[~equal], A[equal], b[equal], bounds=(None, None))
    return None if found.status == 2 else float(found.fun) + objective.constant


# ------------------------------------------------------------------------- the follower's response


@BOTH
@pytest.mark.parametrize("source", named(MODELS))
def test_answer_is_that_of_cvxpy_alone(source, maximize):
    compiled = Compiled(source, maximize)
    alone, _ = compiled.alone()
    alone.solve(**ACCURATE)
    for purpose in (Purpose.FOLLOWER, Purpose.CERTIFICATE):
        found = best_response(compiled.form, 0, compiled.columns(), purpose)
        assert compiled.sign * found.value == pytest.approx(alone.value, rel=1e-6, abs=1e-6)


@BOTH
@pytest.mark.parametrize("source", named([m for m in MODELS if m.prices]))
def test_multipliers_are_those_of_cvxpy_alone(source, maximize):
    compiled = Compiled(source, maximize)
    alone, rows = compiled.alone()
    alone.solve(**ACCURATE)
    found = best_response(compiled.form, 0, compiled.columns())
    prices = by_constraint(compiled.form.followers[0].rows.names, found.multipliers)
    for number, constraint in enumerate(rows):
        if source.smooth or number in prices:
            expected = np.ravel(constraint.dual_value, order="F")
            np.testing.assert_allclose(prices[number], expected, rtol=1e-4, atol=1e-5)


@BOTH
@pytest.mark.parametrize("source", named([m for m in MODELS if m.prices and m.smooth]))
def test_prices_and_value_of_the_solution_are_those_of_cvxpy_alone(source, maximize):
    """``follower.dual`` of every constraint and ``follower.value``, through ``bl.solve``."""
    compiled = Compiled(source, maximize)
    alone, rows = compiled.alone()
    alone.solve(**ACCURATE)
    duals = [compiled.follower.dual(c) for c in compiled.rows]
    assert [d.shape for d in duals] == [c.shape for c in compiled.rows]
    spent = sum((cp.sum(d) for d in duals), cp.Constant(0.0))
    observed = cp.Variable(name="observed")
    keep = [*compiled.pinned, observed == spent]
    curved = bool(compiled.form.followers[0].objective.cubic.value.size)
    if not curved:
        keep.append(observed + compiled.follower.value >= -1e4)
    problem = bl.Problem(cp.Minimize(0), keep, followers=[compiled.follower])
    solution = bl.solve(problem)
    assert solution.status is bl.Status.OPTIMAL
    for dual, constraint in zip(duals, rows, strict=True):
        np.testing.assert_allclose(
            solution[dual], np.reshape(constraint.dual_value, dual.shape), rtol=1e-4, atol=1e-5
        )
    assert solution.follower_values["f"] == pytest.approx(alone.value, rel=1e-5, abs=1e-5)
    if not curved:
        assert float(solution[compiled.follower.value]) == pytest.approx(
            alone.value, rel=1e-5, abs=1e-5
        )


@BOTH
@pytest.mark.parametrize("source", named(MODELS))
def test_certificate_of_the_answer_found_by_cvxpy(source, maximize):
    """A point from elsewhere, named by variable: accepted as it is, refused when it is moved."""
    compiled = Compiled(source, maximize)
    alone, _ = compiled.alone()
    alone.solve(**ACCURATE)
    point = {v: v.value for v in compiled.leading}
    solved = {
        v.name(): v.value_sparse if v.attributes["sparsity"] else v.value for v in alone.variables()
    }
    point |= {v: solved[v.name()] for v in compiled.variables}
    certificate = bl.verify(compiled.problem, point)
    assert certificate.accepted, certificate.summary()
    assert certificate.follower_values["f"] == pytest.approx(alone.value, rel=1e-6, abs=1e-6)


# ------------------------------------------------------------------------------------- parameters


@pytest.fixture
def compilations(monkeypatch):
    """How many cone programs CVXPY has been asked to stuff; every compilation ends there."""
    counted = []
    original = ConeMatrixStuffing.apply

    def apply(self, problem):
        counted.append(problem)
        return original(self, problem)

    monkeypatch.setattr(ConeMatrixStuffing, "apply", apply)
    return counted


@pytest.mark.parametrize("source", named([m for m in MODELS if m.parameters]))
def test_new_parameter_values_need_no_second_compilation(source, compilations):
    compiled, rng = Compiled(source), np.random.default_rng(7)
    before = len(compilations)
    assert before > 0
    for _ in range(3):
        given = {p: np.asarray(p.value) * rng.uniform(0.8, 1.2) for p in vars(compiled.P).values()}
        form = compiled.problem.compile(given)
        for parameter, value in given.items():
            parameter.value = value
        found = best_response(form, 0, compiled.columns())
        recompiled = len(compilations) - before
        alone, _ = compiled.alone()
        alone.solve(**ACCURATE)
        assert found.value == pytest.approx(alone.value, rel=1e-6, abs=1e-6)
        if source.dpp:
            assert recompiled == 0
        before = len(compilations)


def test_given_values_do_not_touch_the_parameter():
    compiled = Compiled(next(m for m in MODELS if m.name == "parameter_in_objective"))
    kept = compiled.P.p.value.copy()
    changed = compiled.problem.compile({compiled.P.p: np.zeros(3)})
    assert not changed.followers[0].objective.c.any()
    np.testing.assert_array_equal(compiled.P.p.value, kept)
    again, (y,) = compiled.problem.compile(), compiled.variables
    own = compiled.problem.leaves[y.id].columns
    np.testing.assert_allclose(again.followers[0].objective.c[own], kept)


def test_parameters_of_both_levels_are_found_once(compilations):
    p, q = cp.Parameter(name="p", value=1.0), cp.Parameter(name="q", value=2.0)
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(cp.square(y - p * x)), [y <= q], variables=[y])
    problem = bl.Problem(
        cp.Minimize(cp.square(x - q) + p * y), [x >= -5, x <= 5 * q], followers=[follower]
    )
    assert {a.name() for a in problem.parameters} == {"p", "q"}
    for values in ((1.0, 2.0), (-1.0, 3.0), (0.0, 0.5)):
        given = dict(zip((p, q), values, strict=True))
        solution = bl.solve(problem, parameters=given)
        grid = np.linspace(-5, 5 * values[1], 20001)
        reaction = np.minimum(values[0] * grid, values[1])
        truth = ((grid - values[1]) ** 2 + values[0] * reaction).min()
        assert solution.leader_value == pytest.approx(truth, abs=1e-5)
    assert len(compilations) == 2  # one per level


# ----------------------------------------------------------------------------- rows of other kinds


def test_follower_row_without_follower_variables_binds_the_leader():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= x, 2 * x >= 3], variables=[y])
    problem = bl.Problem(cp.Minimize(x), [x <= 9], followers=[follower])
    form = problem.compile()
    assert len(form.followers[0].rows) == 1
    assert form.columns.lower[problem.leaves[x.id].first] == 1.5
    assert bl.solve(problem).leader_value == pytest.approx(1.5)


def test_leader_rows_and_bounds():
    x, y = cp.Variable(2, name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= x[0]], variables=[y])
    leading = [x >= np.array([-1.0, -2.0]), 2 * x[0] <= 6, x[0] + x[1] <= 4, y <= 3]
    form = bl.Problem(cp.Minimize(y), leading, followers=[follower]).compile()
    assert form.columns.lower[:2].tolist() == [-1.0, -2.0]
    assert form.columns.upper[:2].tolist() == [3.0, np.inf]
    assert len(form.rows) == 2
    assert form.coupled_rows.tolist() == [False, True]


def test_columns_have_readable_names():
    x, Y = cp.Variable(2, name="x"), cp.Variable((2, 2), name="Y")
    follower = bl.Follower(cp.Minimize(cp.sum(Y)), [x[0] <= Y, cp.sum(Y) >= x[1]], variables=[Y])
    names = bl.Problem(cp.Minimize(cp.sum(x)), [x >= 0], followers=[follower]).compile().columns
    assert names.names == ("x[0]", "x[1]", "Y[0,0]", "Y[1,0]", "Y[0,1]", "Y[1,1]")


def test_duplicated_columns_of_a_product_are_added_up():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [x * y + y * x + 3 * (x * y) >= 5], variables=[y])
    form = bl.Problem(cp.Minimize(x), [x >= 1, x <= 2], followers=[follower]).compile()
    products = form.followers[0].rows.products
    assert products.value.tolist() == [-5.0]


# ------------------------------------------------------------------------------- random followers


@st.composite
def arrays(draw, *shape):
    count = int(np.prod(shape))
    flat = draw(st.lists(st.integers(-4, 4), min_size=count, max_size=count))
    return np.array(flat, float).reshape(shape)


@given(
    arrays(2, 3), arrays(2, 2), arrays(2), arrays(3), arrays(3, 2), arrays(3, 3), arrays(5),
    st.booleans(),
)  # fmt: skip
def test_random_quadratic_followers_have_the_same_values(A, B, b, c, D, root, point, maximize):
    x, y = cp.Variable(2, name="x"), cp.Variable(3, name="y")
    f = cp.quad_form(y, cp.psd_wrap(root @ root.T)) + (c + D @ x) @ y
    rows = [A @ y + B @ x <= b, A[0] @ y + x[0] * y[1] == B[0] @ x]
    sense = cp.Maximize(-f) if maximize else cp.Minimize(f)
    follower = bl.Follower(sense, rows, variables=[y])
    problem = bl.Problem(cp.Minimize(x[0]), [x >= -9, x <= 9], followers=[follower])
    form = problem.compile()
    x.value, y.value = point[:2], point[2:]
    w = np.zeros(form.n)
    for leaf in problem.leaves.values():
        leaf.write(leaf.variable.value, w)
    own = form.followers[0]
    assert own.objective.evaluate(w) == pytest.approx(float(f.value))
    value = dict(zip(own.rows.names, own.rows.evaluate(w), strict=True))
    moved = dict(zip(form.rows.names, form.rows.evaluate(w), strict=True))
    for number, constraint in enumerate(rows):
        for entry, expected in enumerate(residual(constraint)):
            name, where = f"c{number}[{entry}]", value
            if number == 0 and not A[entry].any():
                # The leader's: a row, a bound if it has one column, nothing if it has none.
                where = moved if np.count_nonzero(B[entry]) == 2 else {name: expected}
            elif number == 1 and not A[0].any():
                where = value
            assert where[name] == pytest.approx(expected, abs=1e-9)


@given(arrays(3, 2), arrays(3), arrays(2), arrays(3))
def test_random_products_expand_to_the_same_polynomial(A, b, weights, point):
    """Nested products of affine terms, against numbers."""
    x, y = cp.Variable(name="x"), cp.Variable(2, name="y")
    left, right = A @ y + b, weights[0] * x + weights[1]
    f = cp.sum(left * right) + cp.square(y[0]) + cp.square(y[1])
    follower = bl.Follower(cp.Minimize(f), [left * right <= 50, y >= -9], variables=[y])
    problem = bl.Problem(cp.Minimize(x), [x >= -9, x <= 9], followers=[follower])
    form = problem.compile()
    x.value, y.value = point[0], point[1:]
    w = np.zeros(form.n)
    for leaf in problem.leaves.values():
        leaf.write(leaf.variable.value, w)
    assert form.followers[0].objective.evaluate(w) == pytest.approx(float(f.value))
