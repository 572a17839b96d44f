"""What everything has in common that can be solved: it says where its driver stands."""

from __future__ import annotations

from typing import ClassVar


class AbstractProblem:
    """A problem that ``bilevel.solve`` takes.

    The class names its driver, the function that solves problems of its kind. What is modelled
    then needs nothing of what solves it, and a class outside this package is solved like one
    inside.

    Attributes
    ----------
    driver
        ``"package.module:function"``, imported when the first problem of the class is solved. The
        function is called as ``function(problem, solver, **given)``: ``solver`` is ``None`` where
        the user named none, and ``given`` holds those keywords of ``bilevel.solve`` that the user
        gave. Its keyword-only parameters, and no others, are the keywords the kind of problem
        uses; ``bilevel.solve`` refuses the rest by name. It returns a record with ``status``, a
        ``bilevel.Status``, and ``stats``, a ``bilevel.Stats``; ``throw`` and the checks of limits,
        tolerances, seed and callback are not its business.

    Notes
    -----
    A class outside this package that names the type of its solutions too, as ``solution_type``,
    tells type checkers what ``bilevel.solve`` returns for it.

    Examples
    --------
    >>> import bilevel as bl
    >>> bl.Problem.driver
    'bilevel.solvers.compiled:solve_compiled'
    """

    driver: ClassVar[str]
