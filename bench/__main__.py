"""Runs the benches, one after the other, and prints the tables of each."""

from __future__ import annotations

import argparse
import compileall
import importlib
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path

from bench.processes import MEASURED
from bench.scale import Scale

CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
APART = """
ip link set lo up
for to in 127.0.0.0/8 127.0.0.1; do
    ip route change local $to dev lo table local proto kernel scope host src 127.0.0.1 congctl $0
done
exec "$@"
"""
"""For a shell in a network of its own: the kind of congestion control is $0, the command $@."""
BENCHES = (
    *("hits", "tls", "disk", "manifests", "startup", "cold", "line", "herd", "memory"),
    *("latency", "page", "evicting", "cores"),
)


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
        "congestion control": os.environ.get("BENCH_CONGESTION") or _congestion(),
    }


def _congestion() -> str:
    try:
        return CONGESTION.read_text().strip()
    except OSError:
        return ""


def _set_apart(congestion: str) -> None:
    """Begin anew in a network of this process's own: a loopback with ``congestion``."""
    for needed in ("unshare", "ip"):
        if not shutil.which(needed):
            raise SystemExit(f"--congestion needs {needed}")
    os.environ["BENCH_CONGESTION"] = congestion
    again = [sys.executable, "-m", "bench", *sys.argv[1:]]
    os.execvp("unshare", ["unshare", "-n", "sh", "-ec", APART, congestion, *again])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run, about a minute")
    parser.add_argument("--full", action="store_true", help="with the largest sizes; many minutes")
    parser.add_argument(
        "--only", action="append", choices=BENCHES, help="this one; may be repeated"
    )
    parser.add_argument(
        "--cell",
        action="append",
        metavar="PATTERN",
        help="of line, only these: Mbit/s, ms of queue, sender and who, such as '80/400/cubic/*'",
    )
    parser.add_argument("--json", metavar="FILE", help="the tables for programs, - for stdout")
    parser.add_argument("--plot", metavar="FILE", help="an SVG of what --json has")
    parser.add_argument(
        "--congestion",
        metavar="NAME",
        help="TCP's congestion control, such as cubic: bbr paces the loopback differently each time"
        " (needs root)",
    )
    options = parser.parse_args()
    if options.congestion and os.environ.get("BENCH_CONGESTION") != options.congestion:
        _set_apart(options.congestion)
    scale = Scale(options.quick, options.full, tuple(options.cell or ()))
    # As whoever installs it does; else each start would, where PYTHONDONTWRITEBYTECODE is set.
    compileall.compile_dir(MEASURED / "yukari", quiet=1)
    tables, here = [], machine()
    print(", ".join(f"{name} {value}" for name, value in here.items()), end="\n\n")
    for name in options.only or BENCHES:
        began = time.monotonic()
        for table in importlib.import_module(f"bench.{name}").run(scale):
            tables.append(table)
            print(table.text(), end="\n\n", flush=True)
        print(f"[{name}: {time.monotonic() - began:.0f} s]", end="\n\n", file=sys.stderr)
    report = {"machine": here, "tables": [table.as_json() for table in tables]}
    if options.json == "-":
        print(json.dumps(report))
    elif options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        from bench.plot import svg

        Path(options.plot).write_text(svg(report))


if __name__ == "__main__":
    main()
