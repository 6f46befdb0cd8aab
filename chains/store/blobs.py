"""Content-addressed blobs: a file per content, named by its sha256, compressed with zstd.

Owns the names `ab/ab...` in a place. Knows nothing of rows and of who refers to a blob, nor whether the place
is a folder or a bucket. Invariant: what is read from a blob has been compared with its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import zstandard

from chains.errors import InputInvalid, StoreDamaged
from chains.store.names import checked_sha256, is_sha256
from chains.store.places import Place

_CHUNK: Final = 1 << 20


class Blobs:
    """The blobs in one place; what lies under `others` there belongs to somebody else."""

    def __init__(self, place: Place, *, others: str | None = None) -> None:
        self.place = place
        self._others = others

    def put(self, data: bytes) -> str:
        """Keep `data` and return its sha256. A damaged blob of the same content is written anew."""
        sha256 = hashlib.sha256(data).hexdigest()
        with self.place.errors():
            if not self._refresh(sha256):
                packed = zstandard.ZstdCompressor(write_checksum=True).compress(data)
                self.place.write(_name(sha256), lambda file: _write_all(file, packed))
        return sha256

    def put_file(self, source: Path) -> tuple[str, int]:
        """Keep the content of a file without loading it; return its sha256 and size."""
        sha256, size = _hash_file(source)
        with self.place.errors():
            if not self._refresh(sha256):
                self.place.write(_name(sha256), lambda file: _compress(source, file, sha256))
        return sha256, size

    def get(self, sha256: str) -> bytes:
        """Return the content; StoreDamaged if it is gone or is not what its name says."""
        with self.place.errors():
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

    def size(self, sha256: str) -> int:
        """Return the length of the content."""
        return sum(len(chunk) for chunk in self._chunks(sha256))

    def exists(self, sha256: str) -> bool:
        """Tell whether the file is there; says nothing of its content."""
        return self.place.exists(_name(sha256))

    def listed(self) -> Iterator[tuple[str, float]]:
        """Yield the sha256 of every blob, with when it was written."""
        for name, written in self.place.names():
            sha256 = name.rpartition("/")[2]
            if is_sha256(sha256) and name == _name(sha256):
                yield sha256, written

    def strangers(self) -> Iterator[str]:
        """Yield the names of what lies among the blobs and is none."""
        for name, _ in self.place.names():
            sha256 = name.rpartition("/")[2]
            if not (is_sha256(sha256) and name == _name(sha256)) and name.split("/")[0] != self._others:
                yield name

    def modified(self, sha256: str) -> float:
        """Return when the blob was last put; one that is gone counts as old."""
        return self.place.modified(_name(sha256))

    def remove(self, sha256: str) -> None:
        """Remove the blob; the caller knows that nothing refers to it."""
        self.place.remove(_name(sha256))

    def _refresh(self, sha256: str) -> bool:
        """Tell whether a sound blob is there, and make it young, so that collecting leaves it alone."""
        return self.place.touch(_name(sha256)) and self.problem(sha256) is None

    def _chunks(self, sha256: str) -> Iterator[bytes]:
        name = _name(sha256)
        seen = hashlib.sha256()
        try:
            with self.place.open(name) as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
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


def _name(sha256: str) -> str:
    return f"{checked_sha256(sha256)[:2]}/{sha256}"


def _write_all(file: IO[bytes], data: bytes) -> None:
    file.write(data)


def _compress(source: Path, target: IO[bytes], sha256: str) -> None:
    seen = hashlib.sha256()
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    with source.open("rb") as given, compressor.stream_writer(target, closefd=False) as writer:
        while chunk := given.read(_CHUNK):
            seen.update(chunk)
            writer.write(chunk)
    if seen.hexdigest() != sha256:
        raise InputInvalid(f"The file {str(source)!r} changed while it was copied into the store.")
