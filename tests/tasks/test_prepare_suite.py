"""Cleaning, filters, near duplicates, leaks, forms and the card of the prepare step.

Run with: pytest tests/tasks/test_prepare_suite.py
"""

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chains.errors import InputInvalid, StepFailed
from chains.settings import Settings
from chains.spec import Chain, Clean
from chains.store import open_store
from tasks.context import OnceJob
from tasks.prepare import run_once
from tasks.preparing.cleaning import Cleaner
from tasks.preparing.similar import Signatures, near_pairs, similarity

WORDS = [f"word{n}" for n in range(400)]


class Counter:
    """A model whose tokens are words."""

    identity: ClassVar = {"name": "words"}

    def count_tokens(self, text):
        return len(text.split())


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "chain"
    made.mkdir()
    return made


@pytest.fixture
def prepare(tmp_path, folder):
    store = open_store(tmp_path / "store")

    async def run(rows, name="data.jsonl", **step):
        if isinstance(rows, str):
            (folder / name).write_text(rows)
        else:
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        chain = Chain.model_validate({"chain": "t", "steps": {"make": {"prepare": name, **step}}})
        ctx = SimpleNamespace(
            run_id="run1",
            step_id="make",
            step=chain.steps["make"],
            chain_file=SimpleNamespace(chain=chain, folder=folder, files={}),
            store=store,
            settings=Settings(),
            providers={
                "counter": SimpleNamespace(identity={"name": "words"}, count_tokens=lambda t: len(t.split()))
            },
        )
        return (await run_once(ctx, OnceJob("r1", {"inputs": {}}, list))).output

    yield run
    store.close()


def sentence(seed, length=40):
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def changed(text, place=20):
    words = text.split()
    words[place] = "elsewhere"
    return " ".join(words)


def rows_of(output):
    return [
        json.loads(line)
        for part in ("train", "validation", "test")
        if output[part]
        for line in Path(output[part]).read_text().splitlines()
    ]


ALL = {"train": 1, "validation": 0, "test": 0}


async def test_a_planted_near_duplicate_between_train_and_test_fails_and_names_both_rows(prepare):
    rows = [{"text": sentence(seed)} for seed in range(40)]
    split = {"train": 0.5, "validation": 0, "test": 0.5}
    clean = await prepare(rows, split=split)
    assert clean["leaks"] == {"equal": 0, "near": 0, "pairs": []}
    test = {json.loads(line)["text"] for line in Path(clean["test"]).read_text().splitlines()}
    # a copy of a row of each part: wherever the two go, one of them is near a row of the other part
    in_test = next(number for number, row in enumerate(rows) if row["text"] in test)
    in_train = next(number for number, row in enumerate(rows) if row["text"] not in test)
    planted = [*rows, {"text": changed(rows[in_test]["text"])}, {"text": changed(rows[in_train]["text"])}]
    with pytest.raises(StepFailed, match="nearly the same") as failed:
        await prepare(planted, split=split)
    said = str(failed.value)
    assert any(f"row {row} " in said for row in (in_test, in_train)) and (
        "row 40 " in said or "row 41 " in said
    )
    assert "(train)" in said and "(test)" in said and "alike" in said
    # said to be allowed, it is reported
    report = (await prepare(planted, split=split, leaks={"max": 5}))["leaks"]
    assert report["near"] >= 1 and report["pairs"][0]["similarity"] > 0.8
    # and dropped, it is none
    dropped = await prepare(planted, split=split, near_duplicates=0.8)
    assert dropped["reasons"] == {"near_duplicates": 2} and dropped["leaks"]["near"] == 0
    assert sum(dropped["counts"][part] for part in ("train", "validation", "test")) == 40


async def test_a_near_duplicate_that_was_dropped_leaks_nothing(prepare):
    rows = [{"prompt": f"q{n}", "completion": sentence(n)} for n in range(20)]
    again = [{"prompt": f"q{n}", "completion": changed(sentence(n))} for n in range(5)]
    output = await prepare(
        rows + again, near_duplicates=0.7, split={"train": 0.5, "validation": 0, "test": 0.5}
    )
    assert output["reasons"] == {"near_duplicates": 5} and output["leaks"]["equal"] == 0


