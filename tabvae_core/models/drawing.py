"""Drawing rows from an ensemble of networks: slot by slot, each row from one member.

A mixture of members has less of what each learned by chance, while a row costs no more than from one of them. Row i of
a block is drawn from member i mod M, so that few rows come from all members, too; between the slots all rows are
settled together.

Shapes: B rows, S slots, V slots that carry values, K components.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from tabvae_core.models.vae import LOG_SCALES, NEVER, TabularVAE

__all__ = ["Draws", "Given", "Restriction", "Settler", "generate"]


@dataclass(frozen=True)
class Given:
    """Cells that are known before the others are drawn; each tensor of shape (B, S).

    Args:
        mask: True where a cell is given.
        tokens: Tokens, int64; read where given.
        values: Values, float32; read where given.

    """

    mask: Tensor
    tokens: Tensor
    values: Tensor


@dataclass(frozen=True)
class Restriction:
    """What a slot may draw.

    Args:
        tokens: True where a token may be drawn, shape (n_tokens,) or fewer, the rest forbidden; None: all.
        low: Smallest value, in Gaussian-quantile space.
        high: Largest value.

    """

    tokens: npt.NDArray[np.bool_] | None = None
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Draws:
    """All randomness of a block of B rows, drawn ahead, so that nothing depends on threads or devices.

    Args:
        latent: Standard normal, shape (B, latent).
        tokens: Uniform, shape (B, S).
        components: Uniform, shape (B, S).
        values: Uniform, shape (B, S).

    """

    latent: Tensor
    tokens: Tensor
    components: Tensor
    values: Tensor

    @classmethod
    def make(cls, rows: int, slots: int, latent: int, generator: torch.Generator) -> Draws:
        """Draw from a CPU generator."""

        def uniform() -> Tensor:
            return torch.rand(rows, slots, generator=generator)

        return cls(torch.randn(rows, latent, generator=generator), uniform(), uniform(), uniform())

    def of(self, rows: slice) -> Draws:
        """The randomness of some rows."""
        return Draws(*(t[rows] for t in (self.latent, self.tokens, self.components, self.values)))


class Settler(Protocol):
    """Turns what was drawn for a slot into what the training rows could hold; see `codecs.settling`."""

    def allowed(self, slot: int) -> npt.NDArray[np.bool_] | None:
        """Which tokens each row may draw, shape (B, n_tokens); None: no more is known than the network knows."""
        ...

    def settle(self, slot: int, tokens: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Settle the tokens (B,) and values (B,) of a slot, after all slots before it."""
        ...


