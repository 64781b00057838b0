"""The report: one file, no network, verdict first, nothing injected, no row of a person."""

from __future__ import annotations

import base64
import datetime as dt
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tabvae_core.errors import StorageError
from tabvae_core.evaluation import Evaluation, evaluate, neighbours, render_report, report
from tabvae_core.evaluation.calendars import calendar
from tabvae_core.evaluation.charts import (
    MIN_NAMED,
    Bars,
    Histogram,
    column_chart,
    format_value,
    null_bars,
    row_features,
)
from tabvae_core.evaluation.comparison_report import render_comparison
from tabvae_core.evaluation.figures import safe_text
from tabvae_core.evaluation.neighbours import neighbour_map
from tabvae_core.evaluation.recommendation import MethodResult, recommend
from tabvae_core.evaluation.result import KeptRelation
from tabvae_core.evaluation.view import ColumnView, Floats, Side, TableView, Unit, modelled, picture_view, table_view
from tabvae_core.references import GateResult
from tabvae_core.schema import ColumnSchema, TableSchema
from tabvae_core.spec import Kind

HOSTILE_NAME = "<script>alert('name')</script> & \"q\" $$x$$ </style>"
HOSTILE_VALUE = "</script><img src=x onerror=alert('value')>"
SECRET = "Ms Rare-Person"


def schema_of(table: pa.Table, kinds: dict[str, Kind]) -> TableSchema:
    columns = tuple(
        ColumnSchema(
            name=field.name,
            kind=kinds.get(field.name, Kind.NUMBER),
            arrow_type=str(field.type),
            nulls=0.0,
            nullable=True,
            distinct=1,
        )
        for field in table.schema
    )
    message = base64.b64encode(table.schema.serialize().to_pybytes()).decode()
    return TableSchema(columns=columns, rows=table.num_rows, arrow_ipc=message)


def customers(rows: int, seed: int, *, rare: str = SECRET) -> pa.Table:
    rng = np.random.default_rng(seed)
    city = rng.choice([HOSTILE_VALUE, "Oslo", "Bergen"], rows).astype(object)
    city[:2] = rare
    income = np.round(np.exp(rng.normal(7, 1.2, rows)), 2)
    income[0] = 987_654.32
    return pa.table(
        {
            "id": [f"key-{seed}-{k:06}" for k in range(rows)],
            "income": pa.array(income, mask=rng.random(rows) < 0.2),
            HOSTILE_NAME: pa.array(city, pa.string()),
            "visits": pa.array(rng.poisson(3, rows)),
            "since": pa.array(rng.integers(0, 2_000_000_000, rows), pa.timestamp("s", "UTC")),
            "opened": pa.array(rng.integers(0, 20_000, rows).astype("int32"), pa.date32()),
            "at": pa.array(rng.integers(0, 86_400, rows).astype("int32"), pa.time32("s")),
            "took": pa.array(rng.integers(0, 900_000, rows), pa.duration("ms")),
        }
    )


KINDS = {"id": Kind.IDENTIFIER, HOSTILE_NAME: Kind.CATEGORY, "since": Kind.DATETIME, "opened": Kind.DATETIME}
KINDS |= {"at": Kind.DATETIME, "took": Kind.DATETIME}


