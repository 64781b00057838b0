"""What every synthesizer keeps, whatever its method."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tables_made import people
from tabvae_core.errors import DataError, ModelFileError, SpecError
from tabvae_core.inference import infer_schema
from tabvae_core.progress import ProgressEvent
from tabvae_core.spec import ColumnOverride, Kind, ModelSpec, PrivacySpec
from tabvae_core.synthesizers.base import Synthesizer
from tabvae_core.synthesizers.registry import create, find, load_bundle, methods
from tabvae_core.tables import as_source

METHODS = ("vae", "vae_basic", "gaussian_copula", "copula_vae", "ctgan", "tabddpm", "dp_marginals")
PRIVATE = ("dp_marginals",)
"""Methods that are tried with differential privacy: at an epsilon at which a few hundred rows can be learned."""


def privacy_of(method: str) -> PrivacySpec:
    return PrivacySpec(epsilon=200.0) if method in PRIVATE else PrivacySpec()


def declared(method: str) -> dict[str, ColumnOverride]:
    """What the table `people` says of its columns in public."""
    return {"key": ColumnOverride(kind=Kind.IDENTIFIER)} if method in PRIVATE else {}


def options_of(method: str) -> dict[str, int]:
    return {"components": 100, "steps": 20} if method == "dp_marginals" else {}


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return people()


@pytest.fixture(scope="module", params=METHODS)
def fitted(request: pytest.FixtureRequest, table: pa.Table) -> Synthesizer:
    method = request.param
    model, privacy = (
        ModelSpec(method=method, epochs=3, seed=5, device="cpu", options=options_of(method)),
        privacy_of(method),
    )
    schema = infer_schema(as_source(table), overrides=declared(method), privacy=privacy)
    return create(method, model, privacy).fit(table, schema)


def test_every_method_is_here() -> None:
    assert methods()[: len(METHODS)] == METHODS


def test_exact_schema_and_rows(fitted: Synthesizer, table: pa.Table) -> None:
    drawn = fitted.sample(5000, seed=1)
    assert drawn.schema.equals(table.schema, check_metadata=True)
    assert drawn.num_rows == 5000
    drawn.validate(full=True)


def test_keys_are_new_and_unique_over_blocks(fitted: Synthesizer) -> None:
    keys = fitted.sample(9000, seed=1)["key"]
    assert len(pc.unique(keys)) == 9000
    form = r"^\d{12}$" if fitted.method in PRIVATE else r"^P-\d{6}$"  # the format of keys is not learned in private
    assert pc.all(pc.match_substring_regex(keys, form)).as_py()


def test_nulls_appear_only_where_there_were_some(fitted: Synthesizer, table: pa.Table) -> None:
    drawn = fitted.sample(2000, seed=2)
    for name in table.column_names:
        if table[name].null_count == 0:
            assert drawn[name].null_count == 0, name


def test_seed_decides_everything(fitted: Synthesizer) -> None:
    assert fitted.sample(500, seed=3).equals(fitted.sample(500, seed=3))
    assert not fitted.sample(500, seed=3).equals(fitted.sample(500, seed=4))


def test_first_rows_do_not_depend_on_how_many_follow(fitted: Synthesizer) -> None:
    assert fitted.sample(100, seed=3).equals(fitted.sample(5000, seed=3).slice(0, 100))


def test_same_seed_learns_the_same_model(fitted: Synthesizer, table: pa.Table) -> None:
    schema = infer_schema(as_source(table), overrides=declared(fitted.method), privacy=fitted.privacy)
    again = create(fitted.method, fitted.model, fitted.privacy).fit(table, schema)
    same = again.sample(300, seed=0).equals(fitted.sample(300, seed=0))
    assert same != (fitted.method in PRIVATE), "the noise of differential privacy has no seed"


def test_bundle_round_trip(fitted: Synthesizer, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    loaded = load_bundle(tmp_path)
    assert loaded.sample(300, seed=9).equals(fitted.sample(300, seed=9))
    assert loaded.record == json.loads(json.dumps(fitted.record))
    assert {p.name for p in tmp_path.iterdir()} == {"bundle.json", "weights.safetensors", "MODEL_CARD.md"}


def test_bundles_load_in_a_fresh_process_without_what_they_were_learned_with(
    fitted: Synthesizer, tmp_path: Path
) -> None:
    """Neither the device nor the seed of the training matters to a bundle's sample."""
    fitted.save(tmp_path / "model")
    header = json.loads((tmp_path / "model" / "bundle.json").read_text())
    header["model"] |= {"device": "cuda:7", "seed": 99}
    (tmp_path / "model" / "bundle.json").write_text(json.dumps(header))
    script = """
import sys, pyarrow.parquet as pq
from pathlib import Path
from tabvae_core.synthesizers.registry import load_bundle
pq.write_table(load_bundle(Path(sys.argv[1])).sample(300, seed=9), sys.argv[2])
"""
    out = tmp_path / "out.parquet"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "model"), str(out)], check=True)
    assert pq.read_table(out).equals(fitted.sample(300, seed=9))


