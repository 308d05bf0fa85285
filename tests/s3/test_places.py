"""Which S3, how it is addressed, and when clients are sent there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.s3.location import BucketPlace, InvalidPlace, is_public
from yukari.s3.presign import LONGEST, SHORTEST, host_of, presign_lifetime, redirects
from yukari.spans import SpanSet
from yukari.storage.bucket.multipart import MAX_PARTS, SMALL, BlobParts, part_size

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
private_names = st.one_of(
    labels,
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    st.builds(
        "{}.{}".format,
        labels,
        st.sampled_from(["local", "internal", "svc", "lan", "home.arpa", "svc.cluster.local"]),
    ),
)
public_names = st.builds("{}.{}.example".format, labels, labels)
names = st.one_of(private_names, public_names)
ports = st.sampled_from(["", ":443", ":9000"])
schemes = st.sampled_from(["http", "https"])


class PlaceTests(SynchronousTestCase):
    def test_the_default_endpoint_is_tigris(self) -> None:
        place = BucketPlace.of("yukari", {})
        self.assertEqual(place, BucketPlace("https://t3.storage.dev", "auto", "yukari", False))

    def test_the_host_is_the_one_that_requests_go_to(self) -> None:
        """What is known of its connections is looked up by it."""
        for endpoint, is_path, host in (
            ("https://t3.storage.dev", False, ("models.t3.storage.dev", 443)),
            ("http://t3.storage.dev:81", False, ("models.t3.storage.dev", 81)),
            ("http://[::1]:9000", True, ("::1", 9000)),
        ):
            self.assertEqual(BucketPlace(endpoint, "auto", "models", is_path).host, host)

    def test_inside_fly_the_nearer_endpoint_is_used(self) -> None:
        place = BucketPlace.of("yukari", {"FLY_APP_NAME": "x"})
        self.assertEqual(place.endpoint, "https://fly.storage.tigris.dev")

    def test_variables_of_aws_are_read(self) -> None:
        environment = {
            "AWS_ENDPOINT_URL": "http://other:1",
            "AWS_ENDPOINT_URL_S3": "http://Minio:9000/",
            "AWS_REGION": "eu-west-1",
            "FLY_APP_NAME": "x",
        }
        self.assertEqual(
            BucketPlace.of("b.c", environment),
            BucketPlace("http://minio:9000", "eu-west-1", "b.c", True),
        )
        del environment["AWS_ENDPOINT_URL_S3"]
        self.assertEqual(BucketPlace.of("b", environment).endpoint, "http://other:1")

    def test_impossible_endpoints_are_refused(self) -> None:
        for text in ("minio:9000", "ftp://x", "http://", "http://u:secret@h", "http://h/p", "//x"):
            with self.assertRaises(InvalidPlace) as caught:
                BucketPlace.of("b", {"AWS_ENDPOINT_URL_S3": text})
            self.assertIn("AWS_ENDPOINT_URL_S3", str(caught.exception))
            self.assertNotIn("secret", str(caught.exception))

    @given(private_names, ports)
    def test_private_endpoints_and_odd_buckets_are_addressed_by_path(
        self, name: str, port: str
    ) -> None:
        where = {"AWS_ENDPOINT_URL_S3": f"http://{name}{port}"}
        self.assertTrue(BucketPlace.of("bucket", where).path_style)
        for bucket in ("With_Capitals", "dots.in.it"):
            self.assertTrue(BucketPlace.of(bucket, {}).path_style)


class RedirectTests(SynchronousTestCase):
    @given(st.sampled_from(["auto", "on", "off"]), schemes, names, ports, names, ports)
    def test_redirect_modes_follow_the_table(
        self, mode: str, scheme: str, name: str, port: str, host: str, host_port: str
    ) -> None:
        found = redirects(mode, f"{scheme}://{name}{port}/b/k?X=1", f"{host.upper()}{host_port}")
        if mode == "off" or name == host:
            self.assertFalse(found)
        elif mode == "on":
            self.assertTrue(found)
        else:
            self.assertEqual(found, scheme == "https" and is_public(name))

    @given(schemes, names, ports, ports)
    def test_no_redirect_to_the_name_that_the_client_used(
        self, scheme: str, name: str, port: str, other: str
    ) -> None:
        for mode in ("auto", "on", "off"):
            self.assertFalse(redirects(mode, f"{scheme}://{name}{port}/", f"{name}{other}"))

    @given(public_names, private_names)
    def test_public_names_are_recognised(self, public: str, private: str) -> None:
        self.assertTrue(is_public(public))
        self.assertFalse(is_public(private))

    @given(st.text(max_size=40))
    def test_any_host_header_is_read(self, text: str) -> None:
        self.assertIsInstance(host_of(text), str)
        self.assertFalse(redirects("off", "https://a.example/", text))

    @given(st.floats(-1e9, 1e9))
    def test_a_url_expires_before_its_keys_and_lasts_an_hour(self, left: float) -> None:
        found = presign_lifetime(left)
        if left < SHORTEST:
            self.assertIsNone(found)
        else:
            assert found is not None
            self.assertTrue(SHORTEST <= found <= left and found <= LONGEST)

    def test_keys_without_end_sign_the_longest_url(self) -> None:
        self.assertEqual(presign_lifetime(None), LONGEST)


class PartTests(SynchronousTestCase):
    @given(st.integers(SMALL, 10 * SMALL), st.data())
    def test_parts_are_ready_once_all_their_bytes_are_covered(
        self, size: int, data: st.DataObject
    ) -> None:
        parts = BlobParts(size, SMALL)
        spans = [parts.span(number) for number in range(parts.count)]
        self.assertEqual((spans[0].start, spans[-1].end), (0, size))
        ends = data.draw(st.lists(st.integers(0, size), max_size=6))
        covered, taken = SpanSet(), SpanSet()
        for start, end in zip(ends[::2], ends[1::2]):
            if start < end:
                covered.add(start, end)
        ready = [n for n, span in enumerate(spans) if covered.until(span.start) >= span.end]
        for number in ready:
            self.assertEqual(parts.first_ready(covered, taken), number)
            taken.add(number, number + 1)
        self.assertIsNone(parts.first_ready(covered, taken))

    @given(st.integers(1, 5 * 2**40))
    def test_parts_are_few_and_large_enough(self, size: int) -> None:
        part = part_size(size)
        self.assertGreaterEqual(part, SMALL)
        self.assertLessEqual(-(-size // part), MAX_PARTS)
        self.assertLessEqual(part, 5 * 2**30)
