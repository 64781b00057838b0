from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tabvae_core.errors import SpecError
from tabvae_core.models.tabddpm import (
    Denoiser,
    NetworkSize,
    Rows,
    Support,
    Variables,
    cosine_schedule,
    noisy_tokens,
    step_odds,
)
from tabvae_core.spec import ModelSpec
from tabvae_core.synthesizers.tabddpm import TabDDPMSynthesizer

T = 1000
KEPT = cosine_schedule(T).double()
FEW = cosine_schedule(60).double()


def chosen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestSchedule:
    @given(st.integers(1, 2000))
    @settings(deadline=None)
    def test_falls_from_all_to_nearly_nothing(self, timesteps: int) -> None:
        kept = cosine_schedule(timesteps)
        assert kept.shape == (timesteps + 1,)
        assert kept[0] == 1
        assert bool((kept[1:] < kept[:-1]).all())
        assert 0 < kept[-1] < 2e-3

    def test_no_step_takes_more_than_beta_allows(self) -> None:
        assert float((KEPT[1:] / KEPT[:-1]).min()) == pytest.approx(1e-3, rel=1e-3)

    def test_half_of_the_signal_is_left_about_halfway(self) -> None:
        assert float(KEPT[T // 2]) == pytest.approx(0.5, abs=0.02)


class TestNoisyTokens:
    @pytest.mark.parametrize("step", [1, 300, 700, T])
    def test_marginals_are_those_of_q(self, step: int) -> None:
        n, kept = 100_000, float(KEPT[step])
        tokens = torch.tensor([[1, 4]]).expand(n, 2)
        noisy = noisy_tokens(
            tokens, torch.tensor([3, 7]), torch.full((n, 1), kept), torch.rand(n, 2, generator=chosen())
        )
        for column, (token, size) in enumerate([(1, 3), (4, 7)]):
            expected = (1 - kept) / size + kept * np.eye(size)[token]
            share = np.bincount(noisy[:, column].numpy(), minlength=size) / n
            assert share == pytest.approx(expected, abs=0.01)

    @given(st.integers(2, 300), st.integers(1, T), st.floats(0, 1, exclude_max=True, width=32))
    @settings(deadline=None)
    def test_are_always_categories(self, size: int, step: int, uniform: float) -> None:
        sizes, kept = torch.tensor([size]), KEPT[step].float().view(1, 1)
        noisy = noisy_tokens(torch.tensor([[size - 1]]), sizes, kept, torch.tensor([[uniform]]))
        assert 0 <= int(noisy) < size


def brute_force(pi: Tensor, token: int, size: int, t: int, s: int) -> Tensor:
    """p(x_s | x_t): a chain of single steps in full matrices, and Bayes' rule; π is what x_0 is believed to be."""

    def chain(first: int, last: int) -> Tensor:
        """q(x_last | x_first) as a matrix (from, to)."""
        matrix = torch.eye(size, dtype=torch.float64)
        for step in range(first + 1, last + 1):
            alpha = FEW[step] / FEW[step - 1]
            matrix = matrix @ (alpha * torch.eye(size, dtype=torch.float64) + (1 - alpha) / size)
        return matrix

    joint = (pi @ chain(0, s)) * chain(s, t)[:, token]
    return joint / joint.sum()


class TestPosterior:
    @given(
        st.integers(2, 6).flatmap(
            lambda size: st.tuples(
                st.lists(st.floats(0.01, 1), min_size=size, max_size=size), st.integers(0, size - 1), st.just(size)
            )
        ),
        st.integers(0, 30),
        st.integers(1, 30),
        st.integers(0, 4),
    )
    @settings(max_examples=40, deadline=None)
    def test_is_bayes_rule_for_steps_of_any_length(
        self, drawn: tuple[list[float], int, int], s: int, stride: int, padding: int
    ) -> None:
        weights, token, size = drawn
        pi = torch.tensor(weights, dtype=torch.float64)
        pi, t = pi / pi.sum(), s + stride
        padded = torch.cat([pi, pi.new_zeros(padding)]).view(1, 1, -1)
        odds = step_odds(padded, torch.tensor([[token]]), torch.tensor([size]), FEW[t], FEW[s])[0, 0]
        assert odds[size:].tolist() == [0.0] * padding
        assert (odds[:size] / odds.sum()).numpy() == pytest.approx(brute_force(pi, token, size, t, s).numpy(), abs=1e-9)

    def test_of_a_certain_origin_leads_back_to_it(self) -> None:
        certain = torch.tensor([[[0.0, 0.0, 1.0]]], dtype=torch.float64)
        odds = step_odds(certain, torch.tensor([[0]]), torch.tensor([3]), KEPT[400], KEPT[0])[0, 0]
        assert (odds / odds.sum()).tolist() == [0.0, 0.0, 1.0]


CELLS = torch.tensor([[0.35, 0.05, 0.1], [0.02, 0.4, 0.08]])
"""Joint odds of the toy's two categorical variables; the number is N(±1, 0.4²), its sign that of the first."""


def toy(n: int, seed: int = 0) -> Rows:
    generator = chosen(seed)
    cell = torch.multinomial(CELLS.flatten(), n, replacement=True, generator=generator)
    first, second = cell // 3, cell % 3
    number = 2.0 * first - 1 + 0.4 * torch.randn(n, generator=generator)
    return Rows(torch.stack([first, second], dim=1), number.unsqueeze(1))


ANY = Support((torch.ones(2, dtype=torch.bool), torch.ones(3, dtype=torch.bool)), (-1, -1))


@pytest.fixture(scope="module")
def learned() -> Denoiser:
    torch.manual_seed(0)
    network = Denoiser(Variables((2, 3), 1), NetworkSize(width=64, depth=1, timesteps=200))
    rows, generator = toy(8_000), chosen()
    network.prepare(rows.tokens)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.0)
    for step in range(1_000):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / 1_000)
        at = torch.randint(len(rows.tokens), (256,), generator=generator)
        loss = network.loss(Rows(rows.tokens[at], rows.numbers[at]), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


class TestSampler:
    @pytest.mark.parametrize("n_steps", [200, 20])
    def test_few_steps_and_all_of_them_draw_what_was_learned(self, learned: Denoiser, n_steps: int) -> None:
        drawn = learned.generate(8_000, n_steps, ANY, chosen(1))
        cell = drawn.tokens[:, 0] * 3 + drawn.tokens[:, 1]
        shares = torch.bincount(cell, minlength=6) / len(cell)
        assert shares.numpy() == pytest.approx(CELLS.flatten().numpy(), abs=0.03)
        for token, mean in ((0, -1.0), (1, 1.0)):
            numbers = drawn.numbers[drawn.tokens[:, 0] == token, 0]
            assert float(numbers.mean()) == pytest.approx(mean, abs=0.1)
            assert float(numbers.std()) == pytest.approx(0.4, abs=0.1)

    def test_is_a_function_of_its_generator(self, learned: Denoiser) -> None:
        first, again, other = (learned.generate(64, 10, ANY, chosen(seed)) for seed in (3, 3, 4))
        assert first.tokens.equal(again.tokens)
        assert first.numbers.equal(again.numbers)
        assert not first.numbers.equal(other.numbers)

    def test_draws_only_what_is_allowed(self, learned: Denoiser) -> None:
        allowed = torch.tensor([[False, True, False], [True, False, True]])
        drawn = learned.generate(500, 10, Support((torch.tensor([True, True]), allowed), (-1, 0)), chosen())
        assert bool(allowed[drawn.tokens[:, 0], drawn.tokens[:, 1]].all())
        assert set(drawn.tokens[:, 0].tolist()) == {0, 1}
        one = Support((torch.tensor([False, True]), torch.ones(3, dtype=torch.bool)), (-1, -1))
        assert set(learned.generate(500, 10, one, chosen()).tokens[:, 0].tolist()) == {1}

    def test_more_steps_than_were_learned_are_all_of_them(self, learned: Denoiser) -> None:
        whole, more = (learned.generate(16, steps, ANY, chosen()) for steps in (200, 900))
        assert whole.numbers.equal(more.numbers)


class TestLoss:
    def test_who_knows_the_frequencies_alone_pays_their_entropy(self) -> None:
        """With π exact, the KL terms of all steps sum up to what there is to know: the bound is tight."""
        odds, n = torch.tensor([0.7, 0.2, 0.05, 0.05]), 40_000
        tokens = torch.multinomial(odds, n, replacement=True, generator=chosen()).unsqueeze(1)
        network = Denoiser(Variables((4,), 0), NetworkSize(width=8, depth=1, timesteps=50))
        network.prepare(tokens)
        with torch.no_grad():
            loss = network.loss(Rows(tokens, torch.zeros(n, 0)), chosen(1))
        assert float(loss) == pytest.approx(-float((odds * odds.log()).sum()), rel=0.05)

    def test_numbers_that_tell_nothing_of_each_other_cost_one(self) -> None:
        """v of N(0, 1) numbers is zero on average and of variance one, which is what a new network predicts."""
        network = Denoiser(Variables((), 2), NetworkSize(width=8, depth=1))
        rows = Rows(torch.zeros(10_000, 0, dtype=torch.long), torch.randn(10_000, 2, generator=chosen()))
        with torch.no_grad():
            assert float(network.loss(rows, chosen(1))) == pytest.approx(1, abs=0.05)


class TestMethod:
    def test_nulls_of_two_slots_agree_and_members_belong_to_their_groups(self) -> None:
        """A category of two levels and a timestamp of three slots, some of them null, decode to what was learned."""
        rng = np.random.default_rng(0)
        towns = np.array([f"town {k:03d}" for k in range(300)])
        start = np.datetime64("2020-01-01T00:00:00", "s")
        seen = start + rng.integers(0, 400 * 86_400, 2_400).astype("timedelta64[s]")
        table = pa.table(
            {
                "town": pa.array(towns[np.arange(2_400) % 300], mask=rng.random(2_400) < 0.2),
                "seen": pa.array(seen, mask=rng.random(2_400) < 0.3),
            }
        )
        model = TabDDPMSynthesizer(ModelSpec(method="tabddpm", epochs=2, options={"steps": 5, "width": 32}))
        drawn = model.fit(table).sample(1_500, seed=0)
        assert 0 < drawn["town"].null_count < 1_500
        assert 0 < drawn["seen"].null_count < 1_500
        assert set(drawn["town"].drop_null().to_pylist()) <= set(towns)
        times = drawn["seen"].drop_null().to_numpy()
        assert seen.min() <= times.min() <= times.max() <= seen.max()

    def test_a_table_without_anything_to_learn_is_drawn(self) -> None:
        table = pa.table({"one": ["x"] * 30, "none": pa.nulls(30)})
        drawn = TabDDPMSynthesizer().fit(table).sample(700, seed=0)
        assert drawn.num_rows == 700
        assert drawn["one"].unique().to_pylist() == ["x"]

    @pytest.mark.parametrize("name", ["width", "timesteps", "steps"])
    def test_sizes_below_one_are_refused(self, name: str) -> None:
        with pytest.raises(SpecError, match=rf"options\.{name} is out of range: 0"):
            TabDDPMSynthesizer(ModelSpec(method="tabddpm", options={name: 0}))
