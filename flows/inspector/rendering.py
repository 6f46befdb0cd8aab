"""Views as HTML. Owns the Jinja environment of the pages: everything is escaped, nothing undefined passes.

What models and documents said goes through `seen` first, so that control, bidirectional and zero-width
characters are written out; only the pictures, which this program draws, are markup.
Knows nothing of the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flows.cli.text import duration, moment, money, safe
from flows.inspector.addresses import record_path

FOLDER = Path(__file__).parent


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "seen": lambda value: safe(str(value)),
        "duration": duration,
        "moment": moment,
        "money": money,
        "part": lambda value: quote(str(value), safe=""),
    }
    environment.globals |= {"record_path": record_path, "query": _query}
    return environment


def page(template: str, view: Mapping[str, Any], **more: Any) -> str:
    """Return a page."""
    return (
        _environment()
        .get_template(template)
        .render({"export": False, "can_replay": False, **drawn(view), **more})
    )


def drawn(view: Mapping[str, Any]) -> dict[str, Any]:
    """Return a view with its pictures as markup, also those inside of it."""
    found = {**view, **{name: Markup(view[name]) for name in ("picture", "waterfall") if view.get(name)}}
    if view.get("training"):
        pictures = [{**one, "svg": Markup(one["svg"])} for one in view["training"]["pictures"]]
        found["training"] = {**view["training"], "pictures": pictures}
    return found


def _query(**values: Any) -> str:
    """Return a query string of the values that are set."""
    kept = {name: value for name, value in values.items() if value}
    return "?" + urlencode(kept) if kept else ""


def style() -> str:
    """Return the style sheet."""
    return (FOLDER / "static" / "style.css").read_text(encoding="utf-8")


@cache
def script() -> str:
    """Return htmx, the one script of the pages."""
    return (FOLDER / "static" / "htmx.min.js").read_text(encoding="utf-8")
