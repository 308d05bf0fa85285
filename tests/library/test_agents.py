"""By which client's name a tag is asked about when no client waits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.library.agents import MAX_LENGTH, UserAgents, version
from yukari.names import DEFAULT, Repository, Tag

NAME, OTHER = Repository(DEFAULT, "library", "m"), Repository(DEFAULT, "library", "other")
LATEST = Tag("latest")


class AgentTests(SynchronousTestCase):
    def test_each_tag_has_the_newest_that_was_seen_of_it(self) -> None:
        """An old client of one model must not freeze the checks of another."""
        agents = UserAgents()
        for agent in ("ollama/0.9.6 (amd64)", "ollama/0.34.4 (arm64)", "ollama/0.1.0", "curl/8"):
            agents.seen(NAME, LATEST, agent, granted=False)
        agents.seen(OTHER, LATEST, "ollama/0.1.0", granted=False)
        self.assertEqual(agents.of(NAME, LATEST), "ollama/0.34.4 (arm64)")
        self.assertEqual(agents.of(OTHER, LATEST), "ollama/0.1.0")
        self.assertEqual(agents.of(NAME, Tag("other")), "")

    def test_what_is_much_longer_than_an_ollamas_is_not_kept(self) -> None:
        """A header may have 16 KB, and one is kept for each of 50,000 tags."""
        agents = UserAgents()
        agents.seen(NAME, LATEST, "ollama/0.34.4 " + "x" * MAX_LENGTH, granted=False)
        self.assertEqual(agents.of(NAME, LATEST), "")

    def test_versions_are_compared_as_numbers(self) -> None:
        versions = [version(f"ollama/{text} (x)") for text in ("0.9.6", "0.10.0", "0.40", "1.0.0")]
        self.assertEqual(versions, sorted(versions))

    @given(st.text(max_size=40))
    def test_any_user_agent_is_taken(self, agent: str) -> None:
        agents = UserAgents()
        agents.seen(NAME, LATEST, "ollama/" + agent, granted=False)
        self.assertEqual(agents.of(NAME, LATEST), "ollama/" + agent)
