"""The bucket of the store is made where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from servers.s3_server import s3_server

SCRIPT = Path(__file__).resolve().parents[2] / "deployments" / "bucket.py"


def make_bucket(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT)], env=os.environ | environment, capture_output=True, text=True
    )


def test_the_bucket_of_the_store_is_made_once() -> None:
    code = "import s3fs; print(s3fs.S3FileSystem().exists('headrace'))"
    with s3_server("another") as environment:
        asked = environment | {"HEADRACE_BLOBS": "s3://headrace/blobs"}
        for _ in range(2):
            done = make_bucket(**asked)
            assert done.returncode == 0, done.stderr
        found = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=True,
        )
    assert found.stdout.strip() == "True"


def test_a_place_without_an_address_is_told() -> None:
    done = make_bucket(HEADRACE_BLOBS="/srv/blobs")
    assert done.returncode == 1 and "names no address" in done.stderr
