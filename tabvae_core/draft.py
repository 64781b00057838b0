"""`init_spec`: look at a table and write the spec of its refresh, commented, ready to run as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import permutations
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from tabvae_core.codecs.edges import Edge, find_edges
from tabvae_core.errors import DataError, SpecError
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.relations import MAX_ROWS, Relation, RelationKind, find_relations
from tabvae_core.rules import Rule, parse_rule
from tabvae_core.rules.syntax import write_name
from tabvae_core.schema import ColumnSchema, TableSchema, type_name
from tabvae_core.spec import GateSpec, Kind, ModelSpec, StorageSpec
from tabvae_core.tables import TableSource, collect

__all__ = ["init_spec"]

_MOST_DATES = 12
"""Date and time columns compared in pairs at most; beyond, the pairs would outnumber a reader's patience."""
_MOST_RELATIONS = 20
"""Relations shown at most, and orders proposed as rules."""
_TARGET_NAMES = (
    "target",
    "label",
    "class",
    "outcome",
    "churn",
    "churned",
    "y",
    "default",
    "response",
    "survived",
)


def init_spec(
    uri: str, storage: StorageSpec | None = None, *, target: str | None = None, progress: Progress = silent
) -> str:
    """Write a commented YAML spec for a table; it loads and runs unchanged.

    Everything that was found and not decided stands in comments: kinds with their reasons, relations between columns,
    rules that hold on all rows, the gates at their defaults.

    Args:
        uri: The table.
        storage: Access to it, and to the target beside it.
        target: Folder for the releases; left out: `<table>-synthetic` beside the source.
        progress: Told of the passes over the data.

    Raises:
        DataError: There is no such table, or it has no rows or columns.
        StorageError: It cannot be reached.

    """
    from tabvae_core.inference import infer_schema
    from tabvae_core.lake import ParquetSource

    access = storage or StorageSpec()
    source = ParquetSource(uri, storage=access)
    if source.num_rows == 0:
        raise DataError(f"{uri} has no rows", hint="a table is learned from its rows; point at one that has some")
    schema = infer_schema(source, progress=progress)
    relations = find_relations(source, schema, progress=progress)
    edges = find_edges(collect(source, max_rows=MAX_ROWS), schema, relations)
    rules = _plausible_rules(source, schema, relations, progress)
    lines = [
        f"# Refresh of {_comment(uri)}: {source.num_rows:,} rows, {len(source.schema)} columns.",
        "# Written by `tabvae init`.",
        "# Next: `tabvae check` this file, then `tabvae refresh` it. Comments show defaults and suggestions.",
        "",
        f"name: {_quoted(table_name(uri))}",
        "source:",
        f"  uri: {_quoted(uri)}",
        *_storage_lines(access),
        "target:",
        f"  uri: {_quoted(target or sibling(uri))}",
        *_storage_lines(access),
        "  # keep: 5                   # versions kept",
        "",
        *_expected_lines(source.schema),
        "",
        *_column_lines(schema),
        "",
        *_relation_lines(relations, edges),
        *_unlearnable_lines(schema),
        *_rule_lines(rules),
        "",
        *_target_column_lines(schema),
        "",
        *_model_lines(source.num_rows),
        "",
        *_gate_lines(),
    ]
    return "\n".join(lines) + "\n"


def table_name(uri: str) -> str:
    """Name a table after the last part of its URI, in the letters that a spec's name may have."""
    last = PurePosixPath(uri.split("://", 1)[-1].rstrip("/")).name
    stem = re.sub(r"\.(parquet|parq|pq)$", "", last)
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-_.")[:80] or "table"


def sibling(uri: str) -> str:
    """Folder beside a table, for its releases; never inside it."""
    scheme, separator, path = uri.rpartition("://")
    path = path.rstrip("/")
    parent = path.rpartition("/")[0]
    name = f"{table_name(uri)}-synthetic"
    if path in ("", ".", "..") or path.endswith("/.."):
        return f"{scheme}{separator}{path or ''}/../{name}"
    if not parent:
        return f"{scheme}{separator}{'/' if path.startswith('/') else ''}{name}"
    return f"{scheme}{separator}{parent}/{name}"


