"""pytest tests/chains/store/test_store_writer.py"""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy import event, insert

from chains.errors import Cancelled, StoreConflict
from chains.store.schema import records
from chains.store.shapes import encode

CALLERS = 64


async def test_callers_at_the_same_time_share_transactions(store, record_row):
    before = store.transactions

    async def write(caller: int) -> None:
        for turn in range(20):
            await store.aput(record_row(caller * 20 + turn))

    await asyncio.gather(*(write(caller) for caller in range(CALLERS)))
    assert len(store.records("run1", payloads=False)) == CALLERS * 20
    # 20 groups of 64 would be perfect and 1,280 would be none shared; a slow machine may split some.
    assert store.transactions - before < CALLERS * 20 / 8


async def test_a_transaction_asks_one_question_before_it_writes(store, record_row, attempt_row):
    await store.aput(record_row(0), attempt_row(1))
    assert store.lease_run("run1", "me")
    asked: list[str] = []
    connection = store._handles.mine().writer._connected()
    event.listen(connection, "before_cursor_execute", lambda *seen: asked.append(seen[2]))
    await store.aput(record_row(1), attempt_row(2))
    assert sum(text.startswith("SELECT") for text in asked) == 1
    assert sum(text.startswith("INSERT") for text in asked) == 2


async def test_what_aput_returned_from_is_visible_to_another_connection(store, record_row, again):
    with again() as other:
        for row in range(20):
            await store.aput(record_row(row))
            assert other.record("run1", "triage", row) is not None


async def test_an_error_of_one_caller_is_that_callers_alone(store, record_row):
    rows = [record_row(row, **({"step": "unknown"} if row % 7 == 0 else {})) for row in range(CALLERS)]
    results = await asyncio.gather(*(store.aput(row) for row in rows), return_exceptions=True)
    assert [isinstance(result, StoreConflict) for result in results] == [
        row % 7 == 0 for row in range(CALLERS)
    ]
    assert {record.row for record in store.records("run1")} == {row for row in range(CALLERS) if row % 7}


async def test_the_rows_of_one_call_are_written_together_or_not_at_all(store, record_row):
    with pytest.raises(StoreConflict):
        await store.aput(record_row(0), record_row(1, step="unknown"), record_row(2))
    assert store.records("run1") == []


async def test_writes_handed_in_one_after_the_other_are_applied_in_that_order(store, record_row):
    waiting = [asyncio.ensure_future(store.aput(record_row(0, output=b"%d" % turn))) for turn in range(200)]
    await asyncio.gather(*waiting)
    assert store.record("run1", "triage", 0).output == b"199"


async def test_an_error_of_rows_that_were_handed_over_is_logged(store, record_row, caplog):
    store.hand_over(record_row(0, step="unknown"))
    store.hand_over(record_row(1))
    await store.aput(record_row(2))
    assert [record.row for record in store.records("run1")] == [1, 2]
    assert [message for message in caplog.messages if "handed over" in message]
    caplog.clear()
    store.hand_over(record_row(3))
    store.close()
    await asyncio.sleep(0)
    assert caplog.messages == []


async def test_rows_handed_over_to_a_store_that_closes_are_logged(store, record_row, caplog):
    store.hand_over(record_row(0))
    store._handles.mine().writer._stopped = True  # it closes before the loop's next round
    await asyncio.sleep(0.01)
    assert [message for message in caplog.messages if "has been closed" in message]


async def test_a_cancelled_caller_does_not_stop_the_others(store, record_row):
    waiting = [asyncio.ensure_future(store.aput(record_row(row))) for row in range(10)]
    await asyncio.sleep(0)
    waiting[3].cancel()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [asyncio.CancelledError]
    await store.aput(record_row(11))
    assert {record.row for record in store.records("run1")} >= {0, 1, 2, 4, 9, 11}


async def test_large_payloads_do_not_block_the_event_loop_thread(store, record_row, monkeypatch):
    threads = set()
    put = store.blobs.put
    monkeypatch.setattr(
        store.blobs, "put", lambda data: (threads.add(threading.current_thread()), put(data))[1]
    )
    await asyncio.gather(*(store.aput(record_row(row, output=bytes([row]) * 70_000)) for row in range(8)))
    assert threads and threading.main_thread() not in threads
    assert [record.output[:1] for record in store.records("run1")] == [bytes([row]) for row in range(8)]


def test_threads_may_put_at_the_same_time(store, record_row):
    def write(first: int) -> None:
        for row in range(first, first + 25):
            store.put(record_row(row))

    threads = [threading.Thread(target=write, args=(25 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.records("run1")) == 200


def test_a_parent_and_its_children_may_come_in_any_order_in_one_call(
    store, record_row, attempt_row, run_row, step_row
):
    store.put(attempt_row(), record_row())
    assert len(store.attempts("record-0")) == 1


def test_a_row_without_its_parent_is_refused(store, record_row, attempt_row):
    with pytest.raises(StoreConflict, match=r"(?i)foreign key"):
        store.put(attempt_row(record_id="nowhere"))
    with pytest.raises(StoreConflict, match=r"(?i)foreign key"):
        store.put(record_row(run_id="nowhere"))


def test_a_position_holds_one_record(store, record_row):
    store.put(record_row(0))
    with pytest.raises(StoreConflict, match="position holds one record"):
        store.put(record_row(0, id="second"))
    assert [record.id for record in store.records("run1")] == ["record-0"]


def test_each_of_several_callers_gets_an_error_of_its_own(again, record_row, run_row, step_row):
    with again(busy_timeout=0.05) as store, again() as holder:
        store.put(run_row, step_row)
        with holder._writer()._connected().begin():
            holder._writer()._connected().execute(insert(records).values(encode(record_row(0))[0]))

            async def main() -> list[BaseException | None]:
                calls = (store.aput(record_row(row)) for row in range(4))
                return await asyncio.gather(*calls, return_exceptions=True)

            errors = asyncio.run(main())
        assert len({id(error) for error in errors}) == 4
        store.put(record_row(0))


def test_closing_writes_what_waits_and_refuses_what_comes_later(again, run_row):
    store = again()
    store.put(run_row)
    store.close()
    store.close()
    for use in (lambda: store.put(run_row), lambda: store.runs(), lambda: store.transactions):
        with pytest.raises(Cancelled, match="closed"):
            use()
    with again() as reopened:
        assert reopened.run("run1") == run_row


async def test_what_was_asked_just_before_closing_is_still_written(again, run_row):
    store = again()
    waiting = asyncio.ensure_future(store.aput(run_row))
    await asyncio.sleep(0)
    store.close()
    await waiting
    with pytest.raises(Cancelled, match="closed"):
        await store.aput(run_row)
    with again() as reopened:
        assert reopened.run("run1") == run_row


async def test_callers_that_are_woken_together_need_one_transaction_each_time(store, record_row):
    before = store.transactions
    for turn in range(5):
        await asyncio.gather(*(store.aput(record_row(row, attempts=turn)) for row in range(CALLERS)))
    assert store.transactions - before == 5


async def test_a_store_serves_several_event_loops_one_after_the_other(store, record_row):
    await store.aput(record_row(0))

    def elsewhere() -> None:
        asyncio.run(store.aput(record_row(1)))

    await asyncio.to_thread(elsewhere)
    assert len(store.records("run1")) == 2
