"""
``yukari probe``: ask the registry as a client would, and say step by step what was seen.

What it does is what the daemon does for a first pull, by the same code: connect, answer the
challenge, fetch the manifest, find where blobs are, and read a little of the largest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime, timezone
from hashlib import sha256
from socket import SOCK_STREAM, getaddrinfo
from typing import Any, NoReturn, Optional
from urllib.parse import urlsplit

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.task import react
from twisted.internet.threads import deferToThread
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse

from yukari import __version__
from yukari.cli.recorder import Recorder
from yukari.config.proxies import Proxies
from yukari.config.registries import RegistrySettings
from yukari.config.registry_names import RegistryNames, answers_by_agent, id_of
from yukari.config.settings import SettingError, Settings
from yukari.config.units import shown_bytes
from yukari.daemon.mirrors import keys_of, make_connections, own_key_path
from yukari.descriptors import Descriptor
from yukari.errors import RegistryError
from yukari.manifest import Manifest, ManifestList, Variant
from yukari.names import DEFAULT, Digest, InvalidName, Reference, Repository, parse_reference
from yukari.net.agent import Connections
from yukari.net.bodies import Beginning, content_encoding, discard
from yukari.net.handshake import shake_hands
from yukari.net.http import header, place_in, why, within
from yukari.sources.base import SourceFailed, SourceRefused
from yukari.sources.own_key import BorrowedKey
from yukari.sources.range_reply import WrongSize, check_encoding, span_of_part, span_of_whole
from yukari.sources.registry import Registry
from yukari.sources.upstream import Upstream
from yukari.sources.ways import Way
from yukari.spans import Span

CLIENT = "ollama/0.34.4 (amd64 linux) Go/go1.26.0"
"""The User-Agent of the client that is played."""
NEWER_CLIENT = "ollama/0.40.0 (amd64 linux) Go/go1.26.0"
"""The User-Agent of a client that accepts lists."""
STEP_WITHIN = 60.0
"""Seconds for each step."""
SAMPLE = 1024 * 1024
"""Bytes of a blob that are read."""


class Wrong(Exception):
    """A fault that was found, and what to do about it."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what)
        self.advice = advice


def parse_model(text: str, names: RegistryNames) -> tuple[Repository, Reference]:
    """Parse ``[HOST/][NAMESPACE/]MODEL[:TAG]`` or ``...@DIGEST``; `InvalidName`."""
    registry, (host, slash, rest) = DEFAULT, text.partition("/")
    named = names.find(host) if slash else None
    if named is not None:
        registry, text = named, rest
    name, at, reference = text.partition("@")
    if not at:
        name, _, reference = text.partition(":")
    name = name if "/" in name else f"library/{name}"
    namespace, _, model = name.partition("/")
    if "/" in model:
        shown = ascii(name)[:100]
        raise InvalidName(f"{shown}: expected [HOST/][NAMESPACE/]MODEL, HOST one that is mirrored")
    return names.repository(namespace, model, registry), parse_reference(reference or "latest")


