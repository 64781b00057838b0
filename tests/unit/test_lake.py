from __future__ import annotations

import datetime as dt
import decimal
import pickle
import threading
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabvae_core.errors import DataError, PublishConflict, SchemaDrift, SourceChanged, SpecError, StorageError
from tabvae_core.lake import (
    ParquetSink,
    ParquetSource,
    exists,
    join_uri,
    list_folder,
    probe_conditional_puts,
    put_if_match,
    read_bytes,
    read_with_etag,
    remove_file,
    write_bytes,
)
from tabvae_core.lake.partitions import partition_values
from tabvae_core.lake.unify import common_type
from tabvae_core.tables import TableSource, collect


def rows(start: int, count: int) -> pa.Table:
    ids = pa.array(range(start, start + count), pa.int64())
    return pa.table(
        {"id": ids, "amount": pa.array(np.arange(count) * 0.5), "text": pa.array(["x"] * count, pa.string())}
    )


def interrupted(sink: ParquetSink, some: pa.Table, error: type[BaseException]) -> None:
    with sink:
        sink.write(some)
        raise error


def write(place_or_path, name: str, table: pa.Table, **options) -> None:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, **options)
    uri, storage = (
        (place_or_path.uri, place_or_path.storage) if hasattr(place_or_path, "uri") else (str(place_or_path), None)
    )
    write_bytes(join_uri(uri, name), buffer.getvalue().to_pybytes(), storage)


class TestSource:
    def test_a_folder_reads_in_the_order_of_names(self, place):
        write(place, "b.parquet", rows(10, 5))
        write(place, "a.parquet", rows(0, 10), row_group_size=4)
        write(place, "deeper/c.parquet", rows(15, 5))
        write_bytes(join_uri(place.uri, "_SUCCESS"), b"", place.storage)
        write_bytes(join_uri(place.uri, "notes.txt"), b"no table", place.storage)
        write(place, "_temporary/x.parquet", rows(99, 1))
        write(place, ".hidden.parquet", rows(99, 1))
        source = ParquetSource(place.uri + "/", place.storage)
        assert isinstance(source, TableSource)
        assert source.num_rows == 20
        assert collect(source)["id"].to_pylist() == list(range(20))
        assert [batch.num_rows for batch in source.batches()] == [4, 4, 2, 5, 5]
        assert [file.uri.rsplit("/", 1)[1] for file in source.files] == [
            "a.parquet",
            "b.parquet",
            "c.parquet",
        ]
        assert all(file.size > 0 and file.version for file in source.files)
        assert source.file_rows == {"a.parquet": 10, "b.parquet": 5, "deeper/c.parquet": 5}

    def test_a_single_file_and_a_projection(self, place):
        write(place, "t.parquet", rows(0, 7))
        uri = join_uri(place.uri, "t.parquet")
        source = ParquetSource(uri, place.storage, columns=("text", "id"))
        assert source.schema.names == ["text", "id"]
        assert [b.schema.names for b in source.batches(["id"])] == [["id"]]
        assert collect(source).num_rows == 7
        assert source.files[0].uri == uri

    def test_batches_are_bounded_and_repeat(self, tmp_path):
        write(tmp_path, "t.parquet", rows(0, 150_000), row_group_size=150_000)
        source = ParquetSource(str(tmp_path))
        assert [b.num_rows for b in source.batches()] == [65_536, 65_536, 18_928]
        assert collect(source).equals(collect(source))

    def test_only_the_named_files(self, tmp_path):
        for name in ("a", "b"):
            write(tmp_path, f"{name}.parquet", rows(0, 3))
        assert ParquetSource(str(tmp_path), only=["b.parquet"]).file_rows == {"b.parquet": 3}

    def test_it_travels_between_processes(self, tmp_path):
        write(tmp_path, "t.parquet", rows(0, 3))
        source = ParquetSource(str(tmp_path))
        assert collect(pickle.loads(pickle.dumps(source))).equals(collect(source))

    def test_column_names_with_dots(self, tmp_path):
        write(tmp_path, "t.parquet", pa.table({"a": [1], "a.b": ["x"]}))
        source = ParquetSource(str(tmp_path))
        assert collect(source).to_pylist() == [{"a": 1, "a.b": "x"}]
        assert next(source.batches(["a"])).to_pylist() == [{"a": 1}]

    def test_an_empty_table_keeps_its_schema(self, tmp_path):
        table = rows(0, 0)
        write(tmp_path, "t.parquet", table)
        source = ParquetSource(str(tmp_path))
        assert source.num_rows == 0
        assert collect(source).equals(table)


