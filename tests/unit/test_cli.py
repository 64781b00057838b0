from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s3_servers import Store
from tabvae_core.comparison import Comparison
from tabvae_core.storage import copy_file, read_bytes
from tabvae_flows.cli import _run
from tabvae_flows.customers import customers

FAST = "model: {epochs: 2}\n"
COMMANDS = (
    "init",
    "check",
    "refresh",
    "refresh-all",
    "drift",
    "synthesize",
    "fit",
    "sample",
    "evaluate",
    "compare",
    "attack",
    "augment",
    "simulate",
    "releases",
    "rollback",
    "demo",
    "budget",
    "train",
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pq.write_table(customers(600), tmp_path / "customers.parquet")
    (tmp_path / "fast.yaml").write_text(FAST, encoding="utf-8")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = _run(list(arguments))
    said = capsys.readouterr()
    return code, said.out, said.err


# ---------------------------------------------------------------- every command


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"Example:\n    tabvae {command}" in out
    assert "--json" in out


def test_help_is_fast_and_loads_nothing_heavy() -> None:
    script = (
        "import sys; from tabvae_flows.cli import _run; _run(['--help']); "
        "heavy = {'pandas', 'torch', 'pyarrow', 'prefect', 'great_expectations', 's3fs', 'sklearn'}; "
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 5, "under a second on an idle machine; tests run on busy ones"
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_importing_the_core_is_instant() -> None:
    heavy = "{'numpy', 'torch', 'pyarrow', 'pydantic'}"
    script = f"import sys, tabvae_core; sys.exit(','.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_are_sorted_and_all_load() -> None:
    import tabvae_core

    assert tabvae_core.__all__ == sorted(tabvae_core.__all__)
    assert all(getattr(tabvae_core, name) is not None for name in tabvae_core.__all__)
    assert dir(tabvae_core) == tabvae_core.__all__


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("refresh", "--bogus"), 2, "No such option: --bogus"),
        (("refres",), 2, "refresh"),
        (("synthesize", "customers.parquet"), 2, "OUT"),
        (("refresh", "gone.yaml"), 2, "gone.yaml does not exist"),
        (("check", "broken.yaml"), 2, "not valid YAML"),
        (("synthesize", "gone.parquet", "out.parquet"), 3, "gone.parquet"),
        (("synthesize", "broken.yaml", "out.parquet"), 3, "broken.yaml"),
        (("synthesize", "customers.parquet", "customers.parquet"), 2, "output"),
        (("synthesize", "customers.parquet", "out.parquet", "--given", "age"), 2, "column=value"),
        (("synthesize", "customers.parquet", "out.parquet", "--given", "nope=1"), 2, "nope"),
        (("synthesize", "customers.parquet", "out.parquet", "--method", "nope"), 2, "nope"),
        (("synthesize", "customers.parquet", "out.parquet", "--spec", "unknown.yaml"), 2, "modell"),
        (("sample", "gone", "out.parquet", "--rows", "5"), 3, "gone"),
        (("sample", "gone", "out.parquet"), 2, "number of rows is missing"),
        (("sample", "gone", "out.parquet", "--given-table", "customers.parquet"), 3, "gone"),
        (("sample", "gone", "out.parquet", "--given-table", "nowhere.parquet"), 3, "nowhere.parquet"),
        (("sample", "gone", "out.parquet", "--given-table", "customers.parquet", "--given", "age=3"), 2, "exclude"),
        (("evaluate", "customers.parquet", "gone.parquet"), 3, "gone.parquet"),
        (("compare", "gone.parquet"), 3, "gone.parquet"),
        (("compare", "customers.parquet", "--methods", "vae_basics"), 2, "did you mean 'vae_basic'?"),
        (("compare", "customers.parquet", "--methods", "vae_basic", "--target", "nope"), 2, "nope"),
        (("rollback", "nowhere", "v1"), 3, "nothing was published to nowhere"),
        (("init", "customers.parquet", "-o", "broken.yaml"), 2, "exists already"),
    ],
)
def test_errors_say_what_and_where(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, says: str
) -> None:
    (here / "broken.yaml").write_text("a: [1,", encoding="utf-8")
    (here / "unknown.yaml").write_text("modell: {}\n", encoding="utf-8")
    before = sorted(path.name for path in here.iterdir())
    got, out, err = run(capsys, *arguments)
    assert got == code, err
    assert any(line.startswith("error: ") for line in err.splitlines()), err
    assert says in err
    assert "Traceback" not in err
    assert out == ""
    assert sorted(path.name for path in here.iterdir()) == before, "nothing half-written"


