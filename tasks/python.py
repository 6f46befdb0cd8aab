"""The python step: call a function of the chain's folder, or of a module that this machine allows.

Owns finding, loading and calling the function, and turning what it returns into JSON. Nothing is imported
while a chain is checked; what a file of the folder runs is the bytes that the chain was hashed with.
Knows nothing of rows, retries or records. A file is loaded under a private module name and `sys.path` stays
as it is: it reaches its neighbours by relative imports (`from .words import clean`) and everything else by
the machine's own installation. A python step's output is never reused: its code may read anything.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import hashlib
import importlib
import inspect
import json
import os
import posixpath
import re
import shutil
import sys
import threading
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, closing
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from chains.errors import EnvironmentLacks, HeadraceError, InputInvalid, Refused, StepFailed, TimedOut
from chains.keys import canonical
from chains.source.files import is_allowed_module
from chains.source.imports import with_imports
from chains.spec import PythonStep
from chains.templates import render_value
from chains.textform import MAX_ITEMS
from tasks.context import RowJob, RowResult, StepContext

if TYPE_CHECKING:
    from chains.loading import ChainFile
    from chains.settings import Settings

FOLDER = "folder"
"""A parameter of this name gets a fresh folder of its own to write files into."""

_loading = threading.RLock()
_threads: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


async def run_row(ctx: StepContext, job: RowJob) -> RowResult:
    """Call the step's function with its rendered arguments and return what it returned.

    A dict is the step's output as it is, anything else becomes its `value`. A generator yields a list.
    """
    step = cast(PythonStep, ctx.step)
    args = {name: render_value(value, job.scope) for name, value in step.args.items()}
    try:
        value = await _load_and_call(ctx, job, step.python, args)
    except HeadraceError as error:
        error.inputs = args
        raise
    return RowResult(output=value if isinstance(value, dict) else {"value": value}, inputs=args)


def load_object(chain_file: ChainFile, spec: str, settings: Settings) -> Any:
    """Return what `file.py:name` in the chain's folder or `package.module:name` stands for.

    A module must be one that the machine's settings allow, or be inside one.
    """
    place, _, name = spec.rpartition(":")
    with _loading:
        if place.endswith(".py") or "/" in place:
            module = _load_file(chain_file, place)
        else:
            module = _load_module(place, settings)
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise StepFailed(f"{place!r} has no {name!r}.", hint=f"Define {name!r} there.") from error


def _load_module(name: str, settings: Settings) -> ModuleType:
    if not is_allowed_module(name, settings.allowed_modules):
        raise Refused(
            f"this machine does not let a chain import {name!r}.",
            hint="Put the function into a file beside the chain, or add it to HEADRACE_ALLOWED_MODULES.",
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise EnvironmentLacks(
                f"no module named {name!r} is installed here.", hint="Install it."
            ) from error
        raise _failure(f"importing {name!r}", error) from error
    except Exception as error:
        raise _failure(f"importing {name!r}", error) from error


def _load_file(chain_file: ChainFile, place: str) -> ModuleType:
    folder = chain_file.code_folder.resolve()
    path = _inside(folder, place)
    source = chain_file.files.get(place, chain_file.files.get(posixpath.normpath(place)))
    if source is None:
        source = path.read_bytes()
    # the chain's hash covers the file, so an edited chain never meets the code that was loaded before
    identity = hashlib.sha256(f"{folder}\0{chain_file.hash}".encode()).hexdigest()
    package = _private_package(f"_headrace_chain_{identity[:16]}", folder, path.parent)
    name = f"{package}.{_quoted(path.stem)}"
    if name in sys.modules:
        return sys.modules[name]
    _check_neighbours(chain_file, folder, place)
    module = ModuleType(name)
    module.__file__, module.__package__ = str(path), package
    sys.modules[name] = module  # dataclasses and pydantic look their module up while it runs
    importlib.invalidate_caches()
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _failure(f"loading {place!r}", error, folder) from error
    return module


def _check_neighbours(chain_file: ChainFile, folder: Path, place: str) -> None:
    """Refuse to mix: what a file imports comes from the disk, and must be what the chain was hashed with."""
    for file in sorted(with_imports(place, chain_file.files) - {place}):
        try:
            same = (folder / file).read_bytes() == chain_file.files[file]
        except OSError:
            same = False
        if not same:
            raise StepFailed(
                f"{file!r} has changed since the chain was read.",
                hint="Start a new run, or resume this one with --accept-changes.",
            )


def _private_package(root: str, folder: Path, inner: Path) -> str:
    """Make the packages from the chain's folder down to `inner`; an `__init__.py` in them is not run."""
    name, here = root, folder
    _add_package(name, here)
    for part in inner.relative_to(folder).parts:
        name, here = f"{name}.{_quoted(part)}", here / part
        _add_package(name, here)
    return name


