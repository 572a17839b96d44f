"""Layers and wrong input: an error that names the culprit, or a report that names the instance."""

import importlib
from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
import torch

import bilevel as bl
from bilevel import ProblemError, Status, UnsupportedProblem
from bilevel.adjoints import KKT, Cone, GradientKind
from bilevel.backends import AbstractBackend
from bilevel.backends.clarabel import Clarabel
from bilevel.errors import BackendNotFound, BilevelWarning, UnsupportedDerivative
from bilevel.layers import BatchFailed, FollowerLayer
from bilevel.program import Feature, RawAnswer, Termination


def tensor(*numbers, grad=False):
    return torch.tensor(np.array(numbers).squeeze(), dtype=torch.float64, requires_grad=grad)


def says(error, *words):
    for word in words:
        assert word in str(error.value), f"{word!r} is missing in: {error.value}"


def projection(**options):
    """The nearest point of the half-space ``sum(y) <= c``."""
    y, p, c = cp.Variable(2, name="y"), cp.Parameter(2, name="p"), cp.Parameter(name="c")
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(y - p)), [cp.sum(y) <= c])
    return FollowerLayer(problem, [p, c], [y], **options)


def bound(adjoint=None, **options):
    """The nearest number that is not negative."""
    y, x = cp.Variable(name="y"), cp.Parameter(name="x")
    problem = cp.Problem(cp.Minimize(0.5 * cp.square(y - x)), [y >= 0])
    return FollowerLayer(problem, [x], [y], adjoint=adjoint, **options)


# ------------------------------------------------------------------------------- tensors


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ((), ["2 tensors", "p, c", "0 were given"]),
        ((torch.zeros(2),), ["2 tensors", "1 were given"]),
        ((torch.zeros(2), torch.zeros(()), torch.zeros(())), ["3 were given"]),
        ((torch.zeros(3), torch.zeros(())), ["p has shape (3,)", "(2,)", "batch axis in front"]),
        ((torch.zeros(2, 3), torch.zeros(())), ["p has shape (2, 3)"]),
        ((torch.zeros(1, 1, 2), torch.zeros(())), ["p has shape (1, 1, 2)"]),
        ((torch.zeros(()), torch.zeros(())), ["p has shape ()"]),
        ((torch.zeros(2), torch.zeros(3, 1)), ["c has shape (3, 1)", "must have shape ()"]),
        ((torch.zeros(3, 2), torch.zeros(4)), ["c has a batch of 4", "an earlier one of 3"]),
        ((torch.zeros(0, 2), torch.zeros(())), ["batch", "p is empty"]),
        ((torch.zeros(2, dtype=torch.int64), torch.zeros(())), ["p holds torch.int64", "double"]),
        ((torch.zeros(2), torch.zeros((), dtype=torch.bool)), ["c holds torch.bool"]),
        ((torch.zeros(2, dtype=torch.complex128), torch.zeros(())), ["p holds torch.complex128"]),
        ((np.zeros(2), torch.zeros(())), ["p must be a torch.Tensor", "ndarray"]),
        (([0.0, 0.0], torch.zeros(())), ["p must be a torch.Tensor", "list"]),
        ((torch.zeros(2), 1.0), ["c must be a torch.Tensor", "float"]),
        ((torch.zeros(2), torch.zeros((), device="meta")), ["c is on meta", "cpu", "one device"]),
    ],
    ids=lambda part: None,
)
def test_tensors_that_do_not_fit(tensors, words):
    with pytest.raises(ProblemError) as error:
        projection()(*tensors)
    says(error, *words)


# ----------------------------------------------------------------------- what is to be a layer


def test_no_problem_at_all():
    with pytest.raises(ProblemError, match=r"bilevel\.Follower or a cvxpy\.Problem, not int"):
        FollowerLayer(3, [], [])
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
    problem = bl.Problem(cp.Minimize(x), [x >= 0], followers=[follower])
    with pytest.raises(ProblemError, match="BilevelLayer"):
        FollowerLayer(problem, [], [y])


