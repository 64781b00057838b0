from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tabvae_core.models.densities import Bend, Mixture, Truncated, Uniforms, pick, rotations

ROWS = 512


def uniforms(rows: int = ROWS, seed: int = 0) -> Tensor:
    return torch.rand(rows, generator=torch.Generator().manual_seed(seed))


def logits(rows: int = ROWS) -> Tensor:
    """Rows that differ in what they draw: token k is likely where the row's place is near k."""
    places = torch.rand(rows, 1, generator=torch.Generator().manual_seed(1)) * 4
    return -((places - torch.arange(5)) ** 2)


def test_spread_uniforms_are_even_among_neighbours() -> None:
    key = torch.randn(ROWS, generator=torch.Generator().manual_seed(3))
    drawn = Uniforms(uniforms(), spread=True).by(lambda: key)
    assert bool(((drawn >= 0) & (drawn < 1)).all())
    in_order = drawn[key.argsort()]
    for few in in_order.view(-1, 32):
        gaps = torch.cat([few, torch.tensor([0.0, 1.0])]).sort().values.diff()
        assert float(gaps.max()) < 2.7 / 32, "neighbours of 32 rows leave no gap open"


def test_independent_uniforms_are_those_that_were_drawn() -> None:
    def never() -> Tensor:
        raise AssertionError("nothing is sorted")

    drawn = uniforms()
    assert Uniforms(drawn).by(never) is drawn


def test_spread_shares_are_the_mean_probabilities() -> None:
    """Within a few rows, where independent draws are off by dozens."""
    wanted = logits().softmax(dim=-1).sum(dim=0)

    def off(spread: bool, seed: int) -> float:
        drawn = pick(logits(), Uniforms(uniforms(seed=seed), spread))[:, 0]
        return float((torch.bincount(drawn, minlength=5) - wanted).abs().max())

    spread, independent = ([off(kind, seed) for seed in range(20)] for kind in (True, False))
    assert max(spread) < 7
    assert np.mean(spread) < 4
    assert np.mean(independent) > 10


def test_spread_leaves_every_row_its_own_probabilities() -> None:
    """Over many drawings each row draws each token as often as it would alone."""
    some, times = logits(64), 4_000
    counts = torch.zeros(64, 5)
    for seed in range(times):
        drawn = pick(some, Uniforms(uniforms(64, seed), spread=True))[:, 0]
        counts[torch.arange(64), drawn] += 1
    wanted = some.softmax(dim=-1)
    noise = (wanted * (1 - wanted) / times).sqrt()
    assert bool(((counts / times - wanted).abs() < 5 * noise + 1e-3).all())


@given(st.floats(0, 1, exclude_max=True, width=32), st.integers(1, 4))
def test_rotations_are_uniforms_as_far_from_each_other_as_can_be(uniform: float, times: int) -> None:
    several = rotations(torch.tensor([uniform]), times)[0]
    assert several[0] == pytest.approx(uniform, abs=1e-6)
    assert bool(((several >= 0) & (several < 1)).all())
    ordered = several.sort().values
    gaps = torch.cat([ordered.diff(), ordered[:1] + 1 - ordered[-1:]])
    assert torch.allclose(gaps, torch.full((times,), 1 / times), atol=1e-5)


@pytest.mark.parametrize("spread", [True, False])
def test_each_of_two_draws_is_distributed_as_one(spread: bool) -> None:
    some, times = logits(64), 4_000
    counts, unlike = torch.zeros(2, 64, 5), torch.zeros(64)
    for seed in range(times):
        drawn = pick(some, Uniforms(uniforms(64, seed), spread), times=2)
        for k in (0, 1):
            counts[k, torch.arange(64), drawn[:, k]] += 1
        unlike += drawn[:, 0] != drawn[:, 1]
    wanted = some.softmax(dim=-1)
    noise = (wanted * (1 - wanted) / times).sqrt()
    assert bool(((counts / times - wanted).abs() < 5 * noise + 1e-3).all())
    # Half a turn apart they are unlike as often as can be: always, unless one token has more than half.
    most = (2 * (1 - wanted.max(dim=-1).values)).clamp(max=1)
    assert torch.allclose(unlike / times, most, atol=0.05)


def test_values_of_two_draws_are_as_one_draws_at_either_uniform() -> None:
    levels, turned = torch.zeros(ROWS, dtype=torch.long), rotations(uniforms(), 2)

    def drawn(uniform: Tensor, times: int) -> Tensor:
        return Mixture(mixture(ROWS), None, levels).draw(Uniforms(uniform), Uniforms(uniform), times=times)[0]

    both = drawn(uniforms(), 2)
    assert torch.equal(both[:, :1], drawn(uniforms(), 1))
    assert torch.allclose(both[:, 1:], drawn(turned[:, 1], 1), atol=1e-5)


