"""An S3 server (moto's) in a process of its own, on a free port."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from servers.ports import free_port

_CODE = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"


@contextmanager
def s3_server(bucket: str) -> Iterator[dict[str, str]]:
    """Run the server with one bucket; give the environment in which S3 clients find it."""
    port = str(free_port())
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _CODE, port],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _make_bucket(f"{environment['AWS_ENDPOINT_URL']}/{bucket}", process)
        yield environment
    finally:
        process.terminate()
        process.wait(timeout=20)


def _make_bucket(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            request = urllib.request.Request(url, method="PUT")
            with urllib.request.urlopen(request, timeout=5):
                return
        except urllib.error.HTTPError:
            raise
        except OSError:
            assert process.poll() is None, "the S3 server ended"
            time.sleep(0.05)
    raise AssertionError("the S3 server did not come up")
