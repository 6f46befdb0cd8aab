"""The made-up tickets: the same seed gives the same bytes, and the three sets share nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from chains.library.starter import generate

SETS = ("a", "b", "c")
PARTS = ("names", "products", "greetings", "closings", "orders", "asides")
SUPPORT = Path(generate.__file__).parent.parent / "support"


def rows(name: str) -> list[dict[str, str | None]]:
    return [json.loads(line) for line in (SUPPORT / "data" / name).read_text().splitlines()]


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first = generate.write_examples(str(tmp_path / "1"), seed=3, count=50)["examples"]
    again = generate.write_examples(str(tmp_path / "2"), seed=3, count=50)["examples"]
    other = generate.write_examples(str(tmp_path / "3"), seed=4, count=50)["examples"]
    assert Path(first).read_bytes() == Path(again).read_bytes() != Path(other).read_bytes()


@pytest.mark.parametrize("part", PARTS)
def test_no_two_sets_share_a_word_of_any_list(part: str) -> None:
    lists = [set(map(str.lower, generate.load_phrases(name)[part])) for name in SETS]
    assert not (lists[0] & lists[1] or lists[0] & lists[2] or lists[1] & lists[2])


def test_no_two_sets_share_a_phrase_also_after_its_choices_are_made() -> None:
    spun = [{text for intent in choices(name).values() for text in intent} for name in SETS]
    assert not (spun[0] & spun[1] or spun[0] & spun[2] or spun[1] & spun[2])


def test_every_set_has_every_intent() -> None:
    assert len({tuple(generate.load_phrases(name)["intents"]) for name in SETS}) == 1


def test_held_out_tickets_share_no_ticket_template_name_product_or_order_with_the_others() -> None:
    held_out = list(generate.tickets("c", seed=5, count=400))
    for name in ("a", "b"):
        others = list(generate.tickets(name, seed=5, count=4000))
        for field in ("text", "template", "order", "name"):
            shared = {getattr(one, field) for one in held_out} & {getattr(one, field) for one in others}
            assert shared <= {None}


def test_order_numbers_of_each_set_have_every_digit_in_every_place() -> None:
    for name in SETS:
        numbers = [ticket.order for ticket in generate.tickets(name, seed=1, count=3000) if ticket.order]
        for place in range(3, 8):
            assert {number[place] for number in numbers} >= set("123456789")


def test_a_ticket_with_an_order_holds_it_in_the_form_of_its_label_and_others_hold_none() -> None:
    for name in SETS:
        for ticket in generate.tickets(name, seed=2, count=500):
            assert re.findall(r"HR-\d{5}", ticket.text) == ([ticket.order] if ticket.order else [])
            assert not re.search(r"[{}\[\]|]", ticket.text)


def test_the_examples_ask_with_the_very_prompts_of_the_support_chain(tmp_path: Path) -> None:
    from chains.templates import render

    path = generate.write_examples(str(tmp_path), seed=1, count=200)["examples"]
    asked = [json.loads(line)["prompt"][0]["content"] for line in Path(path).read_text().splitlines()]
    triage = (SUPPORT / "prompts" / "triage.md").read_text()
    first, ticket = next(
        (text, text.split("Ticket: ")[1]) for text in asked if text.startswith(triage.split("{{")[0])
    )
    assert render(triage, {"inputs": {"ticket": ticket}}) == first
    reply = (SUPPORT / "prompts" / "reply.md").read_text()
    second = next(text for text in asked if text.startswith(reply.split("{{")[0]))
    passage, ticket = second.split("Policy: ")[1].split("\n\nTicket: ")
    scope = {"inputs": {"ticket": ticket}, "passages": {"hits": [{"text": passage}]}}
    assert render(reply, scope) == second


def test_the_data_of_the_support_chain_is_what_the_generator_writes(tmp_path: Path) -> None:
    generate.write_tickets(
        str(tmp_path / "b"), "b", seed=generate.DATA_SEED, count=len(rows("labelled.jsonl"))
    )
    generate.write_tickets(
        str(tmp_path / "c"), "c", seed=generate.DATA_SEED, count=len(rows("heldout.jsonl"))
    )
    assert (tmp_path / "b").read_bytes() == (SUPPORT / "data" / "labelled.jsonl").read_bytes()
    assert (tmp_path / "c").read_bytes() == (SUPPORT / "data" / "heldout.jsonl").read_bytes()


def choices(name: str) -> dict[str, set[str]]:
    """Every way in which each phrase of a set can come out, in lower case and without punctuation."""
    found: dict[str, set[str]] = {}
    for intent, phrases in generate.load_phrases(name)["intents"].items():
        found[intent] = {
            re.sub(r"[^a-z{} ]", "", one.lower()).strip() for text in phrases for one in spin(text)
        }
    return found


def spin(text: str) -> list[str]:
    match = re.search(r"\[([^\[\]]*)\]", text)
    if not match:
        return [re.sub(" +", " ", text)]
    return [
        way
        for choice in match[1].split("|")
        for way in spin(text[: match.start()] + choice + text[match.end() :])
    ]