class TestFilters:
    def test_unknown_rows_are_left_out(self, tmp_path):
        table = pa.table({"n": [1, 2, None, 4], "kind": ["a", "b", "a", None], "v": [10, 20, 30, 40]})
        write(tmp_path, "t.parquet", table)
        source = ParquetSource(str(tmp_path), columns=["v"], filters=["n > 1"])
        assert source.num_rows == 2
        assert collect(source).to_pydict() == {"v": [20, 40]}
        both = ParquetSource(str(tmp_path), columns=["v"], filters=["n >= 1", "kind in ('a', 'b')"])
        assert collect(both).to_pydict() == {"v": [10, 20]}
        assert both.num_rows == 2
        assert both.fingerprint != source.fingerprint

    def test_dates_and_partitions(self, tmp_path):
        for day in (1, 2, 3):
            write(tmp_path, f"day=2024-01-0{day}/t.parquet", rows(day * 10, 2))
        source = ParquetSource(str(tmp_path), columns=["id"], filters=["day >= '2024-01-02'"])
        assert collect(source)["id"].to_pylist() == [20, 21, 30, 31]

    def test_a_filter_on_no_column(self, tmp_path):
        write(tmp_path, "t.parquet", rows(0, 2))
        with pytest.raises(SpecError, match=r"'amonut', which is no column(.|\n)*did you mean 'amount'"):
            ParquetSource(str(tmp_path), filters=["amonut > 1"])


class TestPartitions:
    def test_folders_become_columns(self, place):
        write(place, "year=2023/region=eu%20west/t.parquet", rows(0, 2))
        write(place, "year=2024/region=__HIVE_DEFAULT_PARTITION__/t.parquet", rows(2, 1))
        table = collect(ParquetSource(place.uri, place.storage))
        assert table.schema.field("year").type == pa.int64()
        assert table.schema.field("region").type == pa.string()
        assert table["year"].to_pylist() == [2023, 2023, 2024]
        assert table["region"].to_pylist() == ["eu west", "eu west", None]

    def test_types(self, tmp_path):
        write(tmp_path, "day=2024-02-29/code=01/t.parquet", rows(0, 1))
        write(tmp_path, "day=2024-03-01/code=10/t.parquet", rows(1, 1))
        table = collect(ParquetSource(str(tmp_path)))
        assert table["day"].to_pylist() == [dt.date(2024, 2, 29), dt.date(2024, 3, 1)]
        assert table["code"].to_pylist() == ["01", "10"]

    def test_a_files_own_column_wins(self, tmp_path):
        write(tmp_path, "id=5/t.parquet", rows(0, 2))
        assert collect(ParquetSource(str(tmp_path)))["id"].to_pylist() == [0, 1]

    def test_different_keys_are_refused(self, tmp_path):
        write(tmp_path, "a=1/t.parquet", rows(0, 1))
        write(tmp_path, "b=1/t.parquet", rows(0, 1))
        with pytest.raises(DataError, match=r"in the partitions b, .* in a"):
            ParquetSource(str(tmp_path))

    def test_values(self):
        assert partition_values("x/a=1/b=/=c/t.parquet") == {"a": "1", "b": ""}


