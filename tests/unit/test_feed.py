"""Releases loaded into databases: a real PostgreSQL server, SQLite and DuckDB files."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from databases import PASSWORD, PostgreSQL
from released import put, refuse
from tabvae_core.errors import DataError, PublishConflict, SpecError, StorageError
from tabvae_core.feed import feed, register_databases
from tabvae_core.feed.address import address_of
from tabvae_core.feed.types import SqlType, parse_type
from tabvae_core.progress import ProgressEvent
from tabvae_core.references import FeedRef
from tabvae_core.spec import TargetSpec

UTC = dt.UTC


def people(start: int, rows: int = 40) -> pa.Table:
    numbers = range(start, start + rows)
    return pa.table(
        {
            "id": pa.array(numbers, pa.int64()),
            "name": [None if k % 4 == 0 else "" if k % 4 == 1 else f'na"me,\n{k} \\.' for k in numbers],
            "paid": pa.array([Decimal(k) / 100 for k in numbers], pa.decimal128(12, 2)),
            "active": [k % 2 == 0 for k in numbers],
            "seen": pa.array([dt.datetime(2024, 1, 1, tzinfo=UTC) + dt.timedelta(days=k) for k in numbers]),
            "score": [k / 7 for k in numbers],
            "segment": pa.array([f"s{k % 3}" for k in numbers]).dictionary_encode(),
        }
    )


DEFINED = {
    "id": "bigint PRIMARY KEY",
    "name": "text",
    "paid": "numeric(12,2) CHECK (paid >= 0)",
    "active": "boolean NOT NULL",
    "seen": "timestamp with time zone",
    "score": "double precision",
    "segment": "varchar(10)",
}


def definition(**changes: str) -> str:
    columns = ", ".join(f"{name} {kind}" for name, kind in {**DEFINED, **changes}.items() if kind)
    return f"CREATE TABLE people ({columns})"


@dataclass(frozen=True)
class Base:
    """A database of one family."""

    name: str
    url: str
    run: Callable[..., list[tuple[Any, ...]]]

    def ids(self) -> list[int]:
        return [row[0] for row in self.run("SELECT id FROM people ORDER BY id")]


@pytest.fixture
def pg(postgresql: PostgreSQL) -> Base:
    """PostgreSQL with an empty schema."""

    def run(sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(postgresql.url, autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    run("DROP SCHEMA public CASCADE")
    run("CREATE SCHEMA public")
    return Base("postgresql", postgresql.url, run)


@pytest.fixture
def lite(tmp_path: Path) -> Base:
    path = tmp_path / "shop.db"

    def run(sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(path)) as connection, connection:
            return connection.execute(sql).fetchall()

    return Base("sqlite", f"sqlite:///{path}", run)


@pytest.fixture
def duck(tmp_path: Path) -> Base:
    path = tmp_path / "shop.duckdb"

    def run(sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(path)) as connection:
            return connection.execute(sql).fetchall()

    return Base("duckdb", f"duckdb:///{path}", run)


@pytest.fixture(params=["pg", "lite", "duck"])
def base(request: pytest.FixtureRequest) -> Base:
    found: Base = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def target(tmp_path: Path) -> TargetSpec:
    """Two releases, of other people each."""
    spec = TargetSpec(uri=str(tmp_path / "releases"))
    put(people(0), spec, "v1", tmp_path)
    put(people(20, 60), spec, "v2", tmp_path)
    return spec


class TestLoading:
    def test_a_table_is_made_with_types_that_fit(self, base: Base, target: TargetSpec) -> None:
        heard: list[ProgressEvent] = []
        fed = feed(target.uri, base.url, progress=heard.append)
        assert (fed.table, fed.version, fed.rows, fed.created, fed.unchanged) == ("people", "v2", 60, True, False)
        assert base.ids() == list(range(20, 80))
        row = base.run("SELECT name, paid, active, score, segment FROM people WHERE id = 27")[0]
        paid = "0.27" if base.name == "sqlite" else Decimal("0.27")
        assert row == ('na"me,\n27 \\.', paid, False, 27 / 7, "s0")
        assert base.run("SELECT count(*) FROM people WHERE name IS NULL") == [(15,)]
        assert base.run("SELECT count(*) FROM people WHERE name = ''") == [(15,)]
        assert base.run("SELECT table_name, version, rows FROM tabvae_feeds") == [("people", "v2", 60)]
        assert [event.step for event in heard] == ["feed"] * len(heard)
        assert (heard[-1].done, heard[-1].total, heard[-1].unit) == (60, 60, "rows")

    def test_a_version_that_is_there_is_not_loaded_again(self, base: Base, target: TargetSpec) -> None:
        feed(target.uri, base.url)
        base.run("DELETE FROM people WHERE id < 30")
        again = feed(target.uri, base.url)
        assert again.unchanged
        assert "v2 already" in again.sentence
        assert len(base.ids()) == 50

    def test_an_older_version_and_back(self, base: Base, target: TargetSpec) -> None:
        for version, ids in (("v2", range(20, 80)), ("v1", range(40)), (None, range(20, 80))):
            assert feed(target.uri, base.url, version=version).version == (version or "v2")
            assert base.ids() == list(ids)

    def test_a_table_that_was_dropped_is_made_again(self, base: Base, target: TargetSpec) -> None:
        feed(target.uri, base.url)
        base.run("DROP TABLE people")
        assert feed(target.uri, base.url).created

    def test_a_definition_that_exists_is_kept(self, base: Base, target: TargetSpec) -> None:
        base.run(definition(extra="integer DEFAULT 7"))
        base.run("CREATE INDEX people_by_segment ON people (segment)")
        for version in ("v1", "v2"):
            feed(target.uri, base.url, version=version)
        assert base.run("SELECT DISTINCT extra FROM people") == [(7,)]
        with pytest.raises((psycopg.Error, sqlite3.Error, duckdb.Error)):
            base.run("INSERT INTO people (id, active) VALUES (30, true)")
        with pytest.raises((psycopg.Error, sqlite3.Error, duckdb.Error)):
            base.run("INSERT INTO people (id, active, paid) VALUES (1, true, -1)")

    def test_a_constraint_that_breaks_leaves_the_old_rows(self, base: Base, target: TargetSpec) -> None:
        base.run(definition(paid="numeric(12,2) CHECK (paid < 0.50)"))
        feed(target.uri, base.url, version="v1")
        with pytest.raises(DataError, match="constraint") as caught:
            feed(target.uri, base.url, version="v2")
        assert "0.5" not in str(caught.value).replace("paid < 0.50", "")
        assert base.ids() == list(range(40))
        assert base.run("SELECT version FROM tabvae_feeds") == [("v1",)]

    def test_columns_are_compared_before_anything_is_loaded(self, base: Base, target: TargetSpec) -> None:
        base.run(definition(name="text NOT NULL", score="", active="date", age="integer"))
        with pytest.raises(DataError) as caught:
            feed(target.uri, base.url)
        said = caught.value.message
        for part in ("lacks score", "without a default of its own, age", "cannot take active (bool, the table has"):
            assert part in said
        base.run("DROP TABLE people")
        base.run(definition(name="text NOT NULL"))
        with pytest.raises(DataError, match="NOT NULL where there are nulls in name"):
            feed(target.uri, base.url)
        assert base.ids() == []

    def test_values_that_are_too_large_are_found_before(self, base: Base, tmp_path: Path) -> None:
        spec = TargetSpec(uri=str(tmp_path / "wide"))
        put(pa.table({"id": pa.array([1, 2**40]), "paid": [1.5, 12345.678]}), spec, "v1", tmp_path)
        base.run("CREATE TABLE people (id integer, paid numeric(6,2))")
        if base.name == "sqlite":  # whose integers have 64 bits, and whose decimals no limit
            assert feed(spec.uri, base.url).rows == 2
            return
        with pytest.raises(DataError, match=r"too narrow for id \(int64.*paid \(double"):
            feed(spec.uri, base.url)

    def test_a_refused_version_and_one_that_is_not_there(self, base: Base, target: TargetSpec, tmp_path: Path) -> None:
        refuse(people(0), target, "v3", tmp_path)
        with pytest.raises(DataError, match="quarantine"):
            feed(target.uri, base.url, version="v3")
        with pytest.raises(DataError, match="has no version 'v9'"):
            feed(target.uri, base.url, version="v9")
        # A folder with a manifest that the pointer does not list: its writer died, or lost.
        (Path(target.uri) / "versions" / "v2").rename(Path(target.uri) / "versions" / "v8")
        with pytest.raises(DataError, match="has no version 'v8'"):
            feed(target.uri, base.url, version="v8")

    def test_a_view_is_no_table(self, base: Base, target: TargetSpec) -> None:
        base.run("CREATE TABLE other (id bigint)")
        base.run("CREATE VIEW people AS SELECT id FROM other")
        with pytest.raises(DataError, match="is no table"):
            feed(target.uri, base.url)

    def test_another_table_of_another_schema(self, pg: Base, target: TargetSpec) -> None:
        pg.run("CREATE SCHEMA shop")
        assert feed(target.uri, pg.url, table="shop.Customers").table == "shop.Customers"
        assert pg.run('SELECT count(*) FROM shop."Customers"') == [(60,)]
        assert pg.run("SELECT table_name FROM shop.tabvae_feeds") == [("Customers",)]

    def test_the_table_of_a_refresh_without_a_name(self, lite: Base, tmp_path: Path) -> None:
        spec = TargetSpec(uri=str(tmp_path / "customers.v2"))
        put(
            people(0),
            spec,
            "v1",
            tmp_path,
            name="table",
            columns={"name": {"nullable": True}, "id": {"nullable": False}},
        )
        assert feed(spec.uri, lite.url).table == "customers.v2"
        required = [row[1] for row in lite.run('PRAGMA table_info("customers.v2")') if row[3]]
        assert required == ["id"]

    def test_what_else_sqlalchemy_reaches(self, lite: Base, target: TargetSpec) -> None:
        other = lite.url.replace("sqlite://", "sqlite+pysqlite://")
        for version, ids in (("v1", range(40)), ("v2", range(20, 80)), ("v1", range(40))):
            assert feed(target.uri, other, version=version).version == version
            assert lite.ids() == list(ids)
        assert feed(target.uri, other, version="v1").unchanged
        with pytest.raises(SpecError, match="knows no database called nosuch"):
            feed(target.uri, "nosuch://host/db")

    def test_postgresql_through_sqlalchemy(self, pg: Base, target: TargetSpec) -> None:
        pg.run(definition(active="boolean NOT NULL", extra="integer DEFAULT 7"))
        url = pg.url.replace("postgresql://", "postgresql+psycopg://").replace("tester@", f"tester:{PASSWORD}@")
        os.environ["SHOP_DB"] = url
        try:
            feed(target.uri, "env:SHOP_DB", version="v1")
            feed(target.uri, "env:SHOP_DB")
        finally:
            del os.environ["SHOP_DB"]
        assert pg.ids() == list(range(20, 80))
        assert pg.run("SELECT paid, extra FROM people WHERE id = 27") == [(Decimal("0.27"), 7)]


class TestPostgreSQL:
    def test_a_trigger_that_holds_rows_back_is_found(self, pg: Base, target: TargetSpec) -> None:
        pg.run(definition())
        feed(target.uri, pg.url, version="v1")
        pg.run("CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        pg.run("CREATE TRIGGER hold BEFORE INSERT ON people FOR EACH ROW WHEN (NEW.id > 50) EXECUTE FUNCTION hold()")
        with pytest.raises(StorageError, match="has 31 rows after the load, the release has 60"):
            feed(target.uri, pg.url)
        assert pg.ids() == list(range(40))

    def test_all_that_hangs_on_a_table_stays(self, pg: Base, target: TargetSpec) -> None:
        pg.run(
            definition(
                id="bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
                twice="float GENERATED ALWAYS AS (score * 2) STORED",
            )
        )
        pg.run("COMMENT ON TABLE people IS 'who buys'")
        pg.run("COMMENT ON COLUMN people.paid IS 'euros'")
        pg.run("CREATE VIEW rich AS SELECT id FROM people WHERE paid > 0.3")
        pg.run("CREATE TABLE orders (person bigint REFERENCES people DEFERRABLE)")
        pg.run("DO $$ BEGIN CREATE ROLE reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
        pg.run("GRANT SELECT ON people TO reader")
        feed(target.uri, pg.url, version="v1")
        pg.run("INSERT INTO orders VALUES (30)")
        feed(target.uri, pg.url)
        assert pg.run("SELECT obj_description('people'::regclass)") == [("who buys",)]
        assert pg.run("SELECT col_description('people'::regclass, 3)") == [("euros",)]
        assert pg.run("SELECT count(*) FROM rich") == [(49,)]
        assert pg.run("SELECT has_table_privilege('reader', 'people', 'SELECT')") == [(True,)]
        assert pg.run("SELECT twice FROM people WHERE id = 21") == [(6.0,)]
        assert pg.run("SELECT person FROM orders") == [(30,)]
        assert pg.run("INSERT INTO people (active) VALUES (true) RETURNING id") == [(80,)]
        pg.run("REVOKE ALL ON people FROM reader")

    def test_rows_that_refer_to_people_who_go(self, pg: Base, target: TargetSpec) -> None:
        pg.run(definition())
        feed(target.uri, pg.url, version="v1")
        pg.run("CREATE TABLE orders (person bigint REFERENCES people DEFERRABLE)")
        pg.run("INSERT INTO orders VALUES (3)")
        with pytest.raises(DataError, match="rows of orders break its foreign key"):
            feed(target.uri, pg.url)
        pg.run("DROP TABLE orders")
        pg.run("CREATE TABLE orders (person bigint REFERENCES people ON DELETE CASCADE)")
        pg.run("INSERT INTO orders VALUES (3)")
        with pytest.raises(DataError, match="would delete or change rows of orders"):
            feed(target.uri, pg.url)
        assert pg.run("SELECT * FROM orders") == [(3,)]
        assert pg.ids() == list(range(40))

    def test_sqlite_keeps_to_that_too(self, lite: Base, target: TargetSpec) -> None:
        lite.run(definition())
        feed(target.uri, lite.url, version="v1")
        lite.run("CREATE TABLE orders (person bigint REFERENCES people (id) ON DELETE CASCADE)")
        lite.run("INSERT INTO orders VALUES (3)")
        with pytest.raises(DataError, match="would delete or change rows of orders"):
            feed(target.uri, lite.url)
        lite.run("DROP TABLE orders")
        lite.run("CREATE TABLE orders (person bigint REFERENCES people (id))")
        lite.run("INSERT INTO orders VALUES (30)")
        feed(target.uri, lite.url)
        assert lite.ids() == list(range(20, 80))
        lite.run("UPDATE orders SET person = 70")
        with pytest.raises(DataError, match="rows that the release does not have"):
            feed(target.uri, lite.url, version="v1")
        assert lite.ids() == list(range(20, 80))

    def test_a_role_without_rights_is_told(self, pg: Base, postgresql: PostgreSQL, target: TargetSpec) -> None:
        pg.run("DROP ROLE IF EXISTS guest")
        pg.run(f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'")
        pg.run("GRANT USAGE, CREATE ON SCHEMA public TO guest")
        pg.run(definition())
        with pytest.raises(StorageError, match="permission denied for table people"):
            feed(target.uri, postgresql.url.replace("tester@", "guest@"))
        pg.run("DROP TABLE tabvae_feeds")

    def test_a_wrong_password_and_no_server(self, postgresql: PostgreSQL, target: TargetSpec, monkeypatch: Any) -> None:
        monkeypatch.setenv("PGPASSWORD", "hushhush")
        with pytest.raises(StorageError, match=r"refused|cannot be reached") as caught:
            feed(target.uri, postgresql.url)
        assert "hushhush" not in str(caught.value)
        with pytest.raises(StorageError, match="cannot be reached"):
            feed(target.uri, "postgresql://tester@127.0.0.1:1/postgres")

    def test_a_second_load_waits_and_then_has_nothing_to_do(self, pg: Base, target: TargetSpec) -> None:
        feed(target.uri, pg.url, version="v1")
        done: list[FeedRef] = []
        second = threading.Thread(target=lambda: done.append(feed(target.uri, pg.url)))

        def start_second(event: ProgressEvent) -> None:
            if not second.ident:
                second.start()
                _until(
                    lambda: (
                        pg.run("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") == [(1,)]
                    )
                )

        assert not feed(target.uri, pg.url, progress=start_second).unchanged
        second.join(60)
        assert done[0].unchanged

    def test_a_second_load_that_cannot_wait_is_told(self, pg: Base, target: TargetSpec) -> None:
        told: list[str] = []

        def second(event: ProgressEvent) -> None:
            if not told:
                with pytest.raises(PublishConflict) as caught:
                    feed(target.uri, pg.url, wait_seconds=0.1)
                told.append(caught.value.message)

        feed(target.uri, pg.url, progress=second)
        assert "did not end in time" in told[0]

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        rows=st.lists(
            st.tuples(
                st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
                st.none() | st.binary(),
                st.none() | st.floats(),
                st.none() | st.decimals(-(10**12), 10**12, places=9),
            ),
            min_size=1,
        )
    )
    def test_any_value_arrives_as_it_is(self, pg: Base, tmp_path: Path, rows: list[tuple[Any, ...]]) -> None:
        names = {"text": pa.string(), "bytes": pa.binary(), "float": pa.float64(), "decimal": pa.decimal128(30, 9)}
        columns = list(zip(*rows, strict=True))
        table = pa.table(
            [pa.array(c, kind) for c, kind in zip(columns, names.values(), strict=True)], names=list(names)
        )
        version = hashlib.sha256(repr(rows).encode()).hexdigest()[:30]
        spec = TargetSpec(uri=str(tmp_path / "values"))
        put(table, spec, version, tmp_path)
        feed(spec.uri, pg.url, table="anything", version=version)
        found = pg.run("SELECT * FROM anything")
        assert [repr(row) for row in found] == [repr(tuple(row.values())) for row in table.to_pylist()]


def _until(condition: Callable[[], bool]) -> None:
    """Wait for another thread or process to come to a point; the tests' own limit ends it otherwise."""
    for _ in range(100_000):
        if condition():
            return
    raise AssertionError("it never came to that")


