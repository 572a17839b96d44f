"""What every smooth layer does: batches, shared inputs, captured tensors, failures, threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import bilevel as bl
from bilevel import BatchFailed, Status, UnsupportedDerivative, adjoints
from bilevel.adjoints import GradientKind
from bilevel.layers import SmoothBilevelLayer

ZERO = torch.zeros((), dtype=torch.float64)
PAIR = torch.zeros(2, dtype=torch.float64)


def F(x, y, z):
    return ((x - z) ** 2).sum() + (y**2).sum() + (x * y).sum().sin() / 3


def f(x, y, z):
    return ((y - x) ** 2).sum() + (y**4).sum() / 4 + z.sum() * y.sum() / 5


def _rows(x, y, z):
    return y - 0.4


def _limits(x, y, z):
    return x - 0.7


def _sum(x, y, z):
    return (y.sum() - z.sum() / 3).reshape(1)


SHAPES = {
    "free": {},
    "follower rows": {"g": _rows},
    "leader rows": {"G": _limits},
    "both": {"g": _rows, "G": _limits},
    "equation": {"h": _sum},
    "barrier": {"g": _rows, "G": _limits, "inequalities": "barrier", "barrier_parameter": 1e5},
}
ROWS = pytest.mark.parametrize("options", list(SHAPES.values()), ids=list(SHAPES))


def batch(count=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, generator=g, dtype=torch.float64)


@ROWS
def test_gradients_match_differences(options):
    layer = SmoothBilevelLayer(F, f, start=(PAIR, PAIR), **options)
    check = bl.gradcheck(layer, batch(3), tolerance=1e-7)
    assert check.passed, check.summary()


@ROWS
def test_batched_is_looped_and_arguments_are_not_changed(options):
    layer = SmoothBilevelLayer(F, f, start=(PAIR, PAIR), **options)
    one = SmoothBilevelLayer(F, f, start=(PAIR, PAIR), in_dims=None, **options)
    z = batch()
    kept = z.clone()
    x, y = layer(z)
    assert x.shape == y.shape == (4, 2)
    for i in range(4):
        for whole, alone in zip((x, y), one(z[i]), strict=True):
            assert torch.allclose(whole[i], alone, atol=1e-12, rtol=0)
    assert torch.equal(z, kept)
    assert not PAIR.any()


@ROWS
def test_an_instance_does_not_depend_on_the_others(options):
    """Bit for bit: the batch holds instances that need few and many steps, and one far away."""
    layer = SmoothBilevelLayer(F, f, start=(PAIR, PAIR), **options)
    z = torch.cat([batch(3), 12 * batch(1, seed=1), batch(1) / 100])
    whole = layer(z)
    for rows in ([2, 0], [1], [3, 4]):
        for together, apart in zip(whole, layer(z[rows]), strict=True):
            assert torch.equal(together[rows], apart)


def test_the_gradient_of_a_shared_input_is_the_sum():
    layer = SmoothBilevelLayer(
        lambda x, y, z, a: F(x, y, z) + a * y.sum(),
        lambda x, y, z, a: f(x, y, z) - a * y.sum() / 2,
        start=(PAIR, PAIR),
        in_dims=(0, None),
    )
    z, a = batch(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    layer(z, a)[1].sum().backward()
    each = a.detach().repeat(4).requires_grad_()
    spread = SmoothBilevelLayer(
        lambda x, y, z, a: F(x, y, z) + a * y.sum(),
        lambda x, y, z, a: f(x, y, z) - a * y.sum() / 2,
        start=(PAIR, PAIR),
    )
    spread(z, each)[1].sum().backward()
    assert float(a.grad) == pytest.approx(float(each.grad.sum()), rel=1e-12)


class Cost(nn.Module):
    """A follower's cost with weights of its own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 3, dtype=torch.float64)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[0.3, -0.2], [0.5, 0.1], [-0.4, 0.2]]))
            self.first.bias.zero_()

    def forward(self, x, y, z):
        return ((y - x) ** 2).sum() + self.first(y + z).tanh().sum()


