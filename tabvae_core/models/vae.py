"""The network of `vae`: a variational autoencoder whose decoder is autoregressive over slots.

    row ─ embed ─ encoder ─► μ, σ ─► z ─┐
                                        ▼
            start, slot 1, slot 2 … ─ causal transformer ─► token of the next slot ─► its value

- The encoder (sum of the slots' embeddings, two layers) gives a posterior over a small latent z, whose rate is held
  by free bits (Kingma et al., 2016), so that the strong decoder does not ignore it.
- The decoder reads z, then one slot after the other (Vaswani et al., 2017; over table cells: TabMT, 2023). A slot's
  token comes from a softmax; a token that carries a value is followed by a mixture of logistics (Salimans et al.,
  2017) in Gaussian-quantile space, so that a number keeps its resolution.
- Slots may come in any order: what is given comes first, and everything else is drawn conditionally on it.

Shapes: B rows, S slots, W width, K mixture components.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Draws", "Layout", "NetworkSize", "Restriction", "TabularVAE"]

NEVER = -1e9
_RARE_LOGIT = -12.0
_TABLE_RANK = 16


@dataclass(frozen=True)
class Layout:
    """The slots of a table, as numbers.

    Args:
        n_tokens: Vocabulary of each slot, length S.
        n_levels: Tokens of each slot that carry a value, length S.
        parents: Global index of the slot that chooses a slot's prior row, or -1, length S.
        columns: Index of each slot's column, ascending, length S.

    """

    n_tokens: tuple[int, ...]
    n_levels: tuple[int, ...]
    parents: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def n_slots(self) -> int:
        """S."""
        return len(self.n_tokens)


@dataclass(frozen=True)
class NetworkSize:
    """Hyperparameters of the network.

    Args:
        width: Size of a slot's embedding, W.
        hidden: Size of a block's inner layer.
        depth: Transformer blocks.
        heads: Attention heads; divides `width`.
        latent: Dimensions of z.
        mixtures: Components of a value's density, K.
        dropout: Share of activations dropped in training.
        cell_dropout: Share of cells hidden from later cells in training, so that no row is known by heart.
        frequencies: Octaves of the periodic features of a value; few for few rows, which they would tell apart.

    """

    width: int = 96
    hidden: int = 192
    depth: int = 3
    heads: int = 3
    latent: int = 8
    mixtures: int = 10
    dropout: float = 0.1
    cell_dropout: float = 0.0
    frequencies: int = 8


@dataclass(frozen=True)
class Restriction:
    """What a slot may draw.

    Args:
        tokens: True where a token may be drawn, shape (n_tokens,); None: all.
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

    def to(self, device: torch.device) -> Draws:
        """Move to a device."""
        return Draws(*(t.to(device) for t in (self.latent, self.tokens, self.components, self.values)))


class _Block(nn.Module):
    """Pre-norm transformer block with a cache of keys and values for step-by-step use."""

    def __init__(self, size: NetworkSize) -> None:
        super().__init__()
        self.heads, self.dropout = size.heads, size.dropout
        self.norm_attention = nn.LayerNorm(size.width)
        self.qkv = nn.Linear(size.width, 3 * size.width)
        self.project = nn.Linear(size.width, size.width)
        self.norm_mlp = nn.LayerNorm(size.width)
        self.expand = nn.Linear(size.width, size.hidden)
        self.contract = nn.Linear(size.hidden, size.width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, S, W) to (B, S, W), each position seeing itself and those before it."""
        q, k, v = self._heads(x)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self._mix(x, seen)

    def step(self, x: Tensor, keys: Tensor, values: Tensor, at: int) -> Tensor:
        """Map one position (B, 1, W), its keys and values written to the caches (B, heads, S, W / heads) at `at`."""
        q, k, v = self._heads(x)
        keys[:, :, at : at + 1], values[:, :, at : at + 1] = k, v
        seen = functional.scaled_dot_product_attention(q, keys[:, :, : at + 1], values[:, :, : at + 1])
        return self._mix(x, seen)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, length, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(rows, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return q, k, v

    def _mix(self, x: Tensor, seen: Tensor) -> Tensor:
        rows, _, length, _ = seen.shape
        joined = seen.transpose(1, 2).reshape(rows, length, -1)
        x = x + self._dropped(self.project(joined))
        hidden = functional.gelu(self.expand(self.norm_mlp(x)))
        return x + self._dropped(self.contract(hidden))

    def _dropped(self, x: Tensor) -> Tensor:
        if not self.training or self.dropout <= 0:
            return x
        # Twice as fast on a CPU as the library's, whose Bernoulli draws are not vectorised.
        return x * (torch.rand_like(x) >= self.dropout) * (1 / (1 - self.dropout))


class _TokenHeads(nn.Module):
    """Softmax layers of slots with vocabularies of similar size, as one batched product."""

    index: Tensor

    def __init__(self, slots: Sequence[int], sizes: Sequence[int], width: int) -> None:
        super().__init__()
        largest = max(sizes)
        self.slots = list(slots)
        self.weight = nn.Parameter(torch.randn(len(self.slots), width, largest) * 0.02)
        self.bias = nn.Parameter(torch.full((len(self.slots), largest), NEVER))
        self.register_buffer("index", torch.tensor(self.slots), persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (B, n, W) of these slots to logits (n, B, largest)."""
        logits: Tensor = torch.baddbmm(self.bias[:, None], hidden.transpose(0, 1), self.weight)
        return logits


