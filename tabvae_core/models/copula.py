"""The Gaussian copula for columns of any kind: margins of ordered pieces, latent correlations, conditional draws.

A joint distribution is its margins and a copula (Sklar, 1959). A margin here is a row of pieces, each of which owns an
interval of (0, 1): a category, a frequent value, or a narrow range of a number. Within a piece the rank is uniform,
which is the distributional transform (Rüschendorf, 2009): u in (0, 1) to a cell is exact, a cell to u is an interval.
The normal quantiles z of u are taken to be jointly normal; pieces are intervals of z, which is all a cell says of it.

Nothing here knows tables; `synthesizers/margins.py` turns rows into pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.special import erfc, ndtr, ndtri

__all__ = [
    "Margin",
    "draw_between",
    "hermite_coefficients",
    "informative_order",
    "latent_correlations",
    "nearest_correlation",
    "shrunk",
]

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int32]

_TERMS = 32
"""Terms of the series in Hermite polynomials."""
_GRID = 4096
_HALVINGS = 30
_PROJECTIONS = 100
_TOLERANCE = 1e-7
_FARTHEST = 8.0
"""Standard deviations that a given cell may lie off what the cells before it say; the rest of it is not believed."""
_CHUNK_CELLS = 2_000_000
_PRIOR_ROWS = 10.0
"""Rows of no association that each category is credited with, so that rare ones do not find a place by chance."""


@dataclass(frozen=True)
class Margin:
    """Distribution of one variable as ordered pieces.

    Args:
        codes: What each piece stands for, all different, int64, shape (p,).
        edges: Cumulative probabilities from 0 to 1; piece k owns edges[k] … edges[k + 1]; shape (p + 1,).

    """

    codes: npt.NDArray[np.int64]
    edges: Floats

    @classmethod
    def of_counts(cls, codes: npt.NDArray[np.int64], counts: npt.NDArray[Any]) -> Self:
        """Make a margin of the pieces' rows (p,); where there are none at all, the pieces are alike."""
        weights = counts.astype(np.float64) if counts.sum() > 0 else np.ones(len(codes))
        edges = np.concatenate([[0.0], np.cumsum(weights) / weights.sum()])
        edges[-1] = 1.0
        return cls(codes, edges)

    def reordered(self, order: npt.NDArray[np.intp]) -> Margin:
        """The same pieces in another order (p,)."""
        return Margin.of_counts(self.codes[order], np.diff(self.edges)[order])

    def find(self, codes: npt.NDArray[Any], *, nearest: bool = False) -> Places:
        """Pieces of codes (n,); -1 where there is none, or, with `nearest`, the next piece if codes are ascending."""
        order = np.argsort(self.codes, kind="stable")
        at = np.minimum(np.searchsorted(self.codes, codes, sorter=order), len(order) - 1)
        piece = order[at]
        known = (self.codes[piece] == codes) | (nearest & (codes >= 0))
        return np.where(known, piece, -1).astype(np.int32)

    def pick(self, ranks: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
        """Codes of the pieces that own ranks in (0, 1), and how far within its piece each one lies; both (n,)."""
        piece = self.piece(ranks)
        mass = np.maximum(self.edges[piece + 1] - self.edges[piece], 1e-300)
        return self.codes[piece], np.clip((ranks - self.edges[piece]) / mass, 0.0, 1.0)

    def piece(self, ranks: Floats) -> npt.NDArray[np.intp]:
        """Pieces that own ranks (n,)."""
        return np.clip(np.searchsorted(self.edges, ranks, side="right") - 1, 0, len(self.codes) - 1)

    def scores(self) -> Floats:
        """Mean of z within each piece, shape (p,): its normal score."""
        mass = np.diff(self.edges)
        at = ndtri(np.clip(self.edges, 1e-12, 1 - 1e-12))
        mean = -np.diff(_density(self.edges)) / np.maximum(mass, 1e-300)
        return np.asarray(np.where(mass > 1e-12, mean, at[:-1]), dtype=np.float64)

    def deviation(self) -> float:
        """Standard deviation of the scores."""
        return float(np.sqrt((np.diff(self.edges) * self.scores() ** 2).sum()))


def _density(edges: Floats) -> Floats:
    """Standard normal density at quantiles of probabilities; 0 at those of 0 and 1."""
    z = ndtri(edges)
    return np.asarray(np.where(np.isfinite(z), np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi), 0.0), dtype=np.float64)


# Correlation ----------------------------------------------------------------------------------------------------------


def hermite_coefficients(margin: Margin) -> Floats:
    """Coefficients of a variable's normal score, a step function of z, in orthonormal Hermite polynomials.

    They follow in closed form: the integral of h_k times the density over an interval is a difference of h_{k-1} times
    the density at its ends, divided by the square root of k.

    Returns:
        Coefficients of degree 1 … 32, shape (32,); with those beyond, their squares sum up to the score's variance.

    """
    z = np.where(np.isfinite(ndtri(margin.edges)), ndtri(margin.edges), 0.0)
    before, now = np.zeros(len(z)), _density(margin.edges)
    scores, found = margin.scores(), np.zeros(_TERMS)
    for degree in range(1, _TERMS + 1):
        found[degree - 1] = -(scores * np.diff(now)).sum() / np.sqrt(degree)
        before, now = now, (z * now - np.sqrt(degree - 1) * before) / np.sqrt(degree)
    return found