def mixture(rows: int, bend: Bend | None = None) -> Truncated:
    generator = torch.Generator().manual_seed(7)
    parts = torch.randn(rows, 9, generator=generator)
    parts[:, 6:] = parts[:, 6:].clamp(-1.5, 0.0)
    return Truncated(parts, torch.randn(rows, generator=generator), torch.tensor(0.7), (-3.0, 3.0), bend)


def as_bend(source: list[float], target: list[float], rows: int) -> Bend:
    return Bend(torch.tensor([source, target]).expand(rows, -1, -1))


def test_spread_values_are_distributed_as_the_mixtures() -> None:
    levels = torch.zeros(ROWS, dtype=torch.long)
    grid = torch.linspace(-3, 3, 25)
    dense = mixture(ROWS)
    steps = torch.linspace(-3, 3, 1_201)
    density = torch.stack([dense.log_density(place.expand(ROWS)).exp() for place in steps])
    density = density / dense.mass.exp().sum(dim=-1)
    below = torch.cumulative_trapezoid(density.mean(dim=1), steps)[49::50]

    def off(spread: bool, seed: int) -> float:
        components, values = (Uniforms(uniforms(seed=seed + k), spread) for k in (0, 1_000))
        drawn, others = Mixture(mixture(ROWS), None, levels).draw(components, values)
        assert not bool(others.any())
        return float(((drawn[:, 0][None] <= grid[1:, None]).float().mean(dim=1) - below).abs().max())

    assert np.mean([off(True, seed) for seed in range(10)]) < 0.016
    assert np.mean([off(False, seed) for seed in range(10)]) > 0.025


rising = st.lists(st.floats(-2.5, 2.5), min_size=2, max_size=8, unique=True).map(sorted)


@settings(deadline=None)
@given(rising, st.data())
def test_bends_go_and_come_back(source: list[float], data: st.DataObject) -> None:
    target = sorted(data.draw(st.lists(st.floats(-2.5, 2.5), min_size=len(source), max_size=len(source), unique=True)))
    if min(np.diff(source).min(), np.diff(target).min()) < 1e-2:
        return
    places = torch.linspace(-3, 3, 61)
    bend = as_bend([-3.0, *source, 3.0, 3.0], [-3.0, *target, 3.0, 3.0], len(places))
    there = bend.to(places.unsqueeze(-1))[:, 0]
    assert bool((there.diff() > 0).all())
    back, log_slope = bend.back(there)
    assert torch.allclose(back, places, atol=1e-3)
    inside = slice(1, -1)
    numeric = (bend.back(there + 1e-3)[0] - bend.back(there - 1e-3)[0])[inside] / 2e-3
    straight = torch.tensor([all(abs(float(t) - end) > 2e-3 for end in target) for t in there])[inside]
    assert torch.allclose(log_slope[inside][straight].exp(), numeric[straight], rtol=0.1, atol=1e-2)


def test_beyond_its_ends_a_bend_changes_nothing() -> None:
    bend = as_bend([-1.0, 0.0, 1.0], [-1.0, 0.5, 1.0], 4)
    places = torch.tensor([-5.0, -1.0, 1.0, float("inf")])
    assert torch.equal(bend.to(places.unsqueeze(-1))[:, 0], places)
    assert torch.equal(bend.back(places)[0], places)
    nothing = Bend(torch.zeros(4, 2, 3))
    assert torch.equal(nothing.to(places.unsqueeze(-1))[:, 0], places), "levels that were not fitted"


@pytest.mark.parametrize("ends", [(-3.0, 3.0), (-0.4, 0.9)])
def test_bent_values_have_the_density_that_is_told(ends: tuple[float, float]) -> None:
    rows = 40_000
    bend = as_bend([-3.0, -1.0, 0.2, 3.0], [-3.0, -0.3, 0.6, 3.0], rows)
    parts = torch.tensor([[0.0, 0.5, -1.0, -0.5, 0.5, 1.5, -1.0, -1.5, -0.5]])
    made = Truncated(parts.expand(rows, -1), torch.zeros(rows), torch.tensor(1.0), ends, bend)
    drawn = made.draw(pick(made.mass, Uniforms(uniforms(rows, 1))), uniforms(rows, 2).unsqueeze(-1))[:, 0]
    assert bool(((drawn >= ends[0]) & (drawn <= ends[1])).all())
    grid = torch.linspace(*ends, 1_201)
    one = Truncated(
        parts.expand(len(grid), -1), torch.zeros(len(grid)), torch.tensor(1.0), ends,
        as_bend([-3.0, -1.0, 0.2, 3.0], [-3.0, -0.3, 0.6, 3.0], len(grid)),
    )  # fmt: skip
    density = (one.log_density(grid) - torch.logsumexp(one.mass, dim=-1)).exp()
    below = torch.cat([torch.zeros(1), torch.cumulative_trapezoid(density, grid)])
    assert float(below[-1]) == pytest.approx(1.0, abs=0.01)
    shares = (drawn[None] <= grid[::60, None]).float().mean(dim=1)
    assert torch.allclose(shares, below[::60], atol=0.015)
