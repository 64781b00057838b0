"""Learn a table with another library, write a sample, print seconds and peak memory as one line of JSON.

    peers/bin/python benchmarks/peers.py mostlyai train.parquet out.parquet --rows 1000 --threads 2 --max-seconds 60

Runs with the Python of an environment of its own, made by

    python -m venv peers && peers/bin/pip install torch==2.13.0 pyarrow mostlyai-engine sdv

Options are each library's defaults. mostlyai-engine takes a limit of time itself; SDV's networks have none, so their
epochs are ended from here. Types that not every library knows (decimals, dates, zones, dictionaries) are translated
before learning and back in the sample.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker import Fit, Learned, Task, installed, run

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_SDV = {
    "sdv_tvae": "TVAESynthesizer",
    "sdv_ctgan": "CTGANSynthesizer",
    "sdv_copula": "GaussianCopulaSynthesizer",
}
PACKAGES = {"mostlyai": "mostlyai-engine", **dict.fromkeys(_SDV, "sdv")}
"""Every peer, and the distribution that brings it."""
PRIVATE = {"mostlyai"}
"""Peers that learn with differential privacy."""
UNTIMED = {"sdv_copula"}
"""Peers that a limit of time means nothing to."""
_MOSTLYAI_BATCH, _MOSTLYAI_PASSES = 256, 20
"""Rows of a step that it chooses for tables of this size, and passes that its noise is chosen for."""


def mostlyai(task: Task) -> Fit:
    """TabularARGN of mostlyai-engine."""
    # It requires torchvision, which no table needs, and one built for GPUs does not load beside a torch built for CPUs:
    # hidden, it is not missed.
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    import torch
    from mostlyai.engine import TabularARGN

    torch.set_num_threads(task.threads)
    data = _read(task.train)
    limit = {} if task.max_seconds is None else {"max_training_time": task.max_seconds / 60}
    private = {} if task.epsilon is None else {"differential_privacy": _mostlyai_privacy(task, len(data))}
    model = TabularARGN(workspace_dir=task.scratch, random_state=0, **limit, **private)

    def fit() -> Learned:
        model.fit(data)
        return Learned(lambda rows, out: _write(model.sample(rows), task.train, out), _rows_seen(task.scratch))

    return fit


def _mostlyai_privacy(task: Task, rows: int) -> Any:
    """Spend epsilon as well as it goes: its defaults would spend 1 on value ranges and stop at once at 1 in all.

    A fifth goes to value ranges, and the noise is such that the rest lasts for a number of passes over its training
    rows. It validates on a fifth of the rows, at no cost by its own accounts.
    """
    from mostlyai.engine.domain import DifferentialPrivacyConfig
    from opacus.accountants.utils import get_noise_multiplier

    assert task.epsilon is not None
    noise = get_noise_multiplier(
        target_epsilon=0.8 * task.epsilon,
        target_delta=task.delta,
        sample_rate=min(1.0, _MOSTLYAI_BATCH / (0.8 * rows)),
        epochs=_MOSTLYAI_PASSES,
    )
    return DifferentialPrivacyConfig(
        max_epsilon=task.epsilon, delta=task.delta, noise_multiplier=noise, value_protection_epsilon=0.2 * task.epsilon
    )


def _rows_seen(workspace: Path) -> int | None:
    import pandas as pd

    log = workspace / "ModelStore" / "model-data" / "progress-messages.csv"
    return int(pd.read_csv(log)["samples"].max()) if log.exists() else None


def sdv(task: Task) -> Fit:
    """TVAE, CTGAN or Gaussian copula of SDV. A copula is fitted, not trained: a limit of time means nothing to it."""
    # SDV keeps a log of every synthesizer in the user's data folder.
    os.environ["XDG_DATA_HOME"] = str(task.scratch)
    import torch
    from sdv import single_table

    torch.set_num_threads(task.threads)
    torch.manual_seed(0)
    data = {"table": _read(task.train)}
    epochs = _Epochs(task.max_seconds)
    for module in ("tvae", "ctgan"):
        import_module(f"ctgan.synthesizers.{module}").tqdm = epochs  # type: ignore[attr-defined]
    model = getattr(single_table, _SDV[task.method])(_sdv_metadata(data))

    def fit() -> Learned:
        epochs.started = time.monotonic()
        model.fit(data)
        return Learned(write, max(epochs.done, 1) * len(data["table"]))

    def write(rows: int, out: Path) -> None:
        _write(model.sample(rows)["table"], task.train, out)

    return fit


def _sdv_metadata(data: dict[str, pd.DataFrame]) -> Any:
    """What SDV detects, less what it would make anew in place of learning it: columns like a city, foreign keys."""
    import pandas as pd
    from sdv.metadata import Metadata

    found = Metadata.detect_from_dataframes(data)
    table = found.to_dict()["tables"]["table"]
    for name, column in table["columns"].items():
        made_anew = column["sdtype"] == "id" or (column.get("pii") and column["sdtype"] != "unknown")
        if made_anew and name != table.get("primary_key"):
            number = pd.api.types.is_numeric_dtype(data["table"][name])
            found.update_column(name, "table", sdtype="numerical" if number else "categorical")
    return found


class _Epochs:
    """Takes the place of the progress bar around ctgan's epochs: counts them, and ends them when the time is over.

    Args:
        max_seconds: Seconds from the start of the fit, or no limit.

    """

    def __init__(self, max_seconds: float | None) -> None:
        self.max_seconds, self.done, self.started = max_seconds, 0, 0.0

    def __call__(self, epochs: Iterable[int], **bar: Any) -> Iterator[int]:
        for epoch in epochs:
            yield epoch
            self.done += 1
            if self.max_seconds is not None and time.monotonic() - self.started > self.max_seconds:
                return


def _read(path: Path) -> pd.DataFrame:
    """Read a table in types that every library knows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    for index, field in enumerate(table.schema):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_decimal(kind):
            kind = pa.float64()
        elif pa.types.is_date(kind) or pa.types.is_timestamp(kind):
            kind = pa.timestamp("ns")
        if kind != field.type:
            table = table.set_column(index, field.name, table.column(index).cast(kind))
    data: pd.DataFrame = table.to_pandas()
    return data


def _write(data: pd.DataFrame, train: Path, out: Path) -> None:
    """Write a sample in the types of the training rows; a column that does not fit them keeps its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(train)
    table = pa.Table.from_pandas(data[schema.names], preserve_index=False).replace_schema_metadata(schema.metadata)
    for index, field in enumerate(schema):
        table = table.set_column(index, field.name, _cast(table.column(index), field.type))
    pq.write_table(table, out)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    import pyarrow as pa

    try:
        return column.cast(kind, safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return column


def versions(method: str) -> dict[str, str]:
    return installed(PACKAGES[method], "torch")


if __name__ == "__main__":
    run({"mostlyai": mostlyai, **dict.fromkeys(_SDV, sdv)}, versions, __doc__ or "")
