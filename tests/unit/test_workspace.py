from __future__ import annotations

import re
from pathlib import Path

from tabvae_core.workspace import _source_hash, code_version


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
