"""The demo's second stop: the costs of a market, learned from a day of outputs and prices."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bilevel import plots
from bilevel.applications.market_clearing import MarketClearing, market_clearing
from bilevel.cli.report import console, save, say

# The PJM five-bus system: units with their MW, reactances per unit, limits and loads in MW.
_UNITS = {"Alta": 110, "Park City": 100, "Solitude": 520, "Sundance": 200, "Brighton": 600}
_NODE = {"Alta": "A", "Park City": "A", "Solitude": "C", "Sundance": "D", "Brighton": "E"}
_FREE = float("inf")
_LINES = [
    ("A", "B", 1 / 0.0281, 400.0),
    ("B", "C", 1 / 0.0108, _FREE),
    ("C", "D", 1 / 0.0297, _FREE),
    ("D", "E", 1 / 0.0297, 240.0),
    ("A", "D", 1 / 0.0304, _FREE),
    ("A", "E", 1 / 0.0064, _FREE),
]
_LOAD = {"B": 300.0, "C": 300.0, "D": 400.0}
# Percent of the peak in each hour of a winter day: IEEE Reliability Test System (1979), table 4.
_WEEKDAY = "67 63 60 59 59 60 74 86 95 96 96 95 95 95 93 94 99 100 100 96 91 83 73 63"
_WEEKEND = "78 72 68 66 64 65 66 70 80 88 90 91 90 88 87 87 91 100 99 97 94 92 87 81"
_WEEKEND_PEAK = 0.9
# Per MWh, and per MWh for each MW. The marginal costs are those of the five-bus system, which are
# constant there.
_COST = [14.0, 15.0, 30.0, 40.0, 10.0]
_RISE = [0.10, 0.12, 0.02, 0.05, 0.02]
_START_MIDDLE = 30.0
_START_SPAN = 20.0
_NOISE_MW = 2.0
_NOISE_PRICE = 0.2
_EVALUATIONS = 80


@dataclass(frozen=True)
class Fitted:
    """What the fit found, as arrays.

    Parameters
    ----------
    start, found
        Costs and rises before and after, shape (2, units).
    seen
        Observed outputs, shape (hours, units).
    before, after
        Outputs that both predict for the observed hours.
    errors
        Off by how much MW and per MWh on the held-out day, before and after, shape (2, 2).
    evaluations
        How often all hours were cleared and differentiated.
    seconds
        What that took.
    """

    start: Any
    found: Any
    seen: Any
    before: Any
    after: Any
    errors: Any
    evaluations: int
    seconds: float


def run(output: Path) -> None:
    """Learn the costs of a market from a day, print them, and save the fit as a figure."""
    market = market_clearing([(u, _NODE[u], most) for u, most in _UNITS.items()], _LINES)
    say(
        "\nAn operator clears a market of five units on the PJM five-bus network every hour. Its "
        "costs are hidden; a day of outputs and prices is seen, with noise."
    )
    try:
        with Console(stderr=True).status("learning; the first time ever, loops are compiled"):
            fitted = _fit(market)
    except ImportError as error:
        if error.name not in ("torch", "numba"):
            raise
        say(
            f"Learning them needs the package {error.name}, which is not installed: pip install "
            f'"bilevel[torch]". This part of the demo is left out.'
        )
        return
    console().print(_table(fitted))
    say(_what_to_see(fitted))
    predictions = {"start": fitted.before, "fitted": fitted.after}
    label = "output of the weekday (MW)"
    figure = plots.fit(fitted.seen, predictions, market.units, label=label)
    save(figure, output / "bilevel-demo-fit.png")


def _fit(market: MarketClearing) -> Fitted:
    """Fit costs and rises so that all hours of the weekday are predicted as they were seen."""
    import torch

    from bilevel.layers import FollowerLayer

    inputs = [market.cost, market.rise, market.demand]
    layer = FollowerLayer(market.operator, inputs, [market.output, market.price])
    demand = torch.from_numpy(_hours(market, _WEEKDAY))
    held_out = torch.from_numpy(_hours(market, _WEEKEND) * _WEEKEND_PEAK)
    truth = torch.tensor([_COST, _RISE], dtype=torch.float64)
    with torch.no_grad():
        seen = _noisy(layer(*truth, demand))
        wanted = layer(*truth, held_out)

    # Cost at half of the capacity and the logarithm of the span from zero to full output: cost
    # and rise of a unit would be confounded.
    capacity = torch.tensor(list(_UNITS.values()), dtype=torch.float64)
    middle = torch.full((5,), _START_MIDDLE, dtype=torch.float64)
    span = torch.full((5,), _START_SPAN, dtype=torch.float64)
    unknown = torch.stack([middle / 10, span.log()]).requires_grad_()

    def costs() -> Any:
        span = unknown[1].exp()
        return torch.stack([10 * unknown[0] - span / 2, span / capacity])

    optimizer = torch.optim.LBFGS(
        [unknown], max_iter=_EVALUATIONS, max_eval=_EVALUATIONS, line_search_fn="strong_wolfe"
    )
    count = 0

    def loss() -> Any:
        nonlocal count
        count += 1
        optimizer.zero_grad()
        output, price = layer(*costs(), demand)
        error = ((output - seen[0]) / _NOISE_MW).square().mean()
        error = error + ((price - seen[1]) / _NOISE_PRICE).square().mean()
        error.backward()
        return error

    start = costs().detach()
    began = time.perf_counter()
    # The matrices are small: where cores are busy, threads would only wait for each other. One
    # thread is kept: MKL may hang in batched LU factorizations once that is taken back.
    torch.set_num_threads(1)
    optimizer.step(loss)
    seconds = time.perf_counter() - began
    found = costs().detach()
    with torch.no_grad():
        before, after = (layer(*both, demand)[0].numpy() for both in (start, found))
        errors = [_errors(layer(*both, held_out), wanted) for both in (start, found)]
    return Fitted(
        start.numpy(), found.numpy(), seen[0].numpy(), before, after, errors, count, seconds
    )


def _errors(found: Any, wanted: Any) -> list[float]:
    """Return the root of the mean squared difference of outputs and of prices."""
    pairs = zip(found, wanted, strict=True)
    return [float((one - other).square().mean().sqrt()) for one, other in pairs]


def _hours(market: MarketClearing, percent: str) -> Any:
    """Return MW by hour and node."""
    load = np.array([_LOAD.get(str(node), 0.0) for node in market.network.nodes])
    return np.array([float(word) for word in percent.split()])[:, None] / 100 * load


def _noisy(answers: Any) -> list[Any]:
    """Return outputs and prices as they are seen."""
    rng = np.random.default_rng(0)
    noise = (_NOISE_MW, _NOISE_PRICE)
    return [
        clean + clean.new_tensor(rng.normal(0.0, size, clean.shape))
        for clean, size in zip(answers, noise, strict=True)
    ]


def _table(fitted: Fitted) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("unit", no_wrap=True)
    titles = ("MW", "cost: true", "start", "fitted", "rise: true", "start", "fitted")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for k, (unit, capacity) in enumerate(_UNITS.items()):
        costs = (_COST[k], fitted.start[0][k], fitted.found[0][k])
        rises = (_RISE[k], fitted.start[1][k], fitted.found[1][k])
        texts = [f"{value:.2f}" for value in costs] + [f"{value:.3f}" for value in rises]
        table.add_row(unit, str(capacity), *texts)
    return table


def _what_to_see(fitted: Fitted) -> str:
    """Return what the numbers mean, and two sentences on what they show."""
    (mw, price), (fitted_mw, fitted_price) = fitted.errors
    return (
        f"cost per MWh of a unit's first MW, rise per MWh for each MW more; {fitted.evaluations} "
        f"evaluations of the 24 hours and their gradient in {fitted.seconds:.1f} s.\n"
        f"What to see: on a weekend that was not used, outputs are off by {mw:.1f} MW and prices "
        f"by {price:.2f} before the fit, by {fitted_mw:.1f} and {fitted_price:.2f} after it; the "
        f"noise was {_NOISE_MW:g} and {_NOISE_PRICE:g}. The layer differentiates the operator's "
        f"answer by its costs, so that a gradient method finds them."
    )
