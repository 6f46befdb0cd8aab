"""Files of the store on anything that fsspec reaches: S3, GCS, Azure, another machine.

Owns the driver's filesystem, one per process, and our error for what it raises. An object store shows an
object whole or not at all; where a place does not, a half-written blob is found by its hash and written anew.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

from chains import failpoints
from chains.errors import EnvironmentLacks, InputInvalid

_EXTRAS: Final = {"s3": "headrace[s3]", "s3a": "headrace[s3]", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs"}


class RemotePlace:
    """A folder or bucket behind a URL, such as `s3://bucket/prefix`."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        # What stands before an @ may be a key and its secret.
        named = re.search(r"://([^/@]*@)", self._url)
        self._secret = named[1] if named else ""
        self.label = self._shown(self._url)
        self._by_pid: dict[int, tuple[Any, str]] = {}
        with self.errors():
            self._root()

    def write(self, name: str, fill: Callable[[IO[bytes]], None], *, synced: bool = True) -> None:
        """Make or replace a file; it is there for all when this returns."""
        filesystem, root = self._root()
        # Made here first: a compressed blob's length is known only at its end.
        with tempfile.TemporaryFile() as file:
            fill(file)
            file.seek(0)
            failpoints.hit("store.remote.before_upload")
            path = f"{root}/{name}"
            filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            with filesystem.open(path, "wb") as target:
                while chunk := file.read(8 << 20):
                    target.write(chunk)
        failpoints.hit("store.remote.after_upload")

    def open(self, name: str) -> IO[bytes]:
        """Open a file to read."""
        filesystem, root = self._root()
        opened: IO[bytes] = filesystem.open(f"{root}/{name}", "rb")
        return opened

    def exists(self, name: str) -> bool:
        """Tell whether a file is there."""
        filesystem, root = self._root()
        return bool(filesystem.exists(f"{root}/{name}"))

    def touch(self, name: str) -> bool:
        """Tell whether a file is there; to make it young would be to send it again."""
        return self.exists(name)

    def modified(self, name: str) -> float:
        """Return when a file was last written."""
        filesystem, root = self._root()
        try:
            return float(filesystem.modified(f"{root}/{name}").timestamp())
        except FileNotFoundError:
            return 0.0

    def remove(self, name: str) -> None:
        """Remove a file."""
        filesystem, root = self._root()
        try:
            filesystem.rm_file(f"{root}/{name}")
        except FileNotFoundError:
            return

    def names(self) -> Iterator[tuple[str, float]]:
        """Yield every file."""
        filesystem, root = self._root()
        filesystem.invalidate_cache()
        found = filesystem.find(root, detail=True)
        for path in sorted(found):
            written = found[path].get("LastModified") or filesystem.modified(path)
            seconds = written.timestamp() if hasattr(written, "timestamp") else float(written)
            yield path[len(root) + 1 :], seconds

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Say what the place refused; that a file is not there is said by who asked for it."""
        try:
            yield
        except FileNotFoundError as error:
            raise EnvironmentLacks(
                f"The place of the blobs {self.label!r} is not there: {self._shown(str(error))}.",
                hint="Make the bucket.",
            ) from error
        except _driver_errors() as error:
            text = " ".join(self._shown(str(error)).split())[:200] or type(error).__name__
            raise EnvironmentLacks(
                f"The blobs at {self.label!r} cannot be reached: {text}.",
                hint="Check HEADRACE_BLOBS and the keys in the environment.",
            ) from error

    def _shown(self, text: str) -> str:
        return text.replace(self._secret, "") if self._secret else text

    def _root(self) -> tuple[Any, str]:
        """Return the filesystem of this process: a forked child must not use its parent's connections."""
        found = self._by_pid.get(os.getpid())
        if found is None:
            found = self._by_pid.setdefault(os.getpid(), _connected(self._url))
        return found


def _connected(url: str) -> tuple[Any, str]:
    import fsspec

    scheme = url.partition("://")[0]
    try:
        # One of its own: a shared one may have been made with other keys, or for another server.
        filesystem, root = fsspec.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        raise EnvironmentLacks(
            f"Blobs at {scheme}:// need a package that is not installed.",
            hint=f"Install `{_EXTRAS.get(scheme, 'the fsspec package for it')}`.",
        ) from error
    except ValueError as error:
        raise InputInvalid(
            f"{scheme[:200]!r} is no place for blobs.", hint="Name a folder or an fsspec URL."
        ) from error
    return filesystem, str(root).rstrip("/")


def _driver_errors() -> tuple[type[Exception], ...]:
    """Return what drivers raise; botocore's errors have no common ancestor with the system's."""
    found: list[type[Exception]] = [OSError]
    exceptions = sys.modules.get("botocore.exceptions")
    if exceptions is not None:
        found += [exceptions.BotoCoreError, exceptions.ClientError]
    return tuple(found)
