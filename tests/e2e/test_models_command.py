"""`headrace models`: versions, where they come from, and which one is latest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chains.errors import InputInvalid
from chains.store import ModelRow, open_store
from flows.cli.models import app


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store with three versions of `triage`, the third an adapter on the second, and another model."""
    location = str(tmp_path / "store")
    with open_store(location) as opened:
        for number, base in enumerate((None, None, {"provider": "local", "model": "models:triage@2"})):
            opened.publish(row("triage", base, number))
        opened.publish(row("other", {"provider": "starter"}, 9))
    return location


def row(name: str, base: dict[str, Any] | None, number: int) -> ModelRow:
    return ModelRow(
        name=name,
        kind="adapter" if base else "full",
        base=json.dumps(base) if base else None,
        files=b"{}",
        sha256=f"{number}" * 64,
        metrics=json.dumps({"train_loss": 0.5, "forgetting": {"value": 0.1}, "warnings": []}).encode(),
        lineage=json.dumps(
            {"run_id": f"run{number}", "step": "tune", "chain": "c", "data": {"train": "ab" * 32}}
        ).encode(),
        created_at=1.0,
    )


def headrace(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def latest(store: str) -> dict[str, bool]:
    return {one["model"]: one["latest"] for one in json.loads(headrace("--store", store, "--json"))}


def test_the_list_names_versions_and_the_figures_that_matter(store: str) -> None:
    text = headrace("--store", store)
    assert "models:triage@3" in text and "train_loss 0.5, forgetting 0.1" in text
    assert "warnings" not in text
    assert latest(store) == {
        "models:triage@1": False, "models:triage@2": False, "models:triage@3": True, "models:other@1": True,
    }  # fmt: skip


def test_promote_and_rollback_move_latest_of_that_name_alone(store: str) -> None:
    assert headrace("promote", "triage@1", "--store", store) == "models:triage@latest is now @1.\n"
    assert [name for name, is_latest in latest(store).items() if is_latest] == [
        "models:other@1",
        "models:triage@1",
    ]
    headrace("promote", "models:triage@3", "--store", store)
    assert "is now @2; it was @3" in headrace("rollback", "triage", "--store", store)
    assert latest(store)["models:triage@2"] and latest(store)["models:other@1"]
    with open_store(store) as opened:
        found = opened.model("triage")
        assert found is not None and found.version == 2
        assert not opened.promote("triage", 7)


def test_lineage_goes_back_to_a_base_that_was_not_made_here(store: str) -> None:
    found = json.loads(headrace("lineage", "triage@3", "--store", store, "--json"))
    assert [one["model"] for one in found] == ["models:triage@3", "models:triage@2"]
    assert found[0]["lineage"]["run_id"] == "run2"
    text = headrace("lineage", "triage", "--store", store)
    assert "data  train abababababab" in text and "run   run2, step tune of chain c" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("promote", "triage@9"), "There is no published model 'triage@9'"),
        (("promote", "triage@newest"), "names no version"),
        (("rollback", "other"), "has no version before it"),
        (("lineage", "none"), "There is no published model"),
    ],
)
def test_what_is_not_there_is_named(store: str, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputInvalid, match=message):
        headrace(*arguments, "--store", store)


def test_parameters_are_counted_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "chain.yaml").write_text(
        "chain: c\nmodels: {small: {provider: starter}}\nsteps:\n"
        "  tune: {finetune: ia3, base: small, data: {train: train.jsonl}}\n"
        "  tiny: {finetune: scratch, data: {train: train.jsonl}}\n"
    )
    asked = ("parameters", str(tmp_path / "chain.yaml"), "--store", str(tmp_path / "store"))
    found = {one["step"]: one for one in json.loads(headrace(*asked, "--json"))}
    assert found["tune"]["trained"] == found["tune"]["stored"] == 4 * (2 * 64 + 256)
    assert found["tiny"]["trained"] == found["tiny"]["total"] == found["tiny"]["stored"]
    assert "1,536" in headrace(*asked)
