"""Run with: pytest tests/tasks/test_python_step.py"""

import hashlib
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from chains.errors import EnvironmentLacks, Refused, StepFailed, TimedOut
from chains.settings import Settings
from chains.spec import Chain
from tasks.context import RowJob
from tasks.python import load_object, run_row


def chain_file(folder, **files):
    """What the loader knows of a chain whose Python files are `files`, and the files themselves."""
    held = {}
    for name, text in files.items():
        path = name.replace("__", "/") + ".py"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
        held[path] = text.encode()
    return SimpleNamespace(
        folder=folder, code_folder=folder, files=held, hash=hashlib.sha256(repr(held).encode()).hexdigest()
    )


def context(file, *, settings=None, **step):
    chain = Chain.model_validate({"chain": "t", "steps": {"check": step}})
    timeout = chain.steps["check"].timeout or 5.0
    store = SimpleNamespace(folder=lambda name: file.folder / "store" / name)
    return SimpleNamespace(
        run_id="run1",
        step_id="check",
        step=chain.steps["check"],
        chain_file=file,
        settings=settings or Settings(),
        store=store,
        timeout=timeout,
    )


async def call(file, python="checks.py:check", *, row=0, scope=None, settings=None, **step):
    ctx = context(file, python=python, settings=settings, **step)
    return await run_row(ctx, RowJob(row, "r1", scope or {}))


async def test_a_dict_is_the_output_and_arguments_keep_their_types(tmp_path):
    file = chain_file(
        tmp_path, checks="def check(score, label):\n    return {'double': score * 2, 'label': label}\n"
    )
    args = {"score": "{{ judge.score }}", "label": "is {{ judge.score }}"}
    result = await call(file, args=args, scope={"judge": {"score": 4}})
    assert result.output == {"double": 8, "label": "is 4"}
    assert result.inputs == {"score": 4, "label": "is 4"}
    assert (result.value_key, result.reused_from) == (None, None)


@pytest.mark.parametrize("value", ["'text'", "3", "[1, 2]", "None", "True", "0.5"])
async def test_what_is_no_dict_becomes_value(tmp_path, value):
    file = chain_file(tmp_path, checks=f"def check():\n    return {value}\n")
    assert (await call(file)).output == {"value": eval(value)}


async def test_an_async_function_is_awaited_in_the_loop(tmp_path):
    text = "import threading\nasync def check():\n    return threading.get_ident()\n"
    assert (await call(chain_file(tmp_path, checks=text))).output == {"value": threading.get_ident()}


async def test_a_plain_function_does_not_block_the_loop(tmp_path):
    text = "import threading\ndef check():\n    return threading.get_ident()\n"
    assert (await call(chain_file(tmp_path, checks=text))).output["value"] != threading.get_ident()


async def test_relative_imports_reach_the_neighbours_and_sys_path_stays(tmp_path):
    file = chain_file(
        tmp_path,
        lib__checks="from .words import clean\nfrom ..shared import END\ncheck = lambda t: clean(t) + END\n",
        lib__words="def clean(t):\n    return t.strip()\n",
        shared="END = '!'\n",
    )
    before = list(sys.path)
    result = await call(file, "lib/checks.py:check", args={"t": " hi "})
    assert result.output == {"value": "hi!"}
    assert sys.path == before
    assert not {"checks", "words", "shared", "lib"} & sys.modules.keys()


async def test_a_neighbour_that_changed_since_the_chain_was_read_is_not_mixed_in(tmp_path):
    file = chain_file(
        tmp_path, checks="from .words import WORD\ncheck = lambda: WORD\n", words="WORD = 'hashed'\n"
    )
    (tmp_path / "words.py").write_text("WORD = 'edited'\n")
    with pytest.raises(StepFailed, match=r"'words.py' has changed since .* --accept-changes"):
        await call(file)
    (tmp_path / "words.py").write_text("WORD = 'hashed'\n")
    assert (await call(file)).output == {"value": "hashed"}


async def test_a_plain_import_of_a_neighbour_is_not_found(tmp_path):
    file = chain_file(tmp_path, checks="import neighbour_words\n", neighbour_words="")
    with pytest.raises(StepFailed, match=r"ModuleNotFoundError at checks.py:1"):
        await call(file)


