"""The rooms and which way imports go: deployments → flows → tasks → core, by reading the source and by running it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tables_made import people

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "tabvae_core": ROOT / "tabvae_core",
    "tabvae_tasks": ROOT / "tasks" / "tabvae_tasks",
    "tabvae_flows": ROOT / "flows" / "tabvae_flows",
    "tabvae_airflow": ROOT / "flows" / "tabvae_airflow",
}
ORCHESTRATORS = {"prefect", "airflow"}
FORBIDDEN = {
    "tabvae_core": {*ORCHESTRATORS, "tabvae_tasks", "tabvae_flows", "tabvae_airflow"},
    "tabvae_tasks": {"airflow", "tabvae_flows", "tabvae_airflow"},
    "tabvae_flows": {"airflow", "tabvae_airflow"},
    "tabvae_airflow": {"prefect", "tabvae_tasks", "tabvae_flows"},
}
# Each of these runs code from the file it opens.
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"torch.load", "torch.save", "torch.jit.load", "pd.read_pickle", "pandas.read_pickle", "yaml.load"}
MODULES = [(name, file) for name, folder in PACKAGES.items() for file in sorted(folder.rglob("*.py"))]


def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imported(tree: ast.Module) -> Iterator[str]:
    """Full names of all modules that a file imports, wherever in it; a relative one starts with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
        elif isinstance(node, ast.Call) and called(node).endswith(("import_module", "__import__")):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def called(node: ast.Call) -> str:
    """Dotted name of what is called, as written; "" for anything else."""
    return ast.unparse(node.func) if isinstance(node.func, ast.Attribute | ast.Name) else ""


def unsafe(tree: ast.Module) -> Iterator[str]:
    """What in a file could open a pickle."""
    yield from (name for name in imported(tree) if name.split(".")[0] in UNSAFE_MODULES)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from {called(node)} & UNSAFE_CALLS
            yield from (keyword.arg for keyword in node.keywords if keyword.arg == "allow_pickle")


def run(script: str, cwd: Path | None = None) -> str:
    """Run a script in a fresh interpreter and return what it printed."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_there_is_something_to_check() -> None:
    assert {package for package, _ in MODULES} == set(PACKAGES)


def test_imports_go_one_way() -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for package, file in MODULES
        for name in imported(tree_of(file))
        if name.split(".")[0] in FORBIDDEN[package]
    ]
    assert not wrong


def test_airflows_room_knows_the_core_and_airflow_alone() -> None:
    """Nor a library by itself, but the class of references: what a step needs is the core's business."""
    foreign = {
        name.split(".")[0]
        for package, file in MODULES
        if package == "tabvae_airflow"
        for name in imported(tree_of(file))
    }
    assert foreign - sys.stdlib_module_names == {"airflow", "openlineage", "pydantic", "tabvae_airflow", "tabvae_core"}


def test_imports_are_absolute() -> None:
    """One way to name a module, so that the rule above sees it."""
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for _, file in MODULES
        for name in imported(tree_of(file))
        if name.startswith(".")
    ]
    assert not wrong


def test_nothing_opens_pickles() -> None:
    wrong = [f"{file.relative_to(ROOT)}: {name}" for _, file in MODULES for name in unsafe(tree_of(file))]
    assert not wrong


def test_every_module_says_what_it_is() -> None:
    assert not [str(file.relative_to(ROOT)) for _, file in MODULES if not ast.get_docstring(tree_of(file))]


def test_the_checks_see_what_they_forbid() -> None:
    tree = ast.parse(
        "def f():\n"
        "    import prefect.flows, joblib\n"
        "    from .beside import g\n"
        "    importlib.import_module('airflow.models')\n"
        "    torch.load('x'), np.load('y', allow_pickle=True)\n"
    )
    assert set(imported(tree)) == {"prefect.flows", "joblib", ".beside", "airflow.models"}
    assert set(unsafe(tree)) == {"joblib", "torch.load", "allow_pickle"}


# ---------------------------------------------------------------- at run time


def test_the_core_runs_without_prefect(tmp_path: Path) -> None:
    """All public names and a whole `synthesize` work where Prefect cannot be imported."""
    pq.write_table(people(120), tmp_path / "people.parquet")
    script = """
import sys
class NoOrchestrator:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"prefect", "airflow", "tabvae_tasks"}:
            raise ModuleNotFoundError(f"no module named {name!r}", name=name)
sys.meta_path.insert(0, NoOrchestrator())
from tabvae_flows.cli import _run
import tabvae_core
assert all(getattr(tabvae_core, name) is not None for name in tabvae_core.__all__)
open("fast.yaml", "w").write("model: {epochs: 1}\\n")
code = _run(["synthesize", "people.parquet", "out.parquet", "--rows", "20", "--method", "vae_basic",
             "--spec", "fast.yaml"])
assert not {"prefect", "airflow"} & set(sys.modules)
sys.exit(code)
"""
    run(script, tmp_path)
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 20


@pytest.mark.parametrize("arguments", [["--help"], ["refresh", "--help"]])
def test_asking_for_help_loads_nothing_heavy(arguments: list[str]) -> None:
    heavy = {"torch", "pandas", "pyarrow", "sklearn", "great_expectations", "bokeh", "s3fs", *ORCHESTRATORS}
    script = f"""
import contextlib, io, sys
from tabvae_flows.cli import _run
with contextlib.redirect_stdout(io.StringIO()):
    code = _run({arguments!r})
assert code == 0
print(*sorted({heavy!r} & set(sys.modules)))
"""
    assert run(script) == ""


def test_prefects_collection_module_is_light() -> None:
    """Prefect's server and workers import it when they start."""
    script = (
        "import sys, tabvae_flows.blocks; print(*sorted({'torch', 'great_expectations', 'bokeh'} & set(sys.modules)))"
    )
    assert run(script) == ""
