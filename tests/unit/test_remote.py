from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from s3_servers import Store
from tables_made import people
from tabvae_core import remote, steps
from tabvae_core.errors import DataError, SpecError, TabvaeError
from tabvae_core.references import ModelRef, SnapshotRef
from tabvae_core.remote import TrainFailure, command_of, forget_failure, open_run, outcome, train_run
from tabvae_core.spec import RefreshSpec
from tabvae_core.workspace import Run
from tabvae_flows.cli import _run


@pytest.fixture
def spec(tmp_path: Path) -> RefreshSpec:
    pq.write_table(people(120), tmp_path / "people.parquet")
    return spec_of(tmp_path)


def spec_of(folder: Path, **parts: Any) -> RefreshSpec:
    data = {
        "source": {"uri": str(folder / "people.parquet")},
        "target": {"uri": str(folder / "out")},
        "workspace": {"uri": str(folder / "work")},
        "model": {"method": "vae_basic", "epochs": 1},
    }
    return RefreshSpec.model_validate(data | parts)


def test_another_process_trains_the_run_and_the_refresh_goes_on(spec: RefreshSpec) -> None:
    pinned = steps.snapshot(spec)
    assert outcome(spec, pinned.run_id) is None
    program, *arguments = command_of(spec, pinned.run_id)
    assert program == "tabvae"
    command = [sys.executable, "-m", "tabvae_flows.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    model = outcome(spec, pinned.run_id)
    assert isinstance(model, ModelRef)
    assert f"learned {model.rows} rows" in done.stdout
    assert steps.train(spec, pinned) == model, "the step is not done again"
    assert steps.sample(spec, pinned, model).rows == 120


def test_a_run_in_an_object_store_is_found_by_its_command(s3: Store, spec: RefreshSpec) -> None:
    place = f"{s3.bucket_uri('remote')}/work"
    data = spec.model_dump() | {"workspace": {"uri": place, "storage": s3.storage.model_dump()}}
    spec = RefreshSpec.model_validate(data)
    pinned = steps.snapshot(spec)
    command = list(command_of(spec, pinned.run_id))
    assert command[:3] == ["tabvae", "train", f"{place}/runs/{pinned.run_id}"]
    assert command[3:] == [
        *("--endpoint-url", s3.storage.endpoint_url),
        *("--region", s3.storage.region),
        *("--credentials", s3.storage.credentials),
    ]
    assert _run([*command[1:], "--json"]) == 0
    assert isinstance(outcome(spec, pinned.run_id), ModelRef)


def test_a_failure_is_recorded_as_the_error_that_it_was(tmp_path: Path, spec: RefreshSpec) -> None:
    spec = spec_of(tmp_path, rules=["age > 60", "age < 20"])
    pinned = steps.snapshot(spec)
    with pytest.raises(SpecError, match="exclude each other"):
        train_run(spec, pinned)
    ended = outcome(spec, pinned.run_id)
    assert isinstance(ended, TrainFailure)
    error = ended.error()
    assert type(error) is SpecError
    assert "exclude each other" in error.message
    assert error.hint
    forget_failure(spec, pinned.run_id)
    assert outcome(spec, pinned.run_id) is None


@pytest.mark.parametrize("foreign", [ValueError("secret cell"), KeyboardInterrupt()])
def test_whatever_ends_a_training_is_recorded_and_quotes_nothing(
    spec: RefreshSpec, foreign: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: Any, **__: Any) -> ModelRef:
        raise foreign

    pinned = steps.snapshot(spec)
    monkeypatch.setattr(remote.steps, "train", end)
    with pytest.raises(type(foreign)):
        train_run(spec, pinned)
    ended = outcome(spec, pinned.run_id)
    assert isinstance(ended, TrainFailure)
    assert ended.message == f"training ended by {type(foreign).__name__}"
    assert type(ended.error()) is TabvaeError


def test_a_success_after_a_failure_is_what_counts(spec: RefreshSpec) -> None:
    pinned = steps.snapshot(spec)
    Run(spec, pinned.run_id).complete("train-failed", TrainFailure(kind="DataError", message="m"))
    train_run(spec, pinned)
    assert isinstance(outcome(spec, pinned.run_id), ModelRef)


def test_another_version_does_not_train_the_run(spec: RefreshSpec) -> None:
    pinned = steps.snapshot(spec)
    other = pinned.model_copy(update={"run_id": "0123456789abcdef"})
    Run(spec, other.run_id).complete("snapshot", other)
    with pytest.raises(SpecError, match="by another version of tabvae"):
        train_run(spec, other)


def test_a_forced_run_is_trained_too(spec: RefreshSpec) -> None:
    pinned = steps.snapshot(spec, force=True)
    assert "-" in pinned.run_id
    assert train_run(spec, pinned).run_id == pinned.run_id


def test_the_other_side_reaches_the_workspace_its_own_way(spec: RefreshSpec) -> None:
    """A relative workspace means another folder there: the place that the command names is the one."""
    pinned = steps.snapshot(spec)
    opened, found = open_run(Run(spec, pinned.run_id).uri + "/")
    assert (opened.workspace, found) == (spec.workspace, SnapshotRef.model_validate(pinned))


@pytest.mark.parametrize("place", ["work", "work/runs", "work/runs/0123456789abcdef"])
def test_what_is_no_run_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(DataError, match="is no run of a refresh"):
        open_run(str(tmp_path / place))


def test_a_run_needs_its_snapshot(spec: RefreshSpec) -> None:
    run = Run(spec, steps.snapshot(spec).run_id)
    (Path(run.uri) / "snapshot.json").unlink()
    with pytest.raises(DataError, match="has no snapshot"):
        open_run(run.uri)
