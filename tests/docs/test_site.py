"""The site is built as users build it; a broken link or anchor ends the build."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    pages = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")}
    assert not [page for page in pages if not (site / page).exists()]
    assert (site / "troubleshooting.html").exists()


def test_reading_it_asks_nobody_else(site: Path) -> None:
    """Scripts, styles, fonts and pictures come from the site itself."""
    loaded = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=\"?(https?://[^\" >]+)")
    asked = {url for page in site.rglob("*.html") for url in loaded.findall(page.read_text(encoding="utf-8"))}
    styled = {
        url for css in site.rglob("*.css") for url in re.findall(r"url\((https?:[^)]+)\)", css.read_text("utf-8"))
    }
    assert asked | styled == set()


def test_the_drawing_is_part_of_the_page(site: Path) -> None:
    """As an image it could not follow the theme that the reader chose."""
    for page in ("index.html", "concepts.html"):
        assert '<svg class="loop"' in (site / page).read_text(encoding="utf-8")
