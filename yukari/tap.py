"""
The command line, and the service that it starts: ``twistd yukari`` and ``yukari``.
"""

from __future__ import annotations

import gc
import linecache
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from textwrap import wrap
from typing import Any, Optional

from attrs import define, field
from twisted.application.service import IService, Service
from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python import usage

from yukari import __version__
from yukari.config.proxies import Proxies
from yukari.config.settings import SETTINGS, SettingError, Settings
from yukari.daemon.logs import LoggedService
from yukari.daemon.pidfile import check_pid_file
from yukari.fatal import WRONG_USE, end

log = Logger()

COLLECTED_AFTER = 10_000, 5, 40
"""
How many objects more are alive when the collector looks at the new ones, how often it does that
before it looks at those that stayed, and how often that before it looks at all: two millions, or
those of 20,000 connections. By default it looked at all ten times while 12,800 of them connected,
2 s in all, in which nobody got a byte.
"""
COLLECTED_EVERY = 60.0
"""
Seconds from one look at all objects to the next in any case. Connections over TLS leave cycles,
which a quiet daemon would keep for days.
"""


class Options(usage.Options):
    """A flag for each of `SETTINGS`; ``settings`` has the values from flags and environment."""

    longdesc = (
        "A pull-through cache for Ollama model registries. Each option can also be set by the"
        " environment variable named beside it; the option wins. With a verb, yukari manages a"
        " running cache: ls, pull, show, rm, pin, du and more, see yukari help."
    )
    optParameters = [
        [row.flag, None, None, row.described]
        for row in SETTINGS
        if not row.several and not row.switch
    ]
    settings: Settings
    proxies: Proxies

    def getSynopsis(self) -> str:
        """Return both ways to start it."""
        return "Usage: yukari [options]\n   or: twistd [twistd options] yukari [options]"

    def getUsage(self, width: Optional[int] = None) -> str:
        """Return the text of ``--help``: the settings under the headings of their groups."""
        columns = width or int(os.environ.get("COLUMNS") or 80)
        lines = wrap(self.longdesc, columns)
        for group, rows in groupby(SETTINGS, lambda row: row.group):
            lines += ["", f"{group}:"]
            for row in rows:
                lines.append(f"  --{row.flag}{'' if row.switch else '='}")
                margin = " " * 6
                lines += wrap(
                    row.described, columns, initial_indent=margin, subsequent_indent=margin
                )
        lines += ["", "  --version", "      Display Yukari's version and exit.", "  --help"]
        return "\n".join([*lines, "      Display this help and exit.", ""])

    def opt_version(self) -> None:
        """Display Yukari's version and exit."""
        print(f"yukari {__version__}")
        sys.exit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse; an error ends the program with one line, without the usage before it."""
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            end(error, status=WRONG_USE)

    def read_again(self) -> Settings:
        """Read the settings as they are now; `SettingError`."""
        # A daemon may have changed its directory.
        return Settings.read({**self, "config": self.settings.config}, os.environ)

    def parseArgs(self, *args: str) -> None:
        """Refuse arguments: there are only options."""
        if args:
            end(f"{args[0]!a}: expected options only, see yukari --help", status=WRONG_USE)

    def postOptions(self) -> None:
        """Read the settings and the proxies, before twistd looks at its pid file."""
        try:
            self.settings = Settings.read(self, os.environ)
        except SettingError as error:
            end(*str(error).splitlines())
        self.proxies = Proxies.read(os.environ)
        twistd: Any = self.parent or {}
        if twistd.get("pidfile"):
            check_pid_file(twistd["pidfile"])


def _add_handlers() -> None:
    """Add handlers for flags that `usage.Options` has no table for: repeated ones and switches."""

    def repeated(flag: str) -> Any:
        def opt(self: Options, value: str) -> None:
            self[flag] = (*self.get(flag, ()), value)

        return opt

    def switched(flag: str) -> Any:
        def opt(self: Options) -> None:
            self[flag] = True

        return opt

    for row in SETTINGS:
        if row.several or row.switch:
            handler = (repeated if row.several else switched)(row.flag)
            setattr(Options, f"opt_{row.name}", handler)


_add_handlers()


def makeService(options: Options) -> IService:
    """Make the daemon, not yet started; twistd's own options say where its log goes."""
    gc.freeze()  # What is loaded by now stays: the first look at all would take 50 ms for it.
    from twisted.internet import reactor as running

    from yukari.daemon.allocator import keep_freed
    from yukari.daemon.reloading import Reloader, takes
    from yukari.daemon.service import YukariService
    from yukari.net.resolving import resolver

    reactor: Any = running
    # Twisted's clock is the time of day: set back by an hour, it would delay every timer by an
    # hour.
    reactor.seconds = time.monotonic
    reactor.installNameResolver(resolver(reactor))
    keep_freed()
    settings = options.settings
    service = LoggedService(settings.slog_level, settings.log_format, options.parent or {})
    yukari = YukariService(reactor, settings, options.proxies, give_up_after=_give_up_after)
    stop = dict.fromkeys(("shutdown_delay", "grace"), yukari.take_stop)
    takers = {**takes(yukari.parts, service.set_level), **stop}
    reloader = Reloader(settings, options.read_again, takers)
    hangups = Hangups(reactor, (service.reopen, yukari.reload, reloader.reload))
    hangups.setServiceParent(service)
    yukari.setServiceParent(service)
    reactor.callWhenRunning(_end_when_told, reactor, yukari.hurry)
    reactor.callWhenRunning(_spare_the_collector)
    return service


