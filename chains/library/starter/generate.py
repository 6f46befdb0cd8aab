"""Write the support desk of an invented shop: tickets, triage answers and replies, from a seed.

Owns the grammar of tickets and the three sets that share no phrase, name, product or order number:
A (what the starter model learns from), B (the labelled tickets of the `support` chain) and C (held out).
Knows nothing of tokenizers or training. Needs only the standard library, so that a python step can call it
from any copy of this folder. The same arguments write the same bytes.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .policies import invented_word, neutral_sentence, some_words
from .policies import policy as make_policy

FOLDER = Path(__file__).parent
PROMPTS = FOLDER.parent / "support" / "prompts"
SetName = Literal["a", "b", "c"]

# Order numbers are dealt out by remainder, so that every set has every digit in every place.
ORDER_REMAINDERS: dict[SetName, tuple[int, ...]] = {"a": (0, 1, 2, 3), "b": (4, 5), "c": (6,)}
PROMPT_EXAMPLE = 12345  # stands in the triage prompt
DATA_SEED = 2026  # of the tickets that lie in the support chain's folder
MONTHS = ("January", "March", "April", "May", "June", "July", "August", "October", "November")
SHARE_OF_TRIAGE = 0.5
SHARE_OF_REPLIES = 0.2
SHARE_IN_FRAMES = 0.4
SHARE_INVENTED = 0.5
SHARE_WITHOUT_ORDER = 0.25
SHARE_WITH_TYPOS = 0.2
SHARE_LOWER_CASE = 0.12


@dataclass(frozen=True, slots=True)
class Ticket:
    """One ticket with its labels; `template` names the phrase it was made from."""

    text: str
    intent: str
    order: str | None
    name: str | None
    template: str

    @property
    def answer(self) -> str:
        """The triage answer, as the JSON text that a model should write."""
        return json.dumps({"intent": self.intent, "order": self.order})


def write_examples(folder: str, seed: int, count: int) -> dict[str, Any]:
    """Write `count` chat examples of set A to `folder`/examples.jsonl and say where they are."""
    rng = random.Random(seed)
    phrases = load_phrases("a")
    prompts = _Prompts()
    target = Path(folder) / "examples.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8", newline="\n") as out:
        for _ in range(count):
            prompt, completion = _example(rng, phrases, prompts)
            out.write(json.dumps(_chat(prompt, completion), ensure_ascii=False) + "\n")
    return {"examples": str(target), "count": count}


def write_tickets(path: str, set_name: SetName, seed: int, count: int) -> dict[str, Any]:
    """Write `count` labelled tickets of one set to the JSONL file `path`, each text once."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8", newline="\n") as out:
        for ticket in tickets(set_name, seed, count):
            row = {"ticket": ticket.text, "intent": ticket.intent, "order": ticket.order}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    return {"path": str(target), "count": count}


def tickets(set_name: SetName, seed: int, count: int) -> Iterator[Ticket]:
    """Yield `count` different tickets, with the intents in equal shares and shuffled order."""
    rng = random.Random(f"{set_name}-{seed}")
    phrases = load_phrases(set_name)
    intents = list(phrases["intents"])
    wanted = [intents[index % len(intents)] for index in range(count)]
    rng.shuffle(wanted)
    seen: set[str] = set()
    for intent in wanted:
        ticket = make_ticket(rng, phrases, intent)
        while ticket.text in seen:
            ticket = make_ticket(rng, phrases, intent)
        seen.add(ticket.text)
        yield ticket


def load_phrases(set_name: SetName) -> dict[str, Any]:
    """Read the phrases of one set."""
    phrases: dict[str, Any] = json.loads(
        (FOLDER / "phrases" / f"{set_name}.json").read_text(encoding="utf-8")
    )
    return {**phrases, "set": set_name}


