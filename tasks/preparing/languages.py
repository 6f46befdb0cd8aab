"""Which language a text is in.

Owns the choice of the library (py3langid: 97 languages, its model comes with it). Short texts are guessed
badly by any means; a text without a letter has no language.
"""

from __future__ import annotations

_MOST_CHARS = 4000


def language_of(text: str) -> str:
    """Return the code of a text's language, such as `en`; empty where there is no letter."""
    if not any(character.isalpha() for character in text[:_MOST_CHARS]):
        return ""
    import py3langid

    language, _ = py3langid.classify(text[:_MOST_CHARS])
    return str(language)
