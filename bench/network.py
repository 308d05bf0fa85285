"""
A link with a queue: two hosts in network namespaces of their own, with a router between them.

The router passes at most so many bits a second towards the near host and keeps what is too much in
a queue (``tc … tbf``), as a modem does. It has a namespace of its own because Linux lets no socket
queue much on its own machine. All of it goes when the block ends. It needs root, ``ip`` and ``tc``.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Optional

from attrs import define, field, frozen

NEAR = "10.77.1.2"
FAR = ("10.77.2.2", "10.77.2.3", "10.77.2.4")
"""The addresses of the two ends; the far one has several, for a registry with several hosts."""
_NEWNET = 0x40000000
"""CLONE_NEWNET, for `unshare` and `setns`."""


@frozen
class Link:
    """``rate`` bits a second, and a queue that holds so many ``queue`` seconds of them."""

    rate: int
    queue: float


def missing() -> Optional[str]:
    """Why there can be no such link; None if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    lacking = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    try:
        with namespace():
            return None
    except OSError as error:
        return f"no network namespace: {error}"


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextmanager
def namespace() -> Iterator[int]:
    """Yield the descriptor of a new network namespace, which goes when it is used no more."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _call("unshare", _NEWNET)
        made = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _call("setns", own, _NEWNET)
        try:
            yield made
        finally:
            os.close(made)
    finally:
        os.close(own)


@contextmanager
def inside(namespace: int) -> Iterator[None]:
    """This thread, and the processes and threads that it starts, are in that network."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _call("setns", namespace, _NEWNET)
        try:
            yield
        finally:
            _call("setns", own, _NEWNET)
    finally:
        os.close(own)


def _run(*commands: str) -> None:
    for command in commands:
        subprocess.run(command.split(), check=True, capture_output=True)


@define
class Ends:
    """The namespaces of a link's two hosts."""

    near: int
    far: int


@contextmanager
def linked(link: Link, congestion: str = "") -> Iterator[Ends]:
    """A link between two hosts, whose senders use that ``congestion`` control, or the default."""
    with ExitStack() as stack:
        near, router, far = (stack.enter_context(namespace()) for _ in range(3))
        paths = [f"/proc/{os.getpid()}/fd/{each}" for each in (near, far)]
        with inside(router):
            _run(
                f"ip link add near type veth peer name end netns {paths[0]}",
                f"ip link add far type veth peer name end netns {paths[1]}",
                "ip address add 10.77.1.1/24 dev near",
                "ip address add 10.77.2.1/24 dev far",
                *("ip link set near up", "ip link set far up"),
                "sysctl -q net.ipv4.ip_forward=1",
                f"tc qdisc add dev near root tbf rate {link.rate}bit burst 32kb"
                f" latency {round(link.queue * 1000)}ms",
            )
        for end, addresses, way in ((near, [NEAR], "10.77.1.1"), (far, FAR, "10.77.2.1")):
            with inside(end):
                _run(
                    *("ip link set lo up", "ip link set end up"),
                    *(f"ip address add {each}/24 dev end" for each in addresses),
                    f"ip route add default via {way}" + f" congctl {congestion}" * bool(congestion),
                )
        yield Ends(near, far)


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def _echo(number: int) -> bytes:
    """An echo request (RFC 792) with that sequence number."""
    head = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, number)
    return head[:2] + struct.pack("!H", _checksum(head)) + head[4:]


@define
class Moment:
    """One ping."""

    received: int
    """Bytes that had come over the link when it was sent."""
    connections: int
    """How many were open to the far end."""
    round_trip: float = 1.0
    """Seconds; 1 if it did not come back by the end."""


@define(eq=False)
class Watch:
    """
    Pings the far end and counts the connections to it, from the thread's network, in a `with`.
    """

    _every: float = 0.02
    _moments: list[Moment] = field(factory=list, init=False)
    _over: threading.Event = field(factory=threading.Event, init=False)
    _thread: threading.Thread = field(init=False)

    def __enter__(self) -> Watch:
        opened = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._thread = threading.Thread(target=self._watch, args=(opened,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def busy(self) -> list[Moment]:
        """The moments between the first and the last hundredth of what was received."""
        if not self._moments:
            return []
        first, last = self._moments[0].received, self._moments[-1].received
        edge = (last - first) / 100
        return [each for each in self._moments if first + edge < each.received < last - edge]

    def _watch(self, opened: socket.socket) -> None:
        under_way: dict[int, tuple[Moment, float]] = {}
        connections = 0
        with opened:
            while not self._over.is_set():
                number = len(self._moments) % 65536
                if number % 10 == 0:
                    connections = _connections()
                moment = Moment(_received(), connections)
                self._moments.append(moment)
                under_way[number] = moment, time.monotonic()
                opened.sendto(_echo(number), (FAR[0], 0))
                self._receive(opened, under_way, time.monotonic() + self._every)
            self._receive(opened, under_way, time.monotonic() + 0.5)

    def _receive(
        self,
        opened: socket.socket,
        under_way: dict[int, tuple[Moment, float]],
        until: float,
    ) -> None:
        while (left := until - time.monotonic()) > 0:
            opened.settimeout(left)
            try:
                packet = opened.recv(1500)
            except TimeoutError:
                continue
            kind, _, _, _, number = struct.unpack("!BBHHH", packet[20:28])
            found = under_way.pop(number, None) if kind == 0 else None
            if found is not None:
                found[0].round_trip = time.monotonic() - found[1]


def _received() -> int:
    """Bytes that have come over this network's link."""
    with open("/proc/thread-self/net/dev") as opened:
        line = next(line for line in opened if line.lstrip().startswith("end:"))
    return int(line.partition(":")[2].split()[0])


def _connections() -> int:
    """How many TCP connections from this network to the far end are established."""
    with open("/proc/thread-self/net/tcp") as opened:
        lines = [line.split() for line in opened][1:]
    far = {socket.inet_aton(each)[::-1].hex().upper() for each in FAR}
    return sum(line[2].partition(":")[0] in far and line[3] == "01" for line in lines)