def test_parameters_that_are_missing_unknown_or_listed_twice():
    y, p, c = cp.Variable(name="y"), cp.Parameter(name="p"), cp.Parameter(name="c")
    problem = cp.Problem(cp.Minimize(cp.square(y - p)), [y <= c])
    with pytest.raises(ProblemError) as error:
        FollowerLayer(problem, [p], [y])
    says(error, "c of the layer", "listed in parameters")
    with pytest.raises(ProblemError) as error:
        FollowerLayer(problem, [p, c, cp.Parameter(name="d")], [y])
    says(error, "d is listed", "does not occur")
    with pytest.raises(ProblemError, match="twice"):
        FollowerLayer(problem, [p, c, p], [y])
    with pytest.raises(ProblemError, match="listed in parameters"):
        FollowerLayer(problem, [p, c, 3.0], [y])


def test_a_leader_variable_must_be_listed():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(cp.square(y - x)), [y >= 0], variables=[y], name="carrier")
    with pytest.raises(ProblemError) as error:
        FollowerLayer(follower, [], [y])
    says(error, "x of follower 'carrier'", "listed in parameters")


def test_variables_that_are_not_in_the_problem():
    y, p = cp.Variable(name="y"), cp.Parameter(name="p")
    problem = cp.Problem(cp.Minimize(cp.square(y - p)), [y >= 0])
    for stranger in (cp.Variable(name="z"), (y <= 3).dual_variables[0], 4):
        with pytest.raises(ProblemError) as error:
            FollowerLayer(problem, [p], [stranger])
        says(error, "is not a variable of the layer", "its variables: y", "dual_variables[0]")


@pytest.mark.parametrize("attribute", ["boolean", "integer"])
def test_integer_variables(attribute):
    y, p = cp.Variable(name="count", **{attribute: True}), cp.Parameter(name="p")
    with pytest.raises(UnsupportedProblem) as error:
        FollowerLayer(cp.Problem(cp.Minimize(cp.square(y - p))), [p], [y])
    says(error, "count", "integer", "no derivative")


def test_products_of_parameters_break_the_parametric_rules():
    y, p, q = cp.Variable(name="y"), cp.Parameter(name="p"), cp.Parameter(name="q")
    with pytest.raises(UnsupportedProblem) as error:
        FollowerLayer(cp.Problem(cp.Minimize(y), [y >= p * q]), [p, q], [y])
    says(error, "Constraint 0", "not affine in its parameters", "p * q", "parameter of its own")
    with pytest.raises(UnsupportedProblem, match=r"objective.*parameter of its own"):
        FollowerLayer(cp.Problem(cp.Minimize(y * (p * q)), [y >= 0]), [p, q], [y])


def test_problems_that_are_not_convex():
    y, p = cp.Variable(2, name="y"), cp.Parameter(name="p")
    for cost, rows in [
        (cp.sum(y), [cp.sum_squares(y) >= p]),
        (cp.sum(cp.sqrt(y)), [y >= p]),
        (-cp.norm(y), [y >= p]),
    ]:
        with pytest.raises(UnsupportedProblem, match="convex"):
            FollowerLayer(cp.Problem(cp.Minimize(cost), rows), [p], [y])


def test_rows_without_a_variable():
    y, p = cp.Variable(name="y"), cp.Parameter(name="p")
    with pytest.raises(ProblemError) as error:
        FollowerLayer(cp.Problem(cp.Minimize(cp.square(y)), [y >= 1, p >= 0]), [p], [y])
    says(error, "Constraint 1", "contains no variable")
    with pytest.raises(ProblemError, match=r"Constraint 0.*contains no variable"):
        FollowerLayer(cp.Problem(cp.Minimize(cp.square(y - p)), [y - y <= -1]), [p], [y])


def test_rows_that_always_hold_do_not_make_the_derivative_singular():
    y, p = cp.Variable(2, name="y"), cp.Parameter(2, name="p")
    rows = [y[0] - y[0] == 0, cp.sum(y) == 1, np.zeros((2, 2)) @ y <= [0, 3], y[0] <= 5]
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(y - p)), rows)
    layer = FollowerLayer(problem, [p], [y, rows[1].dual_variables[0], rows[3].dual_variables[0]])
    value = tensor(2.0, 1.0, grad=True)
    answer = layer.solve(value)
    assert answer.report.kind == (GradientKind.CLASSICAL,)
    assert [one.tolist() for one in answer.values] == [[1.0, 0.0], 1.0, 0.0]
    with pytest.raises(ProblemError, match="has no multiplier in every entry"):
        FollowerLayer(problem, [p], [rows[2].dual_variables[0]])
    # CVXPY demands the symmetry of an eigenvalue's matrix as equations, here ``0 == 0``.
    matrix = cp.bmat([[y[0], y[1]], [y[1], -1]])
    layer = FollowerLayer(
        cp.Problem(cp.Minimize(cp.lambda_max(matrix) - p @ y), [y >= 1]), [p], [y]
    )
    assert layer.solve(tensor(0.1, 0.2)).report.kind == (GradientKind.CLASSICAL,)


