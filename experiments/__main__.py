"""`python -m experiments list | run | report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.case import ROOT, SIZES, Case, cases, papers
from experiments.report import page, write
from experiments.run import Job, journal, plan, run

app = typer.Typer(help="Published results, repeated.", no_args_is_help=True, add_completion=False)
console = Console()

Output = Annotated[Path | None, typer.Option(help="Folder for results; the paper's if left out.")]
Size = Annotated[str, typer.Option(help=", ".join(SIZES))]


@app.command(name="list")
def list_papers() -> None:
    """List papers and cases, and how many runs each size has."""
    for paper in papers():
        for case in cases(paper).values():
            counts = ", ".join(f"{size} {len(case.runs(size))}" for size in SIZES)
            console.print(f"[bold]{paper}/{case.name}[/bold]  {case.claim}\n    runs: {counts}")


@app.command(name="run")
def run_paper(
    target: Annotated[str, typer.Argument(metavar="PAPER[/CASE]")],
    size: Size = "standard",
    output: Output = None,
) -> None:
    """Do the runs that are missing, with a progress bar, and write the report."""
    paper, chosen = _pick(target, size)
    folder = output or ROOT / paper
    records = journal(folder, size)
    jobs = plan(paper, list(chosen.values()), size)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=len(jobs))

        def show(job: Job) -> None:
            done = jobs.index(job)
            bar.update(task, completed=done, description=f"{job.case.name}: {job.run.name}"[:60])

        failed = run(jobs, records, show)
        bar.update(task, completed=len(jobs))
    console.print(Markdown(write(paper, cases(paper), size, records.records, folder)))
    console.print(f"written to {page(folder, size)}")
    raise typer.Exit(1 if failed else 0)


@app.command(name="report")
def report(
    paper: Annotated[str, typer.Argument()], size: Size = "standard", output: Output = None
) -> None:
    """Write the report again from what is recorded."""
    paper, chosen = _pick(paper, size)
    folder = output or ROOT / paper
    console.print(Markdown(write(paper, chosen, size, journal(folder, size).records, folder)))
    console.print(f"written to {page(folder, size)}")


def _pick(target: str, size: str) -> tuple[str, dict[str, Case]]:
    if size not in SIZES:
        raise typer.BadParameter(f"size is one of {', '.join(SIZES)}")
    paper, _, name = target.partition("/")
    if paper not in papers():
        raise typer.BadParameter(f"there is no paper {paper!r}; known: {', '.join(papers())}")
    found = cases(paper)
    if name and name not in found:
        raise typer.BadParameter(f"{paper} has no case {name!r}; known: {', '.join(found)}")
    return paper, {name: found[name]} if name else found


if __name__ == "__main__":
    app()
