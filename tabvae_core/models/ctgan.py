"""The networks and losses of `ctgan`.

After Xu, Skoularidou, Cuesta-Infante & Veeramachaneni (2019), "Modeling tabular data using conditional GAN": a residual
generator that is told one category of the row it makes, and a critic of packs of rows (PacGAN; Lin, Khetan, Fanti &
Oh, 2018) under the Wasserstein loss with gradient penalty (Gulrajani, Ahmed, Arjovsky, Dumoulin & Courville, 2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Critic", "Generator", "RowLayout", "condition_loss", "critic_loss", "draw", "gradient_penalty", "soft_rows"]

_TEMPERATURE = 0.2
"""Of the Gumbel-softmax."""
_SLOPE, _DROPOUT = 0.2, 0.5
_PENALTY = 10.0
_TINY = 1e-30
"""Stands for a uniform number of 0, which has no logarithm."""


@dataclass(frozen=True)
class RowLayout:
    """How a row is laid out: a place for each number, then its mode one-hot, then each category one-hot.

    Args:
        modes: Modes of each number.
        cardinalities: Of each category.

    """

    modes: tuple[int, ...]
    cardinalities: tuple[int, ...]

    @property
    def n_numbers(self) -> int:
        """Numbers of a row."""
        return len(self.modes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the one-hot parts: modes, then categories."""
        return (*self.modes, *self.cardinalities)

    @property
    def n_conditions(self) -> int:
        """Values of all categories: a condition is the index of one."""
        return sum(self.cardinalities)

    @property
    def width(self) -> int:
        """Features of a row."""
        return self.n_numbers + sum(self.sizes)

    def rows(self, places: Tensor, codes: Tensor) -> Tensor:
        """Rows (B, width) from places within modes, float (B, numbers), and codes of the one-hot parts, int64."""
        rows = torch.zeros(len(codes), self.width, device=codes.device)
        rows[:, : self.n_numbers] = places
        return rows.scatter_(1, codes + self._starts(self.sizes, codes) + self.n_numbers, 1.0)

    def category_of(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """First condition and number of conditions of each condition's own category, int64 (B,)."""
        starts = self._starts(self.cardinalities, condition)
        category = torch.searchsorted(starts, condition, right=True) - 1
        return starts[category], torch.tensor(self.cardinalities, device=condition.device)[category]

    @staticmethod
    def _starts(sizes: tuple[int, ...], like: Tensor) -> Tensor:
        sizes_ = torch.tensor(sizes, dtype=torch.int64, device=like.device)
        return sizes_.cumsum(0) - sizes_


class _Told(nn.Module):
    """A linear layer's share of one-hot conditions, which is a row of its weights each.

    Args:
        conditions: Rows.
        width: Output of the layer.
        inputs: Of the whole layer, as whose weights these start.

    """

    def __init__(self, conditions: int, width: int, inputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(conditions, width).uniform_(-bound, bound))

    def forward(self, condition: Tensor) -> Tensor:
        return functional.embedding(condition, self.weight)


class _Conditioned(nn.Module):
    """A linear layer of features (B, features) and a condition, int64 (B,)."""

    def __init__(self, features: int, conditions: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, width)
        self.told = _Told(conditions, width, features + conditions)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        out: Tensor = self.linear(x) + self.told(condition)
        return out


class Generator(nn.Module):
    """Noise and a condition to a row: places of numbers, logits of one-hot parts.

    Args:
        layout: Of a row.
        latent: Dimensions of the noise.
        hidden: Width of the two residual layers, which append their output to their input.

    """

    def __init__(self, layout: RowLayout, latent: int = 128, hidden: int = 256) -> None:
        super().__init__()
        self.layout, self.latent, conditions = layout, latent, layout.n_conditions
        self.layers = nn.ModuleList(_Conditioned(latent + k * hidden, conditions, hidden) for k in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in range(2))
        self.head = _Conditioned(latent + 2 * hidden, conditions, layout.width)

    def forward(self, noise: Tensor, condition: Tensor) -> Tensor:
        """Make rows.

        Args:
            noise: Standard normal, shape (B, latent).
            condition: The value of a category that each row is told, int64 (B,).

        Returns:
            Places in (-1, 1), then logits, shape (B, width).

        """
        x = noise
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.cat([x, functional.relu(norm(layer(x, condition)))], dim=1)
        out = self.head(x, condition)
        n = self.layout.n_numbers
        return torch.cat([torch.tanh(out[:, :n]), out[:, n:]], dim=1)


class Critic(nn.Module):
    """Scores packs of rows and their conditions, the higher the more they look real.

    Args:
        layout: Of a row.
        hidden: Width of the two layers.
        pac: Rows of a pack.

    """

    def __init__(self, layout: RowLayout, hidden: int = 256, pac: int = 10) -> None:
        super().__init__()
        self.pac, self._width, self._conditions = pac, layout.width, layout.n_conditions
        self.first = nn.Linear(pac * layout.width, hidden)
        self.told = _Told(pac * layout.n_conditions, hidden, pac * (layout.width + layout.n_conditions))
        self.second = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, 1)

    def forward(self, rows: Tensor, condition: Tensor, random: torch.Generator | None = None) -> Tensor:
        """Scores (B / pac,) of rows (B, width), a multiple of `pac`, with their conditions, int64 (B,).

        `random` decides the dropout; None drops nothing.
        """
        places = torch.arange(self.pac, device=rows.device) * self._conditions
        told = self.told(condition.reshape(-1, self.pac) + places).sum(dim=1)
        hidden = _dropped(self.first(rows.reshape(-1, self.pac * self._width)) + told, random)
        scores: Tensor = self.head(_dropped(self.second(hidden), random)).squeeze(1)
        return scores


