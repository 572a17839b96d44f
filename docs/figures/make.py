"""The figures of the documentation: ``python docs/figures/make.py [NAME ...]``."""

from __future__ import annotations

import itertools
import sys
import warnings
from pathlib import Path

import applications
import cvxpy as cp
import gallery
import numpy as np
import reaction
import records
from matplotlib.figure import Figure
from scipy.optimize import linprog

import bilevel as bl
from bilevel.plots.style import COLOURS, DOTTED, GREY, clean, figure_of

BLUE, RED, GREEN = COLOURS[:3]


def panels(count: int) -> tuple[Figure, list]:
    """Return a figure with panels side by side."""
    figure = figure_of(figsize=(4.2 * count, 3.6))
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for each in axes:
        clean(each)
    return figure, axes


def mark(axes, x, y, label, colour, place, hollow=False):
    """Draw one point with its name."""
    face = "white" if hollow else colour
    axes.plot([x], [y], "o", color=colour, markerfacecolor=face, markersize=7, zorder=4)
    axes.annotate(label, (x, y), place, textcoords="offset points", fontsize=9, color=colour)


def values(problem, xs, which="optimistic_value"):
    """Return the leader's value at each decision, the follower being solved."""
    return np.array([getattr(bl.verify(problem, {"x": float(x)}), which) for x in xs])


def home() -> Figure:
    """Return the profit of the seller on the home page, with both of its maxima."""
    worth = np.array([14.0, 6.0])
    price, bought = cp.Variable(name="price"), cp.Variable(2, name="bought")
    gain = (worth - price) @ bought - cp.sum_squares(bought) / 2
    buyers = bl.Follower(cp.Maximize(gain), [bought >= 0], [bought])
    profit = cp.Maximize((price - 1) * cp.sum(bought))
    problem = bl.Problem(profit, [price >= 0, price <= 20], [buyers])
    best = bl.solve(problem)
    figure = figure_of(figsize=(6.4, 3.5))
    axes = figure.subplots()
    clean(axes)
    prices = np.linspace(2, 14, 97)
    points = [bl.verify(problem, {"price": float(p)}) for p in prices]
    axes.plot(prices, [each.optimistic_value for each in points], color=BLUE, linewidth=1.8)
    axes.axvline(6, color=GREY, linewidth=1.0, linestyle=(0, (4, 2)))
    axes.annotate("here one buyer leaves", (6.1, 16), fontsize=9, color="#606060")
    mark(axes, 5.5, 40.5, "local maximum 40.5", GREEN, (-118, 2))
    mark(axes, float(best[price]), best.leader_value, "proved maximum 42.25", RED, (6, 5))
    axes.set_xlabel("price")
    axes.set_ylabel("profit, once the buyers responded")
    return figure


def emergent() -> Figure:
    """Return what the leader minimizes in T2, and in T3 with two objectives."""
    figure, (left, right) = panels(2)
    xs = np.linspace(-0.4, 2.8, 65)
    left.plot(xs, values(bl.instances.get("T2").problem, xs), color=BLUE, linewidth=1.8)
    left.plot([0, 2], [5, 4], color=GREY, linewidth=1.2, linestyle=(0, (4, 2)))
    left.annotate(
        "a chord below\nthe graph",
        (0.25, 4.9),
        (-20, 18),
        textcoords="offset points",
        fontsize=9,
        color="#606060",
    )
    mark(left, 0.5, 4.5, "local minimum", GREEN, (-30, -15))
    mark(left, 1.0, 5.0, "kink", RED, (6, 4))
    mark(left, 2.0, 4.0, "minimum", BLUE, (-20, -15))
    left.set_ylim(3.6, 6.4)
    left.set_title("T2: both levels are convex", loc="left", fontsize=10)

    problem = bl.instances.get("T3").problem
    x, (y,) = problem.variables[0], problem.followers[0].variables
    xs = np.linspace(-0.4, 1.2, 33)
    right.plot(xs, values(problem, xs), color=BLUE, linewidth=1.8, label="x − 2y₁ − 2y₂")
    other = problem.replace(objective=cp.Minimize(3 * x - cp.sum(y)))
    right.plot(xs, values(other, xs), color=RED, linewidth=1.8, label="3x − y₁ − y₂")
    mark(right, 0.5, -1.5, "minimum at the kink", BLUE, (-22, -15))
    mark(right, 0.5, 0.5, "passes the printed test,\nno minimum", RED, (10, -14), hollow=True)
    right.set_ylim(-2.0, 3.0)
    right.set_title("T3: a test of the kink", loc="left", fontsize=10)
    right.legend(frameon=False, fontsize=9, loc="upper left")
    for axes in (left, right):
        axes.set_xlabel("x")
    left.set_ylabel("leader's value with the follower's response")
    return figure


