"""Run with: pytest tests/tasks/test_prepare_step.py"""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chains.errors import InputInvalid, Refused, StepFailed
from chains.settings import Settings
from chains.spec import Chain
from chains.store import RecordRow, RunRow, StepRow, open_store
from tasks.context import OnceJob
from tasks.prepare import run_once


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "chain"
    made.mkdir()
    return made


def write(folder, rows, name="data.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def texts(count, **more):
    return [{"text": f"text number {row}", **more} for row in range(count)]


async def prepare(store, folder, scope=None, *, read_outside=False, **step):
    step = {"prepare": "data.jsonl", **step}
    chain = Chain.model_validate({"chain": "t", "steps": {"make": step}})
    ctx = SimpleNamespace(
        run_id="run1",
        step_id="make",
        step=chain.steps["make"],
        chain_file=SimpleNamespace(chain=chain, folder=folder, files={}),
        store=store,
        settings=Settings(read_outside=read_outside),
    )
    return await run_once(ctx, OnceJob("r1", {"inputs": {}, **(scope or {})}, list))


def keep(store, result):
    """Write the record as the row runner does."""
    begun = {"status": "running", "started_at": 0.0}
    code = {"chain_hash": "0" * 64, "source": b"", "files": b"{}", "inputs": b"{}"}
    store.put(
        RunRow(id="run1", chain="t", **code, **begun),
        StepRow(run_id="run1", id="make", kind="prepare", once=True, **begun),
        RecordRow(
            id="rec1",
            run_id="run1",
            step="make",
            row=-1,
            status="ok",
            value_key=result.value_key,
            output=json.dumps(result.output).encode(),
            started_at=0.0,
        ),
    )


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


async def test_rows_become_files_and_counts(store, folder):
    write(folder, [*texts(20), {"text": "text  number 3"}, {"text": "  "}])
    output = (await prepare(store, folder)).output
    assert output["counts"] == {
        "read": 22, "train": 16, "validation": 2, "test": 2, "duplicates": 1, "empty": 1
    }  # fmt: skip
    assert output["dropped"] == 2
    found = [row["text"] for part in ("train", "validation", "test") for row in lines(output[part])]
    assert sorted(found) == sorted(row["text"] for row in texts(20))
    assert Path(output["train"]).is_relative_to(store.path.resolve() / "work")


async def test_each_part_keeps_the_order_of_the_rows(store, folder):
    write(folder, texts(50))
    found = [int(row["text"].split()[-1]) for row in lines((await prepare(store, folder)).output["train"])]
    assert found == sorted(found)


async def test_equal_data_and_parameters_leave_equal_bytes(store, folder, tmp_path):
    write(folder, texts(40))
    first = (await prepare(store, folder)).output
    other = open_store(tmp_path / "other")
    second = (await prepare(other, folder)).output
    other.close()
    for part in ("train", "validation", "test"):
        assert Path(first[part]).read_bytes() == Path(second[part]).read_bytes()
    assert first["files"] == second["files"]


async def test_an_empty_part_is_null(store, folder):
    write(folder, texts(10))
    output = (await prepare(store, folder, split={"train": 1, "validation": 0, "test": 0})).output
    assert (output["validation"], output["test"], output["counts"]["train"]) == (None, None, 10)


async def test_an_earlier_result_is_reused_and_its_files_are_made_again(store, folder):
    write(folder, texts(20))
    first = await prepare(store, folder)
    keep(store, first)
    content = Path(first.output["train"]).read_bytes()
    Path(first.output["train"]).write_text("spoilt")
    again = await prepare(store, folder)
    assert (again.reused_from, again.output) == ("rec1", first.output)
    assert Path(again.output["train"]).read_bytes() == content


@pytest.mark.parametrize(
    ("mode", "reused"), [("always", True), ("run", True), ("never", False), ("refresh", False)]
)
async def test_an_earlier_result_is_reused_as_the_step_says(store, folder, mode, reused):
    write(folder, texts(20))
    first = await prepare(store, folder, text="{{ row.text }}", cache=mode)
    keep(store, first)
    again = await prepare(store, folder, text="{{ row.text }}", cache=mode)

    assert (again.reused_from == "rec1") is reused
    assert again.output == first.output
    assert (first.value_key is None) is (mode == "never")


async def test_a_damaged_blob_is_made_again_from_the_data(store, folder):
    write(folder, texts(20))
    first = await prepare(store, folder)
    keep(store, first)
    sha = first.output["files"]["train"]
    (store.path / "blobs" / sha[:2] / sha).write_bytes(b"spoilt")
    Path(first.output["train"]).unlink()
    again = await prepare(store, folder)
    assert (again.reused_from, again.output) == (None, first.output)
    assert store.get_blob(sha) == Path(again.output["train"]).read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"split": {"seed": 1}},
        {"deduplicate": False},
        {"text": "{{ row.text }}!"},
        {"split": {"group": "text"}},
    ],
)
async def test_another_parameter_is_another_result(store, folder, change):
    write(folder, texts(20))
    first = await prepare(store, folder)
    keep(store, first)
    other = await prepare(store, folder, **change)
    assert other.value_key != first.value_key
    assert other.reused_from is None


