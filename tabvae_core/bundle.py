"""Model bundles: a folder of safetensors and JSON, formats that hold no code, so opening one runs none.

    bundle.json           format, method, schema, codecs' scalars, hyperparameters, training record, library versions
    weights.safetensors   weights, codecs' arrays
    MODEL_CARD.md         the same for a person

The weights' sha256 stands in bundle.json, so a damaged or mixed-up bundle is found before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from tabvae_core.codecs.base import CodecState
from tabvae_core.errors import ModelFileError, StorageError
from tabvae_core.schema import TableSchema
from tabvae_core.spec import ModelSpec, PrivacySpec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "BUNDLE_FILE",
    "CARD_FILE",
    "WEIGHTS_FILE",
    "Bundle",
    "loading_weights",
    "read_bundle",
    "read_header",
    "tensors_under",
    "write_bundle",
]

FORMAT = "tabvae-bundle"
VERSION = 1
BUNDLE_FILE, WEIGHTS_FILE, CARD_FILE = "bundle.json", "weights.safetensors", "MODEL_CARD.md"
_LIBRARIES = ("tabvae", "torch", "numpy", "pandas", "pyarrow", "scikit-learn", "safetensors")


@dataclass(frozen=True)
class Bundle:
    """What a bundle holds.

    Args:
        method: Name of the synthesizer.
        schema: Schema of the learned table.
        codecs: State of each column's codec.
        model: Training parameters.
        privacy: Protection that the codecs were fitted with.
        network: Hyperparameters of the network, JSON.
        record: Training record, JSON.
        weights: Arrays by name.

    """

    method: str
    schema: TableSchema
    codecs: Sequence[CodecState]
    model: ModelSpec
    privacy: PrivacySpec
    network: Mapping[str, Any]
    record: Mapping[str, Any]
    weights: Mapping[str, npt.NDArray[Any]]


def write_bundle(bundle: Bundle, folder: Path) -> None:
    """Write a bundle; bundle.json comes last, so a folder without one was never finished.

    Raises:
        StorageError: The folder cannot be written.

    """
    from safetensors.numpy import save_file

    arrays = {f"weights/{k}": np.ascontiguousarray(v) for k, v in bundle.weights.items()}
    for index, state in enumerate(bundle.codecs):
        arrays |= {f"codecs/{index}/{k}": np.ascontiguousarray(v) for k, v in state.arrays.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / BUNDLE_FILE).unlink(missing_ok=True)
        weights = folder / WEIGHTS_FILE
        save_file(arrays, weights)
        header = _header(bundle, _sha256(weights))
        (folder / CARD_FILE).write_text(_card(header), encoding="utf-8")
        partial = folder / f"{BUNDLE_FILE}.partial"
        partial.write_text(json.dumps(header, indent=1), encoding="utf-8")
        os.replace(partial, folder / BUNDLE_FILE)
    except OSError as error:
        raise StorageError(
            f"model bundle {folder} cannot be written: {error.strerror or error.__class__.__name__}",
            hint="name a folder that can be written and has space",
        ) from None


def _header(bundle: Bundle, sha256: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "method": bundle.method,
        "weights_sha256": sha256,
        "schema": bundle.schema.model_dump(mode="json"),
        "codecs": [{"kind": state.kind, "values": state.values} for state in bundle.codecs],
        "model": bundle.model.model_dump(mode="json"),
        "privacy": bundle.privacy.model_dump(mode="json"),
        "network": dict(bundle.network),
        "record": dict(bundle.record),
        "libraries": {name: _version(name) for name in _LIBRARIES} | {"python": platform.python_version()},
    }


def read_header(folder: Path) -> dict[str, Any]:
    """Read bundle.json alone.

    Raises:
        ModelFileError: It is missing, damaged, of another format or of a later version.

    """
    file = folder / BUNDLE_FILE
    try:
        header = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelFileError(
            f"there is no model bundle in {folder}: {BUNDLE_FILE} is missing",
            hint="name the folder that `tabvae fit` wrote",
        ) from None
    except (OSError, ValueError):
        raise ModelFileError(f"{file} cannot be read: it is damaged", hint="fit the model again") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ModelFileError(f"{file} is not a tabvae bundle", hint="name the folder that `tabvae fit` wrote")
    if header.get("version") != VERSION:
        raise ModelFileError(
            f"{file} has format version {header.get('version')!r}, this tabvae reads version {VERSION}",
            hint="use the tabvae that wrote it, or fit the model again",
        )
    return header


def read_bundle(folder: Path, method: str | None = None) -> Bundle:
    """Read a bundle whole.

    Args:
        folder: The bundle.
        method: Method that it must be of; None takes any.

    Raises:
        ModelFileError: It is missing, damaged, of another format, of a later version or of another method.

    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    header = read_header(folder)
    if method is not None and header.get("method") != method:
        raise ModelFileError(f"the bundle in {folder} is of method {header.get('method')!r}, not {method!r}")
    weights = folder / WEIGHTS_FILE
    try:
        if _sha256(weights) != header["weights_sha256"]:
            raise ModelFileError(
                f"{weights} is damaged or of another model: its sha256 is not the one in {BUNDLE_FILE}",
                hint="copy the bundle again, or fit the model again",
            )
        arrays = load_file(weights)
        codecs = [
            CodecState(entry["kind"], entry["values"], _under(arrays, f"codecs/{index}/"))
            for index, entry in enumerate(header["codecs"])
        ]
        return Bundle(
            method=header["method"],
            schema=TableSchema.model_validate(header["schema"]),
            codecs=codecs,
            model=ModelSpec.model_validate(header["model"]),
            privacy=PrivacySpec.model_validate(header["privacy"]),
            network=header["network"],
            record=header["record"],
            weights=_under(arrays, "weights/"),
        )
    except (KeyError, TypeError, ValidationError, SafetensorError, OSError) as error:
        raise ModelFileError(
            f"the model bundle in {folder} is damaged: {error.__class__.__name__}", hint="fit the model again"
        ) from None


