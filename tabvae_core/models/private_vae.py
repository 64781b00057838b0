"""The network of `vae` for differential privacy: the same network, with a loss for each row.

All that `models.vae` reads from the training rows is left out or paid for: cells are tokens without values, there is no
first guess, and the softmaxes start at noisy counts. No row's loss depends on another row of its batch, as clipping the
gradient of each row asks; so the rate of z is held by each row's own free bits.

Every layer is applied once to a row, or once to each of its slots with weights of their own: the norm of a row's
gradient then follows from what went into the layers and what came back (`privacy.row_gradients`).

Shapes: B rows, S slots.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tabvae_core.models.vae import Cells, TabularVAE

__all__ = ["PrivateVAE"]


class PrivateVAE(TabularVAE):
    """A `TabularVAE` over tokens alone, none of which chooses another's prior; its samples are drawn as ever."""

    def row_losses(self, tokens: Tensor, given: Tensor, noise: Tensor, *, free_bits: float) -> Tensor:
        """Negative evidence lower bound of each row; of a row with given cells, the loss of the others, without z.

        Args:
            tokens: Tokens of B rows, int64, shape (B, S).
            given: True where a cell is known from the start, shape (B, S).
            noise: Standard normal, shape (B, latent).
            free_bits: Nats of each latent dimension of a row that cost nothing.

        Returns:
            Nats, shape (B,).

        """
        nothing = torch.zeros(tokens.shape, device=tokens.device)
        embedded = self._embed(tokens, self._numeric_features(Cells(tokens, tokens, nothing, nothing)))
        mean, log_variance = self._posterior(embedded)
        z = mean + noise * (0.5 * log_variance).exp()
        free = ~given.any(dim=1)
        start = torch.where(free[:, None], self.start(z), self.no_latent)
        hidden = self._decode(self._contexts(start, embedded, given), None)
        rate = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
        losses = free * rate.clamp(min=free_bits).sum(dim=1)
        for head in self.token_heads:
            logits, targets = head(hidden[head.index]), tokens[:, head.index].T
            each = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
            losses = losses + (each.view_as(targets) * ~given[:, head.index].T).sum(dim=0)
        return losses

    @property
    def private_layers(self) -> list[nn.Module]:
        """Layers that learn from rows; all other parameters stay as they were."""
        linear = [self.encode_in, self.encode_out, self.start]
        return [self.embedding, *linear, self.enter, *self.layers, *self.token_heads]
