"""Settings: flags win over the environment, that over defaults; an error is one line."""

import os
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.endpoints import serverFromString
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from tests.authority import Authority
from yukari.config.files import Roots
from yukari.config.hours import DailyHours, DailyRate, Hours
from yukari.config.keys import SigningKey
from yukari.config.listen import Bind
from yukari.config.networks import Networks
from yukari.config.patterns import Patterns
from yukari.config.registries import RegistrySettings
from yukari.config.setting import InvalidSetting
from yukari.config.settings import (
    SETTINGS,
    TIGRIS,
    Setting,
    SettingError,
    Settings,
)
from yukari.config.units import ConnectionBounds, FreeSpace
from yukari.config.urls import Address, RegistryUrl

HOME = {"HOME": "/home/x"}
DEFAULTS = {
    "bind": (
        Bind(
            ":9200",
            (
                "tcp:9200:backlog=4096:interface=\\:\\:",
                "tcp:9200:backlog=4096:interface=0.0.0.0",
            ),
        ),
    ),
    "admin_bind": (),
    "admin_auth_file": None,
    "trusted_proxies": None,
    "allow": None,
    "models_allow": None,
    "models_deny": None,
    "upstream_registry": RegistryUrl("https", "registry.ollama.ai", 443, "/"),
    "upstreams": (
        RegistrySettings.named("hf", RegistryUrl("https", "huggingface.co", 443, "/")),
        RegistrySettings.named("ms", RegistryUrl("https", "modelscope.cn", 443, "/")),
    ),
    "upstream_address": None,
    "upstream_ca": None,
    "upstream_key": None,
    "private_models": "none",
    "manifest_lifetime": 864_000.0,
    "invalidator_period": 1800.0,
    "revalidate_after": 300.0,
    "prefetch": "all",
    "offline": False,
    "storage": "/home/x/.cache/yukari",
    "tigris_bucket": "yukari",
    "redirect": "auto",
    "presign_endpoint": None,
    "spool_dir": None,
    "spool_max": None,
    "min_free": FreeSpace(percent=5.0),
    "upstream_timeout": 30.0,
    "store_max": None,
    "evict": None,
    "keep": None,
    "superseded_lifetime": 720 * 3600.0,
    "evict_grace": 3600.0,
    "upstream_connections": ConnectionBounds(32, 64),
    "upstream_rate": None,
    "prefetch_hours": None,
    "scrub_period": 720 * 3600.0,
    "scrub_bucket": False,
    "client_rate": None,
    "client_connections": None,
    "idle_timeout": 620.0,
    "shutdown_delay": 0.0,
    "grace": 30.0,
    "slog_level": LogLevel.error,
    "log_format": "auto",
    "long_turns": 0.0,
    "config": None,
}


def read(flags: object = None, **environment: str) -> dict[str, object]:
    """All that is set, by name."""
    settings = Settings.read(flags or {}, {**HOME, **environment})  # type: ignore[arg-type]
    return {row.name: getattr(settings, row.name) for row in SETTINGS}


