"""Settings come from HEADRACE_ variables, are checked, and cost nothing to import."""

import subprocess
import sys

import pytest

from chains.errors import EnvironmentLacks
from chains.settings import Settings, get_settings


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.upper().startswith("HEADRACE_")]:
        monkeypatch.delenv(name)


def test_defaults_hold_without_any_variable() -> None:
    assert get_settings() == Settings()
    assert Settings().allowed_hosts is None
    assert Settings().allowed_modules == ()


def test_variables_are_read_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_STORE", "/data/store")
    monkeypatch.setenv("HEADRACE_ALLOWED_MODULES", "shop.rules, shop.texts")
    monkeypatch.setenv("HEADRACE_READ_OUTSIDE", "true")
    monkeypatch.setenv("HEADRACE_TORCH_THREADS", "2")
    monkeypatch.setenv("HEADRACE_SHARD_ROWS", "32")
    settings = get_settings()
    assert settings.store == "/data/store"
    assert settings.allowed_modules == ("shop.rules", "shop.texts")
    assert settings.read_outside is True
    assert settings.torch_threads == 2
    assert settings.shard_rows == 32
    assert type(settings) is Settings


def test_settings_made_by_hand_never_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_STORE", "elsewhere")
    assert Settings().store == ".headrace"


def test_no_allowed_host_is_not_the_same_as_any_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_ALLOWED_HOSTS", "")
    assert get_settings().allowed_hosts == ()


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_TORCH_THREADS", "many")
    monkeypatch.setenv("HEADRACE_SHARD_ROWS", "0")
    with pytest.raises(EnvironmentLacks) as caught:
        get_settings()
    assert "HEADRACE_TORCH_THREADS is 'many'" in str(caught.value)
    assert "HEADRACE_SHARD_ROWS is '0'" in str(caught.value)


def test_a_misspelt_variable_is_an_error_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_ALLOWED_HOST", "api.example.com")
    with pytest.raises(EnvironmentLacks, match="Did you mean 'HEADRACE_ALLOWED_HOSTS'"):
        get_settings()


def test_other_variables_with_the_prefix_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_FAILPOINTS", "store.commit=kill")
    assert get_settings() == Settings()


def test_the_import_leaves_pydantic_settings_out() -> None:
    code = "import sys, chains.settings; sys.exit('pydantic_settings' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