async def test_only_equal_questions_are_looked_for_where_near_ones_are_not_asked_for(prepare):
    rows = [{"text": sentence(1)}, {"text": changed(sentence(1))}] * 1 + [
        {"text": sentence(n)} for n in range(2, 9)
    ]
    split = {"train": 0.5, "validation": 0, "test": 0.5}
    output = await prepare(rows, split=split, leaks={"similarity": None})
    assert output["leaks"]["near"] == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_pairs_that_are_alike_are_found_and_measured_exactly(seed, edits):
    rng = random.Random(seed)
    texts = [sentence(f"{seed} {number}", 30) for number in range(12)]
    copy = texts[3].split()
    for place in rng.sample(range(30), edits):
        copy[place] = "edited"
    texts.append(" ".join(copy))
    signatures = Signatures()
    for text in texts:
        signatures.add(text)
    found = list(near_pairs(signatures, texts.__getitem__, 0.75, lambda one, other: True))
    truth = similarity(texts[3], texts[12])
    assert [(one, other) for one, other, _ in found] == ([(3, 12)] if truth >= 0.75 else [])


def test_the_similarity_is_of_word_sequences_or_of_characters_without_spaces():
    assert similarity("One, two three FOUR!", "one two three four") == 1
    assert similarity("one two three four", "one two three five") == pytest.approx(1 / 3)
    long = "退款什么时候到账我的订单号码是一二三四五六七八九十呢请尽快回复谢谢"
    assert 0.7 < similarity(long, long.replace("谢谢", "多谢")) < 1
    assert similarity("!!!", "") == 1


async def test_texts_are_cleaned_in_order_and_only_where_it_is_said(prepare):
    dirty = "<p>Hello&nbsp;<b>World</b></p><script>x()</script>\n\n\n  caf\u0065\u0301  "
    rows = [{"text": dirty, "other": "<b>x</b>"}]
    assert rows_of(await prepare(rows, split=ALL))[0]["text"] == dirty
    cleaned = await prepare(
        rows, split=ALL, clean={"html": True, "unicode": "NFKC", "whitespace": True, "lowercase": True}
    )
    assert rows_of(cleaned)[0]["text"] == "hello world\n\ncafé"
    kept = await prepare(rows, split=ALL, clean={"html": True, "columns": ["other"]})
    assert rows_of(kept)[0]["text"] == dirty
    with pytest.raises(InputInvalid, match=r"`clean.columns` names the column 'texts'.*Did you mean 'text'"):
        await prepare(rows, split=ALL, clean={"columns": ["texts"]})


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("email", "Write to a.b+c@shop.example.com now", "Write to [EMAIL] now"),
        ("phone", "Call +49 (30) 1234 5678 or 555-123-4567.", "Call [PHONE] or [PHONE]."),
        ("url", "See https://x.example/a?b=1 today", "See [URL] today"),
        ("ip", "From 192.168.0.254, not 999.1.1.1", "From [IP], not 999.1.1.1"),
        ("iban", "To DE89 3704 0044 0532 0130 00 please", "To [IBAN] please"),
        (
            "card",
            "Card 4111 1111 1111 1111, order 4111 1111 1111 1112",
            "Card [CARD], order 4111 1111 1111 1112",
        ),
    ],
)
def test_personal_data_is_masked_on_request_and_counted(name, text, expected):
    cleaner = Cleaner(Clean(mask=[name]))
    assert cleaner.text(text) == expected
    assert cleaner.masked == {name: expected.count("[")}
    assert Cleaner(Clean()).row({"text": text}) == {"text": text}


def test_stop_words_go_as_words_only_and_roles_stay():
    cleaner = Cleaner(Clean(stop_words=["the", "a"], lowercase=True))
    assert cleaner.text("The cat ate a Thesaurus") == "cat ate thesaurus"
    row = {"messages": [{"role": "USER", "content": "The END"}]}
    assert cleaner.row(row) == {"messages": [{"role": "USER", "content": "end"}]}


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_cleaning_twice_changes_nothing_more(text):
    cleaner = Cleaner(Clean(unicode="NFC", whitespace=True, mask=["email", "url"]))
    once = cleaner.text(text)
    assert cleaner.text(once) == once


async def test_rows_are_filtered_by_language_length_and_tokens_and_told_in_the_card(prepare):
    rows = [
        {"text": "Where is my parcel, and when will it be delivered to my house?"},
        {"text": "Wo ist mein Paket, und wann wird es zu mir nach Hause geliefert?"},
        {"text": "Short."},
        {"text": " ".join(["parcel"] * 60)},
        {"text": "The invoice is wrong, please send me another one for the last order."},
    ]
    clean = {"languages": ["en"], "min_chars": 10, "max_tokens": 50}
    output = await prepare(rows, split=ALL, clean=clean, tokens="counter")
    assert output["reasons"] == {"language": 1, "too_short": 1, "too_many_tokens": 1}
    assert output["tokens"] == {"train": {"total": 26, "mean": 13.0, "max": 13}}
    card = Path(output["card"]).read_text()
    told = [
        "5 rows were read, 3 were dropped",
        "row 1 (de): Wo ist",
        "row 2: Short.",
        "| train | 2 | 26 | 13 |",
    ]
    for words in told:
        assert words in card
    assert (await prepare(rows, split=ALL, clean=clean, tokens="counter"))["card"] == output["card"]


