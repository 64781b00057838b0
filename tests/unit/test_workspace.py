from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tabvae_core.spec import parse_spec
from tabvae_core.workspace import Run, _source_hash, code_version

if TYPE_CHECKING:
    from conftest import Place


def test_code_version_of_a_checkout_follows_its_source_files(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "a.py").write_text("x = 1\n")
    (package / "inner" / "b.py").write_text("y = 1\n")
    first = _source_hash(package)
    (package / "notes.txt").write_text("no code")
    assert _source_hash(package) == first
    (package / "inner" / "b.py").write_text("y = 2\n")
    assert _source_hash(package) != first


def test_code_version_reads_like_a_version() -> None:
    assert re.fullmatch(r"(\d+\.\d+\S*?)?(\+?source\.[0-9a-f]{12})?", code_version())
    assert code_version() == code_version()


def run_in(place: Place) -> Run:
    spec = parse_spec(
        {
            "name": "people",
            "source": {"uri": "people.parquet"},
            "target": {"uri": "out"},
            "workspace": {"uri": place.uri, "storage": place.storage.model_dump()},
        }
    )
    return Run(spec, "0123456789abcdef")


class Cancelled(BaseException):
    """As an orchestrator ends a process: no `Exception`."""


def test_the_checkpoint_of_a_cancelled_training_waits_for_the_next_one(place: Place) -> None:
    """On every kind of store, which the next worker reaches and this one's disk is not."""

    def cancelled() -> None:
        with run_in(place).checkpoint() as folder:
            (folder / "member-0").mkdir(parents=True)
            (folder / "member-0" / "checkpoint.safetensors").write_bytes(b"epoch 3")
            raise Cancelled

    with pytest.raises(Cancelled):
        cancelled()
    with run_in(place).checkpoint() as folder:
        assert (folder / "member-0" / "checkpoint.safetensors").read_bytes() == b"epoch 3"
    with run_in(place).checkpoint() as folder:
        assert not list(folder.rglob("*.safetensors")), "a training that ended leaves none"
