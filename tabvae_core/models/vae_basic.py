"""The network of `vae_basic`: the plain VAE of the article, two hidden layers of 64, eight latents."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["BasicVAE"]


class BasicVAE(nn.Module):
    """Fully connected VAE (Kingma & Welling, 2014).

    Args:
        width_in: Features of a row: standardised numbers and one-hot categories.
        latent: Dimensions of z.
        hidden: Width of the hidden layers.

    """

    def __init__(self, width_in: int, latent: int = 8, hidden: int = 64) -> None:
        super().__init__()
        self.latent = latent
        self.encoder = nn.Sequential(nn.Linear(width_in, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.mean = nn.Linear(hidden, latent)
        self.log_variance = nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, width_in))

    def forward(self, rows: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct rows.

        Args:
            rows: Features, shape (B, width_in).
            noise: Standard normal, shape (B, latent).

        Returns:
            Reconstruction (B, width_in), mean and log variance of z (B, latent).

        """
        hidden = self.encoder(rows)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + noise * torch.exp(0.5 * log_variance)
        return self.decoder(z), mean, log_variance

    def loss(self, rows: Tensor, noise: Tensor, kl_weight: float = 0.001) -> Tensor:
        """Mean squared error + 0.001 KL, both averaged over their elements."""
        decoded, mean, log_variance = self(rows, noise)
        kl = -0.5 * torch.mean(1 + log_variance - mean.pow(2) - log_variance.exp())
        return nn.functional.mse_loss(decoded, rows) + kl_weight * kl
