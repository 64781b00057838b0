"""Every way out of the command line: one clear error, one exit code, never a traceback unless TABVAE_DEBUG=1.

0 done   1 unexpected   2 spec or option   3 data   4 gate refused   5 publish conflict   6 storage   130 interrupted
"""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from typing import Any

from tabvae_core.errors import DataError, GateRefused, StorageError, TabvaeError

__all__ = ["INTERRUPTED", "report_failure"]

INTERRUPTED = 130
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


def report_failure(error: BaseException, *, as_json: bool) -> int:
    """Print an error to stderr, and as one JSON object to stdout where asked for.

    Returns:
        The exit code.

    """
    if os.environ.get("TABVAE_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        kind, message, hint, code = (
            "Interrupted",
            "interrupted",
            "run it again: it goes on where it stopped",
            INTERRUPTED,
        )
    else:
        known = error if isinstance(error, TabvaeError) else _known(error)
        kind, message, hint, code = type(known).__name__, known.message, known.hint, known.exit_code
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    if as_json:
        failure: dict[str, Any] = {"kind": kind, "message": message, "hint": hint, "exit_code": code}
        if isinstance(error, GateRefused):
            failure |= {"failures": list(error.failures), "quarantine": error.quarantine}
        print(json.dumps({"error": failure}))
    sys.stderr.flush()
    return code


def _known(error: BaseException) -> TabvaeError:
    """Say what a foreign exception means; its own text stays out, for it could quote cells of real data."""
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return StorageError("the disk is full", hint="free space, or point TMPDIR and the workspace to another disk")
    if isinstance(error, MemoryError):
        return DataError("not enough memory", hint="lower model.max_rows or sample.shards, or use a larger machine")
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename else ""
        return StorageError(f"{where}{os.strerror(error.errno).lower()}", hint="check the path and its permissions")
    return TabvaeError(
        f"unexpected {type(error).__name__} at {_place(error)}",
        hint="this is a fault of tabvae; run again with TABVAE_DEBUG=1 for the traceback and report it",
    )


def _place(error: BaseException) -> str:
    """Name the last line of our own code that the error passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "tabvae_" in frame.filename] or list(frames)
    if not ours:
        return "an unknown place"
    return f"{os.path.basename(ours[-1].filename)}:{ours[-1].lineno}"
