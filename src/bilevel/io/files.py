"""Reading and writing problems; the ending of a file's name tells its format."""

from __future__ import annotations

from pathlib import Path

from bilevel.errors import BilevelError, ProblemError
from bilevel.io.basblib import read_basblib
from bilevel.io.linear import to_problem
from bilevel.io.mibs import read_division
from bilevel.io.mps import read_mps
from bilevel.io.text import write_text
from bilevel.io.writer import aux_text, from_problem, mps_text
from bilevel.problem.problem import Problem

FORMATS = (".mps", ".mod")
_COMPANIONS = (".aux.txt", ".aux", ".txt")


def read(path: str | Path, aux: str | Path | None = None) -> Problem:
    r"""Return the bilevel problem that a file holds.

        minimize    F(x, y)    subject to  G(x, y) <= 0,  y in argmin { f(x, y) : g(x, y) <= 0 }

    Parameters
    ----------
    path
        ``name.mps`` (also ``.mps.gz``): all variables, all rows and the leader's objective, or
        ``name.mod`` in the dialect of BASBLib.
    aux
        The companion of an MPS file that says what belongs to the follower, in any dialect that
        MibS reads. Left out, it is ``name.aux.txt``, ``name.aux`` or ``name.txt`` beside the MPS
        file, if exactly one of them exists.

    Returns
    -------
    Problem
        Of an MPS file: its variables are the vectors ``leader`` and ``follower``, whose entries
        are called as the file's columns, and its constraints have one row for each row of the file.
        Of a ``.mod`` file: one variable for each of the file.

    Raises
    ------
    ProblemError
        If a file is missing, malformed or inconsistent; the message names file and line.
    UnsupportedProblem
        If an expression of a ``.mod`` file is beyond what can be modelled here; the message names
        it and its line.

    Notes
    -----
    Problems with integer followers are read and described, although no solver takes them yet. An
    integer column without bounds is binary, a negative upper bound without a lower one means that
    there is none, as for other readers.

    References
    ----------
    MibS, https://github.com/coin-or/MibS; BASBLib, https://basblsolver.github.io/BASBLib.

    Examples
    --------
    >>> import bilevel as bl
    >>> files = bl.write(bl.instances.get("T14").problem, "cell.mps")
    >>> problem = bl.read("cell.mps")
    >>> print(round(bl.solve(problem).leader_value, 6))
    10.0
    """
    ending = format_of(path)
    if ending == ".mod":
        if aux is not None:
            raise ProblemError(f"{path} is a .mod file, which holds both levels: leave aux out.")
        try:
            return read_basblib(path)
        except BilevelError:
            raise
        except (ValueError, RecursionError) as error:
            # CVXPY's own words, such as a division by zero or too deep a sum.
            raise ProblemError(f"{path} holds what cannot be modelled: {error}") from error
    program = read_mps(path)
    return to_problem(*read_division(_companion(path) if aux is None else aux, program))


def write(problem: Problem, path: str | Path, aux: str | Path | None = None) -> tuple[Path, Path]:
    """Write a problem as an MPS file and its companion.

    Parameters
    ----------
    problem
        Linear at both levels, with one follower; parameters are written with their present values.
    path
        ``name.mps`` or ``name.mps.gz``.
    aux
        The companion; ``name.aux.txt`` if left out.

    Returns
    -------
    tuple
        The two paths.

    Raises
    ------
    UnsupportedProblem
        If the files cannot hold the problem; the message says what to change.
    ProblemError
        If a file cannot be written, or ``path`` has another ending.

    Notes
    -----
    Reading the files again gives the same problem. Columns are called as the entries of the
    variables, blanks replaced. A leader that maximizes is written with ``OBJSENSE``, which not all
    readers respect. A companion cannot hold a constant or leader terms in the follower's
    objective: they stand in a free row and a comment, which others skip (the answers are the same).

    Examples
    --------
    >>> import bilevel as bl
    >>> mps, aux = bl.write(bl.instances.get("T14").problem, "cell.mps")
    >>> print(aux, len(aux.read_text().split()))
    cell.aux.txt 28
    """
    if not isinstance(problem, Problem):
        raise ProblemError(f"problem must be a bilevel.Problem, not {type(problem).__name__}.")
    if not str(path).lower().removesuffix(".gz").endswith(".mps"):
        raise ProblemError(f"Problems are written as name.mps or name.mps.gz, not {str(path)!r}.")
    companion = Path(f"{_stem(path)}.aux.txt" if aux is None else aux)
    if companion == Path(path):
        raise ProblemError(f"The companion needs another name than {str(path)!r}.")
    program, division = from_problem(problem)
    write_text(path, mps_text(program, "_".join(Path(_stem(path)).name.split())))
    write_text(companion, aux_text(division))
    return Path(path), companion


def format_of(path: str | Path) -> str:
    """Return the ending that tells a file's format.

    Raises
    ------
    ProblemError
        If it is unknown.
    """
    ending = Path(str(path).removesuffix(".gz")).suffix.lower()
    if ending not in FORMATS:
        raise ProblemError(
            f"The file name {str(path)!r} must end in {' or '.join(FORMATS)} (or .mps.gz)."
        )
    return ending


def _stem(path: str | Path) -> Path:
    return Path(str(path).removesuffix(".gz")).with_suffix("")


def _companion(path: str | Path) -> Path:
    names = [Path(f"{_stem(path)}{ending}") for ending in _COMPANIONS]
    found = [name for name in names if name.is_file()]
    if len(found) != 1:
        listed = ", ".join(str(name) for name in found or names)
        raise ProblemError(
            f"{path} does not say what belongs to the follower: give its companion as aux=... "
            f"({'more than one' if found else 'none'} of {listed} exists)."
        )
    return found[0]
