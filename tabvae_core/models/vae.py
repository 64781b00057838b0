"""The network of `vae`: a variational autoencoder whose decoder is autoregressive over slots.

    row ─ embed ─ encoder ─► μ, σ ─► z ─┐
                                        ▼
        context of a slot = z + Σ weight · embedding of the cells before it ─ the slot's own layers ─► token ─► value

- The encoder (sum of the slots' embeddings, two layers) gives a posterior over a small latent z, whose rate is held
  by free bits (Kingma et al., 2016), so that the strong decoder does not ignore it.
- The decoder is a neural autoregressive density estimator (NADE: Larochelle & Murray, 2011; Uria et al., 2016): what a
  slot sees is a sum. Each slot weighs the cells in it, a number for each pair of slots, so that what matters to it does
  not drown in the rest; tables too wide for pairs have a running sum, which costs time and memory linear in the slots.
  Each slot has layers of its own, which cost no more than shared ones and learn more.
- A slot's token comes from a softmax. A token that carries a value is followed by a mixture of logistics, integrated
  over the cell (Salimans et al., 2017), of what an additive model of the earlier cells leaves open. A number that
  keeps close to multiples of earlier ones has more components, in the logs of its ratios to them.
- Any cells of a row may be given, others in every row: given cells enter the sum first. Rows that are trained so do
  without z; `drawing` weighs what is drawn so.

Shapes: B rows, S slots, V slots that carry values, W width of the sums, H width of a slot's layers, K components, R
ratios of C components each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from tabvae_core.models.additive import AdditiveModel
from tabvae_core.models.aggregate import total_correlation

__all__ = ["BEND_POINTS", "LOG_SCALES", "NEVER", "Cells", "Layout", "NetworkSize", "TabularVAE", "log_mass"]

NEVER = -1e9
ONE_TABLE = 600
"""Cells of a two-level category's grid above which members get embeddings of their own."""
_RARE_LOGIT = -12.0
_TABLE_RANK = 16
_LEAST_CELL = 1e-3
_LEAST_WIDTH = 1e-12
_ENOUGH_VALUES = 200
_WEIGHT_UNIT = 5.0
"""Weights of cells are learned in this unit, that is so many times faster than the rest: they start out all alike."""
_TC_ROWS = 1_024
"""Rows of a batch whose total correlation is estimated: time and memory grow with their square."""
LOG_SCALES = (-6.0, 6.0)
BEND_POINTS = 34
"""Places that a level's values are bent at, its ends included."""
_RATIO_SCALES, _RATIO_LOGIT, _RATIO_UNIT = (-8.0, 2.0), -1.0, 0.3
"""Bounds of the log scales of ratios' components, where their logits begin, and the unit in which all of it is learned,
that is so many times slower than the rest: it is begun nearly where it belongs, and soon overfits."""


@dataclass(frozen=True)
class Layout:
    """The slots of a table, as numbers.

    Args:
        n_tokens: Vocabulary of each slot, length S.
        n_levels: Tokens of each slot that carry a value, length S.
        parents: Global index of the slot that chooses a slot's prior row, or -1, length S.
        ratios: Slot of each ratio, ascending, length R.

    """

    n_tokens: tuple[int, ...]
    n_levels: tuple[int, ...]
    parents: tuple[int, ...]
    ratios: tuple[int, ...] = ()

    @property
    def n_slots(self) -> int:
        """S."""
        return len(self.n_tokens)


@dataclass(frozen=True)
class NetworkSize:
    """Hyperparameters of the network.

    Args:
        width: Size of the sum that a slot sees, W.
        hidden: Size of a slot's layers, H.
        depth: Layers of a slot after the first.
        latent: Dimensions of z.
        mixtures: Components of a value's density, K.
        dropout: Share of activations dropped in training.
        cell_dropout: Share of cells hidden from later cells in training, so that no row is known by heart.
        frequencies: Octaves of the periodic features of a value; few for few rows, which they would tell apart.
        weighed: Whether each slot has weights of its own for the cells that it sees, S² of them.

    """

    width: int = 192
    hidden: int = 128
    depth: int = 1
    latent: int = 8
    mixtures: int = 10
    dropout: float = 0.1
    cell_dropout: float = 0.0
    frequencies: int = 8
    weighed: bool = False


