"""
The verbs that manage what a cache stores: they talk HTTP to the daemon.

Status 0 is success, 1 a failure, 2 wrong usage. `diff` and `outdated` are as diff(1): 0 for no
difference, 1 for some, 2 for trouble. What the daemon does goes on when a verb is interrupted.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from itertools import compress
from typing import Any, Optional

import click

from yukari.cli.client import DEFAULT, Cache, CacheError
from yukari.cli.output import ago, complain, counted, size, table
from yukari.config.setting import InvalidSetting
from yukari.config.units import parse_bytes

ALL = 2**62
"""More bytes than any store has."""


def talks(trouble: int = 1) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb its ``--cache``, and end it with one line and this status in case of trouble."""

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        @click.option(
            "--cache",
            "url",
            default=DEFAULT,
            envvar="YUKARI_CACHE",
            show_envvar=True,
            show_default=True,
            metavar="URL",
            help="The cache to talk to.",
        )
        @wraps(verb)
        def run(url: str, *args: Any, **keywords: Any) -> None:
            try:
                verb(Cache(url), *args, **keywords)
                sys.stdout.flush()
            except CacheError as error:
                fail(str(error), trouble)
            except KeyboardInterrupt:
                fail("interrupted: what the cache has begun goes on", 130)
            except BrokenPipeError:
                # Whoever reads the output has enough; Python would complain once more at the end.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(trouble)
            except OSError as error:
                where = "" if error.filename is None else f"{error.filename}: "
                fail(f"{where}{error.strerror or error}", trouble)

        return run

    return decorate


def fail(message: str, status: int) -> None:
    """End with one line."""
    complain(message)
    sys.exit(status)


def for_each(models: Sequence[str], do: Callable[[str], None]) -> None:
    """
    Call ``do`` with each model, even if some of them fail.

    Each failure is printed, and the verb then ends with status 1. `CacheError` if no cache answers.
    """
    failed = False
    for model in models:
        try:
            do(model)
        except CacheError as error:
            if not error.status:
                raise
            failed = True
            complain(f"{model}: {error}")
    if failed:
        sys.exit(1)


def models_here(context: click.Context, _: Any, incomplete: str) -> list[str]:
    """Complete the name of a model that the cache has."""
    try:
        cache = Cache(context.params.get("url") or os.environ.get("YUKARI_CACHE") or DEFAULT)
        names = [each["name"] for each in cache.models("name", "tag")]
    except CacheError:
        return []
    return [name for name in names if name.startswith(incomplete)][:200]


def model_argument(**more: Any) -> Callable[[Any], Any]:
    """Give a verb the argument MODEL, or several of them."""
    return click.argument("model", shell_complete=models_here, **more)


_SORTS = {
    "name": None,
    "size": "size",
    "pulls": "pulls",
    "used": "last_pull",
    "stored": "stored_at",
}
"""The columns to sort by, downwards; by their names models come sorted."""
_SHOWN = (
    *("name", "digest", "size", "last_pull", "pulls"),
    *("pinned", "own", "gone_since", "missing"),
)


@click.command("ls")
@click.option(
    "--sort",
    type=click.Choice(sorted(_SORTS)),
    default="name",
    show_default=True,
    help="By what to sort; all but names from the largest or latest down.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all of each model, as JSON lines.")
@click.argument("prefix", default="")
@talks()
def ls(cache: Cache, sort: str, as_json: bool, prefix: str) -> None:
    """List the stored models. With PREFIX, those whose names begin with it."""
    column = _SORTS[sort]
    prefix = _as_shown(cache, prefix)
    if as_json:
        models: Iterable[dict[str, Any]]
        models = (each for each in cache.models() if each["name"].startswith(prefix))
        if column is not None:
            models = sorted(models, key=lambda each: -(each[column] or 0))
        for model in models:
            shown = {**model, "own": bool(model["own"]), "details": json.loads(model["details"])}
            sys.stdout.write(json.dumps(shown) + "\n")
        return
    # Lists, and as little as can be for each of them: there may be 100,000.
    rows = cache.rows(*_SHOWN, *([column] if column else ()))
    if prefix:
        rows = [row for row in rows if row[0].startswith(prefix)]
    if column is not None:
        rows.sort(key=lambda row: -(row[-1] or 0))
    now = time.time()
    shown_rows = [
        (name, digest[:12], size(count), ago(at, now), str(pulls), _remarks(marks))
        for name, digest, count, at, pulls, *marks in rows
    ]
    table(shown_rows, "NAME", "ID", "SIZE", "PULLED", "PULLS", "")


