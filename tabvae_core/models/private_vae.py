"""The network of `vae` for differential privacy: the same, over tokens alone, with a loss for each row.

What `models.vae` reads from the training rows is left out or public: there are no values beside the tokens, no first
guess, and the softmaxes start at counts that are given to it. No row's loss depends on another row of its batch, as
clipping the gradient of each row asks; so the rate of z is held by each row's own free bits.

Every layer is applied once to a row, or once to each of its slots with weights of their own: the norm of a row's
gradient then follows from what went into the layers and what came back (`privacy.row_gradients`).

Shapes: B rows, S slots.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from tabvae_core.models.vae import Layout, NetworkSize, TabularVAE

__all__ = ["PrivateVAE"]


class PrivateVAE(TabularVAE):
    """See the module's docstring.

    Args:
        n_tokens: Vocabulary of each slot, length S.
        size: Hyperparameters; dropout, mixtures and frequencies are not used.
        priors: Log frequencies of each slot's tokens, shape (n_tokens,), from noisy counts or public; None: uniform.

    """

    def __init__(
        self, n_tokens: Sequence[int], size: NetworkSize, priors: Sequence[npt.NDArray[np.float32] | None]
    ) -> None:
        slots = len(n_tokens)
        layout = Layout(tuple(n_tokens), (0,) * slots, (-1,) * slots)
        super().__init__(layout, size, priors, [None] * slots, np.zeros((slots, 2), np.float32))

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
        embedded: Tensor = self.embedding(tokens + self.offsets)
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
        """Layers that learn from rows under differential privacy; all other parameters stay as they are."""
        linear = [self.encode_in, self.encode_out, self.start]
        return [self.embedding, *linear, self.enter, *self.layers, *self.token_heads]
