"""A real design: knockouts that make *E. coli* produce, in three kinds of coupling."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

import bilevel as bl
from bilevel import plots
from bilevel.applications.strain_design import (
    Envelope,
    Production,
    StrainDesign,
    envelope,
    evaluate,
    strain_design,
)
from bilevel.cli import demo_fit
from bilevel.cli.failures import Exit
from bilevel.cli.progress import watching
from bilevel.cli.report import console, save, say
from bilevel.errors import BackendNotFound, ProblemError

_COUPLINGS = ("weak", "pessimistic", "strong")
_GLUCOSE = {"glc__D_e": 10.0}
_POINTS = 41


@dataclass(frozen=True)
class _Row:
    design: StrainDesign
    solution: bl.Solution
    knockouts: tuple[str, ...]
    strain: Production | None
    seconds: float

    @property
    def name(self) -> str:
        return " + ".join(self.knockouts) or "no knockout"

    @property
    def promised(self) -> float:
        return (self.strain and self.strain.promised) or 0.0

    @property
    def guaranteed(self) -> float:
        return (self.strain and self.strain.guaranteed) or 0.0


def run(knockouts: int, product: str, output: Path, time_limit: float) -> Exit:
    """Design strains for up to so many knockouts, then learn a market's costs; print and save."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProblemError(f"The folder {str(output)!r} cannot be made: {error}") from error
    model = _model()
    name = _name(model, product)
    say(
        f"E. coli core without oxygen, glucose 10 mmol/gDW/h, product {name}. The engineer removes "
        f"at most K reactions, then the cell grows as fast as it can."
    )
    rows: list[_Row] = []
    interrupted = False
    for count in range(1, knockouts + 1):
        for coupling in _COUPLINGS:
            if not interrupted:
                row, interrupted = _solve(model, product, count, coupling, time_limit)
                rows.append(row)
    console().print(_table(rows))
    found = [row for row in rows if row.strain is not None]
    if not found:
        return Exit.INTERRUPTED if interrupted else Exit.NO_POINT
    genes = {r.id: "/".join(sorted(g.name or g.id for g in r.genes)) for r in model.reactions}
    say(_legend(found, genes))
    say(_what_to_see(found, name))
    save(_figure(found, name), output / "bilevel-demo.png")
    if not interrupted:
        demo_fit.run(output)
    return Exit.DONE if len(found) == len(rows) else Exit.NO_POINT


def _model() -> Any:
    try:
        import cobra
        from cobra.io.web.cobrapy_repository import Cobrapy
    except ImportError as error:
        raise BackendNotFound(
            "The demo reads the metabolic model by the package cobra, which is not installed: "
            'pip install "bilevel[metabolic]".'
        ) from error
    return cobra.io.load_model("textbook", repositories=[Cobrapy()])


def _name(model: Any, product: str) -> str:
    """Return the metabolite's name where the model knows it."""
    if product in model.reactions and len(model.reactions.get_by_id(product).metabolites) == 1:
        product = next(iter(model.reactions.get_by_id(product).metabolites)).id
    known = product in model.metabolites
    return model.metabolites.get_by_id(product).name.lower() if known else product


def _solve(
    model: Any, product: str, count: int, coupling: str, time_limit: float
) -> tuple[_Row, bool]:
    began = time.perf_counter()
    with watching(f"K = {count}, {coupling}") as watch:
        design = strain_design(
            model,
            product=product,
            n_knockouts=count,
            coupling=coupling,
            medium=_GLUCOSE,
            anaerobic=True,
        )
        solution = bl.solve(design.problem, time_limit=time_limit, callback=watch, throw=False)
    seconds = time.perf_counter() - began
    removed = design.knockouts(solution) if solution.status.has_point else ()
    strain = evaluate(design, removed) if solution.status.has_point else None
    return _Row(design, solution, removed, strain, seconds), watch.interrupted(solution)


def _table(rows: list[_Row]) -> Table:
    # Narrow enough for 80 columns: one knockout a line, one space between columns.
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for title in ("K", "coupling", "knockouts"):
        table.add_column(title, no_wrap=True)
    for title in ("growth", "promise", "worst", "guarantee", "verified", "bound", "gap", "s"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        solution = row.solution
        strain = row.strain
        accepted = solution.certificate is not None and solution.certificate.accepted
        numbers = ("growth", "promised", "pessimistic", "guaranteed")
        table.add_row(
            str(row.design.n_knockouts),
            row.design.coupling,
            "\n".join(row.knockouts) or ("none" if row.strain else solution.status.name),
            *(_number(None if strain is None else getattr(strain, name)) for name in numbers),
            "yes" if accepted else "no",
            _number(solution.bound),
            "-" if solution.gap is None else f"{solution.gap:.0e}",
            f"{row.seconds:.1f}",
        )
    return table


def _legend(rows: list[_Row], genes: dict[str, str]) -> str:
    """Return what the table's words mean, and the genes of its knockouts."""
    removed = dict.fromkeys(reaction for row in rows for reaction in row.knockouts)
    return (
        "growth in 1/h, production in mmol/gDW/h: promise and worst are the most and the least at "
        "maximal growth, guarantee the least at any growth above the floor of "
        f"{rows[0].design.growth_floor:g} /h. Weak coupling maximizes the promise, pessimistic the "
        "worst, strong the guarantee.\ngenes: "
        + "; ".join(f"{reaction} {genes[reaction]}" for reaction in removed)
    )


def _what_to_see(rows: list[_Row], product: str) -> str:
    """Return two sentences: the promise that is worth least, and the best guarantee."""
    hollow = max(rows, key=lambda row: row.promised - row.guaranteed)
    safe = max(rows, key=lambda row: row.guaranteed)
    return (
        f"What to see: the {hollow.design.coupling} K = {hollow.design.n_knockouts} design "
        f"{hollow.name} promises {hollow.promised:.2f} of {product} but guarantees only "
        f"{hollow.guaranteed:.2f}, because a cell above the growth floor can make that little. The "
        f"{safe.design.coupling} K = {safe.design.n_knockouts} design {safe.name} guarantees "
        f"{safe.guaranteed:.2f}: no cell above the floor makes less."
    )


def _figure(rows: list[_Row], product: str) -> Any:
    strains: dict[str, Envelope] = {}
    panels: dict[str, list[str]] = {}
    couplings: dict[tuple[int, str], list[str]] = {}
    for row in rows:
        couplings.setdefault((row.design.n_knockouts, row.name), []).append(row.design.coupling)
    for (count, knockouts), asked in couplings.items():
        name = f"{knockouts} ({', '.join(asked)})"
        panels.setdefault(f"K = {count}", []).append(name)
        if name not in strains:
            row = next(row for row in rows if row.name == knockouts)
            strains[name] = envelope(row.design, row.knockouts, _POINTS)
    first = rows[0].design
    return plots.envelopes(
        strains,
        wild_type=envelope(first, n=_POINTS),
        product=product,
        growth_floor=first.growth_floor,
        panels=panels,
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value + 0.0:.3f}"
