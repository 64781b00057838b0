"""The latent space of one network of `vae`; see `tabvae_core.latent`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from tabvae_core.latent import Floats, Latents
from tabvae_core.models.drawing import Draws, generate
from tabvae_core.models.latent_prior import LatentPrior
from tabvae_core.models.vae import Cells, TabularVAE
from tabvae_core.schema import TableSchema
from tabvae_core.synthesizers.base import BLOCK_ROWS
from tabvae_core.synthesizers.vae_chain import Chain

__all__ = ["VAELatentSpace"]


@dataclass(frozen=True)
class VAELatentSpace:
    """One member with its prior and the codecs around it; a `LatentSpace`."""

    schema: TableSchema
    chain: Chain
    network: TabularVAE
    prior: LatentPrior
    member: int
    members: int

    @property
    def dimensions(self) -> int:
        """D."""
        return self.network.size.latent

    @torch.no_grad()
    def encode(self, rows: pa.Table | pa.RecordBatch) -> Latents:
        """Posteriors of rows; see `LatentSpace.encode`."""
        encoded = self.chain.codec.encode(rows)
        parts = []
        for start in range(0, len(encoded.tokens), BLOCK_ROWS):
            some = slice(start, start + BLOCK_ROWS)
            tokens = torch.from_numpy(encoded.tokens[some]).long()
            low, high = (torch.from_numpy(edge[some]) for edge in (encoded.low, encoded.high))
            parts.append(self.network.encode(Cells(tokens, tokens, low, high)))
        mean, log_variance = (torch.cat(part).double() for part in zip(*parts, strict=True))
        return Latents(mean.numpy(), (0.5 * log_variance).exp().numpy())

    def decode(self, z: Floats, *, numbers: npt.NDArray[np.int64] | None = None, seed: int = 0) -> pa.Table:
        """Draw a row at each point; see `LatentSpace.decode`."""
        shared = np.arange(len(z)) if numbers is None else numbers
        if shared.max(initial=0) >= BLOCK_ROWS:
            raise ValueError(f"rows share randomness by numbers below {BLOCK_ROWS:,}")
        generator = torch.Generator().manual_seed(seed)
        draws = Draws.make(BLOCK_ROWS, len(self.chain.codec.slots), self.dimensions, generator)
        parts = []
        for start in range(0, len(z), BLOCK_ROWS):
            some = slice(start, start + BLOCK_ROWS)
            points, own = torch.from_numpy(z[some].astype(np.float32)), draws.of(torch.from_numpy(shared[some]))
            settling = self.chain.settling()
            drawn = generate(self.network, points, own, settling)
            rows = shared[some].astype(np.uint64)
            parts.append(settling.decode(drawn.tokens, drawn.values, rows=rows, seed=seed))
        return pa.concat_tables(parts).select(list(self.schema.names))

    def draw(self, n: int, *, seed: int = 0) -> Floats:
        """Draw points from the prior; see `LatentSpace.draw`."""
        generator = torch.Generator().manual_seed(seed)
        noise, pick = torch.randn(n, self.dimensions, generator=generator), torch.rand(n, generator=generator)
        return self.prior.transform(noise, pick).double().numpy()

    def quantiles(self, shares: Floats) -> Floats:
        """Quantiles of the prior's margins; see `LatentSpace.quantiles`."""
        return self.prior.quantiles(shares)