def _as_shown(cache: Cache, name: str) -> str:
    """Return the beginning of a name as models are listed: ``hf.co/u`` for ``hf--u``."""
    if "--" not in name:
        return name
    status = cache.ask("GET", "/status")
    for each in (status["upstream"], *status["other_upstreams"]):
        if each["prefix"] is not None and name.lower().startswith(each["prefix"]):
            host = "" if each is status["upstream"] else f"{each['registry']}/"
            return host + name[len(each["prefix"]) :]
    return name


def _remarks(marks: list[Any]) -> str:
    """Return remarks on a model: pinned, a copy, gone upstream, blobs missing."""
    words = ("pinned", "own copy", "gone upstream", "incomplete")
    return ", ".join(compress(words, marks)) if any(marks[:4]) else ""


@click.command()
@model_argument()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@talks()
def show(cache: Cache, model: str, as_json: bool) -> None:
    """Show all that is known of a stored MODEL."""
    facts = cache.ask("POST", "/store/model", {"model": model})
    shown = cache.ask("POST", "/api/show", {"model": model})
    if as_json:
        click.echo(json.dumps({**facts, "show": shown}, indent=1))
        return
    now, details = time.time(), shown.get("details", {})
    clients, missing = counted(facts["clients"], "client"), facts["missing"]
    pinned, gone = facts["pinned"], facts["gone_since"]
    rows: list[tuple[str, Optional[str]]] = [
        ("name", facts["name"]),
        ("digest", f"sha256:{facts['digest']}"),
        ("family", details.get("family")),
        ("parameters", details.get("parameter_size")),
        ("quantisation", details.get("quantization_level")),
        ("capabilities", ", ".join(shown.get("capabilities") or [])),
        ("size", size(facts["size"])),
        ("own", f"{size(facts['own_bytes'])}: what removing it frees"),
        ("shared", size(facts["shared_bytes"])),
        ("stored", ago(facts["stored_at"], now)),
        ("first pull", ago(facts["first_pull"], now)),
        ("last pull", ago(facts["last_pull"], now)),
        ("pulls", f"{facts['pulls']} by {clients}, {size(facts['sent'])} sent"),
        ("checked", ago(facts["checked_at"], now)),
        ("gone upstream", ago(gone, now) if gone else None),
        ("pinned", f"by {pinned['by']}, {ago(pinned['at'], now)}" if pinned else None),
        ("copy", "made here, upstream is not asked about it" if facts["own"] else None),
        ("incomplete", f"{counted(missing, 'blob')} missing" if missing else None),
    ]
    rows += [
        ("superseded", f"sha256:{each['digest']} {ago(each['superseded_at'], now)}")
        for each in facts["superseded"]
    ]
    for name, value in rows:
        if value:
            click.echo(f"{name:<14}{value}")


@click.command()
@model_argument(nargs=-1, required=True)
@talks()
def rm(cache: Cache, model: Sequence[str]) -> None:
    """Remove MODELs, with the blobs that no other model stands on."""

    def remove(name: str) -> None:
        cache.ask("DELETE", "/api/delete", {"model": name})
        click.echo(f"removed {name}")

    for_each(model, remove)


@click.command()
@model_argument(nargs=-1, required=True)
@click.option("--by", default="", help="Who pins it; you, if not given.")
@talks()
def pin(cache: Cache, model: Sequence[str], by: str) -> None:
    """Never evict MODELs."""
    by = by or os.environ.get("USER") or "admin"

    def keep(name: str) -> None:
        found = cache.ask("POST", "/store/pin", {"model": name, "by": by})
        click.echo(f"pinned {found['pinned']}")

    for_each(model, keep)


