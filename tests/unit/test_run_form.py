"""The form that Prefect draws from a flow's parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tabvae_core.spec import RefreshSpec
from tabvae_core.synthesizers.registry import methods
from tabvae_flows.refresh import synthetic_refresh

FORM = synthetic_refresh.parameters.model_dump()
PARTS: dict[str, Any] = FORM["definitions"]
FIELDS = [(part, name) for part, schema in PARTS.items() for name in schema.get("properties", {})]


def branches(field: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A field, or the kinds of value that it may be."""
    yield from field.get("anyOf", [field])


def described(field: dict[str, Any]) -> str:
    """Help of a field: its own, else that of the part it refers to."""
    if "$ref" in field and "description" not in field:
        return str(PARTS[field["$ref"].rpartition("/")[2]].get("description", ""))
    return str(field.get("description", ""))


@pytest.mark.parametrize(("part", "name"), FIELDS, ids=lambda value: value)
def test_every_field_has_help_a_title_and_a_place(part: str, name: str) -> None:
    field = PARTS[part]["properties"][name]
    assert len(described(field)) > 10
    assert field["position"] == list(PARTS[part]["properties"]).index(name)
    title = field.get("title") or PARTS[field["$ref"].rpartition("/")[2]]["title"]
    assert title[0].isupper()
    assert "Spec" not in title


def test_parameters_of_the_flow_have_help() -> None:
    assert all(described(field) for field in FORM["properties"].values())


@pytest.mark.parametrize(("part", "name"), FIELDS, ids=lambda value: value)
def test_numbers_are_bounded(part: str, name: str) -> None:
    """A number that may be anything is one of a margin or of a column, whose unit is the table's own."""
    if part in {"MarginSpec", "ColumnOverride"}:
        return
    for branch in branches(PARTS[part]["properties"][name]):
        if branch.get("type") in {"integer", "number"}:
            assert {"minimum", "exclusiveMinimum"} & set(branch)


def test_what_people_change_first_stands_first() -> None:
    names = list(PARTS["RefreshSpec"]["properties"])
    assert names[:7] == ["name", "source", "target", "model", "sample", "rules", "gates"]


def test_methods_are_offered_and_others_are_not_refused() -> None:
    method = PARTS["ModelSpec"]["properties"]["method"]
    assert method["enum"] == list(methods())
    spec = {"source": {"uri": "a"}, "target": {"uri": "b"}, "model": {"method": "of_a_package_to_come"}}
    assert RefreshSpec.model_validate(spec).model.method == "of_a_package_to_come"


def test_help_shows_an_example() -> None:
    uri = PARTS["SourceSpec"]["properties"]["uri"]
    assert uri["description"].endswith("For example: s3://lake/customers/")
    assert PARTS["BalanceSpec"]["properties"]["shares"]["description"].endswith("For example: yes: 0.5")


def test_no_field_takes_a_secret() -> None:
    """Credentials are named; a pattern keeps anything else out."""
    assert [name for _, name in FIELDS if any(word in name for word in ("secret", "password", "token"))] == []
    assert PARTS["StorageSpec"]["properties"]["credentials"]["pattern"].startswith("^(environment|anonymous|env:")