@contextmanager
def loading_weights(folder: Path) -> Iterator[None]:
    """Turn what a network says of weights that are not its own into one error.

    Raises:
        ModelFileError: They are missing, or of another shape.

    """
    try:
        yield
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"the weights in {folder} do not fit its network: {error.__class__.__name__}", hint="fit the model again"
        ) from None


def tensors_under(prefix: str, weights: Mapping[str, npt.NDArray[Any]]) -> dict[str, Tensor]:
    """Weights whose names begin with a prefix, without it, as tensors: the state of a network."""
    import torch

    return {name: torch.from_numpy(array) for name, array in _under(weights, prefix).items()}


def _under(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> dict[str, npt.NDArray[Any]]:
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _card(header: Mapping[str, Any]) -> str:
    schema, record, privacy = header["schema"], header["record"], header["privacy"]
    lines = [
        f"# Model card: {header['method']}",
        "",
        f"A synthesizer of tables with {len(schema['columns'])} columns, learned from {schema['rows']:,} rows.",
        "",
        "| training | |",
        "|---|---|",
        *(
            f"| {key.replace('_', ' ')} | {value} |"
            for key, value in record.items()
            if not isinstance(value, list | dict)
        ),
        "",
        "| column | kind | type | nulls |",
        "|---|---|---|---|",
        *(
            f"| {column['name']} | {column['kind']} | {column['arrow_type']} | {100 * column['nulls']:.1f} % |"
            for column in schema["columns"]
        ),
        "",
        *_between_columns(record),
        *_protection(privacy, record),
        "",
        "| library | version |",
        "|---|---|",
        *(f"| {name} | {version} |" for name, version in header["libraries"].items()),
        "",
    ]
    return "\n".join(lines)


def _between_columns(record: Mapping[str, Any]) -> list[str]:
    """Relations that were found: exact ones are computed, the others drawn as such."""
    found = [*record.get("relations", ()), *record.get("ratios", ())]
    return ["## What was found between columns", "", *(f"- {text}" for text in found), ""] if found else []


def _protection(privacy: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    if privacy.get("epsilon") is not None and "privacy" in record:
        spent = record["privacy"]
        return [
            "## Differential privacy",
            "",
            f"What it holds of the rows satisfies epsilon {spent['spent_epsilon']:.4g} at delta {spent['delta']:g}, "
            f"for {spent['neighbours']}. Accounting: {spent['accounting']}.",
            "",
            "| share | mechanism | rho |",
            "|---|---|---|",
            *(f"| {one['share']} | {one['mechanism']} | {_number(one['rho'])} |" for one in spent["spending"]),
        ]
    return [
        "## What it does not hold",
        "",
        f"- Categories of fewer than {privacy['min_category_rows']} rows.",
        f"- The outermost values of a number: each end is the mean of {privacy['protect_extremes']} rows, unless "
        f"{privacy['min_category_rows']} rows share it.",
        "- Values of identifiers and free text: only their format and the words that many rows share.",
        "",
        "It carries no differential-privacy guarantee.",
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
