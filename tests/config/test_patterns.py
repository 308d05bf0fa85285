"""Which models may be pulled, by patterns of their names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.strategies import model_names
from yukari.config.patterns import ModelRules, Patterns
from yukari.errors import RegistryError
from yukari.names import DEFAULT, Repository

LLAMA = Repository(DEFAULT, "library", "llama3.2")
HERS = Repository(DEFAULT, "someone", "llama3-tuned")
REGISTRY = "registry.ollama.ai"


def rules(allowed: str = "", denied: str = "") -> ModelRules:
    return ModelRules(
        REGISTRY,
        Patterns.parse(allowed) if allowed else None,
        Patterns.parse(denied) if denied else Patterns(),
    )


class PatternTests(SynchronousTestCase):
    def test_each_part_is_a_shell_pattern(self) -> None:
        for pattern, matched in {
            "library/*": [LLAMA],
            "*/llama*": [LLAMA, HERS],
            "*/llama3.?": [LLAMA],
            "*/llama3[.x]*": [LLAMA],
            "*/*[!2]": [HERS],
            "library/llama": [],
            "lib*3.2/*": [],
            "*/library/*": [LLAMA],
            "registry.ollama.ai/*/*": [LLAMA, HERS],
            "hf.co/*/*": [],
            "registry.ollama.ai/*": [],
            "library/*,someone/*": [LLAMA, HERS],
        }.items():
            found = [each for each in (LLAMA, HERS) if not rules(denied=pattern).allow(each)]
            self.assertEqual(found, matched, pattern)
            self.assertEqual([e for e in (LLAMA, HERS) if rules(pattern).allow(e)], matched)

    def test_a_registry_has_all_its_spellings(self) -> None:
        # A rule for huggingface.co refused nothing of hf.co.
        for pattern, registry, default, is_matched in (
            ("huggingface.co/*/*", "hf.co", "h", True),
            ("HuggingFace.co/u/*", "hf.co+llama-cpp", "h", True),
            ("hf.co/*/*", "", "huggingface.co", True),
            ("ollama.com/*/*", "", "registry.ollama.ai", True),
            ("*.com/*/*", "", "ollama.com", True),
            ("*.com/*/*", "hf.co", "h", False),
            ("hf.co/*/*", "", "h", False),
        ):
            found = Patterns.parse(pattern).match(default, Repository(registry, "u", "m"))
            self.assertEqual(found is not None, is_matched, (pattern, registry, default))

    def test_a_registrys_port_is_part_of_its_name(self) -> None:
        patterns = Patterns.parse("localhost:5000/*/*")
        self.assertIsNotNone(patterns.match("localhost:5000", LLAMA))
        self.assertIsNone(patterns.match("localhost", LLAMA))

    @given(model_names())
    def test_capitals_do_not_evade_a_rule(self, name: Repository) -> None:
        dodging = Repository(DEFAULT, name.namespace.swapcase(), name.model.swapcase())
        self.assertFalse(rules(denied=str(name)).allow(dodging))

    def test_a_pattern_that_no_name_can_match_is_refused(self) -> None:
        for text in ("", ",", "llama*", "library/llama3:7b", "a/b/c/d", "lib rary/ä", "a//b", "/a"):
            error = self.assertRaises(ValueError, Patterns.parse, text)
            self.assertTrue(str(error).startswith("expected "), error)
        for text in ("a/[bc", "a/b]", "a/[]", "a/[!]", "a/[[b]]", "a/!b", "a/[b", "[a/b]"):
            error = self.assertRaises(ValueError, Patterns.parse, text)
            self.assertTrue(str(error).startswith("expected "), error)

    @given(st.text(st.characters(codec="ascii")), model_names())
    def test_any_text_is_patterns_or_a_wrong_value(self, text: str, name: Repository) -> None:
        try:
            patterns = Patterns.parse(text)
        except ValueError:
            return
        patterns.match(REGISTRY, name)


class RulesTests(SynchronousTestCase):
    @given(model_names())
    def test_without_rules_all_may_be_pulled(self, name: Repository) -> None:
        self.assertTrue(rules().allow(name))

    @given(model_names())
    def test_deny_wins(self, name: Repository) -> None:
        self.assertFalse(rules(allowed="*/*", denied=str(name)).allow(name))

    def test_a_refusal_names_the_rule(self) -> None:
        for made, expected in (
            (rules(denied="a/*,*/Llama*"), "MODELS_DENY has */Llama*"),
            (rules("hf.co/*/*,a/*"), "MODELS_ALLOW has only hf.co/*/*, a/*"),
            (rules(",".join(f"a/{at}" for at in range(9))), "a/0, a/1, a/2, a/3, a/4, ..."),
        ):
            error = self.assertRaises(RegistryError, made.check, LLAMA)
            self.assertEqual((error.status, error.code), (403, "DENIED"))
            self.assertIn("library/llama3.2", str(error))
            self.assertTrue(str(error).endswith(expected), error)
