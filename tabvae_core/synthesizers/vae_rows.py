"""The rows that `vae` learns, as batches of cells: which are validated on, which are given."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tabvae_core.codecs.links import Links
from tabvae_core.codecs.ratios import Ratios
from tabvae_core.codecs.table import TableCodec
from tabvae_core.models.vae import Cells, TabularVAE
from tabvae_core.progress import Progress
from tabvae_core.tables import TableSource

__all__ = ["EncodedRows", "TrainingRows", "encode_rows"]

_VALIDATION_SHARE = 0.1
_VALIDATION_ROWS = 5_000
_PREPARED_ROWS = 10_000


@dataclass(frozen=True)
class EncodedRows:
    """Cells of n rows as arrays of shape (n, slots).

    Args:
        tokens: The cells' own tokens, int32.
        targets: Tokens to predict, int32.
        low: Lower edges of values, float32.
        high: Upper edges, float32.
        ratios: Cells in the logs of ratios, float32, shape (n, ratios, 5), see `Ratios.cells`; None without ratios.

    """

    tokens: npt.NDArray[np.int32]
    targets: npt.NDArray[np.int32]
    low: npt.NDArray[np.float32]
    high: npt.NDArray[np.float32]
    ratios: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def on(self, device: torch.device) -> tuple[Tensor, ...]:
        """The arrays as tensors."""
        arrays = (self.tokens, self.targets, self.low, self.high, self.ratios)
        return tuple(torch.from_numpy(array).to(device) for array in arrays if array is not None)


def encode_rows(
    source: TableSource, codec: TableCodec, links: Links, ratios: Ratios, progress: Progress
) -> EncodedRows:
    """Encode all rows of a source."""
    parts: list[tuple[npt.NDArray[Any], ...]] = []
    for batch, encoded in codec.encode_batches(source, progress=progress):
        targets = links.targets(codec, batch, encoded.tokens)
        near = (ratios.cells(codec, batch, encoded.tokens),) if ratios.ratios else ()
        parts.append((encoded.tokens, targets, encoded.low, encoded.high, *near))
    return EncodedRows(*(np.concatenate(part) for part in zip(*parts, strict=True)))


class TrainingRows:
    """Encoded rows on the device, split into training and validation rows.

    Args:
        arrays: All rows, see `EncodedRows.on`.
        columns: Column of each slot, shape (slots,).
        seed: Seed of the split.
        free_bits: Nats of each latent dimension that cost nothing.
        given_rows: Share of the rows of which a random subset of the columns is given.
        beta: Price of a nat beyond the free ones.
        tc: Price of a nat of total correlation between the latent dimensions.

    """

    def __init__(
        self,
        arrays: tuple[Tensor, ...],
        columns: tuple[int, ...],
        *,
        seed: int,
        free_bits: float,
        given_rows: float,
        beta: float = 1.0,
        tc: float = 0.0,
    ) -> None:
        rows = len(arrays[0])
        order = np.random.default_rng(seed).permutation(rows)
        self.n_validation = max(1, min(int(rows * _VALIDATION_SHARE), _VALIDATION_ROWS))
        self.n_train = rows - self.n_validation
        self._held = torch.from_numpy(order[self.n_train :])
        self._train = torch.from_numpy(order[: self.n_train])
        self._arrays, self._device, self._columns = arrays, arrays[0].device, torch.tensor(columns)
        self._seed, self._free_bits, self._given_rows = seed, free_bits, given_rows
        self._beta, self._tc = beta, tc
        # The bound itself judges, unless other prices were asked for: then what they ask for judges, too.
        self._judged_free_bits = 0.0 if (beta, tc) == (1.0, 0.0) else free_bits
        self.rate = 0.0

    def on(self, device: torch.device) -> Self:
        """The same rows on another device."""
        moved = copy.copy(self)
        moved._arrays, moved._device = tuple(array.to(device) for array in self._arrays), device
        return moved

    def _cells(self, rows: Tensor) -> Cells:
        tokens, targets, low, high, *ratios = (array[rows.to(self._device)] for array in self._arrays)
        return Cells(tokens.long(), targets.long(), low, high, *ratios)

    def _given(self, rows: int, share: float, generator: torch.Generator) -> Tensor:
        """Give a random subset of the columns, of random size, in a share of the rows: (rows, slots)."""
        width = int(self._columns.max()) + 1
        some = torch.rand(rows, 1, generator=generator) < share
        chosen = torch.rand(rows, width, generator=generator) < torch.rand(rows, 1, generator=generator)
        return (chosen[:, self._columns] & some).to(self._device)

    def sample(self) -> Cells:
        """Training rows to prepare the network with."""
        return self._cells(self._train[:_PREPARED_ROWS])

    def loss(self, network: torch.nn.Module, rows: Tensor, generator: torch.Generator) -> Tensor:
        """What training minimises, of the rows with these indices among the training rows."""
        assert isinstance(network, TabularVAE)
        noise = torch.randn(len(rows), network.size.latent, generator=generator).to(self._device)
        given = self._given(len(rows), self._given_rows, generator)
        cells = self._cells(self._train[rows])
        loss, _ = network.negative_elbo(
            cells, given, free_bits=self._free_bits, beta=self._beta, tc=self._tc, noise=noise, generator=generator
        )
        return loss

    def validation_loss(self, network: torch.nn.Module) -> float:
        """Negative evidence lower bound of the validation rows, the same noise every time; both ways of use count.

        With prices other than the bound's, what training minimises takes its place.
        """
        assert isinstance(network, TabularVAE)
        generator = torch.Generator().manual_seed(self._seed)
        total = rate = 0.0
        for rows in torch.split(self._held, 1024):
            cells = self._cells(rows)
            noise = torch.randn(len(rows), network.size.latent, generator=generator).to(self._device)
            for share, weight in ((0.0, 1 - self._given_rows), (1.0, self._given_rows)):
                given = self._given(len(rows), share, generator)
                loss, kl = network.negative_elbo(
                    cells, given, free_bits=self._judged_free_bits, beta=self._beta, tc=self._tc, noise=noise
                )
                total += weight * float(loss) * len(rows)
                rate += float(kl) * len(rows) * (share == 0.0)
        self.rate = rate / self.n_validation
        return total / self.n_validation

    def latents(self, network: TabularVAE, limit: int) -> npt.NDArray[np.float64]:
        """One draw of z from the posterior of each of at most `limit` training rows."""
        generator = torch.Generator().manual_seed(self._seed + 1)
        drawn = []
        network.eval()
        with torch.no_grad():
            for rows in torch.split(self._train[:limit], 2048):
                mean, log_variance = network.encode(self._cells(rows))
                noise = torch.randn(mean.shape, generator=generator).to(self._device)
                drawn.append((mean + noise * (0.5 * log_variance).exp()).cpu())
        return torch.cat(drawn).numpy().astype(np.float64)
