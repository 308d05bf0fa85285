"""A manifest is its bytes; what they name is read, what cannot be one is refused."""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.strategies import descriptors, manifest_body, manifests
from yukari.descriptors import Descriptor
from yukari.manifest import (
    DOCKER_MANIFEST,
    MANIFEST_LIST,
    MAX_BYTES,
    MAX_CHILDREN,
    MAX_TYPE,
    MAX_VALUES,
    MAX_WIDE,
    RUNNERS,
    SIZE_UNKNOWN,
    InvalidManifest,
    Manifest,
    ManifestList,
    parse_manifest,
)
from yukari.names import Digest

HEX = "ab" * 32
LAYER = {"mediaType": "a/b", "digest": f"sha256:{HEX}", "size": 3}
CHILD = {"mediaType": DOCKER_MANIFEST, "digest": f"sha256:{HEX}", "runner": "llamacpp"}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
near_manifests = st.fixed_dictionaries(
    {},
    optional={
        "schemaVersion": st.just(2) | json_values,
        "mediaType": st.just(DOCKER_MANIFEST) | json_values,
        "config": st.just(LAYER) | json_values,
        "layers": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "digest": st.just(LAYER["digest"]) | json_values,
                    "size": st.just(3) | json_values,
                    "mediaType": json_values,
                },
            )
        )
        | json_values,
    },
)


def body(**changes: Any) -> bytes:
    """A good manifest, changed; None leaves a field out."""
    content = {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "layers": [LAYER], **changes}
    return json.dumps({key: value for key, value in content.items() if value is not None}).encode()


def listed(*children: Any) -> bytes:
    """A list of these children."""
    content = {"schemaVersion": 2, "mediaType": MANIFEST_LIST, "manifests": list(children)}
    return json.dumps(content).encode()