async def test_an_edited_data_set_is_another_result(store, folder):
    write(folder, texts(20))
    first = await prepare(store, folder)
    write(folder, texts(21))
    assert (await prepare(store, folder)).value_key != first.value_key


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), min_size=1, max_size=40),
    st.booleans(),
    st.integers(0, 3),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_parts_hold_every_example_once_and_no_group_straddles(
    store, folder, rows, deduplicate, seed
):
    # the text names its group, so that groups cannot share a question
    write(folder, [{"text": f"{group} says {word}", "author": group} for group, word in rows])
    split = {"train": 0.6, "validation": 0.2, "test": 0.2, "group": "author", "seed": seed}
    output = (await prepare(store, folder, split=split, deduplicate=deduplicate)).output
    found = {
        part: [row["text"] for row in lines(output[part])]
        for part in ("train", "validation", "test")
        if output[part]
    }
    expected = [f"{group} says {word}" for group, word in rows]
    assert sorted(text for texts in found.values() for text in texts) == sorted(
        set(expected) if deduplicate else expected
    )
    groups = [{text.split()[0] for text in texts} for texts in found.values()]
    assert sum(map(len, groups)) == len(set().union(*groups))


async def test_rows_that_ask_the_same_stay_together_without_a_group(store, folder):
    write(folder, [{"prompt": f"q{row % 5}", "completion": f"a{row}"} for row in range(40)])
    output = (await prepare(store, folder, split={"train": 0.6, "validation": 0.2, "test": 0.2})).output
    asked = [{row["prompt"] for row in lines(output[part])} for part in ("train", "validation", "test")]
    assert sum(map(len, asked)) == 5


async def test_groups_that_share_a_question_across_parts_are_a_leak(store, folder):
    rows = [{"prompt": "hello", "completion": f"a{row}", "author": row} for row in range(20)]
    write(folder, rows)
    with pytest.raises(StepFailed, match=r"rows ask the same as a row in another part: row 0 \(") as caught:
        await prepare(store, folder, split={"group": "author"})
    assert "'author'" in caught.value.hint
    assert not any(store.folder("work").iterdir())


async def test_bad_rows_are_all_named(store, folder):
    write(folder, [{"text": "fine"}, {"body": 1}, {"text": "fine too"}, *({"body": row} for row in range(7))])
    with pytest.raises(
        InputInvalid, match=r"8 of 10 rows of 'data.jsonl' make no example:\nrow 1: it has"
    ) as caught:
        await prepare(store, folder)
    assert "row 3: " in caught.value.message
    assert caught.value.message.endswith("and 3 more")


async def test_a_column_that_is_not_there_is_named_with_its_row(store, folder):
    write(folder, [{"body": "x"}, {"bod": "y"}])
    with pytest.raises(InputInvalid, match=r"row 1: .*'row.body'"):
        await prepare(store, folder, text="{{ row.body }}")


async def test_a_group_column_that_is_not_there_is_named(store, folder):
    write(folder, texts(3, author="a"))
    with pytest.raises(InputInvalid, match=r"'autor'.*Did you mean 'author'"):
        await prepare(store, folder, split={"group": "autor"})


async def test_nothing_but_empty_rows_is_an_error(store, folder):
    write(folder, [{"text": " "}, {"text": ""}])
    with pytest.raises(InputInvalid, match="leaves no example: 2 rows, 2 of them empty"):
        await prepare(store, folder)


async def test_a_csv_file_is_read_too(store, folder):
    (folder / "data.csv").write_text(
        "text,author\n" + "".join(f'"text, {row}",{row % 3}\n' for row in range(12))
    )
    output = (await prepare(store, folder, prepare="data.csv", split={"group": "author"})).output
    assert output["counts"]["read"] == 12


async def test_a_python_steps_file_below_the_store_may_be_read(store, folder):
    made = store.folder("work") / "run1"
    made.mkdir()
    write(made, texts(10))
    result = await prepare(
        store, folder, {"gen": {"path": str(made / "data.jsonl")}}, prepare="{{ gen.path }}"
    )
    assert result.output["counts"]["read"] == 10


@pytest.mark.parametrize(
    "source", ["../outside.jsonl", "{{ gen.path }}", "link.jsonl", "sub/../../outside.jsonl"]
)
async def test_a_file_elsewhere_is_refused_unless_settings_allow_it(store, folder, tmp_path, source):
    write(tmp_path, texts(10), "outside.jsonl")
    os.symlink(tmp_path / "outside.jsonl", folder / "link.jsonl")
    scope = {"gen": {"path": str(tmp_path / "outside.jsonl")}}
    with pytest.raises(Refused, match="HEADRACE_READ_OUTSIDE"):
        await prepare(store, folder, scope, prepare=source)
    result = await prepare(store, folder, scope, prepare=source, read_outside=True)
    assert result.output["counts"]["read"] == 10


async def test_the_store_itself_is_not_open_to_a_path_in_the_file(store, folder, tmp_path):
    write(store.folder("work"), texts(5))
    with pytest.raises(Refused):
        await prepare(store, folder, prepare="../store/work/data.jsonl")


async def test_the_work_folder_holds_no_half_made_files_afterwards(store, folder):
    write(folder, texts(10))
    key = (await prepare(store, folder)).value_key
    assert [path.name for path in store.folder("work").iterdir()] == [key]
    assert store.verify() == []
