"""A client as a process of its own; see the package."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import tests.clients
from tests.clients.generations import GENERATIONS
from tests.clients.pulling import pull
from tests.clients.results import PullFailed


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    about = tests.clients.__doc__
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=about)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--base", required=True, help="http://HOST:PORT")
    parser.add_argument("--model", default="library/m:latest")
    parser.add_argument("--generation", choices=sorted(GENERATIONS), default="classic16")
    parser.add_argument("--no-verify", action="store_true", help="count the bytes only")
    parser.add_argument("--directory", help="where the temporary file lies")
    parser.add_argument("--parts", type=int)
    parser.add_argument("--part-min", type=int, help="bytes")
    parser.add_argument("--part-max", type=int, help="bytes")
    parser.add_argument("--stall", type=float, help="seconds")
    parser.add_argument("--backoff", type=float, help="scale of the sleeps between tries")
    return parser.parse_args(arguments)


async def _main(reactor: Any, *arguments: str) -> None:
    options = _options(arguments)
    names = ("parts", "part_min", "part_max", "stall", "backoff")
    changes = {name: getattr(options, name) for name in names}
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        pulled = await pull(
            reactor,
            options.base,
            options.model,
            GENERATIONS[options.generation].scaled(**given),
            verify=not options.no_verify,
            directory=options.directory,
        )
    except PullFailed as failed:
        pulled = failed.pulled
    print(json.dumps(pulled.as_json()), flush=True)
    if not pulled.ok:
        raise SystemExit(1)


if __name__ == "__main__":
    from twisted.internet.task import react

    react(_main, sys.argv[1:])