class _Tags(HTMLParser):
    """Every start tag with its attributes, and the text outside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def parsed(html: str) -> _Tags:
    page = _Tags()
    page.feed(html)
    return page


@pytest.fixture(scope="module")
def tables() -> tuple[pa.Table, pa.Table, TableSchema]:
    holdout = customers(400, 1)
    return holdout, customers(400, 2, rare="Oslo"), schema_of(holdout, KINDS)


@pytest.fixture(scope="module")
def evaluation(tables: tuple[pa.Table, pa.Table, TableSchema]) -> Evaluation:
    holdout, synthetic, schema = tables
    return evaluate(holdout, synthetic, schema, train=customers(400, 3), target_column="visits")


GATES = (
    GateResult(name="jsd", column="visits", passed=True, value=0.01, limit=0.15),
    GateResult(name="c2st", passed=False, value=0.97, limit=0.9),
)


@pytest.fixture(scope="module")
def html(
    tables: tuple[pa.Table, pa.Table, TableSchema],
    evaluation: Evaluation,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    path = tmp_path_factory.mktemp("out") / "deep" / "report.html"
    holdout, synthetic, schema = tables
    written = render_report(
        evaluation, holdout, synthetic, schema, title="customers", subtitle="version 7", gates=GATES, path=path
    )
    assert written == path
    return path.read_text(encoding="utf-8")


def test_it_is_one_small_file_that_asks_the_network_for_nothing(html: str) -> None:
    assert len(html.encode()) < 5_000_000
    page = parsed(html)
    assert "link" not in {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        loads = {name for name in ("src", "href", "srcset", "data", "action") if attributes.get(name)}
        assert not loads, f"<{tag}> loads {loads}"
    assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", html)
    assert "cdn.bokeh.org" not in re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)


def test_the_verdict_comes_first(html: str, evaluation: Evaluation) -> None:
    text = parsed(html).text
    assert text.index("Refused") < text.index("How close is it?")
    assert "1 of 2 checks did not pass" in text
    assert "c2st: 0.97, where 0.9 is allowed" in text
    assert evaluation.verdict.sentence in text
    assert html.index('id="verdict"') < html.index("<table")


@pytest.mark.parametrize(
    ("gates", "head"), [((), "Measured"), (GATES[:1], "Accepted The one check passed"), (GATES, "Refused")]
)
def test_accepted_refused_or_only_measured(
    tables: tuple[pa.Table, pa.Table, TableSchema],
    evaluation: Evaluation,
    tmp_path: Path,
    gates: tuple[GateResult, ...],
    head: str,
) -> None:
    holdout, synthetic = (table.select(["visits"]) for table in tables[:2])
    small = schema_of(holdout, {})
    found = evaluate(holdout, synthetic, small)
    path = render_report(
        found, holdout, synthetic, small, title="t", subtitle="", gates=gates, path=tmp_path / "r.html"
    )
    assert head in parsed(path.read_text(encoding="utf-8")).text


def test_figures_stand_beside_their_floors(html: str, evaluation: Evaluation) -> None:
    text = parsed(html).text
    for name in ("shape", "trend"):
        metric = evaluation.metrics[name]
        assert f"{metric.value:.2f} %" in text
        assert f"{metric.floor:.2f} %" in text
    for column in evaluation.columns:
        assert column.name.split("$$")[0].strip()[:20] in text


def test_hostile_names_and_values_stay_text(html: str) -> None:
    page = parsed(html)
    assert HOSTILE_NAME in page.text
    assert "img" not in {tag for tag, _ in page.tags}
    assert not [value for _, attributes in page.tags for name, value in attributes.items() if name.startswith("on")]
    assert html.lower().count("<script") == html.lower().count("</script>")
    assert "<script>alert" not in html
    assert HOSTILE_VALUE not in html


def test_labels_are_never_tex() -> None:
    assert "$$" not in safe_text("$$x$$")
    assert "\\(" not in safe_text("\\(x\\)")
    assert safe_text(" \n ") == "(blank)"
    assert len(safe_text("x" * 99, 20)) == 20


def test_no_rare_value_of_a_real_row_is_named(html: str, tables: tuple[pa.Table, pa.Table, TableSchema]) -> None:
    assert SECRET not in html
    assert "987654.32" not in html
    assert "987,654" not in html
    assert not any(key in html for key in tables[0]["id"].to_pylist()[:50])


def test_bars_name_only_what_five_rows_share() -> None:
    codes = np.array([0.0] * 10 + [1.0] * MIN_NAMED + [2.0] * (MIN_NAMED - 1) + [np.nan] * 2)
    column = ColumnView("c", Kind.CATEGORY, "number", ("a", "b", "rare"), dict.fromkeys(Side, codes))
    chart = column_chart(column)
    assert isinstance(chart, Bars)
    assert chart.labels == ("a", "b", "(other)", "(null)")
    assert chart.hidden == 1
    assert chart.real.sum() == pytest.approx(1.0)
    assert chart.real.tolist() == chart.synthetic.tolist()


def histogram(values: Floats) -> Histogram:
    column = ColumnView("c", Kind.NUMBER, "number", None, {Side.HOLDOUT: values, Side.SYNTHETIC: values})
    chart = column_chart(column)
    assert isinstance(chart, Histogram)
    return chart


def test_histograms_hold_every_row_on_round_edges() -> None:
    rng = np.random.default_rng(0)
    chart = histogram(rng.normal(100, 15.123, 5000))
    assert chart.real.sum() == pytest.approx(1.0)
    assert np.allclose(chart.edges, np.round(chart.edges))
    assert not chart.log


def test_spikes_are_listed_and_long_tails_are_logarithmic() -> None:
    rng = np.random.default_rng(0)
    values = np.where(rng.random(4000) < 0.6, 0.0, np.exp(rng.normal(5, 2, 4000)))
    chart = histogram(values)
    assert [spike.label for spike in chart.spikes] == ["0"]
    assert chart.spikes[0].real == pytest.approx(0.6, abs=0.03)
    assert chart.real.sum() + chart.spikes[0].real == pytest.approx(1.0)
    assert chart.log


def test_values_are_written_for_people() -> None:
    noon = dt.datetime(2024, 2, 29, 12, 0, tzinfo=dt.UTC).timestamp()
    assert format_value(noon, "datetime") == "2024-02-29 12:00"
    assert format_value(noon, "date") == "2024-02-29"
    assert format_value(3661, "time") == "01:01:01"
    assert format_value(7200, "duration") == "2 h"
    assert format_value(1234567, "number") == "1,234,567"
    assert format_value(1e20, "datetime").endswith(" s")


def test_empty_and_degenerate_tables_still_get_a_report(tmp_path: Path) -> None:
    table = pa.table({"a": pa.nulls(12), "b": [1] * 12, "c": pa.array([None] * 12, pa.float64()), "k": ["v"] * 12})
    schema = schema_of(table, {"a": Kind.CATEGORY, "k": Kind.CONSTANT})
    found = evaluate(table, table, schema)
    path = render_report(found, table, table, schema, title="t", subtitle="s", path=tmp_path / "a.html")
    assert "Measured" in path.read_text(encoding="utf-8")
    only = table.select(["k"])
    found = evaluate(only, only, schema_of(only, {"k": Kind.CONSTANT}))
    path = render_report(
        found, only, only, schema_of(only, {"k": Kind.CONSTANT}), title="t", subtitle="s", path=tmp_path / "b.html"
    )
    assert "Nothing could be compared" in path.read_text(encoding="utf-8")


def test_a_wide_table_is_drawn_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MAX_CHARTS", 3)
    rng = np.random.default_rng(0)
    table = pa.table({f"c{k:03}": rng.integers(0, 4, 40) for k in range(8)})
    schema = schema_of(table, {})
    found = evaluate(table, table, schema)
    path = render_report(found, table, table, schema, title="wide", subtitle="", path=tmp_path / "w.html")
    assert "5 further columns" in parsed(path.read_text(encoding="utf-8")).text


def test_a_place_that_cannot_be_written_is_said(
    tables: tuple[pa.Table, pa.Table, TableSchema], evaluation: Evaluation, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        render_report(evaluation, *tables, title="t", subtitle="s", path=tmp_path / "file" / "report.html")


def test_real_rows_leave_as_counts(tables: tuple[pa.Table, pa.Table, TableSchema]) -> None:
    """The table view that pictures are made of stays in memory; edges of bins are no cell."""
    holdout, synthetic, schema = tables
    view = table_view({Side.HOLDOUT: holdout, Side.SYNTHETIC: synthetic}, modelled(schema))
    income = next(column for column in view.columns if column.name == "income")
    chart = column_chart(income)
    assert isinstance(chart, Histogram)
    assert not np.isin(chart.edges, income.values[Side.HOLDOUT]).any()


# ---------------------------------------------------------------- sections


def test_every_question_has_its_section(html: str) -> None:
    text = parsed(html).text
    heads = ("Every column", "Empty cells", "by the calendar", "Do columns go together?", "at a glance", "two by two")
    places = [text.index(head) for head in heads]
    assert places == sorted(places)
    for title in ("by month", "by weekday", "by hour"):
        assert title in text
    assert "Of each row’s ten nearest neighbours" in text


def test_relations_are_listed_with_their_shares(
    tables: tuple[pa.Table, pa.Table, TableSchema], evaluation: Evaluation, tmp_path: Path
) -> None:
    kept = KeptRelation(formula="total = net + tax", real=1.0, synthetic=0.875)
    found = evaluation.model_copy(update={"relations": (kept,)})
    path = render_report(found, *tables, title="t", subtitle="s", path=tmp_path / "r.html")
    assert "total = net + tax 100.0 % 87.5 %" in parsed(path.read_text(encoding="utf-8")).text


def view_of(real: dict[str, Floats], synthetic: dict[str, Floats], unit: Unit = "number") -> TableView:
    """A view of measures."""
    columns = tuple(
        ColumnView(name, Kind.NUMBER, unit, None, {Side.HOLDOUT: real[name], Side.SYNTHETIC: synthetic[name]})
        for name in real
    )
    rows = {side: len(columns[0].values[side]) for side in (Side.HOLDOUT, Side.SYNTHETIC)}
    return TableView(columns, rows)


def instants(*texts: str) -> Floats:
    return np.array(texts, dtype="datetime64[s]").astype(np.float64)


def test_calendars_count_years_months_weekdays_and_hours() -> None:
    real = instants("2023-12-31T23:59", "2024-01-01T00:00", "2024-02-29T12:30", "1969-12-31T23:00")
    synthetic = np.append(instants("2024-01-01T00:10"), np.nan)
    parts = {
        part.title: part.bars for part in calendar(view_of({"at": real}, {"at": synthetic}, "datetime").columns[0])
    }
    assert list(parts) == ["by month", "by weekday", "by hour"], "too many years to draw"
    shares = {title: dict(zip(bars.labels, bars.real, strict=True)) for title, bars in parts.items()}
    assert shares["by month"]["Dec"] == 0.5
    assert shares["by weekday"] == {"Mon": 0.25, "Tue": 0, "Wed": 0.25, "Thu": 0.25, "Fri": 0, "Sat": 0, "Sun": 0.25}
    assert shares["by hour"]["23"] == 0.5
    assert dict(zip(parts["by month"].labels, parts["by month"].synthetic, strict=True))["Jan"] == 1.0


@pytest.mark.parametrize(
    ("unit", "titles"),
    [
        ("datetime", ["by year", "by month", "by weekday", "by hour"]),
        ("date", ["by year", "by month", "by weekday"]),
        ("time", ["by hour"]),
        ("duration", []),
        ("number", []),
    ],
)
def test_each_kind_of_time_has_its_calendars(unit: Unit, titles: list[str]) -> None:
    values = np.random.default_rng(0).uniform(0, 3e8, 200)
    found = calendar(view_of({"at": values}, {"at": values}, unit).columns[0])
    assert [part.title for part in found] == titles
    for part in found:
        assert part.bars.real.sum() == pytest.approx(1.0)
        assert part.bars.real.tolist() == part.bars.synthetic.tolist()


@pytest.mark.parametrize("value", [np.nan, 1e15, -1e15])
def test_times_beyond_calendars_are_not_counted(value: float) -> None:
    values = np.full(20, value)
    assert calendar(view_of({"at": values}, {"at": values}, "datetime").columns[0]) == ()


def test_empty_cells_are_ordered_by_their_difference() -> None:
    def holes(share: float) -> Floats:
        return np.where(np.arange(100) < 100 * share, np.nan, 1.0)

    real = {"full": holes(0), "same": holes(0.5), "lost": holes(0.2), "made": holes(0)}
    chart = null_bars(view_of(real, real | {"lost": holes(0), "made": holes(0.1)}))
    assert chart is not None
    assert chart.labels == ("lost", "made", "same")
    assert chart.real.tolist() == [0.2, 0.0, 0.5]
    assert chart.synthetic.tolist() == [0.0, 0.1, 0.5]
    assert null_bars(view_of({"full": holes(0)}, {"full": holes(0)})) is None


def test_neighbours_mix_where_tables_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "ROWS", 150)

    def rows(seed: int, shift: float = 0.0) -> dict[str, Floats]:
        rng = np.random.default_rng(seed)
        return {name: rng.normal(shift, 1, 300) for name in "abc"}

    alike = neighbour_map(view_of(rows(0), rows(1)))
    apart = neighbour_map(view_of(rows(0), rows(1, 6.0)))
    assert alike is not None
    assert apart is not None
    assert alike.mixing == pytest.approx(0.5, abs=0.08)
    assert apart.mixing < 0.05
    assert alike.real.counts.sum() == alike.rows == len(alike.points) == 150
    again = neighbour_map(view_of(rows(0), rows(1)))
    assert again is not None
    assert again.mixing == alike.mixing
    assert (
        neighbour_map(view_of({"a": np.zeros(99), "b": np.zeros(99)}, {"a": np.zeros(99), "b": np.zeros(99)})) is None
    )


@pytest.mark.parametrize(("columns", "features"), [(2, 20), (150, 600), (900, 900)])
def test_features_of_wide_tables_are_bounded(columns: int, features: int) -> None:
    codes = np.arange(40.0)
    wide = tuple(
        ColumnView(f"c{k}", Kind.CATEGORY, "number", tuple(map(str, range(40))), dict.fromkeys(Side, codes))
        for k in range(columns)
    )
    parts = row_features(TableView(wide, dict.fromkeys(Side, 40)))
    assert sum(real.shape[1] for real, _ in parts) == features


# ---------------------------------------------------------------- methods side by side


@pytest.fixture(scope="module")
def comparison(
    tables: tuple[pa.Table, pa.Table, TableSchema], evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory
) -> str:
    holdout, synthetic, schema = tables
    copied = evaluate(
        holdout, customers(400, 3), schema, train=customers(400, 3), target_column="visits", floors_of=evaluation
    )
    cost = {"sample_seconds": 2.0, "sample_rows": 400, "model_bytes": 1_234_567, "peak_mib": 321}
    results = [
        MethodResult(method="copying", fit_seconds=3.0, evaluation=copied, **cost),
        MethodResult(method="learning", fit_seconds=90.5, evaluation=evaluation, stopped_by="max_seconds", **cost),
        MethodResult(method="failing", failed=f"too many features {HOSTILE_NAME}"),
    ]
    views = {
        name: picture_view(holdout, table, schema, max_rows=400, seed=0)
        for name, table in (("copying", customers(400, 3)), ("learning", synthetic))
    }
    path = tmp_path_factory.mktemp("out") / "comparison.html"
    render_comparison(results, recommend(results), views, title="customers", subtitle="side by side", path=path)
    return path.read_text(encoding="utf-8")


def test_the_recommendation_comes_first_with_its_reasons(comparison: str, evaluation: Evaluation) -> None:
    text = parsed(comparison).text
    assert text.index("Recommended: learning") < text.index("The rule: ") < text.index("Side by side")
    assert f"AUC {max(0.5, evaluation.metrics['c2st'].value or 0):.3f}" in text
    assert comparison.index('id="verdict"') < comparison.index("<table")


def test_every_method_has_its_row(comparison: str, evaluation: Evaluation) -> None:
    text = parsed(comparison).text
    assert f"too many features {HOSTILE_NAME}" in text
    for part in ("90.5 s", "time limit", "200", "1.2 MB", "321 MiB"):
        assert part in text
    for name in ("shape", "trend"):
        metric = evaluation.metrics[name]
        assert f"{metric.value:.2f} %" in text
        assert f"{metric.floor:.2f} %" in text
    assert text.index("Floor") < text.index("90.5 s")


def test_every_method_has_the_same_pictures(comparison: str) -> None:
    """Two methods: each column, difference, projection and pair once a method; the real ones once."""
    page = parsed(comparison)
    plots = sum(attributes.get("class") == "plot" for _, attributes in page.tags)
    columns, pairs = 7, 3
    assert plots == 1 + 2 * columns + (1 + 2) + (1 + 2) + 2 * pairs


def test_a_comparison_is_one_small_file_that_holds_no_row(comparison: str) -> None:
    assert len(comparison.encode()) < 5_000_000
    page = parsed(comparison)
    for tag, attributes in page.tags:
        assert not {name for name in ("src", "href", "srcset", "data") if attributes.get(name)}, tag
    assert comparison.lower().count("<script") == comparison.lower().count("</script>")
    assert "<script>alert" not in comparison
    assert HOSTILE_VALUE not in comparison
    assert SECRET not in comparison
    assert "987,654" not in comparison


def test_nothing_recommended_is_said_too(tmp_path: Path) -> None:
    results = [MethodResult(method="failing", failed="too many features")]
    path = render_comparison(results, recommend(results), {}, title="t", subtitle="s", path=tmp_path / "c.html")
    text = parsed(path.read_text(encoding="utf-8")).text
    assert "No recommendation No method could be measured." in text
    assert "too many features" in text