class ReadTests(SynchronousTestCase):
    def test_settings_have_defaults(self) -> None:
        self.assertEqual(read(), DEFAULTS)

    def test_empty_variables_count_as_unset(self) -> None:
        self.assertEqual(read(**{row.environment: "" for row in SETTINGS}), DEFAULTS)
        self.assertEqual(read(**{row.environment: "  " for row in SETTINGS}), DEFAULTS)

    def test_a_flag_of_none_counts_as_not_given(self) -> None:
        self.assertEqual(read({row.flag: None for row in SETTINGS}), DEFAULTS)

    def test_every_setting_is_read_from_the_environment(self) -> None:
        roots = os.path.abspath(Authority(self.mktemp()).path)
        key = os.path.abspath(self.mktemp())
        Path(key).write_bytes(SigningKey.make()[1])
        config = os.path.abspath(self.mktemp())
        Path(config).touch()
        self.assertEqual(
            read(
                BIND="127.0.0.1:80 [::1]:80",
                ADMIN_BIND="localhost:1",
                ADMIN_AUTH_FILE="~/users",
                TRUSTED_PROXIES="10.0.0.0/8, unix",
                ALLOW="10.0.0.0/8",
                MODELS_ALLOW="library/*,hf.co/*/*",
                MODELS_DENY="*/llama*",
                UPSTREAM_REGISTRY="http://Mirror.example:5000/ollama",
                UPSTREAMS="lab=http://h/",
                UPSTREAM_ADDRESS="192.0.2.1:5001",
                UPSTREAM_CA=roots,
                UPSTREAM_KEY=key,
                PRIVATE_MODELS="Everyone",
                MANIFEST_LIFETIME="1h",
                INVALIDATOR_PERIOD="1m",
                REVALIDATE_AFTER="0",
                PREFETCH="Asked",
                OFFLINE="Yes",
                STORAGE="/srv/models/",
                TIGRIS_BUCKET="mine",
                REDIRECT="Off",
                PRESIGN_ENDPOINT="https://S3.example.com:9000/",
                SPOOL_DIR="~/spool",
                SPOOL_MAX="500GB",
                MIN_FREE="10GiB",
                UPSTREAM_TIMEOUT="1m",
                STORE_MAX="80%",
                EVICT="LRU",
                KEEP="library/*",
                SUPERSEDED_LIFETIME="24h",
                EVICT_GRACE="5m",
                UPSTREAM_CONNECTIONS="4",
                UPSTREAM_RATE="1.5GB/s",
                PREFETCH_HOURS="22:00-06:00",
                SCRUB_PERIOD="24h",
                SCRUB_BUCKET="1",
                CLIENT_RATE="100Mbit/s",
                CLIENT_CONNECTIONS="1000",
                IDLE_TIMEOUT="5m",
                SHUTDOWN_DELAY="5s",
                GRACE="2m",
                SLOG_LEVEL="debug",
                LOG_FORMAT="JSON",
                LONG_TURNS="20ms",
                YUKARI_CONFIG=config,
            ),
            {
                "bind": (
                    Bind("127.0.0.1:80", ("tcp:80:backlog=4096:interface=127.0.0.1",)),
                    Bind("[::1]:80", ("tcp:80:backlog=4096:interface=\\:\\:1",)),
                ),
                "admin_bind": (Bind("localhost:1", ("tcp:1:backlog=4096:interface=localhost",)),),
                "admin_auth_file": "/home/x/users",
                "trusted_proxies": Networks.parse("10.0.0.0/8,unix"),
                "allow": Networks.parse("10.0.0.0/8"),
                "models_allow": Patterns(("library/*", "hf.co/*/*")),
                "models_deny": Patterns(("*/llama*",)),
                "upstream_registry": RegistryUrl("http", "mirror.example", 5000, "/ollama/"),
                "upstreams": (RegistrySettings.named("lab", RegistryUrl("http", "h", 80, "/")),),
                "upstream_address": Address("192.0.2.1", 5001),
                "upstream_ca": Roots(roots, ()),
                "upstream_key": SigningKey.read(key),
                "private_models": "everyone",
                "manifest_lifetime": 3600.0,
                "invalidator_period": 60.0,
                "revalidate_after": 0.0,
                "prefetch": "asked",
                "offline": True,
                "storage": "/srv/models",
                "tigris_bucket": "mine",
                "redirect": "off",
                "presign_endpoint": "https://s3.example.com:9000",
                "spool_dir": "/home/x/spool",
                "spool_max": 500 * 10**9,
                "min_free": FreeSpace(bytes=10 * 2**30),
                "upstream_timeout": 60.0,
                "store_max": FreeSpace(percent=80.0),
                "evict": "lru",
                "keep": Patterns(("library/*",)),
                "superseded_lifetime": 86400.0,
                "evict_grace": 300.0,
                "upstream_connections": ConnectionBounds(4, 8),
                "upstream_rate": DailyRate(1_500_000_000),
                "prefetch_hours": DailyHours((Hours(22 * 60, 6 * 60),)),
                "scrub_period": 86_400.0,
                "scrub_bucket": True,
                "client_rate": 12_500_000,
                "client_connections": 1000,
                "idle_timeout": 300.0,
                "shutdown_delay": 5.0,
                "grace": 120.0,
                "slog_level": LogLevel.debug,
                "log_format": "json",
                "long_turns": 0.02,
                "config": config,
            },
        )

    def test_a_flag_wins_over_the_environment(self) -> None:
        flags = {
            "bind": ("localhost:1", "unix:/run/yukari.sock :2"),
            "slog-level": "WARN",
            "offline": True,
            "storage": "/flag",
        }
        environment = {"BIND": ":3", "SLOG_LEVEL": "nonsense", "OFFLINE": "0", "STORAGE": "/env"}
        self.assertEqual(
            read(flags, **environment),
            {
                **DEFAULTS,
                "bind": (
                    Bind("localhost:1", ("tcp:1:backlog=4096:interface=localhost",)),
                    Bind("unix:/run/yukari.sock", ("unix:/run/yukari.sock",)),
                    Bind.parse(":2"),
                ),
                "slog_level": LogLevel.warn,
                "offline": True,
                "storage": "/flag",
            },
        )

    def test_help_has_the_variable_and_the_default(self) -> None:
        for row in SETTINGS:
            self.assertIn(f"({row.environment}) [default: ", row.described)
            self.assertNotIn("None", row.described)
            self.assertTrue(row.described.isascii())

    def test_missing_root_certificates_are_an_error(self) -> None:
        self.assertEqual(read(SSL_CERT_FILE="/dev/null"), DEFAULTS)
        with self.assertRaises(SettingError) as caught:
            read(SSL_CERT_FILE="/nowhere/roots.pem")
        self.assertEqual(
            str(caught.exception),
            "SSL_CERT_FILE '/nowhere/roots.pem': expected a file of certificates:"
            " No such file or directory",
        )

    def test_a_fifo_is_refused_without_waiting(self) -> None:
        place = self.mktemp()
        os.mkdir(place)
        fifo = os.path.join(place, "x.pem")
        os.mkfifo(fifo)
        for (name, value), what in {
            ("SSL_CERT_FILE", fifo): "a FIFO",
            ("UPSTREAM_CA", fifo): "a FIFO",
            ("UPSTREAM_CA", place): "a directory",
            ("UPSTREAM_KEY", fifo): "a FIFO",
            ("UPSTREAM_CA", "/dev/zero"): "a device",
            ("BIND", f"ssl:443:privateKey={fifo}"): "a FIFO",
            ("BIND", f"tls:{place}:443"): "a FIFO",
        }.items():
            with self.assertRaises(SettingError) as caught:
                read(**{name: value})
            self.assertIn(f"expected a file, this is {what}", str(caught.exception))

    def test_error_is_one_line_with_the_setting_as_given(self) -> None:
        wrong = {
            "bind": "nonsense",
            "admin_bind": "nonsense",
            "admin_auth_file": "\0",
            "trusted_proxies": "10.0.0.1/8",
            "allow": "everyone",
            "models_allow": "llama*",
            "models_deny": "*/llama3:7b",
            "upstream_registry": "registry.ollama.ai",
            "upstreams": "lab",
            "upstream_address": "::1:443",
            "upstream_ca": "/dev/null",
            "upstream_key": "/dev/null",
            "private_models": "admins",
            "prefetch": "some",
            "prefetch_hours": "22-6",
            "manifest_lifetime": "240",
            "invalidator_period": "0s",
            "revalidate_after": "-5m",
            "offline": "maybe",
            "storage": "a\0b",
            "tigris_bucket": "a/b",
            "redirect": "yes",
            "presign_endpoint": "https://s3.example.com/bucket",
            "spool_dir": "\0",
            "spool_max": "0",
            "min_free": "5 percent",
            "upstream_timeout": "0s",
            "store_max": "much",
            "evict": "mru",
            "keep": "llama3",
            "superseded_lifetime": "30d",
            "evict_grace": "-1h",
            "upstream_connections": "64/32",
            "upstream_rate": "200MB",
            "scrub_period": "a month",
            "scrub_bucket": "maybe",
            "client_rate": "1B/s",
            "client_connections": "0",
            "idle_timeout": "0",
            "shutdown_delay": "-1s",
            "grace": "long",
            "slog_level": "LOUD",
            "log_format": "xml",
            "long_turns": "20",
            "config": "/nowhere.toml",
        }
        self.assertEqual(set(wrong), {row.name for row in SETTINGS})
        for row in SETTINGS:
            value = wrong[row.name]
            for name, flags, environment in (
                (f"--{row.flag}", {row.flag: value}, {}),
                (row.environment, {}, {row.environment: value}),
            ):
                error = self.assertRaises(SettingError, read, flags, **environment)
                self.assertEqual(str(error).partition(": expected ")[0], f"{name} {value!a}")

    def test_each_wrong_setting_is_a_line(self) -> None:
        error = self.assertRaises(SettingError, read, {"grace": "long"}, BIND="x", EVICT="mru")
        names = [line.partition(" ")[0] for line in str(error).splitlines()]
        self.assertEqual(names, ["BIND", "EVICT", "--grace"])

    def test_error_names_only_the_wrong_one_of_several_values(self) -> None:
        error = self.assertRaises(SettingError, read, BIND=":1 here :2")
        self.assertTrue(str(error).startswith("BIND 'here': expected HOST:PORT"), error)

    def test_an_empty_flag_is_a_wrong_value(self) -> None:
        for row in SETTINGS:
            if not row.switch:
                given = ("",) if row.several else ""
                error = self.assertRaises(SettingError, read, {row.flag: given})
                self.assertTrue(str(error).startswith(f"--{row.flag} '': expected"), error)

    def test_a_password_is_not_repeated(self) -> None:
        """The value was masked, but not the part of it that the reason repeats."""
        for row in SETTINGS:
            if row.name not in ("admin_auth_file", "config"):  # files of any name
                value = "https://me:s3cr/t@host/"
                error = self.assertRaises(SettingError, read, **{row.environment: value})
                self.assertNotIn("s3cr", str(error))
                self.assertNotIn("t@", str(error))

    def test_a_bucket_in_the_directorys_place_is_refused(self) -> None:
        """A directory called ``s3:`` was made, and models were stored there."""
        for name in ("STORAGE", "SPOOL_DIR"):
            error = self.assertRaises(SettingError, read, **{name: "s3://models"})
            self.assertIn("TIGRIS_BUCKET", str(error))
        self.assertEqual(read(STORAGE="Tigris")["storage"], TIGRIS)

    def test_a_bound_of_nothing_is_refused(self) -> None:
        """It is meant as "no bound", and would evict everything."""
        for value in ("0", "0%", "0GB"):
            error = self.assertRaises(SettingError, read, STORE_MAX=value)
            self.assertIn("above 0", str(error))

    def test_a_file_without_a_name_is_not_a_directory(self) -> None:
        for name in ("upstream-ca", "upstream-key"):
            error = self.assertRaises(SettingError, read, {name: ""})
            self.assertEqual(str(error), f"--{name} '': expected a file")

    @given(st.sampled_from(SETTINGS), st.text(), st.booleans())
    def test_any_text_is_read_or_refused_in_one_printable_line(
        self, row: Setting, text: str, flag: bool
    ) -> None:
        flags = {row.flag: (text,) if row.several else text} if flag else {}
        environment = {} if flag else {row.environment: text}
        try:
            read(flags, **environment)
        except SettingError as error:
            self.assertTrue(str(error).isprintable(), error)
            self.assertLess(len(str(error)), 400)