class TabularVAE(nn.Module):
    """See the module's docstring.

    Args:
        layout: The slots.
        size: Hyperparameters.
        priors: Log frequencies of each slot's tokens, shape (n_tokens,) or (parent's n_tokens, n_tokens).
        token_values: Place of each exact token in quantile space, NaN without one; None: none has.
        value_ranges: Range of each slot's values in quantile space, shape (S, 2).

    """

    offsets: Tensor
    levels: Tensor
    place: Tensor
    has_place: Tensor
    ranges: Tensor
    frequencies: Tensor
    valued: Tensor

    def __init__(
        self,
        layout: Layout,
        size: NetworkSize,
        priors: Sequence[npt.NDArray[np.float32] | None],
        token_values: Sequence[npt.NDArray[np.float32] | None],
        value_ranges: npt.NDArray[np.float32],
    ) -> None:
        super().__init__()
        self.layout, self.size = layout, size
        slots, width = layout.n_slots, size.width
        offsets = np.concatenate([[0], np.cumsum(layout.n_tokens)[:-1]]).astype(np.int64)
        total = int(sum(layout.n_tokens))
        places = np.full(total, np.nan, dtype=np.float32)
        for offset, values in zip(offsets, token_values, strict=True):
            if values is not None:
                places[offset : offset + len(values)] = values
        self.register_buffer("offsets", torch.from_numpy(offsets), persistent=False)
        self.register_buffer("levels", torch.tensor(layout.n_levels), persistent=False)
        self.register_buffer("place", torch.from_numpy(np.nan_to_num(places)), persistent=False)
        self.register_buffer("has_place", torch.from_numpy(~np.isnan(places)), persistent=False)
        self.register_buffer("ranges", torch.from_numpy(value_ranges.astype(np.float32)), persistent=False)

        self.embedding = nn.Embedding(total, width)
        nn.init.normal_(self.embedding.weight, std=0.3)
        features = 2 * size.frequencies + 1
        self.value_weight = nn.Parameter(torch.randn(slots, features, width) * (0.5 / math.sqrt(features)))
        self.register_buffer("frequencies", math.pi / 4 * 2.0 ** torch.arange(size.frequencies), persistent=False)
        self.target = nn.Embedding(slots, width)
        nn.init.normal_(self.target.weight, std=0.3)

        self.encode_in = nn.Linear(width, 2 * width)
        self.encode_out = nn.Linear(2 * width, 2 * size.latent)
        self.start = nn.Linear(size.latent, width)
        self.layers = [_Block(size) for _ in range(size.depth)]
        self.blocks = nn.ModuleList(self.layers)
        self.norm = nn.LayerNorm(width)
        self.token_heads = self._make_heads(layout, width)
        self.heads = nn.ModuleList(self.token_heads)
        self._set_priors(priors)

        valued = [s for s in range(slots) if layout.n_levels[s] > 0]
        self.register_buffer("valued", torch.tensor(valued, dtype=torch.long), persistent=False)
        self._valued_place = {slot: k for k, slot in enumerate(valued)}
        self.value_in = nn.Linear(width, width)
        self.value_out = nn.Parameter(torch.randn(len(valued), width, 3 * size.mixtures) * 0.02)
        spread = torch.zeros(3 * size.mixtures)
        spread[size.mixtures : 2 * size.mixtures] = torch.linspace(-2, 2, size.mixtures)
        spread[2 * size.mixtures :] = -1.0
        self.value_bias = nn.Parameter(spread.repeat(len(valued), 1))

    @staticmethod
    def _make_heads(layout: Layout, width: int) -> list[_TokenHeads]:
        buckets: dict[int, list[int]] = {}
        for slot, n in enumerate(layout.n_tokens):
            buckets.setdefault(max(2, math.ceil(math.log2(max(n, 1)))), []).append(slot)
        return [
            _TokenHeads(members, [layout.n_tokens[s] for s in members], width) for _, members in sorted(buckets.items())
        ]

    def _set_priors(self, priors: Sequence[npt.NDArray[np.float32] | None]) -> None:
        """Start every softmax at the training frequencies; keep what must never be drawn."""
        self._never: list[Tensor | None] = []
        self._by_parent: dict[int, str] = {}
        self._tables: dict[int, str] = {}
        self.head_of = {slot: (h, k) for h, head in enumerate(self.token_heads) for k, slot in enumerate(head.slots)}
        for slot, prior in enumerate(priors):
            n = self.layout.n_tokens[slot]
            head, place = self.head_of[slot]
            bias = self.token_heads[head].bias
            grid = np.zeros(n, np.float32) if prior is None else prior
            clipped = torch.from_numpy(np.maximum(grid, _RARE_LOGIT).astype(np.float32))
            never = torch.from_numpy(np.isneginf(grid))
            self._never.append(never if bool(never.any()) else None)
            with torch.no_grad():
                bias[place, :n] = clipped if grid.ndim == 1 else 0.0
            if grid.ndim == 2:
                self._by_parent[slot] = f"prior_{slot}"
                hard = torch.where(never, torch.tensor(NEVER), clipped)
                self.register_buffer(f"prior_{slot}", hard, persistent=False)
                if self.layout.n_levels[slot] == 0 and grid.size > ONE_TABLE:
                    self._tables[slot] = f"table_{slot}"
                    self.register_parameter(f"table_{slot}", nn.Parameter(torch.randn(*grid.shape, _TABLE_RANK) * 0.1))
                    self.add_module(f"table_query_{slot}", nn.Linear(self.size.width, _TABLE_RANK, bias=False))
                    self.add_module(f"table_value_{slot}", nn.Linear(_TABLE_RANK, self.size.width, bias=False))

    # Embedding ------------------------------------------------------------------------------------------------------

    def _embed(self, tokens: Tensor, values: Tensor, slots: Tensor, parents: dict[int, Tensor]) -> Tensor:
        """Embed cells (B, n) of the given slots (n,) as (B, n, W)."""
        flat = tokens + self.offsets[slots]
        carries = tokens < self.levels[slots]
        x = torch.where(carries, values, self.place[flat])
        numeric = (carries | self.has_place[flat]).unsqueeze(-1)
        angles = x.unsqueeze(-1) * self.frequencies
        features = torch.cat([x.unsqueeze(-1), angles.sin(), angles.cos()], dim=-1) * numeric
        embedded: Tensor = self.embedding(flat)
        embedded = embedded + torch.einsum("bnf,nfw->bnw", features, self.value_weight[slots])
        if parents:
            embedded = embedded.clone()
            listed = slots.tolist()
            for slot, parent_tokens in parents.items():
                at = listed.index(slot)
                cells = getattr(self, self._tables[slot])[parent_tokens, tokens[:, at]]
                embedded[:, at] += getattr(self, f"table_value_{slot}")(cells)
        return embedded

    def _parents_in(self, tokens: Tensor) -> dict[int, Tensor]:
        return {slot: tokens[:, self.layout.parents[slot]] for slot in self._tables}

    def encode(self, tokens: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of z.

        Args:
            tokens: int64, shape (B, S).
            values: float32, shape (B, S).

        Returns:
            Mean and log variance, each (B, latent).

        """
        return self._posterior(self._embed(tokens, values, self._all_slots(tokens), self._parents_in(tokens)))

    def _all_slots(self, like: Tensor) -> Tensor:
        return torch.arange(self.layout.n_slots, device=like.device)

    def _posterior(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        pooled = functional.gelu(self.encode_in(embedded.sum(dim=1) / math.sqrt(self.layout.n_slots)))
        mean, log_variance = self.encode_out(pooled).chunk(2, dim=-1)
        return mean, log_variance.clamp(-8, 4)

    # Training -------------------------------------------------------------------------------------------------------

    def negative_elbo(
        self, tokens: Tensor, values: Tensor, order: Tensor, *, free_bits: float, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Negative evidence lower bound.

        Args:
            tokens: int64, shape (B, S).
            values: float32, shape (B, S); used where a token carries a value.
            order: Slots in the order of generation, shape (S,).
            free_bits: Nats of each latent dimension that cost nothing.
            noise: Standard normal, shape (B, latent); drawn when left out.

        Returns:
            Loss to minimise (mean over rows, nats) and the rate KL(q || p) (mean over rows, nats).

        """
        embedded = self._embed(tokens, values, self._all_slots(tokens), self._parents_in(tokens))
        mean, log_variance = self._posterior(embedded)
        noise = torch.randn_like(mean) if noise is None else noise
        z = mean + noise * (0.5 * log_variance).exp()
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean(dim=0)
        held = kl.clamp(min=free_bits).sum()
        if self.training and self.size.cell_dropout > 0:
            shown = torch.rand(embedded.shape[:2], device=embedded.device) >= self.size.cell_dropout
            embedded = embedded * shown.unsqueeze(-1)
        hidden = self._decode(z, embedded, order)
        return self._reconstruction(hidden, tokens, values) + held, kl.sum()

    def _decode(self, z: Tensor, embedded: Tensor, order: Tensor) -> Tensor:
        """Hidden state that predicts each slot, shape (B, S, W), in the slots' own order."""
        shifted = torch.cat([self.start(z).unsqueeze(1), embedded[:, order[:-1]]], dim=1)
        hidden = shifted + self.target(order)
        for block in self.layers:
            hidden = block(hidden)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order), device=order.device)
        result: Tensor = self.norm(hidden)[:, inverse]
        return result

    def _reconstruction(self, hidden: Tensor, tokens: Tensor, values: Tensor) -> Tensor:
        rows = len(tokens)
        loss = hidden.new_zeros(())
        for head in self.token_heads:
            logits = head(hidden[:, head.index]).float()
            for place, slot in enumerate(head.slots):
                if slot in self._by_parent:
                    extra = self._parent_logits(slot, hidden[:, slot], tokens[:, self.layout.parents[slot]])
                    padded = functional.pad(extra, (0, logits.shape[-1] - extra.shape[-1]))
                    logits = logits.index_add(0, torch.tensor([place], device=logits.device), padded.unsqueeze(0))
            target = tokens[:, head.index].T
            loss = loss + functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum")
        if len(self.valued):
            density = self._log_density(hidden[:, self.valued], tokens[:, self.valued], values[:, self.valued])
            loss = loss - (density * (tokens[:, self.valued] < self.levels[self.valued])).sum()
        return loss / rows

    def _parent_logits(self, slot: int, hidden: Tensor, parent_tokens: Tensor) -> Tensor:
        logits: Tensor = getattr(self, self._by_parent[slot])[parent_tokens]
        if slot in self._tables:
            query = getattr(self, f"table_query_{slot}")(hidden)
            logits = logits + torch.einsum("br,bvr->bv", query, getattr(self, self._tables[slot])[parent_tokens])
        return logits

    def _mixture(self, hidden: Tensor, tokens: Tensor, slots: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Parameters (n, B, 3K) of the values of n slots, given hidden states (B, n, W) and level tokens (B, n)."""
        level = self.embedding(tokens.minimum(self.levels[slots] - 1) + self.offsets[slots])
        inner = functional.gelu(self.value_in(hidden + level))
        return torch.baddbmm(bias[:, None], inner.transpose(0, 1), weight).float()

    def _log_density(self, hidden: Tensor, tokens: Tensor, values: Tensor) -> Tensor:
        mixture = self._mixture(hidden, tokens, self.valued, self.value_out, self.value_bias)
        logits, means, log_scales = mixture.transpose(0, 1).chunk(3, dim=-1)
        log_scales = log_scales.clamp(-7, 3)
        t = (values.unsqueeze(-1) - means) * torch.exp(-log_scales)
        log_pdf = -t - 2 * functional.softplus(-t) - log_scales
        return torch.logsumexp(functional.log_softmax(logits, dim=-1) + log_pdf, dim=-1)

    # Sampling -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self,
        z: Tensor,
        draws: Draws,
        order: Sequence[int],
        *,
        given_tokens: Tensor | None = None,
        given_values: Tensor | None = None,
        n_given: int = 0,
        restrictions: dict[int, Restriction] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw rows slot by slot, each step computing one position only.

        Args:
            z: Latents, shape (B, latent).
            draws: The randomness.
            order: Slots in the order of generation, a slot after its parent.
            given_tokens: int64, shape (B, S); read for the first `n_given` slots of `order`.
            given_values: float32, shape (B, S); likewise.
            n_given: Slots at the start of `order` that are given.
            restrictions: What slots may draw.

        Returns:
            Tokens int64 and values float32, each (B, S).

        """
        rows, slots = len(z), self.layout.n_slots
        tokens = torch.zeros(rows, slots, dtype=torch.long, device=z.device)
        values = torch.zeros(rows, slots, device=z.device)
        if given_tokens is not None and given_values is not None:
            tokens, values = given_tokens.clone(), given_values.clone()
        shape = (rows, self.size.heads, slots, self.size.width // self.size.heads)
        caches = [(z.new_zeros(shape), z.new_zeros(shape)) for _ in self.layers]
        current = self.start(z).unsqueeze(1)
        for at, slot in enumerate(order):
            hidden = current + self.target.weight[slot]
            for block, (keys, cached) in zip(self.layers, caches, strict=True):
                hidden = block.step(hidden, keys, cached, at)
            if at >= n_given:
                limit = (restrictions or {}).get(slot)
                self._draw(slot, self.norm(hidden)[:, 0], tokens, values, draws, limit)
            if at + 1 < slots:
                index = torch.tensor([slot], device=z.device)
                parents = {slot: tokens[:, self.layout.parents[slot]]} if slot in self._tables else {}
                current = self._embed(tokens[:, index], values[:, index], index, parents)
        return tokens, values

    def token_logits(self, slot: int, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Logits (B, n_tokens) of one slot, NEVER where a token must not be drawn."""
        n = self.layout.n_tokens[slot]
        head, place = self.head_of[slot]
        logits = hidden @ self.token_heads[head].weight[place, :, :n] + self.token_heads[head].bias[place, :n]
        never = self._never[slot]
        if slot in self._by_parent:
            logits = logits + self._parent_logits(slot, hidden, tokens[:, self.layout.parents[slot]])
        elif never is not None:
            logits = logits.masked_fill(never.to(logits.device), NEVER)
        return logits

    def _draw(
        self, slot: int, hidden: Tensor, tokens: Tensor, values: Tensor, draws: Draws, limit: Restriction | None
    ) -> None:
        logits = self.token_logits(slot, hidden, tokens)
        if limit is not None and limit.tokens is not None:
            forbidden = torch.from_numpy(~limit.tokens).to(logits.device)
            logits = logits.masked_fill(forbidden, 2 * NEVER)
        tokens[:, slot] = _pick(logits, draws.tokens[:, slot])
        if self.layout.n_levels[slot] == 0:
            return
        place = self._valued_place[slot]
        index = torch.tensor([slot], device=hidden.device)
        mixture = self._mixture(
            hidden.unsqueeze(1), tokens[:, index], index,
            self.value_out[place : place + 1], self.value_bias[place : place + 1],
        )[0]  # fmt: skip
        low, high = self.ranges[slot].tolist()
        if limit is not None:
            low, high = max(low, limit.low), min(high, limit.high)
        values[:, slot] = _draw_truncated(
            mixture, draws.components[:, slot], draws.values[:, slot], low, max(high, low)
        )


ONE_TABLE = 600
"""Cells of a two-level category's grid above which members get embeddings of their own."""


def _pick(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw from softmax(logits) (B, n) by inverting its distribution function at uniform (B,)."""
    cumulative = functional.softmax(logits.double(), dim=-1).cumsum(dim=-1)
    drawn = (cumulative < uniform.double().unsqueeze(-1) * cumulative[:, -1:]).sum(dim=-1)
    return drawn.clamp(max=logits.shape[-1] - 1)


def _draw_truncated(mixture: Tensor, pick: Tensor, uniform: Tensor, low: float, high: float) -> Tensor:
    """Draw from mixtures of logistics (B, 3K) cut to [low, high]."""
    logits, means, log_scales = mixture.double().chunk(3, dim=-1)
    scales = log_scales.clamp(-7, 3).exp()
    below, above = torch.sigmoid((low - means) / scales), torch.sigmoid((high - means) / scales)
    mass = functional.log_softmax(logits, dim=-1) + (above - below).clamp(min=1e-12).log()
    chosen = _pick(mass, pick).unsqueeze(-1)
    mean, scale, start, end = (t.gather(-1, chosen)[:, 0] for t in (means, scales, below, above))
    place = (start + (end - start) * uniform.double()).clamp(1e-9, 1 - 1e-9)
    return (mean + scale * torch.logit(place)).clamp(low, high).float()
