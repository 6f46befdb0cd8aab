"""`--model` and `--base-url`: what a model keeps of the one that it takes the place of."""

from __future__ import annotations

from typing import Any

import pytest

from chains.errors import InputInvalid
from chains.spec import Chain
from flows.overriding import override_models


def chain(**model: Any) -> Chain:
    return Chain.model_validate(
        {
            "chain": "c",
            "models": {"writer": model, "other": {"provider": "starter"}},
            "defaults": {"model": "writer"},
            "steps": {"s": {"prompt": "hello"}},
        }
    )


def test_an_endpoint_gets_nothing_that_was_made_up_or_fitted_to_a_local_model() -> None:
    old = chain(provider="starter", max_tokens=60, seed=3, stop=["\n"], limits={"concurrency": 1})
    new = override_models(old, ("openai:gpt-5-mini",), None).models["writer"]
    assert (new.provider, new.model) == ("openai", "gpt-5-mini")
    assert (new.temperature, new.max_tokens, new.seed, new.stop) == (None, None, None, None)
    assert new.limits.concurrency == 64


def test_a_temperature_that_somebody_wrote_stays() -> None:
    old = chain(provider="starter", temperature=0.5, max_tokens=60)
    new = override_models(old, ("openai:gpt-5-mini",), None).models["writer"]
    assert (new.temperature, new.max_tokens) == (0.5, None)


def test_another_model_of_the_same_endpoint_keeps_address_key_and_settings() -> None:
    kept = {
        "base_url": "http://127.0.0.1:1/v1",
        "api_key": "{{ env.K }}",
        "max_tokens": 9,
        "temperature": 0,
        "headers": {"x-team": "desk"},
    }
    old = chain(provider="openai", model="a", **kept, price={"input": 1, "output": 2})
    new = override_models(old, ("openai:b",), None).models["writer"]
    assert new.model == "b"
    assert {name: getattr(new, name) for name in kept} == kept
    assert new.price is None  # that of the other model


def test_a_key_does_not_go_to_another_address() -> None:
    old = chain(
        provider="openai", model="a", base_url="https://one/v1", api_key="{{ env.K }}", headers={"x": "y"}
    )
    new = override_models(old, ("openai:b",), "https://two/v1").models["writer"]
    assert (new.base_url, new.api_key, new.headers) == ("https://two/v1", None, {})


def test_a_local_model_keeps_how_the_endpoint_sampled() -> None:
    old = chain(provider="openai", model="a", base_url="https://one/v1", max_tokens=9, temperature=0.2)
    new = override_models(old, ("starter",), None).models["writer"]
    assert (new.provider, new.max_tokens, new.temperature, new.base_url) == ("starter", 9, 0.2, None)


def test_a_model_is_named_by_its_name_in_the_chain() -> None:
    models = override_models(chain(provider="starter"), ("other=openai:b",), "http://x/v1").models
    assert models["writer"].provider == "starter" and models["other"].base_url == "http://x/v1"


@pytest.mark.parametrize(
    ("texts", "base_url", "said"),
    [
        (("starter:foo",), None, "takes no name"),
        (("starter",), "http://x/v1", "--base-url needs --model openai:NAME"),
        ((), "http://x/v1", "--base-url needs --model openai:NAME"),
        (("local",), None, "names no model"),
        (("gpt-5-mini",), None, "names no model"),
        (("nosuch=starter",), None, "no model 'nosuch'"),
    ],
)
def test_what_would_be_ignored_is_refused(texts: tuple[str, ...], base_url: str | None, said: str) -> None:
    with pytest.raises(InputInvalid, match=said):
        override_models(chain(provider="starter"), texts, base_url)
