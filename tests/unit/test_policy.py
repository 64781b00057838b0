"""Train anew or sample anew, and where the decision is seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tables_made import people
from tabvae_core import policy, release, steps
from tabvae_core.errors import GateRefused
from tabvae_core.progress import ProgressEvent
from tabvae_core.references import ReleaseRef
from tabvae_core.spec import RefreshSpec, parse_spec

LAX = {"max_column_jsd": 1.0, "max_trend": 100, "max_auc": 1.0, "max_copies": 100, "data_docs": False}


def spec_for(folder: Path, **changes: Any) -> RefreshSpec:
    data: dict[str, Any] = {
        "name": "people",
        "source": {"uri": str(folder / "people")},
        "target": {"uri": str(folder / "synthetic")},
        "workspace": {"uri": str(folder / "work")},
        "model": {"method": "gaussian_copula"},
        "gates": LAX,
        "policy": {"retrain": "drifted"},
    }
    return parse_spec(data | changes)


def write(folder: Path, table: pa.Table, name: str = "a.parquet") -> None:
    (folder / "people").mkdir(exist_ok=True)
    pq.write_table(table, folder / "people" / name)


def older(seed: int) -> pa.Table:
    """People whose ages are shifted."""
    table = people(600, seed=seed)
    ages = pa.array(np.asarray(table["age"]) + 15, pa.int16())
    return table.set_column(1, "age", ages)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, people(600, seed=1))
    return tmp_path


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ReleaseRef], list[list[ProgressEvent]]]:
    """A first release, one of a source without drift, one of a source with a shifted margin."""
    folder = tmp_path_factory.mktemp("history")
    made, heard = [], []
    for table in (people(600, seed=1), people(600, seed=2), older(3)):
        write(folder, table)
        events: list[ProgressEvent] = []
        made.append(steps.refresh(spec_for(folder), progress=events.append))
        heard.append(events)
    return folder, made, heard


def test_without_drift_only_samples_and_with_it_retrains(
    history: tuple[Path, list[ReleaseRef], list[list[ProgressEvent]]],
) -> None:
    folder, made, heard = history
    manifests = [release.read_manifest(str(folder / "synthetic"), one.version) for one in made]
    models = [manifest.model for manifest in manifests if manifest.model is not None]
    assert models[0].sha256 == models[1].sha256 != models[2].sha256
    choices = [manifest.drift for manifest in manifests if manifest.drift is not None]
    assert [choice.decision for choice in choices] == ["train", "reuse", "train"]
    assert choices[0].reason == "nothing was published yet"
    assert "no column drifted by more than 0.05" in choices[1].reason
    assert choices[1].trained_by == models[0].run_id
    assert [column.column for column in choices[2].drifted] == ["age"]
    assert choices[2].reason.startswith("1 column drifted by more than 0.05: age by 0.")
    learned = ["fitting codecs" in {event.message for event in events} for events in heard]
    assert learned == [True, False, True]
    assert all("drift" in {event.step for event in events} for events in heard)
    for one, choice in zip(made, choices, strict=True):
        record = json.loads((folder / "work" / "runs" / one.run_id / "drift.json").read_text(encoding="utf-8"))
        assert record == choice.model_dump(mode="json")


def test_a_new_release_of_the_last_model_has_rows_of_its_own(
    history: tuple[Path, list[ReleaseRef], list[list[ProgressEvent]]],
) -> None:
    folder, made, _ = history
    first, second = (pq.read_table(sorted(Path(one.uri).glob("part-*.parquet"))[0]) for one in made[:2])
    assert first.schema.equals(second.schema)
    assert not first["age"].equals(second["age"])
    choice = release.read_manifest(str(folder / "synthetic"), made[1].version).drift
    assert choice is not None
    assert choice.sample_seed not in (None, 0)


def test_a_run_that_was_killed_goes_on_with_its_choice(folder: Path) -> None:
    steps.refresh(spec_for(folder))
    write(folder, people(600, seed=2))
    spec = spec_for(folder)
    pinned = steps.snapshot(spec)
    choice = policy.choose_model(spec, pinned)
    assert choice.model is not None
    assert policy.choose_model(spec, pinned) == choice
    assert steps.train(spec, pinned) == choice.model, "nothing is trained"
    drawn = steps.sample(spec, pinned, choice.model)
    Path(drawn.uri, drawn.files[0].path).unlink()
    assert steps.sample(spec, pinned, choice.model).files == drawn.files


def test_what_decides_beside_drift(folder: Path) -> None:
    """One release, then other sources and specs, each only looked at."""
    spec = spec_for(folder)
    look = policy.outlook(spec)
    assert (look.choice.decision, look.standing) == ("train", None)
    assert not (folder / "work").exists(), "a look leaves nothing"
    first = steps.refresh(spec)
    assert policy.outlook(spec).standing == first.version

    write(folder, people(200, seed=2), "b.parquet")
    appended = policy.outlook(spec).choice
    assert (appended.decision, appended.sides_kept) == ("reuse", True)
    filtered = policy.outlook(spec_for(folder, source={"uri": str(folder / "people"), "filters": ["age > 18"]}))
    assert filtered.choice.sides_kept is False
    write(folder, people(600, seed=3))
    assert policy.outlook(spec).choice.sides_kept is False, "rewritten rows may have changed sides"

    assert "changed" in policy.outlook(spec_for(folder, policy={})).choice.reason
    assert policy.outlook(spec_for(folder, policy={"retrain": "drifted", "max_drift": 0.0})).choice.columns
    for changes, said in (
        ({"model": {"method": "gaussian_copula", "seed": 5}}, "model changed in the spec"),
        ({"privacy": {"min_category_rows": 9}}, "privacy changed in the spec"),
        ({"gates": LAX | {"holdout": 0.3}}, "gates.holdout changed in the spec"),
    ):
        choice = policy.outlook(spec_for(folder, **changes)).choice
        assert (choice.decision, said in choice.reason) == ("train", True), choice.reason

    write(folder, older(4))
    required = policy.outlook(spec_for(folder, policy={"retrain": "required"})).choice
    assert (required.decision, [one.column for one in required.drifted]) == ("reuse", ["age"])
    write(folder, people(600, seed=2).drop_columns(["active"]))
    (folder / "people" / "b.parquet").unlink()
    assert "the columns of the source changed" in policy.outlook(spec).choice.reason

    write(folder, people(600, seed=2))
    weights = next((folder / "work").rglob("weights.safetensors"))
    weights.write_bytes(b"other")
    assert policy.outlook(spec).choice.reason == "the last model is no longer in the workspace"


def test_after_a_refused_table_of_the_last_model_one_is_trained(folder: Path) -> None:
    """What drifts between columns is seen by the gates alone; the model must not be refused for ever."""
    steps.refresh(spec_for(folder))
    write(folder, people(600, seed=2))
    strict = spec_for(folder, gates=LAX | {"max_shape": 0.0})
    with pytest.raises(GateRefused):
        steps.refresh(strict)
    write(folder, people(600, seed=3))
    choice = policy.outlook(spec_for(folder)).choice
    assert choice.decision == "train"
    assert choice.reason == "the last table that was drawn from the last model was refused"
