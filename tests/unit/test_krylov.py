"""Krylov methods against LAPACK and SciPy, on matrices that are definite, indefinite, singular."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import minres as scipy_minres

from bilevel.adjoints.smooth.krylov import cg, diagonal, direct, minres, quotient
from bilevel.adjoints.smooth.replay import Replayed
from bilevel.adjoints.smooth.stationarity import Hessian


def _matrices(count, n, seed, definite):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(count, n, n))
    A = root @ root.swapaxes(1, 2) / n + 0.1 * np.eye(n) if definite else root + root.swapaxes(1, 2)
    return torch.from_numpy(A), torch.from_numpy(rng.normal(size=(count, n)))


def _product(A):
    return lambda v: (A @ v[..., None])[..., 0]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 10_000), st.booleans())
def test_both_solve_definite_systems_and_start_from_anywhere(count, n, seed, warm):
    A, b = _matrices(count, n, seed, True)
    b[0] = 0
    exact = torch.linalg.solve(A, b)
    for method in (cg, minres):
        start = torch.ones_like(b) if warm else None
        found = method(_product(A), b, rtol=1e-12, start=start)
        assert found.residual.max() <= 1e-11
        assert abs(found.x - exact).max() <= 1e-8 * (1 + abs(exact).max())
        assert bool(found.is_positive.all())
        assert not found.x[0].any()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 30), st.integers(0, 10_000))
def test_minres_solves_indefinite_systems_as_scipy_does(n, seed):
    A, b = _matrices(3, n, seed, False)
    found = minres(_product(A), b, rtol=1e-11, max_steps=5000)
    for i in range(3):
        theirs, _ = scipy_minres(A[i].numpy(), b[i].numpy(), rtol=1e-13, maxiter=5 * n)
        mine = torch.linalg.vector_norm(A[i] @ found.x[i] - b[i])
        assert mine <= max(1e-9, 1.1 * np.linalg.norm(A[i].numpy() @ theirs - b[i].numpy()))


def test_negative_curvature_is_told_for_each_instance():
    A = torch.stack([torch.eye(2), torch.diag(torch.tensor([1.0, -1.0]))]).double()
    found = cg(_product(A), torch.ones(2, 2, dtype=torch.float64))
    assert found.is_positive.tolist() == [True, False]
    assert torch.equal(found.x[0], torch.ones(2).double())


def test_a_preconditioner_saves_products():
    n = 200
    D = torch.linspace(1, 1e4, n).double().repeat(2, 1)
    b = torch.ones(2, n).double()
    for method in (cg, minres):
        plain = method(lambda v: D * v, b, rtol=1e-8)
        helped = method(lambda v: D * v, b, rtol=1e-8, precondition=lambda v: v / D)
        assert helped.products < plain.products / 10
        assert abs(helped.x - b / D).max() < 1e-8


def test_the_residual_that_is_told_is_the_true_one():
    A, b = _matrices(2, 40, 3, False)
    found = minres(_product(A), b, max_steps=7)
    true = torch.linalg.vector_norm(_product(A)(found.x) - b, dim=-1) / torch.linalg.vector_norm(
        b, dim=-1
    )
    assert torch.allclose(found.residual, true)
    assert found.residual.min() > 1e-3


def test_instances_do_not_wait_for_each_other():
    A = torch.stack([torch.eye(30), torch.diag(torch.linspace(1, 1e6, 30))]).double()
    b = torch.ones(2, 30).double()
    alone = cg(_product(A[:1]), b[:1])
    both = cg(_product(A), b)
    assert torch.equal(both.x[0], alone.x[0])


@pytest.mark.parametrize("n", [1, 3])
def test_singular_matrices_get_the_least_squares_answer(n):
    A = torch.zeros(2, n, n).double()
    A[0] = torch.eye(n)
    b = torch.ones(2, n).double()
    found = direct(A, b)
    assert torch.equal(found.x, torch.stack([torch.ones(n), torch.zeros(n)]).double())
    assert found.residual.tolist() == [0.0, 1.0]
    assert not quotient(A, b[..., None])[1].any()


def test_what_is_not_finite_spoils_nothing_else():
    A, b = _matrices(2, 3, 0, True)
    A[1, 0, 0] = torch.nan
    found = direct(A, b)
    assert abs(found.x[0] - torch.linalg.solve(A[0], b[0])).max() < 1e-12
    assert not found.x[1].any()


def _coupled(n, seed, spread):
    """A matrix whose diagonal varies, with couplings that an estimate sees as noise."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n // 2)) / np.sqrt(n)
    A = root @ root.T / 4 + np.diag(np.exp(spread * rng.normal(size=n)))
    return torch.from_numpy(A), torch.from_numpy(rng.normal(size=n))


