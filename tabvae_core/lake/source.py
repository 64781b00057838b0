"""`ParquetSource`: a Parquet file or folder as a table that streams."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tabvae_core.errors import DataError, SourceChanged, SpecError
from tabvae_core.lake.partitions import partition_columns, partition_values
from tabvae_core.lake.unify import unify_schemas
from tabvae_core.references import SourceFile
from tabvae_core.schema import schema_fingerprint
from tabvae_core.spec import StorageSpec
from tabvae_core.storage import filesystem, is_local, join_uri, response_code, safe_uri, storage_errors
from tabvae_core.tables import BATCH_ROWS

if TYPE_CHECKING:
    from tabvae_core.rules import Rule

__all__ = ["ParquetSource"]

SUFFIXES = (".parquet", ".parq", ".pq")
MAGIC = b"PAR1"
# Footers are read side by side: a request takes tens of milliseconds, and a table may have thousands of
# files.
_READERS = 8


@dataclass(frozen=True)
class _Object:
    """A file as the listing shows it."""

    relative: str
    path: str
    pinned: SourceFile


@dataclass(frozen=True)
class _Footer:
    """What the end of a Parquet file says."""

    schema: pa.Schema
    rows: int
    row_groups: int


class ParquetSource:
    """A Parquet table on any storage, streamed in a fixed order: files by name, rows as they stand.

    Every file's version is pinned when the source is made; one that was rewritten since is never read as if
    it were the same. Memory is bounded by one row group of the columns asked for.

    Args:
        uri: A Parquet file, or a folder of them at any depth. Names that begin with "_" or "." and files of
            other kinds are passed over; folders named `key=value` become columns after the files' own.
        storage: Access to it.
        columns: Columns to read, in this order; None: all.
        filters: Rules; a row is read if every one is true of it, not merely unknown.
        only: Paths below the folder: read these files and no others.

    Raises:
        DataError: Missing, empty, not Parquet, damaged; duplicate column names; no such column.
        SchemaDrift: The files' schemas do not fit together.
        SpecError: A filter that cannot be read, or names no column.
        StorageError: Access.

    """

    def __init__(
        self,
        uri: str,
        storage: StorageSpec | None = None,
        columns: Sequence[str] | None = None,
        filters: Sequence[str] = (),
        *,
        only: Sequence[str] | None = None,
    ) -> None:
        self.uri = uri
        self.storage = storage or StorageSpec()
        self._only = None if only is None else frozenset(only)
        self._filters = tuple(filters)
        self._rules = _parse(self._filters)
        self._objects = self._list()
        self._footers = self._read_footers()
        self._partition_fields, self._partitions = partition_columns(
            [(join_uri(safe_uri(uri), o.relative), partition_values(o.relative)) for o in self._objects]
        )
        self._columns = None if columns is None else tuple(columns)
        self._full = self._unify()
        self._schema = self._full if columns is None else _select(self._full, columns)

    # ------------------------------------------------------------ what it is

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """The objects as they stood when the source was made, sorted by name."""
        return tuple(item.pinned for item in self._objects)

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema that the rows of all files fit into, with the first file's metadata."""
        return self._schema

    @cached_property
    def num_rows(self) -> int:
        """Rows: from the files' footers, or where there are filters, from one pass over their columns."""
        if not self._rules:
            return sum(footer.rows for footer in self._footers)
        return sum(batch.num_rows for batch in self._rows(()))

    @property
    def file_rows(self) -> dict[str, int]:
        """Rows of each file, by its path below the folder, before any filter."""
        return {item.relative: footer.rows for item, footer in zip(self._objects, self._footers, strict=True)}

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the files' names, sizes and versions, the schema, and the filters."""
        parts = {
            "files": [[item.relative, item.pinned.size, item.pinned.version] for item in self._objects],
            "schema": schema_fingerprint(self._schema),
            "filters": list(self._filters),
        }
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def verify(self, files: Sequence[SourceFile] | None = None) -> None:
        """List the source again and compare.

        Args:
            files: What it should be; None: what it was when this source was made.

        Raises:
            SourceChanged: A file was added, removed or rewritten. Names the first.

        """
        before = {file.uri: file for file in (self.files if files is None else files)}
        try:
            now = {item.pinned.uri: item.pinned for item in self._list()}
        except DataError:
            now = {}
        for uri in sorted(before.keys() | now.keys()):
            if before.get(uri) != now.get(uri):
                change = "removed" if uri not in now else "added" if uri not in before else "rewritten"
                raise _changed(uri, change)

    # ------------------------------------------------------------ rows

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the rows in batches of at most 65,536, all columns or the named ones.

        Raises:
            DataError: No such column, or a damaged part of a file.
            SourceChanged: A file was rewritten or removed since this source was made.
            StorageError: Access.

        """
        names = self._schema.names if columns is None else list(columns)
        _select(self._schema, names)
        yield from self._rows(names)

    def _rows(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        tested = {name for rule in self._rules for name in rule.columns}
        needed = [*names, *sorted(tested - set(names))]
        for item, footer, values in zip(self._objects, self._footers, self._partitions, strict=True):
            for raw in self._read(item, footer, needed):
                batch = self._fit(item, raw, values, needed)
                for rule in self._rules:
                    batch = batch.filter(rule.evaluate(batch, null_as=False))
                if batch.num_rows:
                    yield batch.select(list(names)) if tested else batch

    def _read(self, item: _Object, footer: _Footer, needed: Sequence[str]) -> Iterator[pa.RecordBatch]:
        fs, _ = filesystem(self.uri, self.storage)
        uri = item.pinned.uri
        stored = [name for name in needed if name in footer.schema.names]
        with _reading(uri), fs.open(item.path, "rb") as handle:
            details = getattr(handle, "details", None) or fs.info(item.path)
            if _version(item.path, details, local=is_local(uri)) != item.pinned.version:
                raise _changed(uri, "rewritten")
            # Row group by row group: read ahead over a whole file would hold the whole file.
            with pq.ParquetFile(handle, pre_buffer=True) as file:
                for group in range(footer.row_groups):
                    yield from file.iter_batches(BATCH_ROWS, row_groups=[group], columns=stored)

    def _fit(
        self, item: _Object, raw: pa.RecordBatch, values: Mapping[str, pa.Scalar], needed: Sequence[str]
    ) -> pa.RecordBatch:
        if not needed:
            return raw
        arrays = []
        fields = [self._full.field(name) for name in needed]
        for field in fields:
            index = raw.schema.get_field_index(field.name)
            if index < 0:
                arrays.append(pa.repeat(values[field.name], raw.num_rows))
                continue
            try:
                arrays.append(_cast(raw.column(index), field.type))
            except pa.ArrowException:
                where = safe_uri(item.pinned.uri)
                raise DataError(
                    f"{where}: column {field.name!r} holds values that do not fit {field.type}",
                    hint="rewrite the files with one schema",
                ) from None
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, metadata=self._full.metadata))

    # ------------------------------------------------------------ finding out

    def _list(self) -> list[_Object]:
        fs, path = filesystem(self.uri, self.storage)
        with storage_errors(self.uri, missing=DataError):
            entry = fs.info(path)
            if entry["type"] != "directory":
                name = PurePosixPath(path).name
                return [_object(self.uri, name, path, entry)]
            found = fs.find(path, detail=True)
        prefix = path.rstrip("/") + "/"
        relatives = {str(name).removeprefix(prefix): details for name, details in found.items()}
        chosen = {r: d for r, d in relatives.items() if _is_data(r) and (self._only is None or r in self._only)}
        if not chosen:
            other = f", {len(relatives)} of other kinds" if relatives else ""
            raise DataError(
                f"{safe_uri(self.uri)} holds no Parquet file{other}",
                hint="name a .parquet file, or a folder whose files end in .parquet",
            )
        return [_object(join_uri(self.uri, r), r, prefix + r, chosen[r]) for r in sorted(chosen)]

    def _read_footers(self) -> list[_Footer]:
        with ThreadPoolExecutor(min(_READERS, len(self._objects))) as pool:
            return list(pool.map(self._footer, self._objects))

    def _footer(self, item: _Object) -> _Footer:
        fs, _ = filesystem(self.uri, self.storage)
        uri = item.pinned.uri
        if item.pinned.size == 0:
            raise DataError(f"{safe_uri(uri)} is empty: zero bytes", hint="write it again")
        with _reading(uri), fs.open(item.path, "rb") as handle:
            try:
                with pq.ParquetFile(handle) as file:
                    return _Footer(file.schema_arrow, file.metadata.num_rows, file.metadata.num_row_groups)
            except (pa.ArrowException, OSError) as error:
                if not _is_damage(error):
                    raise
                raise _not_parquet(uri, handle, item.pinned.size) from None

    def _unify(self) -> pa.Schema:
        tested = [name for rule in self._rules for name in rule.columns]
        wanted = None if self._columns is None else [*self._columns, *tested]
        named = [(safe_uri(o.pinned.uri), f.schema) for o, f in zip(self._objects, self._footers, strict=True)]
        if wanted is not None:
            # Checked against the first file before the files are compared: a misspelt name is no drift.
            _select(pa.schema([*named[0][1], *self._partition_fields]), wanted, close_to=self.uri)
        schema = unify_schemas(named, wanted)
        # A file's own column says more exactly what the folder's name repeats.
        extra = [f for f in self._partition_fields if f.name not in named[0][1].names]
        full = pa.schema([*schema, *extra], metadata=schema.metadata)
        if not full.names:
            raise DataError(f"{safe_uri(self.uri)} has no columns", hint="choose another table")
        for rule in self._rules:
            if unknown := sorted(set(rule.columns) - set(full.names)):
                raise SpecError(
                    f"filter {rule.text!r} names {unknown[0]!r}, which is no column of {safe_uri(self.uri)}",
                    hint=_suggest(unknown[0], full.names),
                )
        return full


def _parse(filters: Sequence[str]) -> tuple[Rule, ...]:
    if not filters:
        return ()
    from tabvae_core.rules import parse_rule

    return tuple(parse_rule(text) for text in filters)


def _is_data(relative: str) -> bool:
    hidden = any(part[0] in "_." and "=" not in part for part in PurePosixPath(relative).parts)
    return not hidden and relative.lower().endswith(SUFFIXES)


def _object(uri: str, relative: str, path: str, details: Mapping[str, Any]) -> _Object:
    version = _version(path, details, local=is_local(uri))
    return _Object(relative, path, SourceFile(uri=uri, size=int(details["size"]), version=version))


def _version(path: str, details: Mapping[str, Any], *, local: bool) -> str:
    """Name the content of an object: ETag or another checksum, else the time it was written and its size."""
    if local:
        # The listing rounds times to a float; the system's own count tells two writes within a microsecond
        # apart.
        return f"{os.stat(path).st_mtime_ns}-{details['size']}"
    for key in ("ETag", "etag", "md5Hash", "content_md5", "generation"):
        if details.get(key):
            return str(details[key]).strip('"')
    times = ("mtime", "LastModified", "last_modified", "updated", "created")
    stamp = next((details[key] for key in times if details.get(key)), "unknown")
    return f"{stamp}-{details['size']}"


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type.equals(kind):
        return array
    if pa.types.is_dictionary(array.type) and not pa.types.is_dictionary(kind):
        return array.dictionary_decode().cast(kind)
    return array.cast(kind)


def _select(schema: pa.Schema, names: Sequence[str], close_to: str = "the table") -> pa.Schema:
    known = schema.names
    for name in names:
        if name not in known:
            place = safe_uri(close_to)
            raise DataError(f"{place} has no column {name!r}", hint=_suggest(name, known))
    return pa.schema([schema.field(name) for name in names], metadata=schema.metadata)


def _suggest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"columns: {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}"


@contextmanager
def _reading(uri: str) -> Iterator[None]:
    """Translate what goes wrong while a listed file is read."""
    with storage_errors(uri, missing=SourceChanged):
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            if type(error).__name__ == "FileExpired" or response_code(error) in ("412", "PreconditionFailed"):
                raise _changed(uri, "rewritten") from None
            if not _is_damage(error):
                raise
            raise DataError(
                f"{safe_uri(uri)} is damaged: its rows cannot be decoded",
                hint="write the file again from its origin",
            ) from None


def _is_damage(error: Exception) -> bool:
    # Arrow reports broken content as OSError without a number; what the system or the store refuses carries
    # one.
    return isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None)


def _not_parquet(uri: str, handle: Any, size: int) -> DataError:
    handle.seek(0)
    head = handle.read(4)
    handle.seek(max(size - 4, 0))
    tail = handle.read(4)
    where = safe_uri(uri)
    if b"PARE" in (head, tail):
        return DataError(f"{where} is encrypted Parquet, which is not read", hint="decrypt it first")
    if head != MAGIC:
        return DataError(f"{where} is not a Parquet file", hint="convert it to Parquet, or name another file")
    what = "its footer cannot be read" if tail == MAGIC else "it is truncated, its end is missing"
    return DataError(f"{where} is damaged: {what}", hint="write or upload the file again")


def _changed(uri: str, change: str) -> SourceChanged:
    return SourceChanged(
        f"{safe_uri(uri)} was {change} since this run looked at the source",
        hint="wait until its writer has finished, then run again",
    )
