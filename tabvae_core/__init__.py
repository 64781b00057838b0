"""Synthetic copies of production tables: learned by a variational autoencoder, proven, published.

    from tabvae_core import load_spec, refresh
    refresh(load_spec("refresh.yaml"))

Importing this package is instant: each public name is loaded when it is first used, and torch with the first model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tabvae_core.draft import init_spec as init_spec
    from tabvae_core.errors import DataError as DataError
    from tabvae_core.errors import GateRefused as GateRefused
    from tabvae_core.errors import ImpossibleRule as ImpossibleRule
    from tabvae_core.errors import ModelFileError as ModelFileError
    from tabvae_core.errors import PublishConflict as PublishConflict
    from tabvae_core.errors import SchemaDrift as SchemaDrift
    from tabvae_core.errors import SourceChanged as SourceChanged
    from tabvae_core.errors import SpecError as SpecError
    from tabvae_core.errors import StorageError as StorageError
    from tabvae_core.errors import TabvaeError as TabvaeError
    from tabvae_core.evaluation import Evaluation as Evaluation
    from tabvae_core.evaluation import evaluate as evaluate
    from tabvae_core.evaluation import render_report as render_report
    from tabvae_core.inference import infer_schema as infer_schema
    from tabvae_core.lake import ParquetSink as ParquetSink
    from tabvae_core.lake import ParquetSource as ParquetSource
    from tabvae_core.preflight import CheckReport as CheckReport
    from tabvae_core.preflight import check as check
    from tabvae_core.progress import Progress as Progress
    from tabvae_core.progress import ProgressEvent as ProgressEvent
    from tabvae_core.references import ReleaseRef as ReleaseRef
    from tabvae_core.release import rollback as rollback
    from tabvae_core.schema import TableSchema as TableSchema
    from tabvae_core.spec import ModelSpec as ModelSpec
    from tabvae_core.spec import PrivacySpec as PrivacySpec
    from tabvae_core.spec import RefreshSpec as RefreshSpec
    from tabvae_core.spec import load_spec as load_spec
    from tabvae_core.steps import refresh as refresh
    from tabvae_core.synthesizers.base import Synthesizer as Synthesizer
    from tabvae_core.synthesizers.registry import create as create
    from tabvae_core.synthesizers.registry import load_bundle as load_bundle
    from tabvae_core.synthesizers.registry import methods as methods
    from tabvae_core.tables import TableSource as TableSource

__all__ = [
    "CheckReport",
    "DataError",
    "Evaluation",
    "GateRefused",
    "ImpossibleRule",
    "ModelFileError",
    "ModelSpec",
    "ParquetSink",
    "ParquetSource",
    "PrivacySpec",
    "Progress",
    "ProgressEvent",
    "PublishConflict",
    "RefreshSpec",
    "ReleaseRef",
    "SchemaDrift",
    "SourceChanged",
    "SpecError",
    "StorageError",
    "Synthesizer",
    "TableSchema",
    "TableSource",
    "TabvaeError",
    "check",
    "create",
    "evaluate",
    "infer_schema",
    "init_spec",
    "load_bundle",
    "load_spec",
    "methods",
    "refresh",
    "render_report",
    "rollback",
]

_HOMES = {
    "draft": ("init_spec",),
    "errors": (
        *(name for name in __all__ if name.endswith("Error")),
        *("GateRefused", "ImpossibleRule", "PublishConflict", "SchemaDrift", "SourceChanged"),
    ),
    "evaluation": ("Evaluation", "evaluate", "render_report"),
    "inference": ("infer_schema",),
    "lake": ("ParquetSink", "ParquetSource"),
    "preflight": ("CheckReport", "check"),
    "progress": ("Progress", "ProgressEvent"),
    "references": ("ReleaseRef",),
    "release": ("rollback",),
    "schema": ("TableSchema",),
    "spec": ("ModelSpec", "PrivacySpec", "RefreshSpec", "load_spec"),
    "steps": ("refresh",),
    "synthesizers.base": ("Synthesizer",),
    "synthesizers.registry": ("create", "load_bundle", "methods"),
    "tables": ("TableSource",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Load a public name from its module (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
