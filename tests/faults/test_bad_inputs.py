"""Each bad input through the real command line: one clear error, its exit code, nothing half-written.

What they say is the table of docs/errors.md; `python tests/faults/error_table.py --write` makes it anew.
"""

from __future__ import annotations

import re

import pytest
from error_table import CASES, DOCUMENT, SECRET, WORDS, Bench, Case, Outcome, document, row_of

from s3_servers import Store


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
    assert not [word for word in (*WORDS, "ZK-0") if word in said], "a message quotes cells of the source"
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