@define(eq=False, repr=False)
class Probe:
    """One model of one registry, asked for step by step; ``say`` gets each line's name and text."""

    _reactor: Any
    _settings: Settings
    _proxies: Proxies
    _name: Repository
    _reference: Reference
    _say: Callable[[str, str], None]
    _asked: RegistrySettings = field(init=False)
    """The registry of the model."""
    _connections: Connections = field(init=False)
    _recorder: Recorder = field(init=False)
    _registry: Registry = field(init=False)
    _upstream: Upstream = field(init=False)
    _key: BorrowedKey = field(init=False)
    _manifest: Optional[Manifest] = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        settings = self._settings
        registries = settings.registries
        self._asked = next(
            (each for each in registries if id_of(each, registries) == self._name.host),
            registries[0],
        )
        registry = self._asked.url
        self._connections = make_connections(
            self._reactor, settings, self._asked, self._proxies, None
        )
        self._recorder = Recorder(self._connections.agent)
        self._key = BorrowedKey(own_key_path(settings))
        self._registry = Registry(
            registry,
            self._recorder,
            self._reactor,
            proxy=self._connections.answered_by(registry.url),
            keys=keys_of(self._asked, settings, self._key),
            by_agent=answers_by_agent(self._asked),
            challenge=self._asked.challenge,
            is_default=self._asked is registries[0],
        )
        self._upstream = Upstream(self._registry)

    async def run(self) -> bool:
        """Take all steps, up to the first that goes wrong; return whether none did."""
        registry = self._asked.url
        self._say(
            "probe", f"yukari {__version__} asks {registry} for {self._name}:{self._reference}"
        )
        if self._settings.offline:
            self._say("offline", "OFFLINE is set: the daemon would not ask at all")
        steps: tuple[tuple[str, Callable[[], Coroutine[Any, Any, None]]], ...] = (
            ("address", self._address),
            ("TLS", self._tls),
            ("manifest", self._ask_manifest),
            ("list", self._ask_list),
            ("digest", self._ask_digest),
            ("blobs", self._ask_blob),
        )
        try:
            for name, step in steps:
                work = Deferred.fromCoroutine(step())
                try:
                    await within(STEP_WITHIN, work, self._reactor)
                except TimeoutError:
                    wrong = f"no end within {STEP_WITHIN:.0f} s"
                    self._complain(name, Wrong(wrong, "look for what holds up this connection"))
                    return False
                except Wrong as error:
                    self._complain(name, error)
                    return False
        finally:
            await self._connections.close()
        self._say("OK", "a client can pull this through the cache")
        return True

    def _complain(self, name: str, error: Wrong) -> None:
        self._say(name, f"WRONG: {error}")
        self._say("do", error.advice)

    # steps

    async def _address(self) -> None:
        registry = self._asked.url
        proxy = self._connections.proxy(registry.url)
        self._say("proxy", "none" if proxy is None else f"{proxy} ({proxy.kind})")
        address = self._asked.address
        if address is not None:
            self._say("address", f"{address.host}, by UPSTREAM_ADDRESS")
        host = registry.hostname if address is None else address.host
        finding = deferToThread(getaddrinfo, host.strip("[]"), None, type=SOCK_STREAM)
        try:
            found = ", ".join(dict.fromkeys(str(each[4][0]) for each in await finding))
        except OSError:
            if proxy is None:
                wrong = f"the name {host} cannot be resolved"
                raise Wrong(wrong, "check it, and this machine's DNS and network") from None
            found = "not known here; the proxy may know it"
        self._say("address", f"{host}: {found}")

    async def _tls(self) -> None:
        registry = self._asked.url
        if registry.scheme != "https":
            self._say("TLS", "none: the registry's URL is http")
            return
        try:
            shown = await shake_hands(self._connections.endpoint(registry.url))
        except CancelledError:
            raise
        except Exception as error:
            raise Wrong(
                f"no connection to {registry.host}: {why(error)}",
                "check the network and its firewall, HTTPS_PROXY and this machine's clock; if a"
                " proxy here signs certificates itself, give its root by UPSTREAM_CA",
            ) from None
        days = (shown.expires - datetime.now(timezone.utc)).days
        until = f"expires {shown.expires:%Y-%m-%d}, in {days} days"
        self._say("TLS", f"{shown.version}, certificate by {shown.issuer}, {until}")

    async def _ask_manifest(self) -> None:
        began = self._reactor.seconds()
        try:
            found = await self._runnable()
        except RegistryError as error:
            self._tell_challenge()
            raise Wrong(f"{error.status}: {error.message}", _advice(error)) from None
        seconds = self._reactor.seconds() - began
        self._tell_challenge()
        self._manifest = found
        size = shown_bytes(sum(blob.size for blob in found.blobs))
        self._say("manifest", f"{len(found.blobs)} blobs of {size}, after {seconds:.2f} s")

    async def _runnable(self) -> Manifest:
        """Return the tag's manifest; of a list its first child."""
        found = await self._upstream.manifest(self._name, self._reference, CLIENT)
        if not isinstance(found, ManifestList):
            return found
        self._say("", "a list came though none was asked for: the cache serves its first child")
        child = found.by_preference()[0]
        return child.inline or await self._upstream.child(self._name, child.digest)

    async def _ask_list(self) -> None:
        """Show what clients that accept lists get."""
        asked = self._upstream.manifest(self._name, self._reference, NEWER_CLIENT, Variant.LIST)
        try:
            found = await asked
        except RegistryError as error:
            raise Wrong(f"{error.status}: {error.message}", _advice(error)) from None
        if isinstance(found, ManifestList):
            runners = ", ".join(child.runner or "no runner" for child in found.children)
            self._say("list", f"Ollama 0.40 gets a list for {runners}: {found.digest}")
        else:
            self._say("list", "none: Ollama 0.40 gets a plain manifest too")

    def _tell_challenge(self) -> None:
        """Say whether there was a challenge, and how it was answered."""
        seen = self._recorder.seen
        if not seen:
            return
        challenged = next((each for each in seen if each.challenge is not None), None)
        if challenged is None or challenged.challenge is None:
            self._say("challenge", "none")
            return
        realm = challenged.challenge.realm
        self._say("challenge", f"{challenged.host} wants a token of {realm}")
        place = urlsplit(realm)
        for each in seen:
            if (each.host, each.path) == (place.netloc, place.path):
                self._say("", f"the realm answered {each.code} to a request {each.shown}")
            elif each.code in (401, 403) and each is not challenged:
                self._say("", f"{each.host} answered {each.code} to a request {each.shown}")
        url = f"{place.scheme}://{challenged.host}{challenged.path}"
        way = self._registry.authorizer.way(url)
        if way is not Way.PLAIN:
            note = f" ({self._key.note})" if way is Way.OWN_KEY and self._key.note else ""
            self._say("answered", f"requests get in {way.value}{note}")

    async def _ask_digest(self) -> None:
        assert self._manifest is not None
        self._say("digest", str(self._manifest.digest))
        try:
            told = await self._upstream.manifest_digest(self._name, self._reference, CLIENT)
        except RegistryError as error:
            raise Wrong(f"HEAD: {error.message}", _advice(error)) from None
        if told is None:
            self._say("", "HEAD tells no digest: each check for a newer one costs a GET")
        elif told != self._manifest.digest:
            self._say("", f"HEAD tells another, {told}: each check will cost a GET")
        else:
            self._say("", "HEAD tells the same")

    async def _ask_blob(self) -> None:
        assert self._manifest is not None
        blob = max(self._manifest.blobs, key=lambda each: each.size, default=None)
        if blob is None or not blob.size:
            self._say("blobs", "none that has any bytes")
            return
        span = Span(0, min(SAMPLE, blob.size))
        registry = self._asked.url
        url = self._registry.url_of(self._name, "blobs", blob.digest)
        began = self._reactor.seconds()
        try:
            response, at = await self._registry.get(url, span)
        except SourceRefused as refused:
            raise Wrong(refused.error.message, _advice(refused.error)) from None
        except SourceFailed as failed:
            _fail_blob(str(failed))
        host = place_in(at)
        where = "at the registry itself" if host == registry.host else f"at {host}"
        if response.code not in (200, 206):
            discard(response, self._reactor)
            _fail_blob(f"{host} answered {response.code}")
        self._say("blobs", where)
        count = self._check_range(response, span, blob, host)
        body = await self._sample(response, count, host)
        seconds = max(self._reactor.seconds() - began, 1e-6)
        if len(body) < count:
            _fail_blob(f"{host} sent {len(body)} bytes of {count}")
        if count == blob.size and Digest(sha256(body).hexdigest()) != blob.digest:
            _fail_blob(f"{host} sent other bytes than {blob.digest} has")
        rate = shown_bytes(len(body) / seconds)
        self._say(
            "speed", f"{rate}/s, {shown_bytes(len(body))} in {seconds:.2f} s on one connection"
        )

    def _check_range(self, response: IResponse, span: Span, blob: Descriptor, host: str) -> int:
        """Return how many of the wanted bytes a reply has; `Wrong` if it is of no use."""
        length = None if response.length is UNKNOWN_LENGTH else int(response.length)
        encoding = content_encoding(response)
        try:
            if response.code == 200:
                sent = span_of_whole(length, blob.size)
            else:
                sent = span_of_part(header(response, b"content-range"), span, blob.size, length)
            check_encoding(encoding, length, len(sent))
        except WrongSize as error:
            discard(response, self._reactor)
            _fail_blob(f"{host} sent {error}: the manifest says {blob.size}")
        except SourceFailed as error:
            discard(response, self._reactor)
            _fail_blob(f"{host}: {error}")
        if len(sent) > len(span):
            self._say("Range", "ignored: blobs come by one connection, from their first byte")
            return len(span)
        self._say("Range", "honoured" if sent == span else f"honoured for {len(sent)} bytes")
        return len(sent)

    async def _sample(self, response: IResponse, count: int, host: str) -> bytes:
        """Return the first bytes of a body; the rest is not read."""
        sample = Beginning(count)
        response.deliverBody(sample)
        try:
            return await sample.done
        except CancelledError:
            raise
        except Exception as error:
            _fail_blob(f"{host} broke off: {why(error)}")