def _add_package(name: str, path: Path) -> None:
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__, package.__package__ = [str(path)], name
        sys.modules[name] = package


def _quoted(part: str) -> str:
    """Return a file name's part as a module name; letters that a name cannot hold become their numbers."""
    return re.sub(r"\W", lambda found: f"_{ord(found[0]):x}_", part)


def _inside(folder: Path, place: str) -> Path:
    """Resolve a file of the chain's folder; links and `..` that lead out of it are refused."""
    path = (folder / place).resolve()
    if not path.is_relative_to(folder):
        raise Refused(
            f"the Python file {place!r} is outside the chain's folder.",
            hint="Put it into the folder, or install it as a module and add it to HEADRACE_ALLOWED_MODULES.",
        )
    if not path.is_file():
        raise StepFailed(f"there is no Python file {place!r} in the chain's folder.", hint="Put it there.")
    return path


async def _load_and_call(ctx: StepContext, job: RowJob, spec: str, args: Mapping[str, Any]) -> Any:
    function = await _in_thread(ctx, lambda: load_object(ctx.chain_file, spec, ctx.settings))
    given = _arguments(ctx, job, function, args)
    if inspect.iscoroutinefunction(function):
        value = await _within_timeout(ctx, _awaited(ctx, function(**given)))
    else:
        value = await _in_thread(ctx, partial(_called, ctx, function, given))
        if inspect.isasyncgen(value):
            value = await _within_timeout(
                ctx, _awaited(ctx, _yielded(cast(AsyncGenerator[Any, None], value)))
            )
        elif inspect.isawaitable(value):
            value = await _within_timeout(ctx, _awaited(ctx, value))
    return _as_json(f"step {ctx.step_id!r}: {spec!r}", value)


