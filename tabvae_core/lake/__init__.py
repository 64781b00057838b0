"""Tables in a lake: read as a stream, written as whole files; and objects that are replaced conditionally.

Access to the stores themselves is in `tabvae_core.storage`, whose names are repeated here.

conditional  replace an object only if it is still the one that was read
source       `ParquetSource`: files, folders, Hive partitions, column and row filters
sink         `ParquetSink`: deterministic files that appear whole or not at all
partitions   `key=value` folders as columns
unify        one schema for many files
"""

from __future__ import annotations

from tabvae_core.lake.conditional import Guarantee, probe_conditional_puts, put_if_match, read_with_etag
from tabvae_core.lake.sink import ParquetSink
from tabvae_core.lake.source import ParquetSource
from tabvae_core.storage import (
    Credentials,
    StoreOptions,
    check_writable,
    copy_file,
    copy_tree,
    exists,
    file_sha256,
    filesystem,
    is_local,
    join_uri,
    list_folder,
    list_names,
    read_bytes,
    read_json,
    register_credentials,
    remove_file,
    remove_tree,
    safe_uri,
    storage_errors,
    write_bytes,
    write_json,
)

__all__ = [
    "Credentials",
    "Guarantee",
    "ParquetSink",
    "ParquetSource",
    "StoreOptions",
    "check_writable",
    "copy_file",
    "copy_tree",
    "exists",
    "file_sha256",
    "filesystem",
    "is_local",
    "join_uri",
    "list_folder",
    "list_names",
    "probe_conditional_puts",
    "put_if_match",
    "read_bytes",
    "read_json",
    "read_with_etag",
    "register_credentials",
    "remove_file",
    "remove_tree",
    "safe_uri",
    "storage_errors",
    "write_bytes",
    "write_json",
]