async def test_two_chains_with_files_of_one_name_do_not_meet(tmp_path):
    one = chain_file(tmp_path / "one", checks="def check():\n    return 1\n")
    two = chain_file(tmp_path / "two", checks="def check():\n    return 2\n")
    assert [(await call(file)).output["value"] for file in (one, two, one)] == [1, 2, 1]


async def test_an_edited_chain_runs_its_new_code(tmp_path):
    assert (await call(chain_file(tmp_path, checks="def check():\n    return 1\n"))).output["value"] == 1
    assert (await call(chain_file(tmp_path, checks="def check():\n    return 2\n"))).output["value"] == 2


async def test_what_runs_is_what_was_hashed_even_if_the_file_changed_since(tmp_path):
    file = chain_file(tmp_path, checks="def check():\n    return 'hashed'\n")
    (tmp_path / "checks.py").write_text("def check():\n    return 'edited'\n")
    (tmp_path / "lib").mkdir()
    assert (await call(file)).output["value"] == "hashed"
    assert (await call(file, "lib/../checks.py:check")).output["value"] == "hashed"


async def test_a_file_is_loaded_once_for_many_rows(tmp_path):
    file = chain_file(
        tmp_path, checks="calls = []\ndef check():\n    calls.append(1)\n    return len(calls)\n"
    )
    assert [(await call(file, row=row)).output["value"] for row in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("place", ["lib/../../outside.py", "lib/../../../etc/outside.py"])
async def test_a_path_out_of_the_folder_is_refused(tmp_path, place):
    (tmp_path / "outside.py").write_text("def check():\n    return 'out'\n")
    file = chain_file(tmp_path / "chain", lib__checks="")
    with pytest.raises(Refused, match=r"outside the chain's folder"):
        await call(file, f"{place}:check")


async def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "outside.py").write_text("def check():\n    return 'out'\n")
    file = chain_file(tmp_path / "chain", checks="")
    os.symlink(tmp_path / "outside.py", file.folder / "link.py")
    os.symlink(tmp_path, file.folder / "up")
    for place in ("link.py", "up/outside.py"):
        with pytest.raises(Refused, match=r"outside the chain's folder"):
            load_object(file, f"{place}:check", Settings())


def test_a_module_is_imported_only_where_settings_allow_it(tmp_path, monkeypatch):
    (tmp_path / "canary_pkg").mkdir()
    (tmp_path / "canary_pkg" / "__init__.py").write_text("")
    (tmp_path / "canary_pkg" / "inner.py").write_text("def answer():\n    return 42\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    file = chain_file(tmp_path / "chain")
    spec = "canary_pkg.inner:answer"
    for allowed in ((), ("canary",), ("canary_pkg.inner2",)):
        with pytest.raises(Refused, match=r"HEADRACE_ALLOWED_MODULES"):
            load_object(file, spec, Settings(allowed_modules=allowed))
    assert "canary_pkg" not in sys.modules
    for allowed in (("canary_pkg",), ("canary_pkg.inner",)):
        assert load_object(file, spec, Settings(allowed_modules=allowed))() == 42


def test_an_allowed_module_that_is_not_there_is_named(tmp_path):
    settings = Settings(allowed_modules=("no_such_module_here",))
    with pytest.raises(EnvironmentLacks, match=r"'no_such_module_here.part'"):
        load_object(chain_file(tmp_path), "no_such_module_here.part:f", settings)


def test_a_missing_file_or_name_is_named(tmp_path):
    file = chain_file(tmp_path, checks="")
    with pytest.raises(StepFailed, match=r"no Python file 'other.py'"):
        load_object(file, "other.py:check", Settings())
    with pytest.raises(StepFailed, match=r"'checks.py' has no 'check'"):
        load_object(file, "checks.py:check", Settings())


async def test_a_failure_names_the_function_the_line_and_the_message(tmp_path):
    text = "import json\ndef check(t):\n    return parse(t)\ndef parse(t):\n    return json.loads(t)\n"
    with pytest.raises(StepFailed) as caught:
        await call(chain_file(tmp_path, checks=text), args={"t": "{"})
    assert caught.value.message.startswith("step 'check': JSONDecodeError at checks.py:5 in parse: Expecting")
    assert caught.value.inputs == {"t": "{"}


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize(
    "error", ["SystemExit(3)", "StopIteration()", "TimeoutError('mine')", "TimedOut('x')"]
)
async def test_whatever_a_function_raises_is_its_rows_failure(tmp_path, error, kind):
    file = chain_file(
        tmp_path, checks=f"from chains.errors import TimedOut\n{kind} check():\n    raise {error}\n"
    )
    with pytest.raises(StepFailed, match=r"checks.py:3 in check"):
        await call(file)


async def test_a_file_with_a_syntax_error_names_the_line_and_can_be_mended(tmp_path):
    with pytest.raises(StepFailed, match=r"SyntaxError at checks.py:2"):
        await call(chain_file(tmp_path, checks="x = 1\ndef check(:\n"))
    assert (await call(chain_file(tmp_path, checks="def check():\n    return 1\n"))).output == {"value": 1}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{'tags': {1, 2}}", r"returned a dict that is not JSON: the value at \$.tags is a set"),
        ("object()", "returned a object that is not JSON"),
        ("{'score': float('nan')}", r"the number at \$.score is nan"),
        ("{1: 2}", "has the key 1"),
    ],
)
async def test_what_is_not_json_is_named_by_its_type_and_place(tmp_path, value, said):
    with pytest.raises(StepFailed, match=said):
        await call(chain_file(tmp_path, checks=f"def check():\n    return {value}\n"))


