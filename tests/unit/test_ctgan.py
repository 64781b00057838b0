"""The parts of `ctgan`: conditions, losses, drawing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tables_made import people
from tabvae_core.budget import ctgan_epochs
from tabvae_core.errors import DataError, SpecError
from tabvae_core.models.ctgan import Critic, Generator, RowLayout, condition_loss, draw, gradient_penalty, soft_rows
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.ctgan import CTGANSynthesizer
from tabvae_core.synthesizers.ctgan_rows import Conditions

LAYOUT = RowLayout(modes=(2, 1), cardinalities=(3, 2))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fitted(table: pa.Table, **options: float) -> CTGANSynthesizer:
    return CTGANSynthesizer(ModelSpec(method="ctgan", epochs=1, device="cpu", options=options)).fit(table)


# ---------------------------------------------------------------- rows


def test_rows_are_places_and_one_hot_parts() -> None:
    rows = LAYOUT.rows(torch.tensor([[0.5, -0.25]]), torch.tensor([[1, 0, 2, 0]]))
    assert rows.tolist() == [[0.5, -0.25, 0, 1, 1, 0, 0, 1, 1, 0]]
    assert LAYOUT.width == 10


def test_soft_rows_are_places_and_shares() -> None:
    made = torch.randn(50, LAYOUT.width, generator=seeded())
    rows = soft_rows(made, LAYOUT, seeded(1))
    assert torch.equal(rows[:, :2], made[:, :2])
    for part in torch.split(rows[:, 2:], list(LAYOUT.sizes), dim=1):
        torch.testing.assert_close(part.sum(dim=1), torch.ones(50))


def test_soft_rows_are_nearly_drawn_by_their_logits() -> None:
    made = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 2.0, 1.0, 0.0, 0.0, 0.0]).repeat(20_000, 1)
    share = soft_rows(made, LAYOUT, seeded())[:, 5:8].argmax(dim=1).bincount() / 20_000
    torch.testing.assert_close(share, torch.tensor([2.0, 1.0, 0.0]).softmax(0), atol=0.01, rtol=0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 30))
def test_what_must_not_be_drawn_is_not(seed: int, spread: float) -> None:
    made = spread * torch.randn(200, LAYOUT.width, generator=seeded(seed))
    drawable = torch.tensor([True, True, True, False, True, True, True, False])
    uniform = torch.rand(200, 4, generator=seeded(seed + 1))
    uniform[0], uniform[1] = 0.0, 1 - 2**-24
    codes = draw(made, LAYOUT, drawable, uniform)
    assert (codes >= 0).all()
    assert (codes < torch.tensor(LAYOUT.sizes)).all()
    assert (codes[:, 2] > 0).all()
    assert (codes[:, 3] == 0).all()


def test_draws_by_logits() -> None:
    made = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 2.0, 1.0, 0.0, 0.0, 0.0]).repeat(20_000, 1)
    codes = draw(made, LAYOUT, torch.ones(8, dtype=torch.bool), torch.rand(20_000, 4, generator=seeded()))
    share = codes[:, 2].bincount(minlength=3) / 20_000
    torch.testing.assert_close(share, torch.tensor([2.0, 1.0, 0.0]).softmax(0), atol=0.01, rtol=0)


# ---------------------------------------------------------------- conditions


def test_conditions_are_drawn_by_log_frequency_with_rows_that_have_them() -> None:
    categories = torch.tensor([[0, 1]] * 899 + [[1, 1]] * 99 + [[2, 0]] * 2)
    categories = categories[torch.randperm(1000, generator=seeded())]
    conditions = Conditions(categories, (4, 2))
    drawn = conditions.draw(40_000, seeded(1))
    share = drawn.bincount(minlength=6) / 40_000
    logs = torch.log1p(torch.tensor([899.0, 99.0, 2.0, 0.0])), torch.log1p(torch.tensor([2.0, 998.0]))
    torch.testing.assert_close(share, torch.cat([part / part.sum() / 2 for part in logs]), atol=0.01, rtol=0)
    rows = conditions.rows(drawn, seeded(2))
    which = (drawn >= 4).long()
    assert torch.equal(categories[rows, which], drawn - 4 * which)
    assert len(rows[drawn == 0].unique()) == 899, "all rows that have it are drawn"


def test_condition_loss_is_the_cross_entropy_of_the_category_told() -> None:
    made = torch.randn(4, LAYOUT.width, generator=seeded())
    loss = condition_loss(made, LAYOUT, torch.tensor([0, 2, 3, 4]))
    logits = made[:, 5:]
    first = nn.functional.cross_entropy(logits[:2, :3], torch.tensor([0, 2]), reduction="sum")
    second = nn.functional.cross_entropy(logits[2:, 3:], torch.tensor([0, 1]), reduction="sum")
    torch.testing.assert_close(loss, (first + second) / 4)


def test_a_generator_told_otherwise_makes_otherwise() -> None:
    torch.manual_seed(0)
    generator = Generator(LAYOUT, latent=4, hidden=8).eval()
    noise = torch.randn(1, 4, generator=seeded())
    made = [generator(noise, torch.tensor([k])) for k in range(LAYOUT.n_conditions)]
    assert len({tuple(one.flatten().tolist()) for one in made}) == LAYOUT.n_conditions


# ---------------------------------------------------------------- the critic


class Flat(Critic):
    """A critic whose score is linear in the rows."""

    def forward(self, rows: Tensor, condition: Tensor, random: torch.Generator | None = None) -> Tensor:
        scores: Tensor = self.head(self.first(rows.reshape(-1, self.first.in_features))).squeeze(1)
        return scores


@pytest.mark.parametrize("pac", [1, 5])
def test_gradient_penalty_is_the_distance_of_the_slope_from_one(pac: int) -> None:
    torch.manual_seed(0)
    critic = Flat(LAYOUT, hidden=8, pac=pac)
    real, made = torch.randn(2, 10, LAYOUT.width, generator=seeded())
    penalty = gradient_penalty(critic, real, made, torch.zeros(10, dtype=torch.int64), seeded(1))
    slope = (critic.head.weight @ critic.first.weight).norm()
    torch.testing.assert_close(penalty, (slope - 1) ** 2)
    assert critic.first.weight.grad is None
    penalty.backward()  # type: ignore[no-untyped-call]
    assert critic.first.weight.grad is not None


def test_a_pack_is_judged_as_one() -> None:
    torch.manual_seed(0)
    critic = Critic(LAYOUT, hidden=8, pac=5)
    rows, condition = torch.randn(10, LAYOUT.width, generator=seeded()), torch.arange(10) % 5
    scores = critic(rows, condition)
    assert scores.shape == (2,)
    changed = rows.clone()
    changed[7] += 1
    told = condition.clone()
    told[7] = 0
    for other in (critic(changed, condition), critic(rows, told)):
        assert other[0] == scores[0]
        assert other[1] != scores[1]
    assert not torch.equal(critic(rows, condition, seeded(1)), critic(rows, condition, seeded(2))), "dropout"


# ---------------------------------------------------------------- the method


def test_rows_of_a_block_do_not_depend_on_its_length() -> None:
    model = fitted(people(200))
    whole = model.sample_block(1, 4096, seed=3).slice(0, 7).to_pylist()
    assert model.sample_block(1, 7, seed=3).to_pylist() == whole
    assert model.sample_block(1, 7, seed=3, attempt=1).to_pylist() != whole


def test_tables_of_numbers_alone_and_of_categories_alone() -> None:
    rng = np.random.default_rng(0)
    numbers = pa.table({"a": rng.normal(size=300), "b": rng.integers(0, 10_000, 300)})
    categories = pa.table({"a": rng.choice(["x", "y"], 300), "b": rng.random(300) < 0.5})
    for table in (numbers, categories):
        assert fitted(table).sample(50, seed=0).schema.equals(table.schema)


def test_learns_a_dependence_of_categories() -> None:
    rng = np.random.default_rng(0)
    left = rng.choice(["a", "b"], 1000)
    table = pa.table({"left": left, "right": np.where(left == "a", "c", "d")})
    options = {"pac": 5, "hidden": 32, "latent": 8, "average": 0.9}
    spec = ModelSpec(method="ctgan", epochs=40, batch_size=100, learning_rate=2e-3, device="cpu", options=options)
    drawn = CTGANSynthesizer(spec).fit(table).sample(1000, seed=0).to_pandas()
    assert ((drawn["left"] == "a") == (drawn["right"] == "c")).mean() > 0.9


def test_too_many_features_are_refused() -> None:
    with pytest.raises(DataError, match="one-hot"):
        fitted(people(200), modes=20_000)


@pytest.mark.parametrize(("name", "value"), [("pac", 0), ("average", 1.0), ("latent", -3)])
def test_options_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(SpecError, match=rf"options\.{name} is out of range"):
        CTGANSynthesizer(ModelSpec(method="ctgan", options={name: value}), PrivacySpec())


def test_epochs_follow_from_rows() -> None:
    assert ctgan_epochs(24_000) == 150
    assert ctgan_epochs(600) * (600 // 500) >= 2_000
    assert ctgan_epochs(1_000_000) * (1_000_000 // 500) <= 20_000
    assert ctgan_epochs(10**9) == 1
