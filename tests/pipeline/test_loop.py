"""The promises of the whole loop, through the real command line: same bytes, nothing done twice, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tables_made import people
from tabvae_core import steps
from tabvae_core.progress import ProgressEvent
from tabvae_core.spec import load_spec
from tabvae_core.storage import file_sha256
from tabvae_flows.cli import _run

ROWS = 9_000
"""More than two blocks of rows, so that shards have something to share."""
LAX = {"max_column_jsd": 1, "max_trend": 100, "max_auc": 1, "max_copies": 100, "data_docs": False}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pq.write_table(people(300), "people.parquet")
    return tmp_path


def write_spec(name: str, **changes: Any) -> None:
    spec = {
        "source": {"uri": "people.parquet"},
        "target": {"uri": f"{name}-out"},
        "workspace": {"uri": f"{name}-work"},
        "rules": ["age >= 18"],
        "model": {"method": "vae_basic", "epochs": 1},
        "gates": LAX,
    }
    Path(f"{name}.yaml").write_text(yaml.safe_dump(spec | changes), encoding="utf-8")


def tabvae(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    code = _run([*arguments, "--json"])
    said = capsys.readouterr()
    assert code == 0, said.err
    result: dict[str, Any] = json.loads(said.out)
    return result


def refresh(capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> dict[str, Any]:
    return tabvae(capsys, "refresh", f"{name}.yaml", "--no-prefect", *arguments)


def hashes(folder: str) -> list[str]:
    return [file_sha256(str(file)) for file in sorted(Path(folder).glob("*.parquet"))]


def rows_of(folder: str) -> pa.Table:
    return pa.concat_tables(pq.read_table(file) for file in sorted(Path(folder).glob("*.parquet")))


# ---------------------------------------------------------------- same seed, same bytes


def test_refresh_publishes_the_same_bytes_for_any_shards(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = {}
    for name, sample in (("one", {"shards": 1}), ("four", {"shards": 4}), ("other", {"seed": 1})):
        write_spec(name, sample={"rows": ROWS, "rows_per_file": 4_000} | sample)
        published[name] = refresh(capsys, name)["uri"]
    assert len(hashes(published["one"])) == 3
    assert hashes(published["one"]) == hashes(published["four"])
    assert not set(hashes(published["one"])) & set(hashes(published["other"]))
    assert rows_of(published["other"]).num_rows == ROWS
    assert not rows_of(published["one"]).drop_columns("key").equals(rows_of(published["other"]).drop_columns("key"))


@pytest.mark.parametrize("method", ["vae", "vae_basic"])
def test_synthesize_writes_the_same_bytes_for_any_shards(
    here: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    Path("fast.yaml").write_text("model: {epochs: 1}\n", encoding="utf-8")
    for out, more in (("one", ("--shards", "1")), ("four", ("--shards", "4")), ("other", ("--seed", "1"))):
        command = ("synthesize", "people.parquet", f"{out}.parquet", "--spec", "fast.yaml", "--method", method)
        assert tabvae(capsys, *command, "--rows", str(ROWS), *more)["rows"] == ROWS
    one, four, other = (Path(f"{out}.parquet").read_bytes() for out in ("one", "four", "other"))
    assert one == four
    assert one != other


# ---------------------------------------------------------------- nothing done twice


def test_unchanged_forced_changed_and_rolled_back(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_spec("people")
    first = refresh(capsys, "people")
    made = hashes(first["uri"])

    before = {file: file.stat().st_mtime_ns for file in here.rglob("*.parquet")}
    again = refresh(capsys, "people")
    assert (again["unchanged"], again["version"]) == (True, first["version"])
    assert {file: file.stat().st_mtime_ns for file in here.rglob("*.parquet")} == before
    assert _run(["refresh", "people.yaml", "--no-prefect"]) == 0
    assert f"unchanged: source and spec are those of version {first['version']}" in capsys.readouterr().out

    forced = refresh(capsys, "people", "--force")
    assert forced["version"] != first["version"]
    assert hashes(forced["uri"]) == made, "the same source, spec and seed make the same table"

    pq.write_table(people(320, seed=9), "people.parquet")
    changed = refresh(capsys, "people")
    assert not changed["unchanged"]
    assert changed["rows"] == 320
    listed = tabvae(capsys, "releases", "people-out")
    assert listed["current"] == changed["version"]
    assert [one["version"] for one in listed["releases"]] == [changed["version"], forced["version"], first["version"]]

    tabvae(capsys, "rollback", "people-out", first["version"])
    assert tabvae(capsys, "releases", "people-out")["current"] == first["version"]
    assert hashes(first["uri"]) == made
    assert refresh(capsys, "people")["version"] == first["version"], (
        "what was rolled back stays so until told otherwise"
    )


def test_refused_table_leaves_the_pointer(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_spec("people")
    first = refresh(capsys, "people")
    pointer = Path("people-out/current.json").read_bytes()
    write_spec("people", gates=LAX | {"max_column_jsd": 0, "max_auc": 0.5})
    capsys.readouterr()
    assert _run(["refresh", "people.yaml", "--no-prefect", "--json"]) == 4
    error = json.loads(capsys.readouterr().out)["error"]
    assert {file.name for file in Path(error["quarantine"]).iterdir()} >= {
        "manifest.json",
        "part-00000.parquet",
        "report.html",
    }
    assert Path("people-out/current.json").read_bytes() == pointer
    assert tabvae(capsys, "releases", "people-out")["current"] == first["version"]


# ---------------------------------------------------------------- nothing lost


def test_training_killed_goes_on_from_its_checkpoint(here: Path) -> None:
    slow = {"method": "vae_basic", "epochs": 5, "batch_size": 1}
    for name in ("killed", "unbroken"):
        write_spec(name, model=slow)
    command = [sys.executable, "-m", "tabvae_flows.cli", "refresh", "killed.yaml", "--no-prefect"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        _wait_for_checkpoint(run)
        run.send_signal(signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    assert not Path("killed-out/current.json").exists()

    events: list[ProgressEvent] = []
    done = steps.refresh(load_spec("killed.yaml"), progress=events.append)
    epochs = [event.done for event in events if event.step == "train" and event.done == int(event.done)]
    assert epochs[0] > 1, "the first epoch after the kill is not the first epoch of all"
    assert epochs[-1] == 5
    assert not list(Path("killed-work").rglob("checkpoint*"))
    assert hashes(done.uri) == hashes(steps.refresh(load_spec("unbroken.yaml")).uri), "a kill changes nothing"


def _wait_for_checkpoint(run: subprocess.Popen[bytes], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not list(Path("killed-work").rglob("checkpoint.safetensors")):
        assert run.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run wrote no checkpoint"
        time.sleep(0.005)
    assert os.path.exists("killed-work")
