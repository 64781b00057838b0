from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from tables_made import people
from tabvae_core.errors import SpecError
from tabvae_core.inference import infer_schema
from tabvae_core.models.private_vae import PrivateVAE
from tabvae_core.models.vae import Cells, Layout, NetworkSize
from tabvae_core.privacy.accounting import Budget
from tabvae_core.privacy.domain import private_domain
from tabvae_core.privacy.dpsgd import PrivatePlan, SecretRandomness, sampled_gaussian, train_privately
from tabvae_core.privacy.noise import Noise
from tabvae_core.privacy.row_gradients import RowGradients
from tabvae_core.progress import silent
from tabvae_core.spec import ColumnOverride, Kind, ModelSpec, PrivacySpec
from tabvae_core.synthesizers.base import Synthesizer
from tabvae_core.synthesizers.dp_marginals import learned_rows
from tabvae_core.synthesizers.private_vae import private_training
from tabvae_core.synthesizers.registry import create, load_bundle
from tabvae_core.tables import as_source

SIZES, ROWS = (3, 5, 17, 2), 40
PRIVATE = PrivacySpec(epsilon=50.0, delta=1e-4)


@pytest.fixture
def network() -> PrivateVAE:
    """A network with weights anywhere; one of its slots holds numbers."""
    torch.manual_seed(0)
    places = [None, None, np.linspace(-2, 2, 17).astype(np.float32), None]
    layout = Layout(SIZES, (0,) * 4, (-1,) * 4)
    size = NetworkSize(width=12, hidden=8, depth=2, latent=3, dropout=0.0, frequencies=3)
    network = PrivateVAE(layout, size, [None] * 4, places, np.zeros((4, 2), np.float32))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.randn(parameter.shape) * 0.2
    return network


@pytest.fixture
def tokens() -> Tensor:
    rng = np.random.default_rng(1)
    return torch.from_numpy(np.stack([rng.integers(0, n, ROWS) for n in SIZES], axis=1))


def losses(network: PrivateVAE, tokens: Tensor) -> Tensor:
    noise = torch.randn(len(tokens), 3, generator=torch.Generator().manual_seed(2))
    return network.row_losses(tokens, torch.zeros_like(tokens, dtype=torch.bool), noise, free_bits=0.0)


class TestRowGradients:
    @pytest.mark.parametrize("clip", [0.5, 5.0, 1e6])
    def test_sums_are_those_of_rows_taken_one_by_one(self, network: PrivateVAE, tokens: Tensor, clip: float) -> None:
        gradients = RowGradients(network.private_layers)
        sums, norms = gradients.clipped_sum(lambda: losses(network, tokens), clip)
        expected = [torch.zeros_like(p) for p in gradients.parameters]
        for row in range(ROWS):
            own = torch.autograd.grad(losses(network, tokens)[row], gradients.parameters)
            norm = torch.stack([part.square().sum() for part in own]).sum().sqrt()
            assert norms[row] == pytest.approx(float(norm), rel=1e-4)
            for total, part in zip(expected, own, strict=True):
                total += part * min(1.0, clip / float(norm))
        for found, total in zip(sums, expected, strict=True):
            torch.testing.assert_close(found, total, rtol=1e-3, atol=1e-4)

    def test_no_row_moves_the_sum_by_more_than_the_clip(self, network: PrivateVAE, tokens: Tensor) -> None:
        gradients = RowGradients(network.private_layers)
        whole, _ = gradients.clipped_sum(lambda: losses(network, tokens), 0.7)
        for left_out in (0, 17, ROWS - 1):
            kept = [row for row in range(ROWS) if row != left_out]
            rest, _ = gradients.clipped_sum(lambda kept=kept: losses(network, tokens)[kept], 0.7)  # type: ignore[misc]
            moved = torch.stack([(a - b).square().sum() for a, b in zip(whole, rest, strict=True)]).sum().sqrt()
            assert float(moved) <= 0.7 * (1 + 1e-3)

    def test_a_row_that_overflows_is_held_too(self) -> None:
        layer = nn.Linear(2, 1)
        x = torch.tensor([[1e30, 1.0], [1.0, 2.0]])
        sums, _ = RowGradients([layer]).clipped_sum(lambda: layer(x)[:, 0] * 1e30, 1.0)
        assert all(part.isfinite().all() for part in sums)
        assert float(torch.cat([part.flatten() for part in sums]).norm()) <= 2.0 + 1e-3

    def test_rows_losses_are_the_bound_of_the_network_they_come_from(self, network: PrivateVAE, tokens: Tensor) -> None:
        nothing, given = torch.zeros(ROWS, 4), torch.zeros(ROWS, 4, dtype=torch.bool)
        noise = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(2))
        bound, _ = network.negative_elbo(Cells(tokens, tokens, nothing, nothing), given, free_bits=0.0, noise=noise)
        assert losses(network, tokens).mean().item() == pytest.approx(bound.item(), rel=1e-5)


