"""A table as a mixture of products, fitted to noisy counts of pairs of columns.

Rows are tokens: d columns, column j of k_j tokens. The model draws one of m components, and each column's token by
itself from that component: P(row) = sum_c w_c prod_j p_cj(row_j). All counts of pairs are products of matrices, so all
that were measured are fitted at once, in the manner of Aydore et al. (2021), whose relaxed rows are components here,
and of Liu, Vietri & Wu (2021). Which pairs are measured is chosen as McKenna et al. (2022, AIM) do: by the exponential
mechanism, the ones that the model has most wrong. Conditional draws are exact: given cells say how likely each
component is, and the others follow from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Measured", "Mixture", "fit_mixture", "pair_counts"]

Floats = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.int32]
Pair = tuple[int, int]

_LEAST = 1e-9
_RATE = 0.05
_SPREAD = 1.0
"""Standard deviation of the components' first log odds around the columns' own shares."""


@dataclass(frozen=True)
class Measured:
    """Noisy shares.

    Args:
        single: Shares of each column's tokens, in one row, shape (D,), D the tokens of all columns.
        pairs: Shares of two columns' tokens, shape (k_i, k_j), by pair i < j.
        single_sigma: Standard deviation of the noise on single shares.
        pair_sigma: Of the noise on pairs.

    """

    single: Floats
    pairs: dict[Pair, Floats]
    single_sigma: float
    pair_sigma: float


@dataclass(frozen=True)
class Mixture:
    """Components and their products.

    Args:
        sizes: Tokens of each column, d of them.
        weights: Of the components, adding up to 1, shape (m,).
        shares: Shares of each column's tokens in each component, side by side, shape (m, D).

    """

    sizes: tuple[int, ...]
    weights: Floats
    shares: Floats

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """First place of each column among the D."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)

    def column(self, j: int) -> Floats:
        """Shares of column j's tokens in each component, shape (m, k_j)."""
        start = int(self.starts[j])
        return self.shares[:, start : start + self.sizes[j]]

    def pair(self, i: int, j: int) -> Floats:
        """Shares of two columns' tokens, shape (k_i, k_j)."""
        return np.asarray((self.column(i) * self.weights[:, None]).T @ self.column(j))

    def draw(
        self,
        allowed: dict[int, npt.NDArray[np.bool_]],
        given: dict[int, tuple[Tokens, npt.NDArray[np.bool_]]],
        uniforms: Floats,
    ) -> Tokens:
        """Draw n rows, exactly by the model's distribution given what is given and allowed.

        Args:
            allowed: Tokens that may be drawn of some columns, shape (k_j,) each, at least one.
            given: Tokens of some columns, and in which rows they are given, both of shape (n,).
            uniforms: In [0, 1), shape (n, 1 + d).

        Returns:
            Tokens, int32, shape (n, d).

        """
        odds = np.log(np.maximum(self.weights, _LEAST))[None].repeat(len(uniforms), axis=0)
        for j, (tokens, mask) in given.items():
            odds[mask] += np.log(np.maximum(self.column(j)[:, tokens[mask]].T, _LEAST))
        for j, may in allowed.items():
            free = ~given[j][1] if j in given else np.ones(len(odds), dtype=np.bool_)
            odds[free] += np.log(np.maximum(self.column(j) @ may.astype(np.float64), _LEAST))
        component = _choose(np.exp(odds - odds.max(axis=1, keepdims=True)), uniforms[:, 0])
        drawn = np.empty((len(uniforms), len(self.sizes)), dtype=np.int32)
        for j in range(len(self.sizes)):
            shares = self.column(j)[component]
            if j in allowed:
                shares = np.maximum(shares, _LEAST) * allowed[j]
            drawn[:, j] = _choose(shares, uniforms[:, 1 + j])
            if j in given:
                drawn[:, j] = np.where(given[j][1], given[j][0], drawn[:, j])
        return drawn


def _choose(weights: Floats, uniforms: Floats) -> Tokens:
    """One of k by weight, for each of n rows: shapes (n, k) and (n,)."""
    reach = np.cumsum(weights, axis=1)
    chosen = (reach <= uniforms[:, None] * reach[:, -1:]).sum(axis=1)
    result: Tokens = np.minimum(chosen, weights.shape[1] - 1).astype(np.int32)
    return result


def pair_counts(tokens: Tokens, i: int, j: int, sizes: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Rows of each two tokens, shape (k_i, k_j)."""
    flat = tokens[:, i].astype(np.int64) * sizes[j] + tokens[:, j]
    return np.bincount(flat, minlength=sizes[i] * sizes[j]).reshape(sizes[i], sizes[j])


def fit_mixture(
    sizes: tuple[int, ...],
    measured: Measured,
    *,
    components: int,
    steps: int,
    seed: int,
    start: Mixture | None = None,
) -> Mixture:
    """Fit a mixture to noisy shares by Adam, each share weighted by its noise; the rate falls to 0 along a cosine.

    Args:
        sizes: Tokens of each column.
        measured: What it is fitted to: nothing of the rows but this.
        components: m.
        steps: Steps of Adam.
        seed: Of the first components.
        start: Mixture to go on from.

    """
    generator = torch.Generator().manual_seed(seed)
    if start is None:
        base = torch.from_numpy(np.log(np.maximum(measured.single, 1e-6))).float()
        logits = base + _SPREAD * torch.randn(components, len(base), generator=generator)
        heights = torch.zeros(components)
    else:
        logits = torch.from_numpy(np.log(np.maximum(start.shares, _LEAST))).float()
        heights = torch.from_numpy(np.log(np.maximum(start.weights, _LEAST))).float()
    logits.requires_grad_(True)
    heights.requires_grad_(True)
    single, target, weight = _targets(sizes, measured)
    optimizer = torch.optim.Adam([logits, heights], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        weights, shares = torch.softmax(heights, 0), _softmax(logits, sizes)
        scaled = shares * weights[:, None]
        loss = ((scaled.sum(0) - single) ** 2).sum() / measured.single_sigma**2
        loss = loss + (weight * (scaled.T @ shares - target) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        weights, shares = torch.softmax(heights, 0), _softmax(logits, sizes)
    return Mixture(sizes, weights.double().numpy(), shares.double().numpy())


def _softmax(logits: Tensor, sizes: Iterable[int]) -> Tensor:
    parts = torch.split(logits, list(sizes), dim=1)
    return torch.cat([torch.softmax(part, dim=1) for part in parts], dim=1)


def _targets(sizes: tuple[int, ...], measured: Measured) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy shares of single tokens (D,), of pairs (D, D), and the weights of the latter."""
    starts = np.concatenate([[0], np.cumsum(sizes)])
    target, weight = np.zeros((starts[-1], starts[-1])), np.zeros((starts[-1], starts[-1]))
    for (i, j), shares in measured.pairs.items():
        place = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
        target[place], weight[place] = shares, 1 / measured.pair_sigma**2
    return tuple(torch.from_numpy(part).float() for part in (measured.single, target, weight))  # type: ignore[return-value]
