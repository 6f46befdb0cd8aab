"""Models and collections: where they are, and that a chain file holds no secrets.

Owns the shapes of well-known keys. A finding never shows the value that it is about.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from chains.check_references import Subject
from chains.source.marks import YamlPath
from chains.suggest import shown
from chains.templates import has_expression, syntax_error

_STORE_MODEL = re.compile(r"models:[a-z0-9][a-z0-9_-]{0,63}(@latest|@[1-9][0-9]{0,8})?")
KEY_SHAPES = re.compile(
    r"\b(?:sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|gsk_[A-Za-z0-9]{20,}"
    r"|xox[abpr]-[A-Za-z0-9-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,})|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_SECRET_HEADERS = re.compile(r"auth|key|token|secret|cookie|password", re.I)
_ENV_HINT = 'Put it into an environment variable and write "{{ env.NAME }}".'


def check_models(subject: Subject) -> None:
    """Check names, addresses and keys of models and collections."""
    for name, model in subject.chain.models.items():
        at: YamlPath = ("models", name)
        words = f"model {name!r}"
        check_store_model(subject, (*at, "model"), words, model.model)
        _check_literal_key(subject, (*at, "api_key"), words, model.api_key)
        _check_url(subject, (*at, "base_url"), words, model.base_url)
        for header, value in model.headers.items():
            if _SECRET_HEADERS.search(header) and syntax_error(value) is None and not has_expression(value):
                subject.findings.at_value(
                    (*at, "headers", header),
                    f"{words}: the header {header!r} is written out, and a chain file holds no secrets",
                    _ENV_HINT,
                )
    for name, collection in subject.chain.collections.items():
        _check_literal_key(
            subject, ("collections", name, "api_key"), f"collection {name!r}", collection.api_key
        )
        _check_url(subject, ("collections", name, "url"), f"collection {name!r}", collection.url)


def _check_literal_key(subject: Subject, path: YamlPath, words: str, key: str | None) -> None:
    if key is not None and syntax_error(key) is None and not has_expression(key):
        subject.findings.at_value(
            path, f"{words}: 'api_key' is written out, and a chain file holds no secrets", _ENV_HINT
        )


def _check_url(subject: Subject, path: YamlPath, words: str, url: str | None) -> None:
    if url is None or has_expression(url):
        return
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname)
        password = parts.password is not None
    except ValueError:
        right = password = False
    if password:
        subject.findings.at_value(
            path,
            f"{words}: the address holds a password, and a chain file holds no secrets",
            "Use 'api_key' with {{ env.NAME }}.",
        )
    elif not right:
        subject.findings.at_value(path, f"{words}: {shown(url)} is no http or https address")


def check_store_model(subject: Subject, path: YamlPath, words: str, model: str | None) -> None:
    """Note a `models:` name that is malformed."""
    if model is not None and model.startswith("models:") and not _STORE_MODEL.fullmatch(model):
        subject.findings.at_value(
            path,
            f"{words}: {shown(model)} names no model of the store",
            "Write models:NAME, models:NAME@latest or models:NAME@3.",
        )


def check_secrets(subject: Subject) -> None:
    """Note texts that have the shape of a known key, without showing them."""
    message = "this looks like a secret key, and a chain holds no secrets"
    stack: list[tuple[YamlPath, Any]] = [((), subject.findings.document.value)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict):
            stack.extend(((*path, key), item) for key, item in value.items())
        elif isinstance(value, list):
            stack.extend(((*path, index), item) for index, item in enumerate(value))
        elif isinstance(value, str) and path[-1] != "api_key" and KEY_SHAPES.search(value):
            subject.findings.at_value(path, message, _ENV_HINT)
    for file, content in subject.files.items():
        text = content.decode("utf-8", "replace")
        if (found := KEY_SHAPES.search(text)) is not None:
            line = text.count("\n", 0, found.start()) + 1
            column = found.start() - (text.rfind("\n", 0, found.start()) + 1) + 1
            display = file if subject.folder in ("", ".") else f"{subject.folder}/{file}"
            subject.findings.in_file(display, (line, column), message, _ENV_HINT)
