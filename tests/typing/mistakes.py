"""A user's mistakes: every ``ignore`` must be needed, so that each of them is an error.

mypy checks the code in brackets, pyright only that there is an error.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

import cvxpy as cp
import torch

import bilevel as bl

x, y = cp.Variable(name="x"), cp.Variable(name="y")
follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
problem = bl.Problem(cp.Minimize(x + y), [x >= 0], followers=[follower])
smooth = bl.SmoothProblem(F=lambda x, y: (x - 2) ** 2 + y, f=lambda x, y: (y - x) ** 2)
zero = torch.zeros(())

bl.solve(problem, "scip")  # type: ignore[call-overload]  # a solver is an object
bl.solve(problem, bl.ReducedNewton())  # type: ignore[call-overload]  # a solver of smooth problems
bl.solve(problem, rtol="small")  # type: ignore[call-overload]  # no number
bl.solve(problem, tolerance=1e-3)  # type: ignore[call-overload]  # no such keyword
bl.solve(problem, parameters=3.0)  # type: ignore[call-overload]  # no mapping
bl.solve(problem, start=3.0)  # type: ignore[call-overload]  # no point
bl.solve(smooth, start=(zero, zero), options={"no_such": 1})  # type: ignore[call-overload]  # not used by this kind
bl.solve(smooth, start=(zero, zero), rtol=1e-3)  # type: ignore[call-overload]  # not used by this kind
bl.solve(smooth, bl.Auto(), start=(zero, zero))  # type: ignore[call-overload]  # a solver of matrices
bl.solve(smooth)  # type: ignore[call-overload]  # the start is missing
bl.solve(3.0)  # type: ignore[call-overload]  # no problem
bl.Problem(cp.Minimize(x), [], [follower], stance="hopeful")  # type: ignore[arg-type]  # no such stance
print(bl.solve(problem).leader_valu)  # type: ignore[attr-defined]  # no such attribute
print(bl.NoSuchName)  # type: ignore[attr-defined]  # no such name
