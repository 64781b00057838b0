"""Rules: what they mean, on every Arrow type and with nulls, and what is said of wrong ones."""

from __future__ import annotations

import datetime as dt
import pickle
import re
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings

from tabvae_core.errors import ImpossibleRule, SpecError
from tabvae_core.inference import infer_schema
from tabvae_core.rules import Bounds, bounds_of, check_rules, parse_rule, residual, violations
from tabvae_core.rules.syntax import write_name
from tabvae_core.schema import TableSchema
from tabvae_core.spec import ColumnOverride
from tabvae_core.tables import InMemoryTable


def holds(text: str, *, null_as: bool = True, **columns: Any) -> list[bool]:
    result: list[bool] = parse_rule(text).evaluate(pa.table(columns), null_as=null_as).to_pylist()
    return result


def schema_of(**columns: Any) -> TableSchema:
    return infer_schema(InMemoryTable(pa.table(columns)))


# A Python oracle with three values

_OPERATORS: dict[str, Any] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}
_COLUMNS = ("a", "b", "big")

_term = st.one_of(
    st.sampled_from(_COLUMNS).map(lambda name: (name, lambda row: row[name])),
    st.integers(-3, 3).map(lambda value: (str(value), lambda row: value)),
)
_sum = st.tuples(_term, st.sampled_from("+-*"), _term).map(
    lambda t: (
        f"({t[0][0]} {t[1]} {t[2][0]})",
        lambda row: None if None in (t[0][1](row), t[2][1](row)) else _arithmetic(t[1], t[0][1](row), t[2][1](row)),
    )
)


def _arithmetic(op: str, a: Any, b: Any) -> Any:
    return a + b if op == "+" else a - b if op == "-" else a * b


def _comparison(parts: Any) -> tuple[str, Any]:
    (left, get_left), op, (right, get_right) = parts

    def test(row: dict[str, Any]) -> bool | None:
        a, b = get_left(row), get_right(row)
        return None if a is None or b is None else bool(_OPERATORS[op](a, b))

    return f"{left} {op} {right}", test


def _both(a: bool | None, b: bool | None) -> bool | None:
    if a is False or b is False:
        return False
    return None if a is None or b is None else True


def _not(a: bool | None) -> bool | None:
    return None if a is None else not a


_column = st.sampled_from(_COLUMNS).map(lambda name: (name, lambda row: row[name]))
_atom = st.one_of(
    st.tuples(_column, st.sampled_from(sorted(_OPERATORS)), st.one_of(_term, _sum)).map(_comparison),
    st.tuples(_column, st.lists(st.integers(-3, 3), min_size=1, max_size=3)).map(
        lambda t: (f"{t[0][0]} in {t[1]}", lambda row: None if t[0][1](row) is None else t[0][1](row) in t[1])
    ),
    _column.map(lambda t: (f"isnull({t[0]})", lambda row: t[1](row) is None)),
)
_condition = st.recursive(
    _atom,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(
            lambda t: (f"({t[0][0]} and {t[1][0]})", lambda row: _both(t[0][1](row), t[1][1](row)))
        ),
        st.tuples(inner, inner).map(
            lambda t: (
                f"({t[0][0]} or {t[1][0]})",
                lambda row: _not(_both(_not(t[0][1](row)), _not(t[1][1](row)))),
            )
        ),
        inner.map(lambda t: (f"not ({t[0]})", lambda row: _not(t[1](row)))),
    ),
    max_leaves=4,
)
_rows = st.lists(
    st.fixed_dictionaries(
        {
            "a": st.one_of(st.none(), st.integers(-4, 4)),
            "b": st.one_of(st.none(), st.integers(-4, 4)),
            "big": st.one_of(st.none(), st.integers(2**53 - 2, 2**53 + 3), st.sampled_from([-(2**63), 2**63 - 1])),
        }
    ),
    max_size=8,
)
_NARROW = (pa.int8(), pa.int64(), pa.decimal128(5, 2), pa.float64())