class TestTraining:
    def test_sums_carry_the_noise_that_was_asked_for(self) -> None:
        table, seen = nn.Embedding(2_000, 1), []
        plan = PrivatePlan(steps=20, sample_rate=0.5, noise=3.0, learning_rate=0.1, expected_batch=5.0, clip=0.01)
        secret = SecretRandomness(rng=np.random.default_rng(0))
        train_privately(
            [table], lambda rows: table(rows[:, None])[:, 0, 0], 10, plan, secret, observe=lambda s: seen.append(s[0])
        )
        values = torch.stack(seen)[..., 0]
        assert float(values[:, 10:].std()) == pytest.approx(3.0, rel=0.02)
        # Ten rows, each in half of the batches with a gradient of length 1 in units of the clip.
        assert float(values[:, :10].mean()) == pytest.approx(0.5, abs=3 * 3.1 / 200**0.5)

    def test_a_clock_ends_it(self) -> None:
        table = nn.Embedding(4, 1)
        plan = PrivatePlan(50, 0.5, 1.0, 0.1, expected_batch=5.0, max_seconds=0.0)
        done = train_privately([table], lambda rows: table(rows[:, None] % 4)[:, 0, 0], 10, plan, SecretRandomness())
        assert (done.steps, done.stopped) == (1, "max_seconds")

    def test_cost_is_what_opacus_says(self) -> None:
        from opacus.accountants import RDPAccountant

        for noise, rate, steps in ((4.0, 0.1, 60), (0.9, 0.1, 60), (1.1, 0.01, 1000)):
            accountant = RDPAccountant()
            accountant.history = [(noise, rate, steps)]
            theirs = accountant.get_epsilon(1e-5)
            assert sampled_gaussian(noise, rate, steps).epsilon(1e-5) == pytest.approx(theirs, rel=0.03)

    @pytest.mark.parametrize("secure", [False, True])
    def test_randomness_has_no_seed(self, secure: bool) -> None:
        first, second = SecretRandomness(secure=secure), SecretRandomness(secure=secure)
        a, b = first.normal((200, 300)), second.normal((200, 300))
        assert not a.equal(b)
        assert (float(a.mean()), float(a.std())) == (pytest.approx(0, abs=0.02), pytest.approx(1, abs=0.02))
        assert float(a.abs().max()) > 3.5
        drawn = first.sample(100_000, 0.3)
        assert len(drawn) == pytest.approx(30_000, abs=5 * (100_000 * 0.21) ** 0.5)
        assert drawn.unique().numel() == len(drawn)

    def test_batches_follow_from_the_noisy_number_of_rows(self) -> None:
        few, many = private_training(1_000, ModelSpec()), private_training(10_000_000, ModelSpec())
        assert few.sample_rate == pytest.approx(0.1)
        assert many.sample_rate * 10_000_000 == pytest.approx(8_192)
        asked = private_training(1_000, ModelSpec(epochs=3, batch_size=50, learning_rate=0.5))
        assert (asked.steps, asked.sample_rate, asked.learning_rate) == (60, 0.05, 0.5)


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return people(2_000).drop_columns(["key", "opened"])


