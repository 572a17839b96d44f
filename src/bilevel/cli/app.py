"""The commands of ``bilevel``."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import bilevel as bl
from bilevel.cli import startup
from bilevel.cli.assignments import assignments, set_parameters
from bilevel.cli.failures import Exit, guarded, own_stdout
from bilevel.cli.progress import watching
from bilevel.cli.report import (
    methods_dict,
    save,
    say,
    say_json,
    say_methods,
    say_reaction,
    say_solution,
)
from bilevel.cli.target import load
from bilevel.errors import ProblemError
from bilevel.structure import Stance

app = typer.Typer(
    help="Model a leader and its followers, solve with a certificate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Exit codes: 0 proved or verified point, 1 no usable point, 2 malformed input, "
    "3 backend missing or failed, 130 interrupted without a point.",
)

Target = Annotated[
    str,
    typer.Argument(
        help="A textbook instance (T1, T4, ...), path/to/file.py:object, or an .mps or .mod file."
    ),
]
Aux = Annotated[
    Path | None, typer.Option(help="The companion (AUX) of an .mps file; else searched beside it.")
]
Chosen = Annotated[Stance | None, typer.Option(help="Instead of the problem's own stance.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Given = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A parameter's value instead of the file's: a number, numbers between commas or a "
        "JSON list; repeatable.",
    ),
]
Seconds = Annotated[float | None, typer.Option(help="Seconds; the best point so far is returned.")]


def main() -> None:
    """Run the command line."""
    startup.begin()
    with own_stdout():
        app()


def _say_version(asked: bool) -> None:
    if asked:
        say(f"bilevel {bl.__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_say_version),
    ] = False,
) -> None:
    """Model a leader and its followers, solve with a certificate."""


@app.command()
@guarded
def solve(
    target: Target,
    aux: Aux = None,
    given: Given = None,
    method: Annotated[
        str, typer.Option(help="A name that `bilevel methods` lists, with its settings.")
    ] = "auto",
    backend: Annotated[str | None, typer.Option(help="Instead of the method's own.")] = None,
    stance: Chosen = None,
    time_limit: Seconds = None,
    rtol: Annotated[
        float, typer.Option(help="Relative gap at which optimality is claimed.")
    ] = 1e-6,
    seed: Annotated[
        int | None, typer.Option(min=0, help="For the backend's random choices.")
    ] = None,
    as_json: Json = False,
    figure: Annotated[
        Path | None, typer.Option(help="Save incumbent and bound over time, such as gap.png.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    debug: Debug = False,
) -> Exit:
    """Solve a problem and print its certified answer."""
    from bilevel.cli import methods as table

    solver = table.parse(method, backend)
    if figure is not None:
        _check_figure(figure)
    with _prints_elsewhere(as_json):
        problem = _load(target, stance, aux, given)
        with watching(live=not (as_json or quiet)) as watch:
            solution = bl.solve(
                problem,
                solver,
                time_limit=time_limit,
                rtol=rtol,
                seed=seed,
                callback=watch,
                throw=False,
            )
    if as_json:
        say_json(solution.to_dict())
    else:
        say_solution(problem, solution)
    if figure is not None:
        if solution.leader_value is None and solution.bound is None:
            typer.echo("no figure: there is neither a value nor a bound to draw", err=True)
        else:
            save(bl.plots.convergence(solution), figure)
    if solution.status.has_point:
        return Exit.DONE
    return Exit.INTERRUPTED if watch.interrupted(solution) else Exit.NO_POINT


@app.command()
@guarded
def verify(
    target: Target,
    aux: Aux = None,
    given: Given = None,
    point: Annotated[
        str | None,
        typer.Option(
            help="JSON file of values by variable name, or of `solve --json`; - is stdin."
        ),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="One value: a number, numbers between commas or a JSON list; repeatable.",
        ),
    ] = None,
    stance: Chosen = None,
    as_json: Json = False,
    debug: Debug = False,
) -> Exit:
    """Certify a point by solving the followers again."""
    values = _read_point(point) | assignments(at, "--at")
    if not values:
        raise ProblemError("There is no point: give --point FILE.json, or --at NAME=VALUE.")
    with _prints_elsewhere(as_json):
        certificate = bl.verify(_load(target, stance, aux, given), values)
    if as_json:
        say_json(certificate.to_dict())
    else:
        say(f"leader value       {certificate.leader_value:.9g}")
        say(certificate.summary())
    return Exit.DONE if certificate.accepted else Exit.NO_POINT


@app.command()
@guarded
def methods(
    target: Annotated[
        str | None, typer.Argument(help="Show what accepts this problem, and what auto chooses.")
    ] = None,
    aux: Aux = None,
    given: Given = None,
    stance: Chosen = None,
    as_json: Json = False,
    debug: Debug = False,
) -> Exit:
    """List the methods, or which accept a problem."""
    if target is None:
        for option, value in (("--set", given), ("--aux", aux), ("--stance", stance)):
            if value is not None:
                raise ProblemError(f"{option} belongs to a problem: name a TARGET too.")
    with _prints_elsewhere(as_json):
        problem = None if target is None else _load(target, stance, aux, given)
    if as_json:
        say_json(methods_dict(problem))
    else:
        say_methods(problem)
    return Exit.DONE


@app.command(short_help="Print the followers' response to the leader's decision.")
@guarded
def reaction(
    target: Target,
    aux: Aux = None,
    given: Given = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds; the regions found so far are shown.")
    ] = None,
    as_json: Json = False,
    figure: Annotated[
        Path | None, typer.Option(help="Save responses and the leader's value, such as map.png.")
    ] = None,
    debug: Debug = False,
) -> Exit:
    """Print the followers' response as a function of the leader's decision."""
    if figure is not None:
        _check_figure(figure)
    with _prints_elsewhere(as_json):
        found = bl.reaction(_load(target, None, aux, given), time_limit=time_limit)
    drawn = None if figure is None else bl.plots.reaction(found)
    if as_json:
        say_json(found.to_dict())
    else:
        say_reaction(found)
    if figure is not None:
        save(drawn, figure)
    return Exit.DONE if found.is_complete else Exit.NO_POINT


@app.command(short_help="Check the gradient by the problem's parameters.")
@guarded
def gradcheck(
    target: Target,
    aux: Aux = None,
    given: Given = None,
    method: Annotated[
        str, typer.Option(help="A name that `bilevel methods` lists, with its settings.")
    ] = "auto",
    equilibrium: Annotated[str, typer.Option(help="stackelberg or nash.")] = "stackelberg",
    step: Annotated[float, typer.Option(help="Of the finite differences.")] = 1e-5,
    tolerance: Annotated[float, typer.Option(help="Largest error that passes.")] = 1e-6,
    as_json: Json = False,
    debug: Debug = False,
) -> Exit:
    """Check the gradient of the answer by the problem's parameters, at their present values."""
    from bilevel.cli import gradient
    from bilevel.cli import methods as table

    with _prints_elsewhere(as_json):
        problem = _load(target, None, aux, given)
        found = gradient.check(problem, table.parse(method, None), equilibrium, step, tolerance)
    if as_json:
        say_json(gradient.to_dict(found))
    else:
        say(found.summary())
    return Exit.DONE if found.passed else Exit.NO_POINT