class TestSchemas:
    def test_compatible_files_are_widened(self, tmp_path):
        big, scale = 2**53 + 1, decimal.Decimal("1.50")
        first = pa.table({"n": pa.nulls(2), "i": pa.array([1, 2], pa.int32()), "d": pa.array([scale, None])})
        second = pa.table({"d": pa.array([decimal.Decimal("12345.678")]), "i": [big], "n": ["text"]})
        write(tmp_path, "a.parquet", first)
        write(tmp_path, "b.parquet", second)
        table = collect(ParquetSource(str(tmp_path)))
        assert table.column_names == ["n", "i", "d"]
        assert table["n"].to_pylist() == [None, None, "text"]
        assert table["i"].to_pylist() == [1, 2, big]
        assert table["d"].to_pylist() == [scale, None, decimal.Decimal("12345.678")]

    def test_dictionaries_and_plain_text(self, tmp_path):
        write(tmp_path, "a.parquet", pa.table({"c": pa.array(["x", None]).dictionary_encode()}))
        write(tmp_path, "b.parquet", pa.table({"c": ["y"]}))
        assert collect(ParquetSource(str(tmp_path))).to_pydict() == {"c": ["x", None, "y"]}

    @pytest.mark.parametrize(
        ("a", "b", "expected"),
        [
            (pa.int8(), pa.int64(), pa.int64()),
            (pa.float32(), pa.float64(), pa.float64()),
            (pa.int64(), pa.float64(), None),
            (pa.int64(), pa.uint64(), None),
            (pa.int64(), pa.string(), None),
            (pa.string(), pa.large_string(), pa.large_string()),
            (pa.timestamp("s", "UTC"), pa.timestamp("ns", "UTC"), pa.timestamp("ns", "UTC")),
            (pa.timestamp("s", "UTC"), pa.timestamp("s"), None),
            (pa.null(), pa.list_(pa.int8()), pa.list_(pa.int8())),
            (pa.decimal128(5, 2), pa.decimal128(8, 3), pa.decimal128(8, 3)),
            (pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.string()),
             pa.dictionary(pa.int32(), pa.string())),
        ],
    )  # fmt: skip
    def test_common_types(self, a, b, expected):
        assert common_type(a, b) == expected
        assert common_type(b, a) == expected

    def test_drift_names_file_and_column(self, tmp_path):
        write(tmp_path, "a.parquet", pa.table({"id": [1], "v": [1]}))
        write(tmp_path, "b.parquet", pa.table({"id": [1], "v": ["1"]}))
        with pytest.raises(SchemaDrift, match=r"column 'v' is string in .*b\.parquet and int64 in .*a\.parquet"):
            ParquetSource(str(tmp_path))
        assert ParquetSource(str(tmp_path), columns=["id"]).num_rows == 2

    @pytest.mark.parametrize(
        ("second", "message"),
        [({"id": [1]}, "lacks the column 'v'"), ({"id": [1], "v": [1], "w": [1]}, "column 'w'")],
    )
    def test_missing_and_new_columns_are_drift(self, tmp_path, second, message):
        write(tmp_path, "a.parquet", pa.table({"id": [1], "v": [1]}))
        write(tmp_path, "b.parquet", pa.table(second))
        with pytest.raises(SchemaDrift, match=rf"b\.parquet.*{message}"):
            ParquetSource(str(tmp_path))

    def test_duplicate_names(self, tmp_path):
        table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
        write(tmp_path, "a.parquet", table)
        with pytest.raises(DataError, match="more than one column named 'x'"):
            ParquetSource(str(tmp_path))

    def test_no_such_column(self, tmp_path):
        write(tmp_path, "a.parquet", rows(0, 1))
        with pytest.raises(DataError, match=r"no column 'ammount'(.|\n)*did you mean 'amount'"):
            ParquetSource(str(tmp_path), columns=["id", "ammount"])
        with pytest.raises(DataError, match=r"no column 'zzz'(.|\n)*columns: id, amount, text"):
            list(ParquetSource(str(tmp_path)).batches(["zzz"]))


