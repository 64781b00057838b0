from __future__ import annotations

import numpy as np
import pytest
import torch

from tabvae_core.models.vae import Draws, Layout, NetworkSize, Restriction, TabularVAE

LAYOUT = Layout(
    n_tokens=(3, 2, 4, 40, 20), n_levels=(0, 2, 1, 0, 0), parents=(-1, -1, -1, -1, 3), columns=(0, 1, 2, 3, 3)
)
SIZE = NetworkSize(width=16, hidden=32, depth=2, heads=2, latent=3, mixtures=3, dropout=0.0)


@pytest.fixture
def network() -> TabularVAE:
    torch.manual_seed(0)
    grid = np.log(np.random.default_rng(0).dirichlet(np.ones(20), 40)).astype(np.float32)
    grid[:, 19] = -np.inf
    priors = [np.log(np.array([0.5, 0.5, 1e-9], np.float32)), None, None, None, grid]
    priors[0][2] = -np.inf
    values = [None, None, np.array([np.nan, np.nan, 0.5, 1.0], np.float32), None, None]
    made = TabularVAE(LAYOUT, SIZE, priors, values, np.tile(np.array([-2.0, 2.0], np.float32), (5, 1)))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


def cells(rows: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.stack([torch.randint(0, n, (rows,), generator=generator) for n in LAYOUT.n_tokens], dim=1)
    return tokens, torch.randn(rows, 5, generator=generator)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 4, 1, 0, 2]])
def test_step_by_step_equals_the_whole_pass(network: TabularVAE, order: list[int]) -> None:
    tokens, values = cells()
    z = torch.randn(64, 3)
    slots = torch.arange(5)
    embedded = network._embed(tokens, values, slots, network._parents_in(tokens))
    whole = network._decode(z, embedded, torch.tensor(order))
    seen: dict[int, torch.Tensor] = {}

    class Spy(TabularVAE):
        def _draw(self, slot, hidden, *_):  # type: ignore[no-untyped-def]
            seen[slot] = hidden

    network.__class__ = Spy
    draws = Draws.make(64, 5, 3, torch.Generator().manual_seed(0))
    # The spy draws nothing, so the given cells stay and every position is computed from them.
    network.generate(z, draws, order, given_tokens=tokens, given_values=values)
    for slot in range(5):
        assert torch.allclose(seen[slot], whole[:, slot], atol=1e-5)


def test_a_slot_sees_nothing_that_comes_later(network: TabularVAE) -> None:
    tokens, values = cells()
    z, order = torch.randn(64, 3), torch.tensor([2, 0, 1, 3, 4])

    def hidden(t: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return network._decode(z, network._embed(t, v, torch.arange(5), network._parents_in(t)), order)

    changed = tokens.clone()
    changed[:, 1] = (changed[:, 1] + 1) % 2
    before, after = hidden(tokens, values), hidden(changed, values)
    assert torch.equal(before[:, [2, 0, 1]], after[:, [2, 0, 1]])
    assert not torch.allclose(before[:, 3], after[:, 3])


def test_what_must_never_be_drawn_is_not(network: TabularVAE) -> None:
    draws = Draws.make(4000, 5, 3, torch.Generator().manual_seed(0))
    tokens, values = network.generate(torch.randn(4000, 3), draws, range(5))
    assert int(tokens[:, 0].max()) == 1
    assert int(tokens[:, 4].max()) < 19
    assert float(values.abs().max()) <= 2.0


def test_restrictions_hold_and_shares_stay_conditional(network: TabularVAE) -> None:
    draws = Draws.make(4000, 5, 3, torch.Generator().manual_seed(0))
    limits = {2: Restriction(np.array([True, False, False, False]), -0.5, 0.25), 3: Restriction(np.arange(40) < 3)}
    tokens, values = network.generate(torch.randn(4000, 3), draws, range(5), restrictions=limits)
    assert set(tokens[:, 2].tolist()) == {0}
    assert float(values[:, 2].min()) >= -0.5
    assert float(values[:, 2].max()) <= 0.25
    assert values[:, 2].std() > 0.05, "values are drawn within the range, not clipped to its ends"
    assert int(tokens[:, 3].max()) == 2


def test_density_integrates_to_one(network: TabularVAE) -> None:
    grid = torch.linspace(-40, 40, 40_001)
    hidden = torch.randn(1, 5, 16).expand(len(grid), 5, 16)[:, network.valued]
    tokens = torch.zeros(len(grid), len(network.valued), dtype=torch.long)
    density = network._log_density(hidden, tokens, grid.unsqueeze(1).expand(-1, len(network.valued))).exp()
    assert torch.allclose(density.sum(0) * (80 / 40_000), torch.ones(len(network.valued)), atol=1e-2)


def test_rate_is_held_by_free_bits(network: TabularVAE) -> None:
    tokens, values = cells()
    order = torch.arange(5)
    noise = torch.zeros(64, 3)
    network.requires_grad_(False)
    tokens[:, 0], tokens[:, 4] = tokens[:, 0].clamp(max=1), tokens[:, 4].clamp(max=18)  # what data can hold
    free, _ = network.negative_elbo(tokens, values, order, free_bits=100.0, noise=noise)
    paid, rate = network.negative_elbo(tokens, values, order, free_bits=0.0, noise=noise)
    assert float(free - paid) == pytest.approx(300.0 - float(rate), rel=1e-4)
