"""The most memory that this process has held, where the system tells: on Linux."""

from __future__ import annotations

from pathlib import Path

__all__ = ["peak_mib", "reset_peak"]

_PROCESS = Path("/proc/self")


def reset_peak() -> bool:
    """Begin to look for a new peak; False where the system does not let us."""
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_mib() -> int | None:
    """Most resident memory since the start, or since `reset_peak`, in MiB; None where the system does not tell."""
    try:
        lines = (_PROCESS / "status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:")), None)