def test_geometric_programs():
    y, p = cp.Variable(pos=True, name="y"), cp.Parameter(pos=True, name="p")
    with pytest.raises(UnsupportedProblem, match="logarithms"):
        FollowerLayer(cp.Problem(cp.Minimize(y), [y >= p]), [p], [y], gp=True)


def test_complex_data():
    y, p = cp.Variable(name="y"), cp.Parameter(complex=True, name="p")
    with pytest.raises(UnsupportedProblem, match="complex"):
        FollowerLayer(cp.Problem(cp.Minimize(cp.square(y - cp.real(p)))), [p], [y])


# ------------------------------------------------------------------------------- options


def test_options_of_other_solvers_warn_and_change_nothing():
    p, c = tensor(1.0, 2.0), tensor(1.0)
    expected = projection()(p, c)[0]
    foreign = {"eps": 1e-3, "max_iters": 5, "acceleration_lookback": 0}
    with pytest.warns(BilevelWarning, match=r"'acceleration_lookback', 'eps', 'max_iters'"):
        assert torch.equal(projection(solver_args=foreign)(p, c)[0], expected)
    with pytest.warns(BilevelWarning, match="no effect"):
        assert torch.equal(projection()(p, c, solver_args={"eps": 1e-1})[0], expected)
    for quiet in ({}, {"solve_method": "SCS"}, {"solve_method": "Clarabel"}, {"verbose": False}):
        torch.testing.assert_close(projection(solver_args=quiet)(p, c)[0], expected)


def test_unknown_options_and_backends():
    with pytest.raises(ProblemError, match=r"no_such.*name it with backend="):
        projection(solver_args={"no_such": 1})
    with pytest.raises(ProblemError, match=r"no backend 'nonesuch'.*clarabel"):
        projection(backend="nonesuch")
    with pytest.raises(ProblemError, match=r"no backend 'nonesuch'"):
        projection()(tensor(1.0, 2.0), tensor(1.0), solver_args={"solve_method": "nonesuch"})
    with pytest.raises(ProblemError, match=r"on_failure.*'raise', 'nan', 'zero'.*'skip'"):
        projection(on_failure="skip")
    with pytest.raises(BatchFailed, match="clarabel"):
        projection(backend="clarabel", solver_args={"no_such": 1})(tensor(1.0, 2.0), tensor(1.0))


def test_a_backend_that_is_not_installed(monkeypatch):
    registry = importlib.import_module("bilevel.backends.registry")
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(BackendNotFound, match=r"pip install 'bilevel\[proxsuite\]'"):
        projection(backend="proxsuite")


def test_adjoints_with_wrong_settings():
    for kind in (KKT, Cone):
        with pytest.raises(ProblemError, match=r"degenerate must be.*'guess'"):
            kind(degenerate="guess")
        with pytest.raises(ProblemError, match="tolerance must lie between 0 and 1"):
            kind(tolerance=0.0)
    with pytest.raises(ProblemError, match="degenerate must be"):
        Cone(degenerate="barrier")


def test_kkt_does_not_take_cones():
    y, p = cp.Variable(2, name="y"), cp.Parameter(2, name="p")
    problem = cp.Problem(cp.Minimize(p @ y), [cp.norm(y) <= 1])
    with pytest.raises(UnsupportedProblem, match=r"adjoints\.Cone\(\)"):
        FollowerLayer(problem, [p], [y], adjoint=KKT())


# --------------------------------------------------------- instances without a good derivative


