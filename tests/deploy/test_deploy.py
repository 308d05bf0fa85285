"""deploy/ for Kubernetes: what it renders, and that its names exist in the daemon."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import yaml
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.processes import CHECKOUT
from yukari import __version__
from yukari.cli.verbs import VERBS
from yukari.config.settings import SETTINGS, Settings
from yukari.config.units import parse_bytes, parse_duration
from yukari.web.readiness import STORE_WITHIN

KUBERNETES = CHECKOUT / "deploy" / "kubernetes"
CHART = CHECKOUT / "deploy" / "helm" / "yukari"
MODES = ("local", "tigris")
OURS = {row.environment for row in SETTINGS}
OTHERS = re.compile(r"AWS_[A-Z0-9_]+|(HTTPS?|ALL|NO)_PROXY|SSL_CERT_FILE")
"""Variables that libraries read."""


def tool(*names: str) -> str:
    """Return the first of these programs that is installed, here or by .ci/run."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = os.pathsep.join((os.environ.get("PATH", ""), f"{cache}/yukari-ci/bin"))
    found = next(filter(None, (shutil.which(name, path=path) for name in names)), None)
    if found is None:
        raise SkipTest(f"not installed: {' or '.join(names)}")
    return found


def run(*command: str, given: Optional[str] = None) -> str:
    """Return what a program writes; fail with its error."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def kustomized(directory: Path) -> str:
    program = tool("kustomize", "kubectl")
    verb = "kustomize" if program.endswith("kubectl") else "build"
    return run(program, verb, str(directory))


def templated(*arguments: str, release: str = "yukari") -> str:
    # Helm asks no cluster here, and would take it for an old one.
    fixed = ("template", release, str(CHART), "--namespace=yukari", "--kube-version=1.30.0")
    return run(tool("helm"), *fixed, *arguments)


def objects(text: str) -> dict[tuple[str, str], Any]:
    """By kind and name."""
    return {
        (each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text) if each
    }


def pod(found: dict[tuple[str, str], Any]) -> Any:
    """The pods' spec."""
    (workload,) = (
        each for (kind, _), each in found.items() if kind in ("Deployment", "StatefulSet")
    )
    return workload["spec"]["template"]["spec"]


def environment(found: dict[tuple[str, str], Any]) -> dict[str, str]:
    """The daemon's, as far as it is written there."""
    return {entry["name"]: entry["value"] for entry in pod(found)["containers"][0]["env"]}


def variables(value: Any) -> Iterator[str]:
    """The names of environment variables in anything that YAML holds."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key == "env":
                yield from (entry["name"] for entry in each)
            elif key in ("data", "stringData"):
                yield from (name for name in each if "." not in name)
            elif key == "path" and str(each).endswith("/env/-"):
                yield value["value"]["name"]
            yield from variables(each)
    elif isinstance(value, list):
        for each in value:
            yield from variables(each)


def without_marks_of_helm(found: dict[tuple[str, str], Any]) -> dict[tuple[str, str], Any]:
    """As kustomize would have it: without labels of Helm's own, the environment in one order."""
    for each in found.values():
        labels = each["metadata"].get("labels", {})
        for label in ("helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version"):
            labels.pop(label, None)
    pod(found)["containers"][0]["env"].sort(key=lambda entry: str(entry["name"]))
    return found