def spurious() -> Figure:
    """Return the followers of T7 and T7b with their stationary points."""
    figure, axes = panels(2)
    y, a = np.linspace(-1.02, 1.02, 201), 0.1
    wells = {
        "T7: y⁴ − y²": (lambda y: y**4 - y**2, [0.0]),
        "T7b: y⁶/6 − 0.15 y⁴ + 0.025 y²": (
            lambda y: y**6 / 6 - (a + 0.5) * y**4 / 4 + 0.25 * a * 2 * y**2 / 2,
            [0.0, np.sqrt(a), -np.sqrt(a)],
        ),
    }
    for each, (title, (f, others)) in zip(axes, wells.items(), strict=True):
        each.plot(y, f(y), color=BLUE, linewidth=1.8)
        each.plot(
            [-np.sqrt(0.5), np.sqrt(0.5)],
            [f(np.sqrt(0.5))] * 2,
            "o",
            color=BLUE,
            zorder=4,
            label="best responses",
        )
        each.plot(
            others,
            [f(v) for v in others],
            "o",
            color=RED,
            markerfacecolor="white",
            zorder=4,
            label="stationary, no answers",
        )
        each.set_title(title, loc="left", fontsize=10)
        each.set_xlabel("y")
        each.legend(frameon=False, fontsize=9, loc="upper center")
    axes[0].set_ylim(-0.28, 0.12)
    axes[1].set_ylim(-0.006, 0.02)
    axes[0].set_ylabel("follower's objective")
    return figure


def unattained() -> Figure:
    """Return what the seller of T4 earns at each price, hopeful and careful."""
    figure, (axes,) = panels(1)
    problem, xs = bl.instances.get("T4").problem, np.linspace(0, 2, 21)
    axes.plot(xs, values(problem, xs), color=BLUE, linewidth=1.8, label="any stance")
    axes.plot([2, 3], [0, 0], color=BLUE, linewidth=1.8)
    mark(axes, 2.0, 2.0, "optimistic: 2, attained", GREEN, (-128, -3))
    axes.plot([2.0], [2.0], "o", color=RED, markerfacecolor="none", markersize=11, zorder=5)
    axes.annotate(
        "pessimistic: 2, never attained",
        (2, 2),
        (-150, 12),
        textcoords="offset points",
        fontsize=9,
        color=RED,
    )
    worst = values(problem, [2.0], "pessimistic_value")[0]
    mark(axes, 2.0, worst, "the worst response\nat a price of 2", RED, (-44, 12))
    axes.set_ylim(-0.15, 2.5)
    axes.set_xlabel("price x")
    axes.set_ylabel("revenue")
    return figure


def multipliers() -> Figure:
    """Return a local optimum that multipliers invent, and the value that they undercut."""
    figure, (left, right) = panels(2)
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(-y), [x + y <= 1, -x + y <= 1], variables=[y])
    leader = cp.Minimize(cp.square(x - 1) + cp.square(y - 1))
    problem = bl.Problem(leader, [x >= -1], followers=[follower])
    xs = np.linspace(-0.6, 1.0, 33)
    left.plot(xs, values(problem, xs), color=BLUE, linewidth=1.8)
    mark(left, 0.5, 0.5, "minimum", BLUE, (-18, -15))
    mark(left, 0.0, 1.0, "local minimum for\nthe multipliers (0, 1)", RED, (8, 6), hollow=True)
    left.set_ylim(0.2, 3.0)
    left.set_ylabel("leader's value")
    left.set_title("Multipliers that are not unique", loc="left", fontsize=10)

    xs, A = np.linspace(1, 4, 13), np.array([[1, 1], [1, 0], [0, 1]])
    right.plot(
        xs,
        values(bl.instances.get("T9").problem, xs),
        color=BLUE,
        linewidth=1.8,
        label="value v(x)",
    )
    taken = [linprog([1 + v, 0, v / 4], A_eq=A.T, b_eq=[2, 3]).fun for v in xs]
    right.plot(xs, taken, color=RED, linewidth=1.8, label="dual objective, left to the leader")
    mark(right, 1.0, 4.25, "4.25", BLUE, (6, -12))
    mark(right, 1.0, 0.75, "0.75", RED, (6, -12), hollow=True)
    right.set_ylim(-0.8, 12)
    right.set_title("T9: minimizing a value", loc="left", fontsize=10)
    right.legend(frameon=False, fontsize=9, loc="upper left")
    for axes in (left, right):
        axes.set_xlabel("x")
    return figure


def random_problem(seed: int) -> tuple[np.ndarray, ...]:
    """Return integer data of a linear problem with one leader and two follower variables."""
    rng = np.random.default_rng(seed)
    A, B = rng.integers(-3, 4, (4, 2)), rng.integers(-3, 4, (4, 1)).ravel()
    b = A @ rng.integers(0, 3, 2) - rng.integers(0, 3, 4)
    f = A.T @ rng.integers(0, 3, 4)
    return A, B, b, f, rng.integers(-3, 4, 1)[0], rng.integers(-3, 4, 2)


