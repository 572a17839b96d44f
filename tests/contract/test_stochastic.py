"""SOBA: exact limits, unbiased directions, honest ends; and how derivatives are counted."""

import math
import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

import bilevel as bl
from bilevel import BilevelWarning, Status, adjoints
from bilevel.solvers.smooth import Newton, Task
from bilevel.solvers.smooth.oracle_calls import Tally
from bilevel.solvers.smooth.soba_sampling import (
    Iterate,
    Memory,
    Sampler,
    curvature,
    directions,
    follower_part,
    leader_part,
)

WHOLE = 10**6


def sgd(lr):
    return partial(torch.optim.SGD, lr=lr)


class Quadratic:
    """Ridge regression whose penalty is the leader's: ``y(x)`` and ``x*`` in closed form.

    ``f = mean (a'y - b)^2 / 2 + |y - x|^2 / 2``, ``F = mean (c'y - d)^2 / 2 + |x|^2 / 20``.
    """

    def __init__(self, n=24, m=15, size=3, seed=0):
        g = torch.Generator().manual_seed(seed)
        draw = partial(torch.randn, generator=g, dtype=torch.float64)
        self.A, self.b, self.C, self.d = draw(n, size), draw(n), draw(m, size), draw(m)
        self.start = draw(size), draw(size)

    @staticmethod
    def follower(x, y, A, b):
        return (A @ y - b).square().mean() / 2 + (y - x).square().sum() / 2

    @staticmethod
    def leader(x, y, C, d):
        return (C @ y - d).square().mean() / 2 + x.square().sum() / 20

    @property
    def problem(self):
        return bl.SmoothProblem(
            bl.SampleMean(self.leader, (self.C, self.d)),
            bl.SampleMean(self.follower, (self.A, self.b)),
        )

    def answer(self, x):
        n, size = self.A.shape
        H = self.A.T @ self.A / n + torch.eye(size).double()
        return torch.linalg.solve(H, self.A.T @ self.b / n + x), H

    @property
    def best(self):
        """The leader's minimum by normal equations in ``y = y0 + H^-1 x``."""
        m, size = self.C.shape
        y0, H = self.answer(torch.zeros(size).double())
        C = self.C @ torch.linalg.inv(H)
        left = C.T @ C / m + torch.eye(size).double() / 10
        return torch.linalg.solve(left, C.T @ (self.d - self.C @ y0) / m)


GIVEN = Quadratic()


def test_without_noise_it_ends_in_the_exact_solution():
    solver = bl.SOBA(sgd(0.5), batch_size=WHOLE, max_steps=1500, decay=math.inf, atol=1e-8)
    solution = bl.solve(GIVEN.problem, solver, start=GIVEN.start)
    assert solution.status is Status.STATIONARY
    assert torch.allclose(solution.x, GIVEN.best, atol=1e-8)
    assert torch.allclose(solution.y, GIVEN.answer(GIVEN.best)[0], atol=1e-8)


def test_variance_reduction_needs_no_shrinking_steps():
    """SAGA's noise vanishes at the solution, so batches of three end in it as well."""
    solver = bl.SOBA(
        sgd(0.2), batch_size=3, max_steps=2500, decay=math.inf, variance_reduction=True, atol=1e-7
    )
    solution = bl.solve(GIVEN.problem, solver, start=GIVEN.start)
    assert solution.status is Status.STATIONARY
    assert torch.allclose(solution.x, GIVEN.best, atol=1e-6)


def test_batches_of_both_levels_come_close_and_claim_nothing_more():
    solver = bl.SOBA(sgd(0.3), batch_size=4, max_steps=1500, decay=50)
    solution = bl.solve(GIVEN.problem, solver, start=GIVEN.start)
    assert solution.status is Status.FEASIBLE
    assert solution.follower_residual < 1e-9
    assert float((solution.x - GIVEN.best).norm()) < 0.1 * float(
        (GIVEN.start[0] - GIVEN.best).norm()
    )
    assert solution.hypergradient_norm > 1e-6
    assert "batches" in solution.stats.note


def at(seed=1):
    g = torch.Generator().manual_seed(seed)
    x, y, v = torch.randn(3, 3, generator=g, dtype=torch.float64)
    return Iterate(x, y, v, Task(GIVEN.problem, GIVEN.start).trees, ())


