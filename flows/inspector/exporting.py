"""A run as one HTML file that needs nothing else: no network, no script, nothing to install.

Owns what goes into the file, and the last look for keys. What has the shape of a known key is cut out, and so
are the places of files on this machine and the ways to ask again.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from chains.check_secrets import KEY_SHAPES
from flows.inspector.looking import Looking
from flows.inspector.record_view import record_view
from flows.inspector.rendering import drawn, page, style
from flows.inspector.run_view import run_view

if TYPE_CHECKING:
    from chains.store import RunRow, Store

MOST: Final = 1_000
"""Records in one file."""
_AT_ONCE: Final = 200
_CUT_OUT: Final = "[cut out: it has the shape of a key]"


def exported(store: Store, run: RunRow, *, most: int = MOST) -> str:
    """Return the file's text, with the first `most` records in the order of steps and rows."""
    looking = Looking(store)
    view = run_view(looking, run, links=False)
    records: list[dict[str, Any]] = []
    number = 0
    wanted = [(step["step"], within) for step in view["steps"] for within in (False, True)]
    for step_id, within in wanted:
        offset = 0
        while listed := store.page_of_records(run.id, step_id, limit=_AT_ONCE, offset=offset, within=within):
            offset += len(listed)
            number += len(listed)
            for item in listed[: most - len(records)]:
                record = store.record_by_id(item.record.id)
                if record is not None:
                    records.append(drawn(record_view(looking, run, record)) | {"run": view["run"]})
    sheet = style()
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    html = page(
        "export.html",
        view,
        export=True,
        records=records,
        records_left_out=number - len(records),
        style=Markup(sheet),
        policy=f"default-src 'none'; style-src 'sha256-{digest}'",
    )
    return KEY_SHAPES.sub(_CUT_OUT, html)
