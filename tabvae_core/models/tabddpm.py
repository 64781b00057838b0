"""The network of `tabddpm`: diffusion over the numbers and the categories of a row at once (Kotelnikov et al., 2023).

    a row ─ noise of step t ─► MLP, which is told t ─► what each cell was ─► the row with a little less noise ─► …

- Numbers get Gaussian noise (Ho et al., 2020) along the cosine schedule of Nichol & Dhariwal (2021). The network
  predicts v = √ᾱ ε - √(1-ᾱ) x₀ (Salimans & Ho, 2022): of N(0, 1) numbers that tell nothing of each other it is zero.
- Categories are kept with odds ᾱ, else replaced by any (multinomial diffusion: Hoogeboom et al., 2021). The network
  predicts π, what a category was by the *other* cells; what its own noisy cell says is added by Bayes' rule. So π is
  the same whatever step comes next, and one network serves steps of any length.
- A few long steps draw rows: numbers move as in DDIM (Song et al., 2021), categories by the posterior of the two steps.

Shapes: B rows, C categorical variables, V numbers; c variables of similar size, of at most K categories; W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Denoiser", "NetworkSize", "Rows", "Support", "Variables", "cosine_schedule", "noisy_tokens", "step_odds"]

_NEVER = -1e9
_LEAST = 1e-30
_OFFSET = 0.008
"""Nichol & Dhariwal's s: the first steps take too little otherwise."""
_LEAST_KEPT = 1e-3
_TIME_FEATURES = 64
_LARGEST = 6.0
"""No N(0, 1) number of a table is larger."""


@dataclass(frozen=True)
class Variables:
    """What a row consists of.

    Args:
        sizes: Categories of each categorical variable, at least 2, length C.
        numbers: V.

    """

    sizes: tuple[int, ...]
    numbers: int


@dataclass(frozen=True)
class NetworkSize:
    """Hyperparameters of the network.

    Args:
        width: Size of what passes from block to block, W.
        depth: Residual blocks.
        timesteps: Steps from a row to noise, T.

    """

    width: int = 192
    depth: int = 2
    timesteps: int = 1000


@dataclass(frozen=True)
class Rows:
    """B rows.

    Args:
        tokens: Categories, int64, shape (B, C).
        numbers: Numbers, about N(0, 1), float32, shape (B, V).

    """

    tokens: Tensor
    numbers: Tensor


@dataclass(frozen=True)
class Support:
    """Which categories may be drawn.

    Args:
        allowed: Of each of the C variables, shape (categories,); or (parent's categories, categories) for one with a
            parent, whose category chooses the row.
        parents: Index of each variable's parent, itself without one; -1 for none; length C.

    """

    allowed: tuple[Tensor, ...]
    parents: tuple[int, ...]


def cosine_schedule(timesteps: int) -> Tensor:
    """Share of the signal's variance left after each step: ᾱ₀ = 1, …, ᾱ_T, near 0; float32, shape (T + 1,)."""
    turn = (torch.arange(timesteps + 1, dtype=torch.float64) / timesteps + _OFFSET) / (1 + _OFFSET)
    left = torch.cos(turn * (math.pi / 2)) ** 2
    # β is at most 0.999, or the last step could not be undone.
    steps = (left[1:] / left[:-1]).clamp(min=_LEAST_KEPT)
    return torch.cat([torch.ones(1, dtype=torch.float64), steps.cumprod(dim=0)]).float()


def noisy_tokens(tokens: Tensor, sizes: Tensor, kept: Tensor, uniform: Tensor) -> Tensor:
    """Draw x_t from q(x_t | x_0) = ᾱ x_0 + (1 - ᾱ) / K.

    Args:
        tokens: x_0, int64, shape (B, C).
        sizes: Categories of each variable, shape (C,).
        kept: ᾱ of each row, below 1, shape (B, 1).
        uniform: Uniform in [0, 1), shape (B, C).

    Returns:
        int64, shape (B, C).

    """
    other = ((uniform - kept) / (1 - kept) * sizes).long()
    return torch.where(uniform < kept, tokens, other.clamp(min=0).minimum(sizes - 1))


def step_odds(pi: Tensor, tokens: Tensor, sizes: Tensor, now: Tensor, then: Tensor) -> Tensor:
    """p(x_s | x_t) of an earlier step s < t, up to a factor for each variable, shape (B, c, K).

    p(x_s | x_t) ∝ q(x_t | x_s) (ᾱ_s π + (1 - ᾱ_s) / K), with q(x_t | x_s) = a x_s + (1 - a) / K and a = ᾱ_t / ᾱ_s.
    Where π is certain of x_0, it is the posterior q(x_s | x_t, x_0).

    Args:
        pi: π, zero for categories that a variable does not have, shape (B, c, K).
        tokens: x_t, int64, shape (B, c).
        sizes: Categories of each variable, shape (c,).
        now: ᾱ_t, shape (B, 1, 1) or ().
        then: ᾱ_s, likewise.

    """
    n, share, seen = sizes.unsqueeze(-1), now / then, tokens.unsqueeze(-1)
    before = then * pi + (1 - then) * (torch.arange(pi.shape[-1], device=pi.device) < n) / n
    return before.scatter_add(-1, seen, before.gather(-1, seen) * (n * share / (1 - share)))