@settings(max_examples=120, deadline=None)
@given(_condition, _rows, st.sampled_from(_NARROW), st.booleans())
def test_rules_agree_with_python(condition: Any, rows: list[dict[str, Any]], kind: pa.DataType, null_as: bool) -> None:
    text, oracle = condition
    schema = pa.schema([("a", kind), ("b", pa.int16()), ("big", pa.int64())])
    cells = {n: [row[n] if n != "a" or row[n] is None else Decimal(row[n]) for row in rows] for n in schema.names}
    if not pa.types.is_decimal(kind):
        cells["a"] = [None if value is None else int(value) for value in cells["a"]]
    # Floats meet integers beyond 2**53 exactly in comparisons only; sums of the two are floats.
    assume(not (pa.types.is_floating(kind) and "big" in text and re.search(r" [-+*] ", text)))
    table = pa.table(cells, schema)
    expected = [null_as if (found := oracle(row)) is None else found for row in rows]
    assert parse_rule(text).evaluate(table, null_as=null_as).to_pylist() == expected


# Types

_BERLIN = pa.timestamp("ns", "Europe/Berlin")
_NOON = dt.datetime(2024, 6, 1, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("cells", "text", "expected"),
    [
        (pa.array([1, None, -1], pa.int8()), "x > 0", [True, True, False]),
        (pa.array([0, 255], pa.uint8()), "x >= 300", [False, False]),
        (pa.array([0, 255], pa.uint8()), "x > -1", [True, True]),
        (pa.array([2**53, 2**53 + 1]), "x > 9007199254740992", [False, True]),
        (pa.array([2**53, 2**53 + 1]), "x == 9007199254740993", [False, True]),
        (pa.array([2**64 - 1, 0], pa.uint64()), "x in (18446744073709551615, 5)", [True, False]),
        (pa.array([1, 2]), "x > 1.5", [False, True]),
        (pa.array([1, 2]), "x == 1.5", [False, False]),
        (pa.array([1, 2]), "x != 1.5", [True, True]),
        (pa.array([0.1, 0.2], pa.float32()), "x <= 0.1", [True, False]),
        (pa.array([0.5, -0.0], pa.float16()), "x in (0.5, 0)", [True, True]),
        (pa.array([float("nan"), 1.0]), "x > 0", [False, True]),
        (pa.array([Decimal("1.10"), Decimal("1.11")], pa.decimal128(38, 2)), "x <= 1.1", [True, False]),
        (pa.array([Decimal("1.10"), Decimal("1.11")], pa.decimal256(70, 2)), "x > 1.105", [False, True]),
        (pa.array([Decimal("0.15"), Decimal("0.16")], pa.decimal128(9, 2)), "x % 0.05 == 0", [True, False]),
        (pa.array([True, False, None]), "x", [True, False, True]),
        (pa.array([True, False, None]), "not x", [False, True, True]),
        (pa.array([True, False]), "x == true", [True, False]),
        (pa.array(["a", "b", None]), "x != 'a'", [False, True, True]),
        (pa.array(["a", "b"], pa.large_string()), "x not in ['a']", [False, True]),
        (pa.array(["a", "b"], pa.string_view()), 'x == "a"', [True, False]),
        (pa.array(["a", None, "b"]).dictionary_encode(), "x in ('a', 'c')", [True, True, False]),
        (pa.array([5, 7]).dictionary_encode(), "x > 6", [False, True]),
        (pa.array(["it's", "b"]), "x == 'it''s'", [True, False]),
        (pa.array([dt.date(2024, 1, 31), dt.date(2024, 2, 1)]), "x >= '2024-02-01'", [False, True]),
        (pa.array([dt.date(2024, 1, 31)], pa.date64()), "x == '2024-01-31'", [True]),
        (pa.array([dt.date(2024, 1, 31)]), "x < '2024-01-31T12:00:00'", [True]),
        (pa.array([_NOON.replace(tzinfo=None)], pa.timestamp("s")), "x > '2024-06-01T11:59:59.5'", [True]),
        (pa.array([_NOON], _BERLIN), "x == '2024-06-01T14:00:00'", [True]),
        (pa.array([_NOON], _BERLIN), "x == '2024-06-01T12:00:00+00:00'", [True]),
        (pa.array([1], pa.timestamp("ns")), "x == '1970-01-01T00:00:00.000000001'", [True]),
        (pa.array([dt.time(8, 30)], pa.time32("ms")), "'08:00' < x <= '08:30'", [True]),
        (pa.array([90, None], pa.duration("s")), "x <= 89.5", [False, True]),
        (pa.nulls(2), "x > 0 and x != 'a'", [True, True]),
        (pa.nulls(2), "notnull(x)", [False, False]),
        (pa.array([None, 1], pa.int64()), "x is null", [True, False]),
        (pa.array([None, 1], pa.int64()), "x != null", [False, True]),
        (pa.array([b"abc", None]), "len(x) == 2", [False, True]),
        (pa.array(["äöü", ""]), "len(x) > 0", [True, False]),
        (pa.array([[1, 2], []]), "len(x) > 0", [True, False]),
        (pa.array([-3, 3]), "abs(x) == 3", [True, True]),
        (pa.array([-(2**63)]), "abs(x) == 9223372036854775808", [True]),
        (pa.array([2**62]), "x * 4 == 18446744073709551616", [True]),
        (pa.array([1, 0]), "10 / x > 5", [True, True]),
        (pa.array([-7, 7, 0]), "x % 3 == 2", [True, False, False]),
    ],
)
def test_every_type_compares_exactly(cells: pa.Array, text: str, expected: list[bool]) -> None:
    table = pa.table({"x": cells})
    assert parse_rule(text).evaluate(table).to_pylist() == expected
    batches = [parse_rule(text).evaluate(batch) for batch in table.to_batches(max_chunksize=1)]
    assert pa.concat_arrays(batches).to_pylist() == expected


