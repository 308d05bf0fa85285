"""The configuration file: every setting, one line for each kind of error, and what wins."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any
from unittest import SkipTest

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from tests.authority import Authority
from tests.processes import CHECKOUT
from yukari.config.config_file import ConfigFile
from yukari.config.hours import DailyRate
from yukari.config.in_force import in_force, quoted
from yukari.config.keys import SigningKey
from yukari.config.listen import Bind
from yukari.config.networks import Networks
from yukari.config.patterns import Patterns
from yukari.config.reference import EXAMPLE, example_file
from yukari.config.registries import KEYS, RegistrySettings
from yukari.config.setting import Setting
from yukari.config.settings import SETTINGS, SettingError, Settings

HOME = {"HOME": "/home/x"}


class FileCase(SynchronousTestCase):
    """Tests that write a configuration file and read it."""

    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())

    def write(self, text: str | bytes) -> None:
        Path(self.path).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))

    def read(self, text: str | bytes, flags: Any = None, **environment: str) -> Settings:
        self.write(text)
        return Settings.read({"config": self.path, **(flags or {})}, {**HOME, **environment})

    def errors(self, text: str | bytes, **environment: str) -> list[str]:
        """Return the lines of the error, each without the file's path, which it has to begin by."""
        error = self.assertRaises(SettingError, self.read, text, **environment)
        lines = str(error).splitlines()
        for line in lines:
            self.assertTrue(line.startswith(f"{self.path}: "), line)
            self.assertTrue(line.isprintable(), line)
        return [line.removeprefix(f"{self.path}: ") for line in lines]


class ValueTests(FileCase):
    def test_every_setting_is_read_from_the_example(self) -> None:
        """Catches a key that a file cannot have, or that is read and has no effect."""
        text = (CHECKOUT / EXAMPLE).read_text(encoding="utf-8")
        text = re.sub(r"(?m)^#(?=[a-z_]+ = |\[)", "", text)
        key, token = os.path.abspath(self.mktemp()), os.path.abspath(self.mktemp())
        Path(key).write_bytes(SigningKey.make()[1])
        Path(token).write_text("secret")
        roots = os.path.abspath(Authority(self.mktemp()).path)
        for pattern, path in (("ssl/.*pem", roots), (".*_ed25519", key), (".*_token", token)):
            text = re.sub(f'"/etc/{pattern}"', f'"{path}"', text)
        found = self.read(text)
        for row in SETTINGS:
            if row.in_file:
                self.assertRegex(text, rf"(?m)^{row.name} = ")
                alone = Settings.read({row.flag: _flag(row, text)}, HOME)
                self.assertEqual(getattr(found, row.name), getattr(alone, row.name), row.name)
        lab = next(each for each in found.registries if each.name == "lab")
        bare = RegistrySettings.named("lab", lab.url)
        for row in KEYS:
            self.assertIsNotNone(getattr(lab, row.field))
            if row.name not in ("url", "host", "prefix"):
                self.assertNotEqual(getattr(lab, row.field), getattr(bare, row.field), row.name)

    def test_example_is_made_from_the_settings(self) -> None:
        """Catches a setting that changed without a run of python -m yukari.config.reference."""
        self.assertEqual((CHECKOUT / EXAMPLE).read_text(encoding="utf-8"), example_file())

    def test_example_sets_nothing_as_it_stands(self) -> None:
        config = self.read(example_file()).config
        self.assertEqual(
            self.read(example_file()), attrs.evolve(Settings.read({}, HOME), config=config)
        )

    def test_values_may_be_written_as_toml_has_them(self) -> None:
        found = self.read(
            'bind = [":1", "127.0.0.1:2"]\n'
            'admin_bind = ":3 :4"\n'
            'allow = ["10.0.0.0/8", "unix"]\n'
            'keep = "library/*,a/b"\n'
            "client_connections = 1_000\n"
            "min_free = 1000000\n"
            "spool_max = 1.5\n"
            "revalidate_after = 0\n"
            "offline = true\n"
            'upstream_rate = ["off", "08:00-18:00 20Mbit/s"]\n'
            "[registries.lab]\n"
            'url = "http://lab"\n'
            'rate = ["5MB/s", "22:00-06:00 off"]\n'
        )
        self.assertEqual(found.upstream_rate, DailyRate.parse("off, 08:00-18:00 20Mbit/s"))
        lab = next(each for each in found.registries if each.name == "lab")
        self.assertEqual(lab.rate, DailyRate.parse("5MB/s,22:00-06:00 off"))
        self.assertEqual([bind.text for bind in found.bind], [":1", "127.0.0.1:2"])
        self.assertEqual(found.admin_bind, (Bind.parse(":3"), Bind.parse(":4")))
        self.assertEqual(found.allow, Networks.parse("10.0.0.0/8,unix"))
        self.assertEqual(found.keep, Patterns(("library/*", "a/b")))
        self.assertEqual((found.client_connections, found.min_free.bytes), (1000, 1_000_000))
        self.assertEqual((found.spool_max, found.revalidate_after, found.offline), (1, 0.0, True))

    def test_paths_begin_at_home(self) -> None:
        found = self.read('storage = "~/models"\nspool_dir = "~/spool"\nadmin_auth_file = "~/a"')
        self.assertEqual(
            (found.storage, found.spool_dir, found.admin_auth_file),
            ("/home/x/models", "/home/x/spool", "/home/x/a"),
        )

    def test_a_bucket_in_the_file_makes_tigris_the_store(self) -> None:
        found = self.read('tigris_bucket = "b"')
        self.assertEqual((found.storage, found.tigris_bucket), ("tigris", "b"))

    def test_a_byte_order_mark_is_no_error(self) -> None:
        """Windows's editors write one."""
        self.assertEqual(self.read(b"\xef\xbb\xbf" + b'grace = "1s"\r\n').grace, 1.0)


