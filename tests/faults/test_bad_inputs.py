"""Each bad input through the real command line: one clear error, its exit code, nothing half-written.

What they say is the table of docs/errors.md; `python tests/faults/error_table.py --write` makes it anew.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from error_table import CASES, DOCUMENT, SECRET, WORDS, Bench, Case, Outcome, document, row_of, run_process

from s3_servers import Store

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs /sys, where nobody can write, and limits on files"
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Bench:
    def store(name: str) -> Store:
        found: Store = request.getfixturevalue(f"s3_{name}")
        return found

    return Bench(tmp_path_factory.mktemp("errors"), store)


@pytest.mark.parametrize("case", CASES, ids=lambda case: re.sub(r"\W+", "-", case.title))
def test_bad_input(case: Case, bench: Bench) -> None:
    outcome = bench.run(case)
    said = outcome.out + outcome.err
    assert outcome.code == case.code, said
    assert "Traceback" not in said
    assert SECRET not in said
    message = said if case.code else outcome.err  # what a command that ended well prints are synthetic rows' figures
    assert not [word for word in (*WORDS, "ZK-0") if word in message], "a message quotes cells of the source"
    for part in case.says:
        assert part in said
    if case.code:
        _is_one_clear_error(case, outcome)
    assert set(outcome.left) <= set(case.leaves), "something was left half-written"
    assert not outcome.temporary, "temporary files were left"
    assert row_of(case, outcome) in DOCUMENT.read_text(encoding="utf-8").splitlines(), "docs/errors.md is out of date"


def _is_one_clear_error(case: Case, outcome: Outcome) -> None:
    if case.command.startswith("tabvae check"):  # its findings are its result
        assert "FAIL" in outcome.out or "error: " in outcome.err
        assert "hint: " in outcome.out + outcome.err
        return
    lines = outcome.err.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert lines[-2].startswith("error: "), "the error is what a reader sees last"
    assert lines[-1].startswith("hint: ")


def test_document_lists_these_cases_and_no_others() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.count(" | ") >= 4][1:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in rows] == [case.title for case in CASES]
    assert text == document(rows)


def test_a_disk_that_is_really_full(bench: Bench, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a small disk")
    try:
        code, _, err = run_process(
            ["sample", str(bench.model("vae_basic")), str(disk / "out.parquet"), "--rows", "20000"]
        )
        assert code == 6, err
        assert f"error: {disk}/out.parquet: no space is left\n" in err
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_same_errors_through_prefect(bench: Bench, tmp_path: Path) -> None:
    """Prefect retries, logs and stores states; what the user sees and the exit code stay those of the error."""
    spec = yaml.safe_load((bench.published / "refresh.yaml").read_text(encoding="utf-8"))
    spec |= {"source": {"uri": "gone.parquet"}, "workspace": {"uri": str(tmp_path / "work")}}
    (tmp_path / "refresh.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    code, out, err = run_process(["refresh", str(tmp_path / "refresh.yaml"), "--json"])
    assert code == 3, err
    assert err.splitlines()[-2:] == ["error: gone.parquet does not exist", "hint: check the path"]
    assert all(line.startswith(("note: ", "snapshot: ", "error: ", "hint: ")) for line in err.splitlines()), err
    assert json.loads(out)["error"]["exit_code"] == 3
