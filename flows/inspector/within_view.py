"""The records inside a row's own: the items of its map, the turns of its repeat.

Owns what a list of them says. Knows nothing of HTML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from chains.clock import elapsed
from flows.inspector.addresses import Place, path_of
from flows.inspector.texts import summary

if TYPE_CHECKING:
    from chains.store import RecordRow, Store

MOST: Final = 200


def within_view(store: Store, record: RecordRow) -> list[dict[str, Any]]:
    """Return the first records inside a row's own; none for one that lies inside itself."""
    if not record.stands_for_row:
        return []
    return [
        {
            "place": Place.of(item.record).words,
            "href": path_of(item.record),
            "status": item.record.status,
            "reused": item.record.reused_from is not None,
            "attempts": item.record.attempts,
            "seconds": elapsed(item.record.started_at, item.record.finished_at),
            "said": "(long)" if item.is_large else summary(item.output, item.error),
        }
        for item in store.records_within(record, limit=MOST)
    ]
