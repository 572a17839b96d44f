"""Control with an adversary: the game's layer against its single-level form, and the small size."""

import cvxpy as cp
import pytest
import torch
from experiments.bigrad.game import (
    SIGMA,
    Controller,
    M,
    N,
    cost,
    game_layer,
    second_order_cone,
    systems,
)
from experiments.case import cases
from experiments.report import write
from experiments.run import journal, plan, run

from bilevel.layers import FollowerLayer


def inputs(count=12):
    """LQR's weights of several systems, states inside and outside the dead zone."""
    given = systems(tuple(range(count)))
    controller = Controller(given)
    states = given.noise(1, 7)[0, :, 0] * torch.linspace(0.1, 2.5, count)[:, None]
    z = [controller.L.detach(), controller.Q.detach(), 0.1 * torch.ones(count, M).double()]
    return states, [part.requires_grad_() for part in z]


@pytest.mark.parametrize("solver", [second_order_cone, None], ids=["cone", "own"])
def test_the_game_is_its_single_level_form(solver):
    """Value, input and gradients: a cone program's layer is the oracle."""
    u, L, c, Q = (
        cp.Variable(M, name="u"),
        cp.Parameter((M, M), name="L"),
        cp.Parameter(M, name="c"),
        cp.Parameter((N, M), name="Q"),
    )
    whole = cp.sum_squares(L.T @ u) + c @ u + SIGMA * cp.norm(Q @ u)
    oracle = FollowerLayer(cp.Problem(cp.Minimize(whole), [cp.norm(u) <= 1]), [L, c, Q], [u])
    x, (L, Q, q) = inputs()
    answer = game_layer(solver).solve(x, L @ L.mT, Q, q)
    eps, found = answer.values
    true = oracle(L, (x[:, None] @ Q)[:, 0] + q, Q)[0]
    assert torch.allclose(found, true, atol=1e-7)
    assert bool((eps.norm(dim=-1) <= SIGMA + 1e-9).all())
    weights = torch.linspace(-1, 1, M).double()
    plain = torch.tensor([kind.name == "CLASSICAL" for kind in answer.report.kind])
    assert int(plain.sum()) >= 10
    grads = [
        torch.autograd.grad((one[plain] @ weights).sum(), [L, Q, q], retain_graph=True)
        for one in (found, true)
    ]
    for ours, theirs in zip(*grads, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6 * (1 + float(theirs.abs().max())))


def test_no_falsification_that_was_tried_costs_the_controller_more():
    x, z = inputs(4)
    with torch.no_grad():
        controller = Controller(systems(tuple(range(4))))
        L, Q, q = z
        eps, u = controller.game(x, L @ L.mT, Q, q)
        tried = torch.randn(4, 50, N, generator=torch.Generator().manual_seed(0)).double()
        tried *= SIGMA / tried.norm(dim=-1, keepdim=True)
        for i in range(4):
            P = (L @ L.mT)[i]
            value = cost(x[i] + eps[i], u[i], P, Q[i], q[i])
            seen = x[i] + tried[i]
            parts = (part.expand(50, *part.shape) for part in (P, Q[i], q[i]))
            answers = controller.alone(seen, *parts)[1]
            others = [cost(s, a, P, Q[i], q[i]) for s, a in zip(seen, answers, strict=True)]
            assert float(max(others)) <= float(value) + 1e-9


def test_a_controller_begins_with_the_feedback_of_lqr():
    """Where it need not saturate: then no attack means the same input."""
    given = systems((0, 1, 2))
    x = 0.1 * given.noise(5, 3)[:, :, 0]
    K = torch.linalg.solve(
        torch.eye(M) + given.B.mT @ given.S @ given.B, given.B.mT @ given.S @ given.A
    )
    with torch.no_grad():
        wanted = -(K @ x[..., None])[..., 0]
        assert bool((wanted.norm(dim=-1) < 1).all())
        for saturates in (False, True):
            found = Controller(given, saturates).respond(x, "none")
            assert torch.allclose(found, wanted, atol=1e-9)


def test_the_average_cost_of_doing_nothing():
    """By hand: without input the state follows the system and the noise."""
    given = systems((4,))
    noise = given.noise(2, 5)
    controller = Controller(given)
    with torch.no_grad():
        controller.Q.zero_()
        found = controller(noise, "none")[0, 0]
        x, total = noise[0, 0, 0], 0.0
        for t in range(20):
            total += float(x @ x)
            x = given.A[0] @ x + noise[0, 0, t + 1]
    assert float(found) == pytest.approx(total / 20, rel=1e-10)


def test_optimal_control_small(tmp_path):
    """Two steps of training change the costs, and every column of the report is there."""
    case = cases("bigrad")["optimal_control"]
    records = journal(tmp_path, "small")
    assert run(plan("bigrad", [case], "small"), records) == 0
    found = {r["run"]: r["found"] for r in records.records}
    curve = found["Bilevel, 2 steps"]["curve"]
    assert all(after < before for before, after in zip(*curve[:2], strict=True))
    assert found["Bilevel, 2 steps"]["game"] != found["Bilevel, 1 steps"]["game"]
    wanted = found["Bilevel, 2 steps"]["game"] - found["OptNet, 2 steps"]["game"]
    assert found["Bilevel, 2 steps minus OptNet"]["game"] == pytest.approx(wanted)
    text = write("bigrad", {"optimal_control": case}, "small", records.records, tmp_path)
    assert "training.png" in text
    assert (tmp_path / "training.png").is_file()