@app.command()
@guarded
def convert(
    target: Target,
    output: Annotated[Path, typer.Argument(help="The MPS file to write: name.mps or name.mps.gz.")],
    aux: Aux = None,
    given: Given = None,
    output_aux: Annotated[
        Path | None, typer.Option(help="Its companion; name.aux.txt if left out.")
    ] = None,
    debug: Debug = False,
) -> Exit:
    """Write a problem as an MPS file and its companion."""
    problem = _load(target, None, aux, given)
    for path in bl.write(problem, output, output_aux):
        say(f"written            {path}")
    say(problem.summary())
    return Exit.DONE


@app.command(short_help="Design real strains, then learn the costs of a market.")
@guarded
def demo(
    knockouts: Annotated[int, typer.Option(min=1, help="Design up to so many knockouts.")] = 2,
    product: Annotated[
        str, typer.Option(help="What the cell shall make: a metabolite or reaction.")
    ] = "succ_e",
    output: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path(),
    time_limit: Annotated[float, typer.Option(help="Seconds for each design.")] = 60.0,
    debug: Debug = False,
) -> Exit:
    """Design E. coli strains that make a product, then learn a market's costs from a day of it.

    What the strains can produce and how well the costs fit are saved as figures.
    """
    from bilevel.cli import demo as demonstration

    bl.plots.formats()  # matplotlib is missed before the work, not after it
    return demonstration.run(knockouts, product, output, time_limit)


def _load(
    target: str, stance: Stance | None, aux: Path | None, given: list[str] | None
) -> bl.Problem:
    values = assignments(given, "--set")
    problem = load(target, aux)
    set_parameters(problem, values)
    return problem if stance is None else problem.replace(stance=stance)


def _prints_elsewhere(as_json: bool) -> contextlib.AbstractContextManager[Any]:
    """Send what the user's file prints to stderr when stdout is for JSON."""
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()


def _check_figure(path: Path) -> None:
    formats = bl.plots.formats()
    ending = path.suffix.lower().removeprefix(".")
    if ending not in formats:
        raise ProblemError(
            f"The figure's name {str(path)!r} must end in one of {', '.join(formats)}."
        )
    if not path.absolute().parent.is_dir():
        raise ProblemError(f"There is no folder {str(path.parent)!r} for the figure.")


def _read_point(source: str | None) -> dict[str, Any]:
    if source is None:
        return {}
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemError(f"The point {source!r} cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise ProblemError(f"The point {source!r} is not JSON: {error}") from error
    if isinstance(found, dict) and isinstance(found.get("values"), dict):
        found = found["values"]
    if not isinstance(found, dict):
        raise ProblemError(
            f'The point {source!r} must be a JSON object of values by name, such as {{"x": 1.0}}.'
        )
    return found
