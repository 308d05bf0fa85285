"""
What every store promises, as one suite and one state machine.

A store joins by a subclass of `StoreContract` (and trial's TestCase) that says
how to make one and how to come back to it after the process has ended. All
calls are awaited, so a store may take its time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from tests.storage.strategies import (
    MANIFESTS,
    REGISTRIES,
    list_of,
    manifest_of,
)
from yukari.manifest import Variant
from yukari.names import DEFAULT, Digest, Repository, Tag
from yukari.spans import Span
from yukari.storage.ports import (
    NEVER_CHECKED,
    BlobEntry,
    Holdings,
    ManifestEntry,
    NoRoom,
    Spool,
    Store,
    StoredManifest,
)

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase as _Base
else:
    _Base = object

NAME = Repository(DEFAULT, "library", "m")
OTHER = Repository(DEFAULT, "library", "other")
LATEST = Tag("latest")
OLD, NEW = MANIFESTS[2], MANIFESTS[3]
ANOTHER = MANIFESTS[1]
LISTED = list_of(OLD.digest, NEW.digest)
"""A list of `OLD` and, rather, `NEW`."""
BODY = bytes(range(256)) * 4
DIGEST = Digest.of(BODY)


class StoreContract(_Base):
    """Behaviours; `make_store` and `after_a_kill` are the subclass's."""

    def make_store(self, room: Optional[int] = None) -> Store:
        """An empty store, with room for about ``room`` bytes, not yet started."""
        raise NotImplementedError

    def after_a_kill(self, store: Store) -> Store:
        """What the next process finds in the place of ``store``, which was not stopped."""
        raise NotImplementedError

    def assert_listed(self, listed: list[ManifestEntry], wanted: list[ManifestEntry]) -> None:
        """The times too, but where a store can list only the time of the last put."""
        self.assertEqual(listed, wanted)

    async def started(self, room: Optional[int] = None) -> Store:
        store = self.make_store(room)
        await store.start()
        self.addCleanup(store.stop)
        return store

    async def killed(self, store: Store) -> Store:
        found = self.after_a_kill(store)
        await found.start()
        self.addCleanup(found.stop)
        return found

    async def spool_of(self, store: Store, body: bytes = BODY, *, whole: bool = True) -> Spool:
        spool = await store.new_spool(Digest.of(body), len(body), NAME)
        self.addCleanup(spool.close)
        if whole:
            spool.write([(0, [body])])
        return spool

    async def body_of(self, store: Store, digest: Digest) -> Optional[bytes]:
        """A blob's bytes, wherever the store has them."""
        return await self.bytes_of(store, digest)

    async def bytes_of(self, store: Store, digest: Digest) -> Optional[bytes]:
        blob = await store.open_blob(digest)
        if blob is None:
            return None
        try:
            return blob.read(0, blob.size + 1)
        finally:
            blob.close()

    # manifests

    async def test_says_in_words_where_it_stores(self) -> None:
        described = self.make_store().describe()
        self.assertTrue(described)
        self.assertNotIn("\n", described)

    async def test_a_store_that_works_says_so(self) -> None:
        store = await self.started()
        self.assertIsNone(await store.check())  # type: ignore[func-returns-value]

    async def test_an_empty_store_has_nothing(self) -> None:
        store = await self.started()
        self.assertIsNone(await store.get_manifest(NAME, LATEST))
        self.assertIsNone(await store.get_manifest(NAME, OLD.digest))
        self.assertEqual(await store.tags(NAME), [])
        self.assertEqual(await store.manifests(), [])
        self.assertIsNone(await store.blob_size(DIGEST))
        self.assertIsNone(await store.open_blob(DIGEST))
        self.assertEqual(await store.spools(), [])

    async def test_a_manifest_put_by_tag_is_got_by_tag_and_by_digest(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, LATEST, OLD, 1000.5)
        stored = StoredManifest(OLD, 1000.5)
        self.assertEqual(await store.get_manifest(NAME, LATEST), stored)
        self.assertEqual(await store.get_manifest(NAME, OLD.digest), stored)
        self.assertIsNone(await store.get_manifest(OTHER, LATEST))
        # A digest is that of the bytes, whichever the repository.
        self.assertEqual(await store.get_manifest(OTHER, OLD.digest), stored)

    async def test_a_manifest_can_be_opened_as_a_blob(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, LATEST, OLD, 1000.0)
        await store.put_manifest(NAME, LATEST, LISTED, 1000.0, Variant.LIST)
        for manifest in (OLD, LISTED):
            self.assertEqual(await store.blob_size(manifest.digest), len(manifest.body))
            self.assertEqual(await self.body_of(store, manifest.digest), manifest.body)

    async def test_a_blob_that_is_a_manifest_is_got_by_digest(self) -> None:
        store = await self.started()
        await store.publish(await self.spool_of(store, OLD.body))
        await store.publish(await self.spool_of(store))
        found = await store.get_manifest(NAME, OLD.digest)
        assert found is not None
        self.assertEqual(found.manifest, OLD)
        self.assertIsNone(await store.get_manifest(NAME, DIGEST))

    async def test_a_manifest_put_by_digest_has_no_tag(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, OLD.digest, OLD, 1000.0)
        self.assertEqual(await store.get_manifest(NAME, OLD.digest), StoredManifest(OLD, 1000.0))
        self.assertEqual(await store.tags(NAME), [])
        self.assertEqual(await store.manifests(), [])

    async def test_a_manifest_is_not_put_under_another_digest(self) -> None:
        store = await self.started()
        try:
            await store.put_manifest(NAME, NEW.digest, OLD, 1000.0)
        except ValueError:
            pass
        else:
            self.fail("it was")
        self.assertIsNone(await store.get_manifest(NAME, NEW.digest))

    async def test_a_replaced_manifest_is_still_got_by_digest(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, LATEST, OLD, 1000.0)
        await store.put_manifest(NAME, LATEST, NEW, 2000.0)
        self.assertEqual(await store.get_manifest(NAME, LATEST), StoredManifest(NEW, 2000.0))
        self.assertEqual(await store.get_manifest(NAME, OLD.digest), StoredManifest(OLD, 1000.0))

    async def test_manifests_outlive_the_process(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, LATEST, OLD, 1000.0)
        await store.put_manifest(NAME, LATEST, NEW, 2000.0)
        found = await self.killed(store)
        self.assertEqual(await found.get_manifest(NAME, LATEST), StoredManifest(NEW, 2000.0))
        self.assertEqual(await found.get_manifest(NAME, OLD.digest), StoredManifest(OLD, 1000.0))

    async def test_what_changes_a_manifest_is_counted(self) -> None:
        """Catches a change after which replies of before are given once more."""
        store = await self.started()
        await store.put_manifest(NAME, LATEST, LISTED, 900.0, Variant.LIST)
        counts = [store.changes]

        async def counted(change: Any) -> None:
            await change
            counts.append(store.changes)

        await counted(store.put_manifest(NAME, LATEST, ANOTHER, 1000.0))
        await counted(store.put_manifest(NAME, LATEST, LISTED, 1001.0, Variant.LIST))
        spool = await self.spool_of(store, OLD.body)
        await counted(store.publish(spool))
        await counted(store.put_manifest(NAME, NEW.digest, NEW, 1002.0))
        plain = await store.get_manifest(NAME, LATEST)
        assert plain is not None
        await counted(store.touch_manifest(NAME, LATEST, plain.manifest.digest, 2000.0))
        await counted(store.inventory.remove_tag(NAME, LATEST))
        await counted(store.delete_blob(NEW.digest))
        self.assertEqual(counts, sorted(set(counts)))

    async def test_a_touch_moves_the_time_of_the_check_and_outlives_the_process(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, LATEST, OLD, 1000.0)
        await store.get_manifest(NAME, LATEST)
        await store.touch_manifest(NAME, LATEST, OLD.digest, 3000.0)
        self.assertEqual(await store.get_manifest(NAME, LATEST), StoredManifest(OLD, 3000.0))
        found = await self.killed(store)
        self.assertEqual(await found.get_manifest(NAME, LATEST), StoredManifest(OLD, 3000.0))

    async def test_a_touch_of_what_the_tag_no_longer_names_does_nothing(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, LATEST, NEW, 1000.0)
        await store.touch_manifest(NAME, LATEST, OLD.digest, 3000.0)
        await store.touch_manifest(OTHER, LATEST, OLD.digest, 3000.0)
        self.assertEqual(await store.get_manifest(NAME, LATEST), StoredManifest(NEW, 1000.0))
        self.assertIsNone(await store.get_manifest(OTHER, LATEST))

    async def test_a_manifest_of_thousands_of_layers_comes_back_byte_for_byte(self) -> None:
        store = await self.started()
        large = manifest_of(*(b"%d" % number for number in range(3000)))
        await store.put_manifest(NAME, LATEST, large, 1000.0)
        found = await (await self.killed(store)).get_manifest(NAME, LATEST)
        assert found is not None
        self.assertEqual(bytes(found.manifest.body), large.body)

    async def test_tags_are_listed_in_order(self) -> None:
        store = await self.started()
        for tag in ("latest", "7b", "Q4_K.M"):
            await store.put_manifest(NAME, Tag(tag), OLD, 1000.0)
        self.assertEqual(await store.tags(NAME), [Tag("7b"), Tag("Q4_K.M"), Tag("latest")])

    async def test_a_listing_comes_in_pages_and_in_order(self) -> None:
        store = await self.started()
        wanted = sorted(
            ManifestEntry(Repository(registry, namespace, model), Tag(tag), 1000.0)
            for registry in (DEFAULT, "hf.co")
            for namespace in ("a", "a-b", "B")
            for model in ("m", "m-1")
            for tag in ("1", "10", "2")
        )
        for entry in reversed(wanted):
            await store.put_manifest(entry.name, entry.tag, OLD, entry.checked_at)
        for most in (1, 2, 3, 5, 35, 36, 37):
            listed: list[ManifestEntry] = []
            while page := await store.manifests(last_of(listed), most):
                self.assertLessEqual(len(page), most)
                listed += page
            self.assert_listed(listed, wanted)

    async def test_one_name_in_several_registries_is_several_models(self) -> None:
        store = await self.started()
        names = [Repository(registry, "library", "m") for registry in REGISTRIES]
        for name, manifest in zip(names, MANIFESTS):
            await store.put_manifest(name, LATEST, manifest, 1000.0)
            await store.put_manifest(name, Tag(f"t{len(name.registry)}"), manifest, 1000.0)
        store = await self.killed(store)
        for name, manifest in zip(names, MANIFESTS):
            found = await store.get_manifest(name, LATEST)
            self.assertEqual(found and found.manifest, manifest, name)
            self.assertEqual(await store.tags(name), [LATEST, Tag(f"t{len(name.registry)}")])
        await store.inventory.remove_tag(names[1], LATEST)
        await store.touch_manifest(names[0], LATEST, MANIFESTS[0].digest, 5000.0)
        for name, manifest in zip(names, MANIFESTS):
            found = await store.get_manifest(name, LATEST)
            expected = None if name == names[1] else manifest
            self.assertEqual(found and found.manifest, expected, name)
        listed = [entry.name for entry in await store.manifests()]
        self.assertEqual(listed, sorted([*names, names[0], *names[2:]]))

    async def test_a_listing_goes_on_behind_what_is_not_there(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, LATEST, OLD, 1000.0)
        for before in (
            (Repository(DEFAULT, "k", "z"), LATEST),
            (Repository(DEFAULT, "library", "l"), LATEST),
        ):
            self.assertEqual(len(await store.manifests(before)), 1)
        self.assertEqual(len(await store.manifests((NAME, Tag("aaa")))), 1)
        self.assertEqual(await store.manifests((NAME, Tag("latest1"))), [])
        self.assertEqual(await store.manifests((Repository(DEFAULT, "library", "n"), Tag("a"))), [])

    async def test_what_is_put_while_listing_is_seen_if_it_lies_ahead(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, LATEST, OLD, 1000.0)
        page = await store.manifests(None, 1)
        await store.put_manifest(OTHER, LATEST, OLD, 1000.0)
        listed = await store.manifests(last_of(page))
        self.assert_listed(listed, [ManifestEntry(OTHER, LATEST, 1000.0)])

    async def test_what_it_holds_is_counted(self) -> None:
        store = await self.started()
        self.assertEqual(await store.count(), Holdings(0, 0, 0))
        await store.put_manifest(NAME, LATEST, OLD, 1000.0)
        await store.put_manifest(NAME, LATEST, NEW, 2000.0)
        await store.put_manifest(NAME, Tag("7b"), NEW, 2000.0)
        await store.put_manifest(OTHER, OLD.digest, OLD, 1000.0)
        await store.put_manifest(NAME, LATEST, LISTED, 2000.0, Variant.LIST)
        await store.put_manifest(NAME, Tag("listed"), LISTED, 2000.0, Variant.LIST)
        await self.spool_of(store, b"on its way")
        await store.publish(await self.spool_of(store))
        await store.publish(await self.spool_of(store, b"another"))
        manifests = len(OLD.body) + len(NEW.body) + len(LISTED.body)
        self.assertEqual(await store.count(), Holdings(3, 5, manifests + len(BODY) + 7))
        await store.delete_blob(DIGEST)
        self.assertEqual(await store.count(), Holdings(3, 4, manifests + 7))

    # variants of a tag

    async def both(self, store: Store, tag: Tag = LATEST) -> tuple[Any, Any]:
        """What each kind of client gets; it is the same if it is read anew."""
        found = [await store.get_manifest(NAME, tag, variant) for variant in Variant]
        (anew,) = await store.read_anew([(NAME, tag)])
        self.assertEqual([anew.get(variant) for variant in Variant], found)
        plain, listed = found
        return plain, listed

    async def test_each_client_gets_its_variant_and_after_a_kill_too(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, LATEST, NEW, 1000.0)
        await store.put_manifest(NAME, LATEST, LISTED, 1500.0, Variant.LIST)
        wanted = StoredManifest(NEW, 1000.0), StoredManifest(LISTED, 1500.0)
        for each in (store, await self.killed(store)):
            self.assertEqual(await self.both(each), wanted)
            found = await each.get_manifest(OTHER, LISTED.digest)
            self.assertEqual(found, StoredManifest(LISTED, 1500.0))
            anew = await each.read_anew([(OTHER, LISTED.digest), (OTHER, LATEST)])
            self.assertEqual(anew, [{Variant.PLAIN: found}, {}])
            self.assertEqual(await each.tags(NAME), [LATEST])
            self.assert_listed(await each.manifests(), [ManifestEntry(NAME, LATEST, 1000.0)])

    async def test_a_list_client_gets_a_plain_manifest_as_never_checked(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, LATEST, OLD, 1000.0)
        wanted = StoredManifest(OLD, 1000.0), StoredManifest(OLD, NEVER_CHECKED)
        for each in (store, await self.killed(store)):
            self.assertEqual(await self.both(each), wanted)

    async def test_a_list_alone_answers_plain_clients_by_its_best_stored_child(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, LATEST, LISTED, 1000.0, Variant.LIST)
        listed = StoredManifest(LISTED, 1000.0)
        self.assertEqual(await self.both(store), (None, listed))
        self.assertEqual(await store.tags(NAME), [LATEST])
        await store.put_manifest(NAME, OLD.digest, OLD, 1000.0)
        self.assertEqual(await self.both(store), (StoredManifest(OLD, NEVER_CHECKED), listed))
        found = await self.killed(store)
        self.assertEqual(await self.both(found), (StoredManifest(OLD, NEVER_CHECKED), listed))
        other = Tag("both-stored")
        await found.put_manifest(NAME, NEW.digest, NEW, 1000.0)
        await found.put_manifest(NAME, other, LISTED, 1000.0, Variant.LIST)
        self.assertEqual((await self.both(found, other))[0], StoredManifest(NEW, NEVER_CHECKED))

    async def test_a_child_that_comes_as_a_blob_answers_plain_clients(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, LATEST, LISTED, 1000.0, Variant.LIST)
        await store.publish(await self.spool_of(store, NEW.body))
        for each in (store, await self.killed(store)):
            found = await each.get_manifest(NAME, LATEST)
            self.assertEqual(found, StoredManifest(NEW, NEVER_CHECKED))

    async def test_an_inline_child_is_stored_with_its_list(self) -> None:
        store = await self.started()
        listed = list_of(Digest.of(b"elsewhere"), NEW)
        await store.put_manifest(NAME, LATEST, listed, 1000.0, Variant.LIST)
        plain, _ = await self.both(store)
        self.assertEqual(plain, StoredManifest(listed.by_preference()[0].inline, NEVER_CHECKED))

    async def test_a_manifest_can_be_what_list_clients_got(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, LATEST, OLD, 1000.0, Variant.LIST)
        wanted = StoredManifest(OLD, NEVER_CHECKED), StoredManifest(OLD, 1000.0)
        for each in (store, await self.killed(store)):
            self.assertEqual(await self.both(each), wanted)

    async def test_a_plain_manifest_of_another_version_supersedes_the_list(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, LATEST, LISTED, 1000.0, Variant.LIST)
        await store.put_manifest(NAME, LATEST, ANOTHER, 2000.0)
        wanted = StoredManifest(ANOTHER, 2000.0), StoredManifest(ANOTHER, NEVER_CHECKED)
        for each in (store, await self.killed(store)):
            self.assertEqual(await self.both(each), wanted)
            found = await each.get_manifest(NAME, LISTED.digest)
            self.assertEqual(found, StoredManifest(LISTED, 1000.0))

    async def test_a_list_of_another_version_supersedes_once_a_child_is_stored(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, LATEST, ANOTHER, 1000.0)
        await store.put_manifest(NAME, LATEST, LISTED, 2000.0, Variant.LIST)
        listed = StoredManifest(LISTED, 2000.0)
        self.assertEqual(await self.both(store), (StoredManifest(ANOTHER, 1000.0), listed))
        await store.put_manifest(NAME, NEW.digest, NEW, 2000.0)
        wanted = StoredManifest(NEW, NEVER_CHECKED), listed
        for each in (store, await self.killed(store)):
            self.assertEqual(await self.both(each), wanted)
            found = await each.get_manifest(NAME, ANOTHER.digest)
            self.assertEqual(found, StoredManifest(ANOTHER, 1000.0))

    async def test_a_child_stays_while_the_next_list_has_none(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, NEW.digest, NEW, 1000.0)
        await store.put_manifest(NAME, LATEST, LISTED, 1000.0, Variant.LIST)
        childless = list_of(Digest.of(b"not yet stored"))
        await store.put_manifest(NAME, LATEST, childless, 2000.0, Variant.LIST)
        wanted = StoredManifest(NEW, NEVER_CHECKED), StoredManifest(childless, 2000.0)
        for each in (store, await self.killed(store)):
            self.assertEqual(await self.both(each), wanted)

    async def test_a_list_that_was_asked_for_earlier_does_not_supersede(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, NEW.digest, NEW, 1000.0)
        await store.put_manifest(NAME, LATEST, ANOTHER, 2000.0)
        await store.put_manifest(NAME, LATEST, LISTED, 1000.0, Variant.LIST)
        wanted = StoredManifest(ANOTHER, 2000.0), StoredManifest(ANOTHER, NEVER_CHECKED)
        for each in (store, await self.killed(store)):
            self.assertEqual(await self.both(each), wanted)

    async def test_each_variant_is_touched_by_itself(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, LATEST, NEW, 1000.0)
        await store.touch_manifest(NAME, LATEST, NEW.digest, 2000.0, Variant.LIST)
        wanted = [StoredManifest(NEW, 1000.0), StoredManifest(NEW, 2000.0)]
        self.assertEqual(list(await self.both(store)), wanted)
        await store.put_manifest(NAME, LATEST, LISTED, 3000.0, Variant.LIST)
        await store.touch_manifest(NAME, LATEST, NEW.digest, 4000.0)
        await store.touch_manifest(NAME, LATEST, NEW.digest, 9000.0, Variant.LIST)
        await store.touch_manifest(NAME, LATEST, LISTED.digest, 9000.0)
        await store.touch_manifest(NAME, LATEST, LISTED.digest, 5000.0, Variant.LIST)
        wanted = [StoredManifest(NEW, 4000.0), StoredManifest(LISTED, 5000.0)]
        for each in (store, await self.killed(store)):
            self.assertEqual(list(await self.both(each)), wanted)

    async def test_a_child_is_touched_as_the_plain_variant(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, NEW.digest, NEW, 1000.0)
        await store.put_manifest(NAME, LATEST, LISTED, 1000.0, Variant.LIST)
        await store.touch_manifest(NAME, LATEST, NEW.digest, 2000.0)
        wanted = StoredManifest(NEW, 2000.0), StoredManifest(LISTED, 1000.0)
        for each in (store, await self.killed(store)):
            self.assertEqual(await self.both(each), wanted)

    async def test_a_list_is_never_put_as_the_plain_variant(self) -> None:
        store = await self.started()
        try:
            await store.put_manifest(NAME, LATEST, LISTED, 1000.0)
        except ValueError:
            pass
        else:
            self.fail("it was")
        self.assertEqual(await self.both(store), (None, None))

    # spools and blobs

    async def test_a_new_spool_covers_nothing_and_reads_as_zeros(self) -> None:
        store = await self.started()
        spool = await self.spool_of(store, whole=False)
        self.assertEqual((spool.digest, spool.size), (DIGEST, len(BODY)))
        self.assertEqual(spool.repositories, (NAME,))
        self.assertEqual(list(spool.covered()), [])
        reader = spool.open()
        self.addCleanup(reader.close)
        self.assertEqual(reader.size, len(BODY))
        self.assertEqual(reader.read(0, 2000), bytes(len(BODY)))
        self.assertIsNone(await store.blob_size(DIGEST))

    async def test_what_is_written_anywhere_is_covered_and_read_at_once(self) -> None:
        store = await self.started()
        spool = await self.spool_of(store, whole=False)
        reader = spool.open()
        self.addCleanup(reader.close)
        spool.write([(900, [BODY[900:950], b"", BODY[950:1024]]), (10, [BODY[10:20]])])
        self.assertEqual(list(spool.covered()), [Span(10, 20), Span(900, 1024)])
        self.assertEqual(reader.read(10, 10), BODY[10:20])
        self.assertEqual(reader.read(900, 500), BODY[900:])
        self.assertEqual(reader.read(1024, 10), b"")

    async def test_many_buffers_are_written_in_one_call(self) -> None:
        store = await self.started()
        body = bytes(number % 251 for number in range(5000))
        spool = await self.spool_of(store, body, whole=False)
        spool.write([(0, [body[at : at + 1] for at in range(len(body))])])
        await store.publish(spool)
        self.assertEqual(await self.bytes_of(store, Digest.of(body)), body)

    async def test_bytes_beyond_the_end_are_refused(self) -> None:
        store = await self.started()
        spool = await self.spool_of(store, whole=False)
        for piece in ((len(BODY) - 1, [b"ab"]), (-1, [b"a"]), (5000, [b""])):
            self.assertRaises(ValueError, spool.write, [piece])
        self.assertEqual(list(spool.covered()), [])

    async def test_the_coverage_that_a_spool_gives_is_a_copy(self) -> None:
        store = await self.started()
        spool = await self.spool_of(store, whole=False)
        spool.covered().add(0, 10)
        self.assertEqual(list(spool.covered()), [])

    async def test_a_whole_spool_is_published_as_a_blob(self) -> None:
        store = await self.started()
        spool = await self.spool_of(store)
        await store.publish(spool)
        self.assertEqual(await store.blob_size(DIGEST), len(BODY))
        self.assertEqual(await self.bytes_of(store, DIGEST), BODY)
        self.assertEqual(await store.spools(), [])

    async def test_a_published_spool_is_read_to_the_end_but_not_written(self) -> None:
        store = await self.started()
        spool = await self.spool_of(store)
        before = spool.open()
        await store.publish(spool)
        after = spool.open()
        self.assertRaises(ValueError, spool.write, [(0, [b"wrong"])])
        spool.discard()
        self.assertEqual(before.read(0, 2000), BODY)
        self.assertEqual(after.read(0, 2000), BODY)
        self.assertRaises(ValueError, spool.open)
        before.close()
        after.close()
        self.assertEqual(await self.bytes_of(store, DIGEST), BODY)

    async def test_a_spool_with_a_gap_is_not_published(self) -> None:
        store = await self.started()
        spool = await self.spool_of(store, whole=False)
        spool.write([(0, [BODY[:-1]])])
        try:
            await store.publish(spool)
        except ValueError:
            pass
        else:
            self.fail("it was")
        self.assertIsNone(await store.blob_size(DIGEST))
        spool.write([(len(BODY) - 1, [BODY[-1:]])])
        await store.publish(spool)
        self.assertEqual(await self.bytes_of(store, DIGEST), BODY)

    async def test_an_empty_blob_is_one_too(self) -> None:
        store = await self.started()
        spool = await self.spool_of(store, b"", whole=False)
        await store.publish(spool)
        self.assertEqual(await store.blob_size(Digest.of(b"")), 0)
        self.assertEqual(await self.bytes_of(store, Digest.of(b"")), b"")

    async def test_blobs_outlive_the_process(self) -> None:
        store = await self.started()
        await store.publish(await self.spool_of(store))
        found = await self.killed(store)
        self.assertEqual(await self.bytes_of(found, DIGEST), BODY)
        self.assertEqual(await found.spools(), [])

    async def test_a_spool_survives_a_kill_where_it_stood(self) -> None:
        store = await self.started()
        spool = await self.spool_of(store, whole=False)
        spool.write([(100, [BODY[100:200]])])
        spool.note_repository(OTHER)
        spool.note_repository(NAME)
        spool.write([(300, [BODY[300:400]]), (200, [BODY[200:250]])])
        found = await self.killed(store)
        (again,) = await found.spools()
        self.addCleanup(again.close)
        self.assertEqual((again.digest, again.size), (DIGEST, len(BODY)))
        self.assertEqual(again.repositories, (NAME, OTHER))
        self.assertEqual(list(again.covered()), [Span(100, 250), Span(300, 400)])
        again.write([(0, [BODY[:100]]), (250, [BODY[250:300]]), (400, [BODY[400:]])])
        await found.publish(again)
        self.assertEqual(await self.bytes_of(found, DIGEST), BODY)

    async def test_a_closed_spool_is_found_at_the_next_start(self) -> None:
        store = await self.started()
        spool = await self.spool_of(store)
        spool.close()
        spool.close()
        self.assertRaises(ValueError, spool.write, [(0, [b"x"])])
        await store.stop()
        found = await self.killed(store)
        (again,) = await found.spools()
        self.addCleanup(again.close)
        self.assertEqual(again.covered().total, len(BODY))

    async def test_a_closed_spool_is_opened_again_with_what_it_held(self) -> None:
        store = await self.started()
        spool = await self.spool_of(store, whole=False)
        spool.write([(100, [BODY[100:200]])])
        spool.close()
        again = await store.new_spool(DIGEST, len(BODY), OTHER)
        self.addCleanup(again.close)
        self.assertEqual(list(again.covered()), [Span(100, 200)])
        self.assertEqual(again.repositories[0], NAME)
        again.write([(0, [BODY[:100]]), (200, [BODY[200:]])])
        await store.publish(again)
        self.assertEqual(await self.bytes_of(store, DIGEST), BODY)

    async def test_a_closed_spool_of_another_size_is_not(self) -> None:
        store = await self.started()
        spool = await self.spool_of(store)
        spool.close()
        again = await store.new_spool(DIGEST, len(BODY) + 1, NAME)
        self.addCleanup(again.close)
        self.assertEqual((again.size, again.covered().total), (len(BODY) + 1, 0))

    async def test_a_discarded_spool_is_gone_but_for_who_reads_it(self) -> None:
        store = await self.started()
        spool = await self.spool_of(store)
        reader = spool.open()
        spool.discard()
        spool.discard()
        self.assertEqual(reader.read(0, 2000), BODY)
        reader.close()
        reader.close()
        self.assertRaises(ValueError, reader.read, 0, 1)
        self.assertIsNone(await store.blob_size(DIGEST))
        again = await self.spool_of(store, whole=False)
        self.assertEqual(list(again.covered()), [])
        again.discard()
        self.assertEqual(await (await self.killed(store)).spools(), [])

    async def test_a_forgotten_blob_is_gone_but_for_who_reads_it_and_comes_again(self) -> None:
        store = await self.started()
        await store.publish(await self.spool_of(store))
        reader = await store.open_blob(DIGEST)
        assert reader is not None
        await store.delete_blob(DIGEST)
        await store.delete_blob(DIGEST)
        self.assertEqual(reader.read(0, 2000), BODY)
        reader.close()
        self.assertIsNone(await store.blob_size(DIGEST))
        self.assertIsNone(await store.open_blob(DIGEST))
        await store.publish(await self.spool_of(store))
        self.assertEqual(await self.bytes_of(store, DIGEST), BODY)

    async def test_blobs_are_listed_in_pages_and_in_order(self) -> None:
        store = await self.started()
        self.assertEqual(await store.blobs(), [])
        await store.put_manifest(NAME, LATEST, OLD, 1000.0)
        bodies = [b"%d" % number for number in range(5)]
        for body in bodies:
            await store.publish(await self.spool_of(store, body))
        await self.spool_of(store, b"on its way")
        wanted = sorted(BlobEntry(Digest.of(body), len(body)) for body in (*bodies, OLD.body))
        for most in (1, 2, 6, 7):
            listed: list[BlobEntry] = []
            while page := await store.blobs(listed[-1].digest if listed else None, most):
                self.assertLessEqual(len(page), most)
                listed += page
            self.assertEqual(listed, wanted)
        await store.delete_blob(wanted[0].digest)
        self.assertEqual(await store.blobs(), wanted[1:])

    # what the collector does

    async def test_tag_that_is_removed_is_gone_in_both_variants(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, LATEST, NEW, 1000.0)
        await store.put_manifest(NAME, LATEST, LISTED, 1000.0, Variant.LIST)
        await store.put_manifest(NAME, Tag("other"), OLD, 1000.0)
        await store.inventory.remove_tag(NAME, LATEST)
        await store.inventory.remove_tag(NAME, LATEST)
        for found in (store, await self.killed(store)):
            self.assertEqual(await self.both(found), (None, None))
            self.assertEqual(await found.tags(NAME), [Tag("other")])
            by_digest = await found.get_manifest(NAME, NEW.digest)
            assert by_digest is not None
            self.assertEqual(by_digest.manifest, NEW)
        await store.put_manifest(NAME, LATEST, NEW, 1000.0)
        self.assertEqual(await store.tags(NAME), [LATEST, Tag("other")])

    async def test_document_outlives_the_process_and_a_save_knows_what_it_replaces(self) -> None:
        store = await self.started()
        self.assertIsNone(await store.inventory.load("marks.json"))
        self.assertTrue(await store.inventory.save("marks.json", b"1", None))
        store = await self.killed(store)
        found = await store.inventory.load("marks.json")
        assert found is not None
        self.assertEqual(found[0], b"1")
        self.assertTrue(await store.inventory.save("marks.json", b"2", found[1]))
        found = await store.inventory.load("marks.json")
        assert found is not None
        self.assertEqual(found[0], b"2")

    async def test_without_room_there_is_no_spool(self) -> None:
        store = await self.started(room=3 * len(BODY))
        first = await self.spool_of(store, whole=False)
        try:
            await store.new_spool(Digest.of(b"large"), 3 * len(BODY), NAME)
        except NoRoom as error:
            self.assertTrue(str(error))
        else:
            self.fail("there was room")
        first.discard()
        other = await store.new_spool(Digest.of(b"large"), 3 * len(BODY), NAME)
        other.discard()
        self.assertEqual(await store.spools(), [])


def last_of(listed: list[ManifestEntry]) -> Optional[tuple[Repository, Tag]]:
    return (listed[-1].name, listed[-1].tag) if listed else None
