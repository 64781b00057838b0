from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tabvae_core.models.vae import Cells, Draws, Given, Layout, NetworkSize, Restriction, TabularVAE

LAYOUT = Layout(
    n_tokens=(3, 2, 4, 40, 20), n_levels=(0, 2, 1, 0, 0), parents=(-1, -1, -1, -1, 3), columns=(0, 1, 2, 3, 3)
)
SIZE = NetworkSize(width=16, hidden=16, depth=2, latent=3, mixtures=3, dropout=0.0, frequencies=3)
ROWS = 64


class AsDrawn:
    """Settles nothing."""

    def allowed(self, slot: int) -> npt.NDArray[np.bool_] | None:
        return None

    def settle(self, slot: int, tokens: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return tokens, values


@pytest.fixture
def network() -> TabularVAE:
    torch.manual_seed(0)
    grid = np.log(np.random.default_rng(0).dirichlet(np.ones(20), 40)).astype(np.float32)
    grid[:, 19] = -np.inf
    priors: list[Any] = [np.log(np.array([0.5, 0.5, 1e-9], np.float32)), None, None, None, grid]
    priors[0][2] = -np.inf
    values = [None, None, np.array([np.nan, np.nan, 0.5, 1.0], np.float32), None, None]
    made = TabularVAE(LAYOUT, SIZE, priors, values, np.tile(np.array([-2.0, 2.0], np.float32), (5, 1)))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    made.prepare(cells(2_000))
    return made.eval()


def cells(rows: int = ROWS) -> Cells:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.stack([torch.randint(0, n, (rows,), generator=generator) for n in LAYOUT.n_tokens], dim=1)
    tokens[:, 0], tokens[:, 4] = tokens[:, 0].clamp(max=1), tokens[:, 4].clamp(max=18)  # what data can hold
    values = torch.randn(rows, 5, generator=generator)
    values[:, 2] = 0.8 * values[:, 1] + 0.05 * values[:, 2]
    return Cells(tokens, tokens, values, values)


def draws(rows: int) -> Draws:
    return Draws.make(rows, 5, 3, torch.Generator().manual_seed(0))


def masks(kind: str) -> Tensor:
    mask = torch.zeros(ROWS, 5, dtype=torch.bool)
    if kind == "columns":
        mask[:, [1, 3, 4]] = True
    if kind == "rows":
        mask = torch.rand(ROWS, 5, generator=torch.Generator().manual_seed(2)) < 0.5
    return mask


@pytest.mark.parametrize("kind", ["none", "columns", "rows"])
def test_slot_by_slot_equals_the_whole_pass(network: TabularVAE, kind: str) -> None:
    rows, mask, z = cells(), masks(kind), torch.randn(ROWS, 3)
    with torch.no_grad():
        start = torch.where(mask.any(dim=1, keepdim=True), network.no_latent, network.start(z))
        embedded = network._embed(rows.tokens, network._numeric_features(rows))
        whole = network._decode(network._contexts(start, embedded, mask))
    seen: dict[int, Tensor] = {}

    class Spy(TabularVAE):
        def _draw(self, slot, hidden, *_):  # type: ignore[no-untyped-def]
            seen[slot] = hidden
            return rows.tokens[:, slot], rows.values[:, slot]  # what is drawn is what the rows hold

    network.__class__ = Spy
    network.generate(z, draws(ROWS), AsDrawn(), given=Given(mask, rows.tokens, rows.values) if mask.any() else None)
    for slot, hidden in seen.items():
        open_ = ~mask[:, slot]
        assert torch.allclose(hidden[open_], whole[slot][open_], atol=1e-5)
    assert set(seen) == {slot for slot in range(5) if not bool(mask[:, slot].all())}


def hidden_states(network: TabularVAE, rows: Cells, mask: Tensor) -> Tensor:
    with torch.no_grad():
        embedded = network._embed(rows.tokens, network._numeric_features(rows))
        return network._decode(network._contexts(torch.zeros(ROWS, SIZE.width), embedded, mask))


def test_a_slot_sees_what_comes_later_only_where_it_is_given(network: TabularVAE) -> None:
    rows = cells()
    tokens = rows.tokens.clone()
    tokens[:, 3] = (tokens[:, 3] + 1) % 40
    changed = replace(rows, tokens=tokens)
    before, after = (hidden_states(network, r, masks("none")) for r in (rows, changed))
    assert torch.equal(before[:4], after[:4])
    assert not torch.allclose(before[4], after[4])
    before, after = (hidden_states(network, r, masks("columns")) for r in (rows, changed))
    assert not torch.allclose(before[0], after[0], atol=1e-4)


def test_given_cells_are_kept_and_their_row_does_without_the_latent(network: TabularVAE) -> None:
    rows, mask = cells(), masks("rows")
    given = Given(mask, rows.tokens, rows.values)
    results = [network.generate(torch.randn(ROWS, 3), draws(ROWS), AsDrawn(), given=given) for _ in range(2)]
    for tokens, values in results:
        assert torch.equal(tokens[mask], rows.tokens[mask])
        assert torch.equal(values[mask], rows.values[mask])
    some = mask.any(dim=1)
    assert torch.equal(results[0][0][some], results[1][0][some])
    assert torch.equal(results[0][1][some], results[1][1][some])


def test_what_must_never_be_drawn_is_not(network: TabularVAE) -> None:
    tokens, values = network.generate(torch.randn(4000, 3), draws(4000), AsDrawn())
    assert int(tokens[:, 0].max()) == 1
    assert int(tokens[:, 4].max()) < 19
    assert float(values.abs().max()) <= 2.0


def test_what_the_settler_forbids_is_not_drawn(network: TabularVAE) -> None:
    class Forbids(AsDrawn):
        def allowed(self, slot: int) -> npt.NDArray[np.bool_] | None:
            if slot != 3:
                return None
            return np.arange(40) % 2 == np.arange(4000)[:, None] % 2

    tokens, _ = network.generate(torch.randn(4000, 3), draws(4000), Forbids())
    assert torch.equal(tokens[:, 3] % 2, torch.arange(4000) % 2)


def test_restrictions_hold_and_shares_stay_conditional(network: TabularVAE) -> None:
    limits = {2: Restriction(np.array([True, False, False, False]), -0.5, 0.25), 3: Restriction(np.arange(40) < 3)}
    tokens, values = network.generate(torch.randn(4000, 3), draws(4000), AsDrawn(), restrictions=limits)
    assert set(tokens[:, 2].tolist()) == {0}
    assert float(values[:, 2].min()) >= -0.5
    assert float(values[:, 2].max()) <= 0.25
    assert values[:, 2].std() > 0.05, "values are drawn within the range, not clipped to its ends"
    assert int(tokens[:, 3].max()) == 2


def test_density_integrates_to_one_around_any_guess(network: TabularVAE) -> None:
    edges = torch.linspace(-40, 40, 40_001)
    n = len(edges) - 1
    low, high = (e.unsqueeze(1).expand(-1, 5) for e in (edges[:-1], edges[1:]))
    tokens = torch.zeros(n, 5, dtype=torch.long)
    hidden = torch.randn(len(network.valued), 1, SIZE.hidden).expand(-1, n, -1)
    guesses = torch.tensor([0.7, -1.1]).expand(n, -1)
    assert float(network.additive.scale[1]) < 0.5, "the second value follows from the first, so its unit is small"
    with torch.no_grad():
        density = network._log_density(hidden, Cells(tokens, tokens, low, high), guesses).exp()
    # Cells narrower than the smallest one are read as that one around their middle, so the sum is as good as exact.
    assert torch.allclose(density.sum(dim=1) * (80 / n), torch.ones(2), atol=1e-2)


def test_rate_is_held_by_free_bits(network: TabularVAE) -> None:
    rows, noise, nothing = cells(), torch.zeros(ROWS, 3), masks("none")
    network.requires_grad_(False)
    free, _ = network.negative_elbo(rows, nothing, free_bits=100.0, noise=noise)
    paid, rate = network.negative_elbo(rows, nothing, free_bits=0.0, noise=noise)
    assert float(free - paid) == pytest.approx(300.0 - float(rate), rel=1e-4)


def test_given_cells_are_not_part_of_the_loss(network: TabularVAE) -> None:
    rows = cells()
    network.requires_grad_(False)
    whole = torch.ones(ROWS, 5, dtype=torch.bool)
    loss, rate = network.negative_elbo(rows, whole, free_bits=0.1, noise=torch.zeros(ROWS, 3))
    assert float(loss) == 0.0
    assert float(rate) == 0.0
