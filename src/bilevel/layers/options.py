"""How a layer is to be solved, and other libraries' ways of saying so."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from bilevel.backends import registry
from bilevel.errors import BilevelWarning, ProblemError

OnFailure = Literal["raise", "nan", "zero"]
# What cvxpylayers passes on to SCS, diffcp or Moreau: accuracy, threads, effort.
_FOREIGN = frozenset(
    {
        "acceleration_interval",
        "acceleration_lookback",
        "adaptive_scale",
        "alpha",
        "eps",
        "eps_abs",
        "eps_infeas",
        "eps_rel",
        "ipm_settings",
        "max_iter",
        "max_iters",
        "mode",
        "n_jobs_backward",
        "n_jobs_forward",
        "normalize",
        "rho_x",
        "scale",
        "use_indirect",
        "use_quad_obj",
        "warm_starts",
    }
)


@dataclass(frozen=True)
class Options:
    """How instances are solved and what happens to those without an answer.

    Parameters
    ----------
    backend
        A backend's name, or ``None``.
    vendor
        Options passed to it.
    verbose
        Whether it may write to the terminal.
    on_failure
        ``"raise"``, ``"nan"`` or ``"zero"``.
    """

    backend: str | None
    vendor: Mapping[str, Any]
    verbose: bool
    on_failure: OnFailure

    @property
    def fill(self) -> float:
        """What an instance without an answer returns."""
        return 0.0 if self.on_failure == "zero" else float("nan")

    def __post_init__(self) -> None:
        check_word("on_failure", self.on_failure, OnFailure)
        if self.backend is not None:
            name = str(self.backend).lower()
            if not registry.get(name).gives_multipliers:
                raise ProblemError(
                    f"Backend {name!r} does not return multipliers of convex programs, which the "
                    f"derivative needs; use one of {list(registry.with_multipliers())}."
                )
            object.__setattr__(self, "backend", name)


def check_word(option: str, word: Any, known: Any) -> None:
    """Raise where an option is none of its words.

    Parameters
    ----------
    option, word
        The option's name and what was given.
    known
        A ``Literal`` of the words.

    Raises
    ------
    ProblemError
        With the list of words.
    """
    if word not in get_args(known):
        raise ProblemError(f"{option} must be one of {get_args(known)}, not {word!r}.")


def read_options(options: Options, solver_args: Mapping[str, Any] | None) -> Options:
    """Return options with a caller's ``solver_args`` put in."""
    given = dict(solver_args or {})
    speaks_foreign = "solve_method" in given
    backend = given.pop("solve_method", given.pop("solver", options.backend))
    if isinstance(backend, str) and backend.lower() in ("scs", "ecos", "diffcp"):
        backend = options.backend
    verbose = bool(given.pop("verbose", options.verbose))
    foreign = sorted(set(given) & _FOREIGN)
    if foreign and (backend is None or speaks_foreign):
        warnings.warn(
            f"solver_args {foreign} set the accuracy or effort of another library's solver and "
            f"have no effect here: answers are exact, and checked.",
            BilevelWarning,
            stacklevel=5,
        )
        given = {name: value for name, value in given.items() if name not in _FOREIGN}
    if given and backend is None:
        raise ProblemError(
            f"solver_args {sorted(given)} are options of a backend; name it with backend=..., one "
            f"of {list(registry.with_multipliers())}."
        )
    return replace(options, backend=backend, vendor={**options.vendor, **given}, verbose=verbose)
