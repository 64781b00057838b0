"""What a run leaves to look at in Prefect's UI: tables of figures, pictures, the verdict, links to the report."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from tabvae_core.comparison import Comparison
from tabvae_core.errors import GateRefused
from tabvae_core.evaluation.pictures import association_picture, column_picture
from tabvae_core.evaluation.result import Evaluation, Metric
from tabvae_core.gates import ATTACK
from tabvae_core.lake import filesystem, is_local, join_uri
from tabvae_core.outcomes import Outcome, summary
from tabvae_core.references import EvaluationRef, FeedRef, GateResult, ModelChoice, ReleaseRef, ValidationRef
from tabvae_core.release import Manifest
from tabvae_tasks.listening import artifact_key

__all__ = [
    "drift_rows",
    "quality_rows",
    "show_choice",
    "show_comparison",
    "show_feed",
    "show_outcomes",
    "show_pictures",
    "show_quality",
    "show_refusal",
    "show_release",
    "show_validation",
    "verdict",
]


_GATE_OF = {"c2st": "auc"}
"""Gates whose name is not that of their figure."""


def quality_rows(evaluation: EvaluationRef, last: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """One row a figure or attack, with value, floor, limit, verdict and change, and one for the column furthest off.

    Args:
        evaluation: The figures, and what the gates said of them.
        last: The figures of the last release, each {"value": v, "floor": f}.

    """
    gates = {result.name: result for result in evaluation.results if result.column is None}
    rows: list[dict[str, Any]] = []
    for name, figure in evaluation.metrics.items():
        if figure["value"] is not None:
            before = ((last or {}).get(name) or {}).get("value")
            rows.append(_row(name, figure["value"], figure["floor"], gates.get(_GATE_OF.get(name, name)), before))
    attacks = [result for result in gates.values() if result.name.startswith(ATTACK) and result.value is not None]
    rows += [_row(result.name, result.value, None, result) for result in attacks]
    columns = [result for result in evaluation.results if result.column is not None and result.value is not None]
    if columns:
        worst = max(columns, key=lambda result: (result.value or 0.0) - (result.limit or 0.0))
        rows.append(_row(f"{worst.name} of {worst.column}", worst.value, None, worst))
    return rows


def _row(
    figure: str, value: float | None, floor: float | None, gate: GateResult | None, last: float | None = None
) -> dict[str, Any]:
    verdict = "reported" if gate is None else "passed" if gate.passed else "refused"
    limit = gate.limit if gate is not None else None
    change = value - last if value is not None and last is not None else None
    return {
        "figure": figure,
        "value": _number(value),
        "floor": _number(floor),
        "limit": _number(limit),
        "verdict": verdict,
        "last release": _number(last),
        "change": "" if change is None else f"{change:+.4f}",
    }


def verdict(results: tuple[GateResult, ...]) -> str:
    """Say in one line how many gates passed and which refused."""
    refused = [result for result in results if not result.passed]
    if not refused:
        return f"accepted: all {len(results)} gates passed"
    return f"refused by {len(refused)} of {len(results)} gates: " + "; ".join(_gate(r) for r in refused[:5])


def drift_rows(choice: ModelChoice) -> list[dict[str, Any]]:
    """One row a column, the furthest first."""
    return [
        {
            "column": one.column,
            "distance": round(one.distance, 4),
            "floor": round(one.floor, 4),
            "nulls before": round(one.nulls_before, 4),
            "nulls now": round(one.nulls_now, 4),
            "beyond floor": round(one.beyond, 4),
            "verdict": "drifted" if one.drifted else "as learned",
        }
        for one in choice.columns
    ]


def show_choice(table: str, choice: ModelChoice) -> None:
    """Leave the drift of each column, and what was decided; nothing where none was measured."""
    if choice.columns:
        does = {"train": "trains anew", "reuse": "draws from the last model"}[choice.decision]
        create_table_artifact(
            drift_rows(choice),
            key=artifact_key(table, "drift", "columns"),
            description=f"The run {does}: {choice.reason}.",
        )


def show_validation(table: str, validation: ValidationRef) -> None:
    """Leave the verdict of schema and rules as a Markdown artifact."""
    lines = [f"## {table}: schema and rules", verdict(validation.results), ""]
    lines += [f"- **refused** {_gate(result)}" for result in validation.results if not result.passed]
    create_markdown_artifact("\n".join(lines), key=artifact_key(table, "validation"), description="Schema and rules")


def show_quality(table: str, evaluation: EvaluationRef, last: Manifest | None = None) -> None:
    """Leave the quality table beside the last release's figures, and the report's address."""
    beside = f" Change: since version {last.version}." if last is not None else " There is no release yet."
    create_table_artifact(
        quality_rows(evaluation, last.metrics if last is not None else None),
        key=artifact_key(table, "quality"),
        description=f"{verdict(evaluation.results)}. Floor: training rows against held-out rows. Attacks: the proven"
        f" advantage, or AUC.{beside}",
    )
    _show_link(table, evaluation.report_uri, "quality report")


def show_pictures(table: str, evaluation: Evaluation) -> None:
    """Leave the report's figures of columns and pairs as still pictures."""
    pictures = {
        "distance of each column": column_picture(evaluation),
        "difference of association of each pair": association_picture(evaluation),
    }
    lines = [f"![{name}]({_inline(picture)})" for name, picture in pictures.items() if picture]
    create_markdown_artifact(
        "\n\n".join([f"## {table}: real and synthetic", evaluation.verdict.sentence, *lines]),
        key=artifact_key(table, "pictures"),
        description="Columns and pairs that are furthest off",
    )