class TestPinning:
    def test_fingerprint_follows_the_content(self, place):
        write(place, "a.parquet", rows(0, 3))
        first = ParquetSource(place.uri, place.storage)
        assert ParquetSource(place.uri, place.storage).fingerprint == first.fingerprint
        first.verify()
        write(place, "a.parquet", rows(1, 3))
        assert ParquetSource(place.uri, place.storage).fingerprint != first.fingerprint
        with pytest.raises(SourceChanged, match=r"a\.parquet was rewritten"):
            first.verify()
        with pytest.raises(SourceChanged, match=r"a\.parquet was rewritten"):
            list(first.batches())

    def test_added_and_removed_files(self, place):
        write(place, "a.parquet", rows(0, 3))
        source = ParquetSource(place.uri, place.storage)
        write(place, "b.parquet", rows(0, 3))
        with pytest.raises(SourceChanged, match=r"b\.parquet was added"):
            source.verify()
        later = ParquetSource(place.uri, place.storage)
        with pytest.raises(SourceChanged, match=r"b\.parquet was added"):
            later.verify(source.files)
        remove_file(join_uri(place.uri, "a.parquet"), place.storage)
        with pytest.raises(SourceChanged, match=r"a\.parquet was removed"):
            source.verify()
        with pytest.raises(SourceChanged, match=r"a\.parquet"):
            list(source.batches())


def sunk(folder, table: pa.Table, cuts: list[int], **options) -> dict[str, bytes]:
    with ParquetSink(str(folder), table.schema, **options) as sink:
        start = 0
        for cut in [*cuts, table.num_rows]:
            sink.write(table.slice(start, cut))
            start += cut
            if start >= table.num_rows:
                break
    return {record.path: (folder / record.path).read_bytes() for record in sink.files}


