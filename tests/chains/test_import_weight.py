"""What importing and checking may load, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

import chains

HEAVY = (
    "prefect",
    "torch",
    "transformers",
    "openai",
    "aiohttp",
    "httpx",
    "sqlalchemy",
    "numpy",
    "pyarrow",
    "rich",
    "typer",
)
ROOT = Path(chains.__file__).resolve().parents[1]


def loaded_by(code: str) -> set[str]:
    program = (
        f"{code}\nimport sys\nprint('LOADED', *sorted({{name.partition('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split("LOADED")[1].split())


def test_importing_chains_loads_nothing_but_the_standard_library():
    loaded = loaded_by("import chains")
    assert not loaded & {*HEAVY, "pydantic", "jinja2", "yaml"}


@pytest.mark.parametrize("name", ["starter", "support"])
def test_checking_a_chain_loads_nothing_heavy(name):
    code = (
        f"import chains\nread = chains.load(chains.find_chain({name!r}))\nassert read.chain.chain == {name!r}"
    )
    loaded = loaded_by(code)
    assert not loaded & set(HEAVY)
    assert {"pydantic", "jinja2", "yaml"} <= loaded


def test_all_is_sorted_and_every_name_is_there():
    assert chains.__all__ == sorted(chains.__all__)
    assert all(getattr(chains, name) is not None for name in chains.__all__)
    assert set(chains.__all__) == set(chains._HOME_OF)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = chains.nothing