def full_directions(here):
    whole = [
        Sampler(o, WHOLE, torch.Generator(), False).draw()
        for o in (GIVEN.problem.F, GIVEN.problem.f)
    ]
    return directions(follower_part(whole[1], here), leader_part(whole[0], here)[1], here)


def test_directions_are_those_of_the_formulas():
    here = at()
    found = full_directions(here)
    y, H = GIVEN.answer(here.x)
    in_y = GIVEN.C.T @ (GIVEN.C @ here.y - GIVEN.d) / len(GIVEN.d)
    assert torch.allclose(found[0], H @ (here.y - y))
    assert torch.allclose(found[1], H @ here.v - in_y)
    assert torch.allclose(found[2], here.x / 10 + here.v)


@pytest.mark.parametrize("fixed", [False, True], ids=["shuffled", "fixed"])
def test_the_mean_over_all_batches_is_the_whole_direction(fixed):
    here = at()
    means = []
    for objective, size, part in (
        (GIVEN.problem.f, 4 if not fixed else 7, follower_part),
        (GIVEN.problem.F, 5 if not fixed else 4, lambda b, p: leader_part(b, p)[1]),
    ):
        sampler = Sampler(objective, size, torch.Generator().manual_seed(0), fixed)
        # 24 and 15 samples: batches of 4 and 5 fill a pass; fixed ones of 7 and 4 are unequal.
        batches = (
            sampler._batches if fixed else [sampler.draw() for _ in range(sampler.steps_a_pass)]
        )
        assert sum(batch.share for batch in batches) == pytest.approx(1)
        means.append(sum(b.weight * part(b, here) for b in batches) / len(batches))
    for found, known in zip(directions(*means, here), full_directions(here), strict=True):
        assert torch.allclose(found, known)


def test_remembered_directions_are_unbiased_whatever_is_remembered():
    here, generator = at(), torch.Generator().manual_seed(0)
    sampler = Sampler(GIVEN.problem.f, 7, generator, True)

    def filled():
        memory = Memory(sampler.steps_a_pass)
        for batch in sampler._batches[:2]:
            memory.reduced(batch, follower_part(batch, at(5)))
        return memory

    found = [filled().reduced(batch, follower_part(batch, here)) for batch in sampler._batches]
    whole = Sampler(GIVEN.problem.f, WHOLE, generator, False).draw()
    assert torch.allclose(sum(found) / len(found), follower_part(whole, here))


def test_levels_draw_independently_and_every_sample_is_seen_once_a_pass():
    sampler = Sampler(
        bl.SampleMean(lambda x, y, i: i, torch.arange(10)), 3, torch.Generator(), False
    )
    for _ in range(3):
        seen = torch.cat([sampler.draw().objective(0, 0) for _ in range(3)])
        assert len(seen.unique()) == 9


def test_the_first_step_sees_curvature_that_ones_would_miss():
    """``f_yy (1, ..., 1) = 0`` for a loss of differences."""
    f = bl.SampleMean(lambda x, y, A: (y[0] - y[1]) ** 2 * A.mean(), torch.ones(8).double())
    point = Iterate(
        *torch.ones(3, 2).double(),
        Task(bl.SmoothProblem(f, f), tuple(torch.ones(2, 2).double())).trees,
        (),
    )
    assert curvature(Sampler(f, 2, torch.Generator(), False), point, 16)[0] == pytest.approx(4)