class TestSink:
    def test_parts_in_a_folder(self, place):
        table = rows(0, 2500)
        uri = join_uri(place.uri, "table")
        with ParquetSink(uri, table.schema, place.storage, rows_per_file=1000, row_group_rows=300) as sink:
            for batch in table.to_batches(max_chunksize=170):
                sink.write(batch)
            assert list_folder(uri, place.storage) == {}
        assert [(f.path, f.rows) for f in sink.files] == [
            ("part-00000.parquet", 1000),
            ("part-00001.parquet", 1000),
            ("part-00002.parquet", 500),
        ]
        assert sink.rows == 2500
        assert list_folder(uri, place.storage) == {f.path: f.bytes for f in sink.files}
        source = ParquetSource(uri, place.storage)
        assert collect(source).equals(table)
        assert [b.num_rows for b in source.batches()] == [300, 300, 300, 100] * 2 + [300, 200]

    def test_a_single_file(self, place):
        table = rows(0, 50)
        uri = join_uri(place.uri, "out.parquet")
        with ParquetSink(uri, table.schema, place.storage, rows_per_file=10) as sink:
            sink.write(table)
        assert list_folder(place.uri, place.storage) == {"out.parquet": sink.files[0].bytes}
        assert collect(ParquetSource(uri, place.storage)).equals(table)

    def test_no_rows_leave_a_table_without_rows(self, place):
        uri, schema = join_uri(place.uri, "empty"), rows(0, 0).schema
        with ParquetSink(uri, schema, place.storage) as sink:
            pass
        assert [f.rows for f in sink.files] == [0]
        assert ParquetSource(uri, place.storage).schema.equals(schema)

    def test_an_exception_leaves_nothing(self, place):
        uri = join_uri(place.uri, "new/folder/table")
        sink = ParquetSink(uri, rows(0, 0).schema, place.storage, rows_per_file=10)
        with pytest.raises(ZeroDivisionError):
            interrupted(sink, rows(0, 25), ZeroDivisionError)
        assert not exists(place.uri, place.storage)

    def test_an_exception_leaves_what_was_there(self, place):
        uri = join_uri(place.uri, "table")
        with ParquetSink(uri, rows(0, 0).schema, place.storage) as sink:
            sink.write(rows(0, 5))
        before = list_folder(place.uri, place.storage)
        with pytest.raises(KeyboardInterrupt):
            interrupted(ParquetSink(uri, rows(0, 0).schema, place.storage), rows(5, 5), KeyboardInterrupt)
        assert list_folder(place.uri, place.storage) == before
        assert collect(ParquetSource(uri, place.storage)).equals(rows(0, 5))

    def test_a_shorter_table_replaces_a_longer_one(self, place):
        uri = join_uri(place.uri, "table")
        for count in (30, 10):
            with ParquetSink(uri, rows(0, 0).schema, place.storage, rows_per_file=10) as sink:
                sink.write(rows(0, count))
        assert collect(ParquetSource(uri, place.storage)).equals(rows(0, 10))
        assert list(list_folder(uri, place.storage)) == ["part-00000.parquet"]

    def test_other_tables_are_not_mixed_in(self, place):
        write(place, "customers.parquet", rows(0, 1))
        with pytest.raises(StorageError, match=r"holds other Parquet files \(customers\.parquet\)"):
            ParquetSink(place.uri, rows(0, 0).schema, place.storage).__enter__()
        assert list(list_folder(place.uri, place.storage)) == ["customers.parquet"]

    def test_rows_of_another_schema(self, tmp_path):
        sink = ParquetSink(str(tmp_path / "t"), pa.schema([("x", pa.int64())]))
        with pytest.raises(DataError, match="column 'x' is string, expected int64"), sink:
            sink.write(pa.table({"x": ["1"]}))
        assert not (tmp_path / "t").exists()

    @given(
        values=st.lists(st.sampled_from(["red", "green", "blue", "", None]), min_size=1, max_size=60),
        cuts=st.lists(st.integers(1, 20), max_size=6),
        row_group_rows=st.integers(1, 25),
        rows_per_file=st.integers(1, 40),
    )
    @settings(max_examples=25, deadline=None)
    def test_bytes_do_not_depend_on_how_rows_arrive(
        self, tmp_path_factory, values, cuts, row_group_rows, rows_per_file
    ):
        table = pa.table({"plain": pa.array(values, pa.string()), "n": range(len(values))})
        coded = table.append_column("coded", table["plain"].combine_chunks().dictionary_encode())
        folder = tmp_path_factory.mktemp("bytes")
        options = {"row_group_rows": row_group_rows, "rows_per_file": rows_per_file}
        whole = sunk(folder / "whole", coded, [], **options)
        # Each piece brings a dictionary of its own, in its own order.
        with ParquetSink(str(folder / "cut"), coded.schema, **options) as sink:
            start = 0
            for cut in [*cuts, len(values)]:
                piece = table.slice(start, cut)
                own = pa.array(piece["plain"].to_pylist(), pa.string()).dictionary_encode()
                sink.write(pa.table([*piece.columns, own], schema=coded.schema))
                start += cut
        assert {f.path: (folder / "cut" / f.path).read_bytes() for f in sink.files} == whole
        back = collect(ParquetSource(str(folder / "whole")))
        assert back.schema.equals(coded.schema)
        assert back.to_pylist() == coded.to_pylist()

    def test_every_type_comes_back(self, tmp_path):
        now = dt.datetime(2024, 5, 1, 12, 30, 15, 123456)
        columns = {
            "i8": pa.array([1, None], pa.int8()), "u64": pa.array([2**64 - 1, None], pa.uint64()),
            "i64": pa.array([2**53 + 1, None], pa.int64()), "f16": pa.array([np.float16(1.5), None], pa.float16()),
            "f32": pa.array([1.5, None], pa.float32()), "bool": pa.array([True, None]),
            "dec": pa.array([decimal.Decimal("1.10"), None], pa.decimal128(38, 9)),
            "date": pa.array([now.date(), None]), "time": pa.array([now.time(), None], pa.time64("us")),
            "ms": pa.array([now, None], pa.timestamp("ms")), "ns": pa.array([now, None], pa.timestamp("ns", "UTC")),
            "zone": pa.array([now, None], pa.timestamp("us", "Europe/Paris")),
            "dur": pa.array([dt.timedelta(seconds=3), None], pa.duration("us")),
            "dict": pa.array(["a", None]).dictionary_encode(), "bin": pa.array([b"x", None], pa.large_binary()),
            "list": pa.array([[1, None], None], pa.list_(pa.int16())), "void": pa.nulls(2),
            "struct": pa.array([{"a": 1}, None], pa.struct([("a", pa.int32())])),
        }  # fmt: skip
        table = pa.table(columns).replace_schema_metadata({"owner": "data team"})
        sunk(tmp_path / "t", table, [1])
        source = ParquetSource(str(tmp_path / "t"))
        assert source.schema.equals(table.schema)
        assert source.schema.metadata[b"owner"] == b"data team"
        assert collect(source).to_pylist() == table.to_pylist()


