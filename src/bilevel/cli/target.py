"""From a word on the command line to a problem: a textbook instance or an object of a file."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import bilevel as bl
from bilevel.errors import BackendNotFound, BilevelError, ProblemError

_HELP = (
    "Name a textbook instance (such as T1), an object of a Python file (toll.py:problem) or a file "
    "that holds a problem (toll.mps, toll.mod)."
)
_SMOOTH = " It begins from tensors: solve it in Python, bl.solve(problem, start=(x, y))."


def load(target: str, aux: Path | None = None) -> bl.Problem:
    """Return the problem that a word on the command line names.

    Parameters
    ----------
    target
        The name of a textbook instance, or ``path/to/file.py:name`` where ``name`` is a
        ``Problem``, has one as its ``.problem``, or is a function without arguments that returns
        one of these. The file is imported, not run as a script. Or a file that ``bl.read`` knows.
    aux
        The companion of an MPS file.

    Raises
    ------
    ProblemError
        If there is no such instance, file or object, or the file fails; the message names the
        line.
    BackendNotFound
        If the file needs a package of this library that is not installed.
    """
    if _is_format(target):
        return bl.read(target, aux)
    if aux is not None:
        raise ProblemError(f"--aux belongs to an MPS file, and {target!r} is none.")
    path, colon, name = target.rpartition(":")
    if not colon and not target.endswith(".py"):
        if target not in bl.instances.names():
            raise ProblemError(
                f"There is no textbook instance {target!r}; the known ones are "
                f"{', '.join(bl.instances.names())}. {_HELP}"
            )
        return bl.instances.get(target).problem
    file = Path(path if colon else target)
    if not file.is_file():
        raise ProblemError(f"There is no file {str(file)!r}. {_HELP}")
    module = _guarded(file, lambda: _execute(file))
    if not colon or not name:
        raise ProblemError(f"Name the object of {file}, such as {_examples(file, module)}.")
    if not hasattr(module, name):
        raise ProblemError(
            f"{file} defines no object {name!r}. Name one that it defines, such as "
            f"{_examples(file, module)}."
        )
    return _guarded(file, lambda: _problem(getattr(module, name), f"{file}:{name}"))


def _is_format(target: str) -> bool:
    if "." not in target.rpartition(":")[2] or target.endswith(".py"):
        return False  # so that what is no such file does not wait for its readers
    from bilevel import io

    return target.lower().endswith(tuple(e + gz for e in io.FORMATS for gz in ("", ".gz")))


def _execute(file: Path) -> ModuleType:
    # As for a script, the file's neighbours can be imported.
    sys.path.insert(0, str(file.resolve().parent))
    spec = importlib.util.spec_from_file_location(f"bilevel_target_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ProblemError(f"{str(file)!r} is not a Python file: its name must end in .py. {_HELP}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses and pickle look there
    spec.loader.exec_module(module)
    return module


def _guarded(file: Path, action: Callable[[], Any]) -> Any:
    """Do what runs the user's code; say where it failed if it does."""
    try:
        return action()
    except SyntaxError as error:
        where = f"{error.filename or file}, line {error.lineno}"
        text = f": {error.text.strip()}" if error.text else ""
        raise ProblemError(f"{where} is not valid Python ({error.msg}){text}") from error
    except BackendNotFound as error:
        raise BackendNotFound(f"{_place(file, error)}{error}") from error
    except BilevelError as error:
        raise ProblemError(f"{_place(file, error)}{error}") from error
    except SystemExit as error:
        raise ProblemError(
            f"{_place(file, error)}the file ends the program (exit code {error.code}). Put what is "
            f'not the model under: if __name__ == "__main__":'
        ) from error
    except Exception as error:
        raise ProblemError(f"{_place(file, error)}{type(error).__name__}: {error}") from error


def _place(file: Path, error: BaseException) -> str:
    """Return file, line and text of the last step inside the user's file or its neighbours."""
    folder = file.resolve().parent
    library = Path(__file__).resolve().parents[1]
    steps = [
        step
        for step in traceback.extract_tb(error.__traceback__)
        if (path := Path(step.filename).resolve()).is_relative_to(folder)
        and not path.is_relative_to(library)
        and "site-packages" not in path.parts
    ]
    if not steps:
        return ""
    last = steps[-1]
    text = f" ({last.line})" if last.line else ""
    name = file if Path(last.filename).resolve() == file.resolve() else last.filename
    return f"{name}, line {last.lineno}{text}: "


def _problem(found: Any, name: str) -> bl.Problem:
    problem = _as_problem(found)
    if problem is None and callable(found):
        if not _needs_nothing(found):
            raise ProblemError(
                f"{name} needs arguments; name a function without arguments that returns the "
                f"problem."
            )
        found = found()
        problem = _as_problem(found)
    if problem is None:
        raise ProblemError(
            f"{name} gives {type(found).__name__}, which is no bilevel.Problem, nor has it one as "
            f"its .problem.{_SMOOTH if type(found).__name__ == 'SmoothProblem' else ''}"
        )
    return problem


def _as_problem(found: Any) -> bl.Problem | None:
    if isinstance(found, bl.Problem):
        return found
    inner = None if isinstance(found, type) else getattr(found, "problem", None)
    return inner if isinstance(inner, bl.Problem) else None


def _needs_nothing(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return False
    return True


def _examples(file: Path, module: ModuleType) -> str:
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    own = [name for name, value in public.items() if _as_problem(value) is not None]
    made_here = [
        name
        for name, value in public.items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and _needs_nothing(value)
    ]
    return ", ".join(f"{file}:{name}" for name in [*own, *made_here][:5]) or f"{file}:problem"
