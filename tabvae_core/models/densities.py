"""What a slot's values are drawn from: mixtures of logistics, and the randomness that picks from them.

Rows that are drawn side by side need not be drawn independently. In array-RQMC (L'Ecuyer, Lécot & Tuffin, 2008) they
are sorted by what is known of each, and neighbours get uniforms that are far from each other: every row is drawn as
before, while the shares of a table come as near to the model's as its rows allow. `Uniforms` does that, with steps of
the golden ratio.

Shapes: B rows, K components, R ratios of C components each, P points of a bend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from tabvae_core.models.vae import LOG_SCALES, NEVER, log_mass

__all__ = ["Bend", "Logs", "Mixture", "Near", "Truncated", "Uniforms", "pick"]

_GOLDEN = 0.6180339887498949
_LEVELS_APART = 100.0
"""Between the keys of two levels: more than any two places are apart."""
_ASIDE = 1e6
"""Key of rows that are drawn near others: further than any place."""


@dataclass(frozen=True)
class Uniforms:
    """A uniform for each row.

    Args:
        drawn: Independent ones, shape (B,).
        spread: Whether they are replaced by ones that are spread evenly over rows in the order of their keys.

    """

    drawn: Tensor
    spread: bool = False

    def of(self, rows: Tensor | slice) -> Uniforms:
        """The uniforms of some rows."""
        return Uniforms(self.drawn[rows], self.spread)

    def by(self, key: Callable[[], Tensor]) -> Tensor:
        """The uniforms, (B,); `key` says what rows are sorted by, (B,)."""
        if not self.spread or not len(self.drawn):
            return self.drawn
        steps = torch.arange(len(self.drawn), dtype=torch.float64) * _GOLDEN + self.drawn[0].double()
        uniforms = torch.empty_like(self.drawn)
        # Rounding to single precision must not make a one.
        uniforms[torch.argsort(key(), stable=True)] = torch.frac(steps).float().clamp(max=1 - 1e-7)
        return uniforms


def rotations(uniform: Tensor, times: int) -> Tensor:
    """Uniforms (B, times) as far from each other as can be, the first of each row the given one, (B,)."""
    if times == 1:
        return uniform.unsqueeze(-1)
    return torch.frac(uniform.unsqueeze(-1) + torch.arange(times) / times).clamp_(max=1 - 1e-7)


def pick(logits: Tensor, uniforms: Uniforms, key: Callable[[], Tensor] | None = None, *, times: int = 1) -> Tensor:
    """Draw from softmax(logits) (B, n) by inverting its distribution function, at each of a row's `rotations`.

    Args:
        logits: Shape (B, n).
        uniforms: One a row.
        key: What rows are sorted by, (B,); None: the mean of what they draw.
        times: How many are drawn for each row.

    Returns:
        Shape (B, times).

    """
    cumulative = functional.softmax(logits, dim=-1).cumsum(dim=-1)
    uniform = rotations(uniforms.by(key or (lambda: -cumulative.sum(dim=-1))), times)
    drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:])
    return drawn.clamp_(max=logits.shape[-1] - 1)


class Logs(Protocol):
    """Knows the values behind places, and their logs; see `drawing.Settler`."""

    def log_cells(self, slot: int, tokens: Tensor, values: Tensor, origins: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logs of n cells of a slot counted from origins (n, R): middles and widths, and widths in N(0, 1), (n,)."""
        ...

    def places_of(self, slot: int, tokens: Tensor, real: Tensor) -> Tensor:
        """Places (n,) in N(0, 1) of real values (n,), float64, of a slot with ratios."""
        ...