@pytest.mark.parametrize(
    ("left", "right", "text", "expected"),
    [
        (pa.array([2**53 + 1]), pa.array([float(2**53)]), "x > y", [True]),
        (pa.array([-1], pa.int8()), pa.array([2**64 - 1], pa.uint64()), "x < y", [True]),
        (pa.array([Decimal("1.5")]), pa.array([1]), "x > y", [True]),
        (pa.array([Decimal("1.50")]), pa.array([Decimal("1.5000")]), "x == y", [True]),
        (pa.array(["a"]), pa.array(["b"]).dictionary_encode(), "x < y", [True]),
        (pa.array([_NOON], _BERLIN), pa.array([_NOON], pa.timestamp("s", "UTC")), "x == y", [True]),
        (pa.array([_NOON], _BERLIN), pa.array([dt.date(2024, 6, 1)]), "x >= y", [True]),
        (pa.array([2**60], pa.timestamp("s")), pa.array([1], pa.timestamp("ns")), "x > y", [True]),
        (pa.array([dt.date(2024, 3, 1)]), pa.array([dt.date(2024, 2, 1)]), "x - y == 29 * 86400", [True]),
        (pa.array([None, 5]), pa.array([1, None]), "x >= y", [True, True]),
    ],
)
def test_two_columns(left: pa.Array, right: pa.Array, text: str, expected: list[bool]) -> None:
    assert holds(text, x=left, y=right) == expected


def test_names_that_are_no_identifiers() -> None:
    table = {"education.num": [1], "class": ["a"], "hours per week": [40], "net-total": [3], "Größe": [1], "len": [2]}
    for text in (
        "education.num > 0",
        "class == 'a'",
        "`hours per week` > 0",
        "`net-total` == 3",
        "Größe > 0",
        "len > 1",
    ):
        assert holds(text, **table) == [True], text
    assert parse_rule("class == 'a' and education.num < 2").columns == {"class", "education.num"}


def test_rule_survives_pickling_and_counts_violations() -> None:
    rule = pickle.loads(pickle.dumps(parse_rule("age > 0")))
    assert rule == parse_rule("age > 0")
    assert violations([rule, "age < 3"], pa.table({"age": [0, 1, 5, None]})) == {"age > 0": 1, "age < 3": 1}
    assert violations([rule], pa.table({"age": pa.array([], pa.int64())})) == {"age > 0": 0}


