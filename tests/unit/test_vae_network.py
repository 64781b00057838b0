from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from settlers import Unsettled
from tabvae_core.models import drawing
from tabvae_core.models.aggregate import total_correlation
from tabvae_core.models.densities import Uniforms
from tabvae_core.models.drawing import Draws, Given, Restriction, generate
from tabvae_core.models.vae import NEVER, Cells, Layout, NetworkSize, TabularVAE

# A category, two numbers (levels; a level, a null, two spikes), a number with a link, a category of two small slots and
# one whose members have embeddings of their own.
COLUMNS = (0, 1, 2, 3, 4, 4, 5, 5)
LAYOUT = Layout(
    n_tokens=(3, 2, 4, 3, 40, 10, 40, 20),
    n_levels=(0, 2, 1, 1, 0, 0, 0, 0),
    parents=(-1, -1, -1, -1, -1, 4, -1, 6),
)
SIZE = NetworkSize(width=16, hidden=32, depth=2, latent=3, mixtures=3, dropout=0.0)
SLOTS, ROWS = LAYOUT.n_slots, 64
OWN_TOKENS = {3: 2}
"""Tokens that cells have, where a slot has more: links, which stand only as targets."""
NEVER_DRAWN = {slot: {0: {2}, 5: {9}, 7: {19}}.get(slot, set()) for slot in range(SLOTS)}


