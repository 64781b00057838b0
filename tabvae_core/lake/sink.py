"""`ParquetSink`: a table written as whole Parquet files whose bytes depend on the rows alone."""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from tabvae_core.errors import DataError, StorageError, TabvaeError
from tabvae_core.references import FileRecord
from tabvae_core.spec import StorageSpec
from tabvae_core.storage import (
    file_sha256,
    filesystem,
    is_local,
    join_uri,
    list_folder,
    remove_file,
    safe_uri,
    staging_folder,
    storage_errors,
    sync_path,
    upload,
)
from tabvae_core.tables import BATCH_ROWS

__all__ = ["ParquetSink"]


class ParquetSink:
    """A context manager that takes rows and leaves complete Parquet files, or nothing.

    Files are written aside (beside the target on a disk, in TMPDIR for a store) and appear when the block
    ends without an exception. The same rows give the same bytes however they were cut into calls of `write`,
    with the same version of Arrow.

    Args:
        uri: A file ending in ".parquet", which takes all rows, or a folder, which gets part-00000.parquet and
            so on. Parts that an earlier run left in the folder are replaced.
        schema: Arrow schema of the rows.
        storage: Access to the place.
        rows_per_file: Rows of a part at most.
        row_group_rows: Rows of a row group at most; also the rows held in memory.

    Raises:
        StorageError: The place cannot be written, is full, or is a folder that holds other Parquet files.
        DataError: Rows that do not have the schema.

    """

    def __init__(
        self,
        uri: str,
        schema: pa.Schema,
        storage: StorageSpec | None = None,
        rows_per_file: int = 1_000_000,
        row_group_rows: int = BATCH_ROWS,
    ) -> None:
        self.uri = uri
        self.schema = schema
        self.storage = storage or StorageSpec()
        self.rows_per_file = rows_per_file
        self.row_group_rows = row_group_rows
        self._single = uri.lower().endswith(".parquet")
        self._files: list[FileRecord] = []
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._rows_in_file = 0
        self._writer: pq.ParquetWriter | None = None
        self._staging: str | None = None
        self._cleanup = ExitStack()

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """The files, once the block has ended."""
        return tuple(self._files)

    @property
    def rows(self) -> int:
        """Rows of all files, once the block has ended."""
        return sum(file.rows for file in self._files)

    def __enter__(self) -> Self:
        with storage_errors(self.uri), ExitStack() as undo:
            self._check_place()
            self._staging = self._open_staging(undo)
            self._cleanup = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            with suppress(OSError, pa.ArrowException):
                self._close_writer()
            self._cleanup.close()

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Append rows."""
        table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        if not table.schema.equals(self.schema):
            difference = _first_difference(table.schema, self.schema)
            raise DataError(f"{safe_uri(self.uri)}: the rows do not have the table's schema: {difference}")
        start = 0
        while start < table.num_rows:
            piece = table.slice(start, self._room())
            self._pending.append(piece)
            self._pending_rows += piece.num_rows
            start += piece.num_rows
            if self._room() == 0:
                self._flush()

    def _room(self) -> int:
        """Rows that the row group under construction still takes."""
        limit = self.row_group_rows
        if not self._single:
            limit = min(limit, self.rows_per_file - self._rows_in_file)
        return limit - self._pending_rows

    def _flush(self) -> None:
        group = _canonical(pa.concat_tables(self._pending), self.schema)
        self._pending, self._pending_rows = [], 0
        with storage_errors(self.uri):
            self._open_writer().write_table(group, row_group_size=self.row_group_rows)
        self._rows_in_file += group.num_rows
        if not self._single and self._rows_in_file == self.rows_per_file:
            self._end_file()

    def _open_writer(self) -> pq.ParquetWriter:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._staged(self._name()), self.schema, compression="zstd", version="2.6")
        return self._writer

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _name(self) -> str:
        return os.path.basename(self.uri.rstrip("/")) if self._single else f"part-{len(self._files):05d}.parquet"

    def _staged(self, name: str) -> str:
        assert self._staging is not None, "a ParquetSink is used in a with statement"
        return os.path.join(self._staging, name)

    def _end_file(self) -> None:
        name, path = self._name(), self._staged(self._name())
        with storage_errors(self.uri):
            self._close_writer()
            sync_path(path)
            self._files.append(
                FileRecord(path=name, rows=self._rows_in_file, bytes=os.path.getsize(path), sha256=file_sha256(path))
            )
        self._rows_in_file = 0

    def _finish(self) -> None:
        if self._pending_rows:
            self._flush()
        if self._rows_in_file or not self._files:
            with storage_errors(self.uri):
                self._open_writer()
            self._end_file()
        with storage_errors(self.uri):
            if is_local(self.uri):
                self._publish_locally()
            else:
                self._publish_remotely()

    # ------------------------------------------------------------ places

    def _check_place(self) -> None:
        fs, path = filesystem(self.uri, self.storage)
        if self._single:
            if fs.isdir(path):
                raise StorageError(
                    f"{safe_uri(self.uri)} is a folder", hint="name a file, or a folder without .parquet"
                )
            return
        if is_local(self.uri) and os.path.isfile(path):
            raise StorageError(f"{safe_uri(self.uri)} is a file", hint="name a folder, or a file ending in .parquet")
        others = [name for name in list_folder(self.uri, self.storage) if _is_foreign(name)]
        if others:
            raise StorageError(
                f"{safe_uri(self.uri)} holds other Parquet files ({others[0]}): readers would mix them",
                hint="choose an empty folder",
            )

    def _open_staging(self, undo: ExitStack) -> str:
        """Make the folder in which files are finished before they appear."""
        if not is_local(self.uri):
            return undo.enter_context(staging_folder())
        _, path = filesystem(self.uri, self.storage)
        parent = os.path.dirname(path)
        # Undone in reverse: the staging folder first, then the folders made for it, if they stayed empty.
        for folder in _missing_folders(parent):
            os.mkdir(folder)
            undo.callback(_remove_if_empty, folder)
        staging = os.path.join(parent, f".{os.path.basename(path)}.{uuid.uuid4().hex[:12]}.tmp")
        os.mkdir(staging)
        undo.callback(shutil.rmtree, staging, ignore_errors=True)
        return staging

    def _publish_locally(self) -> None:
        _, path = filesystem(self.uri, self.storage)
        if self._single:
            os.replace(self._staged(self._files[0].path), path)
        elif not os.path.isdir(path) or not os.listdir(path):
            # One rename: the folder appears with all its files, or not at all.
            os.replace(os.path.dirname(self._staged("x")), path)
        else:
            for file in self._files:
                os.replace(self._staged(file.path), os.path.join(path, file.path))
            self._remove_leftovers()
            sync_path(path)
        sync_path(os.path.dirname(path))

    def _publish_remotely(self) -> None:
        folder = self.uri.rstrip("/").rsplit("/", 1)[0] if self._single else self.uri
        done: list[str] = []
        try:
            for file in self._files:
                done.append(join_uri(folder, file.path))
                upload(self._staged(file.path), done[-1], self.storage)
        except BaseException:
            # Without the first parts, a reader sees no table rather than half of one.
            for uri in done:
                with suppress(TabvaeError):
                    remove_file(uri, self.storage)
            raise
        if not self._single:
            self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        ours = {file.path for file in self._files}
        for name in list_folder(self.uri, self.storage):
            if _is_part(name) and name not in ours:
                remove_file(join_uri(self.uri, name), self.storage)


def _is_part(name: str) -> bool:
    return Path(name).match("part-[0-9][0-9][0-9][0-9][0-9].parquet") and "/" not in name


def _is_foreign(name: str) -> bool:
    return (
        name.endswith(".parquet") and not _is_part(name) and not any(p.startswith((".", "_")) for p in Path(name).parts)
    )


def _missing_folders(path: str) -> list[str]:
    """Folders to make for a path, outermost first."""
    missing: list[str] = []
    while not os.path.isdir(path):
        missing.insert(0, path)
        path = os.path.dirname(path)
    return missing


def _remove_if_empty(folder: str) -> None:
    with suppress(OSError):
        os.rmdir(folder)


def _first_difference(got: pa.Schema, want: pa.Schema) -> str:
    if got.names != want.names:
        return "the columns differ"
    for one, other in zip(got, want, strict=True):
        if not one.type.equals(other.type):
            return f"column {one.name!r} is {one.type}, expected {other.type}"
    return "nullability differs"


def _canonical(group: pa.Table, schema: pa.Schema) -> pa.Table:
    """Give a row group the form that its rows alone determine: no chunks, dictionaries in order of rows."""
    columns = []
    for field, column in zip(schema, group.columns, strict=True):
        kind = field.type
        try:
            if pa.types.is_dictionary(kind) and not kind.ordered:
                # Each caller's batch brings a dictionary of its own; Parquet would store it as it comes.
                columns.append(column.cast(kind.value_type).combine_chunks().dictionary_encode().cast(kind))
            else:
                columns.append(column.combine_chunks())
        except pa.ArrowException:
            raise DataError(
                f"column {field.name!r} has more distinct values in one row group than {kind} can number",
                hint="use a wider index type or plain values in the source",
            ) from None
    return pa.Table.from_arrays(columns, schema=schema)
