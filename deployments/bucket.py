"""Make the bucket that HEADRACE_BLOBS names, where there is none: `python deployments/bucket.py`."""

from __future__ import annotations

import os
import sys

import fsspec


def main() -> None:
    """Make the bucket; a folder or another kind of place needs none."""
    scheme, separator, rest = os.environ.get("HEADRACE_BLOBS", "").partition("://")
    if not separator:
        sys.exit("HEADRACE_BLOBS names no address, such as s3://bucket/prefix.")
    bucket = rest.partition("/")[0]
    place = fsspec.filesystem(scheme)
    if not place.exists(bucket):
        place.makedir(bucket)


if __name__ == "__main__":
    main()
