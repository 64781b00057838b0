"""A release carries a receipt of what was protected, attacked and found; a table that remembers is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tables_made import people
from tabvae_core import privacy, release, steps
from tabvae_core.errors import GateRefused
from tabvae_core.evaluation import render_receipt
from tabvae_core.gates import gate_attacks
from tabvae_core.inference import infer_schema
from tabvae_core.privacy import AttackResult, Estimate, PrivacyFigures
from tabvae_core.privacy.receipt import PrivacyReceipt, Spent, receipt_of
from tabvae_core.spec import GateSpec, RefreshSpec, parse_spec
from tabvae_core.tables import InMemoryTable
from tabvae_flows.cli import _run
from tabvae_tasks.artifacts import quality_rows

LAX = {"max_column_jsd": 1.0, "max_trend": 100, "max_auc": 1.0, "max_copies": 100, "data_docs": False}
ROWS = 1_200
"""Of fewer the gates ask nothing."""
BESIDE = {"report.html", "evaluation.json", "privacy.json", "privacy.html"}


def spec_for(folder: Path, **gates: Any) -> RefreshSpec:
    pq.write_table(people(ROWS, 1), folder / "people.parquet")
    return parse_spec(
        {
            "name": "people",
            "source": {"uri": str(folder / "people.parquet")},
            "target": {"uri": str(folder / "out")},
            "workspace": {"uri": str(folder / "work")},
            "model": {"method": "gaussian_copula"},
            "gates": LAX | gates,
        }
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(steps.refresh(spec_for(tmp_path_factory.mktemp("release"))).uri)


def test_receipt_stands_beside_the_table_and_the_manifest_names_it(published: Path) -> None:
    assert {path.name for path in published.iterdir()} >= BESIDE
    manifest = release.read_manifest(str(published.parents[1]), published.name)
    assert set(manifest.extra) >= BESIDE
    assert any(gate.name == "attack: membership_density" for gate in manifest.gates)
    receipt = PrivacyReceipt.model_validate_json((published / "privacy.json").read_text(encoding="utf-8"))
    figures = json.loads((published / "evaluation.json").read_text(encoding="utf-8"))["privacy"]
    assert receipt.attacks == PrivacyFigures.model_validate(figures)
    assert receipt.learned_rows + receipt.held_out_rows == receipt.synthetic_rows == ROWS
    assert receipt.run_id == manifest.run_id
    assert receipt.spent is None
    said = {one.name: one for one in receipt.protections}
    assert said["rare categories"].applied
    assert "fewer than 5" in said["rare categories"].said
    assert "key" in said["identifiers"].said
    assert not said["near copies"].applied


def test_pages_are_for_people_and_hold_no_row(published: Path) -> None:
    page, report = ((published / name).read_text(encoding="utf-8") for name in ("privacy.html", "report.html"))
    for heading in ("What was protected", "What was spent", "What was attacked, and found", "What is not promised"):
        assert heading in page
    assert "no differential privacy" in page
    assert "What does it give away?" in report
    for html in (page, report):
        assert "Who was learned: nearest synthetic row" in html
        assert not re.search(r"P-\d{6}", html)
        assert not re.search(r'(src|href)="http', re.sub(r"<script.*?</script>", "", html, flags=re.S))


def test_quality_table_of_the_run_shows_the_attacks(published: Path) -> None:
    run = next(published.parents[2].glob("work/runs/*"))
    reference = steps.EvaluationRef.model_validate_json((run / "evaluate.json").read_text(encoding="utf-8"))
    rows = {row["figure"]: row for row in quality_rows(reference)}
    assert rows["attack: membership_density"]["limit"] == GateSpec().max_membership_auc
    assert rows["attack: membership_density"]["verdict"] == "passed"


def test_a_table_that_remembers_goes_to_quarantine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attacks are real ones; the table that they are given is the training rows themselves."""
    real: Callable[..., PrivacyFigures] = privacy.attack
    monkeypatch.setattr(
        privacy, "attack", lambda train, holdout, _, schema, **more: real(train, holdout, train, schema)
    )
    spec = spec_for(tmp_path)
    with pytest.raises(GateRefused) as refused:
        steps.refresh(spec)
    assert any("nearest synthetic row" in failure for failure in refused.value.failures)
    page = Path(refused.value.quarantine, "privacy.html").read_text(encoding="utf-8")
    assert "Refused" in page
    assert release.current(spec.target) is None


def test_attacks_can_be_switched_off_and_the_receipt_says_so(tmp_path: Path) -> None:
    folder = Path(steps.refresh(spec_for(tmp_path, attacks=False)).uri)
    assert json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["privacy"] is None
    assert "attacks were switched off" in (folder / "privacy.html").read_text(encoding="utf-8")


