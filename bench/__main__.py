"""The command: every bench in its turn, each with its tables."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path

from bench.scale import Scale

BENCHES = ("hits", "disk", "manifests", "startup", "cold", "herd", "memory", "latency")


def machine() -> dict[str, object]:
    """What it was measured on."""
    model = ""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        pass
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run, under half a minute")
    parser.add_argument("--full", action="store_true", help="with the largest sizes; many minutes")
    parser.add_argument(
        "--only", action="append", choices=BENCHES, help="this one; may be repeated"
    )
    parser.add_argument("--json", metavar="FILE", help="the tables for programs, - for stdout")
    parser.add_argument("--plot", metavar="FILE", help="an SVG of what --json has")
    options = parser.parse_args()
    scale = Scale(options.quick, options.full)
    tables = []
    for name in options.only or BENCHES:
        began = time.monotonic()
        for table in importlib.import_module(f"bench.{name}").run(scale):
            tables.append(table)
            print(table.text(), end="\n\n", flush=True)
        print(f"[{name}: {time.monotonic() - began:.0f} s]", end="\n\n", file=sys.stderr)
    report = {"machine": machine(), "tables": [table.as_json() for table in tables]}
    if options.json == "-":
        print(json.dumps(report))
    elif options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        from bench.plot import svg

        Path(options.plot).write_text(svg(report))


if __name__ == "__main__":
    main()