class DirectoryTests(SynchronousTestCase):
    def test_an_absolute_xdg_cache_home_is_used(self) -> None:
        self.assertEqual(read(XDG_CACHE_HOME="/c")["storage"], "/c/yukari")
        self.assertEqual(read(XDG_CACHE_HOME="c")["storage"], "/home/x/.cache/yukari")

    def test_without_home_the_users_home_is_used(self) -> None:
        import pwd

        home = pwd.getpwuid(os.getuid()).pw_dir
        self.assertEqual(
            Settings.read({}, {}).storage, os.path.join(os.path.abspath(home), ".cache/yukari")
        )

    def test_without_any_home_storage_must_be_set(self) -> None:
        self.patch(os, "getuid", lambda: 2**31 - 7)
        error = self.assertRaises(SettingError, Settings.read, {}, {})
        self.assertEqual(
            str(error), "STORAGE '': expected a directory: there is no home directory to use"
        )
        self.assertEqual(Settings.read({"storage": "/x"}, {}).storage, "/x")
        self.assertEqual(Settings.read({}, {"XDG_CACHE_HOME": "/x"}).storage, "/x/yukari")

    def test_a_relative_path_is_made_absolute_at_once(self) -> None:
        self.assertEqual(read(STORAGE="models")["storage"], str(Path.cwd() / "models"))
        self.assertEqual(read(SPOOL_DIR="./s/../t")["spool_dir"], str(Path.cwd() / "t"))

    def test_a_tilde_is_the_home_directory(self) -> None:
        self.assertEqual(read(STORAGE="~")["storage"], "/home/x")
        self.assertEqual(read(STORAGE="~/m")["storage"], "/home/x/m")

    def test_a_bucket_makes_tigris_the_default_store(self) -> None:
        spool = "/home/x/.cache/yukari/spool"
        for made in (read(TIGRIS_BUCKET="b"), read({"tigris-bucket": "b"})):
            self.assertEqual(
                made, {**DEFAULTS, "tigris_bucket": "b", "storage": TIGRIS, "spool_dir": spool}
            )

    def test_a_named_directory_wins_over_the_bucket(self) -> None:
        self.assertEqual(read(TIGRIS_BUCKET="b", STORAGE="/d")["storage"], "/d")

    def test_what_has_no_effect_is_named_with_the_reason(self) -> None:
        """TIGRIS_BUCKET was left out without a word: models went to the disk."""
        stored, bucket = {"STORAGE": "/srv/models"}, {"STORAGE": "tigris"}
        directory = "STORAGE is the directory /srv/models, not tigris"
        for environment, wanted in (
            ({**stored, "TIGRIS_BUCKET": "b"}, [f"TIGRIS_BUCKET has no effect: {directory}"]),
            ({**stored, "TIGRIS_BUCKET": "yukari"}, [f"TIGRIS_BUCKET has no effect: {directory}"]),
            ({**stored, "SPOOL_MAX": "1GB"}, [f"SPOOL_MAX has no effect: {directory}"]),
            ({**stored, "REDIRECT": "on"}, [f"REDIRECT has no effect: {directory}"]),
            ({**stored, "REDIRECT": "auto", "SCRUB_BUCKET": "0"}, []),
            (
                {**bucket, "REDIRECT": "off", "PRESIGN_ENDPOINT": "http://h/"},
                ["PRESIGN_ENDPOINT has no effect: REDIRECT is off"],
            ),
            (
                {**bucket, "SCRUB_BUCKET": "1", "SCRUB_PERIOD": "0"},
                ["SCRUB_BUCKET has no effect: SCRUB_PERIOD is 0"],
            ),
            ({**bucket, "KEEP": "a/b"}, ["KEEP has no effect: EVICT is never"]),
            ({**bucket, "KEEP": "a/b", "EVICT": "lru"}, []),
            (
                {**stored, "PRIVATE_MODELS": "everyone"},
                ["PRIVATE_MODELS has no effect: there is no UPSTREAM_KEY"],
            ),
            ({"TIGRIS_BUCKET": "b", "SPOOL_MAX": "1GB"}, []),
            (stored, []),
        ):
            settings = Settings.read({}, {**HOME, **environment})
            self.assertEqual(list(settings.unused), wanted, environment)
        flags = Settings.read({"storage": "/x", "tigris-bucket": "b"}, HOME)
        self.assertEqual(
            flags.unused,
            ("--tigris-bucket has no effect: STORAGE is the directory /x, not tigris",),
        )

    def test_tigris_has_a_default_bucket(self) -> None:
        made = read({"storage": "tigris"})
        self.assertEqual((made["storage"], made["tigris_bucket"]), (TIGRIS, "yukari"))

    def test_a_directory_called_tigris_can_be_named(self) -> None:
        self.assertEqual(read(STORAGE="./tigris")["storage"], str(Path.cwd() / "tigris"))


