"""What all methods share in reading their parameters."""

from __future__ import annotations

import dataclasses
import difflib
import math
from typing import TYPE_CHECKING, Any, TypeVar

from tabvae_core.errors import SpecError
from tabvae_core.spec import ModelSpec

if TYPE_CHECKING:
    import torch

__all__ = ["choose_device", "option", "read_options", "training_devices"]

Options = TypeVar("Options")

_ROWS_A_GPU = 256
"""Rows of a batch that are worth a GPU of their own: the usual batch, whose kernels are so short that one GPU spends a
step on starting them. Half of it would take as long, and gradients would have to be exchanged."""


def option(default: float, *, least: float, below: float = math.inf) -> Any:
    """Field of a dataclass of options, for a number from `least` to below `below`."""
    return dataclasses.field(default=default, metadata={"least": least, "below": below})


def read_options(kind: type[Options], model: ModelSpec) -> Options:
    """Read `model.options` into a dataclass of numbers.

    Raises:
        SpecError: An option is unknown, not a (whole) number, or out of its range.

    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in model.options.items():
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(fields) or 'none'}"
            raise SpecError(f"model.options.{name} is not an option of {model.method}", hint=hint)
        whole = isinstance(fields[name].default, int)
        expected = f"model.options.{name} must be a {'whole ' if whole else ''}number, however: {value!r}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SpecError(expected)
        if not math.isfinite(value) or (whole and value != int(value)):
            raise SpecError(expected)
        values[name] = int(value) if whole else float(value)
        least, below = (fields[name].metadata.get(end, math.inf) for end in ("least", "below"))
        if fields[name].metadata and not least <= values[name] < below:
            raise SpecError(
                f"model.options.{name} is out of range: {value!r}",
                hint=f"give a number of {least:g} or more" + (f", below {below:g}" if below < math.inf else ""),
            )
    return kind(**values)


def choose_device(name: str) -> torch.device:
    """Find the device of a spec.

    Raises:
        SpecError: The device is not there.

    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise SpecError(f"model.device is {name!r}, but there is no CUDA device here", hint="use auto or cpu")
    if name.startswith("cuda:") and int(name.removeprefix("cuda:")) >= torch.cuda.device_count():
        raise SpecError(
            f"model.device is {name!r}, but there are {torch.cuda.device_count()} CUDA devices here",
            hint="count from cuda:0, or use auto",
        )
    if name == "mps" and not torch.backends.mps.is_available():
        raise SpecError("model.device is 'mps', but there is no Metal device here", hint="use auto or cpu")
    return torch.device(name)


def training_devices(name: str, batch_size: int) -> tuple[torch.device, ...]:
    """Find the devices that a training in batches of so many rows is split over.

    Several GPUs where the spec leaves open which one and every one gets enough rows; else the device of the spec.

    Raises:
        SpecError: The device is not there.

    """
    import multiprocessing

    import torch

    device = choose_device(name)
    if device != torch.device("cuda"):  # of no index
        return (device,)
    n = min(torch.cuda.device_count(), batch_size // _ROWS_A_GPU)
    if n < 2 or multiprocessing.current_process().daemon:  # which may start no processes
        return (device,)
    return tuple(torch.device("cuda", index) for index in range(n))
