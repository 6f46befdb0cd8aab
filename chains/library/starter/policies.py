"""Make up passages of a handbook, from words in no sensible order.

Owns the words. What a passage says is nonsense on purpose: quoting it takes copying, and not memory.
"""

from __future__ import annotations

import random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SUBJECTS = _words("customers members visitors buyers pupils guests neighbours readers drivers owners people")
VERBS = _words("return open bring collect repair keep wash send read paint carry store check borrow measure")
THINGS = _words(
    "parcels letters boxes chairs tools bottles papers lamps keys tickets bags wheels coats photos labels"
    " carton money card invoice courier item order warranty address product credit slip sample label door"
    " shop year day"
)
ADJECTIVES = _words(
    "new old red small heavy clean empty open wet light round plain free second right late full"
)
LINKS = _words(
    "with before after without inside under near until against during from at to of and or when if"
)
TIMES = ("days", "weeks", "hours", "months", "years", "working days")
NUMBERS = _words("two three four five six seven eight nine ten fourteen thirty")


NEUTRAL = _words(
    "garden morning table river music winter cousin train coffee window holiday children kitchen dog"
    " evening summer village school bicycle weekend rain party bread concert grandmother office market forest doctor"
    " football piano picture lake story friend birthday uncle dinner street spring mountain wedding"
)
NEUTRAL_VERBS = _words(
    "like see know visit remember think enjoy cook sing walk play hope prefer believe listen smile travel paint"
)
ONSETS = _words("b c d f g h j k l m n p r s t v w z br cl dr fl gr pl sh st th tr")
VOWELS = _words("a e i o u ai ea ee oo ou")
CODAS = ("", "", "n", "r", "l", "s", "t", "ck", "m", "x")


def invented_word(rng: random.Random) -> str:
    """Make up a word that means nothing."""
    sounds = (rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.randint(1, 3)))
    return "".join(sounds)


def neutral_sentence(rng: random.Random) -> str:
    """Make up a sentence that says nothing about any order."""
    words = [rng.choice(("I", "we", "they", "my", "the", "our", "you", "this", "it"))]
    for _ in range(rng.randint(2, 6)):
        makers = (NEUTRAL, NEUTRAL, NEUTRAL_VERBS, LINKS, ("is", "was", "so", "not", "very", "also", "and"))
        words.append(rng.choice(rng.choice(makers)) if rng.random() < 0.85 else invented_word(rng))
    text = " ".join(words)
    return text[0].upper() + text[1:] + rng.choice((".", ".", "!"))


def policy(rng: random.Random) -> str:
    """Make up a passage of one or two sentences, mostly with a heading, as a Markdown file has it."""
    body = " ".join(_sentence(rng) for _ in range(rng.choice((1, 2, 2))))
    if rng.random() < 0.75:
        title = f"{rng.choice(ADJECTIVES + VERBS)} {rng.choice(THINGS)}".capitalize()
        return f"# {title}\n\n{body}"
    return body


def some_words(rng: random.Random) -> str:
    """Put together a few words, numbers and syllables in any order; they hold no order number."""
    makers = (
        lambda: rng.choice(THINGS),
        lambda: rng.choice(LINKS),
        lambda: rng.choice(SUBJECTS).capitalize(),
        lambda: invented_word(rng),
        lambda: str(rng.randint(0, 99999)),
    )
    return " ".join(rng.choice(makers)() for _ in range(rng.randint(1, 6)))


def _sentence(rng: random.Random) -> str:
    parts = [rng.choice(_PARTS)(rng) for _ in range(rng.randint(2, 5))]
    return " ".join(parts).rstrip(",").capitalize() + "."


def _thing(rng: random.Random) -> str:
    return f"{rng.choice(('the', 'a', 'your', 'our', 'every', 'any'))} {rng.choice(THINGS)}"


def _action(rng: random.Random) -> str:
    who = rng.choice(("we", "you", "they", rng.choice(SUBJECTS)))
    return f"{who} {rng.choice(('can', 'may', 'never', 'do', 'will'))} {rng.choice(VERBS)}"


def _condition(rng: random.Random) -> str:
    return f"{rng.choice(LINKS)} {rng.choice(ADJECTIVES)} {rng.choice(THINGS)}"


def _deadline(rng: random.Random) -> str:
    number = rng.choice((rng.choice(NUMBERS), str(rng.randint(2, 60))))
    return f"within {number} {rng.choice(TIMES)}"


def _unknown_word(rng: random.Random) -> str:
    return f"{invented_word(rng)} {rng.choice(LINKS)}"


def _command(rng: random.Random) -> str:
    return f"{rng.choice(VERBS)} it {rng.choice(LINKS)} the {rng.choice(THINGS)}{rng.choice((',', ''))}"


_PARTS = (_thing, _action, _condition, _deadline, _unknown_word, _command)