class Near(Unsettled):
    """Places of slot 2 are real values that keep close to multiples, counted from origins; some have no meaning."""

    WIDTH = 1e-3

    def __init__(self, logs: Tensor, origins: Tensor, low: float, high: float) -> None:
        ends = [torch.where(end > 0, end, 1e-12).log() - logs for end in (low - origins, high - origins)]
        self.all = torch.stack([logs, origins, *ends], dim=-1).double()

    def frames(self, slot: int) -> Tensor | None:
        return self.all if slot == 2 else None

    def log_cells(self, slot: int, tokens: Tensor, values: Tensor, origins: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        middles, widths = log_cells(values, origins)
        return middles, widths, torch.full_like(values, self.WIDTH)

    def places_of(self, slot: int, tokens: Tensor, real: Tensor) -> Tensor:
        assert slot == 2
        return real.float()


def log_cells(values: Tensor, origins: Tensor) -> tuple[Tensor, Tensor]:
    """Middles and widths in logs of cells around real values, counted from origins (B, R)."""
    low, high = ((values[:, None] + side * Near.WIDTH / 2 - origins).float() for side in (-1, 1))
    there = low > 0
    low, high = (torch.where(there, edge, 1.0).log() for edge in (low, high))
    return (low + high) / 2, high - low


class Replayed(Unsettled):
    """Puts cells in the place of what was drawn, so that a generation goes through rows that are known."""

    def __init__(self, cells: Cells) -> None:
        self.cells = cells

    def settle(self, slot: int, tokens: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return self.cells.tokens[:, slot], self.cells.values[:, slot]


@pytest.fixture(params=["plain", "additive", "weighed"])
def network(request: pytest.FixtureRequest) -> TabularVAE:
    """A network with parameters anywhere; with the additive model, which training finds, or with weights of cells."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    small = np.log(rng.dirichlet(np.ones(10), 40)).astype(np.float32)
    large = np.log(rng.dirichlet(np.ones(20), 40)).astype(np.float32)
    small[:, 9] = large[:, 19] = -np.inf
    priors: list[npt.NDArray[np.float32] | None] = [
        np.log(np.array([0.5, 0.5, 1e-9], np.float32)), None, None, None, None, small, None, large,
    ]  # fmt: skip
    priors[0][2] = -np.inf  # type: ignore[index]
    values: list[npt.NDArray[np.float32] | None] = [None] * SLOTS
    values[2] = np.array([np.nan, np.nan, 0.5, 1.0], np.float32)
    size = replace(SIZE, weighed=request.param == "weighed")
    made = TabularVAE(LAYOUT, size, priors, values, np.tile(np.array([-2.0, 2.0], np.float32), (SLOTS, 1)))
    for name, parameter in made.named_parameters():
        if not (name.startswith("heads") and name.endswith("bias")):  # these hold the priors
            torch.nn.init.normal_(parameter, std=0.2)
    assert set(made._tables) == {7}, "only a large grid has embeddings of its own"
    if request.param == "additive":
        additive = made.additive
        additive.start.copy_(torch.tensor([0.3, -0.2, 0.1]))
        additive.scale.copy_(torch.tensor([0.5, 0.05, 2.0]))
        ends = [*made.offsets.tolist()[1:], len(additive.by_token)]
        for v, slot in enumerate(made.valued.tolist()):  # of earlier slots only
            for other in range(slot):
                additive.by_token[int(made.offsets[other]) : ends[other], v].normal_(std=0.2)
            for place, other in enumerate(made.numeric.tolist()):
                if other < slot:
                    additive.by_value[place, :, v].normal_(std=0.2)
    return made.eval()


def some_cells(rows: int = ROWS) -> Cells:
    """Rows that data can hold."""
    generator = torch.Generator().manual_seed(1)
    limits = [OWN_TOKENS.get(slot, n) - len(NEVER_DRAWN[slot]) for slot, n in enumerate(LAYOUT.n_tokens)]
    tokens = torch.stack([torch.randint(0, n, (rows,), generator=generator) for n in limits], dim=1)
    low = torch.randn(rows, SLOTS, generator=generator).clamp(-1.9, 1.9)
    width = 0.1 * torch.rand(rows, SLOTS, generator=generator)
    targets = tokens.clone()
    targets[::3, 3] = 2  # links
    return Cells(tokens, targets, low, low + width)


def masks(kind: str) -> Tensor:
    """Which cells are given: in no row, the same in all, or others in every row (in some none, in some all)."""
    given = torch.zeros(ROWS, SLOTS, dtype=torch.bool)
    if kind == "same":
        given[:, [2, 4, 5]] = True
    if kind == "each":
        generator = torch.Generator().manual_seed(2)
        given = torch.rand(ROWS, 6, generator=generator) < torch.rand(ROWS, 1, generator=generator)
        given = given[:, list(COLUMNS)]  # all slots of a column, or none
        given[0], given[1] = False, True
        assert given.any(dim=0).all()
    return given


def whole_pass(network: TabularVAE, z: Tensor, cells: Cells, given: Tensor) -> Tensor:
    """Hidden states (S, B, H) as training computes them."""
    embedded = network._embed(cells.tokens, network._numeric_features(cells))
    free = ~given.any(dim=1, keepdim=True)
    start = torch.where(free, network.start(z), network.no_latent)
    return network._decode(network._contexts(start, embedded, given), None)


def known(cells: Cells, given: Tensor) -> Given:
    """What `generate` is told; cells that are not given hold nonsense, which it must not read."""
    tokens, values = cells.tokens.clone(), cells.values.clone()
    tokens[~given], values[~given] = 0, 99.0
    return Given(given, tokens, values)


def cells_of(*args: Any, **more: Any) -> tuple[Tensor, Tensor]:
    """Tokens and values of `generate`."""
    drawn = generate(*args, **more)
    return drawn.tokens, drawn.values


def draws_of(rows: int, seed: int = 0) -> Draws:
    return Draws.make(rows, SLOTS, SIZE.latent, torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- training and sampling are one


@pytest.mark.parametrize("kind", ["none", "same", "each"])
def test_step_by_step_equals_the_whole_pass(network: TabularVAE, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cells, given = some_cells(), masks(kind)
    z = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(3))
    whole = whole_pass(network, z, cells, given)
    guesses = network.additive(cells.tokens + network.offsets, network._numeric_features(cells))
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    class Spy(TabularVAE):
        def token_logits(self, slot: int, hidden: Tensor, tokens: Tensor) -> Tensor:
            if proposing:
                seen[slot] = hidden, walks[0]._guesses
            return super().token_logits(slot, hidden, tokens)

    class Watched(drawing._Walk):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            walks.append(self)

        def draw(self, *args: Any) -> Tensor | float:
            proposing.append(self)
            density = super().draw(*args)
            proposing.pop()
            return density

    proposing: list[drawing._Walk] = []
    walks: list[drawing._Walk] = []
    monkeypatch.setattr(drawing, "_Walk", Watched)
    network.__class__ = Spy
    cells_of(network, z, draws_of(ROWS), Replayed(cells), given=known(cells, given) if kind != "none" else None)
    assert set(seen) == {slot for slot in range(SLOTS) if not given[:, slot].all()}
    for slot, (hidden, guess) in seen.items():
        open_ = ~given[:, slot]
        assert torch.allclose(hidden[open_], whole[slot][open_], atol=1e-5)
        if slot in network._valued_place:
            at = network._valued_place[slot]
            assert torch.allclose(guess[:, at], guesses[:, at], atol=1e-5)


@pytest.mark.parametrize("kind", ["none", "each"])
def test_drawn_shares_are_what_is_learned(network: TabularVAE, kind: str) -> None:
    """The logits that training is scored on are those that are drawn from."""
    cells, given = some_cells(), masks(kind)
    z = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(3))
    whole = whole_pass(network, z, cells, given)
    for head in network.token_heads:
        logits = head(whole[head.index])
        for place, slot in enumerate(head.slots):
            n = LAYOUT.n_tokens[slot]
            expected = logits[place]
            if slot in network._by_parent:
                parents = cells.tokens[:, LAYOUT.parents[slot]]
                extra = network._parent_logits(slot, whole[slot], parents)
                expected = expected.clone()
                expected[:, :n] += extra
            drawn = network.token_logits(slot, whole[slot], cells.tokens)
            allowed = drawn > NEVER / 2
            assert torch.allclose(drawn[allowed], expected[:, :n][allowed], atol=1e-5)
            assert bool((expected[:, n:] <= NEVER / 2).all()), "what a slot has no token for has no share"
            assert allowed.float().mean(dim=0).tolist() == [float(token not in NEVER_DRAWN[slot]) for token in range(n)]


def test_given_rows_need_no_latent_and_others_do(network: TabularVAE) -> None:
    cells, given = some_cells(), masks("each")
    drawn = [
        cells_of(network, torch.randn(ROWS, 3), draws_of(ROWS), Unsettled(), given=known(cells, given))
        for _ in range(2)
    ]
    some = given.any(dim=1)
    for first, second in zip(*drawn, strict=True):
        assert torch.equal(first[some], second[some])
        assert not torch.equal(first[~some], second[~some])
    tokens, values = drawn[0]
    assert torch.equal(tokens[given], cells.tokens[given])
    assert torch.equal(values[given], cells.values[given])


def test_what_is_given_in_one_row_is_nothing_to_another(network: TabularVAE) -> None:
    cells, given, z = some_cells(), masks("each"), torch.randn(ROWS, 3)
    together = cells_of(network, z, draws_of(ROWS), Unsettled(), given=known(cells, given))
    for row in (0, 1, 7, 20):
        part = Given(*(t[row : row + 1] for t in vars(known(cells, given)).values()))
        draws = Draws(*(t[row : row + 1] for t in vars(draws_of(ROWS)).values()))
        tokens, values = cells_of(network, z[row : row + 1], draws, Unsettled(), given=part)
        assert torch.equal(tokens[0], together[0][row])
        assert torch.allclose(values[0], together[1][row], atol=1e-5)


@pytest.mark.parametrize("later", range(1, SLOTS))
def test_a_slot_sees_nothing_that_comes_later(network: TabularVAE, later: int) -> None:
    cells, z, none = some_cells(), torch.randn(ROWS, 3), masks("none")
    tokens, low = cells.tokens.clone(), cells.low.clone()
    tokens[:, later] = (tokens[:, later] + 1) % OWN_TOKENS.get(later, LAYOUT.n_tokens[later])
    low[:, later] -= 1
    changed = replace(cells, tokens=tokens, low=low, high=low + (cells.high - cells.low))
    before, after = (whole_pass(network, z, one, none) for one in (cells, changed))
    assert torch.equal(before[: later + 1], after[: later + 1])
    for slot in range(later + 1, SLOTS):
        assert not torch.allclose(before[slot], after[slot])
    guesses = [
        network.additive(one.tokens + network.offsets, network._numeric_features(one)) for one in (cells, changed)
    ]
    for slot, at in network._valued_place.items():
        assert slot > later or torch.equal(guesses[0][:, at], guesses[1][:, at])


@pytest.mark.parametrize("later", range(1, SLOTS))
def test_a_slot_sees_what_is_given_wherever_it_stands(network: TabularVAE, later: int) -> None:
    cells, z = some_cells(), torch.randn(ROWS, 3)
    given = torch.zeros(ROWS, SLOTS, dtype=torch.bool)
    given[::2, later] = True
    tokens = cells.tokens.clone()
    tokens[:, later] = (tokens[:, later] + 1) % OWN_TOKENS.get(later, LAYOUT.n_tokens[later])
    before, after = (whole_pass(network, z, one, given) for one in (cells, replace(cells, tokens=tokens)))
    for slot in range(later):
        assert not torch.allclose(before[slot, ::2], after[slot, ::2])
        assert torch.equal(before[slot, 1::2], after[slot, 1::2])


def test_given_cells_cost_nothing(network: TabularVAE) -> None:
    """The loss of a row with given cells is that of the others, and needs no z."""
    network.requires_grad_(False)
    cells, noise = some_cells(), torch.randn(ROWS, 3)
    every = torch.ones(ROWS, SLOTS, dtype=torch.bool)
    loss, rate = network.negative_elbo(cells, every, free_bits=0.1, noise=noise)
    assert float(loss) == float(rate) == 0.0
    given = masks("each") | (torch.arange(SLOTS) == 3)
    targets = cells.targets.clone()
    targets[given] = 0
    same = network.negative_elbo(replace(cells, targets=targets), given, free_bits=0.0, noise=noise)
    assert torch.equal(same[0], network.negative_elbo(cells, given, free_bits=0.0, noise=noise)[0])
    assert torch.equal(same[0], network.negative_elbo(cells, given, free_bits=0.0, noise=noise + 1)[0])


# ---------------------------------------------------------------- what is drawn


def test_what_must_never_be_drawn_is_not(network: TabularVAE) -> None:
    tokens, values = cells_of(network, torch.randn(4000, 3), draws_of(4000), Unsettled())
    for slot, n in enumerate(LAYOUT.n_tokens):
        drawn = set(tokens[:, slot].tolist())
        assert drawn <= set(range(n)) - NEVER_DRAWN[slot]
        assert slot or drawn == {0, 1}
    assert float(values.abs().max()) <= 2.0


def test_restrictions_hold_and_shares_stay_conditional(network: TabularVAE) -> None:
    limits = {
        2: Restriction(np.array([True, False, False, False]), -0.5, 0.25),
        3: Restriction(np.array([True, True])),  # of the slot's own tokens: its link is left out
        4: Restriction(np.arange(40) < 3),
    }
    tokens, values = cells_of(network, torch.randn(4000, 3), draws_of(4000), Unsettled(), restrictions=limits)
    assert set(tokens[:, 2].tolist()) == {0}
    assert float(values[:, 2].min()) >= -0.5
    assert float(values[:, 2].max()) <= 0.25
    inner = (values[:, 2] > -0.49) & (values[:, 2] < 0.24)
    assert float(inner.float().mean()) > 0.5, "values are drawn within the range, not clipped to its ends"
    assert set(tokens[:, 3].tolist()) == {0, 1}
    assert set(tokens[:, 4].tolist()) == {0, 1, 2}
    free = cells_of(network, torch.randn(4000, 3), draws_of(4000), Unsettled())[0]
    allowed = [(free[:, 4] == token).float().mean() for token in range(3)]
    expected = torch.stack(allowed) / sum(allowed)
    shares = torch.bincount(tokens[:, 4], minlength=3) / 4000
    assert torch.allclose(shares, expected, atol=0.1)


def test_what_the_settler_forbids_is_not_drawn(network: TabularVAE) -> None:
    forbidden = torch.rand(2000, 3, generator=torch.Generator().manual_seed(4)) < 0.5
    forbidden[:, 0] = False

    class Strict(Unsettled):
        def allowed(self, slot: int) -> npt.NDArray[np.bool_] | None:
            return ~forbidden.numpy() if slot == 3 else None

    tokens, _ = cells_of(network, torch.randn(2000, 3), draws_of(2000), Strict())
    assert set(tokens[:, 3].tolist()) == {0, 1, 2}
    assert not bool(forbidden.gather(1, tokens[:, 3:4]).any())


def test_values_are_drawn_from_the_density_that_is_learned(network: TabularVAE) -> None:
    """The share of values below any place is the integral of the density up to it, over the range of the slot."""
    rows, slot = 20_000, 2
    at = network._valued_place[slot]
    hidden = torch.randn(1, SIZE.hidden, generator=torch.Generator().manual_seed(5))
    guess = torch.full((1, len(network.valued)), 0.4)
    grid = torch.linspace(-2.0, 2.0, 801)
    shape = (len(grid), SLOTS)
    cells = Cells(
        torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long),
        grid[:, None].expand(shape), grid[:, None].expand(shape),
    )  # fmt: skip
    density = network._log_density(
        hidden.expand(len(network.valued), len(grid), -1), cells, guess.expand(len(grid), -1), None
    )[at].exp()
    learned = torch.cumulative_trapezoid(density, grid)
    learned = torch.cat([torch.zeros(1), learned]) / learned[-1]
    walk = drawing._Walk(
        network, torch.zeros(rows, 3), draws_of(rows),
        (torch.zeros(rows, SLOTS, dtype=torch.long), torch.zeros(rows, SLOTS)), None, Unsettled(),
    )  # fmt: skip
    walk._guesses = guess.expand(rows, -1)
    mixture = walk._mixture(slot, hidden.expand(rows, -1), torch.zeros(rows, dtype=torch.long), slice(None), None, None)
    drawn, _ = mixture.draw(Uniforms(walk._draws.components[:, slot]), Uniforms(walk._draws.values[:, slot]))
    shares = (drawn[:, 0][None] <= grid[::40, None]).float().mean(dim=1)
    assert torch.allclose(shares, learned[::40], atol=0.015)


@pytest.mark.parametrize("second", [-0.2, float("nan")], ids=["both", "first"])
def test_values_with_ratios_are_drawn_from_the_density_that_is_learned(second: float) -> None:
    """Components in logs of ratios count in learning as in drawing; where a multiple is missing, the others do."""
    torch.manual_seed(0)
    rows, slot = 20_000, 2
    layout = replace(LAYOUT, ratios=(slot, slot))
    begins = np.array([[0.5, -0.5], [0.0, 1.0]], np.float32), np.array([0.1, 0.2], np.float32)
    ranges = np.tile(np.array([-4.0, 8.0], np.float32), (SLOTS, 1))
    network = TabularVAE(layout, SIZE, [None] * SLOTS, [None] * SLOTS, ranges, begins).eval()
    torch.nn.init.normal_(network.ratio_out.weight, std=0.1)
    at, logs, origins = network._valued_place[slot], torch.tensor([[0.3, second]]), torch.tensor([[0.0, 1.5]])
    hidden = torch.randn(1, SIZE.hidden, generator=torch.Generator().manual_seed(5))
    guess, grid = torch.zeros(1, len(network.valued)), torch.linspace(-4.0, 8.0, 6_001)
    shape = (len(grid), SLOTS)
    middles, widths = log_cells(grid, origins.expand(len(grid), -1))
    widths = torch.where(logs.isnan(), -1.0, widths)
    settler = Near(logs.expand(rows, -1), origins.expand(rows, -1), -4.0, 8.0)
    ends = [settler.all[0, :, k].nan_to_num().float().expand_as(middles) for k in (2, 3)]
    cells = Cells(
        torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long),
        grid[:, None].expand(shape), grid[:, None].expand(shape),
        torch.stack(
            [middles - logs.nan_to_num(), widths, torch.full_like(middles, np.log(Near.WIDTH)), *ends], dim=-1
        ),
    )  # fmt: skip
    with torch.no_grad():
        density = network._log_density(
            hidden.expand(len(network.valued), len(grid), -1), cells, guess.expand(len(grid), -1), None
        )[at].exp()
    learned = torch.cat([torch.zeros(1), torch.cumulative_trapezoid(density, grid)])
    assert float(learned[-1]) == pytest.approx(1.0, abs=0.03)
    tokens = torch.zeros(rows, SLOTS, dtype=torch.long)
    walk = drawing._Walk(
        network, torch.zeros(rows, 3), draws_of(rows), (tokens, torch.zeros(rows, SLOTS)), None, settler
    )
    walk._guesses = guess.expand(rows, -1)
    with torch.no_grad():
        mixture = walk._mixture(slot, hidden.expand(rows, -1), tokens[:, 0], slice(None), None, settler.all)
        drawn, _ = mixture.draw(Uniforms(walk._draws.components[:, slot]), Uniforms(walk._draws.values[:, slot]))
        places = grid[500:6_000:500]
        scored = [mixture.log_density(place.expand(rows))[0] for place in places]
    shares = (drawn[:, 0][None] <= grid[::100, None]).float().mean(dim=1)
    assert torch.allclose(shares, learned[::100] / learned[-1], atol=0.015)
    assert torch.allclose(torch.stack(scored), density[500:6_000:500].log(), atol=0.05)
    alone = torch.logsumexp(mixture._truncated.mass, dim=-1) - torch.logsumexp(mixture._near.mass, dim=-1)
    assert bool((alone < 3).all()), "the ratios count"


def test_ratios_are_cut_to_what_a_slot_can_hold() -> None:
    """In learning and in drawing: most of a component lies below the range, and the rest counts as if it were all."""
    torch.manual_seed(0)
    rows = 5_000
    layout = replace(LAYOUT, ratios=(2,))
    ranges = np.tile(np.array([-0.5, 8.0], np.float32), (SLOTS, 1))
    begins = np.array([[0.0]], np.float32), np.array([0.2], np.float32)
    network = TabularVAE(layout, SIZE, [None] * SLOTS, [None] * SLOTS, ranges, begins).eval()
    with torch.no_grad():
        network.ratio_out.weight.zero_()
        network.ratio_out.bias[..., 0] = 20.0
    settler = Near(torch.zeros(rows, 1), torch.full((rows, 1), -1.7), -0.5, 8.0)  # from -1.7 on: 1 is at -0.7
    tokens, values = cells_of(network, torch.zeros(rows, 3), draws_of(rows), settler)
    drawn = values[tokens[:, 2] == 0, 2]
    assert len(drawn) > 1_000
    assert bool((drawn >= -0.5).all())
    assert len(drawn.unique()) > len(drawn) * 0.9, "not heaped at the end"
    tokens = torch.zeros(1, SLOTS, dtype=torch.long)
    place = torch.full((1, SLOTS), -0.4)
    frame = settler.all[:1, :, :].float()
    middles, widths = log_cells(place[:, 2], torch.tensor([[-1.7]]))
    cell = torch.stack(
        [middles, widths, torch.full_like(middles, np.log(Near.WIDTH)), frame[..., 2], frame[..., 3]], -1
    )
    cells = Cells(tokens, tokens, place, place, cell)
    hidden, guess = torch.zeros(len(network.valued), 1, SIZE.hidden), torch.zeros(1, len(network.valued))
    with torch.no_grad():
        density = float(network._log_density(hidden, cells, guess, None)[network._valued_place[2], 0].exp())
    near = ((drawn > -0.45) & (drawn < -0.35)).float().mean() / 0.1
    assert density == pytest.approx(float(near), rel=0.1)


def test_bounded_values_are_not_drawn_by_ratios() -> None:
    torch.manual_seed(0)
    layout = replace(LAYOUT, ratios=(2,))
    ranges = np.tile(np.array([-4.0, 4.0], np.float32), (SLOTS, 1))
    begins = np.array([[0.0]], np.float32), np.array([0.05], np.float32)
    network = TabularVAE(layout, SIZE, [None] * SLOTS, [None] * SLOTS, ranges, begins).eval()
    with torch.no_grad():
        network.ratio_out.bias[..., 0] = 20.0  # nearly all values
    settler = Near(torch.zeros(2_000, 1), torch.full((2_000, 1), 0.5), -4.0, 4.0)
    drawn = []
    for limits in ({}, {2: Restriction(low=-0.5, high=0.25)}):
        tokens, values = cells_of(network, torch.zeros(2_000, 3), draws_of(2_000), settler, restrictions=limits)
        drawn.append(values[tokens[:, 2] == 0, 2])
    assert min(len(part) for part in drawn) > 300
    assert float((drawn[0] - 1.5).abs().median()) < 0.2
    assert bool(((drawn[1] >= -0.5) & (drawn[1] <= 0.25)).all())
    assert len(drawn[1].unique()) > 0.9 * len(drawn[1]), "not heaped at a bound"


def test_first_rows_do_not_depend_on_how_many_follow(network: TabularVAE) -> None:
    z, draws = torch.randn(300, 3), draws_of(300)
    every = cells_of(network, z, draws, Unsettled())
    few = cells_of(network, z[:100], draws.of(slice(100)), Unsettled())
    assert torch.equal(few[0], every[0][:100])
    assert torch.allclose(few[1], every[1][:100], atol=1e-5)


class Always:
    """Chooses the same of two cells everywhere, and remembers what it chose from."""

    def __init__(self, choice: int) -> None:
        self.choice = choice
        self.seen: list[tuple[Tensor, Tensor]] = []

    def choose(self, slot: int, tokens: Tensor, values: Tensor) -> Tensor:
        assert slot == len(self.seen)
        self.seen.append((tokens, values))
        return torch.full((len(tokens),), bool(self.choice))


class Rounded(Unsettled):
    """Settles values to tenths."""

    def settle(self, slot: int, tokens: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return tokens, (values * 10).round() / 10

    settled = settle


@pytest.mark.parametrize("choice", [0, 1])
def test_chosen_cells_are_the_rows_and_later_slots_see_them(network: TabularVAE, choice: int) -> None:
    z, choosing = torch.randn(300, 3), Always(choice)
    tokens, values = cells_of(network, z, draws_of(300), Rounded(), choosing=choosing)
    assert len(choosing.seen) == SLOTS
    for slot, seen in enumerate(choosing.seen):
        assert torch.equal(seen[0][:, choice], tokens[:, slot])
        assert torch.equal(seen[1][:, choice], values[:, slot]), "what is chosen from is settled"
    if choice == 0:
        alone = cells_of(network, z, draws_of(300), Rounded())
        assert torch.equal(alone[0], tokens)
        assert torch.allclose(alone[1], values, atol=1e-5)


def test_either_of_two_cells_is_one_that_the_network_draws(network: TabularVAE) -> None:
    rows = 20_000
    z = torch.randn(rows, 3)
    one, other = (
        cells_of(network, z, draws_of(rows), Unsettled(), spread=True, choosing=Always(choice)) for choice in (0, 1)
    )
    for slot, n in enumerate(LAYOUT.n_tokens):
        shares = [torch.bincount(part[0][:, slot], minlength=n) / rows for part in (one, other)]
        assert torch.allclose(*shares, atol=0.02), f"slot {slot}"
    carries = [part[1][part[0][:, 2] == 0, 2] for part in (one, other)]
    assert torch.allclose(*(part.quantile(torch.linspace(0.1, 0.9, 9)) for part in carries), atol=0.06)
    assert float((one[0][:, 1] != other[0][:, 1]).float().mean()) > 0.3


def test_given_cells_weigh_what_was_proposed(network: TabularVAE) -> None:
    """Of rows with given cells, kept by their weights, the others are as in rows that happen to have these cells."""
    rows, given = 120_000, torch.zeros(1, SLOTS, dtype=torch.bool)
    given[0, 4] = True  # after slots 0 to 3, which must suit it
    free, values = cells_of(network, torch.randn(rows, 3), draws_of(rows), Unsettled())
    token = int(free[:, 4].mode().values)
    like = free[:, 4] == token
    assert int(like.sum()) > 2_000
    drawn = generate(
        network, torch.randn(rows, 3), draws_of(rows, seed=1), Unsettled(),
        given=Given(given.expand(rows, -1), torch.full((rows, SLOTS), token), torch.zeros(rows, SLOTS)),
    )  # fmt: skip
    assert set(drawn.tokens[:, 4].tolist()) == {token}
    weights = drawn.log_weights.softmax(dim=0)
    assert 1 / float((weights**2).sum()) > 500, "rows that count"
    for slot in (0, 1, 2, 3, 5):
        n = LAYOUT.n_tokens[slot]
        expected = torch.bincount(free[like, slot], minlength=n) / like.sum()
        weighed = torch.zeros(n).index_add(0, drawn.tokens[:, slot], weights)
        assert float((weighed - expected).abs().sum()) / 2 < 0.06, f"slot {slot}"
    carries = like & (free[:, 2] == 0)
    own = drawn.tokens[:, 2] == 0
    mean = float((drawn.values[own, 2] * weights[own]).sum() / weights[own].sum())
    assert mean == pytest.approx(float(values[carries, 2].mean()), abs=0.1)


def test_links_of_given_cells_say_nothing(network: TabularVAE) -> None:
    class Linked(Unsettled):
        def is_linked(self, slot: int) -> bool:
            return slot == 3

    cells, only = some_cells(), torch.zeros(ROWS, SLOTS, dtype=torch.bool)
    only[:, 3] = True
    z, draws = torch.randn(ROWS, 3), draws_of(ROWS)
    some, none = (generate(network, z, draws, s, given=known(cells, only)) for s in (Unsettled(), Linked()))
    assert torch.equal(some.tokens, none.tokens)
    assert not torch.equal(some.log_weights, none.log_weights)


# ---------------------------------------------------------------- densities and rates


@pytest.mark.parametrize("width", [0.0, 0.05])
def test_density_integrates_to_one(network: TabularVAE, width: float) -> None:
    """Over all values, and as a mean over cells of any width."""
    steps, ends = 160_001, 160.0
    grid = torch.linspace(-ends, ends, steps)
    n = len(network.valued)
    hidden = torch.randn(n, 1, SIZE.hidden, generator=torch.Generator().manual_seed(5)).expand(n, steps, SIZE.hidden)
    tokens = torch.zeros(steps, SLOTS, dtype=torch.long)
    low = (grid - width / 2).unsqueeze(1).expand(-1, SLOTS)
    guesses = torch.tensor([0.7, -0.3, 0.0]).expand(steps, n)
    density = network._log_density(hidden, Cells(tokens, tokens, low, low + width), guesses, None).exp()
    assert torch.allclose(density.sum(dim=1) * (2 * ends / (steps - 1)), torch.ones(n), atol=1e-2)


def test_probabilities_of_tokens_sum_to_one(network: TabularVAE) -> None:
    cells, z = some_cells(), torch.randn(ROWS, 3)
    hidden = whole_pass(network, z, cells, masks("none"))
    for slot in range(SLOTS):
        logits = network.token_logits(slot, hidden[slot], cells.tokens)
        assert logits.shape == (ROWS, LAYOUT.n_tokens[slot])
        assert torch.allclose(logits.softmax(dim=1).sum(dim=1), torch.ones(ROWS), atol=1e-5)


def test_rate_is_held_by_free_bits(network: TabularVAE) -> None:
    cells, noise, none = some_cells(), torch.zeros(ROWS, 3), masks("none")
    network.requires_grad_(False)
    free, _ = network.negative_elbo(cells, none, free_bits=100.0, noise=noise)
    paid, rate = network.negative_elbo(cells, none, free_bits=0.0, noise=noise)
    assert float(free - paid) == pytest.approx(300.0 - float(rate), rel=1e-4)
    half = none.clone()
    half[::2, 0] = True  # rows with given cells have no rate
    free, _ = network.negative_elbo(cells, half, free_bits=100.0, noise=noise)
    paid, rate = network.negative_elbo(cells, half, free_bits=0.0, noise=noise)
    assert float(free - paid) == pytest.approx((300.0 - float(rate)) / 2, rel=1e-4)


def test_prices_of_the_rate(network: TabularVAE) -> None:
    """beta prices what is not free, tc the total correlation of rows without given cells; 1 and 0 change nothing."""
    cells, half = some_cells(), masks("none")
    half[::2, 0] = True
    network.requires_grad_(False)
    noise = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(4))

    def loss(given: Tensor, free_bits: float = 0.0, **prices: float) -> float:
        return float(network.negative_elbo(cells, given, free_bits=free_bits, noise=noise, **prices)[0])

    assert loss(half, beta=1.0, tc=0.0) == loss(half)
    none = masks("none")
    _, rate = network.negative_elbo(cells, none, free_bits=0.0, noise=noise)
    assert loss(none, beta=3.0) - loss(none) == pytest.approx(2 * float(rate), rel=1e-3)
    assert loss(none, 100.0, beta=3.0) - loss(none, 100.0) == pytest.approx(2 * 300.0, rel=1e-3), "a floor of the rate"
    mean, log_variance = (part[1::2] for part in network.encode(cells))
    z = mean + noise[1::2] * (0.5 * log_variance).exp()
    shared = float(total_correlation(z, mean, log_variance))
    assert loss(half, tc=50.0) - loss(half) == pytest.approx(50 * shared / 2, rel=1e-2)
    every = torch.ones_like(half)
    assert loss(every, tc=5.0) == loss(every)


def test_links_are_predicted_but_seen_as_the_cells_they_make(network: TabularVAE) -> None:
    cells, noise, none = some_cells(), torch.zeros(ROWS, 3), masks("none")
    network.requires_grad_(False)
    own = replace(cells, targets=cells.tokens)
    assert torch.equal(network.encode(cells)[0], network.encode(own)[0])
    z = torch.randn(ROWS, 3)
    assert torch.equal(whole_pass(network, z, cells, none), whole_pass(network, z, own, none))
    # What a link makes of a cell is no value of its own: it is computed, so its density is not learned.
    is_link = (cells.targets != cells.tokens).float()
    moved = replace(cells, low=cells.low + is_link, high=cells.high + is_link)
    hidden, guesses = whole_pass(network, z, cells, none), torch.zeros(ROWS, len(network.valued))
    scores = [network._reconstruction(hidden, one, guesses, ~none, None) for one in (cells, moved, own)]
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])
    linked, _ = network.negative_elbo(cells, none, free_bits=0.0, noise=noise)
    unlinked, _ = network.negative_elbo(own, none, free_bits=0.0, noise=noise)
    assert float(linked) != float(unlinked)


def test_every_weight_is_learned(network: TabularVAE) -> None:
    network.train()
    loss, _ = network.negative_elbo(some_cells(), masks("each"), free_bits=0.0)
    loss.backward()  # type: ignore[no-untyped-call]
    idle = [name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert idle == []
    assert not {"additive", "prior_5"} & {name.split(".")[0] for name, _ in network.named_parameters()}
