"""Methods side by side: one split, floors measured once, a failing method is a row, what was measured is kept."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Self

import pyarrow.parquet as pq
import pytest

from tables_made import people
from tabvae_core import comparison, local
from tabvae_core.comparison import Comparison, chosen_methods, compare, prepare
from tabvae_core.errors import DataError, SpecError, StorageError
from tabvae_core.evaluation import classifier, evaluate
from tabvae_core.evaluation.view import Side
from tabvae_core.inference import infer_schema
from tabvae_core.progress import ProgressEvent
from tabvae_core.spec import PrivacySpec, RefreshSpec, WorkspaceSpec, parse_spec
from tabvae_core.synthesizers import registry
from tabvae_core.synthesizers.vae_basic import BasicVAESynthesizer
from tabvae_core.tables import RowSplit, as_source, collect

ROWS = 400


class Again(BasicVAESynthesizer):
    """A second method that learns in a moment."""

    method = "again"
    learned: list[Any]

    def fit(self, table: Any, *args: Any, **options: Any) -> Self:
        self.learned.append(collect(table))
        return super().fit(table, *args, **options)


class Refuses(BasicVAESynthesizer):
    method = "refuses"

    def fit(self, *args: Any, **options: Any) -> Self:
        raise DataError("one-hot encoding would make 70,000 features", hint="use method vae")


class Crashes(BasicVAESynthesizer):
    method = "crashes"

    def fit(self, *args: Any, **options: Any) -> Self:
        raise ValueError("the cell 'Mr Smith' is bad")


class Interrupted(BasicVAESynthesizer):
    method = "interrupted"

    def fit(self, *args: Any, **options: Any) -> Self:
        raise KeyboardInterrupt


class Unreachable(BasicVAESynthesizer):
    method = "unreachable"

    def fit(self, *args: Any, **options: Any) -> Self:
        raise StorageError("the store did not answer")


@pytest.fixture(autouse=True)
def _methods(monkeypatch: pytest.MonkeyPatch) -> None:
    Again.learned = []
    for kind in (Again, Refuses, Crashes, Interrupted, Unreachable):
        monkeypatch.setitem(registry._OURS, kind.method, f"{__name__}:{kind.__name__}")


@pytest.fixture
def spec(tmp_path: Path) -> RefreshSpec:
    pq.write_table(people(ROWS), tmp_path / "people.parquet")
    return parse_spec(
        {
            "name": "people",
            "source": {"uri": str(tmp_path / "people.parquet")},
            "target": {"uri": str(tmp_path / "target")},
            "workspace": {"uri": str(tmp_path / "work")},
            "model": {"epochs": 1},
            "target_column": "segment",
        }
    )


def reasons(found: Comparison) -> dict[str, str | None]:
    return {result.method: result.failed for result in found.results}


def test_one_split_and_floors_that_are_measured_once(spec: RefreshSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    floors: list[Side] = []
    monkeypatch.setattr(
        import_module("tabvae_core.evaluation.evaluate"),
        "detect",
        lambda view, side, **options: (floors.append(side), classifier.detect(view, side, **options))[1],
    )
    found = compare(spec, ["vae_basic", "again"])
    assert [result.method for result in found.results] == ["vae_basic", "again"]
    assert floors == [Side.SYNTHETIC, Side.TRAIN, Side.SYNTHETIC]
    first, second = (result.evaluation for result in found.results)
    assert first is not None
    assert second is not None
    assert first.rows == second.rows
    assert {n: m.floor for n, m in first.metrics.items()} == {n: m.floor for n, m in second.metrics.items()}
    assert all(metric.floor is not None for metric in second.metrics.values())

    source = as_source(pq.read_table(spec.source.uri))
    train = collect(RowSplit(source, "train", holdout=spec.gates.holdout, seed=spec.model.seed))
    assert Again.learned[0].equals(train), "the rows that a refresh learns"
    assert found.train_rows == train.num_rows == first.rows.synthetic
    for result in found.results:
        assert (result.sample_rows, result.failed) == (train.num_rows, None)
        assert (result.model_bytes or 0) > 1000
    assert Path(found.report_uri).exists()
    assert not Path(spec.target.uri).exists(), "nothing is published"


def test_a_known_floor_is_the_one_that_would_be_measured() -> None:
    train, holdout, drawn = people(ROWS), people(120, seed=9), people(ROWS, seed=8)
    schema = infer_schema(as_source(train))
    alone = evaluate(holdout, drawn, schema, train=train)
    shared = evaluate(holdout, people(ROWS, seed=7), schema, train=train, floors_of=alone)
    assert {n: m.floor for n, m in shared.metrics.items()} == {n: m.floor for n, m in alone.metrics.items()}
    with pytest.raises(ValueError, match="same settings"):
        evaluate(holdout, drawn, schema, train=train, seed=1, floors_of=alone)
    with pytest.raises(ValueError, match="as many rows"):
        evaluate(holdout, drawn.slice(0, 50), schema, train=train, floors_of=alone)


def test_a_method_that_fails_is_a_row_and_the_others_go_on(spec: RefreshSpec) -> None:
    heard: list[ProgressEvent] = []
    found = compare(spec, ["refuses", "again", "crashes"], progress=heard.append)
    assert reasons(found) == {
        "refuses": "one-hot encoding would make 70,000 features",
        "again": None,
        "crashes": "unexpected ValueError",
    }
    assert found.recommendation.method == "again"
    assert not found.interrupted
    page = Path(found.report_uri).read_text(encoding="utf-8")
    assert "one-hot encoding would make 70,000 features" in page
    assert "Smith" not in page + found.model_dump_json()
    assert {"refuses", "again", "crashes"} <= {event.step for event in heard}


def test_no_method_at_all_is_an_error(spec: RefreshSpec) -> None:
    with pytest.raises(DataError, match=r"refuses: one-hot .*; crashes: unexpected ValueError"):
        compare(spec, ["refuses", "crashes"])


def test_storage_that_fails_stops_the_comparison(spec: RefreshSpec) -> None:
    with pytest.raises(StorageError, match="did not answer"):
        compare(spec, ["unreachable", "again"])
    assert not Again.learned


def test_an_interruption_keeps_what_was_measured(spec: RefreshSpec) -> None:
    with pytest.raises(KeyboardInterrupt):
        compare(spec, ["interrupted", "again"])
    found = compare(spec, ["again", "interrupted", "vae_basic"])
    assert found.interrupted
    assert reasons(found) == {"again": None} | dict.fromkeys(("interrupted", "vae_basic"), "not measured: interrupted")
    assert found.recommendation.method == "again"


def test_what_was_measured_is_not_measured_again(spec: RefreshSpec) -> None:
    first = compare(spec, ["again", "crashes"])
    assert compare(spec, ["again", "crashes"]).results == first.results
    assert len(Again.learned) == 1


def test_time_is_shared_alike_and_options_stay_with_their_method(spec: RefreshSpec) -> None:
    model = spec.model.model_copy(update={"max_seconds": 10.0, "method": "vae_basic", "options": {"latent": 3}})
    wide = spec.model_copy(update={"model": model})
    plan = prepare(wide, ["vae_basic", "vae"])
    assert plan.max_seconds == 5.0
    specs = {method: comparison._own(wide, plan, method)[0].model for method in plan.methods}
    assert specs["vae_basic"].options == {"latent": 3}
    assert specs["vae"].options == {}
    assert {one.max_seconds for one in specs.values()} == {5.0}
    assert prepare(spec, ["vae"]).max_seconds is None


def test_methods_are_checked_before_anything_runs() -> None:
    assert chosen_methods(["vae_basic", "again", "vae_basic"]) == ("vae_basic", "again")
    assert chosen_methods() == tuple(name for name in registry.methods() if name != "dp_marginals")
    assert chosen_methods(None, PrivacySpec(epsilon=1.0)) == registry.private_methods()
    with pytest.raises(SpecError) as unknown:
        chosen_methods(["vae_basic", "vae_basics"])
    assert "did you mean 'vae_basic'?" in unknown.value.hint
    with pytest.raises(SpecError, match="no method is named"):
        chosen_methods([])


def test_a_table_of_ones_own_leaves_only_the_report(spec: RefreshSpec, tmp_path: Path) -> None:
    own = local.partial_spec(spec.source.uri, {"model": {"epochs": 1}})
    before = set(tmp_path.iterdir())
    found = local.compare_table(own, ["again"], html=str(tmp_path / "out" / "report.html"))
    assert found.name == "people"
    assert set(tmp_path.iterdir()) - before == {tmp_path / "out"}
    assert "Recommended: again" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert own.workspace == WorkspaceSpec()
    with pytest.raises(SpecError, match="is a folder"):
        local.compare_table(own, ["again"], html=str(tmp_path))


@pytest.mark.parametrize(
    ("uri", "name"),
    [("s3://lake/my customers/", "my-customers"), ("a/b.c.parquet", "b.c"), ("__x.parquet", "x"), ("ä", "table")],
)
def test_a_table_is_named_by_its_file(uri: str, name: str) -> None:
    assert local._name_of(uri) == name