def _spare_the_collector() -> None:
    """
    Exempt the objects of the start, which live as long as the process, from garbage collection,
    which would block the reactor to look through them; and have it look at all others rarely.
    """
    linecache.clearcache()  # attrs has the source of its methods there, for debuggers: 0.7 MB.
    LoopingCall(gc.collect).start(COLLECTED_EVERY)  # The first time at once.
    gc.freeze()
    gc.set_threshold(*COLLECTED_AFTER)
    gc.enable()


def _give_up_after(seconds: float) -> None:
    """
    End the process after ``seconds`` if it is still there: a thread whose disk does not answer
    cannot be ended.
    """

    def give_up() -> None:
        log.error(
            "the disk is still busy {seconds} s after everything else has stopped: exiting without"
            " it; fills continue at the next start",
            seconds=seconds,
        )
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()


def _end_when_told(reactor: Any, hurry: Callable[[], None]) -> None:
    """
    Stop on SIGTERM and Ctrl-C; a second one skips the waiting.

    For SIGTERM the status is 0: twistd would end by the signal itself, which Docker and others
    report as a failure, 143.
    """

    def stop() -> None:
        try:
            reactor.stop()
        except ReactorNotRunning:  # It is stopping already.
            hurry()

    def told(number: int, _: object) -> None:
        if number == signal.SIGINT:
            reactor._exitSignal = number
        reactor.callFromThread(stop)

    signal.signal(signal.SIGTERM, told)
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
        signal.signal(signal.SIGINT, told)


@define(eq=False, repr=False)
class Hangups(Service):
    """On SIGHUP calls all ``reloads``; a daemon whose terminal has gone ends, as is usual."""

    _reactor: Any
    _reloads: Sequence[Callable[[], None]]
    _had_terminal: bool = field(default=False, init=False)
    _due: bool = field(default=False, init=False)

    def startService(self) -> None:
        super().startService()
        self._had_terminal = _is_terminal()
        signal.signal(signal.SIGHUP, self.told)

    def told(self, _: int, __: object) -> None:
        """Handle the signal; several before the reactor's next turn count as one."""
        if self._had_terminal and not _is_terminal():
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if not self._due:
            self._due = True
            self._reactor.callFromThread(self._reload)

    def _reload(self) -> None:
        self._due = False
        for each in self._reloads:
            try:
                each()
            except Exception:
                log.failure("reloading on SIGHUP")  # the others are not to suffer from it


def _is_terminal() -> bool:
    """Whether standard input is a terminal that has not been hung up."""
    try:
        return os.isatty(0)
    except OSError:
        return False


def main() -> None:
    """Run ``twistd -n yukari`` with these arguments and without its pid file."""
    from twisted.scripts.twistd import run

    if "--help" in sys.argv[1:]:
        # Otherwise "yukari --help | head" ends with a traceback.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.argv[:] = ["twistd", "-n", "--pidfile=", "yukari", *sys.argv[1:]]
    run()