_LOADER = """
import sys
from tabvae_core.feed import feed
def told(event):
    print(int(event.done), flush=True)
    if event.done and len(sys.argv) > 3:
        sys.stdin.readline()
feed(sys.argv[1], sys.argv[2], version="v2", progress=told)
"""


@pytest.fixture
def large(tmp_path: Path) -> TargetSpec:
    """Releases of several batches."""
    spec = TargetSpec(uri=str(tmp_path / "large"))
    put(people(0, 30_000), spec, "v1", tmp_path)
    put(people(15_000, 140_000), spec, "v2", tmp_path)
    return spec


def loader(target: TargetSpec, url: str, *stop: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _LOADER, target.uri, url, *stop]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


SUMS = "SELECT count(*), sum(id), min(id), max(id) FROM people"
OLD = (30_000, sum(range(30_000)), 0, 29_999)
NEW = (140_000, sum(range(15_000, 155_000)), 15_000, 154_999)


@pytest.mark.parametrize("family", ["pg", "lite"])
def test_a_reader_that_polls_sees_only_old_or_new(
    family: str, request: pytest.FixtureRequest, large: TargetSpec
) -> None:
    base: Base = request.getfixturevalue(family)
    if family == "lite":
        base.run("PRAGMA journal_mode = WAL")
    base.run(definition())
    feed(large.uri, base.url, version="v1")
    with loader(large, base.url) as process:
        seen = []
        while process.poll() is None:
            seen.append(tuple(base.run(SUMS)[0]))
        seen.append(tuple(base.run(SUMS)[0]))
    assert process.returncode == 0
    assert set(seen) <= {OLD, NEW}
    assert seen.count(OLD) > 3, "the reader polled during the load"
    assert seen[-1] == NEW
    assert seen == sorted(seen), "from old to new, once"


