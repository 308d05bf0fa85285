"""The command line: flags, help, and one line for whatever is wrong."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from io import StringIO

from twisted.application.service import IServiceMaker
from twisted.logger import LogLevel
from twisted.plugin import IPlugin
from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase

from tests.processes import MAIN, bare_environment
from yukari import __version__
from yukari.config.settings import SETTINGS
from yukari.daemon.pidfile import check_pid_file
from yukari.fatal import Ended
from yukari.tap import Hangups, Options


class Queue:
    """The part of a reactor that runs calls from threads and signals."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def callFromThread(self, call: Callable[[], None]) -> None:
        self.calls.append(call)


class HangupTests(SynchronousTestCase):
    def test_several_hangups_cause_one_reload(self) -> None:
        """Else a storm of them would leave the reactor no time for anything else."""
        queue, reloads = Queue(), []
        hangups = Hangups(queue, [lambda: reloads.append("one"), lambda: reloads.append("two")])
        for count in (1, 2):
            for _ in range(1000):
                hangups.told(signal.SIGHUP, None)
            (call,) = queue.calls
            queue.calls.clear()
            call()
            self.assertEqual(reloads, ["one", "two"] * count)


class OptionsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(os, "environ", {"HOME": "/home/x"})
        self.out = StringIO()
        self.patch(sys, "stdout", self.out)
        self.err = StringIO()
        self.patch(sys, "__stderr__", self.err)

    def parse(self, *args: str) -> Options:
        options = Options()
        options.parseOptions(args)
        return options

    def complaint(self, *args: str, status: int = 1) -> str:
        """Return the error of a start that fails."""
        ended = self.assertRaises(SystemExit, self.parse, *args)
        self.assertEqual((ended.code, self.out.getvalue()), (status, ""))
        said = self.err.getvalue()
        self.err.truncate(0)
        self.err.seek(0)
        return said

    def test_every_flag_exists_and_is_unset_by_default(self) -> None:
        given = dict.fromkeys(row.flag for row in SETTINGS if not row.several and not row.switch)
        self.assertEqual(dict(self.parse()), given)
        self.assertEqual(
            dict(self.parse("--bind", ":1", "--bind=:2 :3", "--offline", "--min-free=1GB")),
            {**given, "bind": (":1", ":2 :3"), "offline": True, "min-free": "1GB"},
        )

    def test_flags_and_environment_become_settings(self) -> None:
        os.environ.update(SLOG_LEVEL="info", STORAGE="/srv")
        settings = self.parse("--bind", ":1", "--bind=:2 :3", "--storage=/tmp/y").settings
        self.assertEqual([bind.text for bind in settings.bind], [":1", ":2", ":3"])
        self.assertEqual((settings.slog_level, settings.storage), (LogLevel.info, "/tmp/y"))

    def test_a_wrong_value_ends_in_one_line(self) -> None:
        for args, status, begins in (
            (("--bind", "nonsense"), 1, "yukari: --bind 'nonsense': expected HOST:PORT"),
            (("--min-free", "lots"), 1, "yukari: --min-free 'lots': expected bytes"),
            (("--bogus",), 2, "yukari: option --bogus not recognized"),
            (("--bind",), 2, "yukari: option --bind requires argument"),
            (("--offline=1",), 2, "yukari: option --offline must not have an argument"),
            (("-x",), 2, "yukari: option -x not recognized"),
            (("serve",), 2, "yukari: 'serve': expected options only, see yukari --help"),
        ):
            said = self.complaint(*args, status=status)
            self.assertTrue(said.startswith(begins), said)
            self.assertEqual(said.count("\n"), 1, said)
        os.environ["MANIFEST_LIFETIME"] = "ten\ndays"
        self.assertEqual(
            self.complaint(),
            "yukari: MANIFEST_LIFETIME 'ten\\ndays': expected a duration such as 30m, 1h30m"
            " or 240h\n",
        )

    def test_help_has_every_setting_with_variable_and_default(self) -> None:
        ended = self.assertRaises(SystemExit, self.parse, "--help")
        said = " ".join(self.out.getvalue().split())
        self.assertFalse(ended.code)
        for row in SETTINGS:
            self.assertIn(f"--{row.flag}", said)
            self.assertIn(f"({row.environment})", said)
            self.assertIn(row.default_shown or row.default, said)

    def test_version_is_yukaris(self) -> None:
        ended = self.assertRaises(SystemExit, self.parse, "--version")
        self.assertFalse(ended.code)
        self.assertEqual(self.out.getvalue(), f"yukari {__version__}\n")


