"""What is built from the repository: complete, clean, and usable where the repository is not."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tables_made import people

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "tabvae_core": ROOT,
    "tabvae_tasks": ROOT / "tasks",
    "tabvae_flows": ROOT / "flows",
    "tabvae_airflow": ROOT / "flows",
}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


@dataclass(frozen=True)
class Built:
    """The two files that would be uploaded."""

    sdist: Path
    wheel: Path


@dataclass(frozen=True)
class Environment:
    """A fresh virtual environment that holds the wheel, and sees the running environment's libraries."""

    folder: Path
    cwd: Path

    def run(self, *command: str) -> str:
        """Run a program of the environment away from the repository; return what it printed."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]],
            cwd=self.cwd, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sdist, and the wheel made from it: so the sdist holds all that a wheel needs."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Built(folder / f"tabvae-{VERSION}.tar.gz", folder / f"tabvae-{VERSION}-py3-none-any.whl")


@pytest.fixture(scope="module")
def fresh(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel in an environment of its own."""
    folder, cwd = tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("elsewhere")
    venv.create(folder, with_pip=False, symlinks=True)
    python = str(folder / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--no-deps", "--no-index", str(built.wheel)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # A path in a .pth file is added to sys.path, the .pth files in it are not read: no editable install shines through.
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return Environment(folder, cwd)


def test_the_wheel_holds_the_packages_whole_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = set(wheel.namelist())
    info = f"tabvae-{VERSION}.dist-info"
    assert {name.split("/")[0] for name in names} == {*PACKAGES, info}
    assert f"{info}/licenses/LICENSE" in names
    for package, base in PACKAGES.items():
        files = [file for file in (base / package).rglob("*") if file.is_file() and "__pycache__" not in file.parts]
        expected = {file.relative_to(base).as_posix() for file in files}
        assert f"{package}/py.typed" in expected
        assert {name for name in names if name.startswith(f"{package}/")} == expected
    assert "tabvae_core/evaluation/report.html" in names


def test_the_sdist_holds_what_the_readme_speaks_of(built: Built) -> None:
    with tarfile.open(built.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "Makefile",
        "constraints.txt",
        "constraints-airflow.txt",
        "mkdocs.yml",
    } <= names
    assert {"pyproject.toml", "deployments/prefect.yaml", "docs/concepts.md", "tests/conftest.py", ".ci/run"} <= names
    leftovers = {".venv", ".git", "demo-output", "dist", ".tabvae"} & {name.split("/")[0] for name in names}
    assert not leftovers


def test_nothing_built_names_the_machine_it_was_built_on(built: Built) -> None:
    places = [str(path).encode() for path in (ROOT, Path.home()) if len(path.parts) > 2]
    with zipfile.ZipFile(built.wheel) as wheel:
        leaking = [name for name in wheel.namelist() if any(place in wheel.read(name) for place in places)]
    assert not leaking


def test_the_installed_wheel_is_what_runs(fresh: Environment) -> None:
    script = "import tabvae_core, tabvae_tasks, tabvae_flows as f; print(tabvae_core.__file__, f.__file__, sep='\\n')"
    assert all(line.startswith(str(fresh.folder)) for line in fresh.run("python", "-c", script).splitlines())
    assert str(ROOT) not in fresh.run("python", "-c", "import sys; print(sys.path)").replace(
        sysconfig.get_path("purelib"), ""
    )


def test_the_command_line_works_there(fresh: Environment) -> None:
    assert fresh.run("tabvae", "--version") == f"tabvae {VERSION}"
    assert "synthesize" in fresh.run("tabvae", "--help")


def test_a_table_is_synthesized_there(fresh: Environment) -> None:
    real = people(120)
    pq.write_table(real, fresh.cwd / "people.parquet")
    (fresh.cwd / "fast.yaml").write_text("model: {epochs: 1}\n", encoding="utf-8")
    fresh.run(
        *("tabvae", "synthesize", "people.parquet", "out.parquet"),
        *("--rows", "30", "--method", "vae_basic", "--spec", "fast.yaml"),
    )
    made = pq.read_table(fresh.cwd / "out.parquet")
    assert (made.num_rows, made.schema) == (30, real.schema)


def test_the_report_page_is_found_there(fresh: Environment) -> None:
    script = "from importlib.resources import files; print((files('tabvae_core.evaluation') / 'report.html').is_file())"
    assert fresh.run("python", "-c", script) == "True"


def test_prefect_finds_the_blocks_there(fresh: Environment) -> None:
    script = (
        "from importlib.metadata import entry_points; "
        "print(*{e.load().__name__ for e in entry_points(group='prefect.collections') if e.name == 'tabvae'})"
    )
    assert fresh.run("python", "-c", script) == "tabvae_flows.blocks"


def test_airflow_finds_the_provider_there(fresh: Environment) -> None:
    """Its metadata needs no Airflow: who has Prefect alone can still list it."""
    script = (
        "from importlib.metadata import entry_points; "
        "(e,) = [e for e in entry_points(group='apache_airflow_provider') if e.module.startswith('tabvae')]; "
        "print(e.load()()['versions'][0])"
    )
    assert fresh.run("python", "-c", script) == VERSION