async def test_strata_are_split_by_the_same_shares(prepare):
    rows = [{"text": sentence(n), "label": "rare" if n % 5 == 0 else "common"} for n in range(100)]
    split = {"train": 0.5, "validation": 0, "test": 0.5, "stratify": "label", "seed": 3}
    output = await prepare(rows, split=split, format="classification")
    for part in ("train", "test"):
        labels = [json.loads(line)["label"] for line in Path(output[part]).read_text().splitlines()]
        assert (labels.count("rare"), labels.count("common")) == (10, 40)


CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Where is it?"},
    {"role": "assistant", "content": "On its way."},
]
FORMS = {
    "messages": {"messages": CONVERSATION},
    "prompt_completion": {"prompt": CONVERSATION[:-1], "completion": CONVERSATION[-1:]},
    "alpaca": {
        "instruction": "Where is it?",
        "input": "",
        "output": "On its way.",
        "system": "Be brief.",
        "history": [["Hi", "Hello"]],
    },
    "sharegpt": {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "Hi"},
            {"from": "gpt", "value": "Hello"},
            {"from": "human", "value": "Where is it?"},
            {"from": "gpt", "value": "On its way."},
        ]
    },
}


@pytest.mark.parametrize("source", FORMS)
@pytest.mark.parametrize("target", FORMS)
async def test_a_conversation_goes_from_each_form_to_each_other(prepare, source, target):
    assert rows_of(await prepare([FORMS[source]], split=ALL, format=target)) == [FORMS[target]]


async def test_alpaca_and_sharegpt_rows_become_messages_that_a_finetune_step_reads(prepare):
    for form in ("alpaca", "sharegpt"):
        assert rows_of(await prepare([FORMS[form]], split=ALL)) == [FORMS["messages"]]


@pytest.mark.parametrize(
    ("form", "row"),
    [
        ("preference", {"prompt": "Hi", "chosen": "Hello", "rejected": "What?"}),
        ("classification", {"text": "Where is it?", "label": "delivery"}),
        ("pairs", {"anchor": "Where is it?", "positive": "My parcel is late", "negative": "Thanks"}),
        ("text", {"text": "Once upon a time"}),
    ],
)
async def test_other_forms_are_made_from_any_columns(prepare, form, row):
    columns = {f"my_{name}": value for name, value in row.items()}
    fields = {name: f"{{{{ row.my_{name} }}}}" for name in row}
    assert rows_of(await prepare([columns], split=ALL, fields=fields, format=form)) == [row]


@pytest.mark.parametrize(
    ("row", "step", "why"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, {}, "nothing to prefer"),
        ({"anchor": "a", "positive": ""}, {}, "'positive' is no text to learn from"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, {}, "'conversations' holds"),
        (
            {"conversations": [{"from": "human", "value": "x"}]},
            {},
            "does not end with the assistant",
        ),
        ({"text": "a"}, {"format": "messages"}, "cannot be written as 'messages'"),
        ({"messages": CONVERSATION[:1] + CONVERSATION[-1:]}, {"format": "alpaca"}, "do not alternate"),
    ],
)
async def test_what_is_no_example_is_named_with_its_row(prepare, row, step, why):
    with pytest.raises(InputInvalid, match=f"row 0: .*{why}"):
        await prepare([row], split=ALL, **step)


async def test_text_files_give_a_row_for_each_paragraph_and_markdown_for_each_section(prepare):
    text = await prepare("One line\nmore of it\n\n\nAnother paragraph\n", "book.txt", split=ALL)
    assert rows_of(text) == [{"text": "One line\nmore of it"}, {"text": "Another paragraph"}]
    page = "Before\n\n# Refunds\nFive days.\n```\n# no heading\n```\n## Empty\n## Delivery ##\nTwo days.\n"
    fields = {"text": "{{ row.heading | default('', true) }}: {{ row.text }}"}
    sections = await prepare(page, "page.md", split=ALL, fields=fields)
    assert [row["text"] for row in rows_of(sections)] == [
        ": Before",
        "Refunds: Five days.\n```\n# no heading\n```",
        "Delivery: Two days.",
    ]


async def test_the_files_are_what_the_library_of_the_field_reads(prepare):
    from datasets import load_dataset

    output = await prepare([FORMS["messages"], {"messages": CONVERSATION[1:3]}], split=ALL)
    cache = str(Path(output["train"]).parent / "hf")
    loaded = load_dataset("json", data_files=output["train"], split="train", cache_dir=cache)
    assert [turn["role"] for turn in loaded[1]["messages"]] == ["user", "assistant"]