class ManifestTests(SynchronousTestCase):
    """The files as they lie there."""

    def test_every_variable_is_a_setting(self) -> None:
        seen = set()
        for path in sorted(KUBERNETES.rglob("*.yaml")):
            for each in yaml.safe_load_all(path.read_text()):
                seen.update(variables(each))
        self.assertLessEqual({"STORAGE", "TIGRIS_BUCKET", "AWS_ACCESS_KEY_ID", "GRACE"}, seen)
        self.assertEqual({name for name in seen - OURS if not OTHERS.fullmatch(name)}, set())

    def test_the_versions_are_this_one(self) -> None:
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertEqual((chart["version"], chart["appVersion"]), (__version__, __version__))
        for mode in MODES:
            path = KUBERNETES / "overlays" / mode / "kustomization.yaml"
            (image,) = yaml.safe_load(path.read_text())["images"]
            self.assertEqual(image["newTag"], __version__)

    def test_the_warming_job_runs_a_verb_and_reaches_the_admins_port(self) -> None:
        found = objects((KUBERNETES / "warm.example.yaml").read_text())
        template = found["CronJob", "yukari-warm"]["spec"]["jobTemplate"]["spec"]["template"]
        (container,) = template["spec"]["containers"]
        self.assertTrue(container["image"].endswith(f":{__version__}"))
        program, verb, cache, file = container["command"]
        self.assertEqual((os.path.basename(program), verb), ("yukari", "warm"))
        self.assertIn(verb, VERBS)
        service = found["Service", "yukari-admin"]
        (port,) = service["spec"]["ports"]
        self.assertEqual(cache, f"--cache=http://{service['metadata']['name']}:{port['port']}")
        (mount,) = container["volumeMounts"]
        names = [
            os.path.join(mount["mountPath"], key)
            for key in found["ConfigMap", "yukari-warm"]["data"]
        ]
        self.assertEqual([file], names)
        (rule,) = found["NetworkPolicy", "yukari-warm"]["spec"]["ingress"]
        (peer,) = rule["from"]
        self.assertEqual(peer["podSelector"]["matchLabels"], template["metadata"]["labels"])
        base = yaml.safe_load((KUBERNETES / "base" / "deployment.yaml").read_text())
        ports = {
            each["name"] for each in base["spec"]["template"]["spec"]["containers"][0]["ports"]
        }
        self.assertIn(port["targetPort"], ports)

    def test_every_file_of_an_overlay_is_used_or_an_example(self) -> None:
        for directory in (KUBERNETES / "base", *(KUBERNETES / "overlays" / mode for mode in MODES)):
            listed = (directory / "kustomization.yaml").read_text()
            for path in directory.glob("*.yaml"):
                if path.name != "kustomization.yaml" and not path.name.endswith(".example.yaml"):
                    self.assertIn(path.name, listed)


class RenderedTests(SynchronousTestCase):
    """The objects that a cluster gets."""

    def test_the_daemon_takes_its_settings(self) -> None:
        for mode in MODES:
            found = objects(kustomized(KUBERNETES / "overlays" / mode))
            read = Settings.read({}, environment(found))
            self.assertEqual(read.storage, "tigris" if mode == "tigris" else "/var/lib/yukari")
            self.assertEqual([bind.text for bind in read.admin_bind], [":9201"])

    def test_a_pod_is_not_killed_while_it_may_still_send(self) -> None:
        defaults = {row.environment: row.default or "" for row in SETTINGS}
        for mode in MODES:
            found = objects(kustomized(KUBERNETES / "overlays" / mode))
            given = {**defaults, **environment(found)}
            takes = sum(parse_duration(given[name]) for name in ("SHUTDOWN_DELAY", "GRACE"))
            self.assertGreaterEqual(pod(found)["terminationGracePeriodSeconds"], takes + 20)

    def test_the_spool_stays_below_its_volume(self) -> None:
        found = objects(kustomized(KUBERNETES / "overlays" / "tigris"))
        (volume,) = pod(found)["volumes"]
        limit = parse_bytes(f"{volume['emptyDir']['sizeLimit']}B")
        most = parse_bytes(environment(found)["SPOOL_MAX"])
        self.assertTrue(0.8 * limit <= most <= 0.95 * limit)
        (mount,) = pod(found)["containers"][0]["volumeMounts"]
        self.assertTrue(environment(found)["SPOOL_DIR"].startswith(mount["mountPath"]))

    def test_a_probe_waits_longer_than_the_store_may_take(self) -> None:
        for mode in MODES:
            container = pod(objects(kustomized(KUBERNETES / "overlays" / mode)))["containers"][0]
            for probe in ("startupProbe", "readinessProbe"):
                self.assertGreater(container[probe]["timeoutSeconds"], STORE_WITHIN)

    def test_an_outage_of_s3_takes_no_replica_away(self) -> None:
        paths = {"local": "/readyz", "tigris": "/healthz"}
        for mode, path in paths.items():
            container = pod(objects(kustomized(KUBERNETES / "overlays" / mode)))["containers"][0]
            self.assertEqual(container["readinessProbe"]["httpGet"]["path"], path)
            self.assertEqual(container["startupProbe"]["httpGet"]["path"], "/readyz")
            self.assertEqual(container["livenessProbe"]["httpGet"]["path"], "/healthz")

    def test_ports_are_where_the_daemon_listens(self) -> None:
        found = objects(kustomized(KUBERNETES / "overlays" / "local"))
        ports = {
            port["name"]: port["containerPort"] for port in pod(found)["containers"][0]["ports"]
        }
        default = next(row.default for row in SETTINGS if row.name == "bind")
        self.assertEqual(f":{ports['http']}", default)
        self.assertEqual(f":{ports['admin']}", environment(found)["ADMIN_BIND"])
        scraped = found["StatefulSet", "yukari"]["spec"]["template"]["metadata"]["annotations"]
        self.assertEqual(scraped["prometheus.io/port"], str(ports["admin"]))


