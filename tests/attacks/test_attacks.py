"""Attacks catch a table that remembers rows, and leave an honest one alone."""

from __future__ import annotations

from functools import cache

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture

from arrow_tables import ALL_TYPES, column
from tabvae_core.errors import DataError
from tabvae_core.gates import gate_attacks
from tabvae_core.inference import infer_schema
from tabvae_core.privacy import AttackResult, PrivacyFigures, attack, drawn_by, shadow_attack
from tabvae_core.privacy.intervals import risk
from tabvae_core.privacy.near_copies import NearCopies
from tabvae_core.progress import ProgressEvent
from tabvae_core.schema import TableSchema
from tabvae_core.spec import GateSpec, Kind, PrivacySpec
from tabvae_core.tables import InMemoryTable, take_rows
from tabvae_flows.customers import customers

ROWS = 2_000
ALL = PrivacySpec(min_category_rows=1, protect_extremes=1)


@cache
def world() -> pa.Table:
    """Rows of one population: sides of a split are taken from it."""
    return customers(4 * ROWS, seed=3)


@cache
def schema() -> TableSchema:
    return infer_schema(InMemoryTable(world()), privacy=ALL)


def sides(seed: int) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Training rows, held-out rows, and fresh rows that an honest table could consist of."""
    order = np.random.default_rng(seed).permutation(4 * ROWS)
    return tuple(world().take(part) for part in np.split(order[: 3 * ROWS], 3))  # type: ignore[return-value]


def with_noise(table: pa.Table, seed: int) -> pa.Table:
    """The table with each number moved by a thousandth: what a model that learned by heart would draw."""
    rng = np.random.default_rng(seed)
    for name in ("income", "age"):
        values = table[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
        moved = pa.array(values * (1 + 0.001 * rng.standard_normal(len(values))), from_pandas=True)
        kind = table.schema.field(name).type
        table = table.set_column(table.schema.get_field_index(name), name, moved.cast(kind, safe=False))
    return table


def run(train: pa.Table, holdout: pa.Table, synthetic: pa.Table, seed: int = 0) -> PrivacyFigures:
    return attack(train, holdout, synthetic, schema(), seed=seed)


def refused(figures: PrivacyFigures) -> set[str]:
    return {gate.name for gate in gate_attacks(figures, GateSpec()) if not gate.passed}


def named(figures: PrivacyFigures, name: str) -> AttackResult:
    return next(result for result in figures.attacks if result.name == name)


# ---------------------------------------------------------------- what must be caught


def test_rows_learned_by_heart_are_caught_by_every_kind_of_attack() -> None:
    train, holdout, _ = sides(0)
    found = run(train, holdout, with_noise(train, 1))
    caught = refused(found)
    for name in ("membership_distance", "membership_density", "linkability", "memorised_values", "rare_near_copies"):
        assert f"attack: {name}" in caught, name
    strongest = found.strongest_membership
    assert strongest is not None
    assert strongest.auc is not None
    assert strongest.auc.low > 0.9
    assert "attack: singling_out_multivariate" in caught
    assert "attack: attribute_inference" in caught


@pytest.mark.parametrize("seed", range(4))
def test_five_percent_of_copied_rows_are_caught(seed: int) -> None:
    """Power: in every one of these splits, by the rows that the attack itself is surest of, and by rare copies."""
    train, holdout, fresh = sides(seed)
    copied = ROWS // 20
    found = run(train, holdout, pa.concat_tables([fresh.slice(copied), train.slice(0, copied)]), seed)
    caught = refused(found)
    assert "attack: membership_density exposed" in caught
    assert named(found, "membership_density").exposed.value > 0.6  # type: ignore[union-attr]
    assert named(found, "rare_copies").attack_rate > 0  # type: ignore[operator]


@pytest.mark.parametrize(("components", "caught"), [(300, True), (4, False)])
def test_a_model_too_large_for_its_rows_is_caught_and_one_of_the_right_size_is_not(
    components: int, caught: bool
) -> None:
    """A mixture of normals, fitted to 400 rows: with 300 components it learns them by heart, with 4 it does not."""
    rng = np.random.default_rng(0)
    groups = rng.normal(scale=3, size=(4, 5))
    real = groups[rng.integers(4, size=1200)] + rng.normal(size=(1200, 5))
    model = GaussianMixture(components, covariance_type="spherical", random_state=0, max_iter=50).fit(real[:400])
    drawn = model.sample(2000)[0]
    train, holdout, synthetic = (
        pa.table({f"x{k}": rows[:, k] for k in range(5)}) for rows in (real[:400], real[400:], drawn)
    )
    found = attack(train, holdout, synthetic, infer_schema(InMemoryTable(train), privacy=ALL))
    membership = {f"attack: {name}" for name in ("membership_distance", "membership_density")}
    assert bool(membership & refused(found)) == caught
    assert bool(refused(found)) == caught


def test_a_table_that_keeps_away_from_training_rows_is_caught_as_well() -> None:
    """What a filter leaves: holes where training rows are tell as much as copies."""
    train, holdout, _ = sides(2)
    found = run(train, holdout, holdout)
    assert "attack: membership_distance" in refused(found)
    assert named(found, "membership_distance").auc.high < 0.5  # type: ignore[union-attr]


# ---------------------------------------------------------------- what must not


@pytest.mark.parametrize("seed", range(6))
def test_honest_rows_are_never_refused(seed: int) -> None:
    assert not refused(run(*sides(seed), seed=seed))


def test_intervals_hold_their_level() -> None:
    """Of honest tables, about 5 % of intervals may lie beyond no advantage; over 60 of them chance allows few more."""
    beyond = trials = 0
    for seed in range(10, 16):
        for result in run(*sides(seed), seed=seed).attacks:
            if result.advantage is not None:
                trials += 1
                beyond += not result.advantage.low <= 0 <= result.advantage.high
    assert trials >= 45
    assert beyond <= 8


def test_what_a_row_holds_in_many_columns_counts_once() -> None:
    """Honest tables whose columns all follow one number: a value that is met by chance is met in every column."""

    def table(rng: np.random.Generator) -> pa.Table:
        number = rng.integers(0, 120, 120)
        return pa.table({f"n{k}": number * (k + 1) + k for k in range(25)})

    beyond = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        train, holdout, fresh = (table(rng) for _ in range(3))
        kinds = infer_schema(InMemoryTable(train), privacy=ALL)
        found = named(attack(train, holdout, fresh, kinds, seed=seed), "memorised_values").advantage
        assert found is not None
        beyond += not found.low <= 0 <= found.high
    assert beyond <= 5, "about 2 of 40; counting each value gives 25"


@given(st.lists(st.booleans(), min_size=2, max_size=40), st.integers(1, 9), st.integers(0, 99))
def test_guesses_that_are_all_alike_about_a_row_are_worth_one(rows: list[bool], times: int, seed: int) -> None:
    several, one = np.repeat(np.array(rows), times), np.array(rows)
    control, about = np.arange(30) % 3 == 0, np.repeat(np.arange(len(rows)), times)
    order = np.random.default_rng(seed).permutation(len(several))
    found = risk(several[order], control, (about[order], np.arange(30)))
    expected = risk(one, control, (np.arange(len(one)), np.arange(30)))
    assert (found.value, found.low, found.high) == pytest.approx(
        (expected.value, expected.low, expected.high), abs=1e-5
    )
    plain = risk(one, control)
    slack = 1 / len(rows) + 1 / 30  # the sample variance has one degree of freedom less
    assert abs((expected.high - expected.low) / (plain.high - plain.low) - 1) < slack


# ---------------------------------------------------------------- how it is told


def test_same_tables_and_seed_give_the_same_figures_and_progress_is_told() -> None:
    events: list[ProgressEvent] = []
    train, holdout, fresh = sides(3)
    first = attack(train, holdout, fresh, schema(), seed=1, progress=events.append)
    assert first == run(train, holdout, fresh, seed=1)
    assert first != run(train, holdout, fresh, seed=2)
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert events[-1].done == events[-1].total
    assert PrivacyFigures.model_validate_json(first.model_dump_json()) == first


def test_too_few_rows_are_said_to_be_too_few() -> None:
    train, holdout, fresh = sides(0)
    found = run(train, holdout.slice(0, 10), fresh)
    assert not found.attacks
    assert found.notes
    assert not gate_attacks(found, GateSpec())


def test_memorised_text_is_named_by_its_column() -> None:
    rng = np.random.default_rng(0)

    def notes(prefix: str) -> pa.Table:
        return pa.table({"note": [f"{prefix} {k}" for k in range(ROWS)], "n": rng.normal(size=ROWS)})

    train, holdout, fresh = (notes(prefix) for prefix in ("a", "b", "c"))
    kinds = infer_schema(InMemoryTable(train), privacy=ALL)
    texts = kinds.model_copy(
        update={
            "columns": tuple(c.model_copy(update={"kind": Kind.TEXT}) if c.name == "note" else c for c in kinds.columns)
        }
    )
    leaky = pa.table({"note": pa.concat_arrays([*train["note"].chunks])[: ROWS // 2], "n": fresh["n"][: ROWS // 2]})
    found = attack(train, holdout, leaky, texts)
    gates = [gate for gate in gate_attacks(found, GateSpec()) if not gate.passed]
    assert [gate.column for gate in gates if gate.column is not None] == ["note"]
    assert not any(value in gate.detail for gate in gates for value in ("a 1", "b 1"))


def test_shadow_models_tell_members_of_an_overfitted_table() -> None:
    train, holdout, fresh = sides(0)
    names = [column.name for column in schema().columns if column.kind in (Kind.NUMBER, Kind.CATEGORY, Kind.BOOLEAN)]
    train, holdout, fresh = (table.select(names).slice(0, 900) for table in (train, holdout, fresh))
    kinds = infer_schema(InMemoryTable(train), privacy=ALL)

    def by_heart(learned: pa.Table, seed: int, rows: int) -> pa.Table:
        return with_noise(learned.take(np.random.default_rng(seed).integers(learned.num_rows, size=rows)), seed)

    leaky, honest = (
        shadow_attack(train, holdout, table, kinds, draw=by_heart, method="by heart", shadows=4)
        for table in (by_heart(train, 9, 900), fresh)
    )
    assert leaky.auc is not None
    assert honest.auc is not None
    assert leaky.auc.low > 0.6
    assert honest.auc.low < 0.55


def test_shadow_models_can_be_any_method() -> None:
    """The command's way: models of the registry, trained on reference rows and half of the targets."""
    rows = world().select(["age", "income", "segment"])
    train, holdout, fresh = (rows.slice(k * 300, 300) for k in range(3))
    kinds = infer_schema(InMemoryTable(train), privacy=ALL)
    found = shadow_attack(
        train, holdout, fresh, kinds, draw=drawn_by("gaussian_copula", kinds), method="gaussian_copula", shadows=4
    )
    assert found.auc is not None
    assert found.auc.low < 0.55, "neither the table nor the shadow models remember a row"
    assert "gaussian_copula" in found.knows
    with pytest.raises(DataError, match="too few held-out rows"):
        shadow_attack(train, holdout.slice(0, 50), fresh, kinds, draw=drawn_by("gaussian_copula", kinds), method="x")


def test_every_arrow_type_can_be_attacked_and_filtered() -> None:
    rng = np.random.default_rng(0)
    shapes = [(kind, shape) for kind in ALL_TYPES for shape in ("free", "nulls")]
    table = pa.table({f"c{k}": column(kind, 180, shape, rng) for k, (kind, shape) in enumerate(shapes)})
    train, holdout, drawn = (take_rows(table, np.arange(at, at + 60)) for at in (0, 60, 120))
    kinds = infer_schema(InMemoryTable(train), privacy=ALL)
    found = attack(train, holdout, drawn, kinds)
    assert found.members == 30
    assert {result.name for result in found.attacks} >= {"linkability", "memorised_values", "rare_copies"}
    near = NearCopies.fit(InMemoryTable(train), kinds)
    assert not near.evaluate(train).to_numpy(zero_copy_only=False).any()
    assert near.evaluate(drawn).to_numpy(zero_copy_only=False).all()
