"""What a user names on the command line may be called and read, whatever a chain may."""

from __future__ import annotations

from pathlib import Path

import pytest

from chains.spec import Chain
from flows.overriding import granted, override_models
from flows.request import RunRequest


def test_the_host_of_base_url_and_the_folder_of_a_model_are_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tuned").mkdir()
    monkeypatch.chdir(tmp_path)
    models = ("writer=openai:m", "judge=local:./tuned", "other=local:acme/tiny")
    found = granted(RunRequest(chain="c", models=models, base_url="https://llm.shop.example:8443/v1"))
    assert found.hosts == {"llm.shop.example"}
    assert found.folders == {tmp_path / "tuned"}
    assert granted(RunRequest(chain="c")).hosts == frozenset()


def test_a_folder_of_the_command_line_counts_from_where_the_user_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tuned").mkdir()
    monkeypatch.chdir(tmp_path)
    chain = Chain.model_validate(
        {
            "chain": "c",
            "models": {"w": {"provider": "starter"}},
            "steps": {"a": {"prompt": "x", "model": "w"}},
        }
    )
    changed = override_models(chain, ("w=local:./tuned",), None)
    assert changed.models["w"].model == str(tmp_path / "tuned")
    assert override_models(chain, ("w=local:acme/tiny",), None).models["w"].model == "acme/tiny"
