"""Checkpoints of a training: tensors in safetensors, what they belong to in its metadata."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = ["copy_state", "load_optimizer", "optimizer_state", "read_checkpoint", "same_shapes", "write_checkpoint"]

_FILE = "checkpoint.safetensors"


def write_checkpoint(folder: Path, states: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, str]) -> None:
    """Write named states over the checkpoint before; a kill leaves the old one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{part}/{key}": value.contiguous() for part, state in states.items() for key, value in state.items()}
    partial = folder / "checkpoint.partial"
    save_file(tensors, partial, metadata=dict(meta))
    os.replace(partial, folder / _FILE)


def read_checkpoint(
    folder: Path, identity: Mapping[str, str], device: torch.device
) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]] | None:
    """Read states and metadata; None where there is no checkpoint, or one whose metadata is not of that identity."""
    file = folder / _FILE
    if not file.exists():
        return None
    with safe_open(file, "pt") as opened:
        meta = opened.metadata() or {}
    if any(meta.get(key) != value for key, value in identity.items()):
        return None
    states: dict[str, dict[str, Tensor]] = {}
    for name, value in load_file(file).items():
        part, _, key = name.partition("/")
        states.setdefault(part, {})[key] = value.to(device)
    return states, meta


def copy_state(model: nn.Module) -> dict[str, Tensor]:
    """Copy of a model's weights."""
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def same_shapes(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two states are of the same network."""
    return {key: value.shape for key, value in one.items()} == {key: value.shape for key, value in other.items()}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an Adam-like optimizer, its parameters by their places."""
    return {
        f"{place}/{key}": value
        for place, parameter in enumerate(_parameters(optimizer))
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Take up what `optimizer_state` gave."""
    for place, parameter in enumerate(_parameters(optimizer)):
        prefix = f"{place}/"
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if own:
            optimizer.state[parameter] = own | {"step": own["step"].cpu()}


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
