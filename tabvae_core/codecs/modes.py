"""Mode-specific normalisation: a number as one of the modes of its distribution and its place within that mode.

After Xu, Skoularidou, Cuesta-Infante & Veeramachaneni (2019), "Modeling tabular data using conditional GAN", section
4.2. The modes are those of a variational Gaussian mixture, which finds their number itself.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["Modes"]

_SAMPLE = 10_000
"""Values that a mixture is fitted to at most."""
_WIDTHS = 4.0
"""Deviations of a mode that become 1."""
_COVARIANCE, _PRECISION, _LEAST = 1e-4, 1e-3, 1e-9
"""Weak priors, of standardised values: modes may be as narrow as a value that many rows share."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Modes:
    """Modes of one number.

    Args:
        mean: Their centres, shape (m,).
        deviation: Their standard deviations, shape (m,); 0 for a mode of rows that share one value.
        weight: Their shares of the rows, shape (m,).

    """

    mean: Floats
    deviation: Floats
    weight: Floats

    @classmethod
    def fit(cls, values: Floats, *, most: int, min_rows: int, seed: int) -> Self:
        """Find the modes of a number.

        Args:
            values: At least one, finite, shape (n,).
            most: Modes at most.
            min_rows: Values of each mode at least, so that none is a single row's; one mode has all, however few.
            seed: Seed of the subsample and of the mixture's start.

        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import BayesianGaussianMixture

        some = np.random.default_rng(seed).permutation(values)[:_SAMPLE]
        center, scale = float(some.mean()), float(some.std()) or 1.0
        all_rows = cls(np.array([center]), np.array([some.std()]), np.ones(1))
        if len(some) < 2 * min_rows:
            return all_rows
        standard = (some - center) / scale
        mixture = BayesianGaussianMixture(
            n_components=min(most, len(np.unique(standard))), covariance_type="diag", covariance_prior=[_COVARIANCE],
            mean_precision_prior=_PRECISION, reg_covar=_LEAST, random_state=seed,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # modes need not be the likeliest to be useful
            members = mixture.fit_predict(standard[:, None])
        counts = np.bincount(members, minlength=mixture.n_components)
        kept = np.flatnonzero(counts >= min_rows)
        if not len(kept):
            return all_rows
        mean = mixture.means_[kept, 0] * scale + center
        deviation = np.sqrt(mixture.covariances_[kept, 0]) * scale
        for index, mode in enumerate(kept):
            own = some[members == mode]
            if own.min() == own.max():
                mean[index], deviation[index] = own[0], 0.0
        return cls(mean, deviation, counts[kept] / counts[kept].sum())

    def __len__(self) -> int:
        return len(self.mean)

    def encode(
        self, values: Floats, random: np.random.Generator
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Encode to places in [-1, 1] within modes, float32 (n,), and modes, int64 (n,), each drawn by its likelihood.

        A NaN is at the centre of the most frequent mode.
        """
        known = np.where(np.isnan(values), self.mean[self.weight.argmax()], values)
        chances = self._likelihood(known).cumsum(axis=1)
        drawn = random.random(len(values)) * chances[:, -1]
        modes = np.minimum((chances < drawn[:, None]).sum(axis=1), len(self) - 1)
        width = _WIDTHS * self.deviation[modes]
        places = (known - self.mean[modes]) / np.where(width > 0, width, 1.0)
        return np.where(width > 0, np.clip(places, -1.0, 1.0), 0.0).astype(np.float32), modes

    def decode(self, places: npt.NDArray[Any], modes: npt.NDArray[np.integer[Any]]) -> Floats:
        """Numbers at places within modes, shape (n,)."""
        return np.asarray(self.mean[modes] + _WIDTHS * self.deviation[modes] * places, dtype=np.float64)

    def _likelihood(self, values: Floats) -> Floats:
        """Likelihood of each mode relative to the likeliest, shape (n, m)."""
        spread = max(float(np.ptp(self.mean)), float(self.deviation.max())) or 1.0
        deviation = np.maximum(self.deviation, _LEAST * spread)
        logs = np.log(self.weight / deviation) - 0.5 * ((values[:, None] - self.mean) / deviation) ** 2
        return np.asarray(np.exp(logs - logs.max(axis=1, keepdims=True)))
