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
from tabvae_core.evaluation import Evaluation, evaluate, render_report, report
from tabvae_core.evaluation.charts import MIN_NAMED, Bars, Histogram, column_chart, format_value
from tabvae_core.evaluation.figures import safe_text
from tabvae_core.evaluation.view import ColumnView, Floats, Side, modelled, table_view
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