def _inline(svg: str) -> str:
    """Put a picture into its own address: nothing serves it, and Prefect stores it with the artifact."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def show_release(table: str, release: ReleaseRef, results: Sequence[GateResult] = (), *, docs: bool = False) -> None:
    """Leave what was published, and where table, report and Data Docs stand."""
    lines = [
        f"## {table}: version {release.version}",
        f"- rows: {release.rows:,}",
        f"- published: {release.published_at}",
        f"- gates: {verdict(tuple(results))}",
        f"- table: {_link(release.uri)}",
        f"- report: {_link(release.report_uri)}",
    ]
    lines += [f"- Data Docs: {_link(join_uri(release.uri, 'docs', 'index.html'))}"] if docs else []
    lines += ["", "```text", f"tabvae releases {release.target}", "```"]
    create_markdown_artifact(
        "\n".join(lines),
        key=artifact_key(table, "release"),
        description=f"Version {release.version}: {release.rows:,} rows",
    )
    _show_link(table, release.report_uri, f"report of version {release.version}")


def show_refusal(table: str, refusal: GateRefused) -> None:
    """Leave which gates refused the table, and where it is kept."""
    report = join_uri(refusal.quarantine, "report.html")
    lines = [f"## {table}: refused, the last release stays", *(f"- {failure}" for failure in refusal.failures)]
    lines += ["", f"- table: {_link(refusal.quarantine)}", f"- report: {_link(report)}"]
    create_markdown_artifact(
        "\n".join(lines),
        key=artifact_key(table, "refusal"),
        description=f"Refused by {len(refusal.failures)} gates: {refusal.failures[0] if refusal.failures else ''}",
    )
    _show_link(table, report, "report of the refused table")


def _link(uri: str) -> str:
    """A link that a browser can follow, else an address to copy."""
    if is_local(uri):
        return f"[`{uri}`]({Path(filesystem(uri)[1]).as_uri()})"
    return f"[`{uri}`]({uri})" if uri.startswith(("http://", "https://")) else f"`{uri}`"


def show_comparison(table: str, comparison: Comparison) -> None:
    """Leave one row a method, the recommendation, and the report's address."""
    figures = ("c2st", "shape", "trend", "jsd", "copies", "utility")
    create_table_artifact(
        [
            {
                "method": result.method,
                **{name: _beside(result.metric(name)) for name in figures},
                "seconds": _number(result.fit_seconds),
                "failed": result.failed or "",
            }
            for result in comparison.results
        ],
        key=artifact_key(table, "comparison"),
        description=f"{' '.join(comparison.recommendation.reasons)} Each figure stands beside its floor.",
    )
    _show_link(table, comparison.report_uri, "comparison of methods")


def show_feed(fed: FeedRef) -> None:
    """Leave what was loaded, and where."""
    create_markdown_artifact(
        f"## {fed.table}: version {fed.version}\n\n- database: `{fed.into}`\n- rows: {fed.rows:,}\n"
        f"- release: `{fed.target}`\n- {fed.sentence}",
        key=artifact_key(fed.table, "feed"),
        description="Version that a database holds",
    )


def show_outcomes(name: str, outcomes: Sequence[Outcome]) -> None:
    """Leave one row a table of a set, and what they came to."""
    key = artifact_key("set", name)
    create_table_artifact([one.row for one in outcomes], key=key, description=summary(outcomes))


def _beside(metric: Metric) -> str:
    if metric.value is None:
        return ""
    return f"{metric.value:.4f}" if metric.floor is None else f"{metric.value:.4f} ({metric.floor:.4f})"


def _show_link(table: str, uri: str, text: str) -> None:
    """Link artifacts take web addresses only as such; others are still shown, to be copied."""
    create_link_artifact(uri, link_text=text, key=artifact_key(table, "report"), description=uri)


def _gate(result: GateResult) -> str:
    where = f" of column {result.column}" if result.column else ""
    return f"{result.name}{where}" + (f" ({result.detail})" if result.detail else "")


def _number(value: float | None) -> float | str:
    return "" if value is None else round(value, 4)
