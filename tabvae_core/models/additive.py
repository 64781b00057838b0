"""A first guess of each value from the cells before it: an additive model, fitted in closed form before training.

Nearly deterministic columns (a length beside a width, a total beside its parts) have conditional densities a hundred
times narrower than their margins, and gradient steps are slow to find them. An additive model (Hastie & Tibshirani,
1986) of the cells before a value, by ridge regression, costs a second and leaves a residual; the network then learns
the density of the residual in units of its own spread. The model is fixed: it is a change of coordinates, no estimate
that the network could not correct.

Shapes: B rows, S slots, V slots that carry values, F periodic features of a value.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["MOST_VALUED", "AdditiveModel"]

MOST_VALUED = 80
"""Slots that carry values, at most: the model is quadratic in them, and wider tables do without."""
_MOST_TOKENS, _FEWEST_TOKENS = 400, 4
_MOST_PRODUCTS = 2e11
"""Multiplications that the normal equations of all slots may cost, about: some seconds of one core."""
_TOKEN_ROWS = 10
_OCTAVES = 3
_RIDGE = 10.0
_LEAST_SPREAD = 2e-3


class AdditiveModel(nn.Module):
    """Value of slot v ≈ start_v + Σ over earlier slots of (an effect of the token + a smooth effect of the value).

    Args:
        n_tokens: Tokens of all slots together.
        n_numeric: Slots whose cells have a place among numbers.
        n_valued: V.
        frequencies: Octaves of the periodic features, see `TabularVAE`.

    """

    start: Tensor
    scale: Tensor
    by_token: Tensor
    by_value: Tensor

    def __init__(self, n_tokens: int, n_numeric: int, n_valued: int, frequencies: int) -> None:
        super().__init__()
        self.active = 0 < n_valued <= MOST_VALUED
        self.octaves, self.frequencies = min(_OCTAVES, frequencies), frequencies
        width = n_valued if self.active else 0
        self.register_buffer("start", torch.zeros(n_valued))
        self.register_buffer("scale", torch.ones(n_valued))
        self.register_buffer("by_token", torch.zeros(n_tokens, width))
        self.register_buffer("by_value", torch.zeros(n_numeric, 2 * self.octaves + 1, width))

    def smooth(self, features: Tensor) -> Tensor:
        """Keep the value and its lowest octaves of all periodic features (…, F)."""
        sines = features[..., : 1 + self.octaves]
        cosines = features[..., 1 + self.frequencies : 1 + self.frequencies + self.octaves]
        return torch.cat([sines, cosines], dim=-1)

    def forward(self, flat: Tensor, features: Tensor) -> Tensor:
        """Guess the values of whole rows.

        Args:
            flat: Tokens numbered over all slots, shape (B, S).
            features: Periodic features of the numeric slots, shape (B, numeric slots, F).

        Returns:
            Shape (B, V).

        """
        total = self.start.expand(len(flat), -1)
        if not self.active:
            return total
        total = total + self.by_token[flat].sum(dim=1)
        return total + torch.einsum("bnf,nfv->bv", self.smooth(features), self.by_value)

    def step(self, flat: Tensor, features: Tensor | None, place: int) -> Tensor:
        """What the cells (B,) of one slot add to the guesses, (B, V); `place` is its number among numeric slots."""
        if not self.active:
            return torch.zeros(len(flat), len(self.start))
        added = self.by_token[flat]
        if features is not None:
            added = added + self.smooth(features) @ self.by_value[place]
        return added

    @torch.no_grad()
    def fit(
        self,
        flat: Tensor,
        features: Tensor,
        values: Tensor,
        known: Tensor,
        valued: Tensor,
        numeric: Tensor,
        offsets: Tensor,
    ) -> None:
        """Fit by ridge regression on a sample of training rows; wiggly effects are punished more than smooth ones.

        Args:
            flat: Tokens numbered over all slots, shape (B, S).
            features: Periodic features, shape (B, numeric slots, F).
            values: Places of the cells among numbers, shape (B, S).
            known: Which cells have one, shape (B, S).
            valued: The slots to guess, shape (V,).
            numeric: The numeric slots.
            offsets: First flat token of each slot, shape (S,).

        """
        if not self.active:
            return
        most = self._most_tokens(*flat.shape)
        smooth, places = self.smooth(features), {slot: k for k, slot in enumerate(numeric.tolist())}
        counts = torch.bincount(flat.flatten(), minlength=len(self.by_token))
        octave = torch.tensor([-1.0, *range(self.octaves), *range(self.octaves)])
        wiggly = torch.where(octave < 0, 1e-2, 4.0**octave)
        ends = [*offsets.tolist()[1:], len(counts)]
        columns, penalties, origins = [torch.zeros(len(flat), 0)], [torch.zeros(0)], [0]
        tokens: list[Tensor] = []
        for slot, (first, end) in enumerate(zip(offsets.tolist(), ends, strict=True)):
            shared = first + torch.nonzero(counts[first:end] >= _TOKEN_ROWS)[:, 0]
            shared = shared[counts[shared].argsort(descending=True, stable=True)[:most]]
            tokens.append(shared)
            columns.append((flat[:, slot : slot + 1] == shared).float())
            penalties.append(torch.full((len(shared),), _RIDGE))
            if slot in places:
                columns.append(smooth[:, places[slot]])
                penalties.append(wiggly)
            origins.append(origins[-1] + len(shared) + (smooth.shape[-1] if slot in places else 0))
        design, penalty = torch.cat(columns, dim=1), torch.cat(penalties)
        for v, slot in enumerate(valued.tolist()):
            there = known[:, slot]
            y = values[there, slot].double()
            if len(y) < 2:
                continue
            weights, start, residual = _ridge(design[there, : origins[slot]].double(), y, penalty[: origins[slot]])
            self.start[v] = start
            self.scale[v] = _spread(residual, float(y.std()))
            for other in range(slot):
                part = weights[origins[other] : origins[other + 1]].float()
                self.by_token[tokens[other], v] = part[: len(tokens[other])]
                if other in places:
                    self.by_value[places[other], :, v] = part[len(tokens[other]) :]

    def _most_tokens(self, rows: int, slots: int) -> int:
        """Tokens of a slot with effects of their own, at most: the cost is quadratic in those of all slots."""
        affordable = math.sqrt(_MOST_PRODUCTS / max(rows * len(self.start), 1)) / max(slots, 1)
        return int(min(_MOST_TOKENS, max(_FEWEST_TOKENS, affordable)))


def _ridge(design: Tensor, y: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (p,), intercept and residuals of centred ridge regression."""
    means, mean = design.mean(dim=0), y.mean()
    centred = design - means
    weights = torch.linalg.solve(centred.T @ centred + torch.diag(penalty.double() + 1e-6), centred.T @ (y - mean))
    start = mean - means @ weights
    return weights, start, y - start - design @ weights


def _spread(residual: Tensor, whole: float) -> float:
    """Spread of the bulk of the residuals, by quartiles, as far as tails and spikes leave one."""
    low, high = torch.quantile(residual, torch.tensor([0.25, 0.75], dtype=residual.dtype)).tolist()
    least = max(_LEAST_SPREAD, 0.1 * float(residual.std()))
    return float(min(max(0.7413 * (high - low), least), max(whole, _LEAST_SPREAD)))