@dataclass(frozen=True)
class Cells:
    """Rows as the network learns them; each tensor of shape (B, S) but for the last.

    Args:
        tokens: Tokens as later slots see them, int64.
        targets: Tokens to predict, int64; other than `tokens` where a cell follows from earlier ones.
        low: Lower edges of the cells' values, float32.
        high: Upper edges.
        ratios: The cells in the logs of ratios, float32, shape (B, R, 5), see `codecs.ratios`: their middles and
            widths, logs of their widths in N(0, 1), and the ends of what could be there; None without ratios.

    """

    tokens: Tensor
    targets: Tensor
    low: Tensor
    high: Tensor
    ratios: Tensor | None = None

    @property
    def values(self) -> Tensor:
        """Middle of each cell."""
        return (self.low + self.high) / 2


class _SlotLinear(nn.Module):
    """A linear layer of its own for each of n slots: (n, B, inputs) to (n, B, outputs)."""

    def __init__(self, n: int, inputs: int, outputs: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n, inputs, outputs) * (gain / math.sqrt(inputs)))
        self.bias = nn.Parameter(torch.zeros(n, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)

    def of(self, slot: int, x: Tensor) -> Tensor:
        """Apply one slot's layer to (B, inputs)."""
        return torch.addmm(self.bias[slot], x, self.weight[slot])


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
        """Map (n, B, H) of these slots to logits (n, B, largest)."""
        return torch.baddbmm(self.bias[:, None], hidden, self.weight)


class TabularVAE(nn.Module):
    """See the module's docstring.

    Args:
        layout: The slots.
        size: Hyperparameters.
        priors: Log frequencies of each slot's tokens, shape (n_tokens,) or (parent's n_tokens, n_tokens).
        token_values: Place of each exact token in quantile space, NaN without one, shape (n_tokens,); None: none has.
        value_ranges: Range of each slot's values in quantile space, shape (S, 2).
        ratios: Logs of the ratios that components begin at, shape (R, C), and their scales, (R,); None without ratios.

    """

    offsets: Tensor
    levels: Tensor
    place: Tensor
    has_place: Tensor
    ranges: Tensor
    frequencies: Tensor
    valued: Tensor
    numeric: Tensor
    centres: Tensor
    spreads: Tensor
    ratio_places: Tensor
    shift: Tensor
    bends: Tensor

    def __init__(
        self,
        layout: Layout,
        size: NetworkSize,
        priors: Sequence[npt.NDArray[np.float32] | None],
        token_values: Sequence[npt.NDArray[np.float32] | None],
        value_ranges: npt.NDArray[np.float32],
        ratios: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None,
    ) -> None:
        super().__init__()
        self.layout, self.size = layout, size
        slots, width, hidden = layout.n_slots, size.width, size.hidden
        offsets = np.concatenate([[0], np.cumsum(layout.n_tokens)[:-1]]).astype(np.int64)
        total = int(sum(layout.n_tokens))
        places, numeric = np.full(total, np.nan, dtype=np.float32), []
        for slot, (offset, values) in enumerate(zip(offsets, token_values, strict=True)):
            if values is not None:
                places[offset : offset + len(values)] = values
            if layout.n_levels[slot] or (values is not None and bool(np.isfinite(values).any())):
                numeric.append(slot)
        valued = [slot for slot in range(slots) if layout.n_levels[slot]]
        self._numeric_place = {slot: k for k, slot in enumerate(numeric)}
        self._valued_place = {slot: k for k, slot in enumerate(valued)}
        self._constant("offsets", torch.from_numpy(offsets))
        self._constant("levels", torch.tensor(layout.n_levels))
        self._constant("place", torch.from_numpy(np.nan_to_num(places)))
        self._constant("has_place", torch.from_numpy(~np.isnan(places)))
        self._constant("ranges", torch.from_numpy(value_ranges.astype(np.float32)))
        self._constant("frequencies", math.pi / 4 * 2.0 ** torch.arange(size.frequencies))
        self._constant("numeric", torch.tensor(numeric, dtype=torch.long))
        self._constant("valued", torch.tensor(valued, dtype=torch.long))

        self.embedding = nn.Embedding(total, width)
        nn.init.normal_(self.embedding.weight, std=0.5)
        features = 2 * size.frequencies + 1
        self.value_weight = nn.Parameter(torch.randn(len(numeric), features, width) * (0.5 / math.sqrt(features)))
        self.additive = AdditiveModel(total, len(numeric), len(valued), size.frequencies)

        self.encode_in = nn.Linear(width, 2 * width)
        self.encode_out = nn.Linear(2 * width, 2 * size.latent)
        self.start = nn.Linear(size.latent, width)
        self.no_latent = nn.Parameter(torch.zeros(width))
        if size.weighed:
            self.cell_weights = nn.Parameter(torch.full((slots, slots), 1 / _WEIGHT_UNIT))
        self.enter = _SlotLinear(slots, width, hidden, math.sqrt(2))
        self.layers = [_SlotLinear(slots, hidden, hidden) for _ in range(size.depth)]
        self.deeper = nn.ModuleList(self.layers)
        self.token_heads = self._make_heads(layout, hidden)
        self.heads = nn.ModuleList(self.token_heads)
        self._set_priors(priors)

        self.level = nn.Parameter(torch.zeros(len(valued), max(1, *layout.n_levels, 1), hidden))
        self.value_in = _SlotLinear(len(valued), hidden, hidden, math.sqrt(2))
        self.value_out = _SlotLinear(len(valued), hidden, 3 * size.mixtures, 0.1)
        with torch.no_grad():
            self.value_out.bias[..., size.mixtures : 2 * size.mixtures] = torch.linspace(-2, 2, size.mixtures)
            self.value_out.bias[..., 2 * size.mixtures :] = -1.0
        # Fitted after training, see `calibration`: what is added to logits of tokens, and where values are bent to.
        self.register_buffer("shift", torch.zeros(total))
        self.register_buffer("bends", torch.zeros(len(valued), self.level.shape[1], 2, BEND_POINTS))
        self._make_ratios(*(ratios or (np.zeros((0, 1), np.float32), np.zeros(0, np.float32))))

    def _make_ratios(self, centres: npt.NDArray[np.float32], spreads: npt.NDArray[np.float32]) -> None:
        """Layers of the ratios, and which of them a slot has."""
        slots, (n, components) = self.layout.ratios, centres.shape
        self._ratios_of: dict[int, list[int]] = {}
        for index, slot in enumerate(slots):
            self._ratios_of.setdefault(slot, []).append(index)
        self._constant("centres", torch.from_numpy(centres).unsqueeze(1))
        self._constant("spreads", torch.from_numpy(spreads).log()[:, None, None])
        self._constant("ratio_places", torch.tensor([self._valued_place[slot] for slot in slots], dtype=torch.long))
        if n:
            self.ratio_out = _SlotLinear(n, self.size.hidden, 3 * components, 0.1)
            with torch.no_grad():
                self.ratio_out.bias[..., :components] = _RATIO_LOGIT / _RATIO_UNIT

    def _constant(self, name: str, value: Tensor) -> None:
        """Keep a tensor that follows from the codecs and moves with the network, but is not stored with it."""
        self.register_buffer(name, value, persistent=False)

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
                self._constant(f"prior_{slot}", torch.where(never, torch.tensor(NEVER), clipped))
                if self.layout.n_levels[slot] == 0 and grid.size > ONE_TABLE:
                    self._tables[slot] = f"table_{slot}"
                    self.register_parameter(f"table_{slot}", nn.Parameter(torch.randn(*grid.shape, _TABLE_RANK) * 0.1))
                    self.add_module(f"table_query_{slot}", nn.Linear(self.size.hidden, _TABLE_RANK, bias=False))
                    self.add_module(f"table_value_{slot}", nn.Linear(_TABLE_RANK, self.size.width, bias=False))

    # Embedding ------------------------------------------------------------------------------------------------------

    def _features(self, tokens: Tensor, values: Tensor, slots: Tensor) -> Tensor:
        """Periodic features (B, n, F) of the cells (B, n) of n numeric slots; zero where a cell is no number."""
        x, numeric = self._numbers(tokens, values, slots)
        angles = x.unsqueeze(-1) * self.frequencies
        return torch.cat([x.unsqueeze(-1), angles.sin(), angles.cos()], dim=-1) * numeric.unsqueeze(-1)

    def _numbers(self, tokens: Tensor, values: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Places among numbers of cells (B, n), and which cells have one."""
        flat = tokens + self.offsets[slots]
        carries = tokens < self.levels[slots]
        return torch.where(carries, values, self.place[flat]), carries | self.has_place[flat]

    def _numeric_features(self, cells: Cells) -> Tensor:
        return self._features(cells.tokens[:, self.numeric], cells.values[:, self.numeric], self.numeric)

    def _embed(self, tokens: Tensor, features: Tensor) -> Tensor:
        """Embed whole rows of tokens (B, S) and features (B, numeric slots, F) as (B, S, W)."""
        embedded: Tensor = self.embedding(tokens + self.offsets)
        slots, parts = [self.numeric], [torch.bmm(features.transpose(0, 1), self.value_weight).transpose(0, 1)]
        if self._tables:
            slots.append(torch.tensor(list(self._tables), device=tokens.device))
            parts.append(torch.stack([self._member(slot, tokens) for slot in self._tables], dim=1))
        # At once: each addition copies the embeddings of all slots.
        return embedded.index_add(1, torch.cat(slots), torch.cat(parts, dim=1))

    def _member(self, slot: int, tokens: Tensor) -> Tensor:
        """What a category's member adds to its slot's embedding, (B, W)."""
        table = getattr(self, self._tables[slot])
        member: Tensor = getattr(self, f"table_value_{slot}")(
            table[tokens[:, self.layout.parents[slot]], tokens[:, slot]]
        )
        return member

    def encode(self, cells: Cells) -> tuple[Tensor, Tensor]:
        """Posterior of z.

        Args:
            cells: B rows.

        Returns:
            Mean and log variance, each (B, latent).

        """
        return self._posterior(self._embed(cells.tokens, self._numeric_features(cells)))

    def _posterior(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        pooled = functional.gelu(self.encode_in(embedded.sum(dim=1) / math.sqrt(self.layout.n_slots)))
        mean, log_variance = self.encode_out(pooled).chunk(2, dim=-1)
        return mean, log_variance.clamp(-8, 4)

    # Training -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, cells: Cells) -> None:
        """Fit the additive model to a sample of training rows, before the first step."""
        every = torch.arange(self.layout.n_slots, device=cells.tokens.device)
        x, known = self._numbers(cells.tokens, cells.values, every)
        # Only cells that carry a value are drawn around the guess; where they are few, spikes help to find it.
        carries = cells.tokens < self.levels
        known = torch.where(carries.sum(dim=0) >= _ENOUGH_VALUES, carries, known)
        features = self._numeric_features(cells)
        flat = cells.tokens + self.offsets
        self.additive.fit(flat, features, x, known, self.valued, self.numeric, self.offsets)

    def negative_elbo(
        self,
        cells: Cells,
        given: Tensor,
        *,
        free_bits: float,
        beta: float = 1.0,
        tc: float = 0.0,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Negative evidence lower bound; of a row with given cells, the loss of the others alone, without z.

        Args:
            cells: B rows.
            given: True where a cell is known from the start, shape (B, S).
            free_bits: Nats of each latent dimension that cost nothing.
            beta: Price of a nat beyond (beta-VAE: Higgins et al., 2017); 1 is the bound itself.
            tc: Price of a nat of total correlation between the dimensions, none of which is free (beta-TCVAE: Chen et
                al., 2018).
            noise: Standard normal, shape (B, latent); drawn when left out.
            generator: CPU generator of all that training drops; None: torch's own.

        Returns:
            Loss to minimise (mean over rows, nats) and the rate KL(q || p) (mean over rows without given cells, nats).

        """
        features = self._numeric_features(cells)
        embedded = self._embed(cells.tokens, features)
        mean, log_variance = self._posterior(embedded)
        noise = torch.randn_like(mean) if noise is None else noise
        z = mean + noise * (0.5 * log_variance).exp()
        free = ~given.any(dim=1, keepdim=True)
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
        kl = (kl * free).sum(dim=0) / free.sum().clamp(min=1)
        price = beta * kl.clamp(min=free_bits).sum()
        if tc and bool(free.any()):
            price = price + tc * total_correlation(*(part[free[:, 0]][:_TC_ROWS] for part in (z, mean, log_variance)))
        held = price * free.float().mean()
        if self.training and self.size.cell_dropout > 0:
            shown = torch.rand(embedded.shape[:2], generator=generator) >= self.size.cell_dropout
            embedded = embedded * shown.unsqueeze(-1).to(embedded.device)
        start = torch.where(free, self.start(z), self.no_latent)
        hidden = self._decode(self._contexts(start, embedded, given), generator)
        guesses = self.additive(cells.tokens + self.offsets, features)
        return self._reconstruction(hidden, cells, guesses, ~given, generator) + held, kl.sum()

    def weights(self) -> Tensor:
        """Weights (S, S) of all cells (columns) for each slot (rows); nothing weighs a cell for itself."""
        return _WEIGHT_UNIT * (self.cell_weights.tril(-1) + self.cell_weights.triu(1))

    def _contexts(self, start: Tensor, embedded: Tensor, given: Tensor) -> Tensor:
        """What each slot sees, (B, S, W): the start, the cells before it and all given cells, in units of its size."""
        if self.size.weighed:
            return self._weighed_contexts(start, embedded, given)
        before = functional.pad(embedded[:, :-1].cumsum(dim=1), (0, 0, 1, 0))
        seen = torch.arange(1, self.layout.n_slots + 1, device=embedded.device).expand(given.shape)
        if bool(given.any()):
            late = embedded * given.unsqueeze(-1)
            before = before + late.sum(dim=1, keepdim=True) - late.cumsum(dim=1)
            counts = given.long()
            seen = seen + counts.sum(dim=1, keepdim=True) - counts.cumsum(dim=1)
        return (before + start.unsqueeze(1)) * seen.float().rsqrt().unsqueeze(-1)

    def _weighed_contexts(self, start: Tensor, embedded: Tensor, given: Tensor) -> Tensor:
        weights = self.weights()
        earlier, later = weights.tril(), weights.triu()
        total, squares = start.unsqueeze(1) + earlier @ embedded, 1 + earlier.square().sum(dim=1).expand(given.shape)
        if bool(given.any()):
            total = total + later @ (embedded * given.unsqueeze(-1))
            squares = squares + given.float() @ later.square().T
        return total * squares.rsqrt().unsqueeze(-1)

    def _dropped(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Drop activations (n, B, H), the same ones in all slots of a row: random numbers cost more than products."""
        if not self.training or self.size.dropout <= 0:
            return x
        kept = torch.rand(x.shape[1:], generator=generator) >= self.size.dropout
        return x * (kept * (1 / (1 - self.size.dropout))).to(x.device)

    def _decode(self, contexts: Tensor, generator: torch.Generator | None) -> Tensor:
        """Map contexts (B, S, W) to hidden states (S, B, H)."""
        hidden = self._dropped(functional.relu(self.enter(contexts.transpose(0, 1))), generator)
        for layer in self.layers:
            hidden = hidden + self._dropped(functional.relu(layer(hidden)), generator)
        return hidden

    def _reconstruction(
        self, hidden: Tensor, cells: Cells, guesses: Tensor, counted: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Mean negative log likelihood of the counted cells of a row."""
        loss = hidden.new_zeros(())
        for head in self.token_heads:
            logits = head(hidden[head.index])
            nested = [place for place, slot in enumerate(head.slots) if slot in self._by_parent]
            if nested:
                extra = [self._padded_parent_logits(head.slots[k], hidden, cells, logits.shape[-1]) for k in nested]
                logits = logits.index_add(0, torch.tensor(nested, device=logits.device), torch.stack(extra))
            each = functional.cross_entropy(
                logits.flatten(0, 1), cells.targets[:, head.index].T.flatten(), reduction="none"
            )
            loss = loss + (each * counted[:, head.index].T.flatten()).sum()
        if len(self.valued):
            carries = ((cells.targets < self.levels) & counted)[:, self.valued].T
            loss = loss - (self._log_density(hidden[self.valued], cells, guesses, generator) * carries).sum()
        return loss / len(counted)

    def _padded_parent_logits(self, slot: int, hidden: Tensor, cells: Cells, width: int) -> Tensor:
        logits = self._parent_logits(slot, hidden[slot], cells.tokens[:, self.layout.parents[slot]])
        return functional.pad(logits, (0, width - logits.shape[-1]))

    def _parent_logits(self, slot: int, hidden: Tensor, parent_tokens: Tensor) -> Tensor:
        logits: Tensor = getattr(self, self._by_parent[slot])[parent_tokens]
        if slot in self._tables:
            query = getattr(self, f"table_query_{slot}")(hidden)
            logits = logits + torch.einsum("br,bvr->bv", query, getattr(self, self._tables[slot])[parent_tokens])
        return logits

    def _log_density(self, hidden: Tensor, cells: Cells, guesses: Tensor, generator: torch.Generator | None) -> Tensor:
        """Log of the mean density over each valued cell, (V, B); hidden (V, B, H), guesses (B, V)."""
        at, scale = self.valued, self.additive.scale.unsqueeze(1)
        levels = self.levels[at].unsqueeze(1) - 1
        tokens = cells.tokens[:, at].T.minimum(levels)
        hidden = hidden + self.level[torch.arange(len(at), device=tokens.device).unsqueeze(1), tokens]
        inner = self._dropped(functional.relu(self.value_in(hidden)), generator)
        logits, means, log_scales = self.value_out(inner).chunk(3, dim=-1)
        middle = ((cells.values[:, at] - guesses).T / scale).unsqueeze(-1)
        width = ((cells.high - cells.low)[:, at].T.clamp(min=_LEAST_CELL) / scale).unsqueeze(-1)
        masses = log_mass(middle, width, means, log_scales.clamp(*LOG_SCALES))
        density = torch.logsumexp(logits + masses, dim=-1) - (width[..., 0] * scale).log()
        mass = torch.logsumexp(logits, dim=-1)
        if cells.ratios is not None and self.layout.ratios:
            density, mass = self._with_ratios(density, mass, inner[self.ratio_places], cells.ratios.transpose(0, 1))
        return density - mass

    def _with_ratios(self, density: Tensor, mass: Tensor, inner: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Add the components of the ratios to densities and masses (V, B), from inner (R, B, H) and cells (R, B, 5)."""
        logits, means, log_scales = _ratio_parts(self.ratio_out(inner), self.centres, self.spreads)
        middle, width, log_place_width, low, high = (part.unsqueeze(-1) for part in cells.unbind(dim=-1))
        logits = logits.masked_fill(width < 0, NEVER)
        more = torch.logsumexp(logits + log_mass(middle, width, means, log_scales), dim=-1) - log_place_width[..., 0]
        within = log_mass((low + high) / 2, high - low, means, log_scales)
        more_mass = torch.logsumexp((logits + within).masked_fill(width < 0, NEVER), dim=-1)
        rounds = max(len(found) for found in self._ratios_of.values())
        for which in ([found[k] for found in self._ratios_of.values() if len(found) > k] for k in range(rounds)):
            places = self.ratio_places[which]
            density = density.index_copy(0, places, torch.logaddexp(density[places], more[which]))
            mass = mass.index_copy(0, places, torch.logaddexp(mass[places], more_mass[which]))
        return density, mass

    # Sampling -------------------------------------------------------------------------------------------------------

    def set_margins(self, slot: int, *, shift: Tensor | None = None, bends: Mapping[int, Tensor] | None = None) -> None:
        """Change what a slot's margins are, after training.

        Args:
            slot: The slot.
            shift: Added to the logits of its tokens from now on, shape (n_tokens,).
            bends: By level, places and where they are bent to, shape (2, P), both rising.

        """
        if shift is not None:
            self.shift[self.offsets[slot] : self.offsets[slot] + len(shift)] += shift
        for level, points in (bends or {}).items():
            self.bends[self._valued_place[slot], level] = points

    def embed_slot(self, slot: int, tokens: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """What the cells of one slot add to sums, (B, W), and to the guesses, (B, V).

        Args:
            slot: The slot.
            tokens: Tokens of whole rows, shape (B, S); read up to the slot.
            values: Values, shape (B, S).

        """
        flat = tokens[:, slot] + self.offsets[slot]
        embedded: Tensor = self.embedding(flat)
        place, features = self._numeric_place.get(slot, -1), None
        if place >= 0:
            at = slice(slot, slot + 1)
            features = self._features(tokens[:, at], values[:, at], torch.tensor([slot]))[:, 0]
            embedded = torch.addmm(embedded, features, self.value_weight[place])
        if slot in self._tables:
            embedded = embedded + self._member(slot, tokens)
        return embedded, self.additive.step(flat, features, place)

    def hidden_of(self, slot: int, context: Tensor) -> Tensor:
        """Hidden state (B, H) of one slot, from what it sees (B, W)."""
        hidden = self.enter.of(slot, context).relu_()
        for layer in self.layers:
            hidden = layer.of(slot, hidden).relu_().add_(hidden)
        return hidden

    def token_logits(self, slot: int, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Logits (B, n_tokens) of one slot, NEVER where a token must not be drawn."""
        n = self.layout.n_tokens[slot]
        head, place = self.head_of[slot]
        heads = self.token_heads[head]
        shift = self.shift[self.offsets[slot] : self.offsets[slot] + n]
        logits = torch.addmm(heads.bias[place, :n] + shift, hidden, heads.weight[place, :, :n])
        never = self._never[slot]
        if slot in self._by_parent:
            logits = logits + self._parent_logits(slot, hidden, tokens[:, self.layout.parents[slot]])
        elif never is not None:
            logits = logits.masked_fill(never, NEVER)
        return logits

    def inner_of(self, slot: int, hidden: Tensor, drawn: Tensor) -> Tensor:
        """What the densities of a slot's value follow from, (B, H): its hidden state (B, H) and its token (B,)."""
        at = self._valued_place[slot]
        inner = hidden + self.level[at][drawn.clamp(max=self.layout.n_levels[slot] - 1)]
        return self.value_in.of(at, inner).relu_()

    def mixture_of(self, slot: int, inner: Tensor, guesses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Density of a slot's value beside its token.

        Args:
            slot: A slot with values.
            inner: See `inner_of`, shape (B, H).
            guesses: The additive model's guesses so far, shape (B, V).

        Returns:
            Logits, means and log scales of the mixture, shape (B, 3K), and the origin (B,) and unit of its values.

        """
        at = self._valued_place[slot]
        origin = guesses[:, at] if self.additive.active else guesses.new_zeros(len(inner))
        return self.value_out.of(at, inner), origin, self.additive.scale[at]

    def bend_of(self, slot: int, drawn: Tensor) -> Tensor | None:
        """Points (B, 2, P) that values of a slot are bent at, by its token (B,); None where none of them is bent."""
        points = self.bends[self._valued_place[slot]]
        if not bool((points[:, 0] != points[:, 1]).any()):
            return None
        return points[drawn.clamp(max=self.layout.n_levels[slot] - 1)]

    def ratios_of(self, slot: int, inner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, means and log scales of a slot's ratios, each (B, its ratios, C), from `inner_of` (B, H)."""
        parts = [
            _ratio_parts(self.ratio_out.of(index, inner), self.centres[index], self.spreads[index])
            for index in self._ratios_of[slot]
        ]
        logits, means, log_scales = (torch.stack(part, dim=1) for part in zip(*parts, strict=True))
        return logits, means, log_scales


def _ratio_parts(out: Tensor, centres: Tensor, spreads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, means and log scales of components, each (..., C), from layers' outputs (..., 3C).

    Means move in units of the scales: a step that is small to a wide component carries a narrow one off its peak.
    """
    logits, shifts, log_scales = (_RATIO_UNIT * out).chunk(3, dim=-1)
    log_scales = (spreads + log_scales).clamp(*_RATIO_SCALES)
    return logits, centres + shifts * log_scales.exp(), log_scales


def log_mass(middle: Tensor, width: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """Log of the mass of logistics over cells; NEVER where a cell has no width.

    Args:
        middle: Middles of the cells, shape (..., 1).
        width: Their widths, shape (..., 1).
        means: Means, shape (..., K).
        log_scales: Log scales, shape (..., K).

    """
    inverse = (-log_scales).exp()
    t, half = (middle - means) * inverse, width.clamp(min=_LEAST_WIDTH) * inverse / 2
    # σ(b) - σ(a) = σ(b) σ(-a) (1 - exp(a - b)), without cancellation.
    mass = functional.logsigmoid(t + half) + functional.logsigmoid(half - t) + (-torch.expm1(-2 * half)).log()
    return mass.masked_fill(width <= 0, NEVER)
