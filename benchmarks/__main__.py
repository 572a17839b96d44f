"""`python -m benchmarks list | run | report | compare`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.case import SIZES, Case, all_cases
from benchmarks.compare import compare, text
from benchmarks.environment import pin
from benchmarks.journal import Journal, read
from benchmarks.measure import AGREEMENT
from benchmarks.report import write
from benchmarks.run import KEY, Job, bury, plan, run, select, supervise

RESULTS = Path(__file__).parent / "results"

app = typer.Typer(help="The library's benchmarks.", no_args_is_help=True, add_completion=False)
console = Console()


@app.command(name="list")
def list_cases() -> None:
    """List the cases with what they must reach."""
    for case in all_cases().values():
        console.print(f"[bold]{case.name}[/bold]  {case.claim}")
        if why := case.missing():
            console.print(f"    left out: {why}")
            continue
        for size in SIZES:
            count = len(list(plan([case], size)))
            console.print(f"    {size}: {count} measurements, {case.time_limit:g} s each at most")


@app.command(name="run")
def run_cases(
    names: Annotated[list[str] | None, typer.Argument(metavar="[CASE]...")] = None,
    size: Annotated[str, typer.Option(help=" or ".join(SIZES))] = "full",
    repeats: Annotated[
        int | None,
        typer.Option("--repeats", "--rounds", min=1, help="Rounds; the case's own if left out."),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(help="ours, peers or a method's name; may be given more than once."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="JSON lines; a run appends what is missing.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Cores and threads of every method.")] = 1,
    part: Annotated[
        str, typer.Option(help="i/n: every n-th instance, for n runs with n outputs.")
    ] = "1/1",
    worker: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Measure what the output lacks, with a progress bar; stop it when you like."""
    cases, share = _pick(names, methods), _part(part)
    if size not in SIZES:
        raise typer.BadParameter(f"size is {' or '.join(SIZES)}")
    file = output or RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-{size}.jsonl"
    if worker:
        pin(threads, share[0])
        _work(list(plan(cases, size, repeats, share)), file, threads)
        return
    # What killed an earlier run is recorded before anything is tried again.
    bury(Journal(file, KEY), threads)
    arguments = [*(case.name for case in cases), "--size", size, "--output", str(file)]
    arguments += ["--threads", str(threads), "--part", part]
    arguments += [] if repeats is None else ["--repeats", str(repeats)]
    for method in methods or ():
        arguments += ["--methods", method]
    code = supervise(arguments, file, threads)
    console.print(f"{file}: {len(Journal(file, KEY).records)} records")
    raise typer.Exit(code)


@app.command(name="report")
def report(
    files: Annotated[
        list[Path] | None, typer.Argument(help="JSON lines; all results if left out.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The page to write.")] = None,
) -> None:
    """Write tables and performance profiles, and show the page."""
    found = files or sorted(RESULTS.glob("*.jsonl"))
    if not found:
        raise typer.BadParameter(
            f"there are no results in {RESULTS.name}/; run the benchmarks first"
        )
    page = output or RESULTS / "report.md"
    console.print(Markdown(write(found, all_cases(), page)))
    console.print(f"written to {page}")


@app.command(name="compare")
def compare_runs(
    new: Annotated[Path, typer.Argument(help="JSON lines of the new run.")],
    old: Annotated[list[Path], typer.Argument(help="JSON lines of the old run.")],
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Values agree within this, relative to max(1, |value|).")
    ] = AGREEMENT,
) -> None:
    """Compare the claims and times of two runs; the exit code is 1 if a claim changed.

    Claims that changed where a run met its time limit are listed and do not count.
    """
    for file in (new, *old):
        if not file.is_file():
            raise typer.BadParameter(f"there is no file {file}")
    found = compare(read(new), [record for file in old for record in read(file)], tolerance)
    if not found.compared:
        raise typer.BadParameter("the two runs have no measurement in common")
    console.print(Markdown(text(found)))
    raise typer.Exit(int(found.unexplained > 0))


def _pick(names: list[str] | None, methods: list[str] | None = None) -> list[Case]:
    cases = all_cases()
    if unknown := sorted(set(names or ()) - set(cases)):
        raise typer.BadParameter(
            f"there is no case {', '.join(unknown)}; known: {', '.join(cases)}"
        )
    picked = [cases[name] for name in (names or cases)]
    try:
        return picked if methods is None else select(picked, methods)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _part(text: str) -> tuple[int, int]:
    first, _, count = text.partition("/")
    if not (first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise typer.BadParameter(f"part is i/n with 1 <= i <= n, not {text!r}")
    return int(first), int(count)


def _work(jobs: list[Job], file: Path, threads: int) -> None:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=len(jobs))

        def show(job: Job) -> None:
            text = f"{job.case.name}: {job.instance.name}, {job.method.name}"
            bar.update(task, advance=1, description=text[:60])

        run(jobs, Journal(file, KEY), threads=threads, watch=True, progress=show)


if __name__ == "__main__":
    app()