@pytest.mark.parametrize("family", ["pg", "lite", "duck"])
def test_a_loader_that_is_killed_leaves_the_old_table(
    family: str, request: pytest.FixtureRequest, large: TargetSpec
) -> None:
    base: Base = request.getfixturevalue(family)
    base.run(definition())
    feed(large.uri, base.url, version="v1")
    with loader(large, base.url, "stop") as process:
        assert process.stdout is not None
        assert 0 < int([process.stdout.readline() for _ in range(2)][1]) < NEW[0]
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert tuple(base.run(SUMS)[0]) == OLD
    assert base.run("SELECT version FROM tabvae_feeds") == [("v1",)]
    feed(large.uri, base.url)
    assert tuple(base.run(SUMS)[0]) == NEW


def test_readers_of_duckdb_within_the_process_see_only_old_or_new(duck: Base, large: TargetSpec) -> None:
    feed(large.uri, duck.url, version="v1")
    seen: list[tuple[Any, ...]] = []
    with duckdb.connect(duck.url.removeprefix("duckdb:///")) as connection:

        def poll(event: ProgressEvent) -> None:
            seen.append(connection.cursor().execute(SUMS).fetchall()[0])

        feed(large.uri, duck.url, progress=poll)
        poll(ProgressEvent("feed", 0))
    assert set(seen[:-1]) == {OLD}
    assert len(seen) > 3
    assert seen[-1] == NEW


