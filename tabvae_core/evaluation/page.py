"""Pages of one HTML file: a template, its figures, and all that they need to open offline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from tabvae_core.errors import StorageError

__all__ = ["render_page", "write_page"]


def render_page(
    template: str, context: Mapping[str, Any], figures: Sequence[Any], **filters: Callable[..., str]
) -> str:
    """Fill a template of this package; it finds its figures, in their order, as `places`, `script` and `library`."""
    from jinja2 import Environment, FunctionLoader

    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True,
        loader=FunctionLoader(lambda name: files(__package__).joinpath(name).read_text(encoding="utf-8")),
    )  # fmt: skip
    environment.filters.update(filters)
    script, places, library = _embed(figures)
    return environment.get_template(template).render(**context, places=places, script=script, library=library)


def write_page(html: str, path: Path) -> None:
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


def _embed(figures: Sequence[Any]) -> tuple[Any, list[Any], Any]:
    """Bokeh's core library and the figures, inline: the page asks the network for nothing."""
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
