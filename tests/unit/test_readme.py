"""What README and docs say is executed or looked up, so that it stays true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from page_blocks import ROOT, Block, blocks
from tabvae_flows.customers import customers

README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "deployments" / "README.md"]
HOW_TO = (
    README,
    *(
        ROOT / "docs" / f"{page}.md"
        for page in (
            "quickstart",
            "augmentation",
            "latent",
            "prefect-ui",
            "refresh-policy",
            "refresh-sets",
            "test-environments",
        )
    ),
)
"""Pages whose blocks are executed, in this order."""
MADE_BY_THE_SITE = ("troubleshooting.md",)
SERVED = ("a Prefect server", "an object store", "the tests would run themselves")


EXECUTED = [
    block for page in HOW_TO for block in blocks(page) if block.kind in {"bash", "python"} and block.why_not is None
]


def partial() -> pa.Table:
    """Some columns of other customers, every second age left out."""
    table = customers(100, seed=1).select(["segment", "age"])
    return table.set_column(1, "age", pc.if_else(pa.array([True, False] * 50), table["age"], None))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of somebody who follows the README: tables of their own, and `tabvae` on the path."""
    folder = tmp_path_factory.mktemp("reader")
    pq.write_table(customers(400), folder / "customers.parquet")
    pq.write_table(partial(), folder / "partial.parquet")
    (folder / "bin").mkdir()
    command = folder / "bin" / "tabvae"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tabvae_flows.cli "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    return folder


@pytest.mark.parametrize("block", EXECUTED, ids=[block.code.splitlines()[0][:40] for block in EXECUTED])
def test_blocks_run_one_after_the_other(block: Block, reader: Path) -> None:
    environment = {**os.environ, "PATH": f"{reader / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    shell = ["bash", "-euo", "pipefail", "-c"] if block.kind == "bash" else [sys.executable, "-c"]
    done = subprocess.run(
        [*shell, block.code], cwd=reader, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_reader_has_what_was_promised(reader: Path) -> None:
    """Runs after the blocks: they left synthetic tables, a conditional, a filled and a balanced one, and releases."""
    real = pq.read_schema(reader / "customers.parquet")
    assert pq.read_schema(reader / "synthetic.parquet").equals(real)
    assert set(pq.read_table(reader / "premium.parquet")["segment"].to_pylist()) == {"premium"}
    filled = pq.read_table(reader / "filled.parquet")
    assert filled.schema.equals(real)
    assert filled["segment"].equals(partial()["segment"])
    assert filled["age"].null_count == 0
    there = partial()["age"].is_valid()
    assert filled["age"].filter(there).to_pylist() == partial()["age"].filter(there).to_pylist()
    assert pq.read_table(reader / "half.parquet")["segment"].to_pylist().count("premium") == 500
    assert {"base.parquet", "richer.parquet", "north.parquet"} <= {path.name for path in (reader / "tables").iterdir()}
    versions = sorted(path.name for path in (reader / "releases" / "customers" / "versions").iterdir())
    assert len(versions) == 2
    assert versions[0] in (reader / "releases" / "customers" / "current.json").read_text(encoding="utf-8")


def test_only_what_needs_a_server_is_not_executed() -> None:
    """Every block has a kind, and one that is skipped says why in one of the known ways."""
    for block in blocks(README):
        assert block.kind in {"bash", "python", "text"}
        assert block.why_not is None or any(reason in block.why_not for reason in SERVED)
    assert sum(block.why_not is not None for block in blocks(README)) == 3
    assert len(EXECUTED) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    rooms = "tabvae_core|tasks|flows|tests|deployments|docs|benchmarks"
    paths = re.findall(rf"`((?:{rooms})/[\w./-]*)`", text)
    gone = [link for link in links if not (page.parent / link).exists() and link not in MADE_BY_THE_SITE]
    gone += [path for path in paths if not (ROOT / path).exists()]
    assert not gone


def test_the_commands_of_the_quick_start_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    said = set(re.findall(r"\bmake (\w+)", "".join(block.code for block in blocks(README))))
    assert said == {"demo", "test"}
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in (*said, "help", "check", "setup"))


def test_ci_runs_what_the_readme_says() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    calls = re.findall(r"^make .*$", script.read_text(encoding="utf-8"), re.M)
    assert calls == ["make check", "make docs", "make test"], "tests last: pytest's closing line"