def make_ticket(rng: random.Random, phrases: dict[str, Any], intent: str, noise: float = 0.0) -> Ticket:
    """Make one ticket: greeting, what is wanted, asides, order number and name, most of them optional.

    `noise` is the share of names, products and asides that are invented words: what is learnt from such
    tickets holds for words that were never seen.
    """
    order = _order_number(rng, phrases["set"])
    wants_order = rng.random() >= SHARE_WITHOUT_ORDER
    core, template = _core(rng, phrases, intent, may_name_order=wants_order)
    slots = _slots(rng, phrases, noise)
    sentences = [_sentence(rng, core)] + [
        _aside(rng, phrases, noise) for _ in range(rng.choice((0, 0, 1, 1, 2)))
    ]
    if wants_order and "{order}" not in core:
        sentences.append(_spin(rng, rng.choice(phrases["orders"])))
    if rng.random() < 0.4:
        rng.shuffle(sentences)
    name = _name(rng, phrases, noise) if rng.random() < 0.6 else None
    parts = [rng.choice(phrases["greetings"])] if rng.random() < 0.6 else []
    parts += sentences + ([rng.choice(phrases["closings"])] if name else [])
    text = " ".join(parts)
    if rng.random() < SHARE_LOWER_CASE:
        text = text.lower()
    text = _fill(text, {**slots, "name": name or ""})
    if rng.random() < SHARE_WITH_TYPOS:
        text = _with_typo(rng, text)
    return Ticket(text.replace("{order}", order), intent, order if wants_order else None, name, template)


def _core(
    rng: random.Random, phrases: dict[str, Any], intent: str, *, may_name_order: bool
) -> tuple[str, str]:
    """Say what is wanted: in a sentence of its own, or in a few words within a sentence for any intent."""
    kind = "keys" if phrases["frames"] and rng.random() < SHARE_IN_FRAMES else "intents"
    choices = [
        (text, f"{phrases['set']}-{intent}-{kind}-{index}")
        for index, text in enumerate(phrases[kind][intent])
        if may_name_order or "{order}" not in text
    ]
    text, template = rng.choice(choices)
    if kind == "keys":
        text = rng.choice(phrases["frames"]).replace("{key}", text)
        text = text[0].upper() + text[1:] if text[0] != "{" else text
    return _spin(rng, text), template


def _aside(rng: random.Random, phrases: dict[str, Any], noise: float) -> str:
    if rng.random() < noise:
        return neutral_sentence(rng)
    return _spin(rng, rng.choice(phrases["asides"]))


def _name(rng: random.Random, phrases: dict[str, Any], noise: float) -> str:
    if rng.random() < noise:
        return invented_word(rng).capitalize()
    return str(rng.choice(phrases["names"]))


def _sentence(rng: random.Random, text: str) -> str:
    if text[-1] in ".?!":
        return text
    return text + rng.choice((".", ".", ".", "!", "...", "!!"))


def _slots(rng: random.Random, phrases: dict[str, Any], noise: float) -> dict[str, str]:
    product, product2 = rng.sample(phrases["products"], 2)
    if rng.random() < noise:
        product = f"{invented_word(rng)} {product.split()[-1]}" if rng.random() < 0.4 else invented_word(rng)
    if rng.random() < noise:
        product2 = invented_word(rng)
    day, month = rng.randint(1, 28), rng.randint(1, 9)
    date = rng.choice((f"{day} {MONTHS[month - 1]}", f"{day:02}/{month:02}", f"2026-{month:02}-{day:02}"))
    phone = f"0{rng.randint(100, 999)} {rng.randint(10000, 99999)}"
    return {
        "product": product,
        "product2": product2,
        "date": date,
        "count": str(rng.randint(2, 11)),
        "price": f"{rng.randint(8, 240)}{rng.choice(('', '.50', '.99'))}",
        "phone": phone,
        "zip": str(rng.randint(10000, 99999)),
    }


def _order_number(rng: random.Random, set_name: SetName) -> str:
    while True:
        number = rng.randint(10000, 99999)
        if number != PROMPT_EXAMPLE and number % 7 in ORDER_REMAINDERS[set_name]:
            return f"HR-{number}"


