"""Tests of the S3 client, and what tests of the store in a bucket stand on: real servers."""

from functools import cache
from typing import Any

from botocore.loaders import JSONFileLoader

_load = JSONFileLoader.load_file


@cache
def _loaded(path: str) -> Any:
    return _load(JSONFileLoader(), path)


# botocore's model of S3 is read once, not by each daemon that a test makes: half a second.
JSONFileLoader.load_file = lambda _, path: _loaded(path)
