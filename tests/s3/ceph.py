"""
A Ceph of one node on loopback, whose objects are in memory: monitor, OSD and S3 gateway.

Debian: ``apt install --no-install-recommends ceph-mon ceph-osd ceph-base radosgw``.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable

CEPH_TOOLS = ("radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph", "ceph-authtool")
_MEMORY = 4 * 2**30

_GLOBAL = {
    "auth client required": "cephx",
    "auth cluster required": "cephx",
    "auth service required": "cephx",
    "cluster addr": "127.0.0.1",
    "mon allow pool size one": "true",
    "mon data avail crit": "1",
    "mon max pg per osd": "1000",
    "ms bind ipv6": "false",
    "osd crush chooseleaf type": "0",
    "osd pool default min size": "1",
    "osd pool default pg num": "1",
    "osd pool default pgp num": "1",
    "osd pool default size": "1",
    "paxos propose interval": "0.05",  # of seconds; each new pool waits for some
    "public addr": "127.0.0.1",
}
_CAPS = {
    "mon.": ("mon", "allow *"),
    "client.admin": ("mon", "allow *", "osd", "allow *", "mgr", "allow *"),
    "osd.0": ("mon", "allow profile osd", "osd", "allow *"),
    "client.rgw": ("mon", "allow rwx", "osd", "allow rwx"),
}


def _section(name: str, settings: dict[str, str]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {settings[key]}\n" for key in sorted(settings))


def start_ceph(
    directory: str, port: int, monitor: int, monitor_v1: int, access: str, secret: str
) -> Callable[[], list[int]]:
    """
    Start all of it in ``directory``, S3 on ``port`` of 127.0.0.1 and 127.0.0.2.

    Returns what tells the daemons' process ids; CalledProcessError where a step fails.
    """
    at = {name: os.path.join(directory, name) for name in ("mon", "osd", "rgw", "log", "run")}
    for path in at.values():
        os.mkdir(path)
    fsid, keyring = str(uuid.uuid4()), os.path.join(directory, "keyring")
    addresses = f"[v2:127.0.0.1:{monitor},v1:127.0.0.1:{monitor_v1}]"
    everybody = {
        **_GLOBAL,
        "fsid": fsid,
        "keyring": keyring,
        "mon host": addresses,
        "log file": os.path.join(at["log"], "$name.log"),
        "admin socket": os.path.join(at["run"], "$name.asok"),
        "pid file": os.path.join(at["run"], "$name.pid"),
        "run dir": at["run"],
    }
    endpoints = " ".join(f"endpoint=127.0.0.{host}:{port}" for host in (1, 2))
    configuration = os.path.join(directory, "ceph.conf")
    with open(configuration, "w") as file:
        file.write(_section("global", everybody))
        memory = {"osd objectstore": "memstore", "memstore device bytes": str(_MEMORY)}
        file.write(_section("osd", {"osd data": at["osd"], **memory}))
        gateway = {"rgw data": at["rgw"], "rgw enable apis": "s3"}
        file.write(_section("client.rgw", {**gateway, "rgw frontends": f"beast {endpoints}"}))

    environment = {**os.environ, "CEPH_CONF": configuration}

    with open(os.path.join(at["log"], "start.log"), "w") as log:

        def run(*command: str) -> None:
            subprocess.run(
                command,
                check=True,
                env=environment,
                timeout=300,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

        run("ceph-authtool", "-C", keyring)
        for name, caps in _CAPS.items():
            pairs = [
                text for at_ in range(0, len(caps), 2) for text in ("--cap", *caps[at_ : at_ + 2])
            ]
            run("ceph-authtool", keyring, "--gen-key", "-n", name, *pairs)
        monmap = os.path.join(directory, "monmap")
        run("monmaptool", "--create", "--addv", "a", addresses, "--fsid", fsid, monmap)
        monitor_data = ("-i", "a", "--mon-data", at["mon"])
        run("ceph-mon", "--mkfs", *monitor_data, "--monmap", monmap, "--keyring", keyring)
        run("ceph-mon", *monitor_data)
        run("ceph", "auth", "import", "-i", keyring)
        run("ceph", "osd", "create")
        run("ceph-osd", "-i", "0", "--mkfs", "--osd-data", at["osd"])
        run("ceph-osd", "-i", "0", "--osd-data", at["osd"])
        user = ("--uid", "yukari", "--display-name", "yukari")
        run("radosgw-admin", "user", "create", *user, "--access-key", access, "--secret", secret)
        run("radosgw", "-n", "client.rgw")

    def daemons() -> list[int]:
        found = []
        for name in os.listdir(at["run"]):
            if name.endswith(".pid"):
                with open(os.path.join(at["run"], name)) as file:
                    found.append(int(file.read()))
        return found

    return daemons
