"""What the site gets beside its pages: troubleshooting, the list of decisions, drawings that follow the theme."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from reference import troubleshooting_page

_DRAWING = re.compile(r"^!\[[^\]]*\]\((?:\.\./)*(img/[\w-]+\.svg)\)$", re.M)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put all pages of a folder where the navigation names a folder."""
    docs = Path(config.docs_dir)

    def pages(place: Any) -> Any:
        if isinstance(place, str) and place.endswith("/"):
            return [file.relative_to(docs).as_posix() for file in sorted((docs / place).glob("*.md"))]
        return place

    config.nav = [{title: pages(place) for title, place in entry.items()} for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make the troubleshooting page of the errors page."""
    errors = (Path(config.docs_dir) / "errors.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "troubleshooting.md", content=troubleshooting_page(errors)))
    return files


def on_page_markdown(markdown: str, config: MkDocsConfig, **_: Any) -> str:
    """Put a drawing of ours into the page itself, where it takes the colours of the chosen theme."""

    def drawing(found: re.Match[str]) -> str:
        svg = (Path(config.docs_dir) / found[1]).read_text(encoding="utf-8")
        return "<figure>\n" + "\n".join(line for line in svg.splitlines() if line.strip()) + "\n</figure>"

    return _DRAWING.sub(drawing, markdown)
