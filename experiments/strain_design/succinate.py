"""The table: succinate, K = 1 to 3, three kinds of coupling; and the strains' envelopes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import evidence, stop_if_interrupted
from benchmarks.strains import COUPLINGS, PROMISES, describe, make_design

import bilevel as bl
from experiments.case import Case, Record, Run

COLUMNS = ("status", "value", "bound", "knockouts", "growth", *dict.fromkeys(PROMISES.values()))
COLUMNS = (*COLUMNS, "checked", "seconds")
_LIMIT = 600.0
_MOST = {"small": 1, "standard": 3, "paper": 3}


def measure(coupling: str, n_knockouts: int, product: str = "succ_e") -> Mapping[str, Any]:
    """Solve one design; ``checked`` says that linear programs over the whole network agree."""
    design = make_design(coupling, n_knockouts, product)
    solution = bl.solve(design.problem, time_limit=_LIMIT, throw=False)
    stop_if_interrupted(solution)
    stats, value = solution.stats, solution.leader_value
    found = {
        "status": solution.status.name,
        "value": value,
        "bound": solution.bound,
        "gap": solution.gap,
        "certificate": evidence(solution.certificate),
        "seconds": stats.build_seconds + stats.solve_seconds + stats.verify_seconds,
        "method": stats.method,
        "coupling": coupling,
        "n_knockouts": n_knockouts,
    }
    if value is None:
        return found
    strain = describe(design, solution)
    attained = strain[PROMISES[coupling]]
    agrees = attained is not None and abs(attained - value) <= 1e-4 * max(1.0, abs(value))
    accepted = solution.certificate is not None and solution.certificate.accepted
    return found | strain | {"checked": bool(agrees and accepted)}


def _runs(size: str) -> Sequence[Run]:
    return [
        Run(f"{coupling} K={k}", lambda c=coupling, k=k: measure(c, k))
        for coupling in COUPLINGS
        for k in range(1, _MOST[size] + 1)
    ]


def _figures(records: Sequence[Record], folder: Path) -> Sequence[Path]:
    """Draw what each designed strain can produce at each growth rate."""
    from bilevel import plots
    from bilevel.applications.strain_design import envelope

    shown = [r["found"] for r in records if r["found"].get("knockouts")]
    if not shown:
        return ()
    design = make_design("weak", 1)
    strains = {tuple(f["knockouts"]): envelope(design, f["knockouts"], 41) for f in shown}
    panels: dict[str, list[str]] = {}
    for found in shown:
        panels.setdefault(found["coupling"], []).append(" + ".join(found["knockouts"]))
    figure = plots.envelopes(
        {" + ".join(names): strain for names, strain in strains.items()},
        wild_type=envelope(design, (), 41),
        product="succinate",
        growth_floor=design.growth_floor,
        panels=panels,
    )
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "envelopes.png"
    figure.savefig(file, metadata={"Software": None})
    return (file,)


CASE = Case(
    name="succinate",
    title="Succinate in three kinds of coupling",
    claim=(
        "The best strain depends on what is promised: with one knockout, removing PYK may produce "
        "6.968 mmol/gDW/h at maximal growth and guarantees nothing; 0.678 is the most that can be "
        "relied on at maximal growth, 0.188 at any growth above the floor."
    ),
    runs=_runs,
    columns=COLUMNS,
    figures=_figures,
)
