"""The paper's own algorithm for a whole problem: GMRES around conjugate gradients."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, gmres
from torch import Tensor
from torch.linalg import vecdot

from bilevel.adjoints.smooth.krylov import Solved, cg, minres
from bilevel.adjoints.smooth.stationarity import Hessian, Stationarity, gradients
from bilevel.errors import UnsupportedDerivative

_RESTART = 50


class Accuracy(Protocol):
    """How accurately systems are to be solved."""

    @property
    def rtol(self) -> float:
        """Relative residual."""
        ...

    @property
    def max_steps(self) -> int:
        """Most steps, one product each."""
        ...


def nested(st: Stationarity, u: Tensor, b: Tensor, accuracy: Accuracy) -> Solved:
    """Return the solution of the symmetric system by eliminating ``v`` in every product.

    .. code-block:: text

        [F_x' G_x'; F_y' G_y'] [lam; gam] = -[L_x; L_y]
        G = grad_y f,    F = F_x - G_x' G_y^-1 F_y

    Parameters
    ----------
    st, u
        The scalars and the answer; neither level may have constraints.
    b
        Minus the gradient in ``u``, shape ``(B, n + 2 m)``; its last ``m`` entries must be zero.
    accuracy
        Of the outer iteration; the inner one is a hundred times as accurate.

    Returns
    -------
    Solved
        ``(lam, -G_y^-1 ..., -gam)``: what the symmetric system has for solution.

    References
    ----------
    Alesiani (2023), *Implicit Bilevel Optimization: Differentiating through Bilevel Optimization
    Programming* (BIGRAD), AAAI, Algorithm 1 and appendix A.6, with the transposes that are
    missing in print.
    """
    n, m = st.sizes[:2]
    if any(st.sizes[2:]) or st.instances.problem.zero_sum:
        raise UnsupportedDerivative(
            "The nested method takes problems without constraints that are not zero-sum; "
            "use Implicit(method='minres')."
        )
    x, y = (part.detach().requires_grad_() for part in u.split([n, m, m], -1)[:2])
    follower = Hessian(lambda w: st.follower(x, w), y)
    inner = {"rtol": accuracy.rtol / 100, "max_steps": accuracy.max_steps}

    def inverse(v: Tensor) -> Tensor:
        found = cg(follower, v, **inner)
        return found.x if bool(found.is_positive.all()) else minres(follower, v, **inner).x

    with torch.enable_grad():
        f_x, f_y = gradients(st.instances.value("f", x, y), (x, y))
        F_x, F_y = gradients(st.instances.value("F", x, y), (x, y))
        v0 = inverse(F_y.detach())
        (along_v0,) = gradients(vecdot(f_y, v0), (y,))

    def product(a: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            (G_x_a,) = gradients(vecdot(f_x, a), (y,))
            q = inverse(G_x_a.detach())
            S = vecdot(a, F_x) - vecdot(G_x_a, v0) + vecdot(c, f_y)
            S = S - vecdot(q, F_y) + vecdot(q, along_v0)
            S_x, S_y = torch.autograd.grad(
                S.sum(), (x, y), retain_graph=True, allow_unused=True, materialize_grads=True
            )
        return S_x, S_y, q

    def flat(vector: np.ndarray) -> np.ndarray:
        both = torch.from_numpy(vector).to(u).reshape(len(u), n + m)
        S_x, S_y, _ = product(both[:, :n], both[:, n:])
        return torch.cat([S_x, S_y], -1).reshape(-1).cpu().numpy()

    size = len(u) * (n + m)
    operator = LinearOperator((size, size), matvec=flat, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    rhs = b[:, : n + m].reshape(-1).cpu().numpy()
    count = 0

    def counted(_: float) -> None:
        nonlocal count
        count += 1

    found, _ = gmres(
        operator,
        rhs,
        rtol=accuracy.rtol,
        atol=0.0,
        restart=_RESTART,
        maxiter=max(1, accuracy.max_steps // _RESTART),
        callback=counted,
        callback_type="pr_norm",
    )
    both = torch.from_numpy(found).to(u).reshape(len(u), n + m)
    lam = both[:, :n]
    gam = both[:, n:]
    q = product(lam, gam)[2]
    rest = np.linalg.norm(flat(found) - rhs) / max(float(np.linalg.norm(rhs)), 1e-300)
    residual = torch.full_like(u[:, 0], float(rest))
    return Solved(
        torch.cat([lam, -q, -gam], -1), residual, count, torch.ones_like(residual, dtype=torch.bool)
    )
