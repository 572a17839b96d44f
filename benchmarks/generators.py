"""Random bilevel problems as plain arrays, with a planted follower answer.

A point ``(x0, y0)`` is drawn first; right-hand sides make it feasible and the follower's linear
cost is chosen such that ``y0`` is a best response to ``x0``. Entries are small integers, so
degenerate vertices, ties and redundant rows are common. Every sixth problem is broken on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

Array = np.ndarray

FAMILIES = ("LP-LP", "QP-QP", "binary LP", "binary QP", "pessimistic")
_BROKEN = (
    "leader contradicts itself",
    "coupling cuts the plant",
    "follower infeasible",
    "follower unbounded",
    "leader unbounded",
)
_EVERY_NTH = 6
_ONE_SIDED, _STEEP = "rows to one side", "steep follower"


@dataclass(frozen=True, eq=False)
class RandomProblem:
    r"""A bilevel problem in arrays; both levels are stored as minimizations.

    .. code-block:: text

        min  z'Q z/2 + c'z        z = (x, y), lower <= x <= upper, x[binary] in {0, 1}
        s.t. G z <= g             (== where g_equal)
             y in argmin { y'P y/2 + (R'x + q)'y :
                           A x + (B + sum_i x_i T_i) y <= b (== where equal) }

    ``leader_maximizes`` and ``follower_maximizes`` say how it is handed to a modelling language
    (``maximize -F``), ``scale`` and ``cost_scale`` by which factors the follower's rows and cost
    are multiplied there: other units change no answer, but multipliers.
    """

    name: str
    family: str
    traits: tuple[str, ...]
    binary: Array
    lower: Array
    upper: Array
    Q: Array
    c: Array
    G: Array
    g: Array
    g_equal: Array
    P: Array
    R: Array
    q: Array
    A: Array
    B: Array
    T: Array
    b: Array
    equal: Array
    scale: Array
    leader_maximizes: bool
    follower_maximizes: bool
    pessimistic: bool
    cost_scale: float = 1.0

    @property
    def nx(self) -> int:
        return len(self.binary)

    @property
    def ny(self) -> int:
        return len(self.q)

    @property
    def sign(self) -> float:
        """Between the stored minimization and the leader's own sense."""
        return -1.0 if self.leader_maximizes else 1.0

    @property
    def has_products(self) -> bool:
        return bool(self.T.any() or self.R.any())