def latent_correlations(observed: Floats, margins: Sequence[Margin]) -> Floats:
    """Correlations of z that give the scores of pieces the correlations that were observed.

    Scores of a discrete variable vary less than z does and so correlate less; drawn from their own correlations, rows
    would be less dependent than those that were learned. For jointly normal z the covariance of two functions of them
    is a power series in rho with the products of their Hermite coefficients (Mehler, 1866; Lancaster, 1957), which is
    increasing for increasing functions. Solving it is what NORTA does (Cario & Nelson, 1997), and for two categories of
    two values it is the tetrachoric correlation.

    Args:
        observed: Correlations of scores, shape (d, d).
        margins: d margins.

    Returns:
        Shape (d, d), with a diagonal of ones; 0 where a variable does not vary.

    """
    if not margins:
        return observed
    coefficients = np.array([hermite_coefficients(margin) for margin in margins])
    grid = (np.arange(_GRID) + 0.5) / _GRID
    scores = np.array([margin.scores()[margin.piece(grid)] for margin in margins])
    # Beyond its last term the series has what is missing at rho = 1 and rho = -1, where z is one and the same.
    alternating = coefficients * (-1.0) ** np.arange(1, _TERMS + 1)
    rest = [scores @ other.T / _GRID - coefficients @ terms.T for other, terms in
            ((scores, coefficients), (scores[:, ::-1], alternating))]  # fmt: skip
    deviation = np.array([margin.deviation() for margin in margins])
    target = observed * np.outer(deviation, deviation)
    low, high = -np.ones_like(target), np.ones_like(target)
    for _ in range(_HALVINGS):
        rho = (low + high) / 2
        series = np.zeros_like(rho)
        for degree in range(_TERMS - 1, -1, -1):
            series = (series + np.outer(coefficients[:, degree], coefficients[:, degree])) * rho
        above = series + np.where(rho > 0, *rest) * _beyond(np.abs(rho)) > target
        low, high = np.where(above, low, rho), np.where(above, rho, high)
    result = np.where(target == 0.0, 0.0, (low + high) / 2)
    np.fill_diagonal(result, 1.0)
    return result


def _beyond(rho: Floats) -> Floats:
    """Share of a power series' terms beyond the last one at rho, of what they are at 1.

    Squared coefficients of step functions fall as the degree to the power of -3/2, whose sum is an incomplete gamma
    function.
    """
    x = -_TERMS * np.log(np.maximum(rho, 1e-12))
    return np.asarray(np.maximum(np.exp(-x) - np.sqrt(np.pi * x) * erfc(np.sqrt(x)), 0.0), dtype=np.float64)


def shrunk(correlations: Floats, rows: Floats) -> Floats:
    """Take from each correlation what chance explains of it: the positive part of James & Stein (1961), entry by entry.

    A correlation of n rows has a variance of about (1 - rho^2)^2 / n, so certain ones stay as they are.

    Args:
        correlations: Shape (d, d).
        rows: Rows behind each of them, shape (d, d).

    """
    chance = (1 - correlations**2) ** 2 / np.maximum(rows, 1.0)
    kept = np.maximum(0.0, 1 - chance / np.maximum(correlations**2, 1e-12))
    result = np.asarray(correlations * kept)
    np.fill_diagonal(result, 1.0)
    return result


def nearest_correlation(matrix: Floats, *, floor: float = 1e-6) -> Floats:
    """Find the correlation matrix nearest to a symmetric matrix, in the Frobenius norm (Higham, 2002).

    Alternates between matrices of eigenvalues of at least `floor` and of unit diagonal, with Dykstra's correction.
    Correlations that were estimated pair by pair need not belong together; those of columns that follow from each other
    are singular.

    Args:
        matrix: Symmetric, unit diagonal, shape (d, d).
        floor: Least eigenvalue, so that there is a Cholesky factor.

    """
    if not len(matrix) or np.linalg.eigvalsh(matrix)[0] >= floor:
        return matrix
    nearest, correction = matrix.copy(), np.zeros_like(matrix)
    for _ in range(_PROJECTIONS):
        corrected = nearest - correction
        projected = _at_least(corrected, floor)
        correction = projected - corrected
        before, nearest = nearest, projected.copy()
        np.fill_diagonal(nearest, 1.0)
        if np.abs(nearest - before).max() < _TOLERANCE:
            break
    # The last step set the diagonal: a final projection, rescaled, has both.
    definite = _at_least(nearest, 2 * floor)
    scale = 1 / np.sqrt(np.diag(definite))
    result = np.asarray(definite * np.outer(scale, scale))
    np.fill_diagonal(result, 1.0)
    return result


