"""The learned prior of `vae`: a mixture of Gaussians over z, fitted to the aggregate posterior after training."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["LatentPrior"]


class LatentPrior:
    """Mixture of Gaussians over z, fitted to the aggregate posterior: the prior that the posterior does match.

    Args:
        weights: Float32, shape (k,).
        means: Float32, shape (k, latent).
        factors: Cholesky factors of the covariances, float32, shape (k, latent, latent).

    """

    def __init__(self, weights: Tensor, means: Tensor, factors: Tensor) -> None:
        self.weights, self.means, self.factors = weights, means, factors

    @classmethod
    def fit(cls, z: npt.NDArray[np.float64], seed: int) -> LatentPrior:
        """Fit by expectation maximisation; few components, each over many rows, so that none is a row's own."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        components = int(np.clip(len(z) // 200, 1, 16))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture = GaussianMixture(components, reg_covar=1e-3, random_state=seed, max_iter=60).fit(z)
        factors = np.linalg.cholesky(mixture.covariances_)
        parts = (mixture.weights_, mixture.means_, factors)
        return cls(*(torch.from_numpy(np.asarray(part, dtype=np.float32)) for part in parts))

    def transform(self, noise: Tensor, pick: Tensor) -> Tensor:
        """Turn standard normal noise (B, latent) and uniforms (B,) into draws (B, latent)."""
        cumulative = self.weights.double().cumsum(0)
        chosen = torch.searchsorted(cumulative, pick.double() * cumulative[-1]).clamp(max=len(self.weights) - 1)
        return self.means[chosen] + torch.einsum("bij,bj->bi", self.factors[chosen], noise)

    def quantiles(self, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Quantiles of each dimension by itself, at shares (q,) in (0, 1), found by bisection: shape (q, latent)."""
        from scipy.special import ndtr

        weights, means, spreads = (
            part.double().numpy() for part in (self.weights, self.means, self.factors.square().sum(dim=-1).sqrt())
        )
        low = np.broadcast_to((means - 9 * spreads).min(axis=0), (len(shares), means.shape[1]))
        high = np.broadcast_to((means + 9 * spreads).max(axis=0), low.shape)
        for _ in range(60):
            middle = (low + high) / 2
            below = (weights[:, None] * ndtr((middle[:, None] - means) / spreads)).sum(axis=1) / weights.sum()
            low, high = np.where(below < shares[:, None], middle, low), np.where(below < shares[:, None], high, middle)
        found: npt.NDArray[np.float64] = (low + high) / 2
        return found
