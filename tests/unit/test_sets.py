"""Sets of refreshes: what is refused before anything runs, and what becomes of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tables_made import people
from tabvae_core import release
from tabvae_core.errors import SpecError
from tabvae_core.outcomes import Outcome, attempt, failed, summary, worst_exit_code
from tabvae_flows.cli import _run
from tabvae_flows.sets import load_set, run_set

LAX = {"max_column_jsd": 1, "max_trend": 100, "max_auc": 1, "max_copies": 100, "data_docs": False}
STRICT = LAX | {"max_shape": 0}


def write_spec(folder: Path, file: str, **changes: Any) -> None:
    spec: dict[str, Any] = {
        "name": file,
        "source": {"uri": str(folder / "people.parquet")},
        "target": {"uri": str(folder / "out" / file)},
        "workspace": {"uri": str(folder / "work")},
        "model": {"method": "gaussian_copula"},
        "gates": LAX,
    }
    (folder / "specs").mkdir(exist_ok=True)
    (folder / "specs" / f"{file}.yaml").write_text(yaml.safe_dump(spec | changes), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pq.write_table(people(120), tmp_path / "people.parquet")
    return tmp_path


def test_a_refused_and_a_missing_table_stop_no_other(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_spec(folder, "alpha")
    write_spec(folder, "beta", gates=STRICT)
    write_spec(folder, "gamma", source={"uri": str(folder / "gone.parquet")})
    code = _run(["refresh-all", str(folder / "specs"), "--parallel", "2", "--json"])
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert [(one["table"], one["outcome"]) for one in found["outcomes"]] == [
        ("alpha", "published"),
        ("beta", "refused"),
        ("gamma", "failed"),
    ]
    assert "gates refused" in found["outcomes"][1]["detail"]
    assert "gone.parquet does not exist" in found["outcomes"][2]["detail"]
    assert code == found["exit_code"] == 3, "a missing source is worse than a refusal"
    assert release.current(str(folder / "out" / "alpha")) is not None
    assert release.current(str(folder / "out" / "beta")) is None
    lines = said.err.splitlines()
    assert all(line.startswith(("alpha: ", "beta: ", "gamma: ")) for line in lines), said.err
    assert any(line.startswith("alpha: publish") for line in lines)


@pytest.mark.slow
def test_twenty_tables_four_at_a_time(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The Show of issue 6: `pytest tests/unit/test_sets.py -m slow`."""
    for number in range(20):
        write_spec(folder, f"t{number:02}", gates=STRICT if number == 7 else LAX)
    code = _run(["refresh-all", str(folder / "specs"), "--parallel", "4"])
    out = capsys.readouterr().out
    assert code == 4
    assert out.splitlines()[-1] == "19 published, 1 refused: t07"


def test_a_process_that_is_killed_is_a_failure_of_its_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_spec(folder, "alpha")
    write_spec(folder, "beta")
    killer = tmp_path / "python"
    killer.write_text("#!/bin/sh\ncase $4 in *alpha*) kill -9 $$;; esac\necho said >&2; echo '{}'; exit 1\n")
    killer.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(killer))
    lines: list[str] = []
    outcomes = run_set(load_set(folder / "specs")[:1], parallel=2, options=[], say=lines.append)
    assert [(one.outcome, one.detail) for one in outcomes] == [("failed", "its process was ended by SIGKILL")]
    assert worst_exit_code(outcomes) == 1


def test_what_is_refused_before_anything_runs(folder: Path) -> None:
    with pytest.raises(SpecError, match="no folder of specs"):
        load_set(folder / "nowhere")
    (folder / "specs").mkdir()
    with pytest.raises(SpecError, match="holds no spec"):
        load_set(folder / "specs")
    for name in ("alpha", "beta", "gamma"):
        write_spec(folder, name)
    assert [label for label, _, _ in load_set(folder / "specs")] == ["alpha", "beta", "gamma"]
    write_spec(folder, "gamma", target={"uri": f"{folder}/out/../out/alpha/"})
    with pytest.raises(SpecError, match=r"alpha\.yaml, gamma\.yaml have one target"):
        load_set(folder / "specs")
    write_spec(folder, "gamma", modle={})
    write_spec(folder, "delta", gates={"holdout": 2})
    with pytest.raises(SpecError, match=r"delta\.yaml: gates\.holdout.*gamma\.yaml: modle"):
        load_set(folder / "specs")


def test_tables_of_one_name_are_told_apart_by_their_files(folder: Path) -> None:
    for file in ("a", "b"):
        write_spec(folder, file, name="table")
    assert [label for label, _, _ in load_set(folder / "specs")] == ["a", "b"]


def test_the_summary_names_what_did_not_end_well() -> None:
    def none() -> Any:
        raise SpecError("wrong", hint="right")

    outcomes = [
        Outcome(table="a", outcome="published", detail="version 1", seconds=1.0),
        failed("b", "3 gates refused", 4, 2.0),
        attempt("c", none),
    ]
    assert summary(outcomes) == "1 published, 1 refused, 1 failed: b, c"
    assert worst_exit_code(outcomes) == 2
    assert worst_exit_code(outcomes[:2]) == 4
    assert worst_exit_code(outcomes[:1]) == 0
