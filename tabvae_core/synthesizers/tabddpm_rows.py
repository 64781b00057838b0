"""The rows that `tabddpm` learns: slots as categorical variables and numbers, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tabvae_core.codecs.base import Encoded
from tabvae_core.codecs.table import TableCodec
from tabvae_core.models.tabddpm import Denoiser, Rows, Support, Variables

__all__ = ["RowVariables", "TrainingRows"]

_VALIDATION_SHARE, _VALIDATION_ROWS, _VALIDATION_TIMES = 0.1, 5_000, 2
_LEAST_SCALE = 1e-3


class RowVariables:
    """C categorical variables and V numbers of each row.

    A slot of several tokens is a categorical variable; one whose tokens carry values is a number, too. Where a row's
    token carries none, its number is noise of its own, which tells nothing and is easily learned: with a gap in its
    place, what is drawn there would be of another kind than what was learned.

    Args:
        codec: The table's fitted codecs.
        center: Mean of each number in quantile space, shape (V,).
        scale: Its deviation.

    """

    def __init__(self, codec: TableCodec, center: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]) -> None:
        self.codec, self.center, self.scale = codec, center, scale
        self._categorical, self.valued = _places(codec)

    @classmethod
    def fit(cls, codec: TableCodec, encoded: Encoded) -> RowVariables:
        """Find the mean and the deviation of each number, over the cells that carry a value."""
        center, scale = [], []
        for slot in _places(codec)[1]:
            carries = encoded.tokens[:, slot] < codec.slots[slot].n_levels
            low, high = encoded.low[carries, slot], encoded.high[carries, slot]
            some = bool(carries.any())
            center.append(float(np.mean((low + high) / 2)) if some else 0.0)
            spread = np.var((low + high) / 2) + np.mean((high - low) ** 2) / 12 if some else 1.0
            scale.append(max(float(np.sqrt(spread)), _LEAST_SCALE))
        return cls(codec, np.array(center, np.float32), np.array(scale, np.float32))

    @property
    def variables(self) -> Variables:
        """What the network is told of a row."""
        slots = self.codec.slots
        return Variables(tuple(slots[slot].n_tokens for slot in self._categorical), len(self.valued))

    @property
    def support(self) -> Support:
        """Which tokens may be drawn: not the stand-in for rare categories, nor nulls that the spec forbids."""
        priors, parents = self.codec.log_priors(), self.codec.parents
        place = {slot: index for index, slot in enumerate(self._categorical)}
        allowed, above = [], []
        for slot in self._categorical:
            prior, parent = priors[slot], place.get(parents[slot], -1)
            if prior is None:
                prior = np.zeros(self.codec.slots[slot].n_tokens, np.float32)
            if prior.ndim == 2 and parent < 0:  # of a parent with a single token
                prior = prior[0]
            allowed.append(torch.from_numpy(~np.isneginf(prior)))
            above.append(parent if prior.ndim == 2 else -1)
        return Support(tuple(allowed), tuple(above))

    def tokens(self, encoded: Encoded) -> Tensor:
        """Categories of encoded rows, int32, shape (n, C)."""
        return torch.from_numpy(encoded.tokens[:, self._categorical])

    def cells(self, encoded: Encoded) -> tuple[Tensor, Tensor, Tensor]:
        """Lower edge and width of the numbers' cells, in units of `scale`; which carry a value; each (n, V)."""
        low, high = encoded.low[:, self.valued], encoded.high[:, self.valued]
        levels = np.array([self.codec.slots[slot].n_levels for slot in self.valued], np.int32)
        carries = encoded.tokens[:, self.valued] < levels
        lower, width = (low - self.center) / self.scale, (high - low) / self.scale
        return torch.from_numpy(lower), torch.from_numpy(width), torch.from_numpy(carries)

    def decode(self, rows: Rows) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Tokens and values of drawn rows, each (n, slots)."""
        shape = (len(rows.tokens), len(self.codec.slots))
        tokens, values = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        tokens[:, self._categorical] = rows.tokens.numpy()
        values[:, self.valued] = rows.numbers.numpy() * self.scale + self.center
        return tokens, values

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What a bundle stores."""
        return {"numbers.center": self.center, "numbers.scale": self.scale}


def _places(codec: TableCodec) -> tuple[list[int], list[int]]:
    """Slots that are categorical variables, slots that are numbers."""
    slots = list(enumerate(codec.slots))
    return [k for k, slot in slots if slot.n_tokens > 1], [k for k, slot in slots if slot.n_levels > 0]


class TrainingRows:
    """Encoded rows on the device, split into training and validation rows.

    Args:
        rows: What a row consists of.
        encoded: All rows.
        seed: Seed of the split.
        device: Where the network is.

    """

    def __init__(self, rows: RowVariables, encoded: Encoded, *, seed: int, device: torch.device) -> None:
        self.tokens = rows.tokens(encoded).to(device)
        self._low, self._width, self._carries = (part.to(device) for part in rows.cells(encoded))
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(self.tokens)))
        self.n_validation = max(1, min(int(len(order) * _VALIDATION_SHARE), _VALIDATION_ROWS))
        self._train, self._held = order[: -self.n_validation].to(device), order[-self.n_validation :].to(device)
        self.n_train = len(self._train)

    def _rows(self, index: Tensor, generator: torch.Generator) -> Rows:
        """Rows by their numbers; what their cells leave open is drawn anew each time."""
        width, carries = self._width[index], self._carries[index]
        place = torch.rand(width.shape, generator=generator).to(width.device)
        other = torch.randn(width.shape, generator=generator).to(width.device)
        return Rows(self.tokens[index].long(), torch.where(carries, self._low[index] + width * place, other))

    def loss(self, network: torch.nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
        """Loss of the training rows with these indices."""
        assert isinstance(network, Denoiser)
        return network.loss(self._rows(self._train[index.to(self._train.device)], generator), generator)

    def validation_loss(self, network: torch.nn.Module) -> float:
        """Loss of the validation rows, with the same noise every time."""
        assert isinstance(network, Denoiser)
        generator, total = torch.Generator().manual_seed(0), 0.0
        for index in torch.split(self._held, 1024):
            for _ in range(_VALIDATION_TIMES):
                total += float(network.loss(self._rows(index, generator), generator)) * len(index)
        return total / (self.n_validation * _VALIDATION_TIMES)