class Mixture:
    """The density of a slot's values: logistics in N(0, 1), and in the logs of ratios where there are any.

    Args:
        truncated: In N(0, 1).
        near: In the logs of ratios.
        levels: Level of each row's value, shape (B,).

    """

    def __init__(self, truncated: Truncated, near: Near | None, levels: Tensor) -> None:
        self._truncated, self._near, self._apart = truncated, near, _LEVELS_APART * levels

    def draw(self, components: Uniforms, values: Uniforms, *, times: int = 1) -> tuple[Tensor, Tensor]:
        """Draw places (B, times), and tell which of them (B, times) were drawn near multiples of others."""
        mass, near = self._truncated.mass, self._near
        logits = mass if near is None else torch.cat([mass, near.mass], dim=-1)
        n = mass.shape[-1]
        chosen = pick(logits, components, lambda: self._truncated.middle() + self._apart, times=times)
        of_others = chosen >= n
        own = chosen.clamp(max=n - 1)

        def key() -> Tensor:
            middle = self._truncated.middle_of(own[:, :1])[:, 0]
            return torch.where(of_others[:, 0], _ASIDE + chosen[:, 0], middle) + self._apart

        uniform = rotations(values.by(key), times)
        drawn = self._truncated.draw(own, uniform)
        if near is not None:
            at = rows, _ = torch.nonzero(of_others, as_tuple=True)
            drawn[at] = near.draw(rows, chosen[at] - n, uniform[at]).clamp(*self._truncated.ends)
        return drawn, of_others

    def log_density(self, value: Tensor) -> Tensor:
        """Log density of places (B,)."""
        density, mass = self._truncated.log_density(value), torch.logsumexp(self._truncated.mass, dim=-1)
        if self._near is not None:
            density = torch.logaddexp(density, self._near.log_density(value))
            mass = torch.logaddexp(mass, torch.logsumexp(self._near.mass, dim=-1))
        return density - mass


class Near:
    """Mixtures of logistics in the logs of ratios, each cut to what the slot's values can be.

    Args:
        parts: Logits, means and log scales, each of shape (B, R, C).
        frames: See `drawing.Settler.frames`.
        slot: The slot.
        tokens: Its tokens, shape (B,).
        logs: Knows values and their logs.

    """

    def __init__(
        self, parts: tuple[Tensor, Tensor, Tensor], frames: Tensor, slot: int, tokens: Tensor, logs: Logs
    ) -> None:
        self._logits, self._means, self._log_scales = parts
        there = ~frames[..., :1].isnan()
        self._multiples, self._origins, self._low, self._high = (
            part.unsqueeze(-1) for part in frames.nan_to_num().unbind(dim=-1)
        )
        middle, width = ((self._low + self._high) / 2).float(), (self._high - self._low).float()
        within = log_mass(middle, width, self._means, self._log_scales)
        self.mass = (self._logits + within).masked_fill(~there, NEVER).flatten(1)
        self._slot, self._tokens, self._logs = slot, tokens, logs

    def draw(self, rows: Tensor, chosen: Tensor, uniform: Tensor) -> Tensor:
        """Draw places of some rows (n,), from their chosen components, at uniforms."""
        ratio, centre = chosen // self._means.shape[-1], chosen % self._means.shape[-1]
        mean, scale = self._means[rows, ratio, centre].double(), self._log_scales[rows, ratio, centre].double().exp()
        multiple, origin, low, high = (
            part[rows, ratio, 0] for part in (self._multiples, self._origins, self._low, self._high)
        )
        below, above = (torch.sigmoid((end - mean) / scale) for end in (low, high))
        place = (below + (above - below) * uniform.double()).clamp(1e-9, 1 - 1e-9)
        logs = (mean + scale * torch.logit(place)).clamp(low, high)
        return self._logs.places_of(self._slot, self._tokens[rows], origin + (multiple + logs).exp())

    def log_density(self, value: Tensor) -> Tensor:
        """Log of mass times density of places (B,)."""
        origins = self._origins[..., 0]
        middles, widths, place_width = self._logs.log_cells(self._slot, self._tokens, value, origins)
        middles = middles.unsqueeze(-1) - self._multiples.float()
        there = self.mass.view_as(self._logits) > NEVER / 2
        logs = self._logits + log_mass(middles, widths.unsqueeze(-1), self._means, self._log_scales)
        return torch.logsumexp(logs.masked_fill(~there, NEVER).flatten(1), dim=-1) - place_width.log()


