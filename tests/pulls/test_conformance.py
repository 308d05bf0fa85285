"""
What a registry owes to those who pull, as the distribution specification's own suite asks it:
``conformance``, by ``go install`` (``YUKARI_TEST_CONFORMANCE`` is its path, else that on PATH).

Nothing is pushed to a cache: the suite is told what there is, and asks for that alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from hashlib import sha256

from tests.pulls.test_docker_registry import REGISTRY, DockerRegistryCase

CONFORMANCE = os.environ.get("YUKARI_TEST_CONFORMANCE") or shutil.which("conformance") or ""

PULL_ONLY = {
    "OCI_TLS": "disabled",
    "OCI_REPO1": "library/m",
    "OCI_API_PUSH": "false",
    "OCI_API_BLOBS_DELETE": "false",
    "OCI_API_MANIFESTS_DELETE": "false",
    "OCI_API_TAGS_DELETE": "false",
    "OCI_API_REFERRER": "false",
    "OCI_API_BLOBS_DIGEST_HEADER": "true",
    "OCI_RO_DATA_TAGS": "latest",
}
PASSING = {
    "ping",
    "empty/tag list",
    "read-only/tag-list",
    "read-only/head/manifest-head-by-tag",
    "read-only/head/manifest-head-by-digest",
    "read-only/head/blob-head",
    "read-only/pull/manifest-by-tag",
    "read-only/pull/manifest-by-digest",
    "read-only/pull/blob-get",
    "missing-manifest/by-digest",
    "missing-manifest/by-tag",
}


class ConformanceTests(DockerRegistryCase):
    if not CONFORMANCE:
        skip = "no conformance: none on PATH, and YUKARI_TEST_CONFORMANCE does not name one"
    elif not REGISTRY:
        skip = "no docker-registry on PATH"

    async def test_pull_part_of_the_distribution_specification_passes(self) -> None:
        registry = await self.registry()
        manifest = await self.push(registry, b"a layer" * 100_000, b"another")
        daemon = await self.yukari(f"http://127.0.0.1:{registry.port}", "--prefetch=none")
        # A cache lists the tags that were pulled through it.
        await self.ask(f"{daemon.url}/v2/library/m/manifests/latest")
        parsed = json.loads(manifest)
        blobs = [each["digest"] for each in (*parsed["layers"], parsed["config"])]
        run = self.spawn(
            CONFORMANCE,
            environment={
                **PULL_ONLY,
                "OCI_REGISTRY": daemon.host,
                "OCI_RO_DATA_MANIFESTS": f"sha256:{sha256(manifest).hexdigest()}",
                "OCI_RO_DATA_BLOBS": " ".join(blobs),
            },
        )
        await run.ended
        # Its reports fail to be written about what it was told; what it prints is whole.
        said = re.findall(r"^ *OCI Conformance Test/(.+): (\w+)$", run.text, re.MULTILINE)
        outcomes = {outcome for _, outcome in said}
        self.assertLessEqual(outcomes, {"Pass", "Disabled"}, run.text)
        passed = {name for name, outcome in said if outcome == "Pass"}
        self.assertLessEqual(PASSING, passed, run.text)