def test_json_errors_are_one_object(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "synthesize", "gone.parquet", "out.parquet", "--json")
    failure = json.loads(out)["error"]
    assert (code, failure["exit_code"], failure["kind"]) == (3, 3, "DataError")
    assert "gone.parquet" in failure["message"]


def test_unexpected_errors_show_no_cells(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise ValueError("the cell 'Mr Smith' is bad")

    monkeypatch.setattr("tabvae_core.draft.init_spec", fail)
    code, _, err = run(capsys, "init", "customers.parquet")
    assert code == 1
    assert "unexpected ValueError" in err
    assert "TABVAE_DEBUG=1" in err
    assert "Smith" not in err
    monkeypatch.setenv("TABVAE_DEBUG", "1")
    assert "Traceback" in run(capsys, "init", "customers.parquet")[2]


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 3, "not enough memory"),
        (OSError(28, os.strerror(28)), 6, "disk is full"),
        (PermissionError(13, os.strerror(13), "/x"), 6, "/x"),
    ],
)
def test_foreign_errors_have_their_codes(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    says: str,
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("tabvae_core.draft.init_spec", fail)
    got, _, err = run(capsys, "init", "customers.parquet")
    assert got == code
    assert says in err


# ---------------------------------------------------------------- work


def test_synthesize_fit_sample_evaluate(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ("--method", "vae_basic", "--spec", "fast.yaml")
    code, out, err = run(capsys, "synthesize", "customers.parquet", "out/one.parquet", *quick, "--seed", "1", "--json")
    assert code == 0, err
    assert json.loads(out)["rows"] == 600
    real, made = pq.read_table("customers.parquet"), pq.read_table("out/one.parquet")
    assert made.schema.equals(real.schema)
    assert os.listdir("out") == ["one.parquet"], "no temporary file stays"

    assert run(capsys, "fit", "customers.parquet", "model", *quick, "--seed", "1")[0] == 0
    code, _, err = run(capsys, "sample", "model", "two.parquet", "--rows", "600", "--seed", "1")
    assert code == 0, err
    assert Path("two.parquet").read_bytes() == Path("out/one.parquet").read_bytes(), "one seed, one table"
    assert run(capsys, "sample", "model", "many", "--rows", "50", "--seed", "2", "--shards", "2")[0] == 0
    assert pq.read_table("many").num_rows == 50

    code, out, err = run(capsys, "evaluate", "customers.parquet", "two.parquet", "--html", "r.html", "--json", "r.json")
    assert code == 0, err
    assert "shape" in out
    assert "floor" in out
    assert json.loads(Path("r.json").read_text(encoding="utf-8"))["metrics"]["shape"]["value"] > 0
    assert "<html" in Path("r.html").read_text(encoding="utf-8")[:500].lower()
    assert json.loads(run(capsys, "evaluate", "customers.parquet", "two.parquet", "--json", "-")[1])["metrics"]


def test_compare(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    quick = ("compare", "customers.parquet", "--methods", "vae_basic", "--spec", "fast.yaml", "--rows", "200")
    code, out, err = run(capsys, *quick, "--html", "c.html", "--json", "c.json", "--target", "segment", "--seed", "3")
    assert code == 0, err
    assert "recommended: vae_basic" in out
    assert "(floor)" in out
    assert out.splitlines()[-2:] == ["wrote c.html", "wrote c.json"]
    assert "vae_basic: " in err
    found = json.loads(Path("c.json").read_text(encoding="utf-8"))
    assert found["recommendation"]["method"] == "vae_basic"
    assert found["results"][0]["sample_rows"] == 200
    assert found["results"][0]["evaluation"]["metrics"]["c2st"]["floor"] > 0
    assert "Recommended: vae_basic" in Path("c.html").read_text(encoding="utf-8")
    assert {path.name for path in here.iterdir()} == {"customers.parquet", "fast.yaml", "c.html", "c.json"}

    def interrupted(*args: Any, **options: Any) -> Comparison:
        return Comparison.model_validate(found | {"interrupted": True})

    monkeypatch.setattr("tabvae_core.local.compare_table", interrupted)
    with pytest.raises(SystemExit) as ended:
        run(capsys, *quick, "--json", "-")
    assert ended.value.code == 130
    said = capsys.readouterr()
    assert json.loads(said.out)["interrupted"]
    assert "what was measured until then is kept" in said.err


def test_given_values_are_in_every_row(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (
        "synthesize",
        "customers.parquet",
        "g.parquet",
        "--spec",
        "fast.yaml",
    )
    code, _, err = run(capsys, *arguments, "--rows", "40", "--given", "segment=premium", "--given", "age=35")
    assert code == 0, err
    made = pq.read_table("g.parquet")
    assert set(made["segment"].to_pylist()) == {"premium"}
    assert set(made["age"].to_pylist()) == {35}


def test_balance_augment_simulate(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("fast.yaml").write_text(
        "model: {epochs: 1, options: {members: 1}}\nscenarios: {richer: {margins: {income: {scale: 1.1}}}}\n",
        encoding="utf-8",
    )
    assert run(capsys, "fit", "customers.parquet", "model", "--spec", "fast.yaml")[0] == 0
    drawn = ("sample", "model", "b.parquet", "--rows", "60", "--balance")
    code, _, err = run(capsys, *drawn, "segment:premium=30", "--balance", "segment:student=0")
    assert code == 0, err
    segments = pq.read_table("b.parquet")["segment"].to_pylist()
    assert (segments.count("premium"), segments.count("student"), len(segments)) == (30, 0, 60)
    code, out, err = run(capsys, *drawn, "segment:premium=0.25", "--balance", "segment:business=0.0", "--json")
    assert (code, json.loads(out)["rows"]) == (0, 60), err
    assert pq.read_table("b.parquet")["segment"].to_pylist().count("premium") == 15
    fair = ("evaluate", "customers.parquet", "b.parquet", "--balanced", "segment", "--json", "-")
    code, out, err = run(capsys, *fair)
    assert code == 0, err + out
    assert json.loads(out)["balanced"] == "segment"

    code, out, err = run(capsys, "simulate", "model", "tables", "--rows", "50", "--spec", "fast.yaml")
    assert code == 0, err
    assert out.splitlines()[0].split() == ["column", "figure", "base", "richer", "richer", "-", "base"]
    assert sorted(os.listdir("tables")) == ["base.parquet", "differences.html", "differences.json", "richer.parquet"]
    only = ("simulate", "customers.parquet", "learned", "--rows", "20", "--spec", "fast.yaml", "--scenario", "richer")
    code, out, err = run(capsys, *only, "--json")
    assert code == 0, err
    assert json.loads(out)["differences"]["rows"] == 20

    augment = ("augment", "customers.parquet", "more.parquet", "--column", "segment", "--value", "premium")
    code, out, err = run(capsys, *augment, "--share", "0.3", "--spec", "fast.yaml", "--html", "gain.html")
    assert code == 0, err
    assert out.splitlines()[1].startswith("real rows")
    assert out.splitlines()[2].startswith("and synthetic rows")
    assert "95 % interval" in out
    more, real = pq.read_table("more.parquet"), pq.read_table("customers.parquet")
    assert set(more["segment"].to_pylist()) == {"premium"}
    both = pa.concat_tables([real, more])["segment"].to_pylist()
    assert both.count("premium") / len(both) == pytest.approx(0.3, abs=1 / len(both))
    assert "Does the rare class gain?" in Path("gain.html").read_text(encoding="utf-8")


def test_given_table_is_filled(
    here: Path, capsys: pytest.CaptureFixture[str], s3_moto: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a disk and from a store, in order, with cells that the model never learned."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", os.environ[f"{s3_moto.storage.credentials.removeprefix('env:')}_{name}"])
    bucket, endpoint = s3_moto.bucket_uri("filled"), s3_moto.storage.endpoint_url or ""
    partial = customers(90, seed=1).select(["segment", "age"])
    segments = pa.array(["premium", None, "unheard of"] * 30)
    partial = partial.set_column(0, "segment", segments)
    pq.write_table(partial, "partial.parquet")
    copy_file("partial.parquet", f"{bucket}/partial.parquet", target_storage=s3_moto.storage)
    assert run(capsys, "fit", "customers.parquet", "model", "--spec", "fast.yaml")[0] == 0
    fill = ("sample", "model", "--seed", "1")
    code, out, err = run(capsys, *fill, "filled.parquet", "--given-table", "partial.parquet", "--rows", "90", "--json")
    assert code == 0, err
    assert json.loads(out)["rows"] == 90
    assert "note: segment: 30 given cells hold values that were not learned" in err
    assert "unheard of" not in out + err
    assert "sample: 90/90 rows" in err
    filled = pq.read_table("filled.parquet")
    assert filled.schema.equals(pq.read_schema("customers.parquet"))
    there = partial["age"].is_valid()
    assert filled["age"].filter(there).to_pylist() == partial["age"].filter(there).to_pylist()
    assert filled["age"].null_count == 0
    assert filled["segment"].null_count == 0
    assert filled["segment"].to_pylist()[2::3] == ["unheard of"] * 30

    stored = ("--given-table", f"{bucket}/partial.parquet", "--endpoint-url", endpoint)
    code, _, err = run(capsys, *fill, f"{bucket}/filled.parquet", *stored)
    assert code == 0, err
    assert read_bytes(f"{bucket}/filled.parquet", s3_moto.storage) == Path("filled.parquet").read_bytes()


def test_output_folder_with_other_files_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    pq.write_table(customers(5), "out/mine.parquet")
    code, _, err = run(capsys, "synthesize", "customers.parquet", "out", "--method", "vae_basic")
    assert code in (2, 6)
    assert "other Parquet files" in err
    assert os.listdir("out") == ["mine.parquet"]


def test_init_check_refresh_releases_rollback(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "init", "customers.parquet", "-o", "refresh.yaml")[0] == 0
    code, out, err = run(capsys, "check", "refresh.yaml", "--set", "model.method=vae_basic", "--json")
    assert (code, json.loads(out)["ok"]) == (0, True), err
    lax = ["max_column_jsd=1", "max_trend=100", "max_auc=1", "max_copies=100", "data_docs=false"]
    settings = [f"--set=gates.{s}" for s in lax] + ["--set=model.method=vae_basic", "--set=model.epochs=2"]
    command = ("refresh", "refresh.yaml", "--no-prefect", "--json", *settings)
    code, out, err = run(capsys, *command)
    assert code == 0, err
    first = json.loads(out)
    assert first["rows"] == 600
    second = json.loads(run(capsys, *command, "--force")[1])
    assert second["version"] != first["version"]
    listed = json.loads(run(capsys, "releases", first["target"], "--json")[1])
    assert listed["current"] == second["version"]
    assert len(listed["releases"]) == 2
    assert run(capsys, "rollback", first["target"], first["version"])[0] == 0
    code, out, _ = run(capsys, "releases", first["target"])
    assert any(line.startswith("*") and first["version"] in line for line in out.splitlines())
    code, out, _ = run(capsys, *(part for part in command if part != "--json"))
    assert (code, out.split(":")[0]) == (0, "unchanged")