class BindTests(SynchronousTestCase):
    def test_two_places_of_which_one_can_be_had_are_an_error(self) -> None:
        """The daemon ended at its start, after ``check-config`` had found nothing wrong."""
        for bind, admin_bind in (
            (":9200", ":9200"),
            (":9200", "127.0.0.1:9200"),
            ("[::1]:9200", ":9200"),
            ("tcp:9200", ":9200"),
            ("127.0.0.1:9200", "tcp:9200:interface=127.0.0.1"),
            ("unix:/run/yukari.sock", "unix:/run/yukari.sock"),
            (":1 :9200", ":2 [::1]:9200"),
        ):
            flags = {"bind": bind.split(), "admin-bind": admin_bind.split()}
            error = self.assertRaises(SettingError, Settings.read, flags, HOME)
            self.assertRegex(str(error), "^--admin-bind '.*': expected a place of its own: this")
        for bind, admin_bind in (
            (":0", ":0"),
            (":9200", ":9201"),
            ("127.0.0.1:9200", "127.0.0.2:9200"),
            ("127.0.0.1:9200", "[::1]:9200"),
            ("unix:/run/a.sock", "unix:/run/b.sock"),
        ):
            flags = {"bind": bind.split(), "admin-bind": admin_bind.split()}
            self.assertEqual(len(Settings.read(flags, HOME).admin_bind), 1)
        error = self.assertRaises(SettingError, Settings.read, {"bind": [":1", ":1"]}, HOME)
        self.assertIn("--bind", str(error))

    def test_addresses_to_listen_on_become_endpoints(self) -> None:
        for text, descriptions in {
            ":9200": (
                "tcp:9200:backlog=4096:interface=\\:\\:",
                "tcp:9200:backlog=4096:interface=0.0.0.0",
            ),
            "tcp:9200": (
                "tcp:9200:backlog=4096:interface=\\:\\:",
                "tcp:9200:backlog=4096:interface=0.0.0.0",
            ),
            "tcp:port=0:backlog=5": (
                "tcp:port=0:backlog=5:interface=\\:\\:",
                "tcp:port=0:backlog=5:interface=0.0.0.0",
            ),
            "tcp:80:10.0.0.1": ("tcp:80:10.0.0.1:backlog=4096",),
            "tcp:80:10.0.0.1:7": ("tcp:80:10.0.0.1:7",),
            "127.0.0.1:80": ("tcp:80:backlog=4096:interface=127.0.0.1",),
            "0.0.0.0:80": ("tcp:80:backlog=4096:interface=0.0.0.0",),
            "my-host.example:80": ("tcp:80:backlog=4096:interface=my-host.example",),
            "[::]:80": ("tcp:80:backlog=4096:interface=\\:\\:",),
            "[FE80::1]:80": ("tcp:80:backlog=4096:interface=fe80\\:\\:1",),
            "tcp:80:interface=127.0.0.1": ("tcp:80:interface=127.0.0.1:backlog=4096",),
            "tcp6:80": ("tcp6:80:backlog=4096:interface=\\:\\:",),
            "unix:/run/y.sock:mode=660": ("unix:/run/y.sock:mode=660",),
            "haproxy:tcp:80": ("haproxy:tcp:80",),
        }.items():
            self.assertEqual(Bind.parse(text), Bind(text, descriptions))

    def test_impossible_addresses_are_refused(self) -> None:
        for text in (
            "", ":", "nonsense", "9200", "host:", "host:http", ":65536", ":-1", "::1:80", "::",
            "[::1]", "[nope]:80", "[]:80", "http://host:80", "-x:80", "a..b:80", "h/x:80", "tcp:",
            "tcp:x", "tcp:65536", "tcp:80:bogus=1", "ssl:443:privateKey=/nonexistent/key.pem",
            "systemd:domain=INET:index=77",
        ):  # fmt: skip
            self.assertRaises(InvalidSetting, Bind.parse, text)

    @given(st.ip_addresses(), st.integers(0, 65535))
    def test_every_address_becomes_an_endpoint_of_twisteds(
        self, address: object, port: int
    ) -> None:
        host = f"[{address}]" if ":" in str(address) else str(address)
        (description,) = Bind.parse(f"{host}:{port}").descriptions
        endpoint = serverFromString(None, description)
        self.assertEqual((endpoint._port, endpoint._interface), (port, str(address)))

    @given(
        st.text()
        | st.text("abc:[].0189-")
        | st.builds("{}:{}".format, st.sampled_from(("tcp", "tcp6", "unix", "haproxy")), st.text())
    )
    @example("tcp:" + "9" * 5000)
    @example("tcp:\u0661")
    def test_any_text_is_a_place_or_an_invalid_setting(self, text: str) -> None:
        try:
            for description in Bind.parse(text).descriptions:
                serverFromString(None, description)
        except InvalidSetting:
            pass