# What is wrong


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("age = 5", "rule 'age = 5', character 5", "=="),
        ("age <> 5", "character 5", "!="),
        ("age > 0 && income > 0", "character 9", "write and"),
        ("age >", "cannot be read", "for example"),
        ("age > 0) or (age < 1", "cannot be read", ""),
        ("5age > 0", "an operator is missing", ""),
        ("agee > 0", "there is no column 'agee'", "did you mean age?"),
        ("sign-up > 0", "there is no column 'sign'", "`sign-up`"),
        ("age > '5'", "compares a number column with text", "without quotes"),
        ("status > 5", "compares a text column with a number", "in quotes"),
        ("opened >= 'yesterday'", "no ISO date", "2024-01-31"),
        ("opened >= '2024-01-01T00:00:00+01:00'", "no time zone", "offset"),
        ("age > status", "compares a number column with a text column", ""),
        ("age + status > 0", "applies + to a number and a text", "numbers"),
        ("age", "has a number where a condition is needed", ""),
        ("1 < 2", "names no column", ""),
        ("", "is empty", ""),
        ("lenn(status) > 1", "calls lenn()", "len()"),
        ("__import__('os').system('x')", "calls __import__()", ""),
        ("age.__class__ > 0", "there is no column 'age.__class__'", ""),
        ("[age for age in (1,)]", "cannot be read", ""),
        ("(lambda: age)()", "cannot be read", ""),
        ("age in status", "needs a list", "for example"),
        ("age in ()", "is empty", ""),
        ("age > 1e999999999", "no column can hold", ""),
        ("(" * 300 + "age" + ")" * 300 + " > 0", "", ""),
        ("age > 0" + " and age > 0" * 2000, "characters", ""),
        ("status == 'open", "never closed", ""),
        ("age > 10 / 0", "divides by zero", ""),
    ],
)
def test_wrong_rules_are_explained(text: str, message: str, hint: str) -> None:
    table = {
        "age": [20, 30],
        "status": ["open", "closed"],
        "sign-up": [1, 2],
        "opened": [dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 2)],
        "income": [1.0, 2.0],
    }
    with pytest.raises(SpecError) as caught:
        check_rules([text], schema_of(**{name: cells * 20 for name, cells in table.items()}))
    assert message in str(caught.value) or (text.startswith("(((") and "nested" in str(caught.value))
    assert hint in caught.value.hint
    assert "20" not in caught.value.hint.replace("2024", "")


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab()<>=!'\"`.,[]{}:;+-*/%&|^~@#$\\ \n01eandorti_ä世", max_size=25))
def test_any_text_gives_a_rule_or_a_spec_error(text: str) -> None:
    try:
        rule = parse_rule(text)
    except SpecError:
        return
    assert rule.columns


def test_dropped_and_doubled_columns_are_named() -> None:
    schema = schema_of(age=[1, 2] * 20, note=["x", "y"] * 20)
    dropped = schema.columns[1].model_copy(update={"unlearnable": "drop"})
    with pytest.raises(SpecError, match="left out"):
        check_rules(["note != 'a'"], schema.model_copy(update={"columns": (schema.columns[0], dropped)}))
    doubled = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(SpecError, match="more than once"):
        parse_rule("a > 0").evaluate(doubled)


# Bounds


def test_bounds_merge_rules_and_overrides() -> None:
    schema = schema_of(
        age=list(range(100)),
        income=[float(i) for i in range(100)],
        status=["open", "closed", "void", "other"] * 25,
        opened=pa.array([dt.datetime(2024, 1, 1 + i % 28) for i in range(100)], pa.timestamp("us")),
        flag=[True, False] * 50,
        score=list(range(100)),
    )
    rules = (
        "age > 0 and 18.5 <= age",
        "0 < income <= 50",
        "status in ('open', 'closed', 'void')",
        "status != 'void'",
        "not (opened < '2024-01-05')",
        "flag",
        "score > age",
        "notnull(age)",
        "not (score < 3 or score == 7)",
    )
    bounds = bounds_of(rules, schema, {"age": ColumnOverride(maximum=65), "score": ColumnOverride(minimum=5.0)})
    assert bounds["age"] == Bounds(minimum=19, maximum=65, nullable=False)
    assert bounds["income"] == Bounds(minimum=0.0, minimum_open=True, maximum=50.0)
    assert bounds["status"] == Bounds(allowed=("open", "closed"), excluded=("void",))
    assert bounds["opened"].minimum == "2024-01-05T00:00:00"
    assert bounds["flag"] == Bounds(allowed=(True,))
    assert bounds["score"] == Bounds(minimum=5, excluded=(7,))
    assert residual(rules) == (parse_rule("score > age"),)


