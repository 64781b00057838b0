"""Hive partitions: folders named `key=value` become columns of the rows below them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import PurePosixPath
from urllib.parse import unquote

import pyarrow as pa

from tabvae_core.errors import DataError

__all__ = ["partition_columns", "partition_values"]

# The name that Hive, Spark and pyarrow give to the folder of rows whose key is null.
NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"


def partition_values(relative: str) -> dict[str, str | None]:
    """Read the keys and values of the folders above a file, outermost first.

    Args:
        relative: Path of the file below the table's folder.

    """
    values: dict[str, str | None] = {}
    for part in PurePosixPath(relative).parts[:-1]:
        key, separator, value = part.partition("=")
        if separator and key:
            values[unquote(key)] = None if value == NULL_FOLDER else unquote(value)
    return values


def partition_columns(
    files: Sequence[tuple[str, Mapping[str, str | None]]],
) -> tuple[list[pa.Field], list[dict[str, pa.Scalar]]]:
    """Decide the types of the partition columns.

    Whole numbers become int64 and ISO dates date32, when every folder's value is one; anything else stays
    text, and so do numbers with leading zeros, whose form would be lost.

    Args:
        files: Relative path and partition values of each file.

    Returns:
        The columns, and for each file the value of each column.

    Raises:
        DataError: The files lie below different keys.

    """
    keys = list(files[0][1])
    for relative, values in files:
        if list(values) != keys:
            raise DataError(
                f"{relative} lies in the partitions {_named(values)}, {files[0][0]} in {_named(keys)}",
                hint="one folder is one table with one set of partition keys; read a folder further down",
            )
    fields, columns = [], []
    for key in keys:
        texts = [values[key] for _, values in files]
        kind = _kind(texts)
        fields.append(pa.field(key, kind))
        columns.append([pa.scalar(_value(text, kind), kind) for text in texts])
    return fields, [{key: column[i] for key, column in zip(keys, columns, strict=True)} for i in range(len(files))]


def _named(keys: Mapping[str, str | None] | Sequence[str]) -> str:
    return ", ".join(keys) or "(none)"


def _kind(texts: Sequence[str | None]) -> pa.DataType:
    known = [text for text in texts if text is not None]
    if known and all(re.fullmatch(r"0|-?[1-9]\d{0,17}", text) for text in known):
        return pa.int64()
    if known and all(_is_date(text) for text in known):
        return pa.date32()
    return pa.string()


def _is_date(text: str) -> bool:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _value(text: str | None, kind: pa.DataType) -> str | int | date | None:
    if text is None or kind == pa.string():
        return text
    return int(text) if kind == pa.int64() else date.fromisoformat(text)