def _quoted(text: str) -> str:
    """Write a YAML scalar: plain where that is the same, else quoted."""
    try:
        plain = re.fullmatch(r"[A-Za-z0-9_./:-]+", text) and not text.endswith(":") and yaml.safe_load(text) == text
    except yaml.YAMLError:
        plain = False
    return text if plain else json.dumps(text, ensure_ascii=False)


def _comment(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)


def _storage_lines(storage: StorageSpec) -> list[str]:
    data = storage.model_dump(mode="json", exclude_defaults=True)
    if not data:
        return []
    return ["  storage:", *(f"    {key}: {_quoted(str(value))}" for key, value in data.items())]


def _expected_lines(schema: pa.Schema) -> list[str]:
    lines = ["# Columns that the source must have: a refresh stops when they change, unless `drift: accept`."]
    lines.append("expect_columns:")
    return lines + [f"  {_quoted(field.name)}: {_quoted(type_name(field.type))}" for field in schema]


def _column_lines(schema: TableSchema) -> list[str]:
    lines = ["# What was found out about each column; uncomment a line to override it.", "# columns:"]
    for column in schema.columns:
        reason = f"   # {_comment(column.note)}" if column.note else ""
        lines.append(f"#   {_comment(_quoted(column.name))}: {{kind: {column.kind.value}}}{reason}")
    return lines


def _unlearnable_lines(schema: TableSchema) -> list[str]:
    columns = [c for c in schema.columns if c.kind in (Kind.TEXT, Kind.NESTED)]
    if not columns:
        return []
    lines = [
        "# Free text and nested columns are not learned. generate: new text from words that many rows share",
        "# (nested columns: nulls), null: keep the column with nulls only, drop: leave it out, refuse: stop.",
    ]
    lines += [f"#   {_comment(c.name)} ({c.kind.value}): {c.unlearnable}" for c in columns]
    return [*lines, "unlearnable: generate", ""]


def _relation_lines(relations: Sequence[Relation], edges: Sequence[Edge]) -> list[str]:
    """Relations but for orders, which stand among the rules where all rows keep them; edges."""
    texts = [relation.text() for relation in relations if relation.kind is not RelationKind.ORDER]
    texts += [edge.text() for edge in edges]
    if not texts:
        return []
    lines = [f"# What was found between columns, in at most {MAX_ROWS:,} rows of the table:"]
    lines += [f"#   {_comment(text)}" for text in texts[:_MOST_RELATIONS]]
    if len(texts) > _MOST_RELATIONS:
        lines.append(f"#   and {len(texts) - _MOST_RELATIONS:,} more")
    return [*lines, ""]


def _rule_lines(rules: list[str]) -> list[str]:
    if not rules:
        return [
            "# rules:                       # conditions that every synthetic row satisfies",
            "#   - age > 0",
        ]
    lines = ["# These hold on every row today; uncomment those that are meant to hold.", "# rules:"]
    return lines + [f"#   - {_comment(json.dumps(rule, ensure_ascii=False))}" for rule in rules]


def _target_column_lines(schema: TableSchema) -> list[str]:
    guess = _target_column(schema)
    if guess is None:
        return ["# target_column: NAME          # column to predict when usefulness is measured"]
    return ["# Column to predict when usefulness is measured; a guess.", f"target_column: {_quoted(guess)}"]


def _target_column(schema: TableSchema) -> str | None:
    candidates = [c for c in schema.of_kind(Kind.BOOLEAN, Kind.CATEGORY) if 2 <= c.distinct <= 20]
    by_name = {column.name.lower(): column.name for column in candidates}
    for name in _TARGET_NAMES:
        if name in by_name:
            return by_name[name]
    return candidates[-1].name if candidates else None


