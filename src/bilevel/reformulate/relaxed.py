"""Followers replaced by conditions that a parameter relaxes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from bilevel.problem.functions import Monomials, Rows
from bilevel.problem.standard import StandardForm
from bilevel.reformulate.kkt import KKT
from bilevel.reformulate.reformulation import Reformulated


def relaxed(form: StandardForm) -> tuple[Reformulated, Rows]:
    r"""Return the followers' optimality conditions with complementarity in rows of its own.

        stationarity, feasibility,  lam >= 0,  s >= 0,   lam_i s_i <= t

    Returns
    -------
    tuple
        The program without complementarity, and the rows ``lam_i s_i <= 0`` that a solver relaxes.

    References
    ----------
    Scholtes (2001), *SIAM Journal on Optimization* 11, 918-936.
    """
    reformed = KKT().apply(form)
    program, count = reformed.program, len(reformed.program.sos1)
    factors = np.array([pair for _, pair in program.sos1], int).reshape(count, 2)
    rows = Rows(
        sp.csr_array((count, program.n)),
        np.zeros(count),
        np.zeros(count, bool),
        Monomials.collect(np.arange(count), factors, np.ones(count)),
        tuple(name for name, _ in program.sos1),
    )
    return replace(reformed, program=replace(program, sos1=())), rows