def test_one_weight_per_sample_by_places_in_the_data():
    """Full batches of places give what descent gives; batches come close to it."""
    g = torch.Generator().manual_seed(0)
    A = torch.randn(20, 2, generator=g, dtype=torch.float64)
    b = A @ torch.tensor([1.0, -1.0]).double()
    b[:8] += 5.0
    C = torch.randn(10, 2, generator=g, dtype=torch.float64)
    f = bl.SampleMean(
        lambda x, y, i, A, b: (
            (x[i].sigmoid() * (A @ y["w"] - b) ** 2).mean() + 0.01 * (y["w"] ** 2).sum()
        ),
        (torch.arange(20), A, b),
    )
    F = bl.SampleMean(
        lambda x, y, s: ((s["C"] @ y["w"] - s["d"]) ** 2).mean(),
        {"C": C, "d": C @ torch.tensor([1.0, -1.0]).double()},
    )
    problem = bl.SmoothProblem(F, f)
    start = torch.zeros(20).double(), {"w": torch.zeros(2).double()}
    before = bl.solve(problem, bl.HypergradientDescent(max_steps=1), start=start).leader_value
    solution = bl.solve(
        problem, bl.SOBA(partial(torch.optim.Adam, lr=0.2), batch_size=(5, 4)), start=start
    )
    assert solution.leader_value < 0.1 * before
    assert float(solution.x[:8].mean()) < float(solution.x[8:].mean())
    assert set(solution.y) == {"w"}


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not():
    solve = partial(bl.solve, GIVEN.problem, start=GIVEN.start)
    first, again, other = (solve(bl.SOBA(batch_size=4, max_steps=50, seed=s)).x for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_inputs_z_and_float32_are_kept():
    f = bl.SampleMean(lambda x, y, z, A: ((A * y - x - z) ** 2).mean(), torch.tensor([1.0, 2.0]))
    problem = bl.SmoothProblem(lambda x, y, z: (y - z) ** 2 + x**2, f)
    start = torch.tensor(0.0), torch.tensor(0.0)
    solver = bl.SOBA(sgd(0.1), batch_size=1, max_steps=20, polish=Newton(atol=1e-6))
    solution = bl.solve(problem, solver, start=start, parameters=torch.tensor(1.0))
    assert solution.x.dtype is torch.float32
    assert solution.status is Status.FEASIBLE


def test_projection_holds_after_every_step():
    solver = bl.SOBA(batch_size=4, max_steps=60, project=lambda x: x.clamp(0.2, 0.3))
    x = bl.solve(GIVEN.problem, solver, start=GIVEN.start).x
    assert bool(((x >= 0.2) & (x <= 0.3)).all())


# ---------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"batch_size": (4, 4, 4)}, "batch_size"),
        ({"batch_size": (4, -1)}, "batch_size"),
        ({"max_steps": 0}, "max_steps"),
        ({"decay": 0.0}, "decay"),
        ({"step_size": -1.0}, "step_size"),
        ({"step_size": math.nan}, "step_size"),
        ({"polish": True}, "polish"),
    ],
)
def test_options_out_of_range(options, named):
    with pytest.raises(bl.ProblemError, match=named):
        bl.SOBA(**options)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ((torch.zeros(3), torch.zeros(4)), r"\[3, 4\]"),
        (torch.zeros(0, 2), r"\[0\]"),
        ((), "no tensor"),
        (torch.tensor(1.0), "first axis"),
        ([1.0, 2.0], "as_tensor"),
    ],
)
def test_data_that_are_no_samples(data, named):
    with pytest.raises(bl.ProblemError, match=named):
        bl.SampleMean(lambda x, y, A: A.mean(), data)
    with pytest.raises(bl.ProblemError, match="loss"):
        bl.SampleMean(None, torch.zeros(2))


def test_a_sum_is_no_mean():
    f = bl.SampleMean(lambda x, y, A, b: GIVEN.follower(x, y, A, b) * len(A), (GIVEN.A, GIVEN.b))
    with pytest.raises(bl.ProblemError, match=r"f is not a mean .*\.mean\(\)"):
        bl.solve(bl.SmoothProblem(GIVEN.problem.F, f), bl.SOBA(), start=GIVEN.start)


def test_problems_it_is_not_for_are_refused_with_a_remedy():
    plain = bl.SmoothProblem(lambda x, y: y.sum(), lambda x, y: ((y - x) ** 2).sum())
    with pytest.raises(bl.UnsupportedProblem, match=r"HypergradientDescent"):
        bl.solve(plain, bl.SOBA(), start=GIVEN.start)
    for name, remedy in (("G", "ReducedNewton"), ("g", "HypergradientDescent")):
        held = bl.SmoothProblem(GIVEN.problem.F, GIVEN.problem.f, **{name: lambda x, y: y - 9})
        with pytest.raises(bl.UnsupportedProblem, match=rf"takes no {name}.*{remedy}"):
            bl.solve(held, bl.SOBA(), start=GIVEN.start)
    with pytest.raises(bl.ProblemError, match="LBFGS"):
        bl.solve(GIVEN.problem, bl.SOBA(torch.optim.LBFGS), start=GIVEN.start)