class TestConditionalWrites:
    def test_first_and_later_writes(self, place):
        uri = join_uri(place.uri, "pointer.json")
        assert read_with_etag(uri, place.storage) is None
        put_if_match(uri, b"one", None, place.storage)
        data, etag = read_with_etag(uri, place.storage)
        assert data == b"one"
        put_if_match(uri, b"two", etag, place.storage)
        for stale in (etag, None):
            with pytest.raises(PublishConflict, match=r"pointer\.json was changed by another writer"):
                put_if_match(uri, b"three", stale, place.storage)
        assert read_bytes(uri, place.storage) == b"two"

    def test_an_object_that_was_removed(self, place):
        uri = join_uri(place.uri, "pointer.json")
        put_if_match(uri, b"one", None, place.storage)
        _, etag = read_with_etag(uri, place.storage)
        remove_file(uri, place.storage)
        with pytest.raises(PublishConflict):
            put_if_match(uri, b"two", etag, place.storage)
        assert read_with_etag(uri, place.storage) is None

    def test_the_probe_tells_stores_apart_and_leaves_nothing(self, place):
        assert probe_conditional_puts(place.uri, place.storage) is place.conditional
        assert list_folder(place.uri, place.storage) == {}

    def test_other_stores_compare_and_write(self):
        uri = f"memory://pointers/{uuid.uuid4().hex}/current"
        assert not probe_conditional_puts("memory://pointers")
        put_if_match(uri, b"one", None)
        _, etag = read_with_etag(uri)
        put_if_match(uri, b"two", etag)
        with pytest.raises(PublishConflict):
            put_if_match(uri, b"three", etag)

    @pytest.mark.parametrize("place", ["file", "moto"], indirect=True)
    def test_one_of_many_writers_wins(self, place):
        uri = join_uri(place.uri, "pointer.json")
        put_if_match(uri, b"start", None, place.storage)
        _, etag = read_with_etag(uri, place.storage)
        outcomes: dict[int, bool] = {}
        barrier = threading.Barrier(6)

        def writer(number: int) -> None:
            barrier.wait()
            try:
                put_if_match(uri, b"writer %d" % number, etag, place.storage, guarantee="conditional")
                outcomes[number] = True
            except PublishConflict:
                outcomes[number] = False

        threads = [threading.Thread(target=writer, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [number for number, won in outcomes.items() if won]
        assert len(outcomes) == 6
        assert len(winners) == 1
        assert read_bytes(uri, place.storage) == b"writer %d" % winners[0]
