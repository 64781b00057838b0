"""The pages of the site that are made from what they describe.

    python docs/site/reference.py --write      # after the spec or a command changed

`docs/reference/spec.md` is made from `RefreshSpec`, `docs/reference/commands.md` from the command line; a test says
when they are no longer true. The troubleshooting page is made from `docs/errors.md` while the site is built.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

DOCS = Path(__file__).parents[1]
SPEC = DOCS / "reference" / "spec.md"
COMMANDS = DOCS / "reference" / "commands.md"

# ---------------------------------------------------------------- the spec

_SPEC_HEAD = """# The spec

Every key of a refresh spec, made from the model that reads it (`docs/site/reference.py --write`; a test fails when this
page no longer says the truth). `tabvae init SOURCE -o refresh.yaml` writes a spec for a table of your own. Unknown keys
are refused, and `tabvae check refresh.yaml` finds errors before anything runs.

*Empty* is a key left out, or null.

"""


def spec_page() -> str:
    """The reference of the spec as Markdown, a table for each part."""
    from tabvae_core.spec import RefreshSpec

    schema = RefreshSpec.model_json_schema()
    parts = [_section("The whole", "", schema, schema), *_parts(schema, schema, "")]
    return _SPEC_HEAD + "\n".join(parts)


def _parts(part: Mapping[str, Any], schema: Mapping[str, Any], path: str) -> Iterator[str]:
    """A section for each part below a part, in the order in which the model has them."""
    for name, field in part["properties"].items():
        for reference, many in _references(field):
            inner, place = schema["$defs"][reference], f"{path}{name}"
            if "properties" not in inner or (reference == "StorageSpec" and place != "source.storage"):
                continue  # an enumeration; or access to a store, said once
            below = f"{place}.{'*.' if many else ''}"
            yield _section(_title(place, field), below, inner, schema)
            yield from _parts(inner, schema, below)


def _section(title: str, place: str, part: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    lines = [f"## {title}", "", part["description"], ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    required = part.get("required", ())
    for name, field in part["properties"].items():
        default = "**required**" if name in required else _default(field)
        below = [inner for inner, _ in _references(field) if "properties" in schema["$defs"][inner]]
        kind = f"[keys](#{_slug(_title(f'{place}{name}', field))})" if below else _type(field)
        meaning = _meaning(field) or schema["$defs"][below[0]]["description"]
        lines.append(f"| `{name}` | {kind} | {default} | {meaning} |")
    return "\n".join([*lines, ""])


def _title(place: str, field: Mapping[str, Any]) -> str:
    """Heading of the section of a part."""
    found = list(_references(field))
    if found[0][0] == "StorageSpec":
        return "`source.storage`, `target.storage`, `workspace.storage`"
    return f"`{place}.*`" if found[0][1] else f"`{place}`"


def _slug(title: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-")


def _references(field: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Names of the models that a field holds; True: many of them, by name."""
    for option in field.get("anyOf", (field,)):
        named = [option.get("additionalProperties"), *option.get("patternProperties", {}).values()]
        for inner in (option, *named):
            if isinstance(inner, Mapping) and "$ref" in inner:
                yield inner["$ref"].rpartition("/")[2], inner is not option


_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def _type(field: Mapping[str, Any]) -> str:
    options = [option for option in field.get("anyOf", (field,)) if option.get("type") != "null"]
    return " or ".join(dict.fromkeys(_one_type(option) for option in options))