def test_indefinite_forms_are_named_and_cost_no_other_instance():
    y, P = cp.Variable(2, name="y"), cp.Parameter((2, 2), PSD=True, name="P")
    problem = cp.Problem(cp.Minimize(cp.quad_form(y, P) - cp.sum(y)), [y >= -1, y <= 1])
    layer = FollowerLayer(problem, [P], [y], on_failure="nan")
    good = np.array([[2.0, 0.5], [0.5, 1.0]])
    P = tensor([good, np.diag([1.0, -0.5]), 2 * good], grad=True)
    answer = layer.solve(P)
    assert answer.status == (Status.OPTIMAL, Status.FAILED, Status.OPTIMAL)
    assert "not convex, smallest eigenvalue -1" in answer.report.notes[1]
    answer.values[0].nansum().backward()
    assert (P.grad[1] == 0).all()
    torch.testing.assert_close(
        answer.values[0][0].detach(), tensor(np.linalg.solve(2 * good, [1, 1]))
    )
    with pytest.raises(BatchFailed, match=r"instance 1: FAILED \(its quadratic form is not convex"):
        FollowerLayer(problem, problem.parameters(), [y])(P)


def test_a_concave_form_is_not_solved_at_a_stationary_point():
    """Bounded and with a stationary point that meets every first-order condition."""
    y, P = cp.Variable(1, name="y"), cp.Parameter((1, 1), PSD=True, name="P")
    problem = cp.Problem(cp.Minimize(cp.quad_form(y, P)), [y >= -1, y <= 1])
    for solver in (None, "clarabel", "daqp"):
        with pytest.raises(BatchFailed, match="not convex"):
            FollowerLayer(problem, [P], [y], backend=solver)(tensor([[-1.0]]).reshape(1, 1))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_broken_numbers(wrong):
    layer = projection(on_failure="zero")
    p = tensor([[1.0, 2.0], [1.0, wrong], [0.0, 0.5]], grad=True)
    answer = layer.solve(p, tensor(1.0))
    assert answer.status == (Status.OPTIMAL, Status.FAILED, Status.OPTIMAL)
    assert "NaN or infinite" in answer.report.notes[1]
    answer.values[0].sum().backward()
    np.testing.assert_allclose(p.grad, [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]], atol=1e-12)
    with pytest.raises(BatchFailed, match=r"instance 1: FAILED \(its data contain NaN"):
        projection()(p, tensor(1.0))


def test_broken_numbers_with_cones():
    y, p = cp.Variable(2, name="y"), cp.Parameter(2, name="p")
    problem = cp.Problem(cp.Minimize(cp.norm(y - p)), [cp.norm(y) <= 1])
    layer = FollowerLayer(problem, [p], [y], on_failure="nan")
    p = tensor([[3.0, 4.0], [np.nan, 1.0]], grad=True)
    answer = layer.solve(p)
    assert answer.status == (Status.OPTIMAL, Status.FAILED)
    assert "NaN or infinite" in answer.report.notes[1]
    np.testing.assert_allclose(answer.values[0][0].detach(), [0.6, 0.8], atol=1e-12)


def test_a_face_of_answers_is_a_surrogate():
    y, c = cp.Variable(2, name="y"), cp.Parameter(2, name="c")
    problem = cp.Problem(cp.Minimize(c @ y), [y >= 0, cp.sum(y) == 1])
    answer = FollowerLayer(problem, [c], [y]).solve(tensor([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]))
    kinds = [kind.name for kind in answer.report.kind]
    assert kinds == ["CLASSICAL", "SURROGATE", "CLASSICAL"]
    assert "instance 1: a least-squares substitute" in answer.report.summary()
    assert answer.report.summary().startswith("2 of 3 gradients are derivatives")
    with pytest.raises(UnsupportedDerivative, match=r"1 of 2 instances.*instance 1.*not unique"):
        FollowerLayer(problem, [c], [y], adjoint=KKT(degenerate="raise"))(
            tensor([[1.0, 3.0], [2.0, 2.0]])
        )