class PidFileTests(SynchronousTestCase):
    def left(self, content: str) -> bool:
        """Whether a pid file with this content is left alone."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write(content)
        check_pid_file(path)
        return os.path.exists(path)

    def test_a_stale_file_is_removed_whoever_has_its_number_now(self) -> None:
        """twistd itself refuses to start while any process has that number."""
        other = subprocess.Popen(["sleep", "60"])
        self.addCleanup(other.wait)
        self.addCleanup(other.kill)
        gone = subprocess.Popen(["true"])
        gone.wait()  # Of this one twistd would remove it, and call that an error.
        numbers = (str(other.pid), str(os.getpid()), str(gone.pid))
        for content in (*numbers, "", "garbage", "-1", "0", "9" * 20):
            self.assertFalse(self.left(content), content)

    def test_link_to_a_file_that_is_not_there_is_removed(self) -> None:
        path = self.mktemp()
        os.symlink(self.mktemp(), path)
        check_pid_file(path)
        self.assertFalse(os.path.islink(path))

    def test_what_is_no_file_ends_the_start_with_one_line_and_stays(self) -> None:
        """twistd waits for ever for a FIFO's bytes, and has a traceback for the others."""
        directory = self.mktemp()
        os.makedirs(os.path.join(directory, "directory"))
        os.mkfifo(os.path.join(directory, "fifo"))
        os.symlink("itself", os.path.join(directory, "itself"))
        os.symlink("/dev/null", os.path.join(directory, "device"))
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(os.path.join(directory, "socket")))
        for name in ("directory", "fifo", "itself", "device", "socket", "no/such/directory"):
            path = os.path.join(directory, name)
            self.patch(sys, "__stderr__", StringIO())
            with self.assertRaises(Ended) as caught:
                check_pid_file(path)
            self.assertIn(f"yukari: {path}: no pid file", caught.exception.line)
            self.assertEqual(os.path.lexists(path), "/" not in name)
        self.flushLoggedErrors()

    def test_the_file_of_a_daemon_is_left_alone(self) -> None:
        code = "import sys; print(flush=True); sys.stdin.read()  # twistd yukari"
        pipe = subprocess.PIPE
        daemon = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe)
        self.addCleanup(daemon.wait)
        assert daemon.stdin is not None and daemon.stdout is not None
        self.addCleanup(daemon.stdin.close)
        self.addCleanup(daemon.stdout.close)
        # Its command line is empty for a moment after it was started.
        daemon.stdout.readline()
        self.assertTrue(self.left(str(daemon.pid)))

    def test_it_is_done_before_twistd_looks(self) -> None:
        path = self.mktemp()
        with open(path, "w") as file:
            file.write(str(os.getpid()))
        options = ServerOptions()
        options.parseOptions(["--pidfile", path, "yukari", "--storage", "/tmp/y"])
        self.assertFalse(os.path.exists(path))
        check_pid_file(path)  # one that is not there

    def test_a_failed_reload_does_not_prevent_the_next(self) -> None:
        """A log that cannot be reopened kept the certificates from being read."""
        queue, reloads = Queue(), []

        def fails() -> None:
            raise OSError("the disk is away")

        hangups = Hangups(queue, [fails, lambda: reloads.append("two")])
        hangups.told(signal.SIGHUP, None)
        queue.calls.pop()()
        self.assertEqual(reloads, ["two"])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)


class PluginTests(SynchronousTestCase):
    def test_the_plugin_is_a_service_maker_and_nothing_else(self) -> None:
        from twisted.plugins.yukari_plugin import yukari

        self.assertTrue(IPlugin.providedBy(yukari) and IServiceMaker.providedBy(yukari))
        self.assertEqual((yukari.tapname, yukari.module), ("yukari", "yukari.tap"))
        self.assertIs(yukari.options, Options)


class ProcessTests(SynchronousTestCase):
    """Run it as a shell does; from the checkout, so that tests need no installation."""

    def run_python(self, code: str, *args: str, **environment: str) -> tuple[int, str, str]:
        """Exit status, stdout and stderr."""
        done = subprocess.run(
            [sys.executable, "-c", code, *args],
            env=bare_environment(**environment),
            cwd=self.mktemp_directory(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr

    def mktemp_directory(self) -> str:
        name = self.mktemp()
        os.makedirs(name)
        return name

    def yukari(self, *args: str, **environment: str) -> tuple[int, str, str]:
        return self.run_python(MAIN, *args, **environment)

    def twistd(self, *args: str, **environment: str) -> tuple[int, str, str]:
        return self.run_python(
            "from twisted.scripts.twistd import run; run()", *args, **environment
        )

    def test_a_wrong_flag_is_one_line_and_status_1(self) -> None:
        for run in (self.yukari, lambda *args: self.twistd("-n", "yukari", *args)):
            status, out, err = run("--bind", "nonsense")
            self.assertEqual((status, out, err.count("\n")), (1, "", 1))
            self.assertTrue(err.startswith("yukari: --bind 'nonsense': expected HOST:PORT"), err)

    def test_a_wrong_variable_is_one_line_and_status_1(self) -> None:
        status, out, err = self.yukari(UPSTREAM_REGISTRY="example")
        self.assertEqual((status, out, err.count("\n")), (1, "", 1))
        self.assertTrue(err.startswith("yukari: UPSTREAM_REGISTRY 'example': expected"), err)

    def test_an_unknown_flag_is_one_line_and_status_2(self) -> None:
        """As of the verbs."""
        self.assertEqual(self.yukari("--bogus"), (2, "", "yukari: option --bogus not recognized\n"))

    def test_version_and_help(self) -> None:
        self.assertEqual(self.yukari("--version"), (0, f"yukari {__version__}\n", ""))
        self.assertEqual(self.twistd("yukari", "--version"), (0, f"yukari {__version__}\n", ""))
        status, out, err = self.twistd("yukari", "--help")
        self.assertEqual((status, err), (0, ""))
        self.assertIn("--upstream-registry=", out)

    def test_twistd_lists_it(self) -> None:
        _, out, _ = self.twistd("--help")
        self.assertRegex(out, r"\n +yukari +A pull-through cache for Ollama model registries")
