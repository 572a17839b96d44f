"""The field's test libraries, from their neutral form to this library's problems.

BASBLib and BOLIB lie outside the repository, in ``../shared/corpora`` (BOLIB's expressions come
from files under the GPL, so they are read there and copied nowhere).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import sympy

import bilevel as bl
from benchmarks.environment import ROOT

FOLDER = ROOT.parent / "shared" / "corpora"
#: |F - F*| <= TOLERANCE max(1, |F*|) is right.
TOLERANCE = 1e-4
_BASBLIB_CLASSES = ("LP-LP", "LP-QP", "QP-QP")


@dataclass(frozen=True, eq=False)
class Listed:
    """A problem of a library: strings in ``x[i]`` and ``y[j]``, ``G, g <= 0``, ``H, h == 0``.

    ``F_star`` is the value the library lists, ``own`` the value of the corpus' own search.
    """

    name: str
    library: str
    nx: int
    ny: int
    F: str
    f: str
    G: tuple[str, ...]
    H: tuple[str, ...]
    g: tuple[str, ...]
    h: tuple[str, ...]
    F_star: float
    own: float | None

    @property
    def reference(self) -> float:
        """The more precise of the two values.

        Lists print two to six digits, and the search reaches about seven. Where both agree within
        the tolerance, the listed value is the exact one (such as 225 beside 224.99998).
        """
        if self.own is None or abs(self.own - self.F_star) <= TOLERANCE * max(1, abs(self.F_star)):
            return self.F_star
        return self.own


def missing() -> str:
    """Return why the libraries cannot be read; empty if they can."""
    if (FOLDER / "basblib").is_dir() and (FOLDER / "bolib").is_dir():
        return ""
    return "the test libraries are not in ../shared/corpora, beside the repository."


def load() -> list[Listed]:
    """Return the problems with a confirmed value whose follower is an LP or a convex QP.

    Of BASBLib those of the folders LP-LP, LP-QP and QP-QP, whatever their follower turns out to be.
    """
    return [*_basblib(), *_bolib()]


def to_problem(listed: Listed) -> bl.Problem:
    """Return a listed problem in CVXPY, as a user would type it in.

    Terms of the leader of degree three and four become products of auxiliary leader variables,
    which equal products of two variables.
    """
    x = [cp.Variable(name=f"x{i}") for i in range(listed.nx)]
    y = [cp.Variable(name=f"y{j}") for j in range(listed.ny)]
    reader = _Reader(x, y)
    cost = reader.leader(listed.F)
    rows = [reader.leader(text) <= 0 for text in listed.G]
    rows += [reader.leader(text) == 0 for text in listed.H]
    follower = bl.Follower(
        cp.Minimize(reader.plain(listed.f)),
        [reader.plain(text) <= 0 for text in listed.g]
        + [reader.plain(text) == 0 for text in listed.h],
        variables=y,
        name="follower",
    )
    # Leader variables that only the follower's rows contain must be named by the leader too.
    rows += [0 * variable == 0 for variable in x]
    return bl.Problem(cp.Minimize(cost), [*rows, *reader.definitions], [follower])


class _Reader:
    """Strings to CVXPY expressions; ``definitions`` collects what auxiliary variables equal."""

    def __init__(self, x: Sequence[cp.Variable], y: Sequence[cp.Variable]) -> None:
        self._columns = [*x, *y]
        self._symbols = _symbols(len(x), len(y))
        self._products: dict[tuple[int, int], int] = {}
        self.definitions: list[Any] = []

    def plain(self, text: str) -> Any:
        """Return an expression as it is printed."""
        return self._write(_parse(text, self._symbols))

    def leader(self, text: str) -> Any:
        """Return an expression of at most degree two, with auxiliary variables if need be."""
        parsed = _parse(text, self._symbols)
        flat = [*self._symbols[0], *self._symbols[1]]
        if not parsed.is_polynomial(*flat) or sympy.Poly(parsed, *flat).total_degree() <= 2:
            return self._write(parsed)
        terms = sympy.Poly(parsed, *flat).terms()
        return sum(self._monomial(power, float(value)) for power, value in terms)

    def _monomial(self, powers: Sequence[int], value: float) -> Any:
        squares = [self._product(k, k) for k, power in enumerate(powers) for _ in range(power // 2)]
        factors = [*squares, *(k for k, power in enumerate(powers) if power % 2)]
        while len(factors) > 2:
            factors = [*factors[2:], self._product(*factors[:2])]
        return value * math.prod(self._columns[k] for k in factors)

    def _product(self, i: int, j: int) -> int:
        if (i, j) not in self._products:
            first, second = self._columns[i], self._columns[j]
            name = f"{first.name()}*{second.name()}"
            product = cp.Variable(name=name, nonneg=first is second)
            self.definitions.append(product == first * second)
            self._products[i, j] = len(self._columns)
            self._columns.append(product)
        return self._products[i, j]

    def _write(self, parsed: Any) -> Any:
        x, y = self._symbols
        functions = {"exp": cp.exp, "sqrt": cp.sqrt}
        write = sympy.lambdify([*x, *y], parsed, modules=[functions, "math"])
        return cp.Constant(0) + write(*self._columns[: len(x) + len(y)])


def has_quadratic_follower(listed: Listed) -> bool:
    """Whether the follower is linear or quadratic in its own variables, its rows linear."""
    symbols = _symbols(listed.nx, listed.ny)

    def degree(text: str) -> float:
        parsed = _parse(text, symbols)
        if not parsed.is_polynomial(*symbols[1]):
            return float("inf")
        return sympy.Poly(parsed, *symbols[1]).total_degree()

    return degree(listed.f) <= 2 and all(degree(text) <= 1 for text in (*listed.g, *listed.h))


def _symbols(nx: int, ny: int) -> tuple[list[Any], list[Any]]:
    return [sympy.Symbol(f"x{i}") for i in range(nx)], [sympy.Symbol(f"y{j}") for j in range(ny)]


def _parse(text: str, symbols: tuple[list[Any], list[Any]]) -> Any:
    return sympy.sympify(text, locals={"x": symbols[0], "y": symbols[1]})


def _basblib() -> list[Listed]:
    index = json.loads((FOLDER / "basblib" / "index.json").read_text(encoding="utf-8"))
    found = []
    for entry in index:
        checks = [best["check"] for best in entry["best_known"] if best.get("check")]
        confirmed = entry["F_star_confirmed"] and any(check["consistent"] for check in checks)
        if entry["class"] not in _BASBLIB_CLASSES or not confirmed:
            continue
        parts = {name: entry["expressions"][name] for name in "GHgh"}
        for side, symbol in (("G", "x"), ("g", "y")):
            parts[side] = [*parts[side], *_bounds(symbol, entry[f"{symbol}_bounds"])]
        found.append(_listed(entry, "BASBLib", entry["expressions"] | parts))
    return found


def _bolib() -> list[Listed]:
    folder = FOLDER / "bolib"
    found = []
    for entry in json.loads((folder / "index.json").read_text(encoding="utf-8")):
        if not (entry["F_star_confirmed"] and entry["lower_convex"]):
            continue
        path = folder / "problems" / f"{entry['name']}.json"
        problem = json.loads(path.read_text(encoding="utf-8"))
        # An equality of the source stands there as two opposite inequalities.
        for rows, equations in (("G", "H"), ("g", "h")):
            pairs = problem[f"{rows}_equality_pairs"]
            paired = {k for pair in pairs for k in pair}
            problem[equations] += [problem[rows][first] for first, _ in pairs]
            problem[rows] = [text for k, text in enumerate(problem[rows]) if k not in paired]
        listed = _listed(problem, "BOLIB", problem)
        if has_quadratic_follower(listed):
            found.append(listed)
    return found


def _listed(entry: Mapping[str, Any], library: str, texts: Mapping[str, Any]) -> Listed:
    rows = [tuple(texts[name]) for name in "GHgh"]
    own = (entry["own_check"] or {}).get("F")
    sizes = (entry["nx"], entry["ny"])
    values = (entry["F_star"], own)
    return Listed(entry["name"], library, *sizes, texts["F"], texts["f"], *rows, *values)


def _bounds(symbol: str, bounds: Sequence[Sequence[float | None]]) -> list[str]:
    rows = []
    for k, (low, high) in enumerate(bounds):
        rows += [] if low is None else [f"{low!r} - {symbol}[{k}]"]
        rows += [] if high is None else [f"{symbol}[{k}] - {high!r}"]
    return rows
