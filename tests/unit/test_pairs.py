"""Which of two cells is kept: pairs as in the training rows, and nothing known of few of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tables_made import people
from tabvae_core.errors import SpecError
from tabvae_core.models.pairs import Balance, PairShares
from tabvae_core.spec import ModelSpec
from tabvae_core.synthesizers.vae import VAESynthesizer

# A number that is mostly 0, sometimes null; a category of many members; a number that goes with it.
LEVELS, N_TOKENS = (1, 0, 1), (3, 50, 1)
TOKEN_VALUES = [np.array([np.nan, 0.0, np.nan], np.float32), None, None]
CELL = 0.01
LEAST = 10

Rows = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]


def drawn(rows: int, seed: int, slope: float = 0.1) -> Rows:
    """Tokens, and middles of values; the smaller the slope, the less pairs have to do with each other."""
    rng = np.random.default_rng(seed)
    spike = rng.choice(3, rows, p=[0.3, 0.6, 0.1])
    member = np.minimum(rng.geometric(0.2, rows) - 1, 49)
    middle = np.zeros((rows, 3), np.float32)
    middle[:, 0] = np.where(spike == 0, rng.exponential(1, rows) + 0.1, 0)
    middle[:, 2] = rng.normal(0, 1, rows) + slope * member + slope * 5 * (spike == 1)
    middle = (np.floor(middle / CELL) + 0.5) * CELL
    return np.stack([spike, member, np.zeros(rows)], axis=1).astype(np.int32), middle.astype(np.float32)


def counted(rows: Rows, least: int = LEAST) -> PairShares:
    tokens, middle = rows
    return PairShares.fit(tokens, middle - CELL / 2, middle + CELL / 2, LEVELS, TOKEN_VALUES, N_TOKENS, least)


def misfit(known: PairShares, rows: Rows) -> float:
    """Chi-squared of the pairs of rows."""
    codes, total = known.codes(*rows), 0.0
    for slot in range(3):
        pairs = known.after(range(slot), slot)
        cells = pairs.cells(known, codes[:, :slot], codes[:, slot])
        counts = np.bincount(cells.ravel(), minlength=len(pairs.counted))
        expected = pairs.shares * len(codes)
        total += float(((counts - expected) ** 2 / np.maximum(expected, 0.5)).sum())
    return total


@pytest.fixture(scope="module")
def known() -> PairShares:
    return counted(drawn(20_000, 0))


ORDERS = ((0, 1, 2), (1, 0, 2))


def balance(known: PairShares, first_row: int = 0, block: int = 0) -> Balance:
    return Balance(known, first_row, 3, torch.Generator().manual_seed(block), ORDERS)


def chosen(one: Balance, rows: int, seed: int, slope: float = 0.1, order: int = 0, last: float = 0.1) -> Rows:
    """Rows of which each cell was chosen of two, as a network would draw them after the cells before."""
    rng, walk = np.random.default_rng(seed), one.walk(rows, order)
    tokens, values = np.zeros((rows, 3), np.int32), np.zeros((rows, 3), np.float32)
    for slot, place in enumerate(ORDERS[order]):
        own, z = np.zeros((rows, 2), np.int64), np.zeros((rows, 2))
        if place == 0:
            own = rng.choice(3, (rows, 2), p=[0.4 - last, 0.6, last])
            z = np.where(own == 0, rng.exponential(1, (rows, 2)) + 0.1, 0)
        elif place == 1:
            own = np.minimum(rng.geometric(0.2, (rows, 2)) - 1, 49)
        else:
            mean = slope * tokens[:, 1] + slope * 5 * (tokens[:, 0] == 1)
            z = rng.normal(0, 1, (rows, 2)) + mean[:, None]
        z = ((np.floor(z / CELL) + 0.5) * CELL).astype(np.float32)
        second = walk.choose(slot, torch.from_numpy(own), torch.from_numpy(z)).numpy().astype(np.int64)
        assert second.shape == (rows,)
        tokens[:, place], values[:, place] = own[np.arange(rows), second], z[np.arange(rows), second]
    return tokens, values


def joined(parts: list[Rows]) -> Rows:
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


@pytest.mark.parametrize("slope", [0.1, 0.12], ids=["by chance", "and a model that errs"])
def test_pairs_are_nearer_to_the_training_rows(known: PairShares, slope: float) -> None:
    some = misfit(known, drawn(4_096, 1, slope))
    assert misfit(known, chosen(balance(known), 4_096, 1, slope)) < 0.5 * some


def test_rows_of_members_with_orders_of_their_own_make_up_for_each_other(known: PairShares) -> None:
    def both(together: bool) -> Rows:
        one = balance(known)
        other = one if together else balance(known)
        return joined([chosen(one, 2_048, 1), chosen(other, 2_048, 2, order=1)])

    assert misfit(known, both(True)) < 0.8 * misfit(known, both(False))


def test_a_slots_own_shares_come_first(known: PairShares) -> None:
    """The model draws 0.15 where 0.1 are wanted."""
    tokens, _ = chosen(balance(known), 4_096, 1, last=0.15)
    assert (tokens[:, 0] == 2).mean() == pytest.approx(0.1, abs=0.01)


def test_only_cells_of_different_codes_are_exchanged(known: PairShares) -> None:
    """Within a bin nothing is known, and the first is as good."""
    values = torch.tensor([[0.001, 0.002]]).repeat(4_096, 1)
    codes = known.codes_of(2, np.zeros((1, 2), np.int64), values[:1].numpy())
    assert codes[0, 0] == codes[0, 1]
    walk = Balance(known, 0, 3, torch.Generator().manual_seed(0), [(2, 0, 1)]).walk(4_096, 0)
    assert not walk.choose(0, torch.zeros(4_096, 2, dtype=torch.long), values).any()


@given(st.lists(st.integers(1, 300), min_size=1, max_size=4), st.integers(0, 1), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_groups_of_any_size_are_drawn_the_same_again(
    known: PairShares, groups: list[int], order: int, seed: int
) -> None:
    one, again = balance(known), balance(known)
    for rows in groups:
        tokens, values = chosen(one, rows, seed, order=order)
        other = chosen(again, rows, seed, order=order)
        np.testing.assert_array_equal(tokens, other[0])
        np.testing.assert_array_equal(values, other[1])


def test_small_groups_make_up_for_each_other(known: PairShares) -> None:
    one = balance(known)
    together = joined([chosen(one, 128, seed) for seed in range(32)])
    apart = joined([chosen(balance(known), 128, seed) for seed in range(32)])
    assert misfit(known, together) < 0.6 * misfit(known, apart)


def test_few_rows_do_not_all_move_to_the_same_cells(known: PairShares) -> None:
    """Of a hundred rows at once each would make up for what all lack."""
    some, by_chance = (
        np.mean([misfit(known, rows(seed)) for seed in range(20)])
        for rows in (lambda seed: chosen(balance(known), 100, seed), lambda seed: drawn(100, seed))
    )
    assert some < 0.8 * by_chance


def test_rows_that_are_rarer_than_one_a_block_come_in_as_many_blocks_as_they_should() -> None:
    tokens, middle = drawn(20_000, 0)
    rare = np.arange(20_000) % 1_600 == 0  # 13 rows: two in three blocks
    tokens[:, 1] %= 10
    tokens[rare, 1] = 49
    known, found, rng = counted((tokens, middle)), 0, np.random.default_rng(5)
    for block in range(25):
        walk = Balance(known, block * 1_024, 3, torch.Generator().manual_seed(block), ((1, 0, 2),)).walk(1_024, 0)
        own = np.where(rng.random((1_024, 2)) < 0.004, 49, (rng.geometric(0.2, (1_024, 2)) - 1) % 10)
        second = walk.choose(0, torch.from_numpy(own), torch.zeros(1_024, 2)).numpy()
        found += int((own[np.arange(1_024), second.astype(np.int64)] == 49).sum())
    assert found == pytest.approx(25 * 1_024 / 1_600, abs=4), "of 100 that are drawn"


@pytest.mark.parametrize("rows", [30, 300, 20_000])
def test_nothing_is_known_of_few_rows(rows: int) -> None:
    known = counted(drawn(rows, 0))
    counts = known.shares * rows
    few = (counts > 0) & (counts < LEAST)
    # Beside cells that enough rows are in there are those of all others, pair by pair: of few, just that they are few.
    assert (np.isclose(counts[few], LEAST / 2)).all()
    numbers = np.sort(drawn(rows, 0)[1][:, 2])
    edges = known.edges[2][np.isfinite(known.edges[2])]
    assert len(edges) >= 3
    assert numbers[0] + CELL < edges[0]
    assert edges[-1] < numbers[-1] - CELL


@given(at=st.floats(-0.499, 0.499), seed=st.integers(0, 20))
@settings(deadline=None, max_examples=30)
def test_where_a_value_lies_in_its_cell_does_not_matter(known: PairShares, at: float, seed: int) -> None:
    tokens, middle = drawn(200, seed)
    moved = (middle + at * CELL).astype(np.float32)
    np.testing.assert_array_equal(known.codes(tokens, middle), known.codes(tokens, moved))


def test_zeros_are_where_they_belong_among_numbers_and_nulls_are_apart(known: PairShares) -> None:
    def code(token: int, value: float) -> int:
        tokens, values = np.array([[token, 0, 0]], np.int32), np.array([[value, 0.0, 0.0]], np.float32)
        return int(known.codes(tokens, values)[0, 0])

    assert code(1, 0.0) < code(0, 0.5) < code(0, 2.0)
    assert code(2, 0.0) not in {code(1, 0.0), code(0, 0.5), code(0, 2.0)}


def test_rare_members_of_a_category_are_one(known: PairShares) -> None:
    tokens = np.zeros((50, 3), np.int32)
    tokens[:, 1] = np.arange(50)
    codes = known.codes(tokens, np.zeros((50, 3), np.float32))[:, 1]
    assert len(set(codes[:10])) == 10
    assert len(set(codes[40:])) == 1


def test_arrays_are_all_there_is(known: PairShares) -> None:
    arrays = {name: part.copy() for name, part in known.arrays().items()}
    for stored in (arrays, arrays | {"weights": np.ones(3, np.float32)}):  # bundles of old hold one more
        again = PairShares.from_arrays(stored)
        np.testing.assert_array_equal(chosen(balance(again), 500, 7)[0], chosen(balance(known), 500, 7)[0])


# In the method -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampled() -> Callable[[int], pa.Table]:
    table = people(2_000)

    def sample(choices: int) -> pa.Table:
        options = {"members": 1, "choices": choices}
        return VAESynthesizer(ModelSpec(method="vae", epochs=2, options=options)).fit(table).sample(2_000, seed=1)

    return sample


def test_two_choices_bring_pairs_nearer(sampled: Callable[[int], pa.Table]) -> None:
    real = people(2_000).to_pandas()
    names = [name for name in real if real[name].nunique() <= 10]
    assert len(names) >= 2

    def misfits(table: pa.Table) -> float:
        both, total = (real, table.to_pandas()), 0.0
        for i, one in enumerate(names):
            for other in names[:i]:
                parts = [part.groupby([one, other], observed=True).size() / len(part) for part in both]
                total += float(parts[0].sub(parts[1], fill_value=0).abs().sum())
        return total

    assert misfits(sampled(2)) < 0.8 * misfits(sampled(1))


@pytest.mark.parametrize("choices", [0, 3, 1.5, float("inf")])
def test_other_numbers_of_choices_are_refused(choices: float) -> None:
    with pytest.raises(SpecError, match=r"model\.options\.choices"):
        VAESynthesizer(ModelSpec(method="vae", options={"choices": choices}))
