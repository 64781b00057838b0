"""The additive guess: what a value follows from is found, only earlier cells count, and wide tables do without."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tabvae_core.models.additive import MOST_VALUED, AdditiveModel
from tabvae_core.models.vae import Cells, Layout, NetworkSize, TabularVAE

ROWS, OCTAVES = 4_000, 5


def periodic(x: Tensor) -> Tensor:
    """Features as the network makes them, (…, 2 * octaves + 1)."""
    angles = x.unsqueeze(-1) * (math.pi / 4 * 2.0 ** torch.arange(OCTAVES))
    return torch.cat([x.unsqueeze(-1), angles.sin(), angles.cos()], dim=-1)


class Example:
    """Rows of a category of four, and numbers: x, y, and a target between them and a late number.

    Numbers have two tokens, 0 for a value and 1 for a null.
    """

    n_tokens = (4, 2, 2, 2, 2)
    numeric = torch.tensor([1, 2, 3, 4])
    offsets = torch.tensor([0, 4, 6, 8, 10])

    def __init__(self, rows: int = ROWS) -> None:
        generator = torch.Generator().manual_seed(0)
        self.category = torch.randint(0, 4, (rows,), generator=generator)
        x, y, late, noise = torch.randn(4, rows, generator=generator)
        self.signal = 0.5 * x + 0.3 * torch.sin(math.pi / 2 * y) + torch.tensor([0.0, 0.6, -0.9, 0.3])[self.category]
        target = self.signal + 0.02 * noise
        self.values = torch.stack([torch.zeros(rows), x, y, target, 2 * target + late], dim=1)
        self.tokens = torch.zeros(rows, 5, dtype=torch.long)
        self.tokens[:, 0] = self.category
        self.known = torch.ones(rows, 5, dtype=torch.bool)
        self.known[:, 0] = False

    def with_nulls(self, slot: int, share: float) -> Example:
        gone = torch.rand(len(self.tokens), generator=torch.Generator().manual_seed(1)) < share
        self.tokens[gone, slot], self.values[gone, slot], self.known[gone, slot] = 1, 0.0, False
        return self

    @property
    def flat(self) -> Tensor:
        return self.tokens + self.offsets

    @property
    def features(self) -> Tensor:
        return periodic(self.values[:, 1:]) * self.known[:, 1:].unsqueeze(-1)

    def fitted(self) -> AdditiveModel:
        model = AdditiveModel(sum(self.n_tokens), 4, 4, OCTAVES)
        model.fit(self.flat, self.features, self.values, self.known, self.numeric, self.numeric, self.offsets)
        return model


def test_an_additive_relation_leaves_little_to_learn() -> None:
    rows = Example()
    model = rows.fitted()
    left = rows.values[:, 3] - model(rows.flat, rows.features)[:, 2]
    assert float(left.std()) < 0.1 * float(rows.values[:, 3].std())
    assert float(left.std()) < 0.03, "little more than the noise"
    assert float(model.scale[2]) == pytest.approx(float(left.std()), rel=0.3)
    assert float(left.mean()) == pytest.approx(0.0, abs=1e-3)


def test_what_follows_from_nothing_is_guessed_by_its_mean() -> None:
    rows = Example()
    model = rows.fitted()
    guess = model(rows.flat, rows.features)
    for v, slot in ((0, 1), (1, 2)):
        assert float(guess[:, v].std()) < 0.1
        assert float(guess[:, v].mean()) == pytest.approx(float(rows.values[:, slot].mean()), abs=1e-3)
        assert float(model.scale[v]) == pytest.approx(float(rows.values[:, slot].std()), rel=0.1)


def test_nulls_of_target_and_operands_are_no_values() -> None:
    whole, gone = Example(), Example().with_nulls(3, 0.3).with_nulls(1, 0.2)
    model = gone.fitted()
    left = whole.values[:, 3] - model(gone.flat, gone.features)[:, 2]
    there = gone.known[:, 1]
    assert float(left[there].std()) < 0.1 * float(whole.values[:, 3].std())
    assert abs(float(left[~there].mean())) < 0.05, "a null operand counts by a weight of its own"


def test_only_earlier_cells_have_weight() -> None:
    rows = Example()
    model = rows.fitted()
    ends = [*rows.offsets.tolist()[1:], sum(rows.n_tokens)]
    for v, slot in enumerate(rows.numeric.tolist()):
        for other in range(slot, 5):
            assert not bool(model.by_token[rows.offsets[other] : ends[other], v].any())
            assert other == 0 or not bool(model.by_value[other - 1, :, v].any())
    assert bool(model.by_value[:2, :, 2].any(dim=1).all()), "what the target follows from has some"
    assert bool(model.by_token[:4, 2].any())
    changed = rows.values.clone()
    changed[:, 4] += 1
    features = periodic(changed[:, 1:])
    assert torch.equal(model(rows.flat, features), model(rows.flat, rows.features))


def test_step_by_step_equals_the_whole() -> None:
    rows = Example().with_nulls(2, 0.2)
    model = rows.fitted()
    total = model.start.expand(ROWS, -1)
    for slot in range(5):
        features = rows.features[:, slot - 1] if slot else None
        total = total + model.step(rows.flat[:, slot], features, slot - 1)
    assert torch.allclose(total, model(rows.flat, rows.features), atol=1e-4)


def test_rare_tokens_have_no_weight() -> None:
    rows = Example()
    rows.tokens[rows.category == 3, 0] = 2
    rows.tokens[:5, 0] = 3
    model = rows.fitted()
    assert not bool(model.by_token[3].any()), "five rows are too few for an effect of their own"
    assert bool(model.by_token[2].any())


@pytest.mark.parametrize("rows", [0, 1, 2, 12])
def test_few_rows_give_a_finite_guess(rows: int) -> None:
    sample = Example(rows)
    model = sample.fitted()
    assert bool(torch.isfinite(model(sample.flat, sample.features)).all())
    assert bool((model.scale > 0).all())
    assert all(bool(torch.isfinite(buffer).all()) for buffer in model.buffers())


def test_a_target_that_is_a_function_keeps_a_spread() -> None:
    """Else its density would have to be infinitely narrow."""
    rows = Example()
    rows.values[:, 3] = rows.values[:, 1]
    model = rows.fitted()
    assert 0 < float(model.scale[2]) < 0.05
    rows.values[:, 3] = 0.25
    constant = rows.fitted()
    assert 0 < float(constant.scale[2]) < 0.05
    assert torch.allclose(constant(rows.flat, rows.features)[:, 2], torch.tensor(0.25), atol=1e-3)


def test_wide_tables_do_without() -> None:
    few, many = (AdditiveModel(10, n, n, OCTAVES) for n in (MOST_VALUED, MOST_VALUED + 1))
    assert few.active
    assert not many.active
    n, rows = MOST_VALUED + 1, 50
    flat, features = torch.zeros(rows, n, dtype=torch.long), torch.randn(rows, n, 2 * OCTAVES + 1)
    every = torch.ones(rows, n, dtype=torch.bool)
    many.fit(flat, features, torch.randn(rows, n), every, torch.arange(n), torch.arange(n), torch.arange(n))
    assert torch.equal(many(flat, features), torch.zeros(rows, n))
    assert torch.equal(many.step(flat[:, 0], features[:, 0], 0), torch.zeros(rows, n))
    assert torch.equal(many.scale, torch.ones(n))
    assert many.by_token.numel() == many.by_value.numel() == 0, "and bundles hold nothing of it"


def test_the_network_finds_it_before_the_first_step() -> None:
    rows = Example()
    layout = Layout(n_tokens=rows.n_tokens, n_levels=(0, 1, 1, 1, 1), parents=(-1,) * 5)
    size = NetworkSize(width=8, hidden=8, latent=2, mixtures=2, frequencies=OCTAVES)
    ranges = torch.tensor([[-6.0, 6.0]] * 5).numpy()
    torch.manual_seed(0)
    network = TabularVAE(layout, size, [None] * 5, [None] * 5, ranges).eval()
    cells = Cells(rows.tokens, rows.tokens, rows.values, rows.values)
    given, noise = torch.zeros(ROWS, 5, dtype=torch.bool), torch.zeros(ROWS, 2)
    with torch.no_grad():
        before, _ = network.negative_elbo(cells, given, free_bits=0.0, noise=noise)
        network.prepare(cells)
        after, _ = network.negative_elbo(cells, given, free_bits=0.0, noise=noise)
    assert torch.allclose(network.additive.scale, rows.fitted().scale, atol=1e-4)
    # Of the target, whose residual has a fiftieth of its spread, and of the number that doubles it.
    assert float(before - after) > 2.0
