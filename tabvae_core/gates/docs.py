"""Data Docs: Great Expectations' pages, built into a local folder and readable without a network."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

__all__ = ["add_site", "make_offline"]

_SITE = "local"

_REMOTE = re.compile(
    r"<link\b[^>]*\bhref=[\"'](?:https?:)?//[^>]*>|<img\b[^>]*\bsrc=[\"'](?:https?:)?//[^>]*>", re.IGNORECASE
)
_SCRIPT = re.compile(r"<script\b.*?</script\s*>", re.IGNORECASE | re.DOTALL)

_STYLE = """<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; margin: 2rem auto; max-width: 72rem; padding: 0
1rem; } table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
th, td { border-bottom: 1px solid #d8dee4; padding: .35rem .6rem; text-align: left; vertical-align: top; }
ul { list-style: none; padding-left: 0; } a { color: #1f5fa8; }
.fa-check-circle::before { content: "\\2713"; } .fa-times::before { content: "\\2717"; }
.text-success { color: #1a7f37; } .text-danger { color: #b42318; }
.badge { background: #eef1f4; border-radius: .3rem; padding: .1rem .4rem; }
.modal, .btn, .card-header, .card-text, footer, [class*="cta-footer"] { display: none; }
</style>"""


def add_site(context: Any, folder: Path) -> str:
    """Tell a Great Expectations context to build its pages into a folder; gives the site's name."""
    context.add_data_docs_site(
        site_name=_SITE,
        site_config={
            "class_name": "SiteBuilder",
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {
                "class_name": "TupleFilesystemStoreBackend",
                "base_directory": str(folder.absolute()),
            },
        },
    )
    return _SITE


def make_offline(folder: Path) -> None:
    """Make the pages independent of a network: their own style, no script, and an index of plain links.

    As they come they load Bootstrap, fonts and the script that draws the index from remote hosts; in a closed network
    a browser waits for them, then shows an empty index.
    """
    for page in folder.rglob("*.html"):
        text = _SCRIPT.sub("", _REMOTE.sub("", page.read_text(encoding="utf-8")))
        page.write_text(text.replace("</head>", _STYLE + "</head>", 1), encoding="utf-8")
    (folder / "index.html").write_text(_index(folder), encoding="utf-8")


def _index(folder: Path) -> str:
    results = sorted((folder / "validations").rglob("*.html"))
    suites = sorted((folder / "expectations").rglob("*.html"))
    body = _links("Validation results", results, folder) + _links("Expectation suites", suites, folder)
    head = f'<meta charset="utf-8"><title>Data Docs</title>{_STYLE}'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'


def _links(title: str, pages: list[Path], folder: Path) -> str:
    places = [page.relative_to(folder).as_posix() for page in pages]
    items = "".join(f'<li><a href="{quote(place)}">{escape(_label(place))}</a></li>' for place in places)
    return f"<h1>{title}</h1><ul>{items}</ul>"


def _label(place: str) -> str:
    """`validations/customers/__none__/20260101T.../customers.html` is read as `customers, 20260101T...`."""
    _, *parts = place.removesuffix(".html").split("/")
    return ", ".join(part for part in dict.fromkeys(parts) if part != "__none__")