def _dropped(x: Tensor, random: torch.Generator | None) -> Tensor:
    hidden = functional.leaky_relu(x, _SLOPE)
    if random is None:
        return hidden
    kept = torch.rand(hidden.shape, generator=random, device=x.device) >= _DROPOUT
    return hidden * kept / (1 - _DROPOUT)


def soft_rows(made: Tensor, layout: RowLayout, random: torch.Generator) -> Tensor:
    """Rows (B, width) that can be differentiated, from the generator's output: logits by Gumbel-softmax.

    Jang, Gu & Poole (2017); Maddison, Mnih & Teh (2017).
    """
    n = layout.n_numbers
    uniform = torch.rand(made[:, n:].shape, generator=random, device=made.device).clamp(min=_TINY)
    logits = (made[:, n:] - torch.log(-torch.log(uniform))) / _TEMPERATURE
    parts = [part.softmax(dim=1) for part in torch.split(logits, list(layout.sizes), dim=1)]
    return torch.cat([made[:, :n], *parts], dim=1)


def condition_loss(made: Tensor, layout: RowLayout, condition: Tensor) -> Tensor:
    """Cross-entropy of the category that rows were told; made (B, width), condition int64 (B,)."""
    start, size = layout.category_of(condition)
    places = torch.arange(max(layout.cardinalities), device=made.device)
    index = torch.minimum(start[:, None] + places, (start + size - 1)[:, None])
    logits = made[:, layout.width - layout.n_conditions :].gather(1, index)
    return functional.cross_entropy(logits.masked_fill(places >= size[:, None], -torch.inf), condition - start)


def critic_loss(critic: Critic, real: Tensor, made: Tensor, condition: Tensor, random: torch.Generator) -> Tensor:
    """What the critic minimises: score of rows made less that of real ones, and the gradient penalty.

    Rows (B, width) of either kind have the same conditions, int64 (B,).
    """
    scores = critic(torch.cat([made, real]), condition.repeat(2), random)
    of_made, of_real = scores.chunk(2)
    loss: Tensor = of_made.mean() - of_real.mean()
    return loss + _PENALTY * gradient_penalty(critic, real, made, condition, random)


def gradient_penalty(critic: Critic, real: Tensor, made: Tensor, condition: Tensor, random: torch.Generator) -> Tensor:
    """Mean squared distance from 1 of the norm of the score's gradient, between packs of real rows and made ones."""
    packs = len(real) // critic.pac
    at = torch.rand(packs, generator=random, device=real.device).repeat_interleave(critic.pac)[:, None]
    between = (at * real + (1 - at) * made).requires_grad_()
    score = critic(between, condition, random).sum()
    (gradient,) = torch.autograd.grad(score, between, create_graph=True)
    penalty: Tensor = ((gradient.reshape(packs, -1).norm(dim=1) - 1) ** 2).mean()
    return penalty


def draw(made: Tensor, layout: RowLayout, drawable: Tensor, uniform: Tensor) -> Tensor:
    """Draw the codes of the one-hot parts, int64 (B, parts).

    Args:
        made: The generator's output, shape (B, width).
        layout: Of a row.
        drawable: Which values may be drawn, bool (width - numbers,).
        uniform: A number in [0, 1) for each part, float32 (B, parts).

    """
    logits = made[:, layout.n_numbers :].masked_fill(~drawable, -torch.inf)
    codes = []
    for part, at in zip(torch.split(logits, list(layout.sizes), dim=1), torch.split(uniform, 1, dim=1), strict=True):
        chances = part.double().softmax(dim=1).cumsum(dim=1)
        # Values without a chance are never counted to; a float32 below 1 keeps the product below the last sum.
        codes.append((chances <= at * chances[:, -1:]).sum(dim=1))
    return torch.stack(codes, dim=1)
