"""Rows left out of a surplus: pairs as in the training rows, and nothing kept of few of them."""

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
from tabvae_core.models.pairs import PairShares, Selection
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
    counts = np.bincount(known.cells_of(known.codes(*rows)).numpy().ravel(), minlength=len(known.shares))
    expected = known.shares * len(rows[0])
    return float(((counts - expected) ** 2 / np.maximum(expected, 0.5)).sum())


@pytest.fixture(scope="module")
def known() -> PairShares:
    return counted(drawn(20_000, 0))


def selection(known: PairShares, first_row: int = 0, block: int = 0) -> Selection:
    return Selection(known, first_row, 3, torch.Generator().manual_seed(block))


@pytest.mark.parametrize("slope", [0.1, 0.12], ids=["by chance", "and a model that errs"])
def test_pairs_of_kept_rows_are_nearer_to_the_training_rows(known: PairShares, slope: float) -> None:
    rows = drawn(6_144, 1, slope)
    kept = selection(known).keep(*rows, 4_096)
    assert kept.sum() == 4_096
    some = misfit(known, (rows[0][:4_096], rows[1][:4_096]))
    assert misfit(known, (rows[0][kept], rows[1][kept])) < 0.7 * some


def test_a_slots_own_shares_come_first(known: PairShares) -> None:
    tokens, values = drawn(6_144, 1)
    tokens[:700, 0] = 2
    kept = selection(known).keep(tokens, values, 4_096)
    assert (tokens[:, 0] == 2).mean() > 0.19
    assert (tokens[kept, 0] == 2).mean() == pytest.approx(0.1, abs=0.01)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=4), st.integers(0, 200), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_any_group_keeps_as_many_rows_as_are_wanted(
    known: PairShares, groups: list[int], surplus: int, seed: int
) -> None:
    one, again = selection(known), selection(known)
    for wanted in groups:
        rows = drawn(wanted + surplus, seed)
        kept = one.keep(*rows, wanted)
        assert kept.shape == (wanted + surplus,)
        assert kept.sum() == wanted
        np.testing.assert_array_equal(kept, again.keep(*rows, wanted))


def test_small_groups_make_up_for_each_other(known: PairShares) -> None:
    one, rows = selection(known), [drawn(192, seed) for seed in range(32)]
    kept = [one.keep(*some, 128) for some in rows]
    together = tuple(np.concatenate([some[k][m] for some, m in zip(rows, kept, strict=True)]) for k in (0, 1))
    alone = [selection(known).keep(*some, 128) for some in rows]
    apart = tuple(np.concatenate([some[k][m] for some, m in zip(rows, alone, strict=True)]) for k in (0, 1))
    assert misfit(known, (together[0], together[1])) < 0.6 * misfit(known, (apart[0], apart[1]))


def test_rows_that_are_rarer_than_one_a_block_come_in_as_many_blocks_as_they_should() -> None:
    tokens, middle = drawn(20_000, 0)
    tokens[:, 1] %= 10
    rare = np.arange(20_000) % 1_600 == 0  # 13 rows: two in three blocks
    tokens[rare, 1] = 49
    known = counted((tokens, middle))
    found = 0
    for block in range(25):
        some, values = drawn(2_048, block + 1)
        some[:, 1] %= 10
        some[::200, 1] = 49
        kept = selection(known, block * 1_024, block).keep(some, values, 1_024)
        found += int((some[kept, 1] == 49).sum())
    assert found == pytest.approx(25 * 1_024 / 1_600, abs=4)


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
    rows = drawn(500, 7)
    again = PairShares.from_arrays({name: part.copy() for name, part in known.arrays().items()})
    np.testing.assert_array_equal(selection(again).keep(*rows, 400), selection(known).keep(*rows, 400))


# In the method -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampled() -> Callable[[float, int], pa.Table]:
    table = people(2_000)

    def sample(surplus: float, rows: int) -> pa.Table:
        options = {"members": 1, "surplus": surplus}
        return VAESynthesizer(ModelSpec(method="vae", epochs=2, options=options)).fit(table).sample(rows, seed=1)

    return sample


def test_a_surplus_brings_pairs_nearer(sampled: Callable[[float, int], pa.Table]) -> None:
    real = people(2_000).to_pandas()
    names = [name for name in real if real[name].nunique() <= 10]
    assert len(names) >= 2

    def shares(table: pa.Table) -> npt.NDArray[np.float64]:
        frame = table.to_pandas()
        both = (real.assign(of="real"), frame.assign(of="made"))
        found = []
        for i, one in enumerate(names):
            for other in names[:i]:
                parts = [part.groupby([one, other], observed=True).size() / len(part) for part in both]
                found.append(float(parts[0].sub(parts[1], fill_value=0).abs().sum()))
        return np.array(found)

    without, with_surplus = shares(sampled(0.0, 2_000)), shares(sampled(0.5, 2_000))
    assert with_surplus.sum() < 0.8 * without.sum()