class ChartTests(SynchronousTestCase):
    """Helm's way to the same."""

    def setUp(self) -> None:
        tool("helm")

    def test_helm_renders_the_same_as_kustomize(self) -> None:
        for mode in MODES:
            wanted = objects(kustomized(KUBERNETES / "overlays" / mode))
            del wanted["Namespace", "yukari"]  # Helm has --create-namespace.
            found = without_marks_of_helm(objects(templated(f"--set=mode={mode}")))
            self.assertEqual(found, without_marks_of_helm(wanted))

    def test_the_chart_refuses_unknown_values(self) -> None:
        for wrong in ("mode=lokal", "setings.OFFLINE=1", "settings.offline=1", "spool.max=much"):
            error = self.assertRaises(AssertionError, templated, f"--set={wrong}")
            self.assertIn(wrong.split("=")[0].split(".")[0], str(error))

    def test_given_settings_win(self) -> None:
        found = objects(templated("--set=mode=tigris,settings.SPOOL_MAX=5GB,settings.OFFLINE=1"))
        given = environment(found)
        self.assertEqual((given["SPOOL_MAX"], given["OFFLINE"], given["GRACE"]), ("5GB", "1", "2m"))

    def test_optional_objects_can_be_left_out_or_added(self) -> None:
        found = objects(
            templated(
                *("--set=ingress.enabled=false,networkPolicy.enabled=false",),
                *("--set=podMonitor.enabled=true,podMonitor.labels.release=prometheus",),
                *("--set=volume.storageClass=fast,service.type=LoadBalancer",),
            )
        )
        kinds = {kind for kind, _ in found}
        self.assertEqual(kinds, {"ServiceAccount", "Service", "StatefulSet", "PodMonitor"})
        (claim,) = found["StatefulSet", "yukari"]["spec"]["volumeClaimTemplates"]
        self.assertEqual(claim["spec"]["storageClassName"], "fast")
        self.assertEqual(found["Service", "yukari"]["spec"]["type"], "LoadBalancer")

    def test_two_releases_do_not_collide(self) -> None:
        for mode in MODES:
            found = objects(templated(f"--set=mode={mode}", release="second"))
            self.assertEqual({name for _, name in found}, {"second"})
            selector = found["Service", "second"]["spec"]["selector"]
            self.assertEqual(selector["app.kubernetes.io/instance"], "second")
            paths = found["Ingress", "second"]["spec"]["rules"][0]["http"]["paths"]
            self.assertEqual({path["backend"]["service"]["name"] for path in paths}, {"second"})
