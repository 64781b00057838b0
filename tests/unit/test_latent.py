"""Looking into the latent space of a model: rows as points, lines between rows, what each axis does."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import norm

from tables_made import people
from tabvae_core.errors import DataError, SpecError
from tabvae_core.evaluation.traversal import render_traversal
from tabvae_core.latent import (
    AxisMoves,
    ColumnMoves,
    Latents,
    LatentSpace,
    Traversal,
    encode_rows,
    interpolate,
    latent_space,
    traverse,
)
from tabvae_core.models.latent_prior import LatentPrior
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.base import BLOCK_ROWS, Synthesizer
from tabvae_core.synthesizers.registry import create
from tabvae_core.synthesizers.vae_latent import VAELatentSpace
from tabvae_flows.cli import _run

OPTIONS = {"members": 2, "width": 24, "hidden": 24, "latent": 3}


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return people(300)


@pytest.fixture(scope="module")
def model(table: pa.Table) -> Synthesizer:
    spec = ModelSpec(method="vae", epochs=2, seed=1, device="cpu", options=OPTIONS)
    return create("vae", spec, PrivacySpec()).fit(table)


@pytest.fixture(scope="module")
def space(model: Synthesizer) -> VAELatentSpace:
    """Member 0, whose z counts for more than two epochs would make it count."""
    made = latent_space(model)
    assert isinstance(made, VAELatentSpace)
    with torch.no_grad():
        made.network.start.weight.normal_(std=3.0, generator=torch.Generator().manual_seed(0))
    return made


def points_of(space: LatentSpace, table: pa.Table) -> npt.NDArray[np.float64]:
    return space.encode(table.select(list(space.schema.names))).mean


# ---------------------------------------------------------------- rows as points


class Batches:
    """A table that comes in small batches."""

    def __init__(self, table: pa.Table) -> None:
        self.table, self.schema, self.num_rows = table, table.schema, table.num_rows

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        yield from self.table.select(columns or self.table.column_names).to_batches(max_chunksize=70)


def test_encoding_holds_numbers_means_and_spreads_and_nothing_else(space: LatentSpace, table: pa.Table) -> None:
    (encoded,) = encode_rows(space, table)
    assert encoded.column_names == ["row", *(f"z{k}_{part}" for k in range(3) for part in ("mean", "spread"))]
    assert encoded["row"].to_pylist() == list(range(300))
    latents = space.encode(table)
    assert np.array_equal(encoded["z1_mean"].to_numpy(), latents.mean[:, 1])
    assert np.array_equal(encoded["z2_spread"].to_numpy(), latents.spread[:, 2])
    assert (latents.spread > 0).all()
    in_parts = pa.concat_tables(encode_rows(space, Batches(table)))
    assert in_parts["row"].equals(encoded["row"])
    assert np.allclose(in_parts["z0_mean"].to_numpy(), encoded["z0_mean"].to_numpy(), atol=1e-5)


def test_columns_in_another_order_and_type_are_the_same_rows(space: LatentSpace, table: pa.Table) -> None:
    other = table.set_column(1, "age", table["age"].cast(pa.int64())).append_column("more", table["age"])
    other = other.set_column(3, "segment", table["segment"].cast(pa.string()))
    other = other.select(["more", *reversed(table.column_names)])
    assert next(encode_rows(space, other)).equals(next(encode_rows(space, table)))


def test_rows_that_lack_columns_or_do_not_fit_are_refused(space: LatentSpace, table: pa.Table) -> None:
    with pytest.raises(DataError, match=r"lacks columns that the model learned: age, opened") as missing:
        next(encode_rows(space, table.drop_columns(["age", "opened"])))
    assert missing.value.hint
    with pytest.raises(DataError, match="the table: column 'age' has type string"):
        next(encode_rows(space, table.set_column(1, "age", table["segment"].cast(pa.string()))))


def test_each_member_has_a_space_of_its_own(model: Synthesizer, table: pa.Table, tmp_path: Path) -> None:
    spaces = [latent_space(model, member) for member in range(2)]
    assert [(one.member, one.members, one.dimensions) for one in spaces] == [(0, 2, 3), (1, 2, 3)]
    assert not np.allclose(points_of(spaces[0], table), points_of(spaces[1], table))
    model.save(tmp_path / "model")
    loaded = latent_space(tmp_path / "model", 1)
    assert np.array_equal(points_of(loaded, table), points_of(spaces[1], table))
    for member in (-1, 2):
        with pytest.raises(SpecError, match=f"no member {member}: the model has 2 networks"):
            latent_space(model, member)


def test_what_has_no_latent_space_says_so(table: pa.Table) -> None:
    basic = create("vae_basic", ModelSpec(method="vae_basic", epochs=1), PrivacySpec()).fit(table)
    with pytest.raises(SpecError, match="'vae_basic' has no latent space"):
        latent_space(basic)
    constant = create("vae", ModelSpec(), PrivacySpec()).fit(pa.table({"c": ["x"] * 40}))
    with pytest.raises(DataError, match="no column that varies"):
        latent_space(constant)


@pytest.mark.parametrize(
    ("option", "says"),
    [({"beta": -1}, "is out of range"), ({"tc": -0.1}, "is out of range"), ({"tc": float("nan")}, "must be a number")],
)
def test_prices_below_zero_are_refused(option: dict[str, float], says: str) -> None:
    with pytest.raises(SpecError, match=rf"model\.options\.\w+ {says}"):
        create("vae", ModelSpec(options=option), PrivacySpec())


def test_prices_are_trained_with(table: pa.Table) -> None:
    """They reach the loss, and nothing else: of equal weights without them."""
    plain, priced, same = (
        create(
            "vae", ModelSpec(epochs=1, seed=1, device="cpu", options={**OPTIONS, "members": 1, **more}), PrivacySpec()
        )
        .fit(table)
        .record["train_loss"][0][0]
        for more in ({}, {"beta": 20.0, "tc": 20.0}, {"beta": 1.0, "tc": 0.0})
    )
    assert plain == same
    assert priced > plain


# ---------------------------------------------------------------- from points to rows


def test_rows_of_one_number_differ_by_their_points_alone(space: LatentSpace, table: pa.Table) -> None:
    z = points_of(space, table)[:40]
    alone = space.decode(z, seed=3)
    assert alone.schema.equals(table.schema)
    assert alone.equals(space.decode(z, seed=3))
    assert not alone.equals(space.decode(z, seed=4))
    numbers = np.array([5, 0, 5, 7])
    assert space.decode(z[numbers], numbers=numbers, seed=3).to_pylist() == alone.take(numbers).to_pylist()
    with pytest.raises(ValueError, match="4,096"):
        space.decode(z[:1], numbers=np.array([BLOCK_ROWS]))


def test_a_line_ends_where_the_rows_are(space: LatentSpace, table: pa.Table) -> None:
    line = interpolate(space, table, (3, 217), steps=7, seed=2)
    z = points_of(space, table)
    zeros = np.zeros(1, dtype=np.int64)
    assert line.schema.equals(table.schema)
    assert line.num_rows == 7
    assert line.slice(0, 1).equals(space.decode(z[[3]], numbers=zeros, seed=2))
    assert line.slice(6, 1).equals(space.decode(z[[217]], numbers=zeros, seed=2))
    middle = space.decode((z[[3]] + z[[217]]) / 2, numbers=zeros, seed=2)
    assert line.slice(3, 1).equals(middle)
    assert line.equals(interpolate(space, Batches(table), (3, 217), steps=7, seed=2))
    assert line.to_pylist()[::-1] == interpolate(space, table, (217, 3), steps=7, seed=2).to_pylist()
    assert len(set(line["key"].to_pylist())) == 1, "one person moves"
    assert line["key"][0] not in table["key"].to_pylist()[3:4]


@pytest.mark.parametrize(
    ("rows", "steps", "says"),
    [
        ((3, 300), 9, "row 300 is asked for, but the table has 300 rows"),
        ((-1, 3), 9, "row -1 is asked for"),
        ((3,), 9, "two different rows"),
        ((3, 3), 9, "two different rows"),
        ((1, 2, 3), 9, "two different rows"),
        ((3, 17), 1, "at least 2 steps, however: 1"),
    ],
)
def test_lines_that_go_nowhere(
    space: LatentSpace, table: pa.Table, rows: tuple[int, ...], steps: int, says: str
) -> None:
    with pytest.raises(SpecError, match=says) as refused:
        interpolate(space, table, rows, steps=steps)
    assert refused.value.hint


# ---------------------------------------------------------------- what each axis does


def test_quantiles_are_those_of_the_margins() -> None:
    factor = torch.tensor([[2.0, 0.0], [1.5, 0.5]])
    one = LatentPrior(torch.ones(1), torch.tensor([[1.0, -4.0]]), factor[None])
    shares = np.array([0.05, 0.5, 0.9])
    expected = np.column_stack([norm(1, 2).ppf(shares), norm(-4, np.hypot(1.5, 0.5)).ppf(shares)])
    assert np.allclose(one.quantiles(shares), expected, atol=1e-6)
    two = LatentPrior(torch.tensor([0.3, 0.7]), torch.tensor([[-5.0, 0.0], [5.0, 1.0]]), factor.repeat(2, 1, 1) / 2)
    drawn = two.transform(*(f(60_000, *n, generator=torch.Generator().manual_seed(0)) for f, n in
                            ((torch.randn, (2,)), (torch.rand, ()))))  # fmt: skip
    for axis, quantiles in enumerate(two.quantiles(shares).T):
        below = [(drawn[:, axis].double().numpy() < q).mean() for q in quantiles]
        assert np.allclose(below, shares, atol=0.01)


def test_a_traversal_is_the_same_again_and_its_shares_are_shares(space: LatentSpace) -> None:
    found, again, other = (traverse(space, draws=64, steps=5, seed=seed) for seed in (1, 1, 2))
    assert found.table().equals(again.table())
    assert not found.table().equals(other.table())
    assert sorted(axis.axis for axis in found.axes) == [0, 1, 2]
    assert [axis.effect for axis in found.axes] == sorted((axis.effect for axis in found.axes), reverse=True)
    for axis in found.axes:
        assert (np.diff(axis.z) > 0).all()
        assert {column.name for column in axis.columns} == {"age", "income", "segment", "opened", "active"}
        effects = [column.effect for column in axis.columns]
        assert effects == sorted(effects, reverse=True)
        for column in axis.columns:
            assert 0 <= column.effect <= 1
            if column.labels is not None:
                assert np.allclose(column.values.sum(axis=1), 1)
    figures = found.table()
    assert figures.filter(pa.compute.equal(figures["column"], "age")).num_rows == 3 * 5
    assert set(pa.compute.unique(figures["quantile"]).to_pylist()) == set(found.shares)


def test_only_the_axis_moves(space: VAELatentSpace, table: pa.Table) -> None:
    """All else is held fixed: axes that the decoder does not read move nothing at all."""
    network = space.network
    weight = network.start.weight.detach().clone()
    try:
        with torch.no_grad():
            network.start.weight[:, [0, 2]] = 0.0
        found = {axis.axis: axis for axis in traverse(space, draws=200, steps=4).axes}
        assert max(column.effect for column in found[1].columns) > 0.05
        for axis in (0, 2):
            assert {column.effect for column in found[axis].columns} == {0.0}
        of_rows = traverse(space, table=table, axis=1, draws=50, steps=4)
        assert [axis.axis for axis in of_rows.axes] == [1]
        assert of_rows.draws == 50
        assert of_rows.axes[0].effect > 0
    finally:
        with torch.no_grad():
            network.start.weight.copy_(weight)


@dataclasses.dataclass(frozen=True)
class Scripted:
    """A space whose axis 0 is the age, and whose axis 1 says whether a cell is null."""

    space: LatentSpace

    def __getattr__(self, name: str) -> object:
        return getattr(self.space, name)

    def draw(self, n: int, *, seed: int = 0) -> npt.NDArray[np.float64]:
        return np.zeros((n, 3))

    def quantiles(self, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.repeat(shares[:, None], 3, axis=1)

    def decode(
        self, z: npt.NDArray[np.float64], *, numbers: npt.NDArray[np.int64] | None = None, seed: int = 0
    ) -> pa.Table:
        assert numbers is not None
        whole = self.space.decode(np.zeros_like(z), numbers=numbers)
        null = z[:, 1] > 0.5
        return (
            whole.set_column(1, "age", pa.array((20 + 10 * z[:, 0]).astype(np.int16)))
            .set_column(2, "income", pa.array(numbers * 100.0, mask=null))
            .set_column(3, "segment", pa.array(np.where(numbers % 2, "pro", "basic"), mask=null))
        )


def test_means_and_shares_are_counted(space: LatentSpace) -> None:
    found = {axis.axis: axis for axis in traverse(Scripted(space), draws=8, steps=3).axes}  # type: ignore[arg-type]
    columns = [{column.name: column for column in found[axis].columns} for axis in range(3)]
    assert columns[0]["age"].effect == pytest.approx(1.0)
    assert columns[0]["age"].values.tolist() == [20.0, 25.0, 29.0]
    assert columns[0]["segment"].effect == 0.0
    assert columns[0]["income"].values.tolist() == [350.0] * 3
    assert columns[1]["income"].values.tolist()[:2] == [350.0] * 2
    assert np.isnan(columns[1]["income"].values[2])
    assert columns[1]["segment"].labels == ("basic", "pro", "(null)")
    assert columns[1]["segment"].values.tolist() == [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]
    assert columns[1]["segment"].effect > 0.7


def test_traversals_that_cannot_be(space: LatentSpace, table: pa.Table) -> None:
    with pytest.raises(SpecError, match="no axis 3: the latent space has 3 dimensions"):
        traverse(space, axis=3)
    with pytest.raises(SpecError, match="2 steps or more and 1 to 4,096 draws, however: 1 and 5000"):
        traverse(space, steps=1, draws=5000)
    with pytest.raises(DataError, match="no rows"):
        traverse(space, table=table.slice(0, 0))


# ---------------------------------------------------------------- the picture


def test_the_picture_opens_offline_and_names_stay_text(tmp_path: Path) -> None:
    name, label = "<b onclick='x'>$$n$$</b>", "</script><img src=x>"
    z, shares = np.array([-1.0, 1.0]), np.array([0.05, 0.95])
    measure = ColumnMoves(name, "number", None, np.array([1.0, np.nan]), 2.0, 0.9)
    labels = ("a", label, *"cdefg")
    kinds = ColumnMoves("kind", "number", labels, np.array([[1.0] + [0.0] * 6, [0.2, 0.8] + [0.0] * 5]), 1.0, 0.5)
    date = ColumnMoves("when", "date", None, np.array([0.0, 86_400.0]), 0.0, 0.1)
    empty = ColumnMoves("none", "number", None, np.full(2, np.nan), 0.0, 0.0)
    more = tuple(ColumnMoves(f"m{k}", "number", None, np.zeros(2), 0.0, 0.0) for k in range(4))
    made = Traversal((AxisMoves(4, z, (measure, kinds, date, empty, *more)),), shares, 99, 1, 3)
    path = render_traversal(made, title="t", subtitle="s", path=tmp_path / "deep" / "axes.html")
    html = path.read_text(encoding="utf-8")
    outside = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    assert not re.search(r"<link|@import|(src|href)=['\"]?(https?:)?//", outside)
    assert name not in outside
    assert "<img" not in html
    assert html.lower().count("<script") == html.lower().count("</script>")
    assert "member\n1 of 3 networks" in outside
    assert 'aria-label="when along axis 4: mean 1970-01-01 to 1970-01-02"' in outside
    assert "mean 1 to none" in outside
    assert "2 further categories move less" in outside
    assert "2 further columns are moved less" in outside


# ---------------------------------------------------------------- the command


@pytest.fixture
def here(tmp_path: Path, model: Synthesizer, table: pa.Table, monkeypatch: pytest.MonkeyPatch) -> Path:
    model.save(tmp_path / "model")
    pq.write_table(table, tmp_path / "people.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_encodes_interpolates_and_traverses(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        assert _run(["latent", *arguments]) == 0
        return capsys.readouterr().out

    assert run("encode", "model", "people.parquet", "z.parquet") == "wrote 300 rows, 7 columns: z.parquet\n"
    other = json.loads(run("encode", "model", "people.parquet", "z1.parquet", "--member", "1", "--json"))
    assert (other["rows"], other["columns"]) == (300, 7)
    assert not pq.read_table("z.parquet").equals(pq.read_table("z1.parquet"))
    line = ("interpolate", "model", "people.parquet", "line.parquet", "--rows", "3,17", "--steps", "5")
    assert run(*line) == "wrote 5 rows, 6 columns: line.parquet\n"
    assert pq.read_table("line.parquet").equals(interpolate(latent_space("model"), people(300), (3, 17), steps=5))
    said = run("traverse", "model", "axes.html")
    assert said.count("axis ") == 3
    assert said.endswith("wrote axes.html\n")
    assert "<html" in Path("axes.html").read_text(encoding="utf-8")
    one = json.loads(run("traverse", "model", "axes.parquet", "--axis", "2", "--table", "people.parquet", "--json"))
    assert list(one["effects"]) == ["2"]
    assert set(pq.read_table("axes.parquet")["axis"].to_pylist()) == {2}


@pytest.mark.parametrize("command", ["encode", "interpolate", "traverse"])
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["latent", command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Example:\n    tabvae latent {command} model/" in out
    assert "--member" in out


def test_latents_of_rows_do_not_need_all_rows_at_once(space: LatentSpace, table: pa.Table) -> None:
    """More rows than a block are encoded in parts."""
    many = pa.concat_tables([table] * 14).combine_chunks()
    latents = space.encode(many)
    assert isinstance(latents, Latents)
    assert latents.mean.shape == (4200, 3)
    assert np.allclose(latents.mean[:300], latents.mean[-300:], atol=1e-5)
