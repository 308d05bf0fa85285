"""The verbs that bring models, and say which have newer versions upstream."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import click

from yukari.cli.client import Cache, CacheError
from yukari.cli.output import Progress, size, total_of
from yukari.cli.store import fail, for_each, model_argument, talks

ASKED_TOGETHER = 4
"""Models of a registry that a cache is asked about, or warmed with, at the same time."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@talks(trouble=2)
def outdated(cache: Cache, as_json: bool) -> None:
    """
    List the stored models that upstream has changed or removed.

    One that could not be checked is listed, too, and ends this with status 2. Else the status is 1
    if any is listed.
    """
    by_registry: dict[str, list[str]] = {}
    for each in cache.models("name", "repository"):
        registry = each["repository"].rpartition("/")[0].rpartition("/")[0]
        by_registry.setdefault(registry, []).append(each["name"])
    status = 0
    with ThreadPoolExecutor(max(1, len(by_registry))) as pool:
        asked = [pool.submit(_compare_all, cache, names) for names in by_registry.values()]
        for states in as_completed(asked):
            for name, state in states.result().items():
                if state["state"] not in ("same", "own"):
                    status = max(status, 1 if state["state"] in ("newer", "gone") else 2)
                    _print_outdated(name, state, as_json)
    sys.exit(status)


def _print_outdated(name: str, state: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"name": name, **state}))
        return
    fetched = sum(
        each["size"]
        for each in state.get("layers", [])
        if each["change"] == "added" and not each["here"]
    )
    said = {"gone": "gone upstream", "newer": f"newer upstream, {size(fetched)}"}
    click.echo(f"{name}: {said.get(state['state'], state['state'])}")


def _compare_all(cache: Cache, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Compare the models of one registry, which is not asked again once it has not answered."""
    silent: list[dict[str, Any]] = []

    def compare(name: str) -> dict[str, Any]:
        if silent:
            return silent[0]
        try:
            compared: dict[str, Any] = cache.ask("POST", "/store/compare", {"model": name})
            return compared
        except CacheError as error:
            state = {"state": f"not checked: {error}"}
            if error.status == 504:
                silent.append(state)
            return state

    with ThreadPoolExecutor(ASKED_TOGETHER) as pool:
        return dict(zip(names, pool.map(compare, names)))


@click.command()
@model_argument()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@talks(trouble=2)
def diff(cache: Cache, model: str, as_json: bool) -> None:
    """
    Show the layers of a stored MODEL that differ upstream.

    Each has its size. Ends with status 1 if upstream has another version, or none.
    """
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
    """
    Bring MODELs into the cache, or up to date.

    Ends when each is stored or has failed, with status 1 if any has failed.
    """
    for_each(model, lambda name: _pull(cache, name))


@click.command()
@model_argument(nargs=-1, required=True)
@talks()
def update(cache: Cache, model: Sequence[str]) -> None:
    """Bring stored MODELs up to date, and say which were not."""
    said = {"same": "up to date", "gone": "gone upstream", "own": "a copy made here"}

    def bring(name: str) -> None:
        state = cache.ask("POST", "/store/compare", {"model": name})["state"]
        if state == "newer":
            _pull(cache, name)
        else:
            click.echo(f"{name}: {said.get(state, state)}")

    for_each(model, bring)


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
@click.argument("file", type=click.File("r", encoding="utf-8-sig", errors="replace"))
@talks()
def warm(cache: Cache, file: Any) -> None:
    """
    Pull every model that FILE lists, one a line.

    A FILE of - is stdin. What stands behind a # is a comment. All are tried; ends with status 1 if
    one cannot be had.
    """
    lines = (line.partition("#")[0].strip() for line in file)
    models = list(dict.fromkeys(filter(None, lines)))

    def bring(model: str) -> str:
        try:
            # Lines of progress show that the cache is still at work, however long it takes.
            for _ in cache.lines("POST", "/api/pull", {"model": model}):
                pass
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