async def test_arguments_that_do_not_fit_are_named_before_the_call(tmp_path):
    file = chain_file(tmp_path, checks="def check(text):\n    raise SystemExit\n")
    with pytest.raises(StepFailed, match=r"check\(text\) does not take these arguments: missing .*'text'"):
        await call(file, args={"txt": "x"})


@pytest.mark.parametrize(
    "text", ["import threading\ngo = threading.Event()\ndef check():\n    go.wait(20)\n", None]
)
async def test_a_function_that_hangs_meets_the_steps_timeout(tmp_path, text):
    text = text or "import asyncio\nasync def check():\n    await asyncio.sleep(20)\n"
    file = chain_file(tmp_path, checks=text)
    with pytest.raises(TimedOut, match=r"did not return within 0.05 s") as caught:
        await call(file, timeout="50ms", args={})
    assert caught.value.inputs == {}
    module = [
        module
        for name, module in sys.modules.items()
        if getattr(module, "__file__", "") == str(tmp_path / "checks.py")
    ]
    for loaded in module:
        getattr(loaded, "go", threading.Event()).set()


async def test_a_once_step_gets_a_fresh_folder_to_write_into(tmp_path):
    text = (
        "from pathlib import Path\ndef check(folder, name):\n    files = list(Path(folder).iterdir())\n"
        "    path = Path(folder) / name\n    path.write_text('x')\n"
        "    return {'path': str(path), 'before': len(files)}\n"
    )
    file = chain_file(tmp_path, checks=text)
    for _ in range(2):
        result = await call(file, row=-1, once=True, args={"name": "a.txt"})
        assert result.output["before"] == 0
        assert Path(result.output["path"]) == tmp_path / "store" / "work" / "run1" / "check" / "a.txt"
        assert result.inputs == {"name": "a.txt"}


async def test_an_argument_named_folder_is_the_users_own(tmp_path):
    file = chain_file(tmp_path, checks="def check(folder):\n    return folder\n")
    assert (await call(file, args={"folder": "mine"})).output == {"value": "mine"}
    assert not (tmp_path / "store").exists()


async def test_what_a_function_prints_is_seen(tmp_path, capsys):
    await call(chain_file(tmp_path, checks="def check():\n    print('so far so good')\n"))
    assert capsys.readouterr().out == "so far so good\n"


async def test_a_class_can_be_loaded_for_structured_output(tmp_path):
    text = (
        "from pydantic import BaseModel\nclass Answer(BaseModel):\n    intent: 'Kind'\n"
        "class Kind(BaseModel):\n    name: str\n"
    )
    found = load_object(chain_file(tmp_path, models=text), "models.py:Answer", Settings())
    assert found.model_json_schema()["required"] == ["intent"]
