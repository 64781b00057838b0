"""What a latent space is worth: how much it knows of a row, and whether its axes are about one thing each.

With known factors, which only made-up rows have, the mutual information gap asks whether each factor is told by one
axis and by no other. Without them the rate of a table's posteriors is taken apart: what they know of the row, how
much their axes share, how far each axis is from the prior.

Shapes: N rows, D dimensions of z, K factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from tabvae_core.models.aggregate import log_aggregate, log_normal

__all__ = ["FactorGap", "FactorRows", "RateParts", "factor_rows", "mutual_information_gap", "rate_parts"]

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

_CHUNK = 256
"""Draws whose densities are computed at a time: memory grows with it times N times D."""


@dataclass(frozen=True)
class RateParts:
    """The rate E KL(q(z | row) || N(0, I)) in nats a row, taken apart (Chen et al., 2018); the parts sum to it.

    Args:
        information: Mutual information of z and the row, at most log N.
        total_correlation: What the dimensions share: KL of q(z) from the product of its margins.
        dimension_wise: KL of each margin of q(z) from N(0, 1), summed.

    """

    information: float
    total_correlation: float
    dimension_wise: float

    @property
    def rate(self) -> float:
        """The sum of the parts."""
        return self.information + self.total_correlation + self.dimension_wise


@dataclass(frozen=True)
class FactorGap:
    """The mutual information gap, and what it is made of.

    Args:
        information: Mutual information of each factor and each dimension, nats, shape (K, D).
        entropies: Entropy of each factor, nats, shape (K,).

    """

    information: Floats
    entropies: Floats

    @property
    def gaps(self) -> Floats:
        """For each factor what its best dimension tells more of it than the second best, of its entropy, (K,)."""
        ranked = np.sort(self.information, axis=1)
        second = ranked[:, -2] if ranked.shape[1] > 1 else np.zeros(len(ranked))
        gaps: Floats = (ranked[:, -1] - second) / self.entropies
        return gaps

    @property
    def gap(self) -> float:
        """Mean of the gaps: 0 where no dimension tells more than another, 1 where each factor has one of its own."""
        return float(self.gaps.mean())


def rate_parts(mean: Floats, spread: Floats, *, seed: int = 0) -> RateParts:
    """Take the rate of posteriors apart, with one draw from each of them.

    Args:
        mean: Means of the rows' posteriors, shape (N, D).
        spread: Their standard deviations, shape (N, D).
        seed: Of the draws.

    Returns:
        The parts, of the mixture over these N rows; time grows with N², 5,000 rows take seconds.

    """
    z, centre, log_variance = _draw(mean, spread, seed)
    joint, margins = _mixture(z, centre, log_variance)
    own, prior = log_normal(z, centre, log_variance).sum(dim=1), log_normal(z).sum(dim=1)
    together = margins.sum(dim=1)
    return RateParts(*(float(part.mean()) for part in (own - joint, joint - together, together - prior)))


def mutual_information_gap(mean: Floats, spread: Floats, factors: Codes, *, seed: int = 0) -> FactorGap:
    """Measure the mutual information gap (Chen et al., 2018) of posteriors against factors that are known.

    I(z_d; v) is the entropy of a dimension less its mean entropy within the levels of a factor, both of mixtures of
    the rows' posteriors.

    Args:
        mean: Means of the rows' posteriors, shape (N, D).
        spread: Their standard deviations, shape (N, D).
        factors: Levels of the factors, shape (N, K); each level with many rows, or its entropy is put too low.
        seed: Of the draws, one from each posterior.

    """
    z, centre, log_variance = _draw(mean, spread, seed)
    _, whole = _mixture(z, centre, log_variance)
    information, entropies = [], []
    for levels in factors.T:
        within = torch.empty_like(whole)
        for level in np.unique(levels):
            rows = torch.from_numpy(np.flatnonzero(levels == level))
            within[rows] = _mixture(z[rows], centre[rows], log_variance[rows])[1]
        information.append((within - whole).mean(dim=0).clamp(min=0).numpy())
        shares = np.unique(levels, return_counts=True)[1] / len(levels)
        entropies.append(-float((shares * np.log(shares)).sum()))
    return FactorGap(np.array(information), np.array(entropies))


def _draw(mean: Floats, spread: Floats, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """One draw from each posterior, the means and the log variances, float64."""
    noise = np.random.default_rng(seed).standard_normal(mean.shape)
    parts = (mean + noise * spread, mean, 2 * np.log(spread))
    z, centre, log_variance = (torch.from_numpy(np.asarray(part, dtype=np.float64)) for part in parts)
    return z, centre, log_variance


def _mixture(z: Tensor, centre: Tensor, log_variance: Tensor) -> tuple[Tensor, Tensor]:
    parts = [log_aggregate(some, centre, log_variance) for some in torch.split(z, _CHUNK)]
    joint, margins = (torch.cat(part) for part in zip(*parts, strict=True))
    return joint, margins


# Rows whose factors are known ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FactorRows:
    """Made-up rows and what made them.

    Args:
        table: N rows, 12 columns, each driven by one factor and noise of its own.
        factors: Levels of the factors in each row, independent of each other, shape (N, 3).
        names: Names of the factors: age, wealth, region.

    """

    table: pa.Table
    factors: Codes
    names: tuple[str, ...] = ("age", "wealth", "region")


def factor_rows(rows: int, *, seed: int = 0) -> FactorRows:
    """Make rows from three independent factors, so that it is known what axes of a latent space could mean.

    | factor | levels | columns |
    |---|---|---|
    | age | 8, ordered | age, years_worked, children, retired |
    | wealth | 6, ordered | income, balance, card_limit, plan |
    | region | 5, without order | city, language, temperature, delivery_days |

    Args:
        rows: N.
        seed: Same seed, same rows.

    """
    rng = np.random.default_rng(seed)
    age, wealth, region = (rng.integers(0, levels, rows) for levels in (8, 6, 5))
    years = 18 + 8 * age + rng.integers(0, 8, rows)
    income = np.exp(9.6 + 0.4 * wealth + 0.15 * rng.standard_normal(rows))
    plans = np.array([[8, 2, 0, 0], [6, 4, 0, 0], [3, 6, 1, 0], [1, 5, 4, 0], [0, 3, 6, 1], [0, 1, 4, 5]]) / 10
    plan = (plans[wealth].cumsum(axis=1) < rng.random(rows)[:, None]).sum(axis=1)
    tongue = np.where(rng.random(rows) < 0.9, np.array([0, 0, 1, 1, 2])[region], rng.integers(0, 3, rows))
    columns = {
        "age": years,
        "income": income.round(-2).astype(np.int64),
        "city": _named("city", 3 * region + rng.integers(0, 3, rows)),
        "years_worked": np.clip(years - 20 - rng.poisson(2, rows), 0, 45),
        "balance": (income * np.exp(0.3 * rng.standard_normal(rows)) / 4).round(2),
        "language": _named("language", tongue),
        "children": rng.poisson(np.array([0.1, 0.6, 1.3, 1.9, 2.1, 2.2, 2.2, 2.2])[age]),
        "card_limit": (income / 6 * np.exp(0.2 * rng.standard_normal(rows)) / 500).round() * 500,
        "temperature": (np.array([4.0, 9.0, 13.0, 18.0, 24.0])[region] + 1.5 * rng.standard_normal(rows)).round(1),
        "retired": rng.random(rows) < np.array([0, 0, 0.01, 0.02, 0.05, 0.4, 0.9, 0.98])[age],
        "plan": np.array(["basic", "plus", "pro", "private"])[plan],
        "delivery_days": 1 + rng.poisson(np.array([6.0, 3.0, 1.0, 2.0, 9.0])[region]),
    }
    return FactorRows(pa.table(columns), np.column_stack([age, wealth, region]).astype(np.int64))


def _named(name: str, codes: Codes) -> npt.NDArray[np.str_]:
    return np.array([f"{name} {code + 1}" for code in range(int(codes.max(initial=0)) + 1)])[codes]