class PrecedenceTests(FileCase):
    def test_flags_win_over_variables_those_over_the_file_that_over_defaults(self) -> None:
        text = (
            'grace = "1s"\nidle_timeout = "1s"\nslog_level = "INFO"\nbind = [":1"]\noffline = true'
        )
        found = self.read(
            text,
            {"grace": "3s", "bind": (":3",)},
            GRACE="2s",
            IDLE_TIMEOUT="2s",
            BIND=":2",
            OFFLINE="0",
            EVICT="",
        )
        self.assertEqual((found.grace, found.idle_timeout, found.shutdown_delay), (3.0, 2.0, 0.0))
        self.assertEqual((found.slog_level, found.offline), (LogLevel.info, False))
        self.assertEqual(found.bind, (Bind.parse(":3"),))

    def test_what_a_flag_wins_over_may_be_wrong(self) -> None:
        self.assertEqual(self.read('grace = "long"', GRACE="2s").grace, 2.0)

    def test_the_file_is_named_by_flag_or_variable(self) -> None:
        self.write('grace = "1s"')
        self.assertEqual(Settings.read({}, {**HOME, "YUKARI_CONFIG": self.path}).grace, 1.0)
        found = Settings.read({"config": self.path}, {**HOME, "YUKARI_CONFIG": "/nowhere"})
        self.assertEqual((found.grace, found.config), (1.0, self.path))

    def test_a_relative_path_is_made_absolute(self) -> None:
        """A daemon may change its directory before it reads the file again."""
        self.write('grace = "1s"')
        found = Settings.read({"config": os.path.relpath(self.path)}, HOME)
        self.assertEqual((found.grace, found.config), (1.0, self.path))