def test_what_differential_privacy_spent_has_its_place(tmp_path: Path) -> None:
    table = people(50, 1)
    spent = Spent(epsilon=1.5, delta=1e-5, said="Accounted for by RDP.", total_epsilon=4.5, total_delta=3e-5)
    receipt = receipt_of(
        spec_for(tmp_path), infer_schema(InMemoryTable(table)), {}, run_id="r", learned_rows=40, held_out_rows=10,
        synthetic_rows=50, redrawn_rows=2, spent=spent,
    )  # fmt: skip
    assert PrivacyReceipt.model_validate_json(receipt.model_dump_json()) == receipt
    page = render_receipt(receipt, tmp_path / "privacy.html").read_text(encoding="utf-8")
    assert "Epsilon 1.5, delta 1e-05. Accounted for by RDP." in page
    assert "epsilon 4.5" in page
    assert "2 drawn rows" in page
    assert "no differential privacy" not in page


# ---------------------------------------------------------------- gates


def estimate(value: float, half: float = 0.01) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, trials=1000)


def verdicts(attack: AttackResult, gates: GateSpec | None = None) -> dict[str, bool]:
    figures = PrivacyFigures(members=500, controls=500, reference=500, synthetic=500, seed=0, attacks=(attack,))
    return {f"{g.name} {g.column or ''}".strip(): g.passed for g in gate_attacks(figures, gates or GateSpec())}


@pytest.mark.parametrize(("auc", "passed"), [(0.50, True), (0.555, True), (0.57, False), (0.44, True), (0.43, False)])
def test_membership_is_refused_where_the_whole_interval_is_beyond_the_limit(auc: float, passed: bool) -> None:
    attack = AttackResult(name="m", title="M", knows="", advantage=None, auc=estimate(auc))
    assert verdicts(attack) == {"attack: m": passed, "attack: m exposed": True}


def test_each_figure_has_its_own_limit() -> None:
    attack = AttackResult(
        name="memorised_values", title="V", knows="", advantage=estimate(0.12), exposed=estimate(0.2),
        columns={"note": estimate(0.5), "age": estimate(0.2)},
    )  # fmt: skip
    assert verdicts(attack) == {
        "attack: memorised_values": False,
        "attack: memorised_values exposed": True,
        "attack: memorised_values note": False,
        "attack: memorised_values age": True,
    }
    assert all(verdicts(attack, GateSpec(max_risk=0.2, max_exposed_risk=0.6)).values())
    copies = AttackResult(name="rare_copies", title="C", knows="", advantage=estimate(0.03))
    assert not verdicts(copies)["attack: rare_copies"]


# ---------------------------------------------------------------- command line


def test_command_attacks_tables_of_any_maker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    order = np.random.default_rng(0).permutation(900)
    for name, rows in zip(("train", "holdout", "fresh"), np.split(order, 3), strict=True):
        pq.write_table(people(900, 1).take(pa.array(rows)), f"{name}.parquet")
    sides = ["--train", "train.parquet", "--holdout", "holdout.parquet"]
    assert _run(["attack", "fresh.parquet", *sides, "--shadows", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"membership_shadow", "linkability"} <= {attack["name"] for attack in found["attacks"]}
    assert all(gate["passed"] for gate in found["gates"])
    assert _run(["attack", "train.parquet", *sides]) == 0
    out = capsys.readouterr().out
    assert "membership_distance" in out
    assert "refused: " in out
    assert _run(["evaluate", "train.parquet", "fresh.parquet", "--holdout", "holdout.parquet", "--json", "e.json"]) == 0
    assert json.loads(Path("e.json").read_text(encoding="utf-8"))["privacy"]["members"] == 150
    assert "reaches an AUC" in capsys.readouterr().out


@pytest.mark.parametrize(("trials", "passed"), [(100, True), (400, False)])
def test_an_attack_on_few_rows_is_told_and_refuses_nothing(trials: int, passed: bool) -> None:
    auc = Estimate(value=0.8, low=0.7, high=0.9, trials=trials)
    found = AttackResult(
        name="membership_distance", title="Who was learned", knows="the table", advantage=None, auc=auc
    )
    half = trials // 2
    figures = PrivacyFigures(members=half, controls=half, reference=half, synthetic=half, seed=0, attacks=(found,))
    results = gate_attacks(figures, GateSpec())
    assert results[0].passed == passed
    assert "0.800 (0.700 to 0.900)" in results[0].detail
