"""95 % intervals: of shares, of the risk that two shares make, and of an AUC."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tabvae_core.evaluation.view import Floats
from tabvae_core.privacy.result import Estimate

__all__ = ["auc_interval", "precision_gain", "risk", "wilson"]

_Z = 1.959964
"""Standard deviations that hold 95 % of a normal variable."""
_DIGITS = 6

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """Centre and half width of a share's interval (Wilson, 1927); it holds for rare successes and few trials."""
    share, weight = successes / trials, _Z**2 / trials
    centre = (share + weight / 2) / (1 + weight)
    half = _Z / (1 + weight) * math.sqrt(share * (1 - share) / trials + weight / (4 * trials))
    return centre, half


def risk(attacked: Mask, control: Mask, of_rows: tuple[Rows, Rows] | None = None) -> Estimate:
    """What an attack gains on training rows beyond control rows: (a - c) / (1 - c).

    The estimate and the propagation of its two Wilson intervals are those of Giomi et al., "A Unified Framework for
    Quantifying Privacy Risk in Synthetic Data" (PoPETs 2023). The value is that of the shares themselves; where an
    interval's centre lies elsewhere, which few trials cause, the value still lies within it.

    Args:
        attacked: Which guesses about training rows succeeded, shape (n,), n > 0.
        control: Which guesses about control rows did, shape (m,), m > 0.
        of_rows: Rows that the guesses are about, shapes (n,) and (m,), where there are several about one: what
            they say depends on each other. None: there is one about each.

    """
    sides = (attacked, control)
    trials = tuple(map(len, sides)) if of_rows is None else tuple(map(_trials, sides, of_rows))
    (a, half_a), (c, half_c) = (wilson(float(side.mean()) * n, n) for side, n in zip(sides, trials, strict=True))
    room = max(1 - c, 1e-9)
    centre = (a - c) / room
    half = math.hypot(half_a / room, (1 - a) / room**2 * half_c)
    share, base = float(attacked.mean()), float(control.mean())
    value = (share - base) / (1 - base) if base < 1 else 0.0
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    value = min(max(value, low), high)
    return _estimate(value, low, high, len(attacked) + len(control))


def _trials(successes: Mask, rows: Rows) -> float:
    """Independent guesses that as many as these about fewer rows are worth (Korn & Graubard, 1998).

    The variance of their share is that of a ratio estimator over rows.
    """
    _, row = np.unique(rows, return_inverse=True)
    sizes, sums, share = np.bincount(row), np.bincount(row, successes), float(successes.mean())
    n, k = len(successes), len(sizes)
    variance = ((sums - share * sizes) ** 2).sum() / n**2 * k / max(k - 1, 1)
    # Where all guesses are alike nothing tells how much those about a row depend on each other.
    return min(max(share * (1 - share) / variance, 1.0), n) if variance > 0 else float(k)


def precision_gain(members: Mask) -> Estimate:
    """Advantage of calling rows members that are half members and half controls by chance: 2 p - 1.

    Args:
        members: Which of the called rows are members, shape (n,), n > 0.

    """
    centre, half = wilson(int(members.sum()), len(members))
    return _estimate(2 * float(members.mean()) - 1, 2 * (centre - half) - 1, 2 * (centre + half) - 1, len(members))


def auc_interval(members: Floats, controls: Floats) -> Estimate:
    """AUC of scores with the interval of DeLong et al. (1988), by ranks (Sun & Xu, 2014).

    Args:
        members: Scores of training rows, higher for likelier members, shape (n,), n > 1.
        controls: Of control rows, shape (m,), m > 1.

    """
    n, m = len(members), len(controls)
    both = _midranks(np.concatenate([members, controls]))
    above = (both[:n] - _midranks(members)) / m  # share of controls below each member
    below = 1 - (both[n:] - _midranks(controls)) / n
    auc = float(above.mean())
    half = _Z * math.sqrt(above.var(ddof=1) / n + below.var(ddof=1) / m)
    return _estimate(auc, max(0.0, auc - half), min(1.0, auc + half), n + m)


def _midranks(values: Floats) -> Floats:
    """Ranks from 1 on, those of equal values their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks


def _estimate(value: float, low: float, high: float, trials: int) -> Estimate:
    return Estimate(value=round(value, _DIGITS), low=round(low, _DIGITS), high=round(high, _DIGITS), trials=trials)