# ---------------------------------------------------------------------------- honest ends


def test_an_unpolished_answer_is_none():
    solver = bl.SOBA(batch_size=4, max_steps=20, polish=None)
    with pytest.raises(bl.SolveFailed, match="optimality conditions"):
        bl.solve(GIVEN.problem, solver, start=GIVEN.start)
    solution = bl.solve(GIVEN.problem, solver, start=GIVEN.start, throw=False)
    assert solution.status is Status.FAILED
    assert solution.follower_residual > 1e-5
    assert math.isnan(solution.hypergradient_norm)


def test_a_wrong_finishing_step_is_found_out():
    """The solver of the follower lies: it returns the answer and a bit more."""
    solver = bl.SOBA(batch_size=4, max_steps=5, polish=lambda x, y: GIVEN.answer(x)[0] + 1e-3)
    solution = bl.solve(GIVEN.problem, solver, start=GIVEN.start, throw=False)
    assert solution.status is Status.FAILED
    assert "fail by" in solution.stats.note


def test_a_saddle_of_the_follower_is_no_answer():
    f = bl.SampleMean(
        lambda x, y, A: ((y[0] - x) ** 2 - y[1] ** 2) * A.mean(), torch.ones(4).double()
    )
    problem = bl.SmoothProblem(lambda x, y: y[0] ** 2, f)
    start = torch.ones(()).double(), torch.zeros(2).double()
    solver = bl.SOBA(batch_size=2, max_steps=5, polish=lambda x, y: torch.stack([x, 0 * x]))
    with pytest.warns(BilevelWarning, match="not positive definite"):
        solution = bl.solve(problem, solver, start=start, throw=False)
    assert solution.status is Status.FAILED
    assert "minimum" in solution.stats.note


def test_too_long_steps_end_with_a_note_and_an_answer():
    solver = bl.SOBA(sgd(0.1), batch_size=4, max_steps=5000, step_size=50.0)
    solution = bl.solve(GIVEN.problem, solver, start=GIVEN.start)
    assert "not finite" in solution.stats.note
    assert "step_size" in solution.stats.note
    assert solution.status is Status.FEASIBLE
    assert bool(solution.x.isfinite().all())
    assert solution.follower_residual < 1e-9


def test_nan_in_a_sample_of_the_leader_keeps_the_best_pass():
    calls = []

    def leader(x, y, C, d):
        calls.append(1)
        return GIVEN.leader(x, y, C, d) * (math.nan if len(calls) == 201 else 1.0)

    problem = bl.SmoothProblem(bl.SampleMean(leader, (GIVEN.C, GIVEN.d)), GIVEN.problem.f)
    solution = bl.solve(problem, bl.SOBA(sgd(0.3), batch_size=4), start=GIVEN.start)
    assert "best pass" in solution.stats.note
    assert solution.stats.nodes < 210
    assert solution.status is Status.FEASIBLE


def test_interruption_keeps_what_was_reached():
    moments = []

    def stop(progress):
        moments.append(progress)
        if len(moments) == 3:
            raise KeyboardInterrupt

    solver = bl.SOBA(sgd(0.3), batch_size=4)
    solution = bl.solve(GIVEN.problem, solver, start=GIVEN.start, callback=stop)
    assert "interrupted" in solution.stats.note
    assert solution.status is Status.FEASIBLE
    assert solution.stats.nodes == moments[-1].nodes
    assert not torch.equal(solution.x, GIVEN.start[0])


def test_callback_and_time_limit_stop_it():
    told = bl.solve(
        GIVEN.problem, bl.SOBA(batch_size=4), start=GIVEN.start, callback=lambda p: p.nodes > 10
    )
    assert "callback" in told.stats.note
    assert told.stats.nodes < 30
    assert [moment[1] for moment in told.stats.trace]
    limited = bl.solve(GIVEN.problem, bl.SOBA(max_steps=10**9), start=GIVEN.start, time_limit=0.1)
    assert "time limit" in limited.stats.note


# ---------------------------------------------------------------------------- counts


