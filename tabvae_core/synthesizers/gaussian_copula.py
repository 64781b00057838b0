"""`gaussian_copula`: exact margins and one latent normal for each variable; seconds for a million rows.

It learns no more of the dependence than one correlation for each pair of variables, but that exactly, without training
and with conditional draws in closed form. See `models/copula.py` for the maths, `margins.py` for the variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.special import ndtr

from tabvae_core.codecs.base import IntArray
from tabvae_core.given import given_cells, with_given
from tabvae_core.models.copula import (
    draw_between,
    latent_correlations,
    nearest_correlation,
    shrunk,
)
from tabvae_core.progress import Progress
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.base import BLOCK_ROWS
from tabvae_core.synthesizers.copula import CopulaSynthesizer
from tabvae_core.synthesizers.margins import Margins
from tabvae_core.synthesizers.options import read_options

__all__ = ["GaussianCopulaSynthesizer"]

Floats = npt.NDArray[np.float64]

_CHUNK_CELLS = 2_000_000
_CANDIDATE_CELLS = 1_200
"""Cells of all candidates of a row: memory of a block does not grow with the variables beyond."""


@dataclass(frozen=True)
class _Options:
    """Options of the method, under `model.options`.

    Args:
        candidates: Draws for each row in which several cells are given or bounded, of which one is kept.

    """

    candidates: int = 16


class GaussianCopulaSynthesizer(CopulaSynthesizer):
    """Gaussian copula over the margins of a table."""

    method = "gaussian_copula"

    def __init__(self, model: ModelSpec | None = None, privacy: PrivacySpec | None = None) -> None:
        super().__init__(model, privacy)
        self._options = read_options(_Options, self.model)
        self._correlation: Floats = np.eye(0)
        self._root: Floats = np.eye(0)

    def _learn(
        self, margins: Margins, places: IntArray, started: float, progress: Progress, checkpoint: Path | None
    ) -> dict[str, Any]:
        observed, rows = _correlations(margins, places)
        latent = shrunk(latent_correlations(observed, margins.margins), rows)
        self._take({}, {"correlation": nearest_correlation(latent)})
        repair = float(np.abs(self._correlation - latent).max(initial=0.0))
        return {"correlations": len(rows) * (len(rows) - 1) // 2, "largest_repair": round(repair, 6)}

    def _weights(self) -> dict[str, npt.NDArray[Any]]:
        return {"correlation": self._correlation}

    def _take(self, network: Mapping[str, Any], weights: Mapping[str, npt.NDArray[Any]]) -> None:
        self._correlation = np.asarray(weights["correlation"], dtype=np.float64)
        self._root = np.asarray(np.linalg.cholesky(self._correlation), dtype=np.float64)

    def sample_block(
        self,
        block: int,
        n_rows: int,
        *,
        seed: int,
        attempt: int = 0,
        given: Mapping[str, Any] | pa.Table | None = None,
        bounds: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """Draw one block of rows; see `Synthesizer.sample_block`."""
        margins, rng = self._margins, np.random.default_rng([seed, block, attempt])
        cells = given_cells(given or {}, self.schema, n_rows)
        limits = margins.between(cells, bounds or {}, n_rows)
        # Whole blocks are always drawn, so that a shorter last block begins like a full one.
        if limits is None:
            noise = rng.standard_normal((BLOCK_ROWS, len(self._root)))
            ranks = ndtr(noise @ self._root.T)[:n_rows]
        else:
            low, high = limits
            times = self._n_candidates(low, high)
            uniforms = rng.random((BLOCK_ROWS, times, low.shape[1]))[:n_rows]
            luck = rng.gumbel(size=(BLOCK_ROWS, times))[:n_rows]
            ranks = draw_between(self._correlation, low, high, uniforms, luck)
        return with_given(self._rows(block, ranks, seed), cells)

    def _n_candidates(self, low: Floats, high: Floats) -> int:
        """One, where it is exact; see `draw_between`."""
        held = ((low < high) & (high - low < 1.0)).sum(axis=1).max(initial=0)
        return 1 if held <= 1 else max(1, min(self._options.candidates, _CANDIDATE_CELLS // low.shape[1]))

    def unlearned(self, given: pa.Table) -> dict[str, int]:
        """Count given cells of values that were never learned; see `Synthesizer.unlearned`."""
        return self._margins.codec.unlearned(given_cells(given, self.schema, given.num_rows))


def _correlations(margins: Margins, places: IntArray) -> tuple[Floats, Floats]:
    """Correlations of the normal scores over the rows in which both are observed, and the number of these rows.

    Args:
        margins: The table's.
        places: Pieces of rows, int32, shape (n, d).

    Returns:
        Both of shape (d, d); a correlation is 0 where a variable does not vary.

    """
    d = places.shape[1]
    rows, sums, squares, products = (np.zeros((d, d)) for _ in range(4))
    step = max(1, _CHUNK_CELLS // max(d, 1))
    for at in range(0, len(places), step):
        part = places[at : at + step]
        scores, there = margins.scores(part), (part >= 0).astype(np.float64)
        rows += there.T @ there
        sums += scores.T @ there
        squares += (scores**2).T @ there
        products += scores.T @ scores
    n = np.maximum(rows, 1.0)
    variance = np.maximum(squares / n - (sums / n) ** 2, 0.0)
    covariance = products / n - (sums / n) * (sums / n).T
    varies = (variance > 1e-12) & (variance.T > 1e-12)
    found = np.where(varies, covariance / np.sqrt(np.where(varies, variance * variance.T, 1.0)), 0.0)
    return np.asarray(found, dtype=np.float64), rows