def test_another_process_that_has_a_duckdb_open_is_a_conflict(duck: Base, target: TargetSpec) -> None:
    feed(target.uri, duck.url, version="v1")
    hold = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.readline()"
    command = [sys.executable, "-c", hold, duck.url.removeprefix("duckdb:///")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(PublishConflict):
            feed(target.uri, duck.url)
        other.communicate("\n")


def test_another_writer_of_a_sqlite_file_is_a_conflict(lite: Base, target: TargetSpec) -> None:
    feed(target.uri, lite.url, version="v1")
    with closing(sqlite3.connect(lite.url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(PublishConflict):
            feed(target.uri, lite.url, wait_seconds=0.1)


@pytest.mark.parametrize("scheme", ["sqlite", "duckdb"])
def test_a_load_that_fails_leaves_no_file(scheme: str, tmp_path: Path) -> None:
    spec = TargetSpec(uri=str(tmp_path / "twice"))
    put(pa.table({"a": [1], "A": [2]}), spec, "v1", tmp_path)
    (tmp_path / "db").mkdir()
    with pytest.raises((DataError, StorageError)):
        feed(spec.uri, f"{scheme}:///{tmp_path}/db/new")
    assert list((tmp_path / "db").iterdir()) == []


class TestAddress:
    @pytest.mark.parametrize(
        "into",
        [
            "postgresql://user:hushhush@host/db",
            "postgresql://host/db?user=u&password=hushhush",
            "mysql+pymysql://user:hush@hush@host/db",
            "postgresql://user:hush/hush?hush@host/db",
            "host=db user=me password=hushhush",
        ],
    )
    def test_passwords_are_refused_and_not_repeated(self, into: str) -> None:
        with pytest.raises(SpecError) as caught:
            address_of(into)
        assert "hush" not in str(caught.value)

    def test_a_variable_and_a_resolver(self, monkeypatch: Any) -> None:
        monkeypatch.setenv("SHOP", "postgresql://user:hushhush@host/db?sslmode=require")
        register_databases("vault", lambda name: f"postgresql://u:hushhush@{name}/db")
        for into, shown in (("env:SHOP", "postgresql://host/db"), ("vault:other", "postgresql://other/db")):
            found = address_of(into)
            assert found.shown == shown
            assert "hushhush" in found.url
            assert "hushhush" not in repr(found)

    @pytest.mark.parametrize("into", ["env:NOT_THERE", "shelf:x", "", "block:"])
    def test_names_that_nothing_is_known_of(self, into: str) -> None:
        with pytest.raises(SpecError):
            address_of(into)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("character varying(20)", SqlType("text", 20)),
        ("numeric(10,2)", SqlType("decimal", 10, 2)),
        ("NUMERIC", SqlType("decimal")),
        ("timestamp(3) with time zone", SqlType("timestamptz")),
        ("timestamp without time zone", SqlType("timestamp")),
        ("BIGINT", SqlType("integer", 64)),
        ("double precision", SqlType("float", 64)),
        ("LONGTEXT", SqlType("text")),
        ("uuid", SqlType("any")),
        ("integer[]", SqlType("any")),
    ],
)
def test_types_are_read_as_databases_write_them(text: str, kind: SqlType) -> None:
    assert parse_type(text) == kind
