"""Content-addressed blobs: a file per content, named by its sha256, compressed with zstd.

Owns `blobs/ab/ab...`. Knows nothing of rows and of who refers to a blob. Invariant: a file under its final
name is whole, and what is read from it has been compared with its name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import zstandard

from chains.errors import InputInvalid, StoreDamaged
from chains.store.files import atomic_file, disk_errors, is_temporary, make_folder
from chains.store.names import checked_sha256, is_sha256

_CHUNK: Final = 1 << 20


class Blobs:
    """The blobs in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Return where the blob is or would be."""
        return self.folder / checked_sha256(sha256)[:2] / sha256

    def put(self, data: bytes) -> str:
        """Keep `data` and return its sha256. A damaged blob of the same content is written anew."""
        sha256 = hashlib.sha256(data).hexdigest()
        with disk_errors(self.folder):
            if not self._refresh(sha256):
                with self._new(sha256) as file:
                    file.write(zstandard.ZstdCompressor(write_checksum=True).compress(data))
        return sha256

    def put_file(self, source: Path) -> tuple[str, int]:
        """Keep the content of a file without loading it; return its sha256 and size."""
        sha256, size = _hash_file(source)
        with disk_errors(self.folder):
            if not self._refresh(sha256):
                with self._new(sha256) as file:
                    _compress(source, file, sha256)
        return sha256, size

    def get(self, sha256: str) -> bytes:
        """Return the content; StoreDamaged if it is gone or is not what its name says."""
        return b"".join(self._chunks(sha256))

    def copy_to(self, sha256: str, target: IO[bytes]) -> None:
        """Write the content to an open file, verified by the time this returns."""
        for chunk in self._chunks(sha256):
            target.write(chunk)

    def problem(self, sha256: str) -> str | None:
        """Return what is wrong with the blob, or None."""
        try:
            for _ in self._chunks(sha256):
                pass
        except StoreDamaged as damage:
            return damage.message
        return None

    def exists(self, sha256: str) -> bool:
        """Tell whether the file is there; says nothing of its content."""
        return self.path(sha256).exists()

    def listed(self) -> Iterator[Path]:
        """Yield the file of every blob."""
        for folder in sorted(self.folder.iterdir()):
            if folder.is_dir():
                yield from (path for path in sorted(folder.iterdir()) if is_sha256(path.name))

    def strangers(self) -> Iterator[Path]:
        """Yield what lies among the blobs and is neither a blob nor a temporary file."""
        for folder in sorted(self.folder.iterdir()):
            inside = sorted(folder.iterdir()) if folder.is_dir() else [folder]
            yield from (path for path in inside if not is_sha256(path.name) and not is_temporary(path.name))

    def _refresh(self, sha256: str) -> bool:
        """Tell whether a sound blob is there, and make it young, so that collecting leaves it alone."""
        path = self.path(sha256)
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return self.problem(sha256) is None

    @contextmanager
    def _new(self, sha256: str) -> Iterator[IO[bytes]]:
        path = self.path(sha256)
        make_folder(path.parent)
        with atomic_file(path) as file:
            yield file

    def _chunks(self, sha256: str) -> Iterator[bytes]:
        path = self.path(sha256)
        seen = hashlib.sha256()
        try:
            with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
                while chunk := reader.read(_CHUNK):
                    seen.update(chunk)
                    yield chunk
        except FileNotFoundError as error:
            raise StoreDamaged(f"The blob {sha256} is missing.", hint=_HINT) from error
        except zstandard.ZstdError as error:
            raise StoreDamaged(f"The blob {sha256} cannot be decompressed: {error}.", hint=_HINT) from error
        if seen.hexdigest() != sha256:
            raise StoreDamaged(f"The blob {sha256} holds other bytes than its name says.", hint=_HINT)


_HINT: Final = "Restore it from a backup of the store's `blobs` folder, or run the step that made it again."


def _hash_file(path: Path) -> tuple[str, int]:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
            return digest.hexdigest(), file.tell()
    except OSError as error:
        raise InputInvalid(f"The file {str(path)!r} cannot be read: {error.strerror}.") from error


def _compress(source: Path, target: IO[bytes], sha256: str) -> None:
    seen = hashlib.sha256()
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    with source.open("rb") as given, compressor.stream_writer(target, closefd=False) as writer:
        while chunk := given.read(_CHUNK):
            seen.update(chunk)
            writer.write(chunk)
    if seen.hexdigest() != sha256:
        raise InputInvalid(f"The file {str(source)!r} changed while it was copied into the store.")


def open_blobs(folder: Path) -> Blobs:
    """Make the folder if needed and return its blobs."""
    with disk_errors(folder):
        make_folder(folder)
    return Blobs(folder)
