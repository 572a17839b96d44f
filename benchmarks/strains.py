"""What the strain design benchmark and experiment share: designs, their check, known values."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import bilevel as bl
from benchmarks.environment import ROOT

COUPLINGS = ("weak", "pessimistic", "strong")
#: Which figure of a strain each coupling maximizes.
PROMISES = {"weak": "promised", "pessimistic": "pessimistic", "strong": "guaranteed"}


@lru_cache(maxsize=1)
def cell() -> Any:
    """The *E. coli* core model, read once."""
    from bilevel.applications.metabolic_model import load_model

    return load_model()


def make_design(coupling: str, n_knockouts: int, product: str = "succ_e") -> Any:
    """Return the anaerobic design problem of a product."""
    from bilevel.applications.strain_design import strain_design

    return strain_design(
        cell(), product=product, n_knockouts=n_knockouts, coupling=coupling, anaerobic=True
    )


def describe(design: Any, solution: bl.Solution) -> dict[str, Any]:
    """Return knockouts, growth and production, from linear programs over the whole network."""
    from bilevel.applications.strain_design import evaluate

    removed = design.knockouts(solution)
    strain = evaluate(design, removed)
    return {
        "knockouts": list(removed),
        "growth": strain.growth,
        "promised": strain.promised,
        "pessimistic": strain.pessimistic,
        "guaranteed": strain.guaranteed,
    }


@lru_cache(maxsize=1)
def known() -> Mapping[str, float]:
    """Return the known production of succinate by run, such as ``"weak K=1"``."""
    file = ROOT / "experiments" / "strain_design" / "expected.toml"
    runs = tomllib.loads(file.read_text(encoding="utf-8"))["succinate"]["runs"]
    return {name: numbers["value"] for name, numbers in runs.items()}
