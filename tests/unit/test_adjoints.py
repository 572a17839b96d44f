"""The formulas of the adjoints against dense linear algebra, projections and solves again."""

from itertools import product
from types import SimpleNamespace

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

import bilevel as bl
from bilevel.adjoints import KKT, Cone, GradientKind
from bilevel.adjoints.convex import barrier, kernels, saddle
from bilevel.adjoints.convex.cone import LinearSolveRule
from bilevel.adjoints.convex.exponential import project as project_exponential
from bilevel.adjoints.convex.exponential import project_dual
from bilevel.adjoints.convex.projections import derivative, distance_to_kink, project
from bilevel.adjoints.function import AbstractRule, apply
from bilevel.errors import UnsupportedDerivative
from bilevel.layers import FollowerLayer
from bilevel.problem.cones import Kind
from bilevel.problem.parametric import ConeBlock


def tensor(array, grad=False):
    return torch.tensor(np.array(array), dtype=torch.float64, requires_grad=grad)


# ------------------------------------------------------------- saddle matrices, dense oracle


def saddles(count, m, n, seed=0, convex=True):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((count, n, n if convex else max(n // 2, 1)))
    P = root @ root.swapaxes(1, 2) / n + (0.3 * np.eye(n) if convex else 0)
    skew = rng.standard_normal((count, n, n))
    H = P / 2 + skew - skew.swapaxes(1, 2)  # any H with H + H' = P
    A = rng.standard_normal((count, m, n))
    active = np.arange(m) < rng.integers(0, min(m, n) + 1, (count, 1))
    active = rng.permuted(active, axis=1)
    return H, A, active, rng.standard_normal((count, n)), rng.standard_normal((count, m))


def dense_solution(H, A, active, gy, gz, E=None):
    """Solve one system with every row: those outside ``J`` say ``dz = 0``."""
    n, m = H.shape[0], len(A)
    J = A[active]
    E = np.zeros(m) if E is None else E
    K = np.block([[H + H.T, J.T], [J, -np.diag(E[active])]])
    x = np.linalg.lstsq(K, np.concatenate([gy, gz[active]]), rcond=1e-12)[0]
    dz = np.zeros(m)
    dz[active] = x[n:]
    return x[:n], dz


def saddle_solution(H, A, active, gy, gz, usable=None, smooth=None):
    usable = np.ones(len(H), bool) if usable is None else usable
    half = saddle.half(H, np.zeros(H.shape[:2]), A)
    factor, singular = saddle.factorize(H, A, active, half, usable, smooth)
    dy, dz = saddle.solve(*map(tensor, (H, A, gy, gz)), factor.tensors())
    return dy.numpy(), dz.numpy(), singular, factor


@pytest.mark.parametrize(("m", "n"), [(0, 3), (1, 1), (4, 3), (3, 6), (20, 12), (40, 30)])
def test_saddle_systems_are_solved_to_the_last_digits(m, n):
    H, A, active, gy, gz = saddles(5, m, n)
    dy, dz, singular, factor = saddle_solution(H, A, active, gy, gz)
    assert not singular.any()
    assert (factor.number >= 0).all()  # by the Cholesky form
    for i in range(5):
        y, z = dense_solution(H[i], A[i], active[i], gy[i], gz[i])
        np.testing.assert_allclose(dy[i], y, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(dz[i], z, rtol=1e-10, atol=1e-12)
    assert saddle.probe(H, A, factor).max() < 1e-12 * (1 + n)


def test_singular_systems_get_the_least_squares_solution_of_least_norm():
    H, A, active, gy, gz = saddles(6, 4, 5, convex=False)
    active[:] = [True, True, False, True]
    A[1::2, 1] = 2 * A[1::2, 0]  # dependent rows in every second instance
    active[0] = False  # a flat direction is left
    dy, dz, singular, factor = saddle_solution(H, A, active, gy, gz)
    assert singular.tolist() == [True, True, False, True, False, True]
    assert factor.inverse.shape == (6, 9, 9)
    for i in range(6):
        y, z = dense_solution(H[i], A[i], active[i], gy[i], gz[i])
        np.testing.assert_allclose(dy[i], y, atol=1e-11)
        np.testing.assert_allclose(dz[i], z, atol=1e-11)


def test_smoothed_rows_and_instances_without_an_answer():
    H, A, active, gy, gz = saddles(4, 5, 4)
    active[1] = True
    smooth = np.zeros((4, 5))
    smooth[1] = [0.5, 0.0, 3.0, 1e-3, 1.0]
    usable = np.array([True, True, False, True])
    dy, dz, singular, _ = saddle_solution(H, A, active, gy, gz, usable, smooth)
    assert not singular.any()
    assert not dy[2].any()
    assert not dz[2].any()
    for i in (0, 1, 3):
        y, z = dense_solution(H[i], A[i], active[i], gy[i], gz[i], smooth[i])
        np.testing.assert_allclose(dy[i], y, atol=1e-11)
        np.testing.assert_allclose(dz[i], z, atol=1e-11)


@pytest.mark.parametrize("convex", [True, False])
def test_the_solve_itself_can_be_differentiated_twice(convex):
    H, A, active, gy, gz = saddles(2, 4, 5, convex=convex)
    active[:] = [True, False, True, True]
    half = saddle.half(H, gy, A)

    def solve(H, A, gy, gz):
        kept = saddle.half(*(one.detach().numpy() for one in (H, gy, A)))
        factor, _ = saddle.factorize(
            H.detach().numpy(), A.detach().numpy(), active, kept, np.ones(2, bool)
        )
        return saddle.solve(H, A, gy, gz, factor.tensors())

    data = [tensor(one, grad=True) for one in (H, A, gy, gz)]
    assert half.regular.all() == convex
    assert torch.autograd.gradcheck(solve, data, atol=1e-6, rtol=1e-6)
    assert torch.autograd.gradgradcheck(solve, data, atol=1e-5, rtol=1e-5)


def test_the_linear_solve_of_cone_programs_can_be_differentiated_twice():
    rng = np.random.default_rng(1)
    J, g = tensor(rng.standard_normal((2, 4, 4)), grad=True), tensor(rng.random((2, 4)), grad=True)

    def solve(J, g):
        return apply(LinearSolveRule(), J, g, torch.linalg.inv(J.detach()))[0]

    torch.testing.assert_close(solve(J, g), torch.linalg.solve(J, g), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(solve, (J, g), atol=1e-7)
    assert torch.autograd.gradgradcheck(solve, (J, g), atol=1e-6)


# ------------------------------------------------------------------- judging and smoothing


def judged(y, z, P=1.0, q=-2.0, A=1.0, b=1.0, equalities=0):
    """Judge a point of ``min P y^2 / 2 + q y`` subject to ``A y <= b``."""
    parts = [[[P / 2]]], [[q]], [[[A]]], [[b]], [[y]], [[z]]
    arrays = [
        np.array(part, float).reshape(shape) for part, shape in zip(parts, SHAPES, strict=True)
    ]
    residual, active, weak, margin = kernels.judge(*arrays, equalities, 1e-8)
    return residual[0], bool(active[0, 0]), bool(weak[0, 0]), margin[0]


SHAPES = [(1, 1, 1), (1, 1), (1, 1, 1), (1, 1), (1, 1), (1, 1)]


def test_answers_are_judged_by_their_optimality_conditions():
    assert judged(1.0, 1.0) == (0.0, True, False, pytest.approx(1 / 3))
    assert judged(2.0, 0.0, b=5.0) == (0.0, False, False, pytest.approx(1.0))
    assert judged(2.0, 0.0, b=2.0) == (0.0, False, True, 0.0)
    # Each condition broken alone: gradient, feasibility, sign, complementarity.
    assert judged(1.0, 0.9)[0] == pytest.approx(0.1 / 3)
    assert judged(1.3, 0.7)[0] == pytest.approx(0.3 / 2.3)
    assert judged(3.0, -1.0, b=3.0)[0] == pytest.approx(1 / 3)
    assert judged(1.5, 0.5, b=1.7)[0] == pytest.approx(min(0.2 / 2.5, 0.5 / 3))
    assert judged(1.0, -5.0, q=4.0, equalities=1)[:3] == (0.0, True, False)


@pytest.mark.parametrize("broken", ["y", "z", "P", "q", "A", "b"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_numbers_are_no_answer(broken, value):
    arguments = {"y": 1.0, "z": 1.0, broken: value}
    assert not judged(**arguments)[0] < 1


@given(st.integers(0, 10**6), st.floats(1e-6, 1.0))
def test_no_wrong_point_is_judged_right(seed, error):
    """The residual of a strongly convex program bounds the distance from its answer."""
    rng, n, m = np.random.default_rng(seed), 4, 5
    P, A, y = np.diag(rng.uniform(1, 2, n)), rng.standard_normal((m, n)), rng.standard_normal(n)
    z = np.where(np.arange(m) < 2, rng.uniform(0.1, 1, m), 0.0)
    b = A @ y + np.where(z > 0, 0.0, rng.uniform(0.1, 1, m))
    q = -(P @ y + A.T @ z)
    data = [one[None] for one in (P / 2, q, A, b)]
    assert kernels.judge(*data, y[None], z[None], 0, 1e-8)[0][0] < 1e-14
    direction = rng.standard_normal(n)
    wrong = y + error * direction / np.linalg.norm(direction)
    assert kernels.judge(*data, wrong[None], z[None], 0, 1e-8)[0][0] > 1e-3 * error


def test_central_path_near_a_kink_treats_slack_and_multiplier_alike():
    unit = np.eye(1)[None]
    zero = np.zeros((1, 1))
    inside, ratio = barrier.central_ratios(unit, zero, -unit, zero, zero, zero, 0)
    assert inside.all()
    assert ratio[0, 0] == pytest.approx(1.0, rel=1e-5)
    # With curvature P the path has s = y and z = P y, thus the ratio 1 / P.
    _, ratio = barrier.central_ratios(4 * unit, zero, -unit, zero, zero, zero, 0)
    assert ratio[0, 0] == pytest.approx(0.25, rel=1e-5)


# ---------------------------------------------------------- sensitivities of quadratic programs


def random_program(seed, n=5, m=6, p=2):
    """Return data of a QP whose first three inequalities are active, and its answer."""
    rng = np.random.default_rng(seed)
    root, G, A = (
        rng.standard_normal((n, n)),
        rng.standard_normal((m, n)),
        rng.standard_normal((p, n)),
    )
    P, y, nu = root @ root.T / n + 0.5 * np.eye(n), rng.standard_normal(n), rng.standard_normal(p)
    active = np.arange(m) < 3
    lam, slack = rng.uniform(0.5, 1, (2, m)) * [active, ~active]
    q = -(P @ y + G.T @ lam + A.T @ nu)
    return (P, q, G, G @ y + slack, A, A @ y), (y, lam, nu)


def qp_layer(n=5, m=6, p=2, **options):
    y = cp.Variable(n)
    P, q = cp.Parameter((n, n), PSD=True), cp.Parameter(n)
    G, h, A, b = cp.Parameter((m, n)), cp.Parameter(m), cp.Parameter((p, n)), cp.Parameter(p)
    rows = [G @ y <= h, A @ y == b]
    problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(y, P) + q @ y), rows)
    duals = [row.dual_variables[0] for row in rows]
    return FollowerLayer(problem, [P, q, G, h, A, b], [y, *duals], **options)


ADJOINTS = [KKT(), KKT(sparse=False), Cone()]


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
def test_sensitivities_are_those_of_the_full_optimality_conditions(adjoint):
    """The all-constraint form ``[P A' G'; A 0 0; diag(lam) G 0 diag(G y - h)]``."""
    layer, rng = qp_layer(adjoint=adjoint), np.random.default_rng(9)
    for seed in range(3):
        data, (y, lam, nu) = random_program(seed)
        P, _, G, h, A, _ = data
        steps = [rng.standard_normal(one.shape) for one in data]
        dP, dq, dG, dh, dA, db = steps
        dP += dP.T
        m, p = len(lam), len(nu)
        K = np.block(
            [
                [P, A.T, G.T],
                [A, np.zeros((p, p + m))],
                [lam[:, None] * G, np.zeros((m, p)), np.diag(G @ y - h)],
            ]
        )
        rhs = np.concatenate(
            [dP @ y + dq + dG.T @ lam + dA.T @ nu, dA @ y - db, lam * (dG @ y - dh)]
        )
        moved = -np.linalg.solve(K, rhs)
        leaves = [tensor(one, grad=True) for one in data]
        found = layer(*leaves)
        for own, exact in zip(found, (y, lam, nu), strict=True):
            np.testing.assert_allclose(own.detach(), exact, rtol=0, atol=1e-12)
        weights = [rng.standard_normal(len(one)) for one in (y, lam, nu)]
        total = sum((one * tensor(w)).sum() for one, w in zip(found, weights, strict=True))
        slopes = torch.autograd.grad(total, leaves)
        product = sum((s.numpy() * d).sum() for s, d in zip(slopes, steps, strict=True))
        expected = np.concatenate([weights[0], weights[2], weights[1]]) @ moved
        assert product == pytest.approx(expected, rel=1e-11, abs=1e-11)


def test_sensitivities_are_differences_of_full_solves():
    layer = qp_layer()
    data, _ = random_program(4)
    rng, step = np.random.default_rng(2), 1e-5
    steps = [rng.standard_normal(one.shape) for one in data]
    steps[0] += steps[0].T
    ends = [
        layer(*(tensor(one + sign * step * d) for one, d in zip(data, steps, strict=True)))
        for sign in (1, -1)
    ]
    leaves = [tensor(one, grad=True) for one in data]
    for k, one in enumerate(layer(*leaves)):
        weight = tensor(rng.standard_normal(one.shape))
        slopes = torch.autograd.grad((one * weight).sum(), leaves, retain_graph=True)
        found = sum((s.numpy() * d).sum() for s, d in zip(slopes, steps, strict=True))
        expected = float(((ends[0][k] - ends[1][k]) * weight).sum()) / (2 * step)
        assert found == pytest.approx(expected, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("x", [-2.0, -0.7, -0.3, 1.5])
def test_a_textbook_program_with_two_pieces(x):
    """``min y^2 / 2 + x y``, ``y >= x + 1``, ``y >= 0``: ``y = max(-x, x + 1)``."""
    leader, y = cp.Variable(name="x"), cp.Variable(name="y")
    rows = [y >= leader + 1, y >= 0]
    cost = 0.5 * cp.square(y) + leader * y
    follower = bl.Follower(cp.Minimize(cost), rows, variables=[y])
    outputs = [y, *(follower.dual(row) for row in rows), follower.value]
    layer = FollowerLayer(follower, [leader], outputs)
    point = tensor(x, grad=True)
    found = layer(point)
    slopes = [torch.autograd.grad(one, point, retain_graph=True)[0].item() for one in found]
    best, slope = (-x, -1.0) if x < -0.5 else (x + 1, 1.0)
    values = [best, max(0.0, 2 * x + 1), 0.0, best**2 / 2 + x * best]
    assert [one.item() for one in found] == pytest.approx(values, abs=1e-14)
    expected = [slope, 2.0 * (x > -0.5), 0.0, best * slope + best + x * slope]
    assert slopes == pytest.approx(expected, abs=1e-14)


# ------------------------------------------------------------ the residual map of a conic program


def random_socp(seed):
    """Return ``c, A, b`` of a program over one equation, six inequalities and cones of 4 and 3.

    One inequality and both cones hold the answer, so that multipliers are unique.
    """
    rng, n = np.random.default_rng(seed), 5
    A, x = rng.standard_normal((14, n)), rng.standard_normal(n)
    sign = np.array([1, -1, -1, -1, -1, -1])
    v = np.concatenate([rng.standard_normal(1), sign * rng.uniform(0.3, 1, 6)])
    for size, t in ((3, 0.4), (2, -0.3)):
        v = np.concatenate([v, [t * rng.random()], rng.standard_normal(size)])
    z = numpy_project(v)[0]
    return (-A.T @ z, A, A @ x + z - v), (x, z, v)


def numpy_project(v):
    """Return the projection onto the dual cone and its Jacobian, both cones at their surface."""
    z, D = v.copy(), np.eye(len(v))
    z[1:7] = v[1:7].clip(0)
    D[range(1, 7), range(1, 7)] = v[1:7] > 0
    for start, stop in ((7, 11), (11, 14)):
        t, u = v[start], v[start + 1 : stop]
        size = np.linalg.norm(u)
        assert abs(t) < size
        u = u / size
        z[start:stop] = np.append(1.0, u) * (t + size) / 2
        corner = (1 + t / size) * np.eye(len(u)) - t / size * np.outer(u, u)
        D[start:stop, start:stop] = 0.5 * np.block([[1.0, u[None]], [u[:, None], corner]])
    return z, D


def socp_layer():
    x, c = cp.Variable(5), cp.Parameter(5)
    A, b = cp.Parameter((14, 5)), cp.Parameter(14)
    s = b - A @ x
    rows = [s[0] == 0, s[1:7] >= 0, cp.SOC(s[7], s[8:11]), cp.SOC(s[11], s[12:])]
    return FollowerLayer(cp.Problem(cp.Minimize(c @ x), rows), [c, A, b], [x])


def test_cone_derivatives_are_those_of_the_self_dual_embedding():
    """``M'r = -(xb, 0, -xb'x)``, ``Ab = y r1' - r2 x'``, ``bb = r2 - r3 y``, ``cb = r1 - r3 x``."""
    layer = socp_layer()
    for seed in range(4):
        (c, A, b), (x, z, v) = random_socp(seed)
        n, m = 5, 14
        Q = np.block(
            [
                [np.zeros((n, n)), A.T, c[:, None]],
                [-A, np.zeros((m, m)), b[:, None]],
                [-c[None], -b[None], np.zeros((1, 1))],
            ]
        )
        D = numpy_project(v)[1]
        whole = np.zeros((n + m + 1, n + m + 1))
        whole[:n, :n], whole[n:-1, n:-1], whole[-1, -1] = np.eye(n), D, 1.0
        M = (Q - np.eye(n + m + 1)) @ whole + np.eye(n + m + 1)
        # Homogeneous: the embedding's matrix is always singular, with this very null vector.
        sizes = np.linalg.svd(M)[1]
        assert sizes[-1] < 1e-12 < 1e-3 < sizes[-2]
        weight = np.random.default_rng(seed).standard_normal(n)
        rhs = -np.concatenate([weight, np.zeros(m), [-weight @ x]])
        r = np.linalg.lstsq(M.T, rhs, rcond=1e-9)[0]
        r1, r2, r3 = r[:n], r[n:-1], r[-1]
        leaves = [tensor(one, grad=True) for one in (c, A, b)]
        answer = layer.solve(*leaves)
        np.testing.assert_allclose(answer.values[0].detach(), x, atol=1e-10)
        assert answer.report.residual.max() < 1e-13
        assert answer.report.kind == (GradientKind.CLASSICAL,)
        found = torch.autograd.grad((answer.values[0] * tensor(weight)).sum(), leaves)
        expected = (r1 - r3 * x, np.outer(z, r1) - np.outer(r2, x), r2 - r3 * z)
        for own, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-9, atol=1e-10)


def test_cone_derivatives_are_differences_of_full_solves():
    layer = socp_layer()
    data, _ = random_socp(5)
    rng, step = np.random.default_rng(0), 1e-5
    steps = [rng.standard_normal(one.shape) for one in data]
    up, down = (
        layer(*(tensor(one + sign * step * d) for one, d in zip(data, steps, strict=True)))[0]
        for sign in (1, -1)
    )
    leaves = [tensor(one, grad=True) for one in data]
    weight = tensor(rng.standard_normal(5))
    slopes = torch.autograd.grad((layer(*leaves)[0] * weight).sum(), leaves)
    found = sum((s.numpy() * d).sum() for s, d in zip(slopes, steps, strict=True))
    expected = float(((up - down) * weight).sum()) / (2 * step)
    assert found == pytest.approx(expected, rel=1e-7, abs=1e-8)


def test_softmax_has_the_derivative_of_softmax():
    y, p = cp.Variable(5), cp.Parameter(5)
    problem = cp.Problem(cp.Maximize(p @ y + cp.sum(cp.entr(y))), [cp.sum(y) == 1])
    layer = FollowerLayer(problem, [p], [y])
    point = tensor([[1.0, -2.0, 0.3, 0.0, 2.0], [5.0, -3.0, 0.0, 1.0, 1.0]], grad=True)
    exact = torch.softmax(point, -1)
    (found,) = layer(point)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)
    weight = tensor(np.random.default_rng(0).standard_normal((2, 5)))
    slopes = [torch.autograd.grad((one * weight).sum(), point)[0] for one in (found, exact)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-11)


# ------------------------------------------------------------------------------- projections


def block(kind, size, equalities=0, inequalities=0):
    """Return what the projections need of a program with one cone."""
    start = equalities + inequalities
    return SimpleNamespace(
        equalities=equalities,
        inequalities=inequalities,
        cones=(ConeBlock(kind, start, start + size),),
    )


# The dual of the product is the product of the duals; both cones of these kinds are their own.
PROGRAMS = {
    "second-order 1": block(Kind.SECOND_ORDER, 1),
    "second-order 4": block(Kind.SECOND_ORDER, 4),
    "semidefinite 1": block(Kind.SEMIDEFINITE, 1),
    "semidefinite 2": block(Kind.SEMIDEFINITE, 3),
    "semidefinite 4": block(Kind.SEMIDEFINITE, 10),
    "rows and a cone": block(Kind.SECOND_ORDER, 3, 2, 3),
}
ENTRIES = st.floats(-10, 10, allow_subnormal=False)


def vectors(program):
    return st.lists(ENTRIES, min_size=program.cones[-1].stop, max_size=program.cones[-1].stop)


@pytest.mark.parametrize("name", PROGRAMS)
@given(data=st.data())
def test_moreau_decomposition(name, data):
    program = PROGRAMS[name]
    v = tensor([data.draw(vectors(program))])
    z = project(v, program)
    s = z - v
    first = program.equalities
    # The slack: zero for equations, else the projection of -v, since the cones are their own duals.
    torch.testing.assert_close(s[:, :first], 0 * s[:, :first])
    torch.testing.assert_close(s[:, first:], project(-v, program)[:, first:], rtol=0, atol=1e-12)
    assert abs(float((z * s).sum())) < 1e-12 * (1 + float(v.square().sum()))
    torch.testing.assert_close(project(z, program), z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PROGRAMS)
@given(data=st.data())
def test_derivatives_of_projections(name, data):
    program = PROGRAMS[name]
    v = tensor([data.draw(vectors(program))])
    step = 1e-6
    assume(float(distance_to_kink(v, program)) > 1e-3)
    D = derivative(v, program)[0]
    unit = torch.eye(v.shape[-1], dtype=torch.float64)
    difference = (project(v + step * unit, program) - project(v - step * unit, program)) / (
        2 * step
    )
    torch.testing.assert_close(D, difference.mT, rtol=0, atol=1e-6)
    torch.testing.assert_close(D, D.mT, rtol=0, atol=1e-12)
    values = torch.linalg.eigvalsh(D)
    assert values.min() > -1e-12
    assert values.max() < 1 + 1e-12


def test_derivatives_at_kinks_are_finite_and_between_zero_and_one():
    for program in PROGRAMS.values():
        for v in (torch.zeros(1, program.cones[-1].stop), torch.ones(1, program.cones[-1].stop)):
            values = torch.linalg.eigvalsh(derivative(v.double(), program)[0])
            assert values.min() > -1e-12
            assert values.max() < 1 + 1e-12


@pytest.mark.parametrize("name", ["second-order 4", "rows and a cone"])
def test_second_derivatives_of_projections_by_autograd(name):
    program = PROGRAMS[name]
    rng = np.random.default_rng(3)
    v = tensor(rng.standard_normal((2, program.cones[-1].stop)), grad=True)
    assert distance_to_kink(v, program).min() > 1e-2
    assert torch.autograd.gradcheck(lambda v: derivative(v, program), v, atol=1e-7)


# ------------------------------------------------------------------- the exponential cone

SIZES = [0.0, 1e-300, 1e-60, 1e-12, 1e-6, 1e-2, 1.0, 3.0, 100.0, 1e5, 1e12, 1e60]
HARD = [sign * size for size in SIZES for sign in (1, -1)]


def primal_violation(p):
    """How far a point is at most from the exponential cone."""
    r, s, t = p
    if s <= 0:
        return max(r, -s, -t, 0.0)
    with np.errstate(all="ignore"):
        lift = s * np.exp(min(r / s, 700.0)) - t
        shift = r - s * np.log(t / s) if t > 0 else np.inf
    return max(min(lift, shift), 0.0)


def dual_violation(d):
    """How far a point is at most from the dual: ``u < 0``, ``-u exp(v / u) <= e w``."""
    u, v, w = d
    if u >= 0:
        return max(u, -v, -w, 0.0)
    with np.errstate(all="ignore"):
        lift = -u * np.exp(min(v / u - 1, 700.0)) - w
        shift = u * (1 + np.log(w / -u)) - v if w > 0 else np.inf
    return max(min(lift, shift), 0.0)


def check_projection(v):
    v = np.array(v)
    point, slope = project_exponential(v)
    size = abs(v).max() if v.any() else 1.0
    assert primal_violation(point / size) < 1e-12
    assert dual_violation((point - v) / size) < 1e-12
    assert abs((point / size) @ ((point - v) / size)) < 1e-12
    dual, other = project_dual(-v)
    np.testing.assert_array_equal(dual, point - v)
    np.testing.assert_array_equal(other, np.eye(3) - slope)
    values = np.linalg.eigvalsh(slope)
    np.testing.assert_allclose(slope, slope.T, atol=1e-14)
    assert values[0] > -1e-12
    assert values[-1] < 1 + 1e-12
    return point, slope


def test_exponential_cone_with_entries_of_all_sizes():
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        for v in product(HARD[::2] + HARD[5::4], repeat=3):
            check_projection(v)


@given(st.tuples(ENTRIES, ENTRIES, ENTRIES))
@example((0.0, 0.0, 0.0))
@example((1.0, 0.0, 0.0))
@example((0.0, 1.0, 1.0))
@example((-1.0, 0.0, 0.0))
@example((0.0, -1.0, 0.0))
@example((9.0, 0.1, -3.0))
@example((-9.0, 1e-9, -3.0))
def test_exponential_cone(v):
    point, slope = check_projection(v)
    np.testing.assert_allclose(project_exponential(point)[0], point, rtol=0, atol=1e-10)
    np.testing.assert_allclose(project_exponential(3 * np.array(v))[0], 3 * point, atol=1e-12)


@given(st.tuples(ENTRIES, ENTRIES, ENTRIES))
def test_derivative_of_the_exponential_projection(v):
    v, step = np.array(v), 1e-6
    _, slope = project_exponential(v)
    ends = [[project_exponential(v + sign * step * e) for e in np.eye(3)] for sign in (1, -1)]
    # Smooth on the segments: the Jacobian hardly changes along them.
    assume(max(abs(one[1] - slope).max() for side in ends for one in side) < 1e-4)
    difference = np.stack([(up[0] - low[0]) / (2 * step) for up, low in zip(*ends, strict=True)], 1)
    np.testing.assert_allclose(slope, difference, rtol=0, atol=1e-6)


# --------------------------------------------------------------------- the autograd function


class Power(AbstractRule):
    """``x^3``, and once more by the same means."""

    what = "a power"

    def __init__(self, exponent=3, order=None):
        self.exponent, self.order = exponent, order

    def forward(self, x):
        return (x**self.exponent,)

    def backward(self, inputs, outputs, grads):
        (slope,) = apply(Power(self.exponent - 1), inputs[0])
        return (self.exponent * slope * grads[0],)


def test_one_function_gives_all_orders():
    x = tensor([2.0, -1.0], grad=True)
    value, found = apply(Power(), x)[0], []
    for _ in range(3):
        (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        found.append(value.tolist())
    assert found == [[12.0, 3.0], [12.0, -6.0], [6.0, 6.0]]
    with torch.no_grad():
        assert not apply(Power(), x)[0].requires_grad


def test_an_order_that_is_not_there_is_refused_only_where_it_is_used():
    x = tensor([2.0], grad=True)
    (slope,) = torch.autograd.grad(apply(Power(order=1), x)[0], x)
    assert slope.item() == 12.0
    (slope,) = torch.autograd.grad(apply(Power(order=1), x)[0], x, create_graph=True)
    assert slope.item() == 12.0
    with pytest.raises(UnsupportedDerivative, match="second derivative of a power"):
        slope.backward()


def test_the_function_is_reentrant():
    """A rule may differentiate another one inside its own backward pass."""

    class Outer(Power):
        def backward(self, inputs, outputs, grads):
            with torch.enable_grad():
                x = inputs[0].detach().requires_grad_()
                (slope,) = torch.autograd.grad(apply(Power(), x)[0].sum(), x)
            return (slope * grads[0],)

    x = tensor([2.0], grad=True)
    apply(Outer(), x)[0].backward()
    assert x.grad.item() == 12.0
