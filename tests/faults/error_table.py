"""Every bad input, run through the real command line, and the table of docs/errors.md made of what came out.

    python tests/faults/error_table.py --write      # after a message changed on purpose

Each case runs in a folder of its own. What a case leaves behind is found by comparing the folder, and the bucket where
there is one, before and after; temporary files must be gone.
"""

from __future__ import annotations

import io
import os
import re
import resource
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest import mock

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from s3_servers import Store, moto_store, rclone_store, refused_endpoint
from tabvae_flows.cli import _run

__all__ = ["CASES", "DOCUMENT", "Bench", "Case", "Outcome", "document", "row_of", "run_process"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "errors.md"
SECRET = "hushhushhushhush"
WORDS = ("aubergine", "brinjal", "courgette")
"""Cells of the source, which no message may quote."""

Spec = dict[str, Any]


# ---------------------------------------------------------------- tables


def orders(rows: int = 120, seed: int = 0) -> pa.Table:
    """A small table whose cells are easy to find in a message."""
    rng = np.random.default_rng(seed)
    opened = np.datetime64("2021-03-01") + rng.integers(0, 500, rows)
    return pa.table(
        {
            "key": pa.array([f"ZK-{k:06d}" for k in rng.permutation(rows)]),
            "age": pa.array(rng.integers(18, 80, rows), pa.int16()),
            "amount": pa.array(np.round(rng.lognormal(6, 1, rows), 2), mask=rng.random(rows) < 0.1),
            "kind": pa.array(rng.choice(WORDS, rows)),
            "opened": pa.array(opened.astype("datetime64[D]"), pa.date32()),
            "closed": pa.array((opened + rng.integers(0, 90, rows)).astype("datetime64[D]"), pa.date32()),
        }
    )


def remarks(rows: int) -> list[str]:
    """Free text, no two alike."""
    rng = np.random.default_rng(1)
    words = np.array([*WORDS, "crate", "late", "box", "open", "call", "good", "refund", "fee", "asks"])
    return [" ".join(rng.choice(words, 9)) + f" {k}" for k in range(rows)]


# ---------------------------------------------------------------- running a case


@dataclass(frozen=True)
class Here:
    """The folder of a case, and the store it may use."""

    folder: Path
    bench: Bench
    store: Store | None = None

    def table(self, table: pa.Table | None = None, name: str = "orders.parquet") -> Path:
        """Write a table; orders by default."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(orders() if table is None else table, path)
        return path

    def spec(self, name: str = "refresh.yaml", **changes: Any) -> None:
        """Write a spec of a quick refresh that no gate refuses, with changes."""
        spec: Spec = {
            "source": {"uri": "orders.parquet"},
            "target": {"uri": "out"},
            "workspace": {"uri": "work"},
            "model": {"method": "vae_basic", "epochs": 1},
            "gates": {"max_column_jsd": 1, "max_trend": 100, "max_auc": 1, "max_copies": 100, "data_docs": False},
        }
        self.text(name, yaml.safe_dump(spec | changes, sort_keys=False))

    def text(self, name: str, text: str) -> None:
        """Write a text file."""
        (self.folder / name).write_text(text, encoding="utf-8")

    def published(self) -> None:
        """Publish a version to out/."""
        shutil.copytree(self.bench.published, self.folder, dirs_exist_ok=True)

    def model(self, method: str = "vae_basic") -> None:
        """Put a model into model/."""
        shutil.copytree(self.bench.model(method), self.folder / "model")


Prepare = Callable[[Here], None]


@dataclass(frozen=True)
class Case:
    """A bad input, or one that looks bad and works."""

    title: str
    command: str
    code: int
    prepare: Prepare
    says: tuple[str, ...]
    """What the message must name: what, where, which column."""
    store: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    own_process: bool = False
    file_limit: int | None = None
    """Bytes that a file may grow to, in place of a full disk; needs a process of its own."""
    meanwhile: Callable[[], None] | None = None
    """What another writer does while the command runs."""
    leaves: tuple[str, ...] = ()
    """What may be left behind."""


@dataclass(frozen=True)
class Outcome:
    """What a case did."""

    code: int
    out: str
    err: str
    left: tuple[str, ...]
    temporary: tuple[str, ...]

    @property
    def message(self) -> str:
        """The error and its hint, or `check`'s failures; notes and the result where it worked."""
        if self.code == 0:
            notes = [line for line in self.err.splitlines() if line.startswith("note: ") and "identifier" not in line]
            return "\n".join([*notes, *self.out.splitlines()[:1]])
        lines = [line.strip() for line in [*self.err.splitlines(), *self.out.splitlines()]]
        return "\n".join(line for line in lines if line.startswith(("error: ", "hint: ", "FAIL ")))


class Bench:
    """Where cases run: folders, stores, and what several cases begin with.

    Args:
        folder: Empty folder.
        stores: Give a running store by its name.

    """

    def __init__(self, folder: Path, stores: Callable[[str], Store]) -> None:
        self.folder, self._stores, self._count = folder, stores, 0

    def run(self, case: Case) -> Outcome:
        """Run a case in a new folder."""
        self._count += 1
        folder = self.folder / f"case{self._count}"
        (folder / "here").mkdir(parents=True)
        (folder / "tmp").mkdir()
        store = self._stores(case.store) if case.store else None
        here = Here(folder / "here", self, store)
        with _environment(case.environment | _access(case, store), folder / "tmp"), _inside(here.folder):
            case.prepare(here)
            before = _everything(here)
            command = [part.format(endpoint=_endpoint(case, store)) for part in shlex.split(case.command)][1:]
            code, out, err = self._call(case, command)
            changed = sorted(name for name, content in _everything(here).items() if before.get(name) != content)
            gone = [f"removed {name}" for name in before if name not in _everything(here)]
        left = tuple(sorted({_place(name) for name in [*changed, *gone]}))
        clean = _normal(here.folder)
        return Outcome(
            code,
            clean(out),
            clean(err),
            left,
            tuple(p.name for p in (folder / "tmp").iterdir() if not _is_torchs(p.name)),
        )

    @staticmethod
    def _call(case: Case, command: list[str]) -> tuple[int, str, str]:
        if case.own_process or case.file_limit:
            return run_process(command, case.file_limit)
        with ExitStack() as stack:
            if case.meanwhile is not None:
                stack.enter_context(_interrupted(case.meanwhile))
            return run_here(command)

    def model(self, method: str) -> Path:
        """A model of orders."""
        here = Here(self.folder / f"made-{method}", self)
        if here.folder.exists():
            return here.folder / "model"
        here.folder.mkdir()
        here.table()
        here.text("fast.yaml", f"model: {{method: {method}, epochs: 1}}")
        with _inside(here.folder):
            code, _, err = run_here(["fit", "orders.parquet", "model", "--spec", "fast.yaml"])
        assert code == 0, err
        return here.folder / "model"

    @cached_property
    def published(self) -> Path:
        """A folder with orders, a spec, and one published version."""
        here = Here(self.folder / "made-release", self)
        here.folder.mkdir()
        here.table()
        here.spec()
        with _inside(here.folder):
            code, _, err = run_here(["refresh", "refresh.yaml", "--no-prefect"])
        assert code == 0, err
        return here.folder


def run_here(command: list[str]) -> tuple[int, str, str]:
    """Call the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = _run(command)
    return code, out.getvalue(), err.getvalue()


def run_process(command: list[str], file_limit: int | None = None, timeout: float = 120) -> tuple[int, str, str]:
    """Call the command line as users do."""

    def limit() -> None:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    done = subprocess.run(
        [sys.executable, "-m", "tabvae_flows.cli", *command],
        capture_output=True, text=True, timeout=timeout, check=False, preexec_fn=limit,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def _is_torchs(name: str) -> bool:
    """torch makes a cache of its own when it is imported."""
    return name.startswith("torchinductor")


def _access(case: Case, store: Store | None) -> dict[str, str]:
    """The store's keys as everybody's AWS variables; a case's own variables come before them."""
    if store is None:
        return {}
    prefix = store.storage.credentials.removeprefix("env:")
    keys = {f"AWS_{name}": os.environ[f"{prefix}_{name}"] for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")}
    return {name: value for name, value in keys.items() if name not in case.environment}


def _endpoint(case: Case, store: Store | None) -> str:
    if store is not None:
        return store.storage.endpoint_url or ""
    return refused_endpoint() if "{endpoint}" in case.command else ""


@contextmanager
def _environment(variables: Mapping[str, str], temporary: Path) -> Iterator[None]:
    changed = dict(variables) | {"TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
    with mock.patch.dict(os.environ, changed), mock.patch.object(tempfile, "tempdir", None):
        yield


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _interrupted(meanwhile: Callable[[], None]) -> Iterator[None]:
    """Let another writer act after the table was made and before it is published."""
    from tabvae_core import steps

    evaluate = steps.evaluate

    def slow(*args: Any, **kwargs: Any) -> Any:
        with mock.patch.object(steps, "evaluate", evaluate):
            meanwhile()
        return evaluate(*args, **kwargs)

    with mock.patch.object(steps, "evaluate", slow):
        yield


def _everything(here: Here) -> dict[str, str]:
    found = {
        str(path.relative_to(here.folder)): sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in here.folder.rglob("*")
    }
    if here.store is not None:
        from tabvae_core.storage import list_folder

        found |= {f"s3://errors/{k}": str(v) for k, v in list_folder("s3://errors", here.store.storage).items()}
    return found


_VERSION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")


def _place(name: str) -> str:
    """Say where something was left: a run's records and a version's files as their folder."""
    name = _VERSION.sub("VERSION", name)
    for folder, shown in ((r"work(/runs(/[^/]+)?)?", "work/runs/RUN/"), (r"(.*/VERSION)", r"\1/")):
        if found := re.match(rf"{folder}(/|$)", name):
            return found.expand(shown) if "\\1" in shown else shown
    return name


def _normal(folder: Path) -> Callable[[str], str]:
    """Take out of a text what differs from machine to machine and from run to run."""

    def clean(text: str) -> str:
        text = text.replace(f"{folder}/", "").replace(str(folder), ".")
        text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", _VERSION.sub("VERSION", text))
        text = re.sub(r"(distance|limit|figure|AUC|floor|value) \d+(\.\d+)?(e-\d+)?", r"\1 N", text)
        text = re.sub(r"runs/[0-9a-f]{16}", "runs/RUN", text)
        text = re.sub(r"of [\d,]+ rows drawn", "of N rows drawn", re.sub(r"and \d+ more", "and N more", text))
        return re.sub(r"\b\d+ of \d+ gates", "N of M gates", text)

    return clean


# ---------------------------------------------------------------- the cases


def plain(here: Here) -> None:
    """Orders, and a spec."""
    here.table()
    here.spec()


def only_table(here: Here) -> None:
    here.table()
    here.text("fast.yaml", "model: {method: vae_basic, epochs: 1}")


def spec_with(**changes: Any) -> Prepare:
    def prepare(here: Here) -> None:
        here.table()
        here.spec(**changes)

    return prepare


def spec_text(text: str) -> Prepare:
    def prepare(here: Here) -> None:
        here.table()
        here.text("refresh.yaml", text)

    return prepare


def table_of(table: Callable[[], pa.Table], **changes: Any) -> Prepare:
    def prepare(here: Here) -> None:
        here.table(table())
        here.spec(**changes)

    return prepare


def quick_of(table: Callable[[], pa.Table]) -> Prepare:
    def prepare(here: Here) -> None:
        only_table(here)
        here.table(table())

    return prepare


def nothing(here: Here) -> None:
    pass


def bytes_of(change: Callable[[bytes], bytes]) -> Prepare:
    def prepare(here: Here) -> None:
        path = here.table()
        path.write_bytes(change(path.read_bytes()))
        here.spec()
        here.text("fast.yaml", "model: {method: vae_basic, epochs: 1}")

    return prepare


def duplicate_columns() -> pa.Table:
    table = orders()
    return pa.Table.from_arrays([*table.columns, table["age"]], names=[*table.schema.names, "age"])


def nested() -> pa.Table:
    return orders().append_column("tags", pa.array([[k % 3, k % 5] for k in range(120)]))


def free_text() -> pa.Table:
    return orders().append_column("remark", pa.array(remarks(120)))


def expecting(change: Callable[[dict[str, str]], None]) -> Prepare:
    expected = {f.name: str(f.type) for f in orders(10).schema}
    change(expected)
    return spec_with(expect_columns=expected)


def others(here: Here) -> None:
    plain(here)
    here.table(orders(20), "out/mine.parquet")


def damaged_model(here: Here) -> None:
    here.model()
    weights = here.folder / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100] + bytes(100))


def cut_model(here: Here) -> None:
    here.model()
    header = here.folder / "model" / "bundle.json"
    header.write_text(header.read_text(encoding="utf-8")[:200], encoding="utf-8")


def foreign_model(here: Here) -> None:
    (here.folder / "model").mkdir()
    here.text("model/bundle.json", '{"format": "another"}')


def later_model(here: Here) -> None:
    here.model()
    header = here.folder / "model" / "bundle.json"
    header.write_text(
        header.read_text(encoding="utf-8").replace('"version": 1,', '"version": 99,', 1), encoding="utf-8"
    )


def model(here: Here) -> None:
    here.model()


def holes(change: Callable[[pa.Table], pa.Table] = lambda table: table, method: str = "vae") -> Prepare:
    """A model, a table to fill, and a rule."""

    def prepare(here: Here) -> None:
        here.model(method)
        partial = orders(20).select(["age", "kind"]).set_column(0, "age", pa.array([30, None] * 10, pa.int16()))
        here.table(change(partial), "partial.parquet")
        here.text("rules.yaml", "rules: [age > 33]")

    return prepare


def latents(change: Callable[[pa.Table], pa.Table] = lambda table: table, method: str = "vae") -> Prepare:
    """A model, and a table to look at."""

    def prepare(here: Here) -> None:
        here.model(method)
        here.table(change(orders()))

    return prepare


def graded(here: Here) -> None:
    """Orders with a class that half of them have, and one that few have; a quick method that can condition."""
    grade = pa.array([k % 2 if k > 6 else 2 for k in range(120)], pa.int8())
    here.table(orders().append_column("grade", grade).append_column("shop", pa.array(["x"] * 120)))
    here.text("fast.yaml", "model: {epochs: 1}")


def scenarios(method: str = "vae", **changed: Spec) -> Prepare:
    """A model, and a spec with a scenario of each keyword."""

    def prepare(here: Here) -> None:
        here.model(method)
        here.text("scenarios.yaml", yaml.safe_dump({"scenarios": changed}))

    return prepare


def refused_release(here: Here) -> None:
    """A published version, and one in quarantine."""
    here.published()
    shutil.copytree(next((here.folder / "out" / "versions").iterdir()), here.folder / "out" / "quarantine" / "v9")


def shop(sql: str) -> Prepare:
    """A published version, and a SQLite database with a table."""

    def prepare(here: Here) -> None:
        here.published()
        with closing(sqlite3.connect(here.folder / "shop.db")) as connection, connection:
            connection.execute(sql)

    return prepare


def published(here: Here) -> None:
    here.published()


def refused(here: Here) -> None:
    here.published()
    here.spec(gates={"max_column_jsd": 0, "max_auc": 0.5, "data_docs": False})


def refused_before(here: Here) -> None:
    refused(here)
    assert run_here(["refresh", "refresh.yaml", "--no-prefect"])[0] == 4


def two_writers(here: Here) -> None:
    here.published()
    shutil.move(here.folder / "out", here.folder / "elsewhere")
    here.spec(sample={"seed": 7})


def other_writer() -> None:
    """Publish as a tool would that knows nothing of turns."""
    shutil.copytree("elsewhere", "out", dirs_exist_ok=True)


def held(here: Here) -> None:
    """Let a process of the shell hold the target's lock until it is removed with the case's folder."""
    import fcntl

    here.table()
    here.spec()
    (here.folder / "out").mkdir()
    handle = os.open(here.folder / "out" / ".refresh.lock", os.O_RDWR | os.O_CREAT)
    os.write(handle, b"process 12 on a machine")
    fcntl.flock(handle, fcntl.LOCK_EX)


def wrong_member(here: Here) -> None:
    set_of("one")(here)
    here.spec("specs/t2.yaml", modle={})


def dates_of(**source: Any) -> Prepare:
    """A source with a place for a date."""

    def prepare(here: Here) -> None:
        here.table(name="day=2026-01-01/orders.parquet")
        here.spec(source={"uri": "day={date}"} | source)

    return prepare


def set_of(*targets: str) -> Prepare:
    """A folder of specs with these targets."""

    def prepare(here: Here) -> None:
        here.table()
        here.spec()
        (here.folder / "specs").mkdir()
        for number, target in enumerate(targets, 1):
            here.spec(f"specs/t{number}.yaml", target={"uri": target})

    return prepare


def in_bucket(here: Here) -> None:
    assert here.store is not None
    from tabvae_core.storage import copy_file

    here.store.bucket_uri("errors")
    copy_file(str(here.table()), "s3://errors/orders.parquet", target_storage=here.store.storage)
    storage = {"endpoint_url": here.store.storage.endpoint_url, "region": here.store.storage.region}
    here.spec(
        source={"uri": "s3://errors/orders.parquet", "storage": storage | {"credentials": "env:LAKE"}},
        target={"uri": "s3://errors/out", "storage": storage},
    )


def unreachable(here: Here) -> None:
    here.spec(source={"uri": "s3://lake/orders/", "storage": {"endpoint_url": refused_endpoint()}})


def empty_folder(here: Here) -> None:
    (here.folder / "orders").mkdir()
    here.text("orders/readme.txt", "nothing here")


def older_model(here: Here) -> None:
    """A model that a failure must leave as it is."""
    here.model()
    only_table(here)


def two_alike(here: Here) -> None:
    here.table()
    here.table(orders(60), "other.parquet")


def near_copies(here: Here) -> None:
    here.model()
    here.text("fast.yaml", "privacy: {near_copies: redraw}")


def two_tables(here: Here) -> None:
    here.table()
    here.table(orders(60).rename_columns(["key", "age", "amount", "sort", "opened", "closed"]), "other.parquet")


REFRESH = "tabvae refresh refresh.yaml --no-prefect"
CHECK = "tabvae check refresh.yaml"
COMPARE = "tabvae compare orders.parquet"
FEED = "tabvae feed out --table orders --into sqlite:///shop.db"
QUICK = "tabvae synthesize orders.parquet out.parquet --spec fast.yaml"
DRAW = "tabvae sample model out.parquet --rows 50"
ENCODE = "tabvae latent encode model orders.parquet out.parquet"
LINE = "tabvae latent interpolate model orders.parquet out.parquet"
AXES = "tabvae latent traverse model"
FILL = "tabvae sample model out.parquet --given-table partial.parquet"
BALANCE = "tabvae synthesize orders.parquet o.parquet --balance"
AUGMENT = "tabvae augment orders.parquet more.parquet --spec fast.yaml --column"
ATTACK = "tabvae attack other.parquet --train orders.parquet --holdout orders.parquet"
SIMULATE = "tabvae simulate model tables --rows 40 --spec scenarios.yaml"
OLDER: Spec = {"margins": {"age": {"shift": 5}}}
RUN = ("work/runs/RUN/",)
GOOD_KEYS = {"LAKE_ACCESS_KEY_ID": "key", "LAKE_SECRET_ACCESS_KEY": SECRET}


def private_refresh(*, tampered: bool = False, **privacy: Any) -> Prepare:
    """A source of which two private trainings stand in the ledger."""

    def prepare(here: Here) -> None:
        from tabvae_core.privacy.accounting import Loss
        from tabvae_core.privacy.ledger import Ledger
        from tabvae_core.spec import load_spec

        here.table()
        here.spec(model={"method": "dp_marginals"}, privacy={"epsilon": 1, **privacy})
        spec = load_spec(here.folder / "refresh.yaml")
        ledger = Ledger(str(here.folder / "out"))
        for run in ("first", "second"):
            ledger.settle(run, spec, Loss.zcdp(0.03))
        if tampered:
            lines = Path(ledger.uri).read_text().splitlines()
            Path(ledger.uri).write_text(f"{lines[1]}\n")

    return prepare


CASES = (
    # ---- 2: spec, rule, option
    Case("unknown command", "tabvae synthesise orders.parquet out.parquet", 2, plain, ("synthesise",)),
    Case("unknown option", f"{QUICK} --colour red", 2, only_table, ("--colour",), own_process=True),
    Case("missing argument", "tabvae synthesize orders.parquet", 2, only_table, ("OUT",)),
    Case("option of another type", f"{QUICK} --rows many", 2, only_table, ("--rows", "integer")),
    Case("option out of range", f"{QUICK} --rows 0", 2, only_table, ("--rows",)),
    Case("missing spec", REFRESH, 2, nothing, ("refresh.yaml", "does not exist", "tabvae init")),
    Case("spec that is a folder", REFRESH, 2, lambda here: (here.folder / "refresh.yaml").mkdir(), ("refresh.yaml",)),
    Case("spec that is not YAML", REFRESH, 2, spec_text("source: {uri: [orders\n"), ("refresh.yaml", "line", "YAML")),
    Case("spec that is a Parquet file", "tabvae refresh orders.parquet", 2, plain, ("orders.parquet",)),
    Case("spec that is a list", REFRESH, 2, spec_text("- a\n- b\n"), ("refresh.yaml", "mapping")),
    Case("empty spec", REFRESH, 2, spec_text(""), ("refresh.yaml",)),
    Case("spec without source", REFRESH, 2, spec_text("target: {uri: out}\n"), ("source",)),
    Case("unknown key", REFRESH, 2, spec_with(modle={"epochs": 1}), ("modle", "did you mean 'model'")),
    Case("unknown nested key", REFRESH, 2, spec_with(model={"epoch": 1}), ("model.epoch", "did you mean 'epochs'")),
    Case("value out of range", REFRESH, 2, spec_with(gates={"holdout": 2}), ("gates.holdout", "less than 0.9")),
    Case("value of another type", REFRESH, 2, spec_with(model={"epochs": "many"}), ("model.epochs", "integer")),
    Case("setting without value", f"{REFRESH} --set model.epochs", 2, plain, ("model.epochs", "key=value")),
    Case(
        "password in an address",
        REFRESH,
        2,
        spec_with(source={"uri": f"s3://key:{SECRET}@lake/orders"}),
        ("source.uri", "password"),
    ),
    Case("unknown storage", "tabvae init lakefs9://orders", 2, plain, ("lakefs9://",)),
    Case("unknown method", f"{QUICK} --method vea", 2, only_table, ("vea", "did you mean 'vae'")),
    Case(
        "epsilon for a method without privacy",
        REFRESH,
        2,
        spec_with(model={"method": "ctgan"}, privacy={"epsilon": 1}),
        ("ctgan", "no differential privacy", "dp_marginals"),
        leaves=RUN,
    ),
    Case(
        "private method without epsilon",
        f"{QUICK} --method dp_marginals",
        2,
        only_table,
        ("dp_marginals", "privacy.epsilon"),
    ),
    Case(
        "total budget below a release's",
        REFRESH,
        2,
        spec_with(privacy={"epsilon": 2, "total_epsilon": 1}),
        ("privacy", "total_epsilon must not be below epsilon"),
    ),
    Case(
        "privacy budget that is spent",
        REFRESH,
        2,
        private_refresh(total_epsilon=1.5),
        ("2 trainings", "of 1.5", "tabvae budget"),
        leaves=RUN,
    ),
    Case("unknown method to compare", f"{COMPARE} --methods vae_basic,vea", 2, only_table, ("did you mean 'vae'",)),
    Case("no method to compare", f"{COMPARE} --methods ,", 2, only_table, ("no method is named", "leave the list out")),
    Case("report that is a folder", f"{COMPARE} --html .", 2, only_table, ("is a folder",)),
    Case("too few rows to compare on", COMPARE, 3, quick_of(lambda: orders(11)), ("orders.parquet", "at least")),
    Case(
        "table that no method can learn",
        f"{COMPARE} --methods vae_basic --spec fast.yaml",
        3,
        quick_of(lambda: orders().select(["key"])),
        ("no method could be measured", "vae_basic: no column can be learned"),
    ),
    Case(
        "unknown model option",
        REFRESH,
        2,
        spec_with(model={"method": "vae_basic", "options": {"latnet": 8}}),
        ("model.options.latnet", "did you mean 'latent'"),
        leaves=RUN,
    ),
    Case(
        "model option out of range",
        REFRESH,
        2,
        spec_with(model={"method": "ctgan", "options": {"pac": 0}}),
        ("model.options.pac", "1 or more"),
        leaves=RUN,
    ),
    Case(
        "price below zero",
        REFRESH,
        2,
        spec_with(model={"method": "vae", "options": {"tc": -1}}),
        ("model.options.tc", "0 or more"),
        leaves=RUN,
    ),
    Case("absent device", REFRESH, 2, spec_with(model={"device": "mps"}), ("mps",), leaves=RUN),
    Case(
        "target inside the source",
        REFRESH,
        2,
        spec_with(source={"uri": "lake"}, target={"uri": "lake/synthetic"}),
        ("target.uri", "source.uri"),
    ),
    Case(
        "workspace inside the source",
        REFRESH,
        2,
        spec_with(source={"uri": "lake"}, workspace={"uri": "lake/work"}),
        ("workspace.uri", "source.uri"),
    ),
    Case("output that is the source", "tabvae synthesize orders.parquet orders.parquet", 2, plain, ("orders.parquet",)),
    Case("rule that cannot be read", REFRESH, 2, spec_with(rules=["age >> 5"]), ("age >> 5", "character")),
    Case("rule on an unknown column", CHECK, 2, spec_with(rules=["agee > 5"]), ("agee", "did you mean age")),
    Case(
        "rules that exclude each other",
        REFRESH,
        2,
        spec_with(rules=["age > 60", "age < 20"]),
        ("age > 60", "age < 20"),
        leaves=RUN,
    ),
    Case("rule on text as a number", REFRESH, 2, spec_with(rules=["kind > 5"]), ("kind > 5",)),
    Case(
        "rule that no drawn row satisfies",
        REFRESH,
        2,
        spec_with(rules=["age * 1000 == age + 1"], sample={"rows": 20, "max_tries": 2}),
        ("age * 1000 == age + 1", "cannot be met", "0.00 %"),
        leaves=RUN,
    ),
    Case("unknown column in columns", REFRESH, 2, spec_with(columns={"agee": {"kind": "number"}}), ("agee",)),
    Case(
        "kind that the type cannot have", CHECK, 2, spec_with(columns={"kind": {"kind": "number"}}), ("kind", "number")
    ),
    Case("unknown target column", REFRESH, 2, spec_with(target_column="agee"), ("target_column", "agee")),
    Case(
        "filter on an unknown column",
        REFRESH,
        2,
        spec_with(source={"uri": "orders.parquet", "filters": ["agee > 5"]}),
        ("agee", "did you mean 'age'"),
    ),
    Case("given: unknown column", "tabvae synthesize orders.parquet o.parquet --given agee=5", 2, plain, ("agee",)),
    Case(
        "given: no equals sign", "tabvae synthesize orders.parquet o.parquet --given age", 2, plain, ("column=value",)
    ),
    Case(
        "given: another type", "tabvae synthesize orders.parquet o.parquet --given age=old", 2, plain, ("age", "int16")
    ),
    Case(
        "given: a category never learned",
        "tabvae synthesize orders.parquet o.parquet --given kind=daikon",
        2,
        plain,
        ("kind", "categories"),
    ),
    Case(
        "given: an identifier",
        "tabvae synthesize orders.parquet o.parquet --given key=x",
        2,
        plain,
        ("key", "identifier"),
    ),
    Case("given: a method that cannot", f"{QUICK} --given age=35", 2, only_table, ("vae_basic", "given")),
    Case("balance: unknown column", f"{BALANCE} kidn:daikon=0.5", 2, plain, ("kidn", "did you mean 'kind'")),
    Case("balance: no number", f"{BALANCE} kind:daikon", 2, plain, ("COLUMN:VALUE=SHARE", "kind:daikon")),
    Case("balance: two columns", f"{BALANCE} kind:daikon=0.5 --balance age:3=0.1", 2, plain, ("kind and age",)),
    Case("balance: shares over 1", f"{BALANCE} kind:daikon=0.7 --balance kind:leek=0.6", 2, plain, ("1.3", "exceed 1")),
    Case("balance: a class never learned", f"{BALANCE} kind:daikon=0.5", 2, plain, ("daikon", "kind", "spelling")),
    Case("balance: more rows than there are", f"{BALANCE} kind:daikon=121", 2, plain, ("121 rows", "120", "--rows")),
    Case("balance: a measure", f"{BALANCE} amount:5=0.5", 2, plain, ("amount", "kind number", "category")),
    Case("balance: a constant column", f"{BALANCE} shop:x=0.5", 2, graded, ("shop", "one class only")),
    Case(
        "balance: classes that leave rows over",
        f"{BALANCE} grade:0=10 --balance grade:1=10 --balance grade:2=0",
        2,
        graded,
        ("grade", "100 rows are left over"),
    ),
    Case(
        "balance: a method that cannot", f"{QUICK} --balance kind:daikon=0.5", 2, only_table, ("vae_basic", "balance")
    ),
    Case("balance, and given values", f"{BALANCE} kind:daikon=0.5 --given age=35", 2, plain, ("exclude each other",)),
    Case("balance, and a given table", f"{FILL} --balance kind:daikon=0.5", 2, holes(), ("exclude each other",)),
    Case(
        "balanced: unknown column",
        "tabvae evaluate orders.parquet other.parquet --balanced knid",
        2,
        two_alike,
        ("knid", "columns: key, age"),
    ),
    Case(
        "near copies, and no rows to compare with",
        "tabvae sample model out.parquet --rows 10 --spec fast.yaml",
        2,
        near_copies,
        ("near_copies", "training rows", "tabvae refresh"),
    ),
    Case(
        "attack: unknown method of shadow models",
        f"{ATTACK} --shadows 4 --method vea",
        2,
        two_alike,
        ("vea", "vae"),
    ),
    Case("augment: a class never learned", f"{AUGMENT} kind --value daikon", 2, graded, ("daikon", "kind", "spelling")),
    Case(
        "augment: a share that there is",
        f"{AUGMENT} grade --value 1 --share 0.2",
        2,
        graded,
        ("grade = 1", "20.0%", "larger --share"),
    ),
    Case(
        "augment: a method that cannot",
        f"{AUGMENT} grade --value 1 --method vae_basic",
        2,
        graded,
        ("vae_basic", "augment"),
    ),
    Case("simulate: no scenarios", SIMULATE, 2, scenarios(), ("no scenarios",)),
    Case(
        "simulate: unknown scenario",
        f"{SIMULATE} --scenario boom",
        2,
        scenarios(bust={"given": {"age": 30}}),
        ("boom", "bust"),
    ),
    Case("simulate: no change", SIMULATE, 2, scenarios(bust={}), ("scenarios.bust", "given or margins")),
    Case("simulate: unknown column", SIMULATE, 2, scenarios(bust={"given": {"agee": 3}}), ("scenarios.bust", "agee")),
    Case(
        "simulate: a class never learned",
        SIMULATE,
        2,
        scenarios(bust={"margins": {"kind": {"shares": {"daikon": 0.5}}}}),
        ("scenarios.bust", "daikon", "kind"),
    ),
    Case(
        "simulate: a category that is scaled",
        SIMULATE,
        2,
        scenarios(bust={"margins": {"kind": {"scale": 2}}}),
        ("scenarios.bust", "kind", "category"),
    ),
    Case(
        "simulate: a change that its type cannot hold",
        SIMULATE,
        2,
        scenarios(bust={"margins": {"age": {"scale": 5000}}}),
        ("scenarios.bust", "age", "int16"),
    ),
    Case(
        "simulate: a method that cannot",
        SIMULATE,
        2,
        scenarios("vae_basic", bust={"given": {"age": 30}}),
        ("vae_basic",),
    ),
    Case(
        "simulate: into a file",
        "tabvae simulate model scenarios.yaml --rows 40 --spec scenarios.yaml",
        2,
        scenarios(bust=OLDER),
        ("scenarios.yaml is a file", "folder"),
    ),
    Case("neither rows nor a given table", "tabvae sample model out.parquet", 2, model, ("--rows", "--given-table")),
    Case(
        "given table: unknown column",
        FILL,
        2,
        holes(lambda t: t.rename_columns(["agee", "kind"])),
        ("agee", "columns: key, age"),
    ),
    Case("given table: other rows", f"{FILL} --rows 50", 2, holes(), ("20 rows", "50")),
    Case("given table, and given values", f"{FILL} --given kind=courgettes", 2, holes(), ("given",)),
    Case("given table: a method that cannot", FILL, 2, holes(method="vae_basic"), ("vae_basic", "given")),
    Case("given table: cells that break a rule", f"{FILL} --spec rules.yaml", 2, holes(), ("age > 33", "row 1,")),
    Case(
        "output that is the given table",
        "tabvae sample model partial.parquet --given-table partial.parquet",
        2,
        holes(),
        ("partial.parquet",),
    ),
    Case("latent space: a method without one", ENCODE, 2, latents(method="vae_basic"), ("vae_basic", "latent space")),
    Case("latent space: unknown member", f"{AXES} axes.html --member 9", 2, latents(), ("member 9",)),
    Case("latent space: unknown axis", f"{AXES} axes.html --axis 9", 2, latents(), ("axis 9", "8 dimensions")),
    Case("latent space: picture of another kind", f"{AXES} axes.png", 2, latents(), ("axes.png", ".html")),
    Case("latent space: row out of range", f"{LINE} --rows 3,120", 2, latents(), ("row 120", "120 rows")),
    Case("latent space: rows that are no numbers", f"{LINE} --rows first,last", 2, latents(), ("--rows", "first,last")),
    Case("latent space: one row", f"{LINE} --rows 3", 2, latents(), ("two different rows",)),
    Case(
        "output that is the encoded table",
        "tabvae latent encode model orders.parquet orders.parquet",
        2,
        latents(),
        ("orders.parquet",),
    ),
    Case(
        "missing credential variable",
        REFRESH,
        2,
        in_bucket,
        ("LAKE_ACCESS_KEY_ID", "LAKE_SECRET_ACCESS_KEY"),
        store="moto",
    ),
    Case(
        "database URL with a password",
        f"tabvae feed out --into postgresql://me:{SECRET}@db.test/shop",
        2,
        published,
        ("postgresql://db.test/shop", "password", "env:NAME"),
    ),
    Case(
        "database that an environment variable does not name",
        "tabvae feed out --into env:SHOP",
        2,
        published,
        ("env:SHOP", "no variable SHOP"),
    ),
    Case("database of no kind", "tabvae feed out --into shop.db", 2, published, ("a URL, env:NAME or block:NAME",)),
    Case(
        "database that SQLAlchemy does not know",
        "tabvae feed out --into nosuch://db.test/shop",
        2,
        published,
        ("nosuch://db.test/shop", "knows no database"),
    ),
    Case("database table with three names", f"{FEED} --table a.b.c", 2, published, ("schema.name", "a.b.c")),
    Case("a date that there is not", f"{REFRESH} --backfill 2026-02-30", 2, dates_of(), ("2026-02-30", "is no date")),
    Case(
        "dates that end before they begin",
        f"{REFRESH} --backfill 2026-01-07..2026-01-01",
        2,
        dates_of(),
        ("2026-01-07..2026-01-01", "ends before it begins"),
    ),
    Case(
        "too many dates",
        f"{REFRESH} --backfill 2026-01-01..2062-01-01",
        2,
        dates_of(),
        ("more than 1,000 dates",),
    ),
    Case(
        "backfill of a source without a place for a date",
        f"{REFRESH} --backfill 2026-01-01",
        2,
        set_of(),
        ("neither source.uri nor source.filters holds {date}",),
    ),
    Case("place for a date, and no date", REFRESH, 2, dates_of(), ("{date}", "there is no source.date", "--backfill")),
    Case("set: no folder", "tabvae refresh-all specs", 2, nothing, ("specs is no folder of specs",)),
    Case("set: no spec", "tabvae refresh-all specs", 2, set_of(), ("specs holds no spec",)),
    Case(
        "set: two tables with one target",
        "tabvae refresh-all specs",
        2,
        set_of("one", "out", "out/"),
        ("t2.yaml, t3.yaml", "have one target"),
    ),
    Case(
        "set: a spec that is wrong",
        "tabvae refresh-all specs",
        2,
        wrong_member,
        ("specs/t2.yaml", "modle is not a known key", "nothing was run"),
    ),
    Case(
        "deployment with a cron that is none",
        'tabvae deploy refresh.yaml --cron "every night"',
        2,
        spec_with(),
        ("--cron", "every night", "0 3 * * *"),
    ),
    Case(
        "deployment in an unknown timezone",
        'tabvae deploy refresh.yaml --cron "0 3 * * *" --timezone Berlin',
        2,
        spec_with(),
        ("--timezone", "Berlin", "Europe/Berlin"),
    ),
    Case(
        "one name for two deployments",
        "tabvae deploy refresh.yaml refresh.yaml --name nightly",
        2,
        spec_with(),
        ("--name", "2 specs"),
    ),
    Case("spec deployed twice", "tabvae deploy refresh.yaml refresh.yaml", 2, spec_with(), ("2 specs", "table")),
    Case(
        "deployment without a server",
        "tabvae deploy refresh.yaml",
        2,
        spec_with(),
        ("PREFECT_API_URL", "prefect server start"),
        environment={"PREFECT_PROFILES_PATH": "none.toml"},
        own_process=True,
    ),
    # ---- 3: data
    Case(
        "privacy ledger that was cut",
        "tabvae budget out",
        3,
        private_refresh(tampered=True),
        ("privacy-ledger.jsonl", "line 1", "backup"),
    ),
    Case(
        "missing file",
        "tabvae synthesize gone.parquet out.parquet",
        3,
        plain,
        ("gone.parquet", "does not exist"),
        own_process=True,
    ),
    Case("missing source of a refresh", REFRESH, 3, lambda here: here.spec(), ("orders.parquet", "does not exist")),
    Case("folder without Parquet files", "tabvae init orders", 3, empty_folder, ("orders", "no Parquet file")),
    Case(
        "missing bucket",
        "tabvae init s3://no-such-bucket/t --endpoint-url {endpoint}",
        3,
        in_bucket,
        ("no-such-bucket",),
        store="moto",
    ),
    Case(
        "file of zero bytes",
        QUICK,
        3,
        bytes_of(lambda b: b""),
        ("orders.parquet", "zero bytes"),
    ),
    Case(
        "file of another format",
        REFRESH,
        3,
        bytes_of(lambda b: b"key,age\nZK-000001,33\n"),
        ("orders.parquet", "Parquet"),
    ),
    Case("truncated file", REFRESH, 3, bytes_of(lambda b: b[: len(b) // 2]), ("orders.parquet", "truncated")),
    Case(
        "damaged rows",
        REFRESH,
        3,
        bytes_of(lambda b: b[:40] + b"\xff" * 900 + b[940:]),
        ("orders.parquet", "damaged"),
        leaves=RUN,
    ),
    Case("empty table", REFRESH, 3, table_of(lambda: orders(0)), ("orders.parquet", "no rows")),
    Case("one row", REFRESH, 3, table_of(lambda: orders(1)), ("orders.parquet", "1 row")),
    Case("nine rows, some held out", REFRESH, 3, table_of(lambda: orders(9)), ("orders.parquet", "9 rows", "10")),
    Case("nine rows", QUICK, 3, quick_of(lambda: orders(9)), ("9", "10")),
    Case(
        "filters that no row passes",
        REFRESH,
        3,
        spec_with(source={"uri": "orders.parquet", "filters": ["age > 500"]}),
        ("orders.parquet", "source.filters"),
    ),
    Case(
        "duplicate column names",
        REFRESH,
        3,
        table_of(duplicate_columns),
        ("orders.parquet", "more than one column named 'age'"),
    ),
    Case(
        "nested column, to be refused",
        REFRESH,
        3,
        table_of(nested, unlearnable="refuse"),
        ("tags", "nested"),
        leaves=RUN,
    ),
    Case(
        "free text, to be refused",
        REFRESH,
        3,
        table_of(free_text, unlearnable="refuse"),
        ("remark", "free text"),
        leaves=RUN,
    ),
    Case("drift: a column more", REFRESH, 3, expecting(lambda e: e.pop("amount")), ("added: amount", "expect_columns")),
    Case("drift: a column less", REFRESH, 3, expecting(lambda e: e.update(city="string")), ("missing: city",)),
    Case("drift: another type", REFRESH, 3, expecting(lambda e: e.update(age="int64")), ("int64 became int16",)),
    Case(
        "unknown column in source.columns",
        REFRESH,
        3,
        spec_with(source={"uri": "orders.parquet", "columns": ["agee", "kind"]}),
        ("agee", "did you mean 'age'"),
    ),
    Case("missing model", DRAW, 3, nothing, ("model", "tabvae fit")),
    Case("foreign folder as a model", DRAW, 3, foreign_model, ("model/bundle.json", "not a tabvae bundle")),
    Case("cut model header", DRAW, 3, cut_model, ("model/bundle.json", "damaged")),
    Case("damaged model weights", DRAW, 3, damaged_model, ("weights.safetensors", "damaged"), own_process=True),
    Case("model of a later format", DRAW, 3, later_model, ("99",)),
    Case("missing given table", FILL, 3, model, ("partial.parquet", "does not exist")),
    Case("augment: a class of a few rows", f"{AUGMENT} grade --value 2", 3, graded, ("grade = 2", "too few")),
    Case("given table without rows", FILL, 3, holes(lambda t: t.slice(0, 0)), ("no rows",)),
    Case("given table without columns", FILL, 3, holes(lambda t: t.select([])), ("partial.parquet", "no columns")),
    Case(
        "given table: cells of another type",
        FILL,
        3,
        holes(lambda t: t.set_column(0, "age", t["kind"])),
        ("age", "string", "int16"),
    ),
    Case(
        "latent space: missing table", ENCODE, 3, lambda here: here.model("vae"), ("orders.parquet", "does not exist")
    ),
    Case(
        "latent space: missing columns",
        ENCODE,
        3,
        latents(lambda t: t.drop_columns(["age", "kind"])),
        ("lacks", "age, kind"),
    ),
    Case(
        "latent space: cells of another type",
        ENCODE,
        3,
        latents(lambda t: t.set_column(1, "age", t["kind"])),
        ("age", "string", "int16"),
    ),
    Case(
        "comparing tables of other columns",
        "tabvae evaluate orders.parquet other.parquet",
        3,
        two_tables,
        ("other.parquet", "sort"),
    ),
    Case("attack: too few rows for shadow models", f"{ATTACK} --shadows 4", 3, two_alike, ("held-out rows", "120")),
    Case("attack: a table of other columns", ATTACK, 3, two_tables, ("other.parquet", "sort")),
    Case(
        "rollback to an unknown version",
        "tabvae rollback out 20200101T000000Z-00000000",
        3,
        published,
        ("out", "has no version", "versions:"),
    ),
    Case("rollback where nothing was published", "tabvae rollback nowhere v1", 3, nothing, ("nowhere",)),
    Case(
        "database table without a column, with one too many, and another type",
        FEED,
        3,
        shop("CREATE TABLE orders (key text, age date, amount double, kind text, opened date, note text)"),
        ("lacks closed", "without a default of its own, note", "age (int16, the table has date)"),
    ),
    Case(
        "database table that is NOT NULL where there are nulls",
        FEED,
        3,
        shop("CREATE TABLE orders (key text, age int, amount double NOT NULL, kind text, opened date, closed date)"),
        ("sqlite:///shop.db: orders", "NOT NULL", "amount"),
    ),
    Case(
        "database table with a constraint that rows break",
        FEED,
        3,
        shop("CREATE TABLE orders (key text, age int CHECK (age < 0), amount, kind text, opened date, closed date)"),
        ("constraint", "age < 0"),
    ),
    Case("database fed with a refused version", f"{FEED} --version v9", 3, refused_release, ("v9", "quarantine")),
    Case("database fed from nowhere", "tabvae feed nowhere --into sqlite:///shop.db", 3, nothing, ("nowhere",)),
    Case("training of what is no run", "tabvae train work/runs/0123456789abcdef", 3, nothing, ("is no run", "RUN_ID")),
    Case("unknown credentials", "tabvae train work/runs/0 --credentials lake", 2, nothing, ("--credentials", "'lake'")),
    # ---- 4: gates
    Case(
        "table that the gates refuse",
        REFRESH,
        4,
        refused,
        ("gates refused", "out/quarantine/", "report.html"),
        leaves=(*RUN, "out/quarantine", "out/quarantine/VERSION/"),
    ),
    Case("the same again", REFRESH, 4, refused_before, ("gates refused", "--force"), leaves=RUN),
    # ---- 5: another writer
    Case(
        "another writer published meanwhile",
        REFRESH,
        5,
        two_writers,
        ("out", "another writer published"),
        meanwhile=other_writer,
        leaves=(*RUN, "out", "out/.current.json.lock", "out/current.json", "out/versions", "out/versions/VERSION/"),
    ),
    Case(
        "target that is being refreshed",
        f"{REFRESH} --no-wait",
        5,
        held,
        ("another refresh of out is running", "process 12 on a machine", "--no-wait"),
    ),
    # ---- 6: storage
    Case(
        "wrong secret",
        "tabvae init s3://errors/orders.parquet --endpoint-url {endpoint}",
        6,
        in_bucket,
        ("s3://errors/orders.parquet", "credentials"),
        store="moto",
        environment={"AWS_SECRET_ACCESS_KEY": SECRET},
    ),
    Case(
        "wrong secret, another store",
        REFRESH,
        6,
        in_bucket,
        ("s3://errors/orders.parquet", "credentials"),
        store="rclone",
        environment=GOOD_KEYS,
    ),
    Case(
        "deployment to a server that does not answer",
        "tabvae deploy refresh.yaml",
        6,
        spec_with(),
        ("does not answer", "PREFECT_API_URL"),
        environment={"PREFECT_API_URL": "http://127.0.0.1:9/api"},
        own_process=True,
    ),
    Case(
        "unknown access key",
        "tabvae releases s3://errors/out --endpoint-url {endpoint}",
        6,
        in_bucket,
        ("s3://errors/out",),
        store="moto",
        environment={"AWS_ACCESS_KEY_ID": SECRET},
        own_process=True,
    ),
    Case(
        "refused connection",
        "tabvae init s3://lake/orders/ --endpoint-url {endpoint}",
        6,
        plain,
        ("s3://lake/orders", "cannot be reached"),
        environment={"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": SECRET},
    ),
    Case(
        "full disk, while sampling",
        "tabvae sample model out.parquet --rows 20000",
        6,
        model,
        ("out.parquet",),
        file_limit=60_000,
    ),
    Case(
        "full disk, while training",
        "tabvae fit orders.parquet model --spec fast.yaml",
        6,
        older_model,
        ("size",),
        file_limit=20_000,
    ),
    Case(
        "read-only target",
        REFRESH,
        6,
        spec_with(target={"uri": "/sys/kernel/tabvae"}),
        ("/sys/kernel/tabvae",),
    ),
    Case("read-only workspace", REFRESH, 6, spec_with(workspace={"uri": "/sys/kernel/work"}), ("/sys/kernel/work",)),
    Case("read-only target, looked at first", CHECK, 6, spec_with(target={"uri": "/sys/kernel/t"}), ("/sys/kernel/t",)),
    Case("read-only output", "tabvae synthesize orders.parquet /sys/kernel/tabvae.parquet", 6, plain, ("/sys/kernel",)),
    Case(
        "output below a file",
        "tabvae synthesize orders.parquet refresh.yaml/out.parquet",
        6,
        plain,
        ("refresh.yaml/out.parquet", "a file stands where a folder is needed"),
    ),
    Case("read-only model folder", "tabvae fit orders.parquet /sys/kernel/model", 6, plain, ("/sys/kernel/model",)),
    Case("output folder with other tables", "tabvae synthesize orders.parquet out", 6, others, ("out", "mine.parquet")),
    Case(
        "database that does not answer",
        "tabvae feed out --into postgresql://me@127.0.0.1:9/shop",
        6,
        published,
        ("postgresql://127.0.0.1:PORT/shop", "cannot be reached"),
    ),
    Case("database that is no database", "tabvae feed out --into sqlite:///refresh.yaml", 6, published, ("no SQLite",)),
    # ---- 0: looks bad and works
    Case(
        "one column",
        QUICK,
        0,
        quick_of(lambda: orders().select(["kind"])),
        ("120 rows, 1 column:",),
        leaves=("out.parquet",),
    ),
    Case(
        "constant column",
        QUICK,
        0,
        quick_of(lambda: orders().append_column("c", pa.array(["x"] * 120))),
        ("120 rows",),
        leaves=("out.parquet",),
    ),
    Case(
        "nothing but a constant column",
        "tabvae synthesize orders.parquet out.parquet",
        0,
        quick_of(lambda: pa.table({"c": ["x"] * 40})),
        ("40 rows",),
        leaves=("out.parquet",),
    ),
    Case(
        "all-null column",
        QUICK,
        0,
        quick_of(lambda: orders().append_column("n", pa.nulls(120, pa.int64()))),
        ("120 rows",),
        leaves=("out.parquet",),
    ),
    Case(
        "nested column",
        QUICK,
        0,
        quick_of(lambda: nested()),
        ("tags", "nulls only"),
        leaves=("out.parquet",),
    ),
    Case(
        "free text",
        QUICK,
        0,
        quick_of(lambda: free_text()),
        ("remark", "new text"),
        leaves=("out.parquet",),
    ),
    Case(
        "given table: categories never learned",
        FILL,
        0,
        holes(lambda t: t.set_column(1, "kind", pa.array(["aubergines", "brinjal"] * 10))),
        ("kind", "10 given cells", "20 rows"),
        leaves=("out.parquet",),
    ),
    Case("target without releases", "tabvae releases nowhere", 0, nothing, ("nowhere", "no releases")),
)


# ---------------------------------------------------------------- the document

_HEAD = """# Errors

Every bad input that the tests know, run through the real command line: what it says, how it ends, what it leaves.
This table is made by `tests/faults/error_table.py --write`; a test fails when it no longer says the truth.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a fault of tabvae itself; `TABVAE_DEBUG=1` shows the traceback |
| 2 | the spec, a rule or an option |
| 3 | the table, or a model file |
| 4 | a gate refused the table: it is in quarantine, the published version stays |
| 5 | another writer published first, or is refreshing the target |
| 6 | storage: access, network, disk |
| 130 | interrupted |

`RUN` is a run's records in the workspace, with which the next try goes on; `VERSION`, `PORT` and `N` differ from run to
run. With `--json`, the same stands on stdout as `{"error": {"kind", "message", "hint", "exit_code"}}`.

| input | command | message | exit code | left behind |
|---|---|---|---|---|
"""


def document(rows: list[str]) -> str:
    """The whole of docs/errors.md."""
    return _HEAD + "\n".join(rows) + "\n"


def row_of(case: Case, outcome: Outcome) -> str:
    """A case's line of the table."""
    command = case.command.replace("{endpoint}", "http://127.0.0.1:PORT")
    left = ", ".join(f"`{place}`" for place in outcome.left) or "nothing"
    cells = (case.title, f"`{command}`", "<br>".join(outcome.message.splitlines()), str(outcome.code), left)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _write() -> None:
    from conftest import isolated_credentials

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root = Path(folder)
        stack.enter_context(isolated_credentials(root / "none"))
        running: dict[str, Store] = {}

        def store(name: str) -> Store:
            if name not in running:
                (root / name).mkdir()
                server = moto_store(root / name / "log") if name == "moto" else rclone_store(root / name)
                running[name] = stack.enter_context(server)
            return running[name]

        bench = Bench(root, store)
        rows = [row_of(case, bench.run(case)) for case in CASES]
        DOCUMENT.write_text(document(rows), encoding="utf-8")
        print(f"wrote {DOCUMENT}: {len(rows)} inputs")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    _write()
