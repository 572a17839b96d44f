"""DAQP over a batch: what it returns is optimal, and threads change no bit of it."""

import numpy as np
import pytest

from bilevel.backends import daqp_batch
from bilevel.backends.daqp_batch import solve_distances
from bilevel.errors import BackendError


def _batch(count, n, m, equalities, seed=0):
    rng = np.random.default_rng(seed)
    W, v = rng.normal(size=(count, m, n)), rng.normal(size=(count, n))
    b = (W @ rng.normal(size=(count, n, 1)))[..., 0]
    b[:, equalities:] += abs(rng.normal(size=(count, m - equalities)))
    return W, v, b


def _is_optimal(W, v, b, u, z, equalities):
    rest = b - np.einsum("bij,bj->bi", W, u)
    assert abs(u + v + np.einsum("bij,bi->bj", W, z)).max() < 1e-9
    assert abs(rest[:, :equalities]).max(initial=0) < 1e-9
    assert rest.min() > -1e-9
    assert z[:, equalities:].min() > -1e-9
    assert abs(rest * z).max() < 1e-8


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_large_batches_are_optimal_and_threads_change_no_bit(threads):
    count, n, m, equalities = 90, 60, 80, 12
    assert count * n * m >= daqp_batch._LONG
    W, v, b = _batch(count, n, m, equalities)
    W[7, -2:] = [np.eye(n)[0], -np.eye(n)[0]]
    b[7, -2:] = -1.0  # no point has x <= -1 and -x <= -1
    u, z, solved = solve_distances(W, v, b, equalities, threads=threads)
    assert np.flatnonzero(~solved).tolist() == [7]
    _is_optimal(*(part[solved] for part in (W, v, b, u, z)), equalities)
    for other, mine in zip(solve_distances(W, v, b, equalities), (u, z, solved), strict=True):
        assert np.array_equal(other, mine)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_exception_in_a_thread_is_named(threads, monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError("no room")

    monkeypatch.setattr(daqp_batch.daqp, "solve", fail)
    with pytest.raises(BackendError, match="DAQP failed: no room"):
        solve_distances(*_batch(90, 60, 80, 0), 0, threads=threads)


def test_without_rows_the_answer_is_the_unconstrained_one():
    W, v, b = _batch(3, 4, 0, 0)
    u, z, solved = solve_distances(W, v, b, 0)
    assert np.array_equal(u, -v)
    assert z.shape == (3, 0)
    assert solved.all()
