"""The networks and losses of `ctgan`.

After Xu, Skoularidou, Cuesta-Infante & Veeramachaneni (2019), "Modeling tabular data using conditional GAN": a residual
generator that is told one category of the row it makes, and a critic of packs of rows (PacGAN; Lin, Khetan, Fanti &
Oh, 2018) under the Wasserstein loss with gradient penalty (Gulrajani, Ahmed, Arjovsky, Dumoulin & Courville, 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Critic", "Generator", "RowLayout", "condition_loss", "critic_loss", "draw", "gradient_penalty", "soft_rows"]

_TEMPERATURE = 0.2
"""Of the Gumbel-softmax."""
_SLOPE, _DROPOUT = 0.2, 0.5
_PENALTY = 10.0


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


class _Residual(nn.Module):
    """Appends its output to its input."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, hidden)
        self.norm = nn.BatchNorm1d(hidden)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, functional.relu(self.norm(self.linear(x)))], dim=1)


class Generator(nn.Module):
    """Noise and a condition to a row: places of numbers, logits of one-hot parts.

    Args:
        layout: Of a row.
        latent: Dimensions of the noise.
        hidden: Width of the two residual layers.

    """

    def __init__(self, layout: RowLayout, latent: int = 128, hidden: int = 256) -> None:
        super().__init__()
        self.layout, self.latent = layout, latent
        width = latent + layout.n_conditions
        self.body = nn.Sequential(_Residual(width, hidden), _Residual(width + hidden, hidden))
        self.head = nn.Linear(width + 2 * hidden, layout.width)

    def forward(self, noise: Tensor, condition: Tensor) -> Tensor:
        """Make rows.

        Args:
            noise: Standard normal, shape (B, latent).
            condition: The category that each row is told, one-hot (B, n_conditions).

        Returns:
            Places in (-1, 1), then logits, shape (B, width).

        """
        out = self.head(self.body(torch.cat([noise, condition], dim=1)))
        n = self.layout.n_numbers
        return torch.cat([torch.tanh(out[:, :n]), out[:, n:]], dim=1)


class Critic(nn.Module):
    """Scores packs of rows, the higher the more they look real.

    Args:
        layout: Of a row.
        hidden: Width of the two layers.
        pac: Rows of a pack.

    """

    def __init__(self, layout: RowLayout, hidden: int = 256, pac: int = 10) -> None:
        super().__init__()
        self.pac = pac
        self.first = nn.Linear(pac * (layout.width + layout.n_conditions), hidden)
        self.second = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, 1)

    def forward(self, packs: Tensor, random: torch.Generator | None = None) -> Tensor:
        """Scores (P,) of packs (P, pac * (width + n_conditions)); `random` decides the dropout, None drops nothing."""
        hidden = self._layer(self.first, packs, random)
        scores: Tensor = self.head(self._layer(self.second, hidden, random)).squeeze(1)
        return scores

    def pack(self, rows: Tensor, condition: Tensor) -> Tensor:
        """Packs of rows (B, width) with their conditions (B, n_conditions); B is a multiple of `pac`."""
        return torch.cat([rows, condition], dim=1).reshape(len(rows) // self.pac, -1)

    @staticmethod
    def _layer(linear: nn.Module, x: Tensor, random: torch.Generator | None) -> Tensor:
        hidden = functional.leaky_relu(linear(x), _SLOPE)
        if random is None:
            return hidden
        kept = torch.empty_like(hidden).bernoulli_(1 - _DROPOUT, generator=random)
        return hidden * kept / (1 - _DROPOUT)


def soft_rows(made: Tensor, layout: RowLayout, random: torch.Generator) -> Tensor:
    """Rows (B, width) that can be differentiated, from the generator's output: logits by Gumbel-softmax.

    Jang, Gu & Poole (2017); Maddison, Mnih & Teh (2017).
    """
    n = layout.n_numbers
    gumbel = -torch.empty_like(made[:, n:]).exponential_(generator=random).log()
    logits = (made[:, n:] + gumbel) / _TEMPERATURE
    return torch.cat([made[:, :n], *(part.softmax(dim=1) for part in torch.split(logits, layout.sizes, dim=1))], dim=1)


def condition_loss(made: Tensor, layout: RowLayout, condition: Tensor) -> Tensor:
    """Cross-entropy of the category that rows were told; made (B, width), condition int64 (B,)."""
    start, size = layout.category_of(condition)
    places = torch.arange(max(layout.cardinalities), device=made.device)
    index = torch.minimum(start[:, None] + places, (start + size - 1)[:, None])
    logits = made[:, layout.width - layout.n_conditions :].gather(1, index)
    return functional.cross_entropy(logits.masked_fill(places >= size[:, None], -torch.inf), condition - start)


def critic_loss(critic: Critic, real: Tensor, made: Tensor, random: torch.Generator) -> Tensor:
    """What the critic minimises: score of packs made less that of real ones, and the gradient penalty."""
    scores = critic(torch.cat([made, real]), random)
    loss: Tensor = scores[: len(made)].mean() - scores[len(made) :].mean()
    return loss + _PENALTY * gradient_penalty(critic, real, made, random)


def gradient_penalty(critic: Critic, real: Tensor, made: Tensor, random: torch.Generator) -> Tensor:
    """Mean squared distance from 1 of the gradient's norm, at a point between each real pack and a made one."""
    at = torch.rand(len(real), 1, generator=random, device=real.device)
    between = (at * real + (1 - at) * made).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between, random).sum(), between, create_graph=True)
    penalty: Tensor = ((gradient.norm(dim=1) - 1) ** 2).mean()
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
    for part, at in zip(torch.split(logits, layout.sizes, dim=1), torch.split(uniform, 1, dim=1), strict=True):
        chances = part.double().softmax(dim=1).cumsum(dim=1)
        # Values without a chance are never counted to; a float32 below 1 keeps the product below the last sum.
        codes.append((chances <= at * chances[:, -1:]).sum(dim=1))
    return torch.stack(codes, dim=1)