@torch.no_grad()
def generate(
    networks: Sequence[TabularVAE],
    latents: Sequence[Tensor],
    draws: Draws,
    settler: Settler,
    *,
    given: Given | None = None,
    restrictions: Mapping[int, Restriction] | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw rows slot by slot in the table's order, each step computing one slot only.

    Args:
        networks: The M members, of one layout.
        latents: Latents of every M-th row, for each member from its own first row on; rows with given cells do without.
        draws: The randomness of all rows.
        settler: Settles every slot before the next one sees it.
        given: Cells known from the start.
        restrictions: What slots may draw.

    Returns:
        Tokens int64 and values float32, each (B, S).

    """
    rows, slots = draws.tokens.shape
    tokens, values = torch.zeros(rows, slots, dtype=torch.long), torch.zeros(rows, slots)
    if given is not None:
        tokens, values = given.tokens.clone(), given.values.clone()
    parts = [slice(member, rows, len(networks)) for member in range(min(len(networks), rows))]
    walks = []
    for network, z, part in zip(networks, latents, parts, strict=False):
        known = None if given is None else given.mask[part]
        walks.append(_Walk(network, z, draws.of(part), tokens[part], values[part], known))
    for slot in range(slots):
        if given is None or not bool(given.mask[:, slot].all()):
            allowed, limit = settler.allowed(slot), (restrictions or {}).get(slot)
            for part, walk in zip(parts, walks, strict=True):
                walk.draw(slot, None if allowed is None else allowed[part], limit)
        tokens[:, slot], values[:, slot] = settler.settle(slot, tokens[:, slot], values[:, slot])
        for walk in walks:
            walk.take_in(slot)
    return tokens, values


class _Walk:
    """The rows of one member, on their way through the slots.

    Args:
        network: The member.
        z: Latents, shape (B, latent).
        draws: Randomness of these rows.
        tokens: Tokens of these rows, a view that is written to, shape (B, S).
        values: Values, likewise.
        known: Which cells are given, shape (B, S).

    """

    def __init__(
        self, network: TabularVAE, z: Tensor, draws: Draws, tokens: Tensor, values: Tensor, known: Tensor | None
    ) -> None:
        self._network, self._draws, self._known = network, draws, known
        self._tokens, self._values = tokens, values
        self._context, self._seen = network.start(z), torch.ones(len(z), 1)
        self._guesses = network.additive.start.expand(len(z), -1)
        if known is not None:
            self._context = torch.where(known.any(dim=1, keepdim=True), network.no_latent, self._context)
            for slot in torch.nonzero(known.any(dim=0))[:, 0].tolist():
                self._context = self._context + network.embed_slot(slot, tokens, values)[0] * known[:, slot : slot + 1]
            self._seen = self._seen + known.sum(dim=1, keepdim=True)

    def draw(self, slot: int, allowed: npt.NDArray[np.bool_] | None, limit: Restriction | None) -> None:
        """Draw the cells of a slot that are not given."""
        hidden = self._network.hidden_of(slot, self._context * self._seen.rsqrt())
        logits = self._network.token_logits(slot, hidden, self._tokens)
        if allowed is not None:
            logits = logits.masked_fill(torch.from_numpy(~allowed), NEVER)
        if limit is not None and limit.tokens is not None:
            forbidden = np.ones(logits.shape[-1], dtype=np.bool_)
            forbidden[: len(limit.tokens)] = ~limit.tokens
            logits = logits.masked_fill(torch.from_numpy(forbidden), 2 * NEVER)
        drawn = _pick(logits, self._draws.tokens[:, slot])
        value = torch.zeros(len(drawn))
        if self._network.layout.n_levels[slot]:
            value = self._value(slot, hidden, drawn, limit)
        if self._known is not None:
            known = self._known[:, slot]
            drawn = torch.where(known, self._tokens[:, slot], drawn)
            value = torch.where(known, self._values[:, slot], value)
        self._tokens[:, slot], self._values[:, slot] = drawn, value

    def _value(self, slot: int, hidden: Tensor, drawn: Tensor, limit: Restriction | None) -> Tensor:
        low, high = self._network.ranges[slot].tolist()
        if limit is not None:
            low, high = max(low, limit.low), min(high, limit.high)
        high = max(low, high)
        mixture, origin, unit = self._network.mixture_of(slot, hidden, drawn, self._guesses)
        ends = ((low - origin) / unit, (high - origin) / unit)
        fresh = _draw_truncated(mixture, self._draws.components[:, slot], self._draws.values[:, slot], *ends)
        return (origin + unit * fresh).clamp(low, high)

    def take_in(self, slot: int) -> None:
        """Let later slots see the settled cells of a slot."""
        step, guess = self._network.embed_slot(slot, self._tokens, self._values)
        new = 1.0 if self._known is None else (~self._known[:, slot]).float().unsqueeze(-1)
        self._context, self._seen = self._context + step * new, self._seen + new
        self._guesses = self._guesses + guess


def _pick(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw from softmax(logits) (B, n) by inverting its distribution function at uniform (B,)."""
    cumulative = functional.softmax(logits, dim=-1).cumsum(dim=-1)
    drawn = (cumulative < uniform.unsqueeze(-1) * cumulative[:, -1:]).sum(dim=-1)
    return drawn.clamp(max=logits.shape[-1] - 1)


def _draw_truncated(mixture: Tensor, pick: Tensor, uniform: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Draw from mixtures of logistics (B, 3K), each cut to its interval [low, high] (B,)."""
    logits, means, log_scales = mixture.chunk(3, dim=-1)
    scales = log_scales.clamp(*LOG_SCALES).exp()
    below = torch.sigmoid((low.unsqueeze(1) - means) / scales)
    above = torch.sigmoid((high.unsqueeze(1) - means) / scales)
    mass = functional.log_softmax(logits, dim=-1) + (above - below).clamp(min=1e-12).log()
    chosen = _pick(mass, pick).unsqueeze(-1)
    mean, scale, start, end = (t.gather(-1, chosen)[:, 0].double() for t in (means, scales, below, above))
    place = (start + (end - start) * uniform.double()).clamp(1e-9, 1 - 1e-9)
    return (mean + scale * torch.logit(place)).float()