class ErrorTests(FileCase):
    def test_each_kind_of_error_is_one_line(self) -> None:
        name, scalar = (
            "expected the name of a setting: ",
            "expected a string, a number, true or false",
        )
        for text, expected in (
            ("grce = 1", f"grce '1': {name}did you mean grace?"),
            ("BIND = ':1'", f"BIND ':1': {name}did you mean bind?"),
            ("log-format = 'json'", f"log-format 'json': {name}did you mean log_format?"),
            ("zzz = [1]", f"zzz '[1]': {name}docs/settings.rst has all of them"),
            ('"a\\nb" = 1', f"'a\\nb' '1': {name}docs/settings.rst has all of them"),
            ("config = 'x'", f"config 'x': {name}"),
            ("[bind]\nx = 1", f"bind 'a table': {scalar}"),
            ("[[bind]]", f"bind 'a table': {scalar}"),
            ("[upstream]\nrate = 1", f"upstream 'a table': {name}did you mean upstream"),
            ("grace = 30", "grace '30': expected a duration such as 30m, 1h30m or 240h, with"),
            ("grace = 07:32:00", f"grace '07:32:00': {scalar}"),
            ("grace = ['1s']", "grace '[1s]': expected one value, not an array"),
            (
                'upstream_ca = "\\u0000"',
                r"upstream_ca '\x00': expected a path without a NUL",
            ),
            ("grace = ''", "grace '': expected a duration"),
            ("grace = true", "grace 'true': expected a duration"),
            ("spool_max = inf", "spool_max 'inf': expected bytes"),
            ("client_connections = -1", "client_connections '-1': expected a whole number above 0"),
            ("bind = [':1', 'x']", "bind 'x': expected HOST:PORT"),
            ("bind = [':1 :2']", "bind ':1 :2': expected a host name"),
            ("bind = []", "bind '': expected HOST:PORT"),
            ("bind = [[':1']]", f"bind '[:1]': {scalar}"),
            ("allow = ['::1', 'x']", "allow '::1,x': expected networks such as "),
            ("allow = []", "allow '': expected networks"),
            ("upstream_ca = '/no'", "upstream_ca '/no': expected a file of certificates: No such"),
            ("grace = '1s'\ngrace = '2s'\n", "line 2, column 13: expected TOML: "),
            ("grace = [1", "end of document: expected TOML: "),
            ("grace 1", "line 1, column 7: expected TOML: expected "),
            (b"grace = '\xff'", "expected text in UTF-8"),
            ("x = " + "9" * 10_000, "expected TOML: exceeds the limit"),
        ):
            (line,) = self.errors(text)
            self.assertTrue(line.startswith(expected), f"{line}\n{expected}")
            self.assertLess(len(line), 400)

    def test_deep_nesting_is_one_line(self) -> None:
        if sys.version_info < (3, 11):
            raise SkipTest("the parser for this Python is compiled and may have no such bound")
        self.assertEqual(self.errors("x = " + "[" * 100_000), ["expected less nesting"])

    def test_every_error_is_reported_in_one_go(self) -> None:
        lines = self.errors("a_b_c = 1\ngrace = 1\nidle_timeout = 2", LOG_FORMAT="json")
        self.assertEqual([line.split(" ")[0] for line in lines], ["a_b_c", "idle_timeout", "grace"])

    def test_secrets_are_not_shown(self) -> None:
        (line,) = self.errors("upstream_registry = 'https://me:secret@h/'")
        self.assertNotIn("secret", line)
        (line,) = self.errors(f"upstream_key = 'hf_{'abcDEF123' * 4}'")
        self.assertNotIn("abcDEF123", line)
        (line,) = self.errors("upstream_key = '/etc/hf_tokens_of_mine'")
        self.assertIn("/etc/hf_tokens_of_mine", line)

    def test_a_file_that_cannot_be_read_is_an_error_of_what_names_it(self) -> None:
        place = self.mktemp()
        os.mkdir(place)
        fifo = os.path.join(place, "fifo")
        os.mkfifo(fifo)
        for path, expected in (
            ("/nowhere.toml", "expected a configuration file: No such file or directory"),
            (place, "expected a file, this is a directory"),
            (fifo, "expected a file, this is a FIFO"),
            ("/dev/zero", "expected a file, this is a device"),
            ("", "expected a file"),
        ):
            error = self.assertRaises(SettingError, Settings.read, {"config": path}, HOME)
            self.assertTrue(str(error).startswith("--config '"), error)
            self.assertTrue(str(error).endswith(f"': {expected}"), error)

    def test_too_large_a_file_is_refused(self) -> None:
        self.write("#" * (1024 * 1024 + 1))
        error = self.assertRaises(SettingError, Settings.read, {"config": self.path}, HOME)
        self.assertIn("expected a file of at most 1048576 bytes", str(error))

    @given(
        st.dictionaries(
            st.sampled_from([row.name for row in SETTINGS]) | st.text(max_size=20),
            st.one_of(
                st.text(),
                st.integers(),
                st.floats().map(str),
                st.booleans(),
                st.lists(st.text(max_size=5), max_size=3),
            ),
            max_size=5,
        )
    )
    def test_any_values_are_read_or_refused_in_printable_lines(
        self, values: dict[str, Any]
    ) -> None:
        file = ConfigFile(self.path, values)
        lines = [str(error) for error in file.unknown([row.name for row in SETTINGS])]
        for row in SETTINGS:
            try:
                for _, text in file.given(row) or []:
                    self.assertIsInstance(text, str)
            except SettingError as error:
                lines.append(str(error))
        for line in lines:
            self.assertTrue(line.isprintable(), line)
            self.assertLess(len(line), 600)

    @given(st.binary(max_size=200) | st.text("ab=[]{}\"'#.\n1", max_size=40).map(str.encode))
    def test_any_file_is_read_or_refused_in_printable_lines(self, content: bytes) -> None:
        try:
            self.read(content)
        except SettingError as error:
            for line in str(error).splitlines():
                self.assertTrue(line.isprintable(), line)


