"""Names parse to values that cannot be bad, and print as they were."""

from hashlib import sha256

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.strategies import blob_digests, model_names, name_parts, references
from yukari.names import DEFAULT, Digest, InvalidName, Repository, Tag, parse_reference


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


class RepositoryTests(SynchronousTestCase):
    @given(model_names(DEFAULT, "hf.co", "10.0.0.5:5000", "[::1]:80"))
    def test_a_name_reads_what_it_prints(self, name: Repository) -> None:
        self.assertEqual(Repository.parse(str(name)), name)

    def test_case_hyphens_dots_and_underscores_are_kept(self) -> None:
        text = "My-Org.x/_Llama-3.2_Q4"
        self.assertEqual(str(Repository.parse(text)), text)

    @given(st.text())
    @example("../..")
    @example("library/..")
    @example("library/.hidden")
    @example("library/-x")
    @example("library/a\0b")
    @example("library/a\n")
    @example("library/" + "a" * 81)
    @example("hf.co/a/b")
    @example("hf.co/a/" + "b" * 97)
    @example("HF.co/a/b")
    @example("/a/b")
    @example("../a/b")
    @example("a/b/c/d")
    @example("library")
    @example("library/")
    @example("library/caf\u00e9")
    def test_any_text_is_a_safe_name_or_no_name(self, text: str) -> None:
        try:
            name = Repository.parse(text)
        except InvalidName as error:
            self.assertTrue(str(error).isprintable() and str(error).isascii())
        else:
            self.assertEqual(str(name), text)
            self.assertNotIn("..", (name.registry, name.namespace, name.model))
            self.assertEqual(text.count("/"), 2 if name.registry else 1)
            self.assertEqual(name.path, f"{name.namespace}/{name.model}")

    def test_another_registry_may_have_the_long_names_of_hugging_face(self) -> None:
        for registry, most in ((DEFAULT, 80), ("hf.co", 96)):
            Repository(registry, "n" * most, "m" * most)
            self.assertRaises(InvalidName, Repository, registry, "n" * (most + 1), "m")
            self.assertRaises(InvalidName, Repository, registry, "n", "m" * (most + 1))

    def test_the_default_registrys_models_sort_first(self) -> None:
        names = ["0.example/a/a", "hf.co/a/a", "z/z"]
        found = sorted(map(Repository.parse, names))
        self.assertEqual(list(map(str, found)), ["z/z", "0.example/a/a", "hf.co/a/a"])

    def test_an_error_is_short_whatever_was_sent(self) -> None:
        error = self.assertRaises(InvalidName, Repository.parse, "x" * 100_000)
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
