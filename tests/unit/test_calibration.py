from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from settlers import Unsettled
from tabvae_core.models.calibration import Calibration
from tabvae_core.models.drawing import Draws, generate
from tabvae_core.models.vae import Layout, NetworkSize, TabularVAE

# A category; a number of two levels and a null; a category of two slots; a number that may lie near others.
LAYOUT = Layout(n_tokens=(4, 3, 6, 5, 1), n_levels=(0, 2, 0, 0, 1), parents=(-1, -1, -1, 2, -1), ratios=(4,))
SLOTS, ROWS = LAYOUT.n_slots, 8_192


class NearOne(Unsettled):
    """A third of the rows may lie near 1 in slot 4, whose places are real values."""

    def frames(self, slot: int) -> Tensor | None:
        if slot != 4:
            return None
        frame = torch.tensor([[0.0, 0.0, -9.0, 3.0]], dtype=torch.float64).repeat(ROWS, 1)
        frame[torch.arange(ROWS) % 3 > 0, 0] = torch.nan
        return frame[:, None]

    def places_of(self, slot: int, tokens: Tensor, real: Tensor) -> Tensor:
        return real.float()


@pytest.fixture
def network() -> TabularVAE:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    members = np.log(rng.dirichlet(np.ones(5), 6)).astype(np.float32)
    begins = np.array([[0.0]], np.float32), np.array([0.02], np.float32)
    ranges = np.tile(np.array([-4.0, 4.0], np.float32), (SLOTS, 1))
    size = NetworkSize(width=16, hidden=16, latent=2, mixtures=3, dropout=0.0)
    made = TabularVAE(LAYOUT, size, [None, None, None, members, None], [None] * SLOTS, ranges, begins).eval()
    for head in made.token_heads:
        torch.nn.init.normal_(head.weight, std=0.3)
    return made


class Rows:
    """Training rows with margins that no network has by chance."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self.targets = np.stack(
            [
                rng.choice(4, ROWS, p=[0.45, 0.3, 0.15, 0.1]),
                rng.choice(3, ROWS, p=[0.6, 0.25, 0.15]),
                rng.choice(6, ROWS),
                rng.choice(5, ROWS),
                np.zeros(ROWS),
            ],
            axis=1,
        ).astype(np.int32)
        middle = np.zeros((ROWS, SLOTS), np.float32)
        middle[:, 1] = np.where(self.targets[:, 1] == 0, rng.gamma(2, 0.5, ROWS) - 1, rng.normal(1, 0.2, ROWS))
        near = rng.random(ROWS) < 0.3
        middle[:, 4] = np.where(near, np.exp(rng.normal(0, 0.02, ROWS)), rng.uniform(-2, 2, ROWS))
        self.low, self.high = middle - 0.005, middle + 0.005


def drawn_from(network: TabularVAE, rows: Rows | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw rows, fitting the margins of training rows on the way where there are any."""
    draws = Draws.make_even(ROWS, SLOTS, 2, torch.Generator().manual_seed(seed))
    fitting = None if rows is None else Calibration(network, rows.targets, rows.low, rows.high, seed)
    drawn = generate(network, draws.latent, draws, NearOne(), spread=True, fitting=fitting)
    return drawn.tokens, drawn.values


def off(network: TabularVAE, rows: Rows, slot: int) -> float:
    """Most that the share of a token is off."""
    tokens, _ = drawn_from(network, seed=9)
    shares = [
        np.bincount(part, minlength=LAYOUT.n_tokens[slot]) / ROWS for part in (tokens[:, slot], rows.targets[:, slot])
    ]
    return float(np.abs(shares[0] - shares[1]).max())


def furthest(network: TabularVAE, rows: Rows, slot: int, level: int) -> float:
    """Kolmogorov's distance between the values of a level as drawn and as learned."""
    tokens, values = drawn_from(network, seed=9)
    drawn = np.sort(values[tokens[:, slot] == level][:, slot].numpy())
    learned = np.sort(rows.low[rows.targets[:, slot] == level][:, slot] + 0.005)
    grid = np.concatenate([drawn, learned])
    shares = [np.searchsorted(part, grid, side="right") / len(part) for part in (drawn, learned)]
    return float(np.abs(shares[0] - shares[1]).max())


def test_shares_and_values_become_those_of_the_training_rows(network: TabularVAE) -> None:
    rows = Rows()
    measured = [(off, (slot,)) for slot in (0, 1, 2)] + [(furthest, place) for place in ((1, 0), (1, 1), (4, 0))]
    before = [measure(network, rows, *place) for measure, place in measured]
    drawn_from(network, rows)
    after = [measure(network, rows, *place) for measure, place in measured]
    assert min(before) > 0.05
    assert max(after[:-1]) < 0.02
    assert after[-1] < 0.04, "of values near others and the rest, only the rest is bent"


def test_what_is_near_others_stays_there(network: TabularVAE) -> None:
    """Values near others are not bent, the rest is; together they are what was learned."""
    with torch.no_grad():
        network.ratio_out.bias[..., 0] = 3.0
    drawn_from(network, Rows())
    _, values = drawn_from(network, seed=9)
    near = (values[::3, 4] - 1).abs() < 0.1
    assert 0.5 < float(near.float().mean()) < 1
    assert float((values[::3, 4] - 1)[near].abs().median()) < 0.03
    assert float((values[1::3, 4].abs() > 2.1).float().mean()) < 0.02


def test_members_of_groups_and_rare_levels_are_left_as_they_were_learned(network: TabularVAE) -> None:
    rows = Rows()
    rows.targets[:, 1] = 0
    rows.targets[:90, 1] = 1
    drawn_from(network, rows)
    assert not bool(network.shift[int(network.offsets[3]) : int(network.offsets[3]) + 5].any())
    points = network.bends[network._valued_place[1]]
    assert bool((points[0, 0] != points[0, 1]).any())
    assert torch.equal(points[1, 0], points[1, 1])


def test_what_is_never_drawn_stays_so() -> None:
    torch.manual_seed(0)
    layout = Layout(n_tokens=(3,), n_levels=(0,), parents=(-1,))
    prior = np.array([np.log(0.5), np.log(0.5), -np.inf], np.float32)
    ranges = np.array([[-4.0, 4.0]], np.float32)
    network = TabularVAE(layout, NetworkSize(width=8, hidden=8, latent=2), [prior], [None], ranges).eval()
    draws = Draws.make_even(ROWS, 1, 2, torch.Generator().manual_seed(0))
    targets = np.random.default_rng(0).choice(3, (ROWS, 1), p=[0.3, 0.2, 0.5]).astype(np.int32)
    edges = np.zeros((ROWS, 1), np.float32)
    generate(
        network, draws.latent, draws, NearOne(), spread=True, fitting=Calibration(network, targets, edges, edges, 0)
    )
    drawn = generate(network, draws.latent, draws, NearOne(), spread=True)
    assert set(drawn.tokens[:, 0].tolist()) == {0, 1}


def test_latents_are_even() -> None:
    draws = Draws.make_even(1_000, 2, 3, torch.Generator().manual_seed(0))
    shares = torch.special.ndtr(draws.latent.double()) * 1_000
    for dimension in range(3):
        assert torch.equal(shares[:, dimension].floor().sort().values, torch.arange(1_000.0).double())
    assert float(torch.corrcoef(draws.latent.T).fill_diagonal_(0).abs().max()) < 0.1
