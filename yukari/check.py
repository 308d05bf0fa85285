"""
A health check as an exit status: ``python -m yukari.check [URL]``.

It is for containers, whose images have no curl. Without a URL it asks ``/healthz`` where this
environment makes the daemon listen: by BIND, or by the file that YUKARI_CONFIG names. It imports
nothing that is slow to import.
"""

from __future__ import annotations

import http.client
import os
import re
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WITHIN = 5.0
"""Seconds that the daemon has to answer."""


def url_of(environment: Mapping[str, str]) -> str:
    """
    Return the URL of the daemon that this environment sets up; ValueError if BIND does not tell.
    """
    binds = environment.get("BIND", "").split() or _in_file(environment.get("YUKARI_CONFIG", ""))
    bind = (binds or [":9200"])[0]
    tls = re.match(r"ssl:(?:port=)?(\d+)", bind) or re.match(r"tls:.*?:(?:port=)?(\d+)", bind)
    if tls:
        return f"https://localhost:{tls[1]}/healthz"
    tcp = re.match(r"tcp6?:(?:port=)?(\d+)", bind)
    host, _, port = ("", "", tcp[1]) if tcp else bind.rpartition(":")
    if not port.isdecimal() or host.partition(":")[0] in ("systemd", "unix"):
        raise ValueError(f"BIND {bind} does not tell the URL: python -m yukari.check URL")
    if host in ("", "0.0.0.0", "[::]"):  # noqa: S104
        host = "localhost"
    return f"http://{host}:{port}/healthz"


def _in_file(path: str) -> list[str]:
    """Return what a configuration file has for BIND; ValueError if it cannot be read."""
    if not path.strip():
        return []
    try:
        with open(os.path.expanduser(path.strip()), "rb") as file:
            found = tomllib.load(file).get("bind", "")
    except (OSError, ValueError) as error:
        raise ValueError(f"YUKARI_CONFIG {path}: {error}") from None
    return " ".join(map(str, found)).split() if isinstance(found, list) else str(found).split()


def problem(url: str) -> str:
    """Return what is wrong with the daemon's answer, "" if nothing is."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(url, timeout=WITHIN):
            return ""
    except urllib.error.HTTPError as error:
        body = error.read(500).decode("utf-8", "replace").strip()
        return f"{url}: {error.code} {body}".strip()
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{url}: {getattr(error, 'reason', None) or error}"


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Return 0 if the daemon is well, else 1, with one line on stderr that says why."""
    try:
        wrong = problem(arguments[0] if arguments else url_of(environment))
    except ValueError as error:
        wrong = str(error)
    if wrong:
        print(wrong, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
