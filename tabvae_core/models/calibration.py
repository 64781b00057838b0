"""Margins as the training rows have them, fitted after training.

A network's shares and distributions drift from the table's: weights are averaged and stopped early, and what a slot
sees when rows are drawn is not quite what it saw in training. So rows are drawn once more, slot by slot, and each slot
is put right before the next one sees it:

- to the logits of its tokens is added what gives every token its training share, found by iterative proportional
  fitting (Deming & Stephan, 1940) of the mean probability;
- the values of a level are bent, by a piecewise linear map between quantiles of what is drawn and quantiles of the
  training rows (quantile mapping: Panofsky & Brier, 1968). Values near multiples of others stay where they are, and the
  rest makes up for them.

Shapes: B rows drawn, n training rows, S slots, P points of a bend.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor
from torch.nn import functional

from tabvae_core.models.vae import BEND_POINTS, TabularVAE

__all__ = ["Calibration"]

_ROUNDS = 30
_MOST = 1.0
"""Most that is added to a logit: more would be a sign of slots before it, not of its own."""
_CELLS = 4_000_000
"""Probabilities of tokens that are kept at once: of large vocabularies fewer rows are looked at."""
_LEAST_ROWS = 100
"""Training rows below which a level is left as it was learned."""
_ROWS_A_POINT, _FURTHEST = 30, 2.6
"""Rows for each point of a bend, those beyond the outermost included, and how far out that may be in N(0, 1)."""
_MOST_OF_OTHERS = 0.7
"""Share of a level's values near multiples of others beyond which the rest cannot make up for them."""
_LEAST_STEP = 1e-5


class Calibration:
    """Fits the margins of a network while rows are drawn from it; see `drawing.Fitting`.

    Args:
        network: Changed slot by slot.
        targets: Tokens of the training rows, int32, shape (n, S).
        low: Lower edges of their values, float32.
        high: Upper edges.
        seed: Of where values lie within their cells.

    """

    def __init__(
        self,
        network: TabularVAE,
        targets: npt.NDArray[np.int32],
        low: npt.NDArray[np.float32],
        high: npt.NDArray[np.float32],
        seed: int,
    ) -> None:
        self._network, self._targets, self._edges = network, targets, (low, high)
        self._rng = np.random.default_rng(seed)

    def tokens(self, slot: int, logits: Tensor) -> Tensor:
        """Fit the shares of a slot's tokens to logits (B, n_tokens), and return what they become."""
        n = logits.shape[-1]
        if self._network.layout.parents[slot] >= 0:
            return logits  # shares by the parent's token, of which most have few rows
        counts = torch.from_numpy(np.bincount(self._targets[:, slot], minlength=n))
        shares = counts.clamp(min=0.5) / len(self._targets)
        shift = _shift(logits[:: max(1, n * len(logits) // _CELLS)], shares.float())
        self._network.set_margins(slot, shift=shift)
        return logits + shift

    def values(self, slot: int, drawn: Tensor, places: Tensor, of_others: Tensor) -> None:
        """Fit the bends of a slot's levels to places (B,) that were drawn for its tokens (B,)."""
        bends = {}
        for level in range(self._network.layout.n_levels[slot]):
            rows = np.flatnonzero(self._targets[:, slot] == level)
            own, others = (places[(drawn == level) & part].numpy() for part in (~of_others, of_others))
            points = min(BEND_POINTS - 2, min(len(rows), len(own)) // _ROWS_A_POINT)
            if len(rows) < _LEAST_ROWS or points < 2 or len(others) > _MOST_OF_OTHERS * (len(own) + len(others)):
                continue
            low, high = (edge[rows, slot] for edge in self._edges)
            learned = low + (high - low) * self._rng.random(len(rows), dtype=np.float32)
            bends[level] = self._bend(slot, own, others, learned, points)
        self._network.set_margins(slot, bends=bends)

    def _bend(
        self,
        slot: int,
        own: npt.NDArray[np.float32],
        others: npt.NDArray[np.float32],
        learned: npt.NDArray[np.float32],
        n_points: int,
    ) -> Tensor:
        # As far apart as in N(0, 1): what few rows are found in is bent by few points, yet bent.
        most = min(_FURTHEST, -ndtri(_ROWS_A_POINT / min(len(own), len(learned))))
        shares = ndtr(np.linspace(-most, most, n_points))
        source = np.quantile(own, shares)
        target = np.quantile(learned, shares) if not len(others) else _rest(learned, others, len(own), shares)
        ends = self._network.ranges[slot].tolist()
        points = np.stack([np.r_[ends[0], part, ends[1]] for part in (source, target)])
        kept = np.concatenate([[True], (np.diff(points, axis=1) > _LEAST_STEP).all(axis=0)])
        # Points too close to the one before are left out; the last one, which is the end of the range, is not.
        kept[-1] = True
        points = points[:, kept]
        padded = np.pad(points, ((0, 0), (0, BEND_POINTS - points.shape[1])), mode="edge")
        return torch.from_numpy(padded.astype(np.float32))


def _rest(
    learned: npt.NDArray[np.float32], others: npt.NDArray[np.float32], n_own: int, shares: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Quantiles at shares of what, mixed with the others in proportion, makes up the learned values."""
    part = len(others) / (len(others) + n_own)
    grid = np.sort(learned).astype(np.float64)
    at = np.searchsorted(np.sort(others), grid, side="right") / len(others)
    whole = np.arange(1, len(grid) + 1) / len(grid)
    below = np.maximum.accumulate(np.clip((whole - part * at) / (1 - part), 0.0, 1.0))
    found: npt.NDArray[np.float64] = grid[np.searchsorted(below, shares).clip(max=len(grid) - 1)]
    return found


def _shift(logits: Tensor, shares: Tensor) -> Tensor:
    """What added to logits (B, n) gives each token its share (n,), on average over the rows."""
    shift = torch.zeros_like(shares)
    for _ in range(_ROUNDS):
        mean = functional.softmax(logits + shift, dim=-1).mean(dim=0)
        # What is never drawn stays so.
        step = torch.where(mean > 0, (shares / mean.clamp(min=1e-30)).log(), 0.0)
        shift = (shift + step).clamp(-_MOST, _MOST)
    return shift