@pytest.mark.parametrize("batched", [True, False])
def test_captured_tensors_are_differentiated(batched):
    cost = Cost()
    layer = SmoothBilevelLayer(F, cost, start=(PAIR, PAIR), in_dims=0 if batched else None)
    assert len(list(layer.parameters())) == 2
    z = batch(3) if batched else batch(1)[0]
    layer(z)[0].sum().backward()
    weight = cost.first.weight
    for place in ((0, 0), (2, 1)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * 1e-5
                values.append(float(layer(z)[0].sum()))
                weight[place] -= sign * 1e-5
        slope = (values[0] - values[1]) / 2e-5
        assert float(weight.grad[place]) == pytest.approx(slope, abs=1e-7)


def test_what_captured_tensors_come_from_is_differentiated_too():
    root = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    scale = root.exp()
    layer = SmoothBilevelLayer(
        lambda x, y: (y - 1) ** 2, lambda x, y: (y - scale * x) ** 2, start=(ZERO, ZERO)
    )
    x, _ = layer()
    x.backward()
    assert float(root.grad) == pytest.approx(-float(x.detach()), rel=1e-9)


def test_trees_of_tensors():
    start = {"a": ZERO, "b": PAIR}, [PAIR, ZERO]
    layer = SmoothBilevelLayer(
        F=lambda x, y, z: (x["a"] - z["s"]) ** 2 + (x["b"] - z["t"]).square().sum() + y[1] ** 2,
        f=lambda x, y, z: (y[0] - x["b"]).square().sum() + (y[1] - x["a"]) ** 2,
        start=start,
    )
    z = {"s": torch.ones(5).double().requires_grad_(), "t": torch.ones(5, 2).double()}
    x, y = layer(z)
    assert x["b"].shape == (5, 2)
    assert y[1].shape == (5,)
    (x["a"].sum() + y[0].sum()).backward()
    assert z["s"].grad.tolist() == pytest.approx([0.5] * 5)


@pytest.mark.parametrize("on_failure", ["nan", "zero", "raise"])
@pytest.mark.parametrize("what", ["nan", "indefinite", "unbounded"])
def test_one_bad_instance_does_not_cost_the_batch(what, on_failure):
    def cost(x, y, z):
        bad = {"nan": z / z - 1, "indefinite": -2 * (z == 0) * y**2, "unbounded": 0 * z}[what]
        steep = (z == 0) * (y - (y - x) ** 2) if what == "unbounded" else 0.0
        return (y - x) ** 2 + bad + steep

    layer = SmoothBilevelLayer(
        lambda x, y, z: (x - z) ** 2 + y**2, cost, start=(ZERO, ZERO), on_failure=on_failure
    )
    z = torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64, requires_grad=True)
    if on_failure == "raise":
        with pytest.raises(BatchFailed, match="instance 1"):
            layer(z)
        return
    answer = layer.solve(z)
    assert answer.status[1] is Status.FAILED
    assert answer.report.kind[1] is GradientKind.NONE
    assert 1 in answer.report.notes
    x, y = answer.values
    fill = x[1].isnan() if on_failure == "nan" else x[1] == 0
    assert bool(fill)
    (x[[0, 2]] ** 2).sum().backward()
    rest = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    alone = layer(rest)
    (alone[0] ** 2).sum().backward()
    assert torch.equal(x[[0, 2]].detach(), alone[0].detach())
    assert torch.equal(y[[0, 2]].detach(), alone[1].detach())
    assert torch.equal(z.grad[[0, 2]], rest.grad)
    assert z.grad[1] == 0