class ManifestTests(SynchronousTestCase):
    @given(
        st.lists(descriptors(), unique_by=lambda blob: blob.digest, min_size=1),
        st.sampled_from((None, 1)),
    )
    def test_a_manifest_keeps_its_bytes_and_the_order_of_its_blobs(
        self, blobs: list[Descriptor], indent: int | None
    ) -> None:
        sent = manifest_body(blobs[:-1], blobs[-1], indent)
        parsed = Manifest.parse(sent)
        expected = Manifest(sent, Digest.of(sent), DOCKER_MANIFEST, tuple(blobs), blobs[-1])
        self.assertEqual(parsed, expected)

    @given(manifests())
    def test_parsing_its_bytes_again_changes_nothing(self, manifest: Manifest) -> None:
        self.assertEqual(Manifest.parse(manifest.body), manifest)

    def test_a_blob_that_is_named_twice_counts_once(self) -> None:
        parsed = Manifest.parse(body(layers=[LAYER, LAYER], config=LAYER))
        self.assertEqual(parsed.blobs, (Descriptor(Digest(HEX), 3, "a/b"),))

    def test_a_missing_media_type_is_dockers(self) -> None:
        self.assertEqual(Manifest.parse(body(mediaType=None)).media_type, DOCKER_MANIFEST)

    def test_its_own_media_type_is_kept(self) -> None:
        oci = "application/vnd.oci.image.manifest.v1+json"
        self.assertEqual(Manifest.parse(body(mediaType=oci)).media_type, oci)

    def test_a_media_type_of_any_length_is_not_kept(self) -> None:
        """Each of 20,000 layers may have one of its own, of 400 characters."""
        made = Manifest.parse(body(mediaType="a/" + "b" * MAX_TYPE))
        self.assertEqual(made.media_type, DOCKER_MANIFEST)
        longest = "a/" + "b" * (MAX_TYPE - 2)
        self.assertEqual(Manifest.parse(body(mediaType=longest)).media_type, longest)

    def test_thousands_of_layers_are_no_trouble(self) -> None:
        layers = [{"digest": f"sha256:{at:064x}", "size": at} for at in range(10_000)]
        self.assertEqual(len(Manifest.parse(body(layers=layers)).blobs), 10_000)

    def test_fields_that_go_leaves_empty_are_no_error(self) -> None:
        layer = Descriptor(Digest(HEX), 3, "a/b")
        for sent, blobs in (
            (body(schemaVersion=None), (layer,)),
            (body(config={}), (layer,)),
            (body(config={"digest": "", "size": 0, "mediaType": ""}), (layer,)),
            (body(layers=None, config=LAYER), (layer,)),
            (body(layers=[], config=LAYER), (layer,)),
            (body(layers=[{**LAYER, "digest": f"sha256-{HEX.upper()}"}]), (layer,)),
            (body(layers=[{**LAYER, "urls": ["x"], "annotations": None}]), (layer,)),
            (body(schemaVersion=1), (layer,)),
            (body(schemaVersion=0), (layer,)),
            (body(manifests=[]), (layer,)),
            (body(manifests=[CHILD]), (layer,)),
        ):
            self.assertEqual(Manifest.parse(sent).blobs, blobs)

    def test_the_case_of_fields_names_does_not_matter(self) -> None:
        layer = {key.upper(): value for key, value in LAYER.items()}
        sent = json.dumps({"SchemaVersion": 2, "Layers": [layer], "CONFIG": None}).encode()
        self.assertEqual(Manifest.parse(sent).blobs, (Descriptor(Digest(HEX), 3, "a/b"),))

    def test_texts_that_are_no_utf_8_are_read(self) -> None:
        """As Go reads them, and their bytes are kept."""
        sent = body()[:-1] + b', "annotations": {"author": "J\xe9r\xf4me"}}'
        self.assertEqual(Manifest.parse(sent).body, sent)

    def test_a_size_that_is_not_given_is_unknown(self) -> None:
        bare = {key: value for key, value in LAYER.items() if key != "size"}
        for layers in (
            [bare],
            [{**LAYER, "size": None}],
            [{**LAYER, "size": 0}],
            [{**LAYER, "size": -1}],
            [LAYER, {**LAYER, "size": 4}],
        ):
            (blob,) = Manifest.parse(body(layers=layers)).blobs
            self.assertEqual(blob.size, SIZE_UNKNOWN)

    def test_other_bytes_are_refused_with_the_reason(self) -> None:
        for sent, why in (
            (b"", "not JSON"),
            (b"<html>Please log in</html>", "not JSON"),
            (body()[:-5], "not JSON"),
            (b"\xff\xfe\xff", "not JSON"),
            (body().decode().encode("utf-16"), "not JSON"),
            (b"\xef\xbb\xbf" + body(), "not JSON"),
            (body()[:-1] + b', "x": NaN}', "not JSON"),
            (b"[]", "not a JSON object"),
            (b'{"error": "x"}', "it has neither schemaVersion nor"),
            (b"{}", "it has neither schemaVersion nor"),
            (body(schemaVersion="2"), "schemaVersion '2': expected a number"),
            (body(schemaVersion=2.0), "schemaVersion 2.0: expected a number"),
            (body(schemaVersion=True), "schemaVersion True: expected a number"),
            (body(layers={}), "layers: expected a list"),
            (body(layers=[]), "it names no blob"),
            (body(layers=None, config={}), "it names no blob"),
            (
                body(manifests=[CHILD], layers=None),
                "expected application/vnd.ollama.manifest.list.v2+json",
            ),
            (listed(), "it lists no manifest"),
            (listed(*[CHILD] * (MAX_CHILDREN + 1)), f"expected at most {MAX_CHILDREN}"),
            # Python takes some 80 bytes for each of them: 200 MB in eight megabytes.
            (body()[:-1] + b', "x": [' + b"{}," * MAX_VALUES + b"{}]}", f"{MAX_VALUES} values"),
            (body()[:-1] + b', "x": [' + b"[]," * MAX_VALUES + b"[]]}", f"{MAX_VALUES} values"),
            # With one of them, each of the others takes four bytes: 60 MB in all.
            (
                body(x="x" * MAX_WIDE + "\U0001f600").replace(
                    b"\\ud83d\\ude00", b"\xf0\x9f\x98\x80"
                ),
                "U+FFFF",
            ),
            (listed(None), "manifest 0: expected an object"),
            (listed({"runner": "mlx"}), "manifest 0: digest"),
            (listed({**CHILD, "digest": "sha256:x"}), "manifest 0: digest sha256:x"),
            (listed({**CHILD, "runner": 1}), "manifest 0: runner: expected text"),
            (listed({**CHILD, "mediaType": MANIFEST_LIST}), "manifest 0: a list within a list"),
            (listed(CHILD, {**CHILD, "layers": [{}]}), "manifest 1: layer 0: expected a digest"),
            (listed({**CHILD, "mediaType": "a/b"}), "it lists no manifest"),
            (body(layers=[{}]), "layer 0: expected a digest"),
            (body(layers=[{**LAYER, "digest": "sha256:x"}]), "layer 0: digest sha256:x"),
            (body(layers=[{**LAYER, "size": True}]), "layer 0: size True"),
            (body(layers=[{**LAYER, "size": 1.5}]), "layer 0: size 1.5"),
            (body(layers=[{**LAYER, "size": 2**63}]), "layer 0: size 9223372036854775808"),
            (body(layers=[{**LAYER, "size": [1]}]), "layer 0: size a list"),
            (body(config="x"), "config: expected an object"),
            (body(config={"digest": 1}), "config: expected a digest"),
            (body(mediaType=1), "mediaType: expected text"),
            (b" " * (MAX_BYTES + 1), "expected at most"),
        ):
            error = self.assertRaises(InvalidManifest, parse_manifest, sent)
            self.assertIn(why, str(error))

    @given(st.binary() | st.builds(lambda c: json.dumps(c).encode(), near_manifests | json_values))
    @example(b'{"schemaVersion":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    @example(b'{"schemaVersion":' + b"[" * 500 + b"]" * 500 + b"}")
    @example(b'{"schemaVersion":' + b"1" * 10_000 + b"}")
    def test_any_bytes_are_a_manifest_or_an_invalid_one(self, sent: bytes) -> None:
        try:
            parsed = parse_manifest(sent)
        except InvalidManifest as error:
            self.assertLess(len(str(error)), 300)
        else:
            self.assertEqual(parsed.body, sent)


class ManifestListTests(SynchronousTestCase):
    def parsed(self, *children: Any) -> ManifestList:
        found = parse_manifest(listed(*children))
        assert isinstance(found, ManifestList)
        return found

    @given(st.permutations([*RUNNERS, "other", ""]))
    def test_children_are_preferred_as_ollama_does(self, runners: list[str]) -> None:
        digests = [f"sha256:{at:064x}" for at in range(len(runners))]
        found = self.parsed(
            *(
                {**CHILD, "digest": digest, "runner": runner.upper()}
                for digest, runner in zip(digests, runners)
            )
        )
        self.assertEqual([str(child.digest) for child in found.children], digests)
        preferred = [child.runner.lower() for child in found.by_preference()]
        self.assertEqual(preferred[:3], list(RUNNERS))

    def test_a_list_is_no_manifest(self) -> None:
        self.assertRaises(InvalidManifest, Manifest.parse, listed(CHILD))

    def test_a_child_of_an_unknown_type_is_left_out(self) -> None:
        found = self.parsed({**CHILD, "mediaType": "a/b"}, {**CHILD, "mediaType": ""})
        self.assertEqual(len(found.children), 1)

    def test_an_inline_child_is_a_manifest_without_an_upstream_blob(self) -> None:
        whole = {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": LAYER, "layers": []}
        (child,) = self.parsed(
            {**whole, "runner": "ggml", "digest": f"sha256:{'cd' * 32}"}
        ).children
        assert child.inline is not None
        self.assertEqual(child.digest, child.inline.digest)
        self.assertEqual(Manifest.parse(child.inline.body), child.inline)
        self.assertEqual([blob.digest for blob in child.inline.blobs], [Digest(HEX)])
        self.assertIsNone(self.parsed(CHILD).children[0].inline)
