"""What OpenLineage is told of a release: made from which table, which version, how many rows and bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from tabvae_core.spec import RefreshSpec

__all__ = ["dataset_name", "release_lineage"]


def dataset_name(uri: str) -> tuple[str, str]:
    """Name a place as OpenLineage's naming conventions have it: namespace and name.

    `s3://lake/customers/` is `("s3://lake", "customers")`, a local path `("file", "/data/customers")`.
    """
    from tabvae_core.lake import filesystem, is_local, safe_uri

    if is_local(uri):
        return "file", filesystem(uri)[1]
    parts = urlsplit(safe_uri(uri))
    return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/") or "/"


def release_lineage(spec: RefreshSpec, release: dict[str, Any]) -> Any:
    """Lineage of a published version: source in, target out.

    Args:
        spec: The refresh.
        release: The reference of the release as JSON.

    Returns:
        An `OperatorLineage`; None where the OpenLineage provider is not installed.

    """
    try:
        from airflow.providers.openlineage.extractors import OperatorLineage
        from openlineage.client.event_v2 import InputDataset, OutputDataset
        from openlineage.client.facet_v2 import dataset_version_dataset, output_statistics_output_dataset
    except ImportError:
        return None
    (source_namespace, source), (target_namespace, target) = map(dataset_name, (spec.source.uri, spec.target.uri))
    output = OutputDataset(
        namespace=target_namespace,
        name=target,
        facets={"version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=release["version"])},
        outputFacets={
            "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
                rowCount=release["rows"]
            )
        },
    )
    return OperatorLineage(inputs=[InputDataset(namespace=source_namespace, name=source)], outputs=[output])