def _one_type(field: Mapping[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        if name == "Kind":
            from tabvae_core.spec import Kind

            return _choices(kind.value for kind in Kind)
        return "keys"
    if "enum" in field:
        return _choices(field["enum"])
    if "const" in field:
        return _choices([field["const"]])
    kind = field.get("type", "value")
    if kind == "array":
        return f"list of {_type(field['items'])}"
    if kind == "object":
        inner = field.get("additionalProperties")
        return f"{_type(inner)}, by name" if isinstance(inner, Mapping) else "keys"
    bounds = [f"{sign} {_number(field[key])}" for key, sign in _BOUNDS.items() if key in field]
    name = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}.get(kind, kind)
    pattern = f", `{_cell(field['pattern'])}`" if "pattern" in field else ""
    return name + (f", {' and '.join(bounds)}" if bounds else "") + pattern


def _choices(values: Any) -> str:
    return " or ".join(f"`{value}`" for value in values)


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else str(value)


def _default(field: Mapping[str, Any]) -> str:
    if "$ref" in field and "default" in field and isinstance(field["default"], dict):
        return ""  # each of its keys has one
    value = field.get("default")
    if value is None or value in ([], {}):
        return "empty"
    return f"`{yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}`"


def _meaning(field: Mapping[str, Any]) -> str:
    text = _cell(" ".join(str(field.get("description", "")).split()))
    examples = [
        yaml.safe_dump(one, default_flow_style=True, width=200).splitlines()[0] for one in field.get("examples", ())
    ]
    return text + (" Example: " + ", ".join(f"`{_cell(one)}`" for one in examples) + "." if examples else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# ---------------------------------------------------------------- the command line

_COMMANDS_HEAD = """# The command line

Every command with its options, made from the program itself (`docs/site/reference.py --write`; a test fails when this
page no longer says the truth). `tabvae COMMAND --help` says the same in a terminal. Results go to stdout, everything
else to stderr; exit codes are those of [errors](../errors.md).

"""


def commands_page() -> str:
    """The reference of the command line as Markdown."""
    import typer.main

    from tabvae_flows.cli import app

    return _COMMANDS_HEAD + "\n".join(_commands(typer.main.get_command(app), "tabvae"))


def _commands(command: Any, path: str) -> Iterator[str]:
    inner = getattr(command, "commands", {})
    if not inner:
        yield _command(command, path)
    for name, one in inner.items():
        yield from _commands(one, f"{path} {name}")


def _command(command: Any, path: str) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    usage = " ".join([path, *map(_usage, arguments), *(["[OPTIONS]"] if options else [])])
    lines = [f"## {path}", "", _prose(command.help or ""), "", "```text", usage, "```", ""]
    lines += ["| argument or option | meaning |", "|---|---|"]
    for one in arguments:
        lines.append(f"| `{_metavar(one)}` | {_cell(one.help or '')} |")
    for one in options:
        name = ", ".join(one.opts)
        value = "" if one.is_flag else f" {_metavar(one)}"
        lines.append(f"| `{_cell(name + value)}` | {_cell(one.help or '')} |")
    examples = [line.strip() for line in (command.epilog or "").splitlines() if line.strip().startswith("tabvae")]
    if examples:
        lines += ["", "```bash", *examples, "```"]
    return "\n".join([*lines, ""])


def _usage(argument: Any) -> str:
    name = _metavar(argument) + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _prose(text: str) -> str:
    return re.sub(r"\s*\n\s*\n\s*", "\n\n", text.strip())


# ---------------------------------------------------------------- troubleshooting

_KINDS = {
    "2": ("The spec, a rule or an option", "Correct what the message names. The published version stays."),
    "3": ("The table, or a model file", "The table is not what the spec or the model expects."),
    "4": ("A gate refused the table", "The table is in quarantine with its report; the published version stays."),
    "5": ("Another writer published first", "Its version stands; run the refresh again."),
    "6": (
        "Storage: access, network, disk",
        "The published version stays; the next try goes on where this one stopped.",
    ),
    "0": ("Works, with a note", "Inputs that look wrong and are not."),
}
_TROUBLE_HEAD = """# Troubleshooting

Search this page for a few words of the message (Ctrl+F, or the search above). Each heading is a message that tabvae
prints, below it are what brought it about, and what to do. All of them were printed by the real command line:
[errors](errors.md) has the whole table, with what each leaves behind.

A message that is not here, or exit code 1: run the command again with `TABVAE_DEBUG=1`, which shows the traceback, and
report it. With Prefect and Airflow, the message is the one of the failed run's state and of the task's log.

"""


def troubleshooting_page(errors: str) -> str:
    """The rows of the errors page by exit code, each under its message.

    Args:
        errors: The text of docs/errors.md.

    """
    rows = [
        re.split(r"(?<!\\) \| ", line.strip("| \n")) for line in errors.splitlines() if re.match(r"\| [^|]+ \| `", line)
    ]
    lines = [_TROUBLE_HEAD]
    for code, (title, means) in _KINDS.items():
        lines += [f"## {title} (exit code {code})", "", means, ""] if code != "0" else [f"## {title}", "", means, ""]
        for what, command, message, row_code, _ in rows:
            if row_code == code:
                lines += [*_trouble(what, command, message), ""]
    return "\n".join(lines)


def _trouble(what: str, command: str, message: str) -> Iterator[str]:
    said, *more = message.split("<br>")
    yield f"### {_plain(re.sub(r'^(error|note): |^FAIL +[a-z]+ +', '', said))}"
    yield ""
    yield f"When: {what}, as in {command}"
    for line in more:
        yield ""
        yield line.replace("hint: ", "What to do: ", 1)


def _plain(text: str) -> str:
    """Text that a heading shows as it is: names like <class> and *_ are not markup there."""
    return re.sub(r"([*_<>\[\]#])", r"\\\1", text)


def pages() -> dict[Path, str]:
    """The generated pages that are kept in the repository."""
    return {SPEC: spec_page(), COMMANDS: commands_page()}


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    for file, text in pages().items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        print(f"wrote {file}")