class UpstreamTests(SynchronousTestCase):
    def test_urls_are_normalised(self) -> None:
        for text, url, host in (
            ("https://registry.ollama.ai/", "https://registry.ollama.ai/", "registry.ollama.ai"),
            ("HTTPS://Registry.Ollama.AI", "https://registry.ollama.ai/", "registry.ollama.ai"),
            ("https://registry.ollama.ai:443", "https://registry.ollama.ai/", "registry.ollama.ai"),
            ("http://localhost:80/", "http://localhost/", "localhost"),
            ("https://localhost:80/", "https://localhost:80/", "localhost:80"),
            ("http://10.0.0.1:5000/a/b", "http://10.0.0.1:5000/a/b/", "10.0.0.1:5000"),
            ("http://h/a/b/", "http://h/a/b/", "h"),
            ("http://my_registry:5000", "http://my_registry:5000/", "my_registry:5000"),
            ("http://h/%7Ex/", "http://h/%7Ex/", "h"),
            ("http://[::1]:5000/", "http://[::1]:5000/", "[::1]:5000"),
        ):
            upstream = RegistryUrl.parse(text)
            self.assertEqual((upstream.url, upstream.host), (url, host))

    def test_other_urls_are_no_registry(self) -> None:
        for text in (
            "", "registry.ollama.ai", "ftp://h/", "https://", "https:///x", "http://u@h/",
            "http://u:p@h/", "http://h/?q", "http://h/#f", "http://h:0/", "http://h:65536/",
            "http://h:/", "http://h/a//b", "http://h/../x", "http://h/.", "http://h/%zz",
            "http://h/a b", "http://h\n/", "http://[::x]/", "http://.h/", "http://-h/",
            "https://my_registry/", "http://" + "a" * 64 + "/", "http://" + "a." * 200 + "a/", "http://h/\u00e9",
        ):  # fmt: skip
            self.assertRaises(InvalidSetting, RegistryUrl.parse, text)

    @given(
        st.builds(
            "{}://{}{}{}".format,
            st.sampled_from(("http", "https")),
            st.sampled_from(("h", "h.example", "10.0.0.1", "[::1]")),
            st.just("") | st.integers(1, 65535).map(":{}".format),
            st.lists(st.text("abcXYZ09-_~", min_size=1), max_size=3).map(
                lambda segments: "".join(f"/{segment}" for segment in segments)
            ),
        )
    )
    def test_an_upstream_reads_the_url_it_has(self, text: str) -> None:
        upstream = RegistryUrl.parse(text)
        self.assertEqual(RegistryUrl.parse(upstream.url), upstream)
        self.assertTrue(upstream.url.endswith("/"))

    @given(st.text() | st.text("htps:/.[]@?#%09a").map("http://{}".format))
    def test_any_text_is_an_upstream_or_an_invalid_setting(self, text: str) -> None:
        try:
            upstream = RegistryUrl.parse(text)
        except InvalidSetting:
            return
        self.assertEqual(RegistryUrl.parse(upstream.url), upstream)