@pytest.mark.parametrize(
    ("kind", "bounds", "limits"),
    [
        (pa.int64(), Bounds(minimum=0, minimum_open=True, maximum=5), (1, 5)),
        (pa.decimal128(9, 2), Bounds(minimum=Decimal("1.1"), maximum=2, maximum_open=True), (110, 199)),
        (pa.date32(), Bounds(minimum="1970-01-02"), (1, None)),
        (pa.timestamp("ms"), Bounds(maximum="1970-01-01T00:00:01", maximum_open=True), (None, 999)),
        (pa.float64(), Bounds(minimum=0.0, minimum_open=True), (5e-324, None)),
        (pa.string(), Bounds(minimum="a"), (None, None)),
    ],
)
def test_limits_are_inclusive_on_the_storage_scale(kind: pa.DataType, bounds: Bounds, limits: tuple[Any, Any]) -> None:
    assert bounds.limits(kind) == limits


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.integers(-6, 6)), max_size=12),
    st.lists(
        st.sampled_from(
            ["x > -2", "x <= 4", "x < 3.5", "x != 0", "x in (-3, 0, 1, 2)", "not (x > 5)", "-5 <= x < 6", "notnull(x)"]
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([pa.int8(), pa.float32(), pa.decimal128(5, 1)]),
)
def test_bounds_hold_exactly_where_the_rules_hold(cells: list[int | None], rules: list[str], kind: pa.DataType) -> None:
    made = [None if cell is None else Decimal(cell) for cell in cells] if pa.types.is_decimal(kind) else cells
    table = pa.table({"x": pa.array(made, kind)})
    every = pa.table({"x": pa.array([Decimal(i) if pa.types.is_decimal(kind) else i for i in range(-9, 10)] * 4, kind)})
    bounds = bounds_of(rules, infer_schema(InMemoryTable(every)))["x"]
    assert residual(rules) == ()
    expected = [all(parse_rule(rule).evaluate(table)[i].as_py() for rule in rules) for i in range(len(cells))]
    inside = bounds.contains(table["x"].combine_chunks())
    assert inside.to_pylist() == expected


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (("age > 5", "age < 3"), ("age > 5", "age < 3")),
        (("age > 5 and age < 6",), ("age > 5 and age < 6",)),
        (("status == 'a'", "status == 'b'"), ("status == 'a'", "status == 'b'")),
        (("status in ('a',)", "status != 'a'"), ("status in ('a',)", "status != 'a'")),
        (("age in (1, 2)", "age > 2"), ("age in (1, 2)", "age > 2")),
        (("age == 1.5",), ("age == 1.5",)),
        (("age > 1000",), ("age > 1000",)),
        (("small > 300",), ("small > 300",)),
    ],
)
def test_impossible_rules_are_named(rules: tuple[str, ...], named: tuple[str, ...]) -> None:
    schema = schema_of(age=list(range(100)), status=["a", "b"] * 50, small=pa.array([1, 2] * 50, pa.uint8()))
    with pytest.raises(ImpossibleRule) as caught:
        check_rules(rules, schema)
    assert all(repr(rule) in str(caught.value) for rule in named)
    assert caught.value.rule == "; ".join(named)


def test_overrides_contradict_rules() -> None:
    schema = schema_of(age=list(range(100)))
    with pytest.raises(ImpossibleRule, match=r"columns\.age\.maximum = 10"):
        bounds_of(["age > 50"], schema, {"age": ColumnOverride(maximum=10)})


def test_good_rules_pass_the_check() -> None:
    schema = schema_of(age=list(range(100)), income=[float(i) for i in range(100)], nothing=pa.nulls(100))
    check_rules(["age > 0", "income >= age * 0.5 or isnull(income)", "nothing > 3"], schema)


@given(
    st.one_of(st.text(min_size=1, max_size=20), st.sampled_from(["class", "and", "Null", "TRUE", "len", "a`b", "age"]))
)
def test_any_name_can_be_written(name: str) -> None:
    assert parse_rule(f"{write_name(name)} >= {write_name('other')}").columns == {name, "other"}
    assert write_name("closed_at") == "closed_at"
