"""One HTML file from a template and its figures: what the reports share. The file asks the network for nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from tabvae_core.errors import StorageError

__all__ = ["Figures", "number", "percent", "render", "share", "write_page"]


class Figures(list[Any]):
    """Figures of a page: gathered while its sections are built, and embedded all at once."""

    def add(self, figure: Any) -> int:
        """Keep a figure and name its place on the page."""
        self.append(figure)
        return len(self) - 1


def render(template: str, figures: Sequence[Any], context: Mapping[str, Any]) -> str:
    """Fill a template of this package.

    Args:
        template: Name of its file; it finds the figures, in their order, in `places`.
        figures: Bokeh figures.
        context: What else the template shows. Text is escaped.

    """
    from jinja2 import Environment, FunctionLoader

    def source(name: str) -> str:
        return files(__package__).joinpath(name).read_text(encoding="utf-8")

    environment = Environment(loader=FunctionLoader(source), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=percent, number=number, share=share)
    script, places, library = _embed(figures)
    return environment.get_template(template).render(**context, places=places, script=script, library=library)


def write_page(html: str, path: Path) -> Path:
    """Write a page; its folder is created.

    Raises:
        StorageError: The file cannot be written.

    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"the report {path} cannot be written: {error.strerror or error.__class__.__name__}",
            hint="choose a folder that exists and can be written",
        ) from None
    return path


def _embed(figures: Sequence[Any]) -> tuple[Any, list[Any], Any]:
    """Bokeh's core library and the figures, inline."""
    from bokeh.document import Document
    from bokeh.embed import components
    from bokeh.resources import Resources
    from markupsafe import Markup

    if not figures:
        return Markup(""), [], Markup("")
    document = Document()
    with document.models.freeze():  # or every figure makes Bokeh walk through all those before it
        for figure in figures:
            document.add_root(figure)
    script, places = components(tuple(figures))
    library = Resources(mode="inline", components=["bokeh"]).render_js()
    return Markup(script), [Markup(place) for place in places], Markup(library)


def percent(value: float | None, digits: int = 2) -> str:
    """Write what is in percent already."""
    return "–" if value is None else f"{value:.{digits}f} %"


def share(value: float | None) -> str:
    """Write a share in [0, 1] as percent; the smallest ones are not rounded to nothing."""
    if value is None:
        return "–"
    return "< 0.1 %" if 0 < value < 0.001 else f"{100 * value:.1f} %"


def number(value: float | None, digits: int = 3) -> str:
    """Write a plain number."""
    return "–" if value is None else f"{value:.{digits}f}"