def draw(family: str, number: int) -> RandomProblem:
    """Return problem ``number`` of a family, always the same one."""
    rng = np.random.default_rng([FAMILIES.index(family), number])
    traits = _traits(rng, family, number)
    binary = _binary(rng, family, traits)
    nx, ny = len(binary), int(rng.integers(2, 4))
    m = int(rng.integers(3, 6))
    lower = np.where(binary, 0.0, -rng.integers(0, 5, nx))
    upper = np.where(binary, 1.0, rng.integers(1, 8, nx))
    x0 = np.array([rng.integers(lo, up + 1) for lo, up in zip(lower, upper, strict=True)], float)
    y0 = _integers(rng, 3, ny)

    A, B = _sparse(rng, 3, (m, nx), 0.6), _rows(rng, 4, (m, ny))
    if _ONE_SIDED in traits:
        B = np.where((B @ np.ones(ny) < 0)[:, None], -B, B)
        B[B @ np.ones(ny) == 0, 0] += 1.0
    T = np.zeros((nx, m, ny))
    if "products in rows" in traits:
        T[0] = _sparse(rng, 2, (m, ny), 0.4)
    R = _sparse(rng, 2, (nx, ny), 0.5) if "products in cost" in traits else np.zeros((nx, ny))
    equal = np.zeros(m, bool)
    equal[0] = "follower equation" in traits
    slack = np.where(equal | (rng.random(m) < 0.55), 0.0, rng.integers(1, 6, m))
    at = B + np.tensordot(x0, T, 1)
    b = A @ x0 + at @ y0 + slack
    lam = np.where(slack == 0, rng.integers(0, 4, m), 0.0)
    if equal[0]:
        lam[0] = rng.integers(-2, 3)
    P = _curvature(rng, ny, family, "follower")
    q = -(P @ y0 + R.T @ x0 + at.T @ lam)
    n = nx + ny
    Q, c = _curvature(rng, n, family, "leader"), _integers(rng, 5, n)
    flags = [f"{who} maximizes" in traits for who in ("leader", "follower")]
    nothing = (np.zeros((0, n)), np.zeros(0), np.zeros(0, bool))
    problem = RandomProblem(
        f"{family} {number:03d}",
        family,
        traits,
        *(binary, lower, upper, Q, c),
        *nothing,
        *(P, R, q, A, B, T, b, equal, np.ones(m)),
        *flags,
        pessimistic=family == "pessimistic",
        cost_scale=10.0 ** (2 + number // _EVERY_NTH % 4) if _STEEP in traits else 1.0,
    )
    return _dress(rng, problem, np.concatenate([x0, y0]))


def _traits(rng: np.random.Generator, family: str, number: int) -> tuple[str, ...]:
    chances = {
        "leader maximizes": 0.4,
        "follower maximizes": 0.4,
        "follower equation": 0.3,
        "leader row": 0.5,
        "coupling row": 0.45,
        "coupling equation": 0.1,
        "free leader variable": 0.25 if not family.startswith(("binary", "pess")) else 0.0,
        "continuous leader variable too": 0.3 if family.startswith("binary") else 0.0,
        "products in cost": 0.3,
        "products in rows": 0.4 if family.startswith(("binary", "pess")) else 0.0,
        "duplicated row": 0.25,
        "combined row": 0.2,
        "box around the answer": 1.0 if family == "pessimistic" else 0.25,
        "leader bounds the answer": 0.5,
        "scaled rows": 0.3,
        "fixed leader variable": 0.08,
    }
    found = [name for name, chance in chances.items() if rng.random() < chance]
    if number % _EVERY_NTH == _EVERY_NTH - 1:
        # The pessimistic oracle wants binaries only.
        kinds = _BROKEN[:-1] if family == "pessimistic" else _BROKEN
        found.append(kinds[(number // _EVERY_NTH) % len(kinds)])
    if number % _EVERY_NTH == 0:
        found.append(_STEEP)
    if number % _EVERY_NTH == 3 and family != "pessimistic":
        # Multipliers are bounded, so that bounds on them can be derived.
        spoilers = ("box around the answer", "products in rows", "free leader variable")
        found = [name for name in found if name not in spoilers]
        found += [_ONE_SIDED, "leader bounds the answer"]
    return tuple(found)


def _binary(rng: np.random.Generator, family: str, traits: tuple[str, ...]) -> Array:
    if not family.startswith(("binary", "pess")):
        return np.zeros(int(rng.integers(1, 4)), bool)
    extra = "continuous leader variable too" in traits
    return np.array([True] * int(rng.integers(2, 4)) + [False] * extra)


def _curvature(rng: np.random.Generator, n: int, family: str, level: str) -> Array:
    """Positive semidefinite, singular in one case of three; sometimes none at all."""
    wanted = "QP" in family and (level == "follower" or rng.random() < 0.7)
    if not wanted:
        return np.zeros((n, n))
    rank = n if rng.random() < 2 / 3 else int(rng.integers(1, n))
    factor = _integers(rng, 2, (rank, n))
    return factor.T @ factor + (np.eye(n) if rank == n else 0.0)


def _dress(rng: np.random.Generator, p: RandomProblem, z0: Array) -> RandomProblem:
    """Add what the traits ask for; all but the broken ones keep ``z0`` feasible and planted."""
    x0 = z0[: p.nx]
    if "duplicated row" in p.traits:
        r = int(rng.integers(len(p.b)))
        p = _more(p, p.A[[r]] * 2, p.B[[r]] * 2, p.b[[r]] * 2, p.T[:, [r]] * 2)
    if "combined row" in p.traits:
        pick = rng.integers(0, 2, len(p.b)) * ~p.equal
        if pick.any():
            p = _more(p, pick @ p.A, pick @ p.B, pick @ p.b, np.einsum("m,imy->iy", pick, p.T))
    if "box around the answer" in p.traits:
        box = np.vstack([np.eye(p.ny), -np.eye(p.ny)])
        p = _more(p, np.zeros((2 * p.ny, p.nx)), box, np.full(2 * p.ny, 6.0))
    if "free leader variable" in p.traits:
        p = replace(p, lower=_at(p.lower, 0, -np.inf), upper=_at(p.upper, 0, np.inf))
    if "fixed leader variable" in p.traits:
        p = replace(p, lower=_at(p.lower, -1, x0[-1]), upper=_at(p.upper, -1, x0[-1]))
    n = p.nx + p.ny
    if "leader row" in p.traits:
        row = np.concatenate([_rows(rng, 3, (1, p.nx))[0], np.zeros(p.ny)])
        p = _lead(p, row, row @ z0 + rng.integers(0, 4))
    if "coupling row" in p.traits:
        row = _rows(rng, 3, (1, n))[0]
        p = _lead(p, row, row @ z0 + rng.integers(0, 5))
    if "coupling equation" in p.traits:
        row = _rows(rng, 2, (1, n))[0]
        p = _lead(p, row, row @ z0, True)
    if "leader bounds the answer" in p.traits:
        for j in range(p.ny):
            for side in (1.0, -1.0):
                p = _lead(p, side * np.eye(n)[p.nx + j], 25.0)
    p = _break(rng, p, z0)
    if "scaled rows" in p.traits:
        p = replace(p, scale=10.0 ** rng.integers(-2, 2, len(p.b)))
    return p


def _break(rng: np.random.Generator, p: RandomProblem, z0: Array) -> RandomProblem:
    if "leader contradicts itself" in p.traits:
        row = np.concatenate([_rows(rng, 3, (1, p.nx))[0], np.zeros(p.ny)])
        p = _lead(_lead(p, row, row @ z0 - 1), -row, -(row @ z0))
    if "coupling cuts the plant" in p.traits:
        row = np.concatenate([np.zeros(p.nx), _rows(rng, 3, (1, p.ny))[0]])
        p = _lead(p, row, row @ z0 - rng.integers(3, 12))
    if "follower infeasible" in p.traits:
        p = _more(p, -p.A[[-1]], -p.B[[-1]], -p.b[[-1]] - 1, -p.T[:, [-1]])
    if "follower unbounded" in p.traits:
        keep = np.zeros(len(p.b), bool)
        keep[0] = True
        still = {"A": p.A[keep], "B": p.B[keep], "T": p.T[:, keep], "b": p.b[keep]}
        flat = np.zeros_like(p.P)
        still |= {"equal": p.equal[keep], "scale": p.scale[keep], "P": flat}
        p = replace(p, **still, q=p.q + p.B[0] * 2 + np.eye(p.ny)[0])
    if "leader unbounded" in p.traits:
        # A new leader variable that the follower does not see, without limit.
        place = p.nx
        push = rng.choice([-1.0, 1.0])
        p = replace(
            p,
            binary=np.append(p.binary, False),
            lower=np.append(p.lower, -np.inf if push > 0 else 0.0),
            upper=np.append(p.upper, 0.0 if push > 0 else np.inf),
            Q=np.insert(np.insert(p.Q, place, 0.0, 0), place, 0.0, 1),
            c=np.insert(p.c, place, push),
            G=np.insert(p.G, place, 0.0, 1),
            R=np.vstack([p.R, np.zeros((1, p.ny))]),
            A=np.hstack([p.A, np.zeros((len(p.b), 1))]),
            T=np.concatenate([p.T, np.zeros((1, len(p.b), p.ny))]),
        )
    return p


def _more(p: RandomProblem, A: Array, B: Array, b: Array, T: Array | None = None) -> RandomProblem:
    """Add follower inequalities."""
    A, B, b = np.atleast_2d(A), np.atleast_2d(B), np.atleast_1d(b)
    T = np.zeros((p.nx, len(b), p.ny)) if T is None else T.reshape(p.nx, len(b), p.ny)
    return replace(
        p,
        A=np.vstack([p.A, A]),
        B=np.vstack([p.B, B]),
        b=np.append(p.b, b),
        T=np.concatenate([p.T, T], axis=1),
        equal=np.append(p.equal, np.zeros(len(b), bool)),
        scale=np.append(p.scale, np.ones(len(b))),
    )


def _lead(p: RandomProblem, row: Array, rhs: float, equality: bool = False) -> RandomProblem:
    """Add a leader row."""
    flags = np.append(p.g_equal, equality)
    return replace(p, G=np.vstack([p.G, row]), g=np.append(p.g, rhs), g_equal=flags)


def _at(values: Array, place: int, value: float) -> Array:
    changed = values.astype(float).copy()
    changed[place] = value
    return changed


def _integers(rng: np.random.Generator, most: int, shape: int | tuple[int, ...]) -> Array:
    return rng.integers(-most, most + 1, shape).astype(float)


def _sparse(rng: np.random.Generator, most: int, shape: tuple[int, ...], density: float) -> Array:
    return _integers(rng, most, shape) * (rng.random(shape) < density)


def _rows(rng: np.random.Generator, most: int, shape: tuple[int, int]) -> Array:
    """Random rows of which none is empty."""
    rows = _sparse(rng, most, shape, 0.75)
    for row in rows:
        if not row.any():
            row[rng.integers(len(row))] = rng.choice([-1.0, 1.0])
    return rows