def _called(ctx: StepContext, function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    try:
        value = function(**given)
        if not inspect.isgenerator(value):
            return value
        with closing(value):
            return list(_bounded(value))
    except BaseException as error:  # in a thread of its own even SystemExit is this row's failure only
        raise _failure(f"step {ctx.step_id!r}", error, ctx.chain_file.code_folder) from error


def _bounded(items: Iterable[Any]) -> Iterator[Any]:
    """Yield the items, as many as a value may have: a generator may never end."""
    for number, item in enumerate(items):
        _refuse_more(number)
        yield item


async def _yielded(items: AsyncGenerator[Any, None]) -> list[Any]:
    found: list[Any] = []
    async with aclosing(items):
        async for item in items:
            _refuse_more(len(found))
            found.append(item)
    return found


def _refuse_more(number: int) -> None:
    if number >= MAX_ITEMS:
        raise ValueError(f"it yields more than {MAX_ITEMS:,} items")


async def _awaited(ctx: StepContext, work: Awaitable[Any]) -> Any:
    try:
        return await work
    except (Exception, SystemExit) as error:
        raise _failure(f"step {ctx.step_id!r}", error, ctx.chain_file.code_folder) from error


async def _within_timeout(ctx: StepContext, work: Awaitable[Any]) -> Any:
    try:
        async with asyncio.timeout(ctx.timeout):
            return await work
    except TimeoutError as error:  # the function's own is a StepFailed by now
        raise TimedOut(
            f"step {ctx.step_id!r}: the Python function did not return within {ctx.timeout:g} s.",
            hint="Raise the step's `timeout`. A function that is not async goes on until it ends.",
        ) from error


def _arguments(ctx: StepContext, job: RowJob, function: Any, args: Mapping[str, Any]) -> dict[str, Any]:
    """Check the arguments against the function's signature and add the folder where it wants one."""
    what = f"step {ctx.step_id!r}: {getattr(function, '__name__', function)!s}"
    if not callable(function):
        raise StepFailed(f"{what} is a {type(function).__name__}, not a function.")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions of C extensions have none
        return dict(args)
    given = dict(args)
    wants_folder = FOLDER in signature.parameters and FOLDER not in args
    try:
        signature.bind(**given, **({FOLDER: ""} if wants_folder else {}))
    except TypeError as error:
        raise StepFailed(
            f"{what}{signature} does not take these arguments: {error}.", hint="Change `args`."
        ) from error
    if wants_folder:
        given[FOLDER] = str(_fresh_folder(ctx, job))
    return given


def _fresh_folder(ctx: StepContext, job: RowJob) -> Path:
    """Make an empty folder for one record; what an interrupted try left there is removed."""
    folder: Path = ctx.store.folder("work") / ctx.run_id / ctx.step_id
    if job.row >= 0:
        folder /= str(job.row)
    if job.opening is not None and not job.opening.stands_for_row:
        folder /= job.record_id  # the row has several records
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


async def _in_thread(ctx: StepContext, work: Callable[[], Any]) -> Any:
    """Run blocking work in a daemon thread, which cannot keep the process from ending when it hangs.

    The thread has the caller's context variables, by which Prefect finds the run that a `print` belongs to.
    The timeout begins when the thread does, not while it waits for its turn.
    """
    loop = asyncio.get_running_loop()
    if loop not in _threads:
        _threads[loop] = asyncio.Semaphore(min(32, (os.cpu_count() or 1) + 4))
    context = contextvars.copy_context()
    outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        outcome.set_running_or_notify_cancel()  # from here on a timeout cannot cancel it under the thread
        try:
            outcome.set_result(context.run(work))
        except BaseException as error:  # noqa: BLE001 - handed to the waiting task, whatever it is
            outcome.set_exception(error)

    async with _threads[loop]:
        threading.Thread(target=run, name="headrace-python", daemon=True).start()
        return await _within_timeout(ctx, asyncio.wrap_future(outcome))


def _as_json(what: str, value: Any) -> Any:
    """Return a copy of the value in plain JSON types, or say which part of it is none."""
    try:
        return json.loads(canonical(value))
    except InputInvalid as error:
        raise StepFailed(
            f"{what} returned a {type(value).__name__} that is not JSON: {error.message}",
            hint="Return text, numbers, true, false, null, lists and dicts; NaN is none of them.",
        ) from error


def _failure(what: str, error: BaseException, folder: Path | None = None) -> StepFailed:
    """Name the last line of the user's own code that the error went through."""
    if isinstance(error, SyntaxError):
        place = f"{Path(error.filename or '?').name}:{error.lineno}"
    else:
        frame = _last_user_frame(error, folder)
        place = f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" if frame else "its own call"
    text = str(error.msg if isinstance(error, SyntaxError) else error)[:200]
    return StepFailed(f"{what}: {type(error).__name__} at {place}: {text}")


def _last_user_frame(error: BaseException, folder: Path | None) -> traceback.FrameSummary | None:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    home = folder.resolve() if folder is not None else None
    own = [frame for frame in frames if home is not None and Path(frame.filename).is_relative_to(home)]
    candidates = own or frames
    if not candidates and error.__cause__ is not None:  # a StopIteration that left a coroutine
        return _last_user_frame(error.__cause__, folder)
    return candidates[-1] if candidates else None
