"""Drawing rows from a network, slot by slot.

Given cells come after others in the table's order, so what is before them must be drawn to suit. Two ways are joined:
a walk that has seen all given cells proposes, as training with random given cells taught it, and the walk in the
table's order, which knows the joint density best, weighs what was proposed, given cells included. Of a few candidates
for each row one is kept with odds by its weight (sampling-importance resampling: Rubin, 1987), so errors of the
proposals are put right.

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

from tabvae_core.models.densities import Bend, Logs, Mixture, Near, Truncated, Uniforms, pick
from tabvae_core.models.vae import NEVER, TabularVAE

__all__ = ["Drawn", "Draws", "Fitting", "Given", "Restriction", "Settler", "generate"]

_LEAST_SCORE = -30.0
_SLOTS_AHEAD = 4
"""Slots whose sums are computed at once."""


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

    def of(self, rows: slice) -> Given:
        """The cells of some rows."""
        return Given(self.mask[rows], self.tokens[rows], self.values[rows])


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

    @classmethod
    def make_even(cls, rows: int, slots: int, latent: int, generator: torch.Generator) -> Draws:
        """Draw latents evenly: of the rows, an equal share in each of as many parts (Latin hypercube sampling)."""
        drawn = cls.make(rows, slots, latent, generator)
        order = torch.rand(rows, latent, generator=generator).argsort(dim=0)
        within = torch.special.ndtr(drawn.latent.double())
        even = torch.special.ndtri(((order + within) / rows).clamp(1e-9, 1 - 1e-9)).float()
        return cls(even, drawn.tokens, drawn.components, drawn.values)

    def of(self, rows: slice | Tensor) -> Draws:
        """The randomness of some rows, which may be named more than once."""
        return Draws(*(t[rows] for t in (self.latent, self.tokens, self.components, self.values)))


class Settler(Logs, Protocol):
    """Turns what was drawn for a slot into what the training rows could hold; see `codecs.settling`."""

    def allowed(self, slot: int) -> npt.NDArray[np.bool_] | None:
        """Which tokens each row may draw, shape (B, n_tokens); None: no more is known than the network knows."""
        ...

    def settle(self, slot: int, tokens: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Settle the tokens (B,) and values (B,) of a slot, after all slots before it."""
        ...

    def settled(self, slot: int, tokens: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """What n cells (B, n) of a slot would be settled to, of which one is drawn."""
        ...

    def is_linked(self, slot: int) -> bool:
        """Whether the slot's cells may follow from others, so that a given one says nothing by itself."""
        ...

    def frames(self, slot: int) -> Tensor | None:
        """In which a slot's values are seen by each of its R ratios, float64, shape (B, R, 4); None where it has none.

        The log of what the ratio is to, NaN where it has no meaning; the real value that the slot's are counted from;
        and the logs of the ratio at the ends of what the slot's values can be.
        """
        ...


class Fitting(Protocol):
    """Fits margins while rows are drawn; see `calibration.Calibration`."""

    def tokens(self, slot: int, logits: Tensor) -> Tensor:
        """Learn from logits (B, n_tokens) what to add to them, and add it."""
        ...

    def values(self, slot: int, drawn: Tensor, places: Tensor, of_others: Tensor) -> None:
        """Learn a slot's bends from its tokens (B,), what was drawn for them (B,), and whether near others (B,)."""
        ...


class Choosing(Protocol):
    """Chooses between two cells that were drawn for each one; see `pairs.Walk`."""

    def choose(self, slot: int, tokens: Tensor, values: Tensor) -> Tensor:
        """Choose one of each row's settled tokens and values, each (B, 2); whether it is the second, (B,)."""
        ...


@dataclass(frozen=True)
class Drawn:
    """What was drawn for B rows.

    Args:
        tokens: Tokens, int64, shape (B, S).
        values: Values, float32, shape (B, S).
        log_weights: Log odds of each row as a candidate, shape (B,); without meaning unless given cells were weighed.

    """

    tokens: Tensor
    values: Tensor
    log_weights: Tensor


@torch.no_grad()
def generate(
    network: TabularVAE,
    latent: Tensor,
    draws: Draws,
    settler: Settler,
    *,
    given: Given | None = None,
    restrictions: Mapping[int, Restriction] | None = None,
    weighed: bool = True,
    spread: bool = False,
    fitting: Fitting | None = None,
    choosing: Choosing | None = None,
) -> Drawn:
    """Draw rows slot by slot in the table's order, each step computing one slot only.

    Args:
        network: The network.
        latent: Latents, shape (B, latent); rows with given cells do without.
        draws: The randomness of all rows.
        settler: Settles every slot before the next one sees it.
        given: Cells known from the start.
        restrictions: What slots may draw.
        weighed: Whether rows with given cells are weighed, which a single candidate need not be.
        spread: Whether rows are drawn side by side, see `densities.Uniforms`; each of them then depends on the others.
        fitting: Fits the network's margins.
        choosing: Chooses between two cells that are drawn for each one, where none is given.

    """
    rows, slots = draws.tokens.shape
    tokens, values = torch.zeros(rows, slots, dtype=torch.long), torch.zeros(rows, slots)
    if given is not None:
        tokens, values = given.tokens.clone(), given.values.clone()
    known, cells = None if given is None else given.mask, (tokens, values)
    walk = _Walk(network, latent, draws, cells, known, settler, spread=spread, fitting=fitting, choosing=choosing)
    judge = None if known is None or not weighed else _Walk(network, latent, draws, cells, None, settler)
    log_weights = torch.zeros(rows)
    for slot in range(slots):
        frames = settler.frames(slot)
        if known is None or not bool(known[:, slot].all()):
            log_weights -= walk.draw(slot, settler.allowed(slot), (restrictions or {}).get(slot), frames)
        if judge is not None and known is not None:
            score = judge.score(slot, frames)
            if settler.is_linked(slot):
                score = score.masked_fill(known[:, slot], 0.0)
            log_weights += score
        tokens[:, slot], values[:, slot] = settler.settle(slot, tokens[:, slot], values[:, slot])
        walk.take_in(slot)
        if judge is not None:
            judge.take_in(slot)
    return Drawn(tokens, values, log_weights)


class _RunningSum:
    """What every slot sees, where none has weights of its own: the same sum.

    Args:
        start: What rows start with, shape (B, W).

    """

    def __init__(self, start: Tensor) -> None:
        self._sum, self._seen = start, torch.ones(len(start), 1)

    def add(self, slot: int, cells: Tensor, new: Tensor | None) -> None:
        """Take in embedded cells (B, W), where `new` (B, 1) is one and not zero; None: in all rows."""
        self._sum = self._sum + (cells if new is None else cells * new)
        self._seen = self._seen + (1.0 if new is None else new)

    def context_of(self, slot: int) -> Tensor:
        """What a slot sees, (B, W)."""
        return self._sum * self._seen.rsqrt()


class _WeighedSum:
    """What each slot sees by its own weights, so all cells are kept, what rows start with before them.

    The cells so far are summed for a few slots ahead, as one product that reads them once; those that come meanwhile
    are added one by one.

    Args:
        start: What rows start with, shape (B, W).
        weights: Weight of each cell (columns) for each slot (rows), shape (S, S).
        given: Whether cells of some rows come before their turn; else they come slot by slot, in all rows.

    """

    def __init__(self, start: Tensor, weights: Tensor, *, given: bool) -> None:
        slots = len(weights)
        weights = functional.pad(weights, (1, 0), value=1.0)
        shape = (slots + 1, *start.shape)
        self._cells = torch.zeros(shape) if given else torch.empty(shape)
        self._cells[0] = start
        self._there = None
        if given:
            self._there, self._squares = torch.zeros(slots + 1, len(start)), weights.square()
            self._there[0] = 1.0
        else:
            # Every slot sees the cells before it, so the unit of their sum is known.
            weights = weights.tril()
            weights = weights * weights.square().sum(dim=1, keepdim=True).rsqrt()
        self._weights = weights
        self._end, self._first = 1, 0
        self._ahead = torch.zeros(0, *start.shape)
        self._meanwhile: list[tuple[int, Tensor]] = []

    def add(self, slot: int, cells: Tensor, new: Tensor | None) -> None:
        """Take in embedded cells (B, W), where `new` (B, 1) is one and not zero; None: in all rows."""
        at = slot + 1
        if self._there is None or new is None:
            self._cells[at] = cells
        else:
            cells = cells * new
            self._cells[at] += cells
            self._there[at] += new[:, 0]
        self._end = max(self._end, at + 1)
        self._meanwhile.append((at, cells))

    def context_of(self, slot: int) -> Tensor:
        """What a slot sees, (B, W); slots are asked for once, in their order."""
        if slot >= self._first + len(self._ahead):
            ahead = self._weights[slot : slot + _SLOTS_AHEAD, : self._end] @ self._cells[: self._end].flatten(1)
            self._ahead, self._first, self._meanwhile = ahead.view(-1, *self._cells.shape[1:]), slot, []
        weights = self._weights[slot].tolist() if self._meanwhile else []
        total = self._ahead[slot - self._first]
        for other, cells in self._meanwhile:
            total.add_(cells, alpha=weights[other])
        if self._there is None:
            return total
        seen: Tensor = self._squares[slot] @ self._there
        return total.mul_(seen.rsqrt().unsqueeze(-1))


class _Walk:
    """Rows on their way through the slots.

    Args:
        network: The network.
        z: Latents, shape (B, latent).
        draws: Randomness of these rows.
        cells: Tokens and values of these rows, views that are written to, each of shape (B, S).
        known: Which cells are given, shape (B, S).
        settler: Knows values and their logs.
        spread: See `generate`.
        fitting: See `generate`.
        choosing: See `generate`.

    """

    def __init__(
        self,
        network: TabularVAE,
        z: Tensor,
        draws: Draws,
        cells: tuple[Tensor, Tensor],
        known: Tensor | None,
        settler: Settler,
        *,
        spread: bool = False,
        fitting: Fitting | None = None,
        choosing: Choosing | None = None,
    ) -> None:
        self._network, self._draws, self._known, self._settler = network, draws, known, settler
        self._tokens, self._values = cells
        self._spread, self._fitting, self._choosing = spread, fitting, choosing
        self._guesses = network.additive.start.expand(len(z), -1)
        start = network.start(z)
        if known is not None:
            start = torch.where(known.any(dim=1, keepdim=True), network.no_latent, start)
        self._sum: _RunningSum | _WeighedSum = (
            _WeighedSum(start, network.weights(), given=known is not None)
            if network.size.weighed
            else _RunningSum(start)
        )
        if known is not None:
            for slot in torch.nonzero(known.any(dim=0))[:, 0].tolist():
                embedded = network.embed_slot(slot, self._tokens, self._values)[0]
                self._sum.add(slot, embedded, known[:, slot : slot + 1].float())

    def draw(
        self,
        slot: int,
        allowed: npt.NDArray[np.bool_] | None,
        limit: Restriction | None,
        frames: Tensor | None,
    ) -> Tensor | float:
        """Draw the cells of a slot that are not given; their log densities, (B,), where some cells are."""
        hidden = self._network.hidden_of(slot, self._sum.context_of(slot))
        logits = self._network.token_logits(slot, hidden, self._tokens)
        if allowed is not None:
            logits = logits.masked_fill(torch.from_numpy(~allowed), NEVER)
        if limit is not None and limit.tokens is not None:
            forbidden = np.ones(logits.shape[-1], dtype=np.bool_)
            forbidden[: len(limit.tokens)] = ~limit.tokens
            logits = logits.masked_fill(torch.from_numpy(forbidden), 2 * NEVER)
        if self._fitting is not None:
            logits = self._fitting.tokens(slot, logits)
        tokens, *uniforms = (
            Uniforms(part[:, slot], self._spread)
            for part in (self._draws.tokens, self._draws.components, self._draws.values)
        )
        if self._choosing is not None:
            self._choose(slot, self._choosing, hidden, pick(logits, tokens, times=2), uniforms, frames)
            return 0.0
        drawn = pick(logits, tokens)[:, 0]
        value = torch.zeros(len(drawn))
        rows = self._valued(slot, drawn)
        mixture = None if rows is None else self._mixture(slot, hidden, drawn[rows], rows, limit, frames)
        if rows is not None and mixture is not None:
            components, values = (part.of(rows) for part in uniforms)
            if self._fitting is not None:
                places, of_others = mixture.draw(components, values)
                self._fitting.values(slot, drawn[rows], places[:, 0], of_others[:, 0])
                mixture = self._mixture(slot, hidden, drawn[rows], rows, limit, frames)
            value[rows] = mixture.draw(components, values)[0][:, 0]
        density: Tensor | float = 0.0
        if self._known is not None:
            known = self._known[:, slot]
            density = _log_density(logits, drawn, value, rows, mixture).masked_fill(known, 0.0)
            drawn = torch.where(known, self._tokens[:, slot], drawn)
            value = torch.where(known, self._values[:, slot], value)
        self._tokens[:, slot], self._values[:, slot] = drawn, value
        return density

    def _choose(
        self,
        slot: int,
        choosing: Choosing,
        hidden: Tensor,
        drawn: Tensor,
        uniforms: Sequence[Uniforms],
        frames: Tensor | None,
    ) -> None:
        """Draw values for tokens (B, 2), and choose one of the two cells of each row."""
        rows = len(drawn)
        values, levels = torch.zeros(rows, 2), self._network.layout.n_levels[slot]
        carries = drawn < levels
        if bool(carries.any()):
            # Cells of one row and level are drawn from one density.
            density = (torch.arange(rows).unsqueeze(-1) * levels + drawn)[carries]
            is_there = torch.zeros(rows * levels, dtype=torch.bool)
            is_there[density] = True
            of_rows = torch.nonzero(is_there)[:, 0]
            row = of_rows // levels
            mixture = self._mixture(slot, hidden, of_rows % levels, row, None, frames)
            places, _ = mixture.draw(*(part.of(row) for part in uniforms), times=2)
            values[carries] = places[is_there.cumsum(0)[density] - 1, torch.nonzero(carries)[:, 1]]
        second = choosing.choose(slot, *self._settler.settled(slot, drawn, values))
        self._tokens[:, slot], self._values[:, slot] = (
            torch.where(second, part[:, 1], part[:, 0]) for part in (drawn, values)
        )

    def score(self, slot: int, frames: Tensor | None) -> Tensor:
        """Log density (B,) of the cells of a slot as they stand, given the cells before them."""
        hidden = self._network.hidden_of(slot, self._sum.context_of(slot))
        tokens, rows = self._tokens[:, slot], self._valued(slot, self._tokens[:, slot])
        logits = self._network.token_logits(slot, hidden, self._tokens)
        mixture = None if rows is None else self._mixture(slot, hidden, tokens[rows], rows, None, frames)
        score = _log_density(logits, tokens, self._values[:, slot], rows, mixture)
        # What was never learned has no density at all; it conditions nothing, rather than to forbid every candidate.
        return score.clamp(min=_LEAST_SCORE)

    def _valued(self, slot: int, tokens: Tensor) -> Tensor | slice | None:
        """Rows (n,) whose tokens carry a value; None where none does."""
        levels = self._network.layout.n_levels[slot]
        rows = torch.nonzero(tokens < levels)[:, 0] if levels else tokens[:0]
        if not len(rows):
            return None
        return slice(None) if len(rows) == len(tokens) else rows

    def _mixture(
        self,
        slot: int,
        hidden: Tensor,
        tokens: Tensor,
        rows: Tensor | slice,
        limit: Restriction | None,
        frames: Tensor | None,
    ) -> Mixture:
        """Density of the values of n rows, whose tokens (n,) carry one."""
        network = self._network
        low, high = network.ranges[slot].tolist()
        if limit is not None:
            low, high = max(low, limit.low), min(high, limit.high)
        inner, points = network.inner_of(slot, hidden[rows], tokens), network.bend_of(slot, tokens)
        bend = None if points is None else Bend(points)
        parts = network.mixture_of(slot, inner, self._guesses[rows])
        truncated = Truncated(*parts, (low, max(low, high)), bend)
        # What is bounded is drawn where bounds can be met exactly.
        bounded = limit is not None and (limit.low > -math.inf or limit.high < math.inf)
        if frames is None or bounded:
            return Mixture(truncated, None, tokens)
        return Mixture(
            truncated, Near(network.ratios_of(slot, inner), frames[rows], slot, tokens, self._settler), tokens
        )

    def take_in(self, slot: int) -> None:
        """Let later slots see the settled cells of a slot."""
        step, guess = self._network.embed_slot(slot, self._tokens, self._values)
        self._sum.add(slot, step, None if self._known is None else (~self._known[:, slot]).float().unsqueeze(-1))
        self._guesses = self._guesses + guess


def _log_density(
    logits: Tensor, tokens: Tensor, values: Tensor, rows: Tensor | slice | None, mixture: Mixture | None
) -> Tensor:
    """Log density (B,) of cells of a slot: of their tokens, and of the values of some rows (n,), by their mixture."""
    density = functional.log_softmax(logits, dim=-1).gather(-1, tokens.unsqueeze(-1))[:, 0]
    if rows is not None and mixture is not None:
        density[rows] = density[rows] + mixture.log_density(values[rows])
    return density
