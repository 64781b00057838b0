"""How an error of ours is told as the state of a flow run, and read back from the state of another run."""

from __future__ import annotations

from prefect.client.schemas.objects import State

from tabvae_core.errors import DataError, GateRefused, PublishConflict, SpecError, StorageError, TabvaeError

__all__ = ["FAILED_NAMES", "error_of"]

FAILED_NAMES: dict[type[TabvaeError], str] = {
    GateRefused: "Refused",
    PublishConflict: "Conflict",
    StorageError: "StorageFailed",
    DataError: "DataFailed",
    SpecError: "SpecFailed",
}


def error_of(state: State) -> TabvaeError | None:
    """Read the error back that a run of ours ended with; None where it ended otherwise, such as by a crash."""
    kinds = {name: kind for kind, name in FAILED_NAMES.items()}
    if state.name not in kinds:
        return None
    message, _, hint = (state.message or "").partition("\n  hint: ")
    return kinds[state.name](message, hint=hint)
