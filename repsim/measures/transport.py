"""Transport between neurons of different widths.

max of sum_ij P_ij gain_ij, [d, d'], over P >= 0 whose rows sum to 1 / d and whose columns sum to 1 / d'.
"""

from __future__ import annotations

import numpy as np

from .alignment import best_assignment

_MOST_PIVOTS = 10**8  # of the network simplex; far more than it needs


def most_transported(gain: np.ndarray) -> float:
    """By an assignment where one width is a multiple of the other, and else by a linear programme.

    Raises
    ------
    RuntimeError: the solver found no optimum.
    """
    d, e = gain.shape
    if max(d, e) % min(d, e):
        return linear_programme(gain)
    whole = gain.repeat(max(e // d, 1), axis=0).repeat(max(d // e, 1), axis=1)
    return best_assignment(whole) / max(d, e)


def linear_programme(gain: np.ndarray) -> float:
    """P d d' has whole numbers for sums, so that the solver's tolerances are far from them."""
    from scipy.optimize import linprog
    from scipy.sparse import identity, kron, vstack

    d, e = gain.shape
    unit = float(np.abs(gain).max()) or 1.0
    sums = vstack([kron(identity(d), np.ones((1, e))), kron(np.ones((1, d)), identity(e))], format="csr")
    found = linprog(gain.ravel() / -unit, A_eq=sums, b_eq=np.repeat([float(e), float(d)], [d, e]), method="highs-ds")
    if found.status != 0:
        raise RuntimeError(f"[soft_matching] expected an optimum of the linear programme, got: {found.message}")
    return -float(found.fun) * unit / (d * e)


def most_transported_by_pot(gain: np.ndarray) -> float:
    """By the network simplex of POT.

    Raises
    ------
    ImportError: POT is not there. RuntimeError: it found no optimum.
    """
    try:
        from ot import emd
    except ImportError as error:
        raise ImportError(
            '[soft_matching] expected POT for solver="pot", got none; pip install "repsim-exact[transport]"'
        ) from error
    d, e = gain.shape
    unit = float(np.abs(gain).max()) or 1.0
    plan, log = emd(np.full(d, 1 / d), np.full(e, 1 / e), gain / -unit, numItermax=_MOST_PIVOTS, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"[soft_matching] expected an optimum from POT, got: {log['warning']}")
    return float((plan * gain).sum())