def test_a_flat_direction_is_a_surrogate():
    y, p = cp.Variable(2, name="y"), cp.Parameter(name="p")
    problem = cp.Problem(cp.Minimize(cp.square(cp.sum(y) - p)), [y >= -5, y <= 5])
    value = tensor(1.0, grad=True)
    answer = FollowerLayer(problem, [p], [y]).solve(value)
    assert answer.report.kind == (GradientKind.SURROGATE,)
    assert answer.values[0].sum().item() == pytest.approx(1.0, abs=1e-12)
    # What is the same for all answers has the right derivative all the same.
    (slope,) = torch.autograd.grad(answer.values[0].sum(), value)
    assert slope.item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("degenerate", "slope", "kind"),
    [
        ("lstsq", 1.0, GradientKind.ONE_SIDED),
        ("active", 0.0, GradientKind.ONE_SIDED),
        ("barrier", 0.5, GradientKind.SMOOTHED),
    ],
)
def test_weakly_active_bound(degenerate, slope, kind):
    layer = bound(KKT(degenerate=degenerate))
    x = tensor(-1.0, 0.0, 2.0, grad=True)
    answer = layer.solve(x)
    answer.values[0].sum().backward()
    assert answer.report.kind == (GradientKind.CLASSICAL, kind, GradientKind.CLASSICAL)
    assert answer.report.margin.tolist() == pytest.approx([0.5, 0.0, 2 / 3], abs=1e-12)
    assert answer.report.notes == {1: "weakly active: c0[0]"}
    np.testing.assert_allclose(answer.values[0].detach(), [0, 0, 2], atol=1e-12)
    np.testing.assert_allclose(
        x.grad, [0.0, slope, 1.0], rtol=0, atol=1e-5 * (slope == 0.5) + 1e-12
    )


def test_weakly_active_bound_is_refused_on_demand():
    for adjoint in (KKT(degenerate="raise"), Cone(degenerate="raise")):
        layer = bound(adjoint)
        assert layer(tensor(-1.0, 2.0))[0].tolist() == pytest.approx([0.0, 2.0], abs=1e-12)
        with pytest.raises(
            UnsupportedDerivative, match=r"1 of 3 instances.*instance 1.*degenerate="
        ):
            layer(tensor(-1.0, 0.0, 2.0))


@pytest.mark.parametrize(
    ("degenerate", "slope"), [("lstsq", -1.0), ("active", 0.0), ("barrier", -0.5)]
)
def test_lasso_at_its_kink(degenerate, slope):
    """Soft thresholding at ``a = weight = 1``: one-sided slopes 0 and -1 in the weight."""
    w, a = cp.Variable(name="w"), cp.Parameter(name="a")
    weight = cp.Parameter(nonneg=True, name="weight")
    problem = cp.Problem(cp.Minimize(0.5 * cp.square(w - a) + weight * cp.abs(w)))
    layer = FollowerLayer(problem, [a, weight], [w], adjoint=KKT(degenerate=degenerate))
    at, size = tensor(1.0, grad=True), tensor(1.0, grad=True)
    answer = layer.solve(at, size)
    found = torch.autograd.grad(answer.values[0], (at, size))
    assert not answer.report.kind[0].is_exact
    assert answer.values[0].item() == pytest.approx(0.0, abs=1e-12)
    tolerance = 1e-5 if degenerate == "barrier" else 1e-12
    assert [one.item() for one in found] == pytest.approx([-slope, slope], abs=tolerance)


def test_duplicated_active_rows():
    """The multipliers are not unique, the answer is, and its derivative is right."""
    y, p = cp.Variable(2, name="y"), cp.Parameter(2, name="p")
    rows = [cp.sum(y) <= 1, 2 * cp.sum(y) <= 2, cp.sum(y) <= 1]
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(y - p)), rows)
    duals = [row.dual_variables[0] for row in rows]
    value = tensor(2.0, 1.0, grad=True)
    for solver in (None, "clarabel"):
        answer = FollowerLayer(problem, [p], [y, *duals], backend=solver).solve(value)
        point, first, second, third = answer.values
        assert not answer.report.kind[0].is_exact
        assert (first + 2 * second + third).item() == pytest.approx(1.0, abs=1e-10)
        (slope,) = torch.autograd.grad(point[0], value)
        np.testing.assert_allclose(slope, [0.5, -0.5], atol=1e-9)


def test_dependent_equations():
    y, p = cp.Variable(2, name="y"), cp.Parameter(name="p")
    rows = [cp.sum(y) == p, 2 * cp.sum(y) == 2 * p]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(y)), rows)
    value = tensor(1.0, grad=True)
    answer = FollowerLayer(problem, [p], [y, *(r.dual_variables[0] for r in rows)]).solve(value)
    assert answer.report.kind == (GradientKind.SURROGATE,)
    np.testing.assert_allclose(answer.values[0].detach(), [0.5, 0.5], atol=1e-12)
    (slope,) = torch.autograd.grad(answer.values[0][0], value)
    assert slope.item() == pytest.approx(0.5, abs=1e-9)


