"""Which versions go: the order, what stays, and that the numbers add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Optional

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.library.catalog.rows import Candidate, Need, Version
from yukari.library.upkeep.eviction import EvictionPlan, Planner, Rules
from yukari.names import DEFAULT, Digest, Repository, Tag

NOW = 1_000_000.0
MB = 1_000_000


def digest(name: object) -> Digest:
    return Digest.of(str(name).encode())


def models(
    *rows: tuple[str, dict[str, int]], superseded: tuple[str, ...] = (), **more: Any
) -> list[Candidate]:
    """Candidates by name, with their blobs and sizes, the least recently pulled first."""
    needed = Counter(blob for _, blobs in rows for blob in blobs)
    return [
        Candidate(
            Version(
                Repository(DEFAULT, "library", name),
                Tag("latest"),
                digest(f"manifest of {name}"),
                tuple(Need(digest(blob), size) for blob, size in blobs.items()),
            ),
            NOW - 5000 if name in superseded else None,
            used_at=NOW - 10_000 + at,
            gone=name in more.get("gone", ()),
            own=name in more.get("own", ()),
            needed=tuple(needed[blob] for blob in blobs),
            stored=tuple(True for _ in blobs),
        )
        for at, (name, blobs) in enumerate(rows)
    ]


def rules(**changed: Any) -> Rules:
    return Rules(**{"now": NOW, "grace": 3600.0, "superseded_lifetime": 720 * 3600.0, **changed})


def plan(candidates: Iterable[Candidate], to: Rules, need: int) -> EvictionPlan:
    return Planner(to, need).plan(candidates)


def goes(found: EvictionPlan) -> list[str]:
    return [step.candidate.version.name.model for step in found.steps]


ABC = (("a", {"wa": 5 * MB}), ("b", {"wb": 5 * MB}), ("c", {"wc": 5 * MB}))


class PlanTests(SynchronousTestCase):
    def test_least_recently_pulled_goes_first_and_no_more_than_needed(self) -> None:
        self.assertEqual(goes(plan(models(*ABC), rules(), 5 * MB)), ["a"])
        self.assertEqual(goes(plan(models(*ABC), rules(), 5 * MB + 1)), ["a", "b"])
        self.assertEqual(goes(plan(models(*ABC), rules(), 0)), [])

    def test_what_a_wrong_clock_put_years_ahead_may_go(self) -> None:
        """It counted as pulled just now until then: the store was full of it."""
        found = models(*ABC)
        back = rules(now=NOW - 10 * 365 * 86400)
        self.assertEqual(goes(plan(found, back, 5 * MB)), ["a"])
        self.assertEqual(goes(plan(found, rules(now=NOW - 10_000 - 1800), 5 * MB)), [])

    def test_superseded_versions_go_before_models(self) -> None:
        found = models(*reversed(ABC), superseded=("c",))
        self.assertEqual(goes(plan(found, rules(), 1)), ["c"])

    def test_superseded_versions_go_after_their_lifetime_without_need(self) -> None:
        found = models(*ABC, superseded=("a", "b"))
        self.assertEqual(goes(plan(found, rules(superseded_lifetime=4999.0), 0)), ["a", "b"])
        self.assertEqual(goes(plan(found, rules(superseded_lifetime=5001.0), 0)), [])

    def test_what_cannot_be_had_again_stays(self) -> None:
        def pinned(name: Repository, _: Tag) -> Optional[str]:
            return "admin" if name.model == "a" else None

        def kept(name: Repository) -> Optional[str]:
            return "*/b" if name.model == "b" else None

        found = plan(models(*ABC), rules(pinned=pinned, kept=kept), 99 * MB)
        self.assertEqual(goes(found), ["c"])
        self.assertEqual([each.reason for each in found.kept], ["pinned by admin", "KEEP has */b"])
        found = plan(models(*ABC, gone=("a",), own=("b",)), rules(), 99 * MB)
        self.assertEqual(goes(found), ["c"])

    def test_what_was_pulled_just_now_or_is_in_use_stays(self) -> None:
        self.assertEqual(goes(plan(models(*ABC), rules(grace=10_000.0 - 0.5), 99 * MB)), ["a"])
        used = rules(in_use=lambda _: "being pulled")
        self.assertEqual(goes(plan(models(*ABC, superseded=("a",)), used, 99 * MB)), [])

    def test_shared_blob_is_freed_with_the_last_that_stands_on_it(self) -> None:
        found = models(("a", {"w": 9 * MB, "x": MB}), ("b", {"w": 9 * MB}), ("c", {"wc": 9 * MB}))
        freed = plan(found, rules(), 10 * MB)
        self.assertEqual((goes(freed), freed.frees), (["a", "b"], 10 * MB))

    def test_model_that_frees_next_to_nothing_stays(self) -> None:
        # Evicting it would lose a model for the sake of a licence's bytes.
        pinned = rules(pinned=lambda name, _: "me" if name.model == "b" else None)
        found = models(("a", {"w": 9 * MB, "x": 10}), ("b", {"w": 9 * MB}), ("c", {"wc": 9 * MB}))
        freed = plan(found, pinned, 5 * MB)
        self.assertEqual((goes(freed), freed.frees), (["c"], 9 * MB))

    @given(
        st.lists(
            st.dictionaries(st.sampled_from("uvwxyz"), st.just(3 * MB), min_size=1, max_size=3),
            max_size=8,
        ),
        st.integers(0, 30 * MB),
        st.sets(st.integers(0, 7)),
    )
    def test_plan_frees_what_it_says_and_never_the_protected(
        self, blobs: list[dict[str, int]], need: int, protected: set[int]
    ) -> None:
        found = models(*((f"m{at}", each) for at, each in enumerate(blobs)))
        names = {f"m{at}" for at in protected}
        made = plan(
            found, rules(pinned=lambda name, _: "me" if name.model in names else None), need
        )
        gone = set(goes(made))
        self.assertFalse(gone & names)
        left = {blob for at, each in enumerate(blobs) if f"m{at}" not in gone for blob in each}
        all_of_them = {blob for each in blobs for blob in each}
        self.assertEqual(made.frees, 3 * MB * len(all_of_them - left))
        # It stops short only if nothing more can be freed.
        stays = {blob for at, each in enumerate(blobs) if f"m{at}" in names for blob in each}
        possible = 3 * MB * len(all_of_them - stays)
        self.assertGreaterEqual(made.frees, min(need, possible))