@click.command()
@model_argument(nargs=-1, required=True)
@talks()
def unpin(cache: Cache, model: Sequence[str]) -> None:
    """Let MODELs be evicted again."""

    def release(name: str) -> None:
        found = cache.ask("POST", "/store/unpin", {"model": name})
        click.echo(f"unpinned {found['unpinned']}")

    for_each(model, release)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@talks()
def du(cache: Cache, as_json: bool) -> None:
    """Show what the store's bytes are for."""
    usage = cache.ask("GET", "/store/usage")
    if as_json:
        click.echo(json.dumps(usage))
        return
    for name, key in (
        ("stored", "stored"),
        ("of it shared", "shared"),
        ("of it superseded", "superseded"),
        ("of it unneeded", "unneeded"),
        ("on its way", "on_their_way"),
        ("bound", "bound"),
        ("free", "free"),
    ):
        click.echo(f"{name:<18}{size(usage[key]):>10}")
    click.echo(f"{counted(usage['models'], 'model')}, {counted(usage['blobs'], 'blob')}")
    if not usage["complete"]:
        click.echo("the store is still being looked through: the numbers grow", err=True)


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@talks()
def gc(cache: Cache, dry_run: bool, as_json: bool) -> None:
    """
    Remove the blobs that no model stands on.

    Superseded versions past their lifetime are removed first.
    """
    swept = cache.ask("POST", "/store/collect", {"dry_run": dry_run})
    if as_json:
        click.echo(json.dumps(swept))
        return
    would = "would be " if dry_run else ""
    click.echo(f"{counted(swept['blobs'], 'blob')}, {size(swept['bytes'])} {would}removed")


@click.command()
@click.option("--dry-run", is_flag=True, help="Needed: the daemon alone evicts, this only shows.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("need", default="", metavar="[SIZE]")
@talks()
def evict(cache: Cache, dry_run: bool, as_json: bool, need: str) -> None:
    """
    Show which models would be evicted next.

    With SIZE, only as many as free so many bytes. Says why others stay that would have gone before.
    """
    if not dry_run:
        fail("models are evicted by the daemon when it needs room: see --dry-run, and rm", 2)
    try:
        wanted = parse_bytes(need) if need else ALL
    except InvalidSetting as error:
        fail(f"{need!a}: {error}", 2)
        return
    plan = cache.ask("POST", "/store/evictions", {"bytes": wanted})
    if as_json:
        click.echo(json.dumps(plan))
        return
    rows = [(each["name"], size(each["size"]), each["reason"]) for each in plan["goes"]]
    rows += [
        (each["name"], size(each["size"]), f"stays: {each['reason']}") for each in plan["stays"]
    ]
    table(rows, "NAME", "SIZE", "WHY")
    click.echo(f"{size(plan['frees'])} would be freed", err=True)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@talks()
def status(cache: Cache, as_json: bool) -> None:
    """Show whether the cache is ready, and what is on its way. Status 1 if it is not ready."""
    found = cache.ask("GET", "/status")
    ready = cache.ask("GET", "/readyz", also=(503,))
    if as_json:
        click.echo(json.dumps({**found, **ready}))
    else:
        well = "ready" if ready["ready"] else f"not ready: {'; '.join(ready['reasons'].values())}"
        click.echo(f"yukari {found['version']} at {cache.url}: {well}")
        store = found["store"]
        for upstream in (found["upstream"], *found["other_upstreams"]):
            if not upstream["reachable"]:
                click.echo(upstream["error"])
        if store is not None:
            of = "" if store["bound"] is None else f" of {size(store['bound'])}"
            click.echo(f"{counted(store['models'], 'model')}, {size(store['stored'])}{of} stored")
        for fill in found["fills"]:
            click.echo(
                f"{fill['digest'][7:19]}  {fill['model']}  {fill['state']}"
                f"  {fill['percent']:.0f}% of {size(fill['size'])}, {fill['rate']} MB/s"
            )
    sys.exit(0 if ready["ready"] else 1)
