"""The emulator as a process of its own; see the package."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

import tests.emulator
from tests.emulator.content import parse_size
from tests.emulator.emulator import Emulator


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.emulator", description=tests.emulator.__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--store-host", default="127.0.0.2")
    parser.add_argument("--store-port", type=int, default=0)
    parser.add_argument(
        "--models",
        nargs="+",
        default=["library/m:latest=1MB"],
        help="NAME=SIZE[xCOUNT],...[@SEED], or a file of JSON: [{name, sizes, seed}, ...]",
    )
    parser.add_argument("--other-host", default="127.0.0.3")
    parser.add_argument("--other-port", type=int, default=0)
    parser.add_argument("--rate", type=parse_size, help="bytes per second over one connection")
    parser.add_argument("--line", type=parse_size, help="bytes per second over all of them")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--content-dir", help="where the content's temporary file lies")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON of Settings' fields")
    return parser.parse_args(arguments)


async def _main(reactor: Any, *arguments: str) -> None:
    options = _options(arguments)
    models: list[Any] = []
    for given in options.models:
        if "=" in given:
            models.append(given)
        else:
            with open(given) as opened:
                models += json.load(opened)
    emulator = await Emulator.start(
        reactor,
        models,
        host=options.host,
        port=options.port,
        store_host=options.store_host,
        store_port=options.store_port,
        other_host=options.other_host,
        other_port=options.other_port,
        seed=options.seed,
        directory=options.content_dir,
        **{
            "rate": options.rate,
            "line": options.line,
            "latency": options.latency,
            **options.settings,
        },
    )
    reactor.addSystemEventTrigger(
        "before", "shutdown", lambda: Deferred.fromCoroutine(emulator.stop())
    )
    print(json.dumps(emulator.described()), flush=True)
    await Deferred()


if __name__ == "__main__":
    from twisted.internet.task import react

    react(_main, sys.argv[1:])
