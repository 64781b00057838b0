"""What pyproject.toml declares against what the code imports, and constraints.txt against both."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
OURS = {"tabvae_core", "tabvae_tasks", "tabvae_flows", "tabvae_airflow"}
ELSEWHERE = {"airflow": ["apache-airflow"], "openlineage": ["apache-airflow"]}
"""Modules of the other environment: Airflow's own, and those its provider brings where it is installed."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: Iterable[str]) -> set[str]:
    found = {canonical(re.split(r"[\[<>=!~; ]", line)[0]) for line in requirements}
    return found - {"tabvae"}


def imported(folders: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Top names of the foreign modules that files import, with the file."""
    for file in (file for folder in folders for file in sorted(folder.rglob("*.py"))):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                modules = [node.module]
            for top in {module.split(".")[0] for module in modules} - OURS - sys.stdlib_module_names:
                yield top, file


def undeclared(folders: Iterable[Path], declared: set[str]) -> list[str]:
    known = ELSEWHERE | packages_distributions()
    return [
        f"{file.relative_to(ROOT)} imports {module}"
        for module, file in imported(folders)
        if not {canonical(name) for name in known.get(module, [module])} & declared
    ]


def test_every_import_of_the_core_is_declared() -> None:
    declared = names([*PROJECT["dependencies"], *EXTRAS["augment"]])
    assert undeclared([ROOT / "tabvae_core"], declared) == []


def test_every_import_of_tasks_and_flows_is_declared() -> None:
    declared = names([*PROJECT["dependencies"], *EXTRAS["prefect"]])
    assert undeclared([ROOT / "tasks", ROOT / "flows" / "tabvae_flows"], declared) == []


def test_every_import_under_airflow_is_declared() -> None:
    declared = names([*PROJECT["dependencies"], *EXTRAS["airflow"]])
    assert undeclared([ROOT / "flows" / "tabvae_airflow"], declared) == []


def test_every_import_of_the_tests_is_declared() -> None:
    declared = names(
        [*PROJECT["dependencies"], *EXTRAS["prefect"], *EXTRAS["airflow"], *EXTRAS["dev"], *EXTRAS["docs"]]
    )
    helpers = {file.stem for room in ("tests", "docs") for file in (ROOT / room).rglob("*.py")}
    assert undeclared([ROOT / "tests"], declared | {canonical(name) for name in helpers}) == []


def pins(file: str) -> dict[str, str]:
    """Versions by name."""
    lines = [line for line in (ROOT / file).read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    # No address, no path, no local version: a plain index must be able to serve each line.
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    found = dict(line.split("==") for line in lines)
    assert len(found) == len(lines), "each name once"
    return found


def test_every_direct_dependency_is_constrained() -> None:
    asked = names([*PROJECT["dependencies"], *(line for name in EXTRAS if name != "airflow" for line in EXTRAS[name])])
    assert asked - set(pins("constraints.txt")) == set()


def test_airflows_environment_has_the_same_versions_of_ours() -> None:
    here, there = pins("constraints.txt"), pins("constraints-airflow.txt")
    asked = names([*PROJECT["dependencies"], *EXTRAS["airflow"]])
    assert asked - set(there) == set()
    differ = {name: (here[name], there[name]) for name in asked & set(here) if here[name] != there[name]}
    assert not differ


def test_the_changelog_speaks_of_this_version() -> None:
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