def enumerated(A, B, b, f, c, d) -> float | None:
    """Return the optimum by one linear program for each complementarity pattern, without an M."""
    best = None
    for active in itertools.product((False, True), repeat=4):
        on = np.array(active)
        rows = np.hstack([-B[:, None], A, np.zeros((4, 4))])
        found = linprog(
            [c, *d, 0, 0, 0, 0],
            A_ub=-rows,
            b_ub=-b,
            A_eq=np.vstack([rows[on], np.hstack([np.zeros((2, 3)), A.T])]),
            b_eq=[*b[on], *f],
            bounds=[(0, 1), (None, None), (None, None), *((0, None if flag else 0) for flag in on)],
        )
        if found.status == 3:
            return None
        if found.status == 0 and (best is None or found.fun < best):
            best = found.fun
    return best


def claimed(A, B, b, f, c, d, M, solver) -> float | None:
    """Return what a mixed-integer solver calls the optimum for an M."""
    x, y = cp.Variable(), cp.Variable(2)
    lam, z = cp.Variable(4, nonneg=True), cp.Variable(4, boolean=True)
    slack = A @ y - B * x - b
    rows = [x >= 0, x <= 1, slack >= 0, A.T @ lam == f, slack <= M * (1 - z), lam <= M * z]
    problem = cp.Problem(cp.Minimize(c * x + d @ y), rows)
    try:
        problem.solve(solver=solver)
    except cp.SolverError:
        return None
    return problem.value if problem.status == "optimal" else None


def big_m() -> Figure:
    """Return how often what a solver claims is wrong, by M."""
    figure, (axes,) = panels(1)
    warnings.simplefilter("ignore")
    problems = [(data, enumerated(*data)) for data in map(random_problem, range(100))]
    problems = [(data, best) for data, best in problems if best is not None]
    sizes = 10.0 ** np.arange(0, 10)
    for solver, colour in (("HiGHS", BLUE), ("SCIP", RED)):
        wrong = []
        for M in sizes:
            answers = [(claimed(*data, M, solver.upper()), best) for data, best in problems]
            wrong.append(np.mean([a is None or abs(a - best) > 1e-3 for a, best in answers]))
        axes.semilogx(sizes, 100 * np.array(wrong), "o-", color=colour, label=solver)
    axes.set_xlabel("M")
    axes.set_ylabel("wrong answers (%)")
    axes.set_title(f"{len(problems)} linear problems, 1 + 2 variables", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    return figure


def lifting() -> Figure:
    """Return what penalties of T22 leave of the constraint and of the leader's value."""
    figure, (left, right) = panels(2)
    problem = bl.instances.get("T22").problem
    row = problem.followers[0].constraints[0]

    def lifted(weight, penalty, atol):
        twin = bl.lift(problem, row, penalty=penalty, weight=float(weight), atol=atol)
        return bl.solve(twin)

    weights = 10.0 ** np.arange(0, 5)
    points = [lifted(w, "quadratic", 1.0) for w in weights]
    left.loglog(weights, [p["x"] - p["y"] for p in points], "o-", color=RED, label="quadratic")
    left.loglog(
        weights,
        1 / (1 + 2 * weights),
        color=GREY,
        linestyle=(0, (4, 2)),
        label="1 / (1 + 2 weight)",
    )
    left.set_xlabel("weight")
    left.set_ylabel("violation of y ≥ x at x = 1")
    left.set_title("A quadratic price never suffices", loc="left", fontsize=10)
    left.legend(frameon=False, fontsize=9)
    weights = np.linspace(0.1, 2.0, 20)
    found = [lifted(w, "l1", 0.0).leader_value for w in weights]
    right.plot(weights, found, "o-", color=BLUE, markersize=4, label="absolute price")
    right.axhline(0, color=RED, linewidth=1.6, label="dropped")
    right.axhline(-1, color="black", linewidth=0.9, linestyle=DOTTED, label="original")
    right.set_xlabel("weight")
    right.set_ylabel("leader's best value")
    right.set_title("An absolute price does, from the multiplier on", loc="left", fontsize=10)
    right.legend(frameon=False, fontsize=9, loc="center right")
    return figure


FIGURES = {
    "home": home,
    "emergent": emergent,
    "spurious": spurious,
    "unattained": unattained,
    "multipliers": multipliers,
    "big-m": big_m,
    "lifting": lifting,
    **applications.FIGURES,
    **gallery.FIGURES,
    **records.FIGURES,
    **reaction.FIGURES,
}


def main(folder: Path, names: list[str]) -> None:
    """Draw the figures into a folder."""
    for name in names or FIGURES:
        FIGURES[name]().savefig(folder / f"{name}.png", metadata={"Software": None})


if __name__ == "__main__":
    main(Path(__file__).parent, sys.argv[1:])
