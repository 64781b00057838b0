"""What rows of a rare class gain: more where they say something new, less where they are wrong, and never a cell."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from tabvae_core.evaluation.augmentation import augmentation, average_precision, missing_rows, of_class
from tabvae_core.evaluation.result import Augmentation
from tabvae_core.inference import infer_schema
from tabvae_core.tables import as_source

COLOURS = ["red", "green", "blue", None]


def rows_of(yes: int, no: int, seed: int, *, at: float = 1.5) -> pa.Table:
    """Rows of a class that lies at `at` in six noisy columns, and others around zero."""
    rng = np.random.default_rng(seed)
    y = np.repeat([True, False], [yes, no])
    x = rng.normal(size=(yes + no, 6)) + np.where(y, at, 0.0)[:, None] * [1, 1, 1, 0, 0, 0]
    columns = {f"x{k}": pa.array(x[:, k], mask=rng.random(yes + no) < 0.05) for k in range(6)}
    colour = [COLOURS[k] for k in np.where(rng.random(yes + no) < 0.5, y * 1, rng.integers(0, 4, yes + no))]
    return pa.table({"key": [f"K{seed}{k}" for k in range(yes + no)], **columns, "colour": colour, "y": y})


TRAIN, HOLDOUT = rows_of(25, 2500, 1), rows_of(150, 6000, 2)
SCHEMA = infer_schema(as_source(TRAIN))


def gain_of(synthetic: pa.Table, share: float = 0.3) -> Augmentation:
    found = augmentation(TRAIN, HOLDOUT, synthetic, SCHEMA, column="y", value=True, share=share)
    assert found is not None
    return found


def test_rows_that_say_something_new_help() -> None:
    found = gain_of(rows_of(2000, 100, 3))
    assert found.synthetic.low is not None
    assert found.synthetic.low > 0
    assert found.synthetic.gain == pytest.approx(
        found.synthetic.average_precision - found.real.average_precision, abs=1e-5
    )
    assert "helps" in found.sentence


def test_rows_of_another_place_harm() -> None:
    found = gain_of(rows_of(2000, 100, 3, at=0.0))
    assert found.synthetic.high is not None
    assert found.synthetic.high < 0
    assert "harms" in found.sentence


def test_copies_of_the_training_rows_make_no_difference() -> None:
    """They say nothing new: only weights change, which a ranking hardly feels."""
    rare = TRAIN.filter(TRAIN["y"])
    found = gain_of(pa.concat_tables([rare] * 4), share=0.03)
    assert found.synthetic.low is not None
    assert found.synthetic.high is not None
    assert found.synthetic.low < 0 < found.synthetic.high
    assert "no difference beyond chance" in found.sentence


def test_numbers_of_rows() -> None:
    found = gain_of(rows_of(2000, 100, 3), share=0.3)
    assert (found.real.rows, found.real.of_class) == (2525, 25)
    assert found.added == missing_rows(2525, 25, 0.3) == 1047
    assert found.synthetic.of_class / found.synthetic.rows == pytest.approx(0.3, abs=1e-3)
    assert (found.holdout_rows, found.holdout_of_class) == (6150, 150)
    few = gain_of(rows_of(40, 100, 3), share=0.3)
    assert few.added == 40, "no more than there are"
    assert gain_of(rows_of(40, 100, 3)) == few, "the same rows and seed give the same figures"


def test_nothing_is_said_of_a_handful_of_rows() -> None:
    made = rows_of(100, 10, 3)
    for train, holdout in ((TRAIN.slice(16), HOLDOUT), (TRAIN, HOLDOUT.slice(141))):
        assert augmentation(train, holdout, made, SCHEMA, column="y", value=True, share=0.3) is None
    assert augmentation(TRAIN, HOLDOUT, made.slice(100), SCHEMA, column="y", value=True, share=0.3) is None


@pytest.mark.skipif(find_spec("imblearn") is None, reason="SMOTE comes with tabvae[augment]")
@pytest.mark.parametrize("columns", [["x0", "x1", "colour", "y"], ["x0", "x1", "x2", "y"], ["colour", "y"]])
def test_smote_of_measures_categories_and_both(columns: list[str]) -> None:
    tables = [table.select(columns) for table in (TRAIN, HOLDOUT, rows_of(500, 10, 3))]
    schema = infer_schema(as_source(tables[0]))
    found = augmentation(*tables, schema, column="y", value=True, share=0.1)
    assert found is not None
    assert found.smote is not None
    assert (found.smote.rows, found.smote.of_class) == (found.synthetic.rows, found.synthetic.of_class)
    assert found.smote.low is not None
    assert found.smote.high is not None
    assert found.smote.low <= found.smote.high


@pytest.mark.parametrize("n", [1, 400])
@pytest.mark.parametrize("distinct", [2, 1000])
def test_average_precision_is_that_of_scikit_learn(n: int, distinct: int) -> None:
    rng = np.random.default_rng(n + distinct)
    truth, scores = rng.random(n) < 0.3, np.round(rng.random(n) * distinct) / distinct
    truth[0] = True
    weights = rng.integers(0, 3, n).astype(float)
    weights[0] = 1
    assert average_precision(truth, scores) == pytest.approx(average_precision_score(truth, scores))
    expected = average_precision_score(truth, scores, sample_weight=weights)
    assert average_precision(truth, scores, weights) == pytest.approx(expected)


def test_average_precision_without_the_class_is_not_a_number() -> None:
    assert np.isnan(average_precision(np.zeros(3, dtype=bool), np.arange(3.0)))


@settings(deadline=None)
@given(st.integers(1, 10**6), st.floats(0, 1), st.floats(0.001, 0.99))
def test_missing_rows_are_as_many_as_the_share_asks_for(rows: int, part: float, share: float) -> None:
    of_it = int(rows * part)
    added = missing_rows(rows, of_it, share)
    assert added >= 0
    assert (of_it + added) / (rows + added) >= share - 1e-9
    if added > 1:
        assert (of_it + added - 2) / (rows + added - 2) < share


def test_nulls_are_of_no_class() -> None:
    table = pa.table({"c": pa.array(["a", None, "b"]).dictionary_encode()})
    assert of_class(table, "c", "a").tolist() == [True, False, False]