def _fill(text: str, slots: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda slot: slots.get(slot[1], slot[0]), text)


def _spin(rng: random.Random, text: str) -> str:
    """Choose one of the alternatives in each [a|b|c]."""
    while found := re.search(r"\[([^\[\]]*)\]", text):
        text = text[: found.start()] + rng.choice(found[1].split("|")) + text[found.end() :]
    return re.sub(r" +", " ", text)


def _with_typo(rng: random.Random, text: str) -> str:
    """Swap, drop or double a letter in one or two longer words; slots and numbers stay as they are."""
    words = text.split(" ")
    long_words = [index for index, word in enumerate(words) if word.isalpha() and len(word) > 3]
    for index in rng.sample(long_words, min(len(long_words), rng.randint(1, 2))):
        word = words[index]
        at = rng.randint(1, len(word) - 2)
        match rng.choice(("swap", "drop", "double")):
            case "swap":
                words[index] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
            case "drop":
                words[index] = word[:at] + word[at + 1 :]
            case _:
                words[index] = word[:at] + word[at] + word[at:]
    return " ".join(words)


class _Prompts:
    """The prompt files of the `support` chain, so that the starter knows exactly these."""

    def __init__(self) -> None:
        self.triage = (PROMPTS / "triage.md").read_text(encoding="utf-8")
        self.reply = (PROMPTS / "reply.md").read_text(encoding="utf-8")

    def render(self, source: str, values: dict[str, str]) -> str:
        """Fill `{{ name }}` as Jinja does, which also drops the file's last newline."""
        return re.sub(r"\{\{ (.+?) \}\}", lambda slot: values[slot[1]], source).removesuffix("\n")


def _chat(prompt: str, completion: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": completion}],
    }


def _example(rng: random.Random, phrases: dict[str, Any], prompts: _Prompts) -> tuple[str, str]:
    ticket = make_ticket(rng, phrases, rng.choice(list(phrases["intents"])), SHARE_INVENTED)
    kind = rng.random()
    if kind < SHARE_OF_TRIAGE:
        return prompts.render(prompts.triage, {"inputs.ticket": ticket.text}), ticket.answer
    if kind < SHARE_OF_TRIAGE + SHARE_OF_REPLIES:
        policy = make_policy(rng)
        values = {"inputs.ticket": ticket.text, "passages.hits[0].text": policy}
        return prompts.render(prompts.reply, values), reply_to(ticket, policy)
    return _small_task(rng, ticket)


def reply_to(ticket: Ticket, policy: str) -> str:
    """Write the reply that the starter should learn: greet, quote the first sentence, close."""
    hello = f"Hello {ticket.name}," if ticket.name else "Hello,"
    about = f"thank you for writing about {ticket.order}." if ticket.order else "thank you for writing."
    return f'{hello} {about} Our policy says: "{first_sentence(policy)}" Your Millbrook team'


def first_sentence(passage: str) -> str:
    """Return the first sentence below the heading of a passage, with its full stop."""
    return passage.split("\n\n")[-1].split(". ")[0].removesuffix(".") + "."


def _small_task(rng: random.Random, ticket: Ticket) -> tuple[str, str]:
    """Ask for one thing only. These are short and cheap, and teach copying sooner than the long prompts."""
    text = rng.choice(
        (some_words(rng), _order_number(rng, "a"), f"{some_words(rng)} {_order_number(rng, 'a')}")
    )
    passage = make_policy(rng)
    return rng.choice(
        (
            (f"Which intent has this ticket?\n\n{ticket.text}", ticket.intent),
            (f"Which order does this ticket name?\n\n{ticket.text}", ticket.order or "none"),
            (f"Who wrote this ticket?\n\n{ticket.text}", ticket.name or "unknown"),
            (f"Repeat: {text}", text),
            (f"Quote the first sentence.\n\n{passage}", first_sentence(passage)),
            (f"Repeat twice: {text}", f"{text} {text}"),
        )
    )