def _fail_blob(what: str) -> NoReturn:
    raise Wrong(
        what,
        "blobs come from another host than manifests as a rule: let this machine reach that one,"
        " and look whether a proxy or a firewall changes what it answers",
    )


def _advice(error: RegistryError) -> str:
    """Return what to do about an error that a client would get."""
    return _ADVICE.get(error.status, _ADVICE[502])


_ADVICE = {
    400: "ask for another tag: the registry refuses this one",
    403: "check the model's name; if it is private, set UPSTREAM_KEY to a key that may pull it",
    404: "check the model's name and tag; hf.co and others need NAMESPACE/MODEL",
    412: "nothing: the registry wants a newer Ollama than the one that is played here",
    429: "wait, and then ask for less at a time (UPSTREAM_CONNECTIONS)",
    502: "check that UPSTREAM_REGISTRY is a registry, and try again later; the registry or a proxy"
    " before it may be out of order",
    504: "check whether a firewall drops what this machine sends, and try again",
}


def main(model: str, flags: Mapping[str, object]) -> int:
    """Probe with these flags and this process's environment; return the exit status."""
    try:
        settings = Settings.read(flags, os.environ)
        name, reference = parse_model(model, RegistryNames.of(settings.registries))
    except (SettingError, InvalidName) as error:
        print(f"yukari: {error}", file=sys.stderr)
        return 1
    proxies = Proxies.read(os.environ)
    status = 1

    def say(what: str, text: str) -> None:
        shown = "".join(each if each.isprintable() else "?" for each in text)
        print(f"{what:<10} {shown}", flush=True)

    async def probe(reactor: Any) -> None:
        nonlocal status
        made = Probe(reactor, settings, proxies, name, reference, say)
        status = 0 if await made.run() else 1

    try:
        react(lambda reactor: Deferred.fromCoroutine(probe(reactor)))
    except SystemExit as ended:
        return status if not ended.code else 1
    return status