# --------------------------------------------------------- one failure does not cost the batch

BATCHES = ["QP", "sparse QP", "LP", "SOCP", "SDP"]


def boxed(kind, **options):
    """A program over ``low <= y <= high``, infeasible where ``low > high``."""
    n = 3
    y, c = cp.Variable(n, name="y"), cp.Parameter(n, name="c")
    low, high = cp.Parameter(n, name="low"), cp.Parameter(n, name="high")
    rows = [y >= low, y <= high]
    cost = {
        "QP": cp.sum_squares(y) + c @ y,
        "sparse QP": cp.sum_squares(y) + c @ y,
        "LP": c @ y,
        "SOCP": cp.norm(y) + c @ y,
        "SDP": cp.lambda_max(cp.bmat([[y[0], y[1]], [y[1], y[2]]])) + c @ y + cp.sum_squares(y),
    }[kind]
    if kind == "sparse QP":
        options["adjoint"] = KKT(sparse=True)
    outputs = [y, rows[0].dual_variables[0]]
    return FollowerLayer(cp.Problem(cp.Minimize(cost), rows), [c, low, high], outputs, **options)


def boxes(count):
    rng = np.random.default_rng(5)
    low, width = rng.uniform(-2, -0.5, (count, 3)), rng.uniform(0.5, 2, (count, 3))
    return rng.standard_normal((count, 3)), low, low + width


def together(layer, data, keep):
    """Return values and gradients of the instances to keep, weights included."""
    leaves = [tensor(one, grad=True) for one in data]
    outputs = layer(*leaves)
    rng = np.random.default_rng(7)
    weight = tensor(rng.standard_normal((4, 3)))[: len(keep)]
    total = sum((one[keep] * weight).sum() for one in outputs)
    slopes = torch.autograd.grad(total, leaves)
    others = [i for i in range(len(data[0])) if i not in keep]
    return [one.detach()[keep] for one in (*outputs, *slopes)], [one[others] for one in slopes]


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("on_failure", ["nan", "zero"])
def test_one_infeasible_of_four_leaves_the_bits_of_the_others(kind, on_failure):
    layer = boxed(kind, on_failure=on_failure)
    c, low, high = boxes(4)
    broken = high.copy()
    broken[1, 2] = low[1, 2] - 1.0
    keep = [0, 2, 3]
    found, lost = together(layer, (c, low, broken), keep)
    whole, _ = together(layer, (c, low, high), keep)
    three, _ = together(layer, (c[keep], low[keep], high[keep]), [0, 1, 2])
    assert all(torch.equal(a, b) for a, b in zip(found, whole, strict=True))
    assert all((one == 0).all() for one in lost)
    for a, b in zip(found, three, strict=True):
        if kind in ("QP", "sparse QP", "LP"):
            assert torch.equal(a, b)
        else:
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    answer = layer.solve(*map(tensor, (c, low, broken)))
    assert answer.status == (Status.OPTIMAL, Status.INFEASIBLE, Status.OPTIMAL, Status.OPTIMAL)
    assert answer.report.kind[1] is GradientKind.NONE
    assert torch.isfinite(answer.report.residual).tolist() == [True, False, True, True]
    for value in answer.values:
        gone = value[1].isnan() if on_failure == "nan" else value[1] == 0
        assert gone.all()
        assert value[keep].isfinite().all()


@pytest.mark.parametrize("kind", BATCHES)
def test_the_default_names_the_infeasible_one_after_all_are_solved(kind):
    c, low, high = boxes(4)
    high[1, 2] = low[1, 2] - 1.0
    with pytest.raises(BatchFailed) as error:
        boxed(kind)(*map(tensor, (c, low, high)))
    assert error.value.instances == (1,)
    optimal = Status.OPTIMAL
    assert error.value.status == (optimal, Status.INFEASIBLE, optimal, optimal)
    says(error, "1 of 4 instances", "instance 1: INFEASIBLE", "on_failure='nan'")