class Bend:
    """A rising map of places, piecewise linear, the identity beyond its ends.

    Args:
        points: Places that are mapped, and to where, shape (B, 2, P), both rising.

    """

    def __init__(self, points: Tensor) -> None:
        self._points = points

    def to(self, places: Tensor) -> Tensor:
        """Map places (B, n)."""
        return self._along(places, 0, 1)[0]

    def back(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """Where places (B,) are mapped from, and the log of how much denser they were there, (B,)."""
        mapped, log_slope = self._along(place.unsqueeze(-1), 1, 0)
        return mapped[:, 0], log_slope[:, 0]

    def _along(self, place: Tensor, given: int, wanted: int) -> tuple[Tensor, Tensor]:
        own, other = self._points[:, given].contiguous(), self._points[:, wanted]
        last = own.shape[-1] - 1
        at = torch.searchsorted(own, place.contiguous(), right=True).clamp(1, last)
        (x0, x1), (y0, y1) = ((part.gather(-1, at - 1), part.gather(-1, at)) for part in (own, other))
        slope = (y1 - y0) / (x1 - x0)
        inside = (place > own[:, :1]) & (place < own[:, -1:])
        return torch.where(inside, y0 + (place - x0) * slope, place), torch.where(inside, slope.log(), 0.0)


class Truncated:
    """Mixtures of logistics (B, 3K), each cut to [low, high], then bent.

    Args:
        mixture: Logits, means and log scales.
        origin: Where values are counted from, shape (B,).
        unit: What they are counted in.
        ends: Smallest and largest value.
        bend: Maps what was drawn; None: to itself.

    """

    def __init__(
        self, mixture: Tensor, origin: Tensor, unit: Tensor, ends: tuple[float, float], bend: Bend | None = None
    ) -> None:
        logits, self._means, log_scales = mixture.chunk(3, dim=-1)
        self._log_scales = log_scales.clamp(*LOG_SCALES)
        self._scales = self._log_scales.exp()
        self._origin, self._unit, self.ends, self._bend = origin, unit, ends, bend
        self._below, self._above = (self._share_below(end) for end in ends)
        self._logits = logits
        self.mass = logits + (self._above - self._below).clamp(min=1e-12).log()

    def _share_below(self, end: float) -> Tensor:
        place = self._origin.new_full(self._origin.shape, end)
        return torch.sigmoid(self._standard(place if self._bend is None else self._bend.back(place)[0]))

    def _standard(self, value: Tensor) -> Tensor:
        return (((value - self._origin) / self._unit).unsqueeze(-1) - self._means) / self._scales

    def middle(self) -> Tensor:
        """About the mean of each row's places, (B,)."""
        return self._origin + self._unit * (functional.softmax(self.mass, dim=-1) * self._means).sum(dim=-1)

    def middle_of(self, chosen: Tensor) -> Tensor:
        """Middles of each row's chosen components, (B, n)."""
        return self._origin.unsqueeze(-1) + self._unit * self._means.gather(-1, chosen)

    def draw(self, chosen: Tensor, uniform: Tensor) -> Tensor:
        """Draw from the chosen components by inverting their distribution functions at uniforms, all (B, n)."""
        parts = (self._means, self._scales, self._below, self._above)
        mean, scale, start, end = (part.gather(-1, chosen).double() for part in parts)
        place = (start + (end - start) * uniform.double()).clamp(1e-9, 1 - 1e-9)
        drawn = self._origin.unsqueeze(-1) + self._unit * (mean + scale * torch.logit(place)).float()
        return (drawn if self._bend is None else self._bend.to(drawn)).clamp(*self.ends)

    def log_density(self, value: Tensor) -> Tensor:
        """Log of mass times density of values (B,)."""
        log_slope: Tensor | float = 0.0
        if self._bend is not None:
            value, log_slope = self._bend.back(value)
        t = self._standard(value)
        logs = self._logits + functional.logsigmoid(t) + functional.logsigmoid(-t) - self._log_scales
        return torch.logsumexp(logs, dim=-1) - self._unit.log() + log_slope