class _Group(nn.Module):
    """Categorical variables of similar size, side by side, so that one operation serves them all.

    Args:
        columns: Their places among all, length c.
        sizes: Categories of each, length c.

    """

    columns: Tensor
    sizes: Tensor
    missing: Tensor

    def __init__(self, columns: Sequence[int], sizes: Sequence[int]) -> None:
        super().__init__()
        self.shape = len(columns), max(sizes)
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)
        self.register_buffer("missing", torch.arange(max(sizes)) >= self.sizes.unsqueeze(-1), persistent=False)

    @property
    def n_logits(self) -> int:
        """Logits of a row."""
        return self.shape[0] * self.shape[1]


class _Block(nn.Module):
    """A residual block; it begins as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.enter, self.leave = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor, when: Tensor) -> Tensor:
        left: Tensor = self.leave(functional.silu(self.enter(self.norm(x + when))))
        return x + left


class Denoiser(nn.Module):
    """Tells from a noisy row what it was.

    Args:
        variables: What a row consists of.
        size: Hyperparameters.

    """

    kept: Tensor
    sizes: Tensor
    offsets: Tensor

    def __init__(self, variables: Variables, size: NetworkSize) -> None:
        super().__init__()
        self.variables, self.size = variables, size
        similar: dict[int, list[int]] = {}
        for column, n in enumerate(variables.sizes):
            similar.setdefault(math.ceil(math.log2(n)), []).append(column)
        self.groups = [_Group(columns, [variables.sizes[c] for c in columns]) for _, columns in sorted(similar.items())]
        offsets, self.n_logits = torch.zeros(len(variables.sizes), dtype=torch.long), 0
        for number, group in enumerate(self.groups):
            self.add_module(f"group_{number}", group)  # so that it moves to the network's device
            offsets[group.columns] = self.n_logits + torch.arange(group.shape[0]) * group.shape[1]
            self.n_logits += group.n_logits
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("sizes", torch.tensor(variables.sizes, dtype=torch.long), persistent=False)
        self.register_buffer("kept", cosine_schedule(size.timesteps), persistent=False)
        width = size.width
        self.token_in = nn.Parameter(torch.randn(self.n_logits, width) / math.sqrt(max(len(offsets), 1)))
        self.number_in = nn.Parameter(torch.randn(variables.numbers, width) / math.sqrt(max(variables.numbers, 1)))
        self.time = nn.Sequential(nn.Linear(_TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(_Block(width) for _ in range(size.depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, self.n_logits + variables.numbers)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @torch.no_grad()
    def prepare(self, tokens: Tensor) -> None:
        """Let every softmax start at the frequencies of tokens (n, C)."""
        counts = torch.bincount((tokens + self.offsets).flatten(), minlength=self.n_logits)
        self.out.bias[: self.n_logits] = torch.log((counts + 0.5) / len(tokens))

    def forward(self, rows: Rows, steps: Tensor) -> tuple[list[Tensor], Tensor]:
        """Predict what noisy rows were.

        Args:
            rows: x_t.
            steps: t, int64, shape (B,) or (1,).

        Returns:
            Logits of π for each group (B, c, K), and v of the numbers (B, V).

        """
        when = self.time(self._time_features(steps))
        hidden = when.expand(len(rows.tokens), -1)
        if len(self.offsets):
            hidden = hidden + functional.embedding_bag(rows.tokens + self.offsets, self.token_in, mode="sum")
        hidden = torch.addmm(hidden, rows.numbers, self.number_in)
        for block in self.blocks:
            hidden = block(hidden, when)
        flat = self.out(functional.silu(self.norm(hidden)))
        *parts, v = flat.split([*(group.n_logits for group in self.groups), self.variables.numbers], dim=-1)
        logits = [
            part.view(-1, *group.shape).masked_fill(group.missing, _NEVER)
            for part, group in zip(parts, self.groups, strict=True)
        ]
        return logits, v

    def _time_features(self, steps: Tensor) -> Tensor:
        """Sines and cosines of the time, (B, features); a time is in thousandths whatever T is."""
        half = torch.arange(_TIME_FEATURES // 2, device=steps.device) / (_TIME_FEATURES // 2)
        angles = (steps * (1000 / self.size.timesteps)).unsqueeze(-1) * torch.exp(-math.log(10_000) * half)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def loss(self, rows: Rows, generator: torch.Generator) -> Tensor:
        """Squared error of v, mean over numbers, + KL terms of all T steps, mean over categorical variables.

        Args:
            rows: x_0.
            generator: CPU generator of steps and noise.

        """
        n, device = len(rows.tokens), rows.tokens.device
        # Steps spread evenly over the batch vary its loss less than steps of chance (Kingma et al., 2021).
        spread = (torch.rand((), generator=generator) + torch.arange(n) / n) % 1
        steps = 1 + (spread * self.size.timesteps).long().clamp(max=self.size.timesteps - 1).to(device)
        uniform = torch.rand(rows.tokens.shape, generator=generator).to(device)
        noise = torch.randn(rows.numbers.shape, generator=generator).to(device)
        now, then = self.kept[steps].unsqueeze(-1), self.kept[steps - 1].unsqueeze(-1)
        tokens = noisy_tokens(rows.tokens, self.sizes, now, uniform)
        logits, v = self(Rows(tokens, now.sqrt() * rows.numbers + (1 - now).sqrt() * noise), steps)
        loss: Tensor = v.new_zeros(())
        if self.variables.numbers:
            loss = functional.mse_loss(v, now.sqrt() * noise - (1 - now).sqrt() * rows.numbers)
        scale = self.size.timesteps / max(len(self.sizes), 1)
        for group, own in zip(self.groups, logits, strict=True):
            certain = functional.one_hot(rows.tokens[:, group.columns], group.shape[1]).to(own.dtype)
            around = tokens[:, group.columns], group.sizes, now.unsqueeze(-1), then.unsqueeze(-1)
            true, guess = (_normal(step_odds(pi, *around)) for pi in (certain, own.softmax(dim=-1)))
            loss = loss + scale * (true * (true.log() - guess.log())).sum(dim=(1, 2)).mean()
        return loss

    @torch.no_grad()
    def generate(self, n: int, n_steps: int, support: Support, generator: torch.Generator) -> Rows:
        """Draw n rows, on the CPU.

        Args:
            n: B.
            n_steps: Steps from noise to rows, at most T.
            support: Which categories may be drawn.
            generator: Of all randomness.

        """
        forbidden = [self._forbidden(group, support) for group in self.groups]
        tokens = torch.rand(n, len(self.sizes), generator=generator).mul(self.sizes).long().minimum(self.sizes - 1)
        numbers = torch.randn(n, self.variables.numbers, generator=generator)
        path = torch.linspace(self.size.timesteps, 0, min(n_steps, self.size.timesteps) + 1).round().long()
        for t, s in pairwise(path):
            now, then = self.kept[t], self.kept[s]
            logits, v = self(Rows(tokens, numbers), t.unsqueeze(0))
            was = (now.sqrt() * numbers - (1 - now).sqrt() * v).clamp(-_LARGEST, _LARGEST)
            noise = (numbers - now.sqrt() * was) / (1 - now).sqrt()
            numbers = then.sqrt() * was + (1 - then).sqrt() * noise
            uniform = torch.rand(n, len(self.sizes), generator=generator)
            odds = [
                step_odds(
                    own.masked_fill(never, _NEVER).softmax(dim=-1), tokens[:, group.columns], group.sizes, now, then
                )
                for own, never, group in zip(logits, forbidden, self.groups, strict=True)
            ]
            tokens = torch.empty_like(tokens)
            for group, own in zip(self.groups, odds, strict=True):
                tokens[:, group.columns] = _pick(own, uniform[:, group.columns])
        for child, own in self._children(odds, support):
            allowed = support.allowed[child][tokens[:, support.parents[child]]]
            tokens[:, child] = _pick(own.clamp(min=_LEAST) * allowed, uniform[:, child])
        return Rows(tokens, numbers)

    def _forbidden(self, group: _Group, support: Support) -> Tensor:
        """What variables of a group never draw, (c, K)."""
        forbidden = group.missing.clone()
        for place, column in enumerate(group.columns.tolist()):
            allowed = support.allowed[column]
            forbidden[place, : allowed.shape[-1]] = ~(allowed if allowed.ndim == 1 else allowed.any(dim=0))
        return forbidden

    def _children(self, odds: Sequence[Tensor], support: Support) -> Iterator[tuple[int, Tensor]]:
        """Variables that have parents, and their odds (B, categories)."""
        for group, own in zip(self.groups, odds, strict=True):
            for place, column in enumerate(group.columns.tolist()):
                if support.parents[column] >= 0:
                    yield column, own[:, place, : self.variables.sizes[column]]


def _normal(odds: Tensor) -> Tensor:
    """Probabilities (B, c, K), none of them zero."""
    return (odds / odds.sum(dim=-1, keepdim=True)).clamp(min=_LEAST)


def _pick(odds: Tensor, uniform: Tensor) -> Tensor:
    """Draw by inverting the distribution functions of odds (..., K) at uniform (...)."""
    total = odds.cumsum(dim=-1)
    return (total <= uniform.unsqueeze(-1) * total[..., -1:]).sum(dim=-1).clamp(max=odds.shape[-1] - 1)