def _at_least(matrix: Floats, floor: float) -> Floats:
    """Raise the eigenvalues of a symmetric matrix to a floor."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.maximum(values, floor)) @ vectors.T)


# Order of categories --------------------------------------------------------------------------------------------------


def informative_order(places: Places, scores: Floats, pieces: int) -> npt.NDArray[np.intp]:
    """Order a nominal variable's pieces so that its correlations with the other variables are large.

    The optimal scores of its pieces for the sum of the squared correlations are the leading singular vector of the mean
    scores that the others have in each piece (optimal scaling: Gifi, 1990; the aspect of Mair & de Leeuw, 2010). Their
    order is taken; the sizes follow from the margin.

    Args:
        places: Piece of each row, -1 where missing, shape (n,).
        scores: Standardised scores of the other variables, 0 where missing, shape (n, d).
        pieces: p.

    Returns:
        The pieces in their new order, shape (p,).

    """
    there = np.flatnonzero(places >= 0)
    indicator = csr_matrix((np.ones(len(there)), (places[there], there)), shape=(pieces, len(places)))
    weight = np.sqrt(np.bincount(places[there], minlength=pieces) + _PRIOR_ROWS)
    means = (indicator @ scores) / weight[:, None]
    _, vectors = np.linalg.eigh(means.T @ means)
    leading = vectors[:, -1]
    leading = leading * np.sign(leading[np.abs(leading).argmax()])
    return np.argsort((means @ leading) / weight, kind="stable")


# Draws ----------------------------------------------------------------------------------------------------------------


def draw_between(correlation: Floats, low: Floats, high: Floats, uniforms: Floats, luck: Floats) -> Floats:
    """Draw ranks of jointly normal variables, each within an interval of its own in each row.

    The simulator of Geweke, Hajivassiliou and Keane (Geweke, 1991): variables are drawn one after the other, the most
    narrowly held first, each from its normal distribution given those before, cut to its interval. That is exact where
    at most one variable of a row is held between different bounds that are not 0 and 1; else each row has m candidates,
    of which one is kept by its importance weight, the product of the probabilities of the intervals (sampling
    importance resampling: Rubin, 1988), which is exact as m grows.

    Args:
        correlation: Positive definite, shape (d, d).
        low: Lower ends, ranks, shape (n, d); 0 where a variable is free.
        high: Upper ends, shape (n, d); as `low` where a rank is given, 1 where a variable is free.
        uniforms: Uniform draws, shape (n, m, d).
        luck: Gumbel draws, shape (n, m).

    Returns:
        Ranks, shape (n, d), each within its interval.

    """
    chunk = max(1, _CHUNK_CELLS // max(1, low.shape[1] ** 2))
    parts = [
        _drawn(correlation, *(part[at : at + chunk] for part in (low, high, uniforms, luck)))
        for at in range(0, len(low), chunk)
    ]
    ranks = np.concatenate(parts) if parts else low
    # An upper end belongs to the next piece.
    return np.asarray(np.clip(ranks, low, np.maximum(low, np.nextafter(high, 0.0))))


def _drawn(correlation: Floats, low: Floats, high: Floats, uniforms: Floats, luck: Floats) -> Floats:
    order = np.argsort(high - low, axis=1, kind="stable")
    patterns, which = np.unique(order, axis=0, return_inverse=True)
    roots = np.linalg.cholesky(correlation[patterns[:, :, None], patterns[:, None, :]])[which.ravel()]
    ends = [ndtri(np.take_along_axis(part, order, axis=1))[:, None, :] for part in (low, high)]
    held = int(((low > 0.0) | (high < 1.0)).sum(axis=1).max(initial=0))
    noise, log_weight = np.clip(ndtri(uniforms), -_FARTHEST, _FARTHEST), np.zeros(luck.shape)
    for k in range(held):
        mean = np.einsum("nj,nmj->nm", roots[:, k, :k], noise[:, :, :k])
        below, above = ((end[:, :, k] - mean) / roots[:, k, k, None] for end in ends)
        noise[:, :, k], log_mass = _cut_normal(below, above, uniforms[:, :, k])
        log_weight += log_mass
    kept = np.take_along_axis(noise, (log_weight + luck).argmax(axis=1)[:, None, None], axis=1)[:, 0]
    z = np.empty_like(low)
    np.put_along_axis(z, order, np.einsum("njk,nk->nj", roots, kept), axis=1)
    return np.asarray(ndtr(z))


def _cut_normal(below: Floats, above: Floats, uniforms: Floats) -> tuple[Floats, Floats]:
    """Standard normal draws within bounds, and log probabilities of the bounds; points are what they are, at 0."""
    flip = below > 0  # the lower tail is where probabilities are precise
    first, last = ndtr(np.where(flip, -above, below)), ndtr(np.where(flip, -below, above))
    drawn = ndtri(first + uniforms * (last - first))
    drawn = np.clip(np.where(flip, -drawn, drawn), below, above)
    log_mass = np.where(below < above, np.log(np.maximum(last - first, 1e-300)), 0.0)
    return np.clip(drawn, -_FARTHEST, _FARTHEST), log_mass