def test_an_estimated_diagonal_saves_products_and_keeps_the_answer():
    A, b = (part.unsqueeze(0) for part in _coupled(300, 0, 1.0))
    M, used = diagonal(_product(A), b)
    plain, helped = (cg(_product(A), b, precondition=helper) for helper in (None, M))
    assert helped.products + used < 0.7 * plain.products
    assert abs(helped.x - torch.linalg.solve(A, b)).max() < 1e-8


def test_an_equal_diagonal_is_left_alone_and_each_instance_is_judged_alone():
    flat, rhs = _coupled(300, 1, 0.0)
    uneven, _ = _coupled(300, 2, 2.0)
    b = rhs.repeat(2, 1)
    M, _ = diagonal(_product(torch.stack([flat, uneven])), b)
    assert torch.equal(M(b)[0], b[0])
    assert not torch.equal(M(b)[1], b[1])
    negative, _ = diagonal(lambda v: -v, b)
    assert torch.equal(negative(b), b)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 8), st.integers(0, 10_000))
def test_products_that_are_replayed_are_those_of_autograd(count, n, seed):
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(n, n, generator=g, dtype=torch.float64)

    def scalar(u):
        mixed = (u @ W).tanh() * u.sigmoid() - u.exp() / 3
        both = torch.stack([mixed, torch.nn.functional.softplus(-2 * u)])
        return both.square().sum((0, 2)) + torch.logsumexp(u, -1) + (u[:, :1] * u).sum(-1)

    u = torch.randn(count, n, generator=g, dtype=torch.float64)
    H, dense = Hessian(scalar, u), Hessian(scalar, u).dense()
    kept = []
    for _ in range(6):
        v = torch.randn(count, n, generator=g, dtype=torch.float64)
        kept.append((H(v), _product(dense)(v)))
    assert H._product.count
    for found, true in kept:
        assert torch.allclose(found, true, rtol=1e-11, atol=1e-11)


def test_memory_that_is_written_to_is_made_anew_at_each_repetition():
    def function(v):
        found = torch.zeros(4, dtype=v.dtype)
        found[1:3].add_(2 * v)
        found[2:] += found[:2]
        return -found

    product = Replayed(function)
    for i in range(6):
        v = torch.tensor([1.0 + i, -2.0 * i])
        assert torch.equal(product(v), function(v))
    assert product.count


@pytest.mark.parametrize("kind", ["number", "random", "foreign", "hidden", "branch"])
def test_what_cannot_be_repeated_is_called_as_before(kind):
    memory = torch.zeros(3)

    def function(v):
        if kind == "number":
            return v * float(v.sum())
        if kind == "random":
            return v * torch.rand(3)
        if kind == "foreign":
            return memory.add_(v).clone()
        if kind == "hidden":
            return torch.from_numpy(2 * v.numpy()) + v
        return v if v.sum() > 0 else -v

    product = Replayed(function)
    for i in range(6):
        v = torch.tensor([1.0, 2.0, -9.0 * (i % 2)])
        torch.manual_seed(i)
        found = product(v)
        torch.manual_seed(i)
        if kind == "foreign":
            memory.sub_(v)
        assert torch.equal(found, function(v))
    assert product.count is None


def test_a_product_may_be_overwritten_without_harm():
    H = Hessian(lambda u: (u**2).sum(-1) / 2 + u[:, 0] ** 4, torch.ones(1, 3).double())
    for _ in range(6):
        v = torch.ones(1, 3).double()
        found = H(v)
        assert found.tolist() == [[13.0, 1.0, 1.0]]
        found.zero_()
        assert v.tolist() == [[1.0, 1.0, 1.0]]