def test_damaged_bundle_is_refused(fitted: Synthesizer, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    weights = tmp_path / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(ModelFileError, match="sha256"):
        load_bundle(tmp_path)


def test_foreign_and_future_bundles_are_refused(fitted: Synthesizer, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"bundle\.json is missing"):
        load_bundle(tmp_path)
    fitted.save(tmp_path)
    header = json.loads((tmp_path / "bundle.json").read_text())
    (tmp_path / "bundle.json").write_text(json.dumps(header | {"version": 99}))
    with pytest.raises(ModelFileError, match="format version 99"):
        load_bundle(tmp_path)
    (tmp_path / "bundle.json").write_text(json.dumps(header | {"method": "unheard_of"}))
    with pytest.raises(ModelFileError, match="not installed"):
        load_bundle(tmp_path)


def test_progress_reaches_the_end(table: pa.Table) -> None:
    events: list[ProgressEvent] = []
    create("vae_basic", ModelSpec(method="vae_basic", epochs=2), PrivacySpec()).fit(table, progress=events.append)
    training = [event for event in events if event.step == "train"]
    assert training[-1].done == training[-1].total == 2
    assert "loss" in training[-1].message


@pytest.mark.parametrize("method", METHODS)
def test_too_few_rows(method: str, table: pa.Table) -> None:
    with pytest.raises(DataError, match="too few"):
        create(method, ModelSpec(method=method, epochs=1), privacy_of(method)).fit(table.slice(0, 3))


@pytest.mark.parametrize("method", METHODS)
def test_degenerate_columns(method: str) -> None:
    table = pa.table(
        {
            "constant": pa.array([7] * 60, pa.int8()),
            "empty": pa.nulls(60, pa.timestamp("us", "UTC")),
            "null": pa.nulls(60),
            "only": pa.array([True, None] * 30),
        }
    )
    drawn = create(method, ModelSpec(method=method, epochs=1), privacy_of(method)).fit(table).sample(40, seed=0)
    assert drawn.schema.equals(table.schema)
    assert drawn["constant"].to_pylist() == [7] * 40
    assert drawn["empty"].null_count == 40


@pytest.mark.parametrize("method", METHODS)
def test_forbidden_nulls_and_rare_categories_are_not_drawn(method: str) -> None:
    table = pa.table(
        {
            "number": pa.array([None if k % 4 == 0 else float(k % 7) for k in range(400)]),
            "category": pa.array([None if k % 3 == 0 else "rare" if k == 7 else "ab"[k % 2] for k in range(400)]),
        }
    )
    overrides = {name: ColumnOverride(nullable=False) for name in table.column_names}
    model, privacy = ModelSpec(method=method, epochs=1, options=options_of(method)), privacy_of(method)
    schema = infer_schema(as_source(table), overrides=overrides, privacy=privacy)
    drawn = create(method, model, privacy).fit(table, schema).sample(500, seed=0)
    assert drawn["number"].null_count == drawn["category"].null_count == 0
    assert set(drawn["category"].to_pylist()) <= {"a", "b"}


@pytest.mark.parametrize("method", METHODS)
def test_unknown_options_are_refused(method: str) -> None:
    with pytest.raises(SpecError, match=r"options\.laten "):
        create(method, ModelSpec(method=method, options={"laten": 4}), PrivacySpec())


def test_unknown_method_suggests_one() -> None:
    with pytest.raises(SpecError, match="did you mean 'vae'"):
        find("vea")


def test_absent_device_is_refused(table: pa.Table) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(SpecError, match="CUDA"):
        create("vae", ModelSpec(device="cuda", epochs=1), PrivacySpec()).fit(table)


class TestGiven:
    def test_vae_fixes_values_and_the_rest_follows(self) -> None:
        options = {"given_rows": 0.7, "frequencies": 3}
        model = create("vae", ModelSpec(epochs=12, learning_rate=3e-3, options=options), PrivacySpec())
        model.fit(people(3000))
        incomes = {}
        for segment in ("basic", "pro"):
            drawn = model.sample(400, seed=0, given={"segment": segment})
            assert set(drawn["segment"].to_pylist()) == {segment}
            incomes[segment] = np.nanmedian(drawn["income"].to_numpy(zero_copy_only=False))
        assert incomes["pro"] > 1.5 * incomes["basic"]

    def test_basic_refuses(self, table: pa.Table) -> None:
        model = create("vae_basic", ModelSpec(method="vae_basic", epochs=1), PrivacySpec()).fit(table)
        with pytest.raises(SpecError, match="cannot fix given values"):
            model.sample(10, seed=0, given={"age": 30})