def test_all_fail():
    layer = boxed("QP", on_failure="zero")
    c, low, high = boxes(2)
    leaves = [tensor(one, grad=True) for one in (c, high, low)]
    answer = layer.solve(*leaves)
    assert answer.status == (Status.INFEASIBLE,) * 2
    answer.values[0].sum().backward()
    assert all((one.grad == 0).all() for one in leaves)
    assert "0 of 2" in answer.report.summary()


# -------------------------------------------------- a backend whose answer is not quite right


class Inaccurate(AbstractBackend):
    """A backend that is off by a given error, in every entry another way, and calls it optimal."""

    name = "clarabel"
    features = Clarabel.features
    gives_multipliers = True

    def __init__(self, real, error):
        self.real, self.error = real, error

    def solve(self, program, limits, start=None):
        raw = self.real.solve(program, limits)
        if raw.v is None:
            return raw
        spoil = lambda one, k: one + self.error * np.cos(k + np.arange(len(one)))  # noqa: E731
        cones = raw.cone_duals and tuple(spoil(one, 3) for one in raw.cone_duals)
        return replace(raw, v=spoil(raw.v, 1), duals=spoil(raw.duals, 2), cone_duals=cones)


class Constant(AbstractBackend):
    """A backend that calls whatever it has optimal."""

    name = "clarabel"
    features = ~Feature.NONE
    gives_multipliers = True
    verdicts = frozenset({Termination.OPTIMAL})

    def __init__(self, number):
        self.number = number

    def solve(self, program, limits, start=None):
        return RawAnswer(
            Termination.OPTIMAL,
            np.full(program.n, self.number),
            -np.inf,
            np.full(len(program.rows.b), self.number),
            0,
            0.0,
            "solved",
            tuple(np.full(len(cone.b), self.number) for cone in program.cones),
        )


@pytest.fixture
def instead(monkeypatch):
    """Put another backend in the place of Clarabel."""
    registry = importlib.import_module("bilevel.backends.registry")
    real = registry._made

    def put(make):
        fake = make(registry.get("clarabel"))
        monkeypatch.setattr(
            registry, "_made", lambda entry: fake if entry.package == "clarabel" else real(entry)
        )

    return put


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("error", [1e-6, 1e-3, 1e-1])
def test_an_inaccurate_answer_is_polished_or_refused(kind, error, instead):
    data = boxes(4)
    exact, _ = together(boxed(kind), data, [0, 1, 2, 3])
    calls = []

    def spoiled(real):
        calls.append(real)
        return Inaccurate(real, error)

    instead(spoiled)
    layer = boxed(kind, backend="clarabel", on_failure="nan")
    found, _ = together(layer, data, [0, 1, 2, 3])
    status = layer.solve(*map(tensor, data)).status
    assert calls
    assert error > 1e-2 or status == (Status.OPTIMAL,) * 4
    for i, one in enumerate(status):
        assert one in (Status.OPTIMAL, Status.FAILED)
        if one is Status.OPTIMAL:
            for a, b in zip(found, exact, strict=True):
                torch.testing.assert_close(a[i], b[i], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("number", [1e3, -7.0, 1e12, np.nan])
def test_garbage_is_never_passed_on(kind, number, instead):
    data = boxes(4)
    exact = boxed(kind)(*map(tensor, data))
    instead(lambda real: Constant(number))
    layer = boxed(kind, backend="clarabel", on_failure="nan")
    answer = layer.solve(*map(tensor, data))
    assert np.isfinite(number) or answer.status == (Status.FAILED,) * 4
    for i, status in enumerate(answer.status):
        # Newton's method may find its way from anywhere; then the answer is exact.
        assert status in (Status.OPTIMAL, Status.FAILED)
        for a, b in zip(answer.values, exact, strict=True):
            if status is Status.OPTIMAL:
                torch.testing.assert_close(a[i], b[i], rtol=0, atol=1e-9)
            else:
                assert a[i].isnan().all()
    if Status.FAILED in answer.status:
        with pytest.raises(BatchFailed, match="FAILED"):
            boxed(kind, backend="clarabel")(*map(tensor, data))


def test_sparse_factorizations_that_cannot_be():
    with pytest.raises(UnsupportedProblem, match=r"squares a parametric expression.*sparse=False"):
        bound(KKT(sparse=True))
    with pytest.raises(ProblemError, match="barrier"):
        KKT(sparse=True, degenerate="barrier")
