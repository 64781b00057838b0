"""The public surface of the core, pinned: a change to this list is a change that users see."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import tabvae_core
from tabvae_core.errors import TabvaeError

PUBLIC = [
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


def test_public_names_are_these() -> None:
    assert tabvae_core.__all__ == PUBLIC == sorted(PUBLIC)


def test_type_checkers_see_the_same_names() -> None:
    """The imports under TYPE_CHECKING and the lazy ones are two lists of one thing."""
    tree = ast.parse(Path(tabvae_core.__file__).read_text(encoding="utf-8"))
    named = [
        (node.module, alias.name) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    ours = {name: module for module, name in named if module and module.startswith("tabvae_core.")}
    assert sorted(ours) == PUBLIC
    for name, module in ours.items():
        assert getattr(importlib.import_module(module), name) is getattr(tabvae_core, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = tabvae_core.nothing_of_ours


def test_every_public_error_is_in_the_tree() -> None:
    errors = [value for name in PUBLIC if isinstance(value := getattr(tabvae_core, name), type)]
    ours = [value for value in errors if issubclass(value, Exception)]
    assert len(ours) == 10
    assert all(issubclass(value, TabvaeError) for value in ours)
