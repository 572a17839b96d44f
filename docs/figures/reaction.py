"""Draws the figures of docs/reaction.md: python docs/figures/reaction.py."""

from pathlib import Path

import cvxpy as cp

import bilevel as bl
from bilevel import plots

HERE = Path(__file__).parent


def main() -> None:
    """Save all figures beside this file."""
    for name, mark, span in (("T2", 2.0, (-1.5, 3.0)), ("T3", 0.5, None), ("T4", 2.0, None)):
        found = bl.reaction(bl.instances.get(name).problem)
        figure = plots.reaction(found, mark=[mark], span=span)
        figure.savefig(HERE / f"reaction-{name}.png", dpi=110)
    x, y = cp.Variable(2, name="x"), cp.Variable(2, name="y")
    follower = bl.Follower(
        cp.Minimize(cp.sum_squares(y - x)), [y >= 0, cp.sum(y) <= 1], variables=[y]
    )
    leader = cp.Minimize(cp.sum_squares(x - 1.5) - 6 * y[0] - 3 * y[1])
    problem = bl.Problem(leader, [x >= -1, x <= 2], followers=[follower])
    solution = bl.solve(problem, bl.Substitution())
    figure = plots.reaction(bl.reaction(problem), mark=solution[x])
    figure.savefig(HERE / "reaction-plane.png", dpi=110)


if __name__ == "__main__":
    main()