@pytest.fixture(scope="module")
def fitted(table: pa.Table) -> Synthesizer:
    return create("vae", ModelSpec(epochs=1, seed=3, device="cpu"), PRIVATE).fit(table)


class TestSynthesizer:
    def test_spends_what_was_asked_for_and_no_more(self, fitted: Synthesizer) -> None:
        spent = fitted.record["privacy"]
        assert spent["spent_epsilon"] <= PRIVATE.epsilon == spent["epsilon"]
        assert spent["spent_epsilon"] > 0.99 * spent["epsilon"]
        assert {one["share"] for one in spent["spending"]} == {
            "bounds",
            "domains",
            "counts",
            "selection",
            "training",
            "steps",
        }

    def test_draws_rows_of_the_table(self, fitted: Synthesizer, table: pa.Table) -> None:
        drawn = fitted.sample(700, seed=1)
        assert drawn.schema.equals(table.schema, check_metadata=True)
        assert drawn.num_rows == 700
        assert fitted.sample(100, seed=1).equals(drawn.slice(0, 100))

    def test_given_values_are_kept_and_condition(self, fitted: Synthesizer) -> None:
        medians = []
        for segment in ("basic", "pro"):
            drawn = fitted.sample(400, seed=2, given={"segment": segment})
            assert set(drawn["segment"].to_pylist()) == {segment}
            medians.append(np.nanmedian(drawn["income"].to_numpy(zero_copy_only=False)))
        assert medians[1] > 1.3 * medians[0]

    def test_bundle_round_trip(self, fitted: Synthesizer, tmp_path: Path) -> None:
        fitted.save(tmp_path)
        loaded = load_bundle(tmp_path)
        assert loaded.sample(100, seed=1).equals(fitted.sample(100, seed=1))
        assert loaded.record == json.loads(json.dumps(fitted.record))
        assert loaded.latent_space().encode(fitted.sample(20)).mean.shape == (20, 8)

    def test_the_seed_does_not_decide_the_noise(self, fitted: Synthesizer, table: pa.Table) -> None:
        again = create("vae", fitted.model, fitted.privacy).fit(table)
        assert not again.sample(50).equals(fitted.sample(50))

    def test_a_table_of_declared_constants_needs_no_network(self) -> None:
        table = pa.table({"flag": pa.array(["a"] * 50)})
        overrides = {"flag": ColumnOverride(kind=Kind.CONSTANT, categories=("a",))}
        schema = infer_schema(as_source(table), overrides=overrides, privacy=PRIVATE)
        drawn = create("vae", ModelSpec(epochs=1), PRIVATE).fit(table, schema).sample(20)
        assert drawn["flag"].to_pylist() == ["a"] * 20

    def test_without_opacus_the_error_says_what_to_install(
        self, table: pa.Table, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in [one for one in sys.modules if one.partition(".")[0] == "opacus"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "opacus", None)
        with pytest.raises(SpecError, match=r"(?s)needs the package opacus.*pip install 'tabvae\[dp\]'"):
            create("vae", ModelSpec(epochs=1), PRIVATE).fit(table)

    @pytest.mark.parametrize("option", ["members", "dropout", "beta", "tc", "choices"])
    def test_options_that_mean_nothing_here_are_refused(self, option: str) -> None:
        value = 1 if option in ("members", "choices") else 0.5
        with pytest.raises(SpecError, match=rf"options\.{option} .* privacy\.epsilon"):
            create("vae", ModelSpec(options={option: value}), PRIVATE)


def test_a_row_more_changes_no_other_choice_of_rows() -> None:
    whole = people(501).select(["age"])
    schema = infer_schema(as_source(whole), privacy=PRIVATE)
    codec = private_domain(
        as_source(whole),
        schema,
        Budget.of(PRIVATE, {"bounds": 0.5, "domains": 0.5}),
        Noise(rng=np.random.default_rng(0)),
    ).codec
    with_it, without = (learned_rows(as_source(table), codec, 0.4, 7, silent) for table in (whole, whole.slice(0, 500)))
    assert 150 < len(without) < 250
    assert with_it[: len(without)].tolist() == without.tolist()
    assert len(with_it) - len(without) in (0, 1)
