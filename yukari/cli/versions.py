"""The verbs that bring models, and say which have newer versions upstream."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

from yukari.cli.client import Cache, CacheError
from yukari.cli.output import Progress, size, total_of
from yukari.cli.store import fail, model_argument, talks

ASKED_TOGETHER = 4
"""Models that a cache is asked about, or warmed with, at the same time."""


@click.command()
@click.option("--json", "as_json", is_flag=True)
@talks(trouble=2)
def outdated(cache: Cache, as_json: bool) -> None:
    """List the stored models of which upstream has a newer version, or none any more."""
    names = [each["name"] for each in cache.models("name", "tag")]
    found = False
    with ThreadPoolExecutor(ASKED_TOGETHER) as pool:
        for name, state in zip(names, pool.map(lambda name: _compared(cache, name), names)):
            if state["state"] in ("same", "own"):
                continue
            found = True
            if as_json:
                click.echo(json.dumps({"name": name, **state}))
            else:
                fetched = sum(
                    each["size"]
                    for each in state.get("layers", [])
                    if each["change"] == "added" and not each["here"]
                )
                said = {"gone": "gone upstream", "newer": f"newer upstream, {size(fetched)}"}
                click.echo(f"{name}: {said.get(state['state'], state['state'])}")
    sys.exit(1 if found else 0)


def _compared(cache: Cache, name: str) -> dict[str, Any]:
    try:
        compared: dict[str, Any] = cache.ask("POST", "/store/compare", {"model": name})
        return compared
    except CacheError as error:
        return {"state": f"not checked: {error}"}


@click.command()
@model_argument()
@click.option("--json", "as_json", is_flag=True)
@talks(trouble=2)
def diff(cache: Cache, model: str, as_json: bool) -> None:
    """Show which layers of a stored MODEL are others upstream by now, and how many bytes."""
    state = cache.ask("POST", "/store/compare", {"model": model})
    if as_json:
        click.echo(json.dumps(state))
    elif state["state"] != "newer":
        said = {"gone": "gone upstream", "own": "a copy made here"}
        if state["state"] in said:
            click.echo(said[state["state"]])
    else:
        for each in state["layers"]:
            sign = "+" if each["change"] == "added" else "-"
            here = "  stored already" if sign == "+" and each["here"] else ""
            kind = each["type"].rpartition(".")[2]
            click.echo(f"{sign} {each['digest'][7:19]}  {size(each['size']):>9}  {kind}{here}")
    sys.exit(0 if state["state"] in ("same", "own") else 1)


@click.command()
@model_argument(nargs=-1, required=True)
@talks()
def pull(cache: Cache, model: Sequence[str]) -> None:
    """Bring MODELs into the cache, or up to date, and wait for them."""
    for each in model:
        _pull(cache, each)


@click.command()
@model_argument(nargs=-1, required=True)
@talks()
def update(cache: Cache, model: Sequence[str]) -> None:
    """Bring stored MODELs up to date, and say which were not."""
    for each in model:
        state = cache.ask("POST", "/store/compare", {"model": each})
        if state["state"] == "newer":
            _pull(cache, each)
        else:
            said = {"same": "up to date", "gone": "gone upstream", "own": "a copy made here"}
            click.echo(f"{each}: {said.get(state['state'], state['state'])}")


def _pull(cache: Cache, model: str) -> None:
    progress, blobs, notes = Progress(model), {}, []
    for line in cache.lines("POST", "/api/pull", {"model": model}):
        if "digest" in line:
            blobs[line["digest"]] = line.get("completed", 0), line.get("total", 0)
            progress.show(*total_of(blobs))
        elif line.get("note"):
            notes.append(line["status"])
    progress.end(f"{model}: {'; '.join(notes) or 'pulled'}")


@click.command()
@click.argument("file", type=click.File("r"))
@talks()
def warm(cache: Cache, file: Any) -> None:
    """
    Pull every model that FILE lists, one a line; - is standard input.

    What stands behind a # is a comment. All are tried; the status is 1 if one cannot be had.
    """
    lines = (line.partition("#")[0].strip() for line in file)
    models = list(dict.fromkeys(filter(None, lines)))

    def bring(model: str) -> str:
        try:
            cache.ask("POST", "/api/pull", {"model": model, "stream": False})
            return ""
        except CacheError as error:
            return str(error)

    failed = 0
    with ThreadPoolExecutor(ASKED_TOGETHER) as pool:
        for model, error in zip(models, pool.map(bring, models)):
            failed += bool(error)
            click.echo(f"{model}: {error or 'here'}", err=bool(error))
    if failed:
        fail(f"{failed} of {len(models)} models could not be had", 1)
