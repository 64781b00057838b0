"""A release for each date, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tables_made import people
from tabvae_core import release
from tabvae_flows.cli import _run

LAX = {"max_column_jsd": 1, "max_trend": 100, "max_auc": 1, "max_copies": 100, "data_docs": False}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for day in (1, 2, 4):
        (tmp_path / "people" / f"day=2026-01-0{day}").mkdir(parents=True)
        pq.write_table(people(150, seed=day), tmp_path / "people" / f"day=2026-01-0{day}" / "a.parquet")
    spec = {
        "source": {"uri": "people", "filters": ["day == '{date}'"]},
        "target": {"uri": "out", "keep": 2},
        "workspace": {"uri": "work"},
        "model": {"method": "gaussian_copula"},
        "gates": LAX,
        "policy": {"retrain": "drifted", "max_drift": 1},
    }
    Path("refresh.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    return tmp_path


def backfill(capsys: pytest.CaptureFixture[str], dates: str, *options: str) -> tuple[int, dict[str, Any], str]:
    capsys.readouterr()
    code = _run(["refresh", "refresh.yaml", "--no-prefect", "--json", "--backfill", dates, *options])
    said = capsys.readouterr()
    return code, json.loads(said.out), said.err


def test_dates_are_released_in_order_and_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, err = backfill(capsys, "2026-01-01..2026-01-03,2026-01-04")
    outcomes = [(one["table"], one["outcome"]) for one in said["outcomes"]]
    assert outcomes == [
        ("2026-01-01", "published"),
        ("2026-01-02", "published"),
        ("2026-01-03", "failed"),
        ("2026-01-04", "published"),
    ]
    assert code == said["exit_code"] == 3, "the date without rows fails, and stops no other"
    assert "2026-01-03: failed: people has no rows" in err
    versions = [one["detail"].removeprefix("version ") for one in said["outcomes"] if one["outcome"] == "published"]
    kept = [one.version for one in release.releases("out")]
    assert kept == sorted(versions, reverse=True)[:2]
    manifest = release.read_manifest("out")
    assert manifest.spec["source"]["date"] == "2026-01-04"
    assert manifest.drift is not None
    assert manifest.drift.decision == "reuse", "the policy holds from one date to the next"

    again, said, _ = backfill(capsys, "2026-01-01,2026-01-02,2026-01-04")
    assert again == 0
    assert {one["outcome"] for one in said["outcomes"]} == {"unchanged"}
    assert [one["detail"] for one in said["outcomes"]] == [f"version {version}" for version in versions]
    assert [one.version for one in release.releases("out")] == kept, "what retention removed is not made again"

    forced, said, err = backfill(capsys, "2026-01-02", "--force")
    assert (forced, said["outcomes"][0]["outcome"]) == (0, "published")
    assert "the current version is now that of 2026-01-02, it was that of 2026-01-04" in err


def test_without_json_there_is_a_table_and_a_summary(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = _run(["refresh", "refresh.yaml", "--no-prefect", "--backfill", "2026-01-08,2026-01-09"])
    lines = capsys.readouterr().out.splitlines()
    assert code == 3
    assert [line.split()[:2] for line in lines[:3]] == [
        ["table", "outcome"],
        ["2026-01-08", "failed"],
        ["2026-01-09", "failed"],
    ]
    assert lines[3] == "2 failed: 2026-01-08, 2026-01-09"