class RegistriesTests(SynchronousTestCase):
    def test_the_default_registry_has_the_settings_of_upstream(self) -> None:
        environment = {**HOME, "UPSTREAM_REGISTRY": "http://h/", "UPSTREAM_ADDRESS": "192.0.2.1"}
        found, *_ = Settings.read({}, environment).registries
        self.assertEqual((found.name, found.url.url, found.host), ("default", "http://h/", "h"))
        self.assertEqual(found.address, Address("192.0.2.1"))


class OneTableTests(SynchronousTestCase):
    def test_flags_and_variables_are_spelt_alike_and_once(self) -> None:
        for row in SETTINGS:
            prefix = "YUKARI_" if row.name == "config" else ""
            self.assertEqual(prefix + row.flag.replace("-", "_").upper(), row.environment)
        self.assertEqual(len({row.name for row in SETTINGS}), len(SETTINGS))

    @given(st.sampled_from([row for row in SETTINGS if row.default is not None]))
    def test_a_default_given_as_a_flag_is_the_default(self, row: Setting) -> None:
        flags = {row.flag: row.default}
        expected = dict(DEFAULTS)
        if "tigris-bucket" in flags:
            expected.update(storage=TIGRIS, spool_dir="/home/x/.cache/yukari/spool")
        self.assertEqual(read(flags), expected)
