"""The network of `copula_vae`: a VAE over normal scores whose likelihood is that of the interval a cell lies in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["CopulaSize", "CopulaVAE", "log_interval"]

_LOG_SCALES = (-5.0, 0.5)
_FIRST_LOG_SCALE = -0.5
_LEAST_WIDTH = 1e-6


@dataclass(frozen=True)
class CopulaSize:
    """Size of the network.

    Args:
        variables: d.
        latent: Dimensions of the code.
        hidden: Width of the hidden layers.

    """

    variables: int
    latent: int
    hidden: int


class CopulaVAE(nn.Module):
    """VAE (Kingma & Welling, 2014) whose decoder says mean and deviation of each variable's z, given the code.

    Rows reach it as intervals of z. Given the code, variables are independent normals, and the likelihood of a cell is
    the probability of its interval: of a category exactly what a probit model says, of a number as good as a density.
    So nothing is made up within a category, and a cell that is not observed is the whole line and counts for nothing.
    The decoder is linear plus a network, so that it begins as factor analysis, a Gaussian copula of low rank.
    """

    def __init__(self, size: CopulaSize) -> None:
        super().__init__()
        self.size = size
        d, latent, hidden = size.variables, size.latent, size.hidden
        self.encoder = nn.Sequential(
            nn.Linear(d, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 2 * latent)
        )
        self.linear = nn.Linear(latent, d)
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 2 * d)
        )

    def encode(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the code, each (B, latent), of scores (B, d)."""
        mean, log_variance = self.encoder(scores).chunk(2, dim=1)
        return mean, log_variance.clamp(-10.0, 2.0)

    def decode(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of z, each (B, d), given codes (B, latent)."""
        mean, log_scale = self.decoder(code).chunk(2, dim=1)
        return mean + self.linear(code), (log_scale + _FIRST_LOG_SCALE).clamp(*_LOG_SCALES).exp()

    def negative_elbo(
        self, scores: Tensor, low: Tensor, high: Tensor, noise: Tensor, *, free_bits: float = 0.0
    ) -> Tensor:
        """Mean negative evidence lower bound of rows, nats a row.

        Args:
            scores: Mean z of each cell's interval, 0 where a cell is not observed, shape (B, d).
            low: Lower ends of the intervals, finite, shape (B, d).
            high: Upper ends, shape (B, d).
            noise: Standard normal, shape (B, latent).
            free_bits: Nats that each dimension of the code is given for nothing (Kingma et al., 2016), or training
                begins by giving most of them up.

        """
        mean, log_variance = self.encode(scores)
        centre, scale = self.decode(mean + noise * (0.5 * log_variance).exp())
        likelihood = log_interval((low - centre) / scale, (high - centre) / scale).sum(dim=1)
        rate = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean(dim=0)
        return rate.clamp(min=free_bits).sum() - likelihood.mean()


def log_interval(low: Tensor, high: Tensor) -> Tensor:
    """Log of a standard normal's probability between two finite ends, precise in both tails; of their shape."""
    flip = low + high > 0  # in the lower tail, neither probability rounds to one
    first, last = torch.where(flip, -high, low), torch.where(flip, -low, high)
    below: Tensor = torch.special.log_ndtr(first)
    above: Tensor = torch.special.log_ndtr(last)
    return above + torch.log(-torch.expm1((below - above).clamp(max=-_LEAST_WIDTH)))
