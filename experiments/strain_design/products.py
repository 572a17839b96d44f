"""The same cell, other products: nothing is printed for them, so they check themselves."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.strains import COUPLINGS

from experiments.case import Case, Run
from experiments.strain_design.succinate import COLUMNS, measure

PRODUCTS = {
    "D-lactate": "lac__D_e",
    "ethanol": "etoh_e",
    "acetate": "ac_e",
    "formate": "for_e",
}
_MOST = {"small": 1, "standard": 2, "paper": 3}


def _runs(size: str) -> Sequence[Run]:
    products = dict(list(PRODUCTS.items())[:1]) if size == "small" else PRODUCTS
    return [
        Run(f"{name}, {coupling} K={k}", lambda p=product, c=coupling, k=k: measure(c, k, p))
        for name, product in products.items()
        for coupling in COUPLINGS
        for k in range(1, _MOST[size] + 1)
    ]


CASE = Case(
    name="products",
    title="Other products",
    claim=(
        "Any product works: the claimed production is what linear programs over the whole network "
        "find for the designed strain, and weak >= pessimistic >= strong."
    ),
    runs=_runs,
    columns=COLUMNS,
)
