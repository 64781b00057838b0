"""Measure what latent spaces of `vae` are worth: its defaults, and options that give z something to say.

    python benchmarks/latent.py
    python benchmarks/latent.py --seeds 0,1,2 --data ../shared/data adult magic --picture axes.html

Rows made from three independent factors (`tabvae_core.evaluation.disentanglement`) are learned with each choice of
options and each seed; the mutual information gap says whether each factor has an axis of its own, and c2st what that
costs the sample. Tables of --data have no known factors: for them the parts of the rate are measured, with the first
seed. All models are single networks, because each member of an ensemble has a latent space of its own.

--picture writes what `tabvae latent traverse` draws, of the last choice of options and the first seed.

Each result is kept in docs/benchmarks/latent.json at once, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import plots
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from measuring import halves, tables_of
from page import Kept, comma_separated, image, parser_of, table, write_section
from worker import installed

from tabvae_core.evaluation import evaluate
from tabvae_core.evaluation.disentanglement import factor_rows, mutual_information_gap, rate_parts
from tabvae_core.evaluation.traversal import render_traversal
from tabvae_core.latent import Latents, LatentSpace, latent_space, traverse
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.base import Synthesizer
from tabvae_core.synthesizers.registry import create
from tabvae_core.workspace import code_version

NAME = "latent"
_TOLD = {"free_bits": 0, "beta": 0.3, "cell_dropout": 0.5}
CHOICES: dict[str, dict[str, float]] = {"defaults": {}, "beta": _TOLD, "beta and tc": {**_TOLD, "tc": 3}}
"""Options beside `members: 1`."""
FACTORS = "factors"
_MEASURED_ROWS = 3_000
_ABOUT = (
    "Single networks of `vae` (`members: 1`) learn half of {rows:,} rows, made from three independent factors (age,"
    " wealth, region) that drive four columns each. Gap: mutual information gap, 0 where no axis tells a factor better"
    " than another, 1 where each factor has an axis of its own; mean and standard deviation over {seeds} seeds. The"
    " rate in nats is the sum of what z knows of the row, what the axes share (total correlation) and how far each axis"
    " is from the prior. c2st: AUC of boosted trees told to separate the sample from rows that were not learned."
)


def main() -> None:
    given = _arguments()
    plots.need_matplotlib()
    torch.set_num_threads(given.threads)
    seeds = [int(seed) for seed in comma_separated(given.seeds)]
    names = tables_of(given.data, given.tables) if given.data else []
    kept = Kept(given.out, NAME, {"rows": given.rows, "choices": CHOICES, "threads": given.threads})
    kept.forget(comma_separated(given.again))
    for choice in CHOICES:
        for seed in seeds:
            if f"{FACTORS}:{choice}:{seed}" not in kept:
                _keep(kept, f"{FACTORS}:{choice}:{seed}", _with_factors(choice, seed, given, seed == seeds[0]))
        for name in names:
            if f"{name}:{choice}:{seeds[0]}" not in kept:
                _keep(kept, f"{name}:{choice}:{seeds[0]}", _without_factors(name, choice, seeds[0], given))
    write_section(given.out, NAME, _section(kept, given.rows, seeds))


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="names of files in the folder of --data; all")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="Parquet files; left out: made-up rows alone")
    parser.add_argument("--rows", type=int, default=12_000, help="rows of each table, half to learn; %(default)s")
    parser.add_argument("--seeds", default="0,1,2", help="separated by commas; %(default)s")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write the traversal as HTML")
    return parser.parse_args()


# Measuring ----------------------------------------------------------------------------------------------------------


def _keep(kept: Kept, key: str, result: Mapping[str, Any]) -> None:
    kept.keep(key, result, {"tabvae": code_version(), **installed("torch")})


def _with_factors(choice: str, seed: int, given: argparse.Namespace, draw: bool) -> dict[str, Any]:
    made = factor_rows(given.rows, seed=seed)
    half = given.rows // 2
    train, rest = made.table.slice(0, half), made.table.slice(half)
    model = _fitted(train, choice, seed)
    space = latent_space(model)
    latents = _latents(space, rest)
    gap = mutual_information_gap(latents.mean, latents.spread, made.factors[half:][:_MEASURED_ROWS])
    judged = evaluate(rest, model.sample(half, seed=seed), model.schema, train=train)
    result = {"gap": gap.gap, "gaps": gap.gaps.tolist(), "c2st": judged.metrics["c2st"].value, **_rate(latents)}
    if draw:
        found = traverse(space)
        result["effects"] = {
            column.name: [one.effect for axis in sorted(found.axes, key=lambda a: a.axis) for one in axis.columns
                          if one.name == column.name]
            for column in found.axes[0].columns
        }  # fmt: skip
        if given.picture and choice == list(CHOICES)[-1]:
            render_traversal(
                found,
                title="rows of three factors",
                subtitle=_options(CHOICES[choice]).replace("`", ""),
                path=given.picture,
            )
    return result


def _without_factors(name: str, choice: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    with halves(given.data, name, given.rows) as half:
        space = latent_space(_fitted(pq.read_table(half.train), choice, seed))
        return _rate(_latents(space, pq.read_table(half.holdout)))


def _fitted(train: pa.Table, choice: str, seed: int) -> Synthesizer:
    options = {"members": 1, **CHOICES[choice]}
    return create("vae", ModelSpec(method="vae", seed=seed, options=options), PrivacySpec()).fit(train)


def _latents(space: LatentSpace, rows: pa.Table) -> Latents:
    return space.encode(rows.slice(0, _MEASURED_ROWS).select(list(space.schema.names)))


def _rate(latents: Latents) -> dict[str, float]:
    return asdict(rate_parts(latents.mean, latents.spread))


# The page -----------------------------------------------------------------------------------------------------------


def _section(kept: Kept, rows: int, seeds: list[int]) -> list[str]:
    heads = ["table", "options", "gap", "age, wealth, region", "z knows", "axes share", "axes from prior", "c2st"]
    names = dict.fromkeys(key.split(":")[0] for key in kept.results)
    lines: list[list[object]] = []
    for name in names:
        for choice in CHOICES:
            found = [kept.results[key] for seed in seeds if (key := f"{name}:{choice}:{seed}") in kept.results]
            if found:
                lines.append([name, choice, *_cells(found)])
    plot = _plot(
        {c: kept.results[f"{FACTORS}:{c}:{seeds[0]}"]["effects"] for c in CHOICES}, kept.folder / f"{NAME}.svg"
    )
    choices = "; ".join(f"*{name}*: {_options(options)}" for name, options in CHOICES.items())
    return [
        "## Latent space",
        "",
        _ABOUT.format(rows=rows, seeds=len(seeds)),
        "",
        f"Options: {choices}.",
        "",
        *image(kept.page, plot, "effect of each axis on each column, by choice of options"),
        *table(heads, lines),
        "",
        *kept.provenance(),
    ]


def _options(options: Mapping[str, float]) -> str:
    return ", ".join(f"`{name}: {value:g}`" for name, value in options.items()) or "none"


def _cells(found: list[dict[str, Any]]) -> list[object]:
    def mean(name: str) -> object:
        values = [one[name] for one in found if name in one]
        return f"{np.mean(values):.3f}" if values else None

    gaps = [one["gap"] for one in found if "gap" in one]
    each = np.mean([one["gaps"] for one in found if "gaps" in one], axis=0) if gaps else []
    return [
        f"{np.mean(gaps):.3f} ± {np.std(gaps):.3f}" if gaps else None,
        ", ".join(f"{gap:.2f}" for gap in each) or None,
        *(mean(name) for name in ("information", "total_correlation", "dimension_wise", "c2st")),
    ]


def _plot(effects: Mapping[str, Mapping[str, list[float]]], file: Path) -> Path:
    """A square for each column and axis, darker where the axis moves the column more; columns by their factors."""
    order = [name for first in range(3) for name in factor_rows(1).table.column_names[first::3]]
    figure, axes = plots.panels(1, len(effects), 3 * len(effects) + 1, 3.4, sharey=True)
    for axis, (choice, of_columns) in zip(axes, effects.items(), strict=True):
        grid = np.array([of_columns[name] for name in order])
        squares = axis.pcolormesh(grid, cmap="Oranges", vmin=0, vmax=1, edgecolors="white", linewidth=1)
        axis.set_title(choice)
        axis.set_xlabel("axis of z")
        axis.set_xticks(np.arange(grid.shape[1]) + 0.5, [str(k) for k in range(grid.shape[1])])
        axis.grid(visible=False)
    axes[0].set_yticks(np.arange(len(order)) + 0.5, order)
    axes[0].invert_yaxis()
    figure.colorbar(squares, ax=axes, label="effect")
    return plots.save(figure, file)


if __name__ == "__main__":
    main()