def test_shares_of_the_data_are_counted():
    """100 steps on 4 of 24 and 5 of 15 samples; no polish, a given step: nothing else."""
    solver = bl.SOBA(batch_size=(5, 4), max_steps=100, step_size=0.1, polish=None)
    stats = bl.solve(GIVEN.problem, solver, start=GIVEN.start, throw=False).stats
    assert stats.gradients == pytest.approx(100 * (5 / 15 + 4 / 24))
    assert stats.products == pytest.approx(100 * 4 / 24)


@pytest.mark.parametrize("reduction", [False, True])
def test_what_is_counted_is_what_is_differentiated(reduction):
    """The solver's own count, with curvature and polish, beside one at the losses."""
    tally = Tally()
    solver = bl.SOBA(batch_size=(5, 4), max_steps=30, variance_reduction=reduction)
    seen = []
    bl.solve(
        tally.watch(GIVEN.problem), solver, start=GIVEN.start,
        callback=lambda progress: seen.append((tally.gradients, tally.products)),
    )  # fmt: skip
    stats = bl.solve(
        GIVEN.problem, replace(solver, max_steps=30, polish=None), start=GIVEN.start, throw=False
    ).stats
    assert stats.gradients == pytest.approx(seen[-1][0])
    assert stats.products == pytest.approx(seen[-1][1])


def test_a_tally_counts_what_is_differentiated_and_changes_nothing():
    tally = Tally()
    problem = GIVEN.problem
    watched = tally.watch(problem)
    x, y = (part.clone().requires_grad_() for part in GIVEN.start)
    value = watched.f(x, y)
    assert torch.equal(value, problem.f(x, y))
    (g,) = torch.autograd.grad(value, y, create_graph=True)
    assert (tally.gradients, tally.products) == (1, 0)
    H = torch.autograd.grad(g, y, torch.eye(3).double(), retain_graph=True, is_grads_batched=True)[
        0
    ]
    assert torch.allclose(H, GIVEN.answer(x)[1])
    assert (tally.gradients, tally.products) == (1, 3)
    torch.autograd.grad(g, (x, y), torch.ones(3).double())
    assert (tally.gradients, tally.products) == (1, 4)
    torch.autograd.grad(watched.F(x, y), (x, y))
    assert (tally.gradients, tally.products) == (2, 4)


def test_descent_counts_a_hand_computed_step():
    """A quadratic follower of three entries, all dense.

    Newton: gradient and matrix at the start, again at the answer (one step more than asked), and
    at its end; the adjoint: residual, and one gradient with a matrix and a product; and ``F_y``.
    """
    calls = []

    def leader(x, y):
        calls.append(1)
        return GIVEN.problem.F(x, y)

    problem = bl.SmoothProblem(leader, GIVEN.problem.f)
    evaluated = []
    for steps in (1, 2):
        calls.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            bl.solve(problem, bl.HypergradientDescent(max_steps=steps), start=GIVEN.start)
        evaluated.append(len(calls))
    assert evaluated[1] - evaluated[0] == 1, "the leader's objective is evaluated once a step"
    solution = bl.solve(problem, bl.HypergradientDescent(max_steps=1), start=GIVEN.start)
    tally = Tally()
    watched = tally.watch(problem)
    task = Task(watched, GIVEN.start)
    st, (x, y) = task.stationarity(), task.flat_start()
    y = Newton()(st, x, y).w
    x = GIVEN.start[0].clone().requires_grad_()
    watched.F(x, adjoints.Implicit().attach(watched, x, y[0])).backward()
    assert (solution.stats.gradients, solution.stats.products) == (tally.gradients, tally.products)
    assert tally.products % 3 == 1, "matrices of three products, and one along the adjoint"
    assert "gradients" in solution.summary()


def test_a_sample_mean_is_a_function_like_any_other():
    mean = GIVEN.problem.f
    assert len(mean) == 24
    x, y = GIVEN.start
    parts: list[Tensor] = [mean.over(torch.arange(24)[i::2])(x, y) for i in (0, 1)]
    assert torch.allclose(sum(parts) / 2, mean(x, y))
    solution = bl.solve(GIVEN.problem, bl.ReducedNewton(), start=GIVEN.start)
    assert torch.allclose(solution.x, GIVEN.best, atol=1e-9)
