"""Pages say what is: generated references are current, and blocks that are not executed are at least well-formed."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from collections.abc import Iterator
from itertools import dropwhile, pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

import tabvae_core
from page_blocks import ROOT, Block, blocks
from tabvae_core.spec import RefreshSpec, parse_spec
from tabvae_flows.cli import app

sys.path.insert(0, str(ROOT / "docs" / "site"))
import reference

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "deployments").rglob("*.md"))]
BLOCKS = [(page.relative_to(ROOT), block) for page in PAGES for block in blocks(page)]
IDS = [f"{page}:{block.code.splitlines()[0][:40]}" for page, block in BLOCKS]


@pytest.mark.parametrize("page", [reference.SPEC, reference.COMMANDS], ids=lambda page: page.name)
def test_generated_pages_are_current(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == reference.pages()[page], "run `make reference`"


def test_every_key_of_the_spec_is_in_its_reference() -> None:
    text = reference.SPEC.read_text(encoding="utf-8")
    defs = RefreshSpec.model_json_schema()["$defs"]
    keys = {key for part in defs.values() for key in part.get("properties", {})} | set(RefreshSpec.model_fields)
    assert not [key for key in keys if f"| `{key}` |" not in text]
    assert "| `max_auc` | number, ≥ 0.5 and ≤ 1 | `0.9` | Largest AUC of boosted trees" in text
    assert "| `uri` | text | **required** |" in text


def test_every_public_name_is_in_the_reference_of_python() -> None:
    text = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: tabvae_core\.(\w+)$", text, re.M)) == sorted(tabvae_core.__all__)


def test_every_message_of_the_errors_page_can_be_searched() -> None:
    errors = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = [line for line in errors.splitlines() if re.match(r"\| .* \| `tabvae", line)]
    page = reference.troubleshooting_page(errors)
    assert len(re.findall(r"^### ", page, re.M)) == len(rows) > 100
    assert "### model.options.latnet is not an option of vae\\_basic" in page
    assert "What to do: did you mean 'latent'?" in page


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=IDS)
def test_blocks_are_well_formed(page: Path, block: Block) -> None:
    match block.kind:
        case "python":
            ast.parse(block.code)
        case "yaml":
            for part in yaml.safe_load_all(block.code):
                check_spec(part, str(page))
        case "bash":
            for words in tabvae_calls(block.code):
                check_command(words)


def check_spec(part: Any, where: str) -> None:
    """A block with a key that only specs have is a spec, or a part of one."""
    if not isinstance(part, dict) or not set(part) & (set(RefreshSpec.model_fields) - {"name"}):
        return
    parse_spec({"source": {"uri": "a.parquet"}, "target": {"uri": "b"}} | part, where=where)


def tabvae_calls(code: str) -> Iterator[list[str]]:
    """The words after `tabvae` in each of its calls."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split = True
        words = list(lexer)
        begins = [0, *(k + 1 for k, word in enumerate(words) if set(word) <= set("();<>|&"))]
        for begin, end in pairwise([*begins, len(words) + 1]):
            call = list(dropwhile(lambda word: "=" in word, words[begin : end - 1]))
            if call[:1] == ["tabvae"]:
                yield call[1:]


def check_command(words: list[str]) -> None:
    """Let the program read a call without running it."""
    command, context, name, arguments = typer.main.get_command(app), None, "tabvae", list(words)
    while hasattr(command, "commands"):
        if arguments[:1] in (["--help"], ["-h"], ["--version"]):
            return
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
        assert arguments, f"no command after {name}"
        name = arguments.pop(0)
        assert name in command.commands, f"no command {name}"
        command = command.commands[name]
    if not {"--help", "-h"} & set(arguments):
        command.make_context(name, arguments, parent=context)


@pytest.mark.parametrize(
    ("code", "calls"),
    [
        ("tabvae check a.yaml && tabvae refresh a.yaml > log", [["check", "a.yaml"], ["refresh", "a.yaml"]]),
        ("tabvae check \\\n  a.yaml  # a remark", [["check", "a.yaml"]]),
        ("KEY=1 tabvae check 'a b.yaml' | jq .x", [["check", "a b.yaml"]]),
        ("prefect work-pool create tabvae --type process", []),
    ],
)
def test_calls_are_found(code: str, calls: list[list[str]]) -> None:
    assert list(tabvae_calls(code)) == calls


@pytest.mark.parametrize(
    "call",
    ["tabvae chekc a", "tabvae check", "tabvae check a --colour", "tabvae latent encdoe", "tabvae fit a b --seed x"],
)
def test_wrong_calls_are_seen(call: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no command|no such|missing|valid"):
        check_command(shlex.split(call)[1:])
