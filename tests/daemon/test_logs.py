"""Logs: one object a line, or lines for people, and never an end of the daemon."""

import json
import os
import signal
import sys
from io import StringIO
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.application.service import Application, Service
from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher
from twisted.python import log as legacy
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.strategies import blob_digests
from yukari.daemon.logs import LoggedService, console_line, install, json_line, observer
from yukari.fatal import end
from yukari.names import DEFAULT, Digest, Repository, Tag

EVENT = {
    "log_time": 1_700_000_000.1239,
    "log_level": LogLevel.info,
    "log_namespace": "yukari.x",
    "log_format": "got {what}",
    "what": "it",
}
field_names = st.text().filter(lambda name: not name.startswith("log_"))
simple = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


class Terminal(StringIO):
    """A stream that a person looks at."""

    def isatty(self) -> bool:
        return True


class Broken:
    """A stream whose reader has gone."""

    def write(self, text: str) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self) -> None:
        raise BrokenPipeError(32, "Broken pipe")


def failure(text: str = "no such thing") -> Failure:
    """One with a traceback."""
    try:
        raise KeyError(text)
    except KeyError:
        return Failure()


class JsonTests(SynchronousTestCase):
    def parsed(self, **event: Any) -> dict[str, Any]:
        line = json_line({**EVENT, **event})
        self.assertNotIn("\n", line)
        made = json.loads(line)
        assert isinstance(made, dict)
        return made

    def test_an_event_is_one_object(self) -> None:
        self.assertEqual(
            self.parsed(status=200, seconds=0.5, hit=True, client=None),
            {
                "time": "2023-11-14T22:13:20.123Z",
                "level": "INFO",
                "msg": "got it",
                "what": "it",
                "status": 200,
                "seconds": 0.5,
                "hit": True,
                "client": None,
            },
        )

    @given(blob_digests())
    def test_our_values_are_written_as_text(self, digest: Digest) -> None:
        made = self.parsed(digest=digest, model=Repository(DEFAULT, "a", "b"), tag=Tag("c"))
        self.assertEqual((made["digest"], made["model"], made["tag"]), (str(digest), "a/b", "c"))

    def test_other_objects_are_left_out(self) -> None:
        self.assertEqual(self.parsed(request=object(), parts=[1], log_source=1), self.parsed())

    def test_a_failure_has_its_error_and_traceback(self) -> None:
        made = self.parsed(log_failure=failure())
        self.assertEqual(made["error"], "KeyError: 'no such thing'")
        self.assertIn("test_logs.py", made["traceback"])

    def test_a_legacy_event_is_written(self) -> None:
        seen: list[Any] = []
        publisher = legacy.LogPublisher()
        new = LogPublisher(seen.append)
        publisher._publishPublisher = new
        publisher.msg("hello", "there")
        made = json.loads(json_line(seen[0]))
        self.assertEqual((made["msg"], made["level"]), ("hello there", "INFO"))
        self.assertEqual(set(made), {"time", "level", "msg"})

    @given(st.dictionaries(field_names, simple), st.text())
    def test_any_event_is_strict_json_on_one_line(self, fields: dict[str, Any], text: str) -> None:
        event = {**fields, **EVENT, "log_format": "{what}", "what": text}
        line = json_line(event)
        self.assertTrue(line.isascii() and "\n" not in line)

        def refuse(constant: str) -> None:
            raise AssertionError(constant)

        made = json.loads(line, parse_constant=refuse)
        self.assertEqual((made["msg"], made["level"]), (text, "INFO"))


class ConsoleTests(SynchronousTestCase):
    def test_a_line_has_time_level_and_message(self) -> None:
        self.assertRegex(console_line(EVENT), r"^2023-11-1\d \d\d:\d\d:20 INFO  got it$")

    def test_further_lines_are_indented(self) -> None:
        made = console_line({**EVENT, "log_failure": failure()}).split("\n")
        self.assertTrue(made[0].endswith("INFO  got it"))
        self.assertTrue(len(made) > 2 and all(line.startswith("    ") for line in made[1:]))

    def test_a_banner_is_shown_as_it_is(self) -> None:
        event = {**EVENT, "banner": True, "log_format": "Yukari\n  listens"}
        self.assertEqual(console_line(event), "Yukari\n  listens")

    @given(st.text())
    def test_control_characters_are_escaped(self, text: str) -> None:
        line = console_line({**EVENT, "what": text})
        self.assertTrue(line.replace("\n", "").isprintable())


