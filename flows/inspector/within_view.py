"""The records inside another: the items of a map, and what stands in the turns of a repeat.

Owns what a list of them says. Knows nothing of HTML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from chains.clock import elapsed
from flows.inspector.addresses import Place, path_inside, path_of
from flows.inspector.texts import summary

if TYPE_CHECKING:
    from chains.store import RecordRow, Store

MOST: Final = 200


def within_view(store: Store, record: RecordRow) -> list[dict[str, Any]]:
    """Return the first records inside another."""
    if record.sample:
        return []
    return [
        {
            "place": _place(record.step, item.record),
            "href": path_of(item.record),
            "status": item.record.status,
            "reused": item.record.reused_from is not None,
            "attempts": item.record.attempts,
            "seconds": elapsed(item.record.started_at, item.record.finished_at),
            "said": "(long)" if item.is_large else summary(item.output, item.error),
        }
        for item in store.records_within(record, path_inside(record), limit=MOST)
    ]


def _place(step: str, inner: RecordRow) -> str:
    """Return the place of a record inside one of a step, such as `turn 1 · write · item 0`."""
    turn, item = Place(inner.path, turn=inner.turn), Place(item=inner.item)
    words = [turn.words, inner.step.removeprefix(step).removeprefix("."), item.words]
    return " · ".join(word for word in words if word)
