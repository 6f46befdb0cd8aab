"""Prices: who is asked first, and that what is not known is never 0."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from chains.errors import EnvironmentLacks
from chains.spec import Model, Price
from tasks.prices import FREE, SHIPPED, cost_micro, prices_of

OPENAI = "api.openai.com"


def model(name: str = "gpt-5-mini", **more: object) -> Model:
    return Model(provider="openai", model=name, **more)


def test_a_model_of_the_table_has_its_price_and_so_has_its_dated_snapshot() -> None:
    prices = prices_of(None)

    assert prices.of(model(), OPENAI) == Price(input=0.25, output=2.0)
    assert prices.of(model("gpt-5-mini-2025-08-07"), OPENAI) == Price(input=0.25, output=2.0)
    assert prices.of(model("gpt-4o-2024-05-13"), OPENAI) == Price(input=5.0, output=15.0)
    assert prices.of(model("text-embedding-3-small"), OPENAI) == Price(input=0.02, output=0.0)


def test_an_unknown_model_and_an_unknown_endpoint_have_no_price() -> None:
    prices = prices_of(None)

    assert prices.of(model("gpt-5-mini-mine"), OPENAI) is None
    assert prices.of(model("my-model"), OPENAI) is None
    assert prices.of(model("gpt-5-mini"), "llm.example") is None


def test_a_model_on_this_machine_is_free_unless_it_says_otherwise() -> None:
    prices = prices_of(None)

    assert prices.of(Model(provider="starter"), "") == FREE
    assert prices.of(Model(provider="local", model="x"), "") == FREE
    own = Price(input=1.0, output=1.0)
    assert prices.of(Model(provider="local", model="x", price=own), "") == own


def test_the_machines_own_table_goes_before_the_shipped_one_and_the_model_before_both(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text(
        json.dumps({"models": {"gpt-5-mini": {"input": 9}, "my-model": {"input": 1, "output": 2}}})
    )
    prices = prices_of(str(file))

    assert prices.of(model(), OPENAI) == Price(input=9.0)
    assert prices.of(model("my-model"), "llm.example") == Price(input=1.0, output=2.0)
    assert prices.of(model("gpt-5"), OPENAI) == Price(input=1.25, output=10.0)
    assert prices.of(model(price={"input": 3.0}), OPENAI) == Price(input=3.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "are wrong"),
        ("{}", "models: Field required"),
        ('{"models": {"a": {"input": -1}}}', "models.a.input"),
        ('{"models": {"a": {"inptu": 1}}}', "models.a.in"),
        (None, "cannot be read"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "prices.json"
    if text is not None:
        file.write_text(text)

    with pytest.raises(EnvironmentLacks, match=re.escape(said)) as caught:
        prices_of(str(file))

    assert str(file) in str(caught.value)


def test_a_cost_is_known_only_where_price_and_tokens_are() -> None:
    price = Price(input=0.25, output=2.0)

    assert cost_micro(price, 1_000_000, 1_000_000) == 2_250_000
    assert cost_micro(price, 10, 3) == 8
    assert cost_micro(None, 10, 3) is None
    assert cost_micro(price, None, 3) is None
    assert cost_micro(price, 10, None) is None
    assert cost_micro(Price(input=0.02), 50, None) == 1
    assert cost_micro(FREE, None, None) == 0


def test_the_shipped_table_says_when_and_whence_it_is() -> None:
    table = json.loads(SHIPPED.read_text())

    assert re.fullmatch(r"20\d\d-\d\d-\d\d", table["as_of"])
    assert table["source"].startswith("https://") and table["hosts"] == [OPENAI]
