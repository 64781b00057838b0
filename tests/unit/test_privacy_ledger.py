"""The ledger: it adds up, refuses before training, survives a crash, and notices whoever changes it."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tables_made import people
from tabvae_core import release, steps
from tabvae_core.errors import BudgetExceeded, DataError
from tabvae_core.lake import ParquetSource
from tabvae_core.privacy import ledger as ledger_module
from tabvae_core.privacy.accounting import Loss, rho_of
from tabvae_core.privacy.ledger import HEAD_FILE, LEDGER_FILE, Ledger, Mark, total
from tabvae_core.spec import RefreshSpec, parse_spec
from tabvae_flows.commands.budget import budget

# Noise has no seed here, so nothing that judges a table may decide over these tests.
LOOSE = {"attacks": False, "max_column_jsd": 1, "max_trend": 100, "max_auc": 1, "max_copies": 100, "data_docs": False}
ONE = Loss.zcdp(rho_of(1.0, 1e-5))


def spec_in(folder: Path, gates: dict[str, Any] | None = None, **privacy: Any) -> RefreshSpec:
    return parse_spec(
        {
            "source": {"uri": str(folder / "people.parquet")},
            "target": {"uri": str(folder / "out")},
            "workspace": {"uri": str(folder / "work")},
            "columns": {"key": {"kind": "identifier"}, "segment": {"categories": ["basic", "plus", "pro"]}},
            "model": {"method": "dp_marginals", "options": {"components": 20, "steps": 3, "pairs": 3}},
            "privacy": {"epsilon": 1.0, **privacy},
            "gates": gates or LOOSE,
        }
    )


def lines_of(ledger: Ledger) -> list[str]:
    return Path(ledger.uri).read_text().splitlines()


def filled(folder: Path, runs: int = 3) -> tuple[Ledger, RefreshSpec]:
    spec = spec_in(folder)
    ledger = Ledger.of(spec)
    for k in range(runs):
        ledger.reserve(f"run{k}", spec, ONE)
        ledger.settle(f"run{k}", spec, ONE)
    return ledger, spec


def test_costs_add_as_curves_and_a_run_spends_once(tmp_path: Path) -> None:
    ledger, spec = filled(tmp_path)
    spent = total(ledger.entries(), 1e-5)
    assert spent == pytest.approx((ONE + ONE + ONE).epsilon(1e-5))
    assert 1.5 < spent < 2.0
    ledger.reserve("run1", spec, ONE)
    ledger.settle("run1", spec, ONE)
    assert len(ledger.entries()) == 6


def test_a_training_that_did_not_end_counts_as_its_epsilon(tmp_path: Path) -> None:
    ledger, spec = filled(tmp_path, runs=1)
    ledger.reserve("killed", spec, None)
    assert total(ledger.entries(), 3e-5) == pytest.approx(1.0 + ONE.epsilon(2e-5))
    assert total(ledger.entries(), 0.5e-5) == math.inf
    ledger.settle("killed", spec, ONE)
    assert total(ledger.entries(), 3e-5) == pytest.approx((ONE + ONE).epsilon(3e-5))


def test_what_would_pass_the_total_is_refused_and_not_written(tmp_path: Path) -> None:
    ledger, _ = filled(tmp_path)
    limited = spec_in(tmp_path, total_epsilon=2.0)
    with pytest.raises(BudgetExceeded, match=r"3 trainings of this source spent epsilon 1\.\d+ of 2 .* would be 2\."):
        ledger.reserve("fourth", limited, ONE)
    assert len(ledger.entries()) == 6
    ledger.reserve("run2", limited, ONE)  # that one has paid


@pytest.mark.parametrize(
    "tamper",
    [
        lambda lines: [lines[0].replace('"epsilon": 1.0', '"epsilon": 0.1'), *lines[1:]],
        lambda lines: [*lines[:-1], lines[-1].replace("run2", "run3")],
        lambda lines: lines[:2] + lines[3:],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: lines[:-2],
        lambda lines: [],
        lambda lines: [*lines, "not a line"],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [lines[0].replace('"rho": ', '"rho": -'), *lines[1:]],
    ],
)
def test_changes_are_noticed(tmp_path: Path, tamper: Any) -> None:
    ledger, spec = filled(tmp_path)
    Path(ledger.uri).write_text("".join(f"{line}\n" for line in tamper(lines_of(ledger))))
    with pytest.raises(DataError, match="was changed"):
        ledger.entries()
    with pytest.raises(DataError, match="was changed"):
        ledger.reserve("next", spec, ONE)


def test_a_release_remembers_its_line_where_the_head_is_gone(tmp_path: Path) -> None:
    ledger, spec = filled(tmp_path)
    mark = ledger.mark("run2")
    Path(tmp_path / "out" / HEAD_FILE).unlink()
    Path(ledger.uri).write_text("".join(f"{line}\n" for line in lines_of(ledger)[:2]))
    assert len(ledger.entries()) == 2
    with pytest.raises(DataError, match="it has 2 lines, and had 6 before"):
        ledger.reserve("next", spec, ONE, [mark])
    with pytest.raises(DataError, match="no line of run run2"):
        ledger.mark("run2")
    with pytest.raises(DataError, match="line 1 is not what it was"):
        ledger.entries([Mark(entries=1, sha256="0" * 64)])


def test_a_writer_that_died_before_the_head_is_no_tampering(tmp_path: Path) -> None:
    ledger, spec = filled(tmp_path)
    head = Path(tmp_path / "out" / HEAD_FILE)
    before = head.read_text()
    ledger.reserve("next", spec, ONE)
    head.write_text(before)
    assert len(ledger.entries()) == 7
    head.write_text("{}")
    with pytest.raises(DataError, match=r"head\.json is damaged"):
        ledger.entries()


def test_writers_at_the_same_time_all_get_their_line(tmp_path: Path) -> None:
    ledger, spec = filled(tmp_path, runs=0)
    writers = [threading.Thread(target=ledger.reserve, args=(f"run{k}", spec, ONE)) for k in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {entry.run_id for entry in ledger.entries()} == {"run0", "run1", "run2", "run3"}


def test_a_line_written_while_another_is_reading_is_no_tampering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, spec = filled(tmp_path, runs=1)
    read, others = ledger_module.read_with_etag, iter(["other1", "other2"])

    def read_and_be_overtaken(*args: Any) -> Any:
        found = read(*args)
        other = next(others, None)
        if other is not None:
            ledger.reserve(other, spec, ONE)
        return found

    monkeypatch.setattr(ledger_module, "read_with_etag", read_and_be_overtaken)
    ledger.reserve("late", spec, ONE)
    runs = {entry.run_id for entry in ledger.entries()}
    assert runs == {"run0", "other1", "other2", "late"}


def test_a_private_refresh_publishes_its_table_and_what_it_spent_alone(tmp_path: Path) -> None:
    pq.write_table(people(800), tmp_path / "people.parquet")
    spec = spec_in(tmp_path, total_epsilon=1.2)
    published = steps.refresh(spec)
    folder = tmp_path / "out" / "versions" / published.version
    assert sorted(file.name for file in folder.iterdir()) == ["manifest.json", "part-00000.parquet"]
    manifest = release.read_manifest(spec.target)
    assert manifest.privacy is not None
    assert manifest.gates == ()
    assert not manifest.metrics
    assert not manifest.source_fingerprint
    assert manifest.privacy["spent_epsilon"] <= 1.0
    assert manifest.privacy["ledger"] == Ledger.of(spec).mark(manifest.run_id).model_dump()
    assert published.report_uri.startswith(str(tmp_path / "work"))
    assert ParquetSource(str(folder), only=["part-00000.parquet"]).num_rows == published.rows

    # A second refresh does not fit, and does not begin; nor does one over a ledger that was cut off.
    with pytest.raises(BudgetExceeded, match="1 training of this source spent"):
        steps.refresh(spec, force=True)
    assert release.read_manifest(spec.target) == manifest
    (tmp_path / "out" / LEDGER_FILE).write_text("")
    (tmp_path / "out" / HEAD_FILE).unlink()
    with pytest.raises(DataError, match="it has 0 lines, and had 2 before"):
        steps.refresh(spec, force=True)


def test_a_run_that_is_refused_by_a_gate_has_spent_and_one_that_is_repeated_spends_once(tmp_path: Path) -> None:
    pq.write_table(people(400), tmp_path / "people.parquet")
    spec = spec_in(tmp_path, gates={**LOOSE, "max_shape": 0})
    for _ in range(2):
        with pytest.raises(steps.GateRefused):
            steps.refresh(spec)
    entries = Ledger.of(spec).entries()
    assert [entry.event for entry in entries] == ["reserved", "spent"]
    assert json.loads(lines_of(Ledger.of(spec))[1])["run_id"] == entries[0].run_id


def test_the_command_shows_the_sum_and_the_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path)
    spec = tmp_path / "refresh.yaml"
    spec.write_text(spec_in(tmp_path, total_epsilon=3.0).to_yaml())
    budget(str(spec))
    assert capsys.readouterr().out.splitlines()[-1] == "spent: epsilon 1.822 at delta 1e-05, of 3"
    budget(str(tmp_path / "out"), as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["epsilon"] == pytest.approx((ONE + ONE + ONE).epsilon(1e-5))
    assert [entry["run_id"] for entry in shown["entries"]] == ["run0", "run0", "run1", "run1", "run2", "run2"]
