"""Data Docs: Great Expectations' pages, built into a local folder and readable without a network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

__all__ = ["add_site", "make_offline"]

_SITE = "local"

_REMOTE = re.compile(
    r"<link\b[^>]*\bhref=[\"'](?:https?:)?//[^>]*>"
    r"|<script\b[^>]*\bsrc=[\"'](?:https?:)?//[^>]*>\s*</script>"
    r"|<img\b[^>]*\bsrc=[\"'](?:https?:)?//[^>]*>",
    re.IGNORECASE | re.DOTALL,
)

_STYLE = """<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; margin: 2rem auto; max-width: 72rem; padding: 0
1rem; } table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
th, td { border-bottom: 1px solid #d8dee4; padding: .35rem .6rem; text-align: left; vertical-align: top; }
ul { list-style: none; padding-left: 0; } a { color: #1f5fa8; }
.fa-check-circle::before { content: "\\2713"; } .fa-times::before { content: "\\2717"; }
.text-success { color: #1a7f37; } .text-danger { color: #b42318; }
.badge { background: #eef1f4; border-radius: .3rem; padding: .1rem .4rem; }
.modal, .navbar-toggler, .popover { display: none; }
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
    """Take remote styles, scripts and pictures out of the pages and give them a style of their own.

    The pages load Bootstrap and fonts from the network; in a closed one a browser waits for them.
    """
    for page in folder.rglob("*.html"):
        text = _REMOTE.sub("", page.read_text(encoding="utf-8"))
        page.write_text(text.replace("</head>", _STYLE + "</head>", 1), encoding="utf-8")