@pytest.mark.parametrize("solver", [bl.HypergradientDescent(max_steps=30), "own", "wrong"])
def test_another_solvers_answer_is_brought_to_rounding_error(solver):
    calls = []

    def own(x, y, z):
        calls.append(z)
        return z / 2 + 0.01, z / 2 - 0.01

    def wrong(x, y, z):
        return x + 100, y - 100

    given = {"own": own, "wrong": wrong}.get(solver, solver) if isinstance(solver, str) else solver
    layer = SmoothBilevelLayer(
        lambda x, y, z: (x - z) ** 2 + y**2, lambda x, y, z: (y - x) ** 2,
        start=(ZERO, ZERO), solver=given,
    )  # fmt: skip
    z = torch.tensor([1.0, 3.0], dtype=torch.float64)
    answer = layer.solve(z)
    assert torch.allclose(answer.values[0], z / 2, atol=1e-12)
    assert answer.report.residual.max() < 1e-12
    assert len(calls) == (2 if solver == "own" else 0)


@ROWS
def test_single_precision_stays_single(options):
    single, options = torch.zeros(2), options | {"barrier_parameter": 1e3}
    layer = SmoothBilevelLayer(F, f, start=(single, single), **options)
    z = batch(64).float().requires_grad_()
    answer = layer.solve(z)
    x = answer.values[0]
    assert x.dtype == torch.float32
    x.sum().backward()
    exact = z.detach().double().requires_grad_()
    double = SmoothBilevelLayer(F, f, start=(PAIR, PAIR), **options)(exact)[0]
    double.sum().backward()
    assert torch.allclose(x.detach().double(), double, atol=1e-4)
    # At a weakly active row the two precisions may take different sides.
    plain = torch.tensor([kind is not GradientKind.ONE_SIDED for kind in answer.report.kind])
    assert int(plain.sum()) > 48
    assert torch.allclose(z.grad.double()[plain], exact.grad[plain], atol=1e-2)


def test_a_second_derivative_is_refused():
    layer = SmoothBilevelLayer(F, f, start=(PAIR, PAIR))
    z = batch().requires_grad_()
    (slope,) = torch.autograd.grad(layer(z)[0].sum(), z, create_graph=True)
    with pytest.raises(UnsupportedDerivative, match="second derivative"):
        slope.sum().backward()


def test_no_graph_without_gradient():
    layer = SmoothBilevelLayer(F, f, start=(PAIR, PAIR))
    with torch.no_grad():
        assert not layer(batch())[0].requires_grad
    assert not layer(batch())[0].requires_grad


def test_two_threads_share_a_layer():
    layer = SmoothBilevelLayer(F, f, g=_rows, start=(PAIR, PAIR))
    inputs = [batch(3, seed) for seed in range(4)]
    alone = [layer(z)[0] for z in inputs]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda z: layer(z)[0], inputs))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_warm_start_ends_at_the_same_answer():
    layer = SmoothBilevelLayer(F, f, start=(PAIR, PAIR))
    z = batch()
    cold = layer(z, warm_start=True)[0]
    warm = layer(z, warm_start=True)[0]
    assert torch.allclose(cold, warm, atol=1e-12)


@pytest.mark.parametrize("method", ["dense", "minres", "nested"])
def test_methods_agree(method):
    z = batch().requires_grad_()
    layer = SmoothBilevelLayer(
        F, f, start=(PAIR, PAIR), adjoint=adjoints.Implicit(method, rtol=1e-13)
    )
    (found,) = torch.autograd.grad(layer(z)[0].sum(), z)
    (true,) = torch.autograd.grad(SmoothBilevelLayer(F, f, start=(PAIR, PAIR))(z)[0].sum(), z)
    assert torch.allclose(found, true, atol=1e-11)


def test_the_report_names_a_weakly_active_row():
    layer = SmoothBilevelLayer(
        lambda x, y, z: (x - 1) ** 2, lambda x, y, z: (y - z) ** 2, g=lambda x, y, z: -y,
        start=(ZERO, ZERO),
    )  # fmt: skip
    answer = layer.solve(torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64))
    kinds = [kind.name for kind in answer.report.kind]
    assert kinds == ["ONE_SIDED", "CLASSICAL", "CLASSICAL"]
    assert answer.report.margin[0] < 1e-7 < answer.report.margin[1]
    assert answer.report.adjoint_residual.max() < 1e-12