def _model_lines(rows: int) -> list[str]:
    model = ModelSpec()
    return [
        "# model:",
        f"#   method: {model.method}                # vae_basic: a plain network, in seconds",
        "#   epochs: 20                 # left out: follows from rows and columns",
        f"#   seed: {model.seed}",
        "#   max_seconds: 600           # stop training after so long, with the best model so far",
        "# sample:",
        f"#   rows: {rows:<20} # left out: as many as the source has",
        "#   seed: 0",
    ]


def _gate_lines() -> list[str]:
    lines = ["# What a table must pass to be published, at the defaults.", "# gates:"]
    for name, field in GateSpec.model_fields.items():
        setting = f"{name}: {json.dumps(field.default)}"
        first = (field.description or "").split(";")[0].split(". ")[0].replace("\n", " ").rstrip(".")
        lines += [f"#   # {first}", f"#   {setting}"]
    return lines


def _plausible_rules(
    source: TableSource, schema: TableSchema, relations: Sequence[Relation], progress: Progress
) -> list[str]:
    """Find conditions that hold on all rows: no number below zero, one cell never below another."""
    numbers = [c.name for c in schema.of_kind(Kind.NUMBER) if _comparable(source.schema.field(c.name).type)]
    pairs = list(_date_pairs(schema, source.schema))
    seen: dict[str, bool] = dict.fromkeys(numbers, False)
    zeros: dict[str, bool] = dict.fromkeys(numbers, False)
    ordered: dict[tuple[str, str], bool] = dict.fromkeys(pairs, False)
    rules = _order_rules(relations, pairs)
    names = [*numbers, *(name for pair in pairs for name in pair), *(n for rule in rules for n in sorted(rule.columns))]
    wanted = list(dict.fromkeys(names))
    if not wanted:
        return []
    done = 0
    for batch in source.batches(wanted):
        for name in list(seen):
            low = pc.min(batch.column(name)).as_py()
            if low is None or low != low:
                continue
            if low < 0:
                del seen[name]
            else:
                seen[name], zeros[name] = True, zeros[name] or low == 0
        for late, early in list(ordered):
            answer = pc.min_max(pc.greater_equal(batch.column(late), batch.column(early)))["min"].as_py()
            if answer is False:
                del ordered[late, early]
            elif answer is True:
                ordered[late, early] = True
        rules = [rule for rule in rules if _holds(rule, batch)]
        done += batch.num_rows
        progress(ProgressEvent("rules", done, source.num_rows, "rows"))
    minimums = [f"{write_name(n)} {'>=' if zeros[n] else '>'} 0" for n, held in seen.items() if held]
    orders = [_order_text(late, early) for (late, early), held in ordered.items() if held]
    return [*orders, *(rule.text for rule in rules), *minimums]


def _order_rules(relations: Sequence[Relation], known: Iterable[tuple[str, str]]) -> list[Rule]:
    """Orders that were found in some rows, as rules to be tried on all; pairs that are known are tried anyway."""
    tried, rules = set(known), []
    for relation in relations:
        if relation.kind is RelationKind.ORDER:
            pair = (relation.target, relation.columns[0])
            high, low = pair if relation.at_least else pair[::-1]
            if (high, low) not in tried:
                with suppress(SpecError):  # a rule cannot name a column without a name
                    rules.append(parse_rule(_order_text(high, low)))
    return rules[:_MOST_RELATIONS]


def _order_text(high: str, low: str) -> str:
    return f"{write_name(high)} >= {write_name(low)}"


def _holds(rule: Rule, batch: pa.RecordBatch) -> bool:
    try:
        return bool(pc.all(rule.evaluate(batch), min_count=0).as_py())
    except SpecError:
        return False  # types that a rule does not compare


def _comparable(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _date_pairs(schema: TableSchema, arrow: pa.Schema) -> Iterable[tuple[str, str]]:
    """Pairs of columns of one type, so that Arrow compares them; equal columns would give both orders."""
    dates: list[ColumnSchema] = list(schema.of_kind(Kind.DATETIME))[:_MOST_DATES]
    for late, early in permutations(dates, 2):
        kind = arrow.field(late.name).type
        if kind == arrow.field(early.name).type and not pa.types.is_duration(kind):
            yield late.name, early.name
