"""Measure where the time of learning and of drawing goes, part by part.

    python benchmarks/time_spent.py
    python benchmarks/time_spent.py --data ../shared/data adult default

One network of `vae` learns the first half of a table on one thread under Python's profiler, then draws as many rows.
Each part's seconds are those of its functions and all they call. The profiler itself costs some percent.
"""

from __future__ import annotations

import argparse
import cProfile
import platform
import pstats
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import plots
import torch
from measuring import add_table_options, halves, tables_of
from page import Kept, image, parser_of, table, write_section

from tabvae_core.lake import ParquetSource
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.registry import create
from tabvae_core.workspace import code_version

NAME = "time_spent"
_PARTS: Mapping[str, Mapping[str, Sequence[tuple[str, str, str]]]] = {
    # What of it is called by whom: (file, function, caller or "" for any).
    "learning": {
        "schema, codecs, relations": [
            ("base.py", "_learnable", ""), ("table.py", "fit", ""), ("relations.py", "find_relations", ""),
            ("vae_rows.py", "encode_rows", ""),
        ],
        "additive guesses": [("vae.py", "prepare", "")],
        "forward": [("vae_rows.py", "loss", "")],
        "backward": [("_tensor.py", "backward", "")],
        "optimizer": [("adamw.py", "step", ""), ("adam.py", "step", ""), ("clip_grad.py", "clip_grad_norm_", "")],
        "averaged weights": [("training.py", "_average", "")],
        "validation": [("training.py", "judge", "")],
        "prior of z": [("vae_rows.py", "latents", ""), ("latent_prior.py", "fit", "")],
    },
    "drawing": {
        "hidden layers": [("vae.py", "hidden_of", "")],
        "tokens": [("vae.py", "token_logits", ""), ("drawing.py", "_pick", "draw")],
        "values": [("drawing.py", "_mixture", ""), ("drawing.py", "draw", "draw")],
        "what later cells see": [("drawing.py", "take_in", "")],
        "settling": [("settling.py", "settle", ""), ("settling.py", "allowed", "")],
        "decoding to Arrow": [("settling.py", "decode", "")],
    },
}  # fmt: skip
_REST = "the rest"


def main() -> None:
    given = _arguments()
    plots.need_matplotlib()
    torch.set_num_threads(1)
    kept = Kept(given.out, NAME, {"limit": given.limit, "threads": 1})
    kept.forget(word for word in given.again.split(",") if word)
    for name in tables_of(given.data, given.tables):
        if name not in kept:
            with halves(given.data, name, given.limit) as half:
                kept.keep(name, _measure(half.train, half.rows), _versions())
    write_section(given.out, NAME, _section(kept))


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    add_table_options(parser)
    return parser.parse_args()


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": metadata.version("torch"), "tabvae": code_version()}


def _measure(train: Path, rows: int) -> dict[str, Any]:
    model = create("vae", ModelSpec(options={"members": 1}), PrivacySpec())
    source = ParquetSource(str(train))
    return {
        "rows": rows,
        "learning": _profiled(lambda: model.fit(source), _PARTS["learning"]),
        "drawing": _profiled(lambda: model.sample(rows), _PARTS["drawing"]),
    }


def _profiled(job: Callable[[], object], parts: Mapping[str, Sequence[tuple[str, str, str]]]) -> dict[str, float]:
    """Seconds of each part, and of what is in none of them."""
    profile = cProfile.Profile()
    started = time.monotonic()
    profile.runcall(job)
    total = time.monotonic() - started
    stats: Any = pstats.Stats(profile)
    spent = {part: sum(_seconds(stats.stats, *function) for function in of) for part, of in parts.items()}
    return {**spent, _REST: max(0.0, total - sum(spent.values()))}


def _seconds(stats: Mapping[Any, Any], file: str, function: str, caller: str) -> float:
    """Seconds in a function and all it calls; of calls by one caller alone where that is named."""
    total = 0.0
    for (path, _, name), (_, _, _, cumulative, callers) in stats.items():
        if name == function and Path(path).name == file:
            total += cumulative if not caller else sum(c[3] for (_, _, by), c in callers.items() if by == caller)
    return total


# The page -----------------------------------------------------------------------------------------------------------


def _section(kept: Kept) -> list[str]:
    rows: list[list[object]] = []
    for name, result in kept.results.items():
        for phase in _PARTS:
            total = sum(result[phase].values())
            for part, seconds in result[phase].items():
                rows.append([name, phase, part, f"{seconds:.1f}", f"{100 * seconds / total:.0f} %"])
    plot = _plot(kept.results, kept.folder / f"{NAME}.svg")
    return [
        "## Where the time goes",
        "",
        "One network on one thread, under Python's profiler: learning half of a table, and drawing as many rows.",
        "",
        *image(kept.page, plot, "seconds of each part of learning and of drawing, by table"),
        *table(("table", "phase", "part", "s", "share"), rows),
        "",
        *kept.provenance(),
    ]


def _plot(results: Mapping[str, Mapping[str, Any]], file: Path) -> Path:
    """Draw the parts as bars, learning left and drawing right, a row of panels for each table."""
    figure, axes = plots.panels(len(results), 2, 9, 0.6 + 2.2 * len(results))
    colour = plots.styles(["vae"])["vae"]["color"]
    for line, (name, result) in enumerate(results.items()):
        for column, phase in enumerate(_PARTS):
            panel, parts = axes[2 * line + column], result[phase]
            panel.barh(list(parts), list(parts.values()), color=colour)
            panel.invert_yaxis()
            panel.set(title=f"{name}: {phase}", xlabel="seconds")
    return plots.save(figure, file)


if __name__ == "__main__":
    main()