class ObserverTests(SynchronousTestCase):
    def messages(self, level: Any, *events: dict[str, Any]) -> list[str]:
        stream = StringIO()
        watch = observer(level, "json", stream)
        for event in events:
            watch({**EVENT, **event})
        return [json.loads(line)["msg"] for line in stream.getvalue().splitlines()]

    def test_events_below_the_level_are_not_written(self) -> None:
        levels = [LogLevel.debug, LogLevel.info, LogLevel.warn, LogLevel.error, LogLevel.critical]
        events = [{"log_level": level, "what": level.name} for level in levels]
        for at, level in enumerate(levels[:4]):
            self.assertEqual(
                self.messages(level, *events), [f"got {each.name}" for each in levels[at:]]
            )

    def test_a_banner_is_written_whatever_the_level(self) -> None:
        self.assertEqual(self.messages(LogLevel.error, {"banner": True}, {}), ["got it"])

    def test_twisteds_own_messages_count_as_debug(self) -> None:
        chatter = {"log_namespace": "twisted.web.server.Site"}
        old = {"log_namespace": "log_legacy"}
        self.assertEqual(self.messages(LogLevel.info, chatter, old), [])
        self.assertEqual(len(self.messages(LogLevel.debug, chatter, old)), 2)

    def test_twisteds_warnings_are_shown(self) -> None:
        event = {"log_namespace": "twisted.x", "log_level": LogLevel.warn}
        self.assertEqual(self.messages(LogLevel.warn, event), ["got it"])

    def test_a_broken_pipe_is_survived(self) -> None:
        for log_format in ("json", "console", "auto"):
            observer(LogLevel.info, log_format, Broken())(EVENT)

    def test_a_closed_stream_is_survived(self) -> None:
        stream = StringIO()
        stream.close()
        observer(LogLevel.info, "json", stream)(EVENT)

    def test_auto_is_for_people_on_a_terminal_and_json_elsewhere(self) -> None:
        for stream, begins in ((Terminal(), "2023-"), (StringIO(), '{"time": "2023-')):
            observer(LogLevel.info, "auto", stream)(EVENT)
            self.assertTrue(stream.getvalue().startswith(begins))


class InstallTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.err = StringIO()
        self.patch(sys, "stderr", self.err)
        before = signal.getsignal(signal.SIGUSR1)
        self.addCleanup(signal.signal, signal.SIGUSR1, before)

    def logged(self, twistd: dict[str, Any]) -> None:
        """One line of INFO through an application started with these options of twistd's."""
        application = Application("yukari")
        install(application, LogLevel.info, "json", twistd)
        Logger("yukari.test", observer=application.getComponent(ILogObserver)).info("hello")

    def test_foreground_logs_to_stderr(self) -> None:
        self.logged({"nodaemon": 1, "logfile": None})
        self.assertEqual(json.loads(self.err.getvalue())["msg"], "hello")

    def test_log_goes_to_twistds_log_file(self) -> None:
        name = self.mktemp()
        self.logged({"nodaemon": 1, "logfile": name})
        with open(name) as file:
            self.assertEqual(json.loads(file.read())["msg"], "hello")
        self.assertEqual(self.err.getvalue(), "")

    def test_a_daemon_logs_to_twistd_log(self) -> None:
        where = self.mktemp()
        os.mkdir(where)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(where)
        self.logged({"nodaemon": 0, "logfile": None})
        with open("twistd.log") as file:
            self.assertEqual(json.loads(file.read())["msg"], "hello")

    def test_log_goes_to_stdout_on_request(self) -> None:
        out = StringIO()
        self.patch(sys, "stdout", out)
        self.logged({"nodaemon": 1, "logfile": "-"})
        self.assertEqual(json.loads(out.getvalue())["msg"], "hello")

    def test_a_closed_stderr_is_survived(self) -> None:
        self.patch(sys, "stderr", None)
        self.logged({"nodaemon": 1})

    def test_syslog_and_logger_options_are_left_to_twistd(self) -> None:
        for twistd in ({"syslog": 1}, {"logger": object()}):
            application = Application("yukari")
            install(application, LogLevel.info, "json", twistd)
            self.assertIs(application.getComponent(ILogObserver, None), None)

    def test_a_logged_service_installs_it_when_it_joins_an_application(self) -> None:
        application, child = Application("yukari"), Service()
        service = LoggedService(LogLevel.info, "json", {"nodaemon": 1})
        child.setServiceParent(service)
        service.setServiceParent(application)
        self.assertTrue(ILogObserver.providedBy(application.getComponent(ILogObserver)))
        service.startService()
        self.assertTrue(child.running)


class EndTests(SynchronousTestCase):
    def test_a_failed_start_is_one_line_and_status_1(self) -> None:
        err = StringIO()
        self.patch(sys, "__stderr__", err)
        ended = self.assertRaises(SystemExit, end, "port 9200 is\nin use")
        self.assertEqual((ended.code, err.getvalue()), (1, "yukari: port 9200 is in use\n"))

    def test_the_line_is_once_on_stderr_and_in_the_log_file(self) -> None:
        event = {**EVENT, "log_level": LogLevel.error, "on_stderr": True}
        err, file = StringIO(), StringIO()
        self.patch(sys, "__stderr__", err)
        observer(LogLevel.error, "json", err)(event)
        observer(LogLevel.error, "json", file)(event)
        self.assertEqual(err.getvalue(), "")
        self.assertEqual(set(json.loads(file.getvalue())), {"time", "level", "msg", "what"})