class InForceTests(FileCase):
    def shown(self, flags: Any = None, **environment: str) -> list[str]:
        return list(in_force(flags or {}, {**HOME, **environment}))

    def test_each_setting_has_its_value_and_where_it_is_from(self) -> None:
        self.write('grace = "1s"\nallow = ["10.0.0.0/8", "unix"]')
        shown = self.shown(
            {"bind": (":1", ":2"), "offline": True}, YUKARI_CONFIG=self.path, EVICT="LRU"
        )
        for line in (
            'bind = [":1", ":2"]  # --bind',
            "offline = true  # --offline",
            'evict = "LRU"  # EVICT',
            f'grace = "1s"  # {self.path}',
            f'allow = "10.0.0.0/8,unix"  # {self.path}',
            'storage = "/home/x/.cache/yukari"  # default',
            'min_free = "5%"  # default',
            "# client_rate: as fast as it takes them",
            f"# config: {self.path}  # YUKARI_CONFIG",
        ):
            self.assertIn(line, shown)

    def test_what_is_shown_is_a_file_of_the_same_settings(self) -> None:
        for environment in (
            {},
            {"TIGRIS_BUCKET": "b", "BIND": ":1 :2", "OFFLINE": "1", "STORAGE": ""},
            {"STORAGE": '/a "b" \x7f\\ \u00e9', "ALLOW": "10.0.0.0/8, unix", "STORE_MAX": "80%"},
        ):
            meant = Settings.read({}, {**HOME, **environment})
            found = self.read("\n".join(self.shown(**environment)))
            self.assertEqual(found, attrs.evolve(meant, config=self.path))
            self.assertEqual(found.unused, (), environment)

    @given(st.text())
    def test_any_string_is_quoted_as_toml_reads_it(self, text: str) -> None:
        self.write(f"storage = {quoted(text)}")
        row = next(row for row in SETTINGS if row.name == "storage")
        given_ = ConfigFile.read("", self.path).given(row)
        self.assertEqual(given_, [(f"{self.path}: storage", text.strip())])

    def test_wrong_settings_are_errors(self) -> None:
        self.assertRaises(SettingError, self.shown, GRACE="long")


def _flag(row: Setting, text: str) -> object:
    """Return what the example says of a setting as a flag would have it."""
    found = re.search(rf"(?m)^{row.name} = (.*)$", text)
    assert found is not None
    value = found[1]
    if row.switch:
        return True if value == "true" else None
    words = re.findall(r'"([^"]*)"', value)
    return tuple(words) if row.several else ",".join(words)
