"""Names parse to values that cannot be bad, and print as they were."""

from hashlib import sha256

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.strategies import blob_digests, model_names, name_parts, references
from yukari.names import Digest, InvalidName, ModelName, Tag, parse_reference


class DigestTests(SynchronousTestCase):
    @given(blob_digests())
    def test_a_digest_reads_what_it_prints_and_what_its_file_is_called(
        self, digest: Digest
    ) -> None:
        self.assertEqual(Digest.parse(str(digest)), digest)
        self.assertEqual(Digest.parse(digest.file_name), digest)

    @given(st.binary())
    def test_the_digest_of_bytes_is_their_sha256(self, body: bytes) -> None:
        self.assertEqual(str(Digest.of(body)), "sha256:" + sha256(body).hexdigest())

    @given(st.text())
    @example("sha256:" + "A" * 64)
    @example("sha256:" + "a" * 64 + "\n")
    @example("sha256:" + "\u0661" * 64)
    @example("sha256:../" + "a" * 61)
    @example("sha512:" + "a" * 64)
    def test_other_texts_are_no_digest(self, text: str) -> None:
        self.assertRaises(InvalidName, Digest.parse, text)
        self.assertRaises(InvalidName, Digest, text)


class ModelNameTests(SynchronousTestCase):
    @given(model_names())
    def test_a_name_reads_what_it_prints(self, name: ModelName) -> None:
        self.assertEqual(ModelName.parse(str(name)), name)

    def test_case_hyphens_dots_and_underscores_are_kept(self) -> None:
        text = "My-Org.x/_Llama-3.2_Q4"
        self.assertEqual(str(ModelName.parse(text)), text)

    @given(st.text())
    @example("../..")
    @example("library/..")
    @example("library/.hidden")
    @example("library/-x")
    @example("library/a\0b")
    @example("library/a\n")
    @example("library/" + "a" * 81)
    @example("a/b/c")
    @example("library")
    @example("library/")
    @example("library/caf\u00e9")
    def test_any_text_is_a_safe_name_or_no_name(self, text: str) -> None:
        try:
            name = ModelName.parse(text)
        except InvalidName as error:
            self.assertTrue(str(error).isprintable() and str(error).isascii())
        else:
            self.assertEqual(str(name), text)
            self.assertNotIn("..", (name.namespace, name.model))
            self.assertEqual(text.count("/"), 1)

    def test_an_error_is_short_whatever_was_sent(self) -> None:
        error = self.assertRaises(InvalidName, ModelName.parse, "x" * 100_000)
        self.assertLess(len(str(error)), 200)


class ReferenceTests(SynchronousTestCase):
    @given(references())
    def test_a_reference_reads_what_it_prints(self, reference: object) -> None:
        self.assertEqual(parse_reference(str(reference)), reference)

    @given(name_parts())
    def test_a_text_that_does_not_begin_as_a_digest_is_a_tag(self, text: str) -> None:
        if not text.startswith("sha256-"):
            self.assertEqual(parse_reference(text), Tag(text))

    def test_half_a_digest_is_not_taken_for_a_tag(self) -> None:
        self.assertRaises(InvalidName, parse_reference, "sha256-abc")

    @given(st.text())
    def test_any_text_is_a_reference_or_an_invalid_name(self, text: str) -> None:
        try:
            parse_reference(text)
        except InvalidName:
            pass
