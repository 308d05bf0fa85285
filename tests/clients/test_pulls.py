"""Pulls by the emulated clients: what they ask, and how they take what goes wrong."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.clients import CLASSIC16, CURRENT, TRANSFER, Chunks, parts_of, pull
from tests.emulator import Fault
from tests.emulator.cases import MODEL, SMALL16, SMALL64, SMALL_TRANSFER, EmulatorCase, reactor


class ClientPartsTests(SynchronousTestCase):
    """How clients cut blobs."""

    def test_a_small_blob_is_one_part(self) -> None:
        self.assertEqual([part.size for part in parts_of(99_000_000, CLASSIC16)], [99_000_000])

    def test_parts_are_sixteenths_between_the_bounds(self) -> None:
        sizes = [part.size for part in parts_of(4_000_000_000, CLASSIC16)]
        self.assertEqual(sizes, [250_000_000] * 16)
        self.assertEqual(len(parts_of(40_000_000_000, CLASSIC16)), 40)

    def test_chunks_may_be_split_anywhere(self) -> None:
        framed = b"5\r\nhello\r\n1;ext=1\r\n \r\n5\r\nworld\r\n0\r\nTrailer: x\r\n\r\n"
        for size in range(1, len(framed) + 1):
            chunks = Chunks()
            pieces = (framed[at : at + size] for at in range(0, len(framed), size))
            self.assertEqual(b"".join(map(chunks.feed, pieces)), b"hello world")
            self.assertTrue(chunks.ended)


class ClassicPullTests(EmulatorCase):
    """What a classic client does, and how it takes what goes wrong."""

    async def test_it_pulls_everything_and_verifies(self) -> None:
        emulator = await self.started(challenge="off")
        model = emulator.models[MODEL]
        pulled = await pull(reactor, emulator.url, MODEL, SMALL16)
        self.assert_whole(pulled, model)
        self.assertEqual(pulled.bytes, model.size)
        self.assertEqual(pulled.retries, [])
        counters = emulator.counters
        self.assertEqual(
            counters.requests,
            {"manifest GET": 1, "blob HEAD": 4, "blob GET": 4, "store GET": 8 + 3},
        )
        self.assertEqual(counters.sent, model.size)
        self.assertEqual(counters.asked, model.size)
        self.assertEqual(counters.sent_by_digest, dict(model.blobs))
        self.assertEqual(counters.blob_requests_peak, 8)
        self.assertEqual(counters.authorizations, [])

    async def test_its_headers_are_gos(self) -> None:
        emulator = await self.started(f"{MODEL}=10")
        await pull(reactor, emulator.url, MODEL, SMALL16)
        asked = {request.kind: request.headers for request in emulator.log}
        self.assertEqual(
            asked["manifest GET"]["accept"],
            "application/vnd.docker.distribution.manifest.v2+json",
        )
        self.assertEqual(asked["manifest GET"]["user-agent"], CLASSIC16.user_agent)
        self.assertNotIn("range", asked["blob GET"])
        self.assertNotIn("accept-encoding", asked["store GET"])
        self.assertEqual(asked["store GET"]["user-agent"], "Go-http-client/1.1")

    async def test_a_200_without_location_fails(self) -> None:
        emulator = await self.started(redirect=False)
        failed = await self.failing(pull(reactor, emulator.url, MODEL, SMALL16))
        self.assertEqual(str(failed), "http: no Location header in response")

    async def test_a_head_without_length_fails(self) -> None:
        emulator = await self.started()
        emulator.faults.add(Fault("blob HEAD", "no-length"))
        failed = await self.failing(pull(reactor, emulator.url, MODEL, SMALL16))
        self.assertIn("HEAD without Content-Length", str(failed))

    async def test_an_older_one_follows_redirects_for_each_part(self) -> None:
        emulator = await self.started()
        self.assert_whole(await pull(reactor, emulator.url, MODEL, SMALL64), emulator.models[MODEL])
        self.assertEqual(emulator.counters.requests["blob GET"], 8 + 3)
        self.assertEqual(emulator.counters.requests["store GET"], 8 + 3)

    async def test_a_cut_part_goes_on_from_where_it_stood(self) -> None:
        emulator = await self.started()
        emulator.faults.add(Fault("store GET", "cut", after=1000, times=1))
        pulled = await pull(reactor, emulator.url, MODEL, SMALL16)
        self.assert_whole(pulled, emulator.models[MODEL])
        self.assertEqual(len(pulled.retries), 1)
        resumed = [r for r in emulator.log if r.header("range") == "bytes=1000-49999"]
        self.assertEqual(len(resumed), 1)

    async def test_a_part_is_given_up_after_its_tries(self) -> None:
        emulator = await self.started()
        emulator.faults.add(Fault("store", "drop"))
        failed = await self.failing(pull(reactor, emulator.url, MODEL, SMALL16))
        self.assertIn("max retries exceeded", str(failed))

    async def test_a_silent_part_is_asked_again(self) -> None:
        emulator = await self.started()
        emulator.faults.add(Fault("store", "silence", times=1))
        emulator.faults.add(Fault("store", "stall", after=10, times=1))
        pulled = await pull(reactor, emulator.url, MODEL, SMALL16.scaled(stall=0.1))
        self.assert_whole(pulled, emulator.models[MODEL])
        # A part that a busy machine is late with is asked for again, too.
        for why in ("no answer in 0.1 s", "stalled after 10 bytes"):
            self.assertIn(why, " ".join(pulled.retries))
        self.assertGreaterEqual(pulled.first_wait, 0.1)
        self.assertGreaterEqual(pulled.gap_wait, 0.1)

    async def test_held_answers_go_on_when_released(self) -> None:
        emulator = await self.started(challenge="off")
        emulator.faults.add(Fault("store", "stall", after=10, times=1))
        emulator.faults.add(Fault("manifest", "silence"))
        pulling = Deferred.fromCoroutine(pull(reactor, emulator.url, MODEL, SMALL16))
        await emulator.stalled(1)
        emulator.release()
        await emulator.stalled(2)
        emulator.release()
        pulled = await pulling
        self.assert_whole(pulled, emulator.models[MODEL])
        self.assertEqual(pulled.retries, [])

    async def test_a_wrong_byte_is_found(self) -> None:
        emulator = await self.started()
        digest, _ = emulator.models[MODEL].layers[0]
        flip = emulator.faults.add(Fault("store", "flip", digest=digest, at=123_456))
        failed = await self.failing(pull(reactor, emulator.url, MODEL, SMALL16))
        self.assertIn(f"digest mismatch, file must be downloaded again: {digest}", str(failed))
        wrong = [name for name, blob in failed.pulled.blobs.items() if not blob.ok]
        self.assertEqual((wrong, flip.happened), ([digest], 1))

    async def test_a_byte_that_a_cut_keeps_back_is_wrong_when_it_is_sent(self) -> None:
        emulator = await self.started(f"{MODEL}=10KB")
        digest, _ = emulator.models[MODEL].layers[0]
        emulator.faults.add(Fault("store", "cut", digest=digest, after=1000, times=1))
        emulator.faults.add(Fault("store", "flip", digest=digest, at=5000, times=1))
        failed = await self.failing(pull(reactor, emulator.url, MODEL, SMALL16))
        self.assertIn("digest mismatch", str(failed))

    async def test_a_reply_that_ignores_range_corrupts(self) -> None:
        emulator = await self.started(ignore_range=True)
        failed = await self.failing(pull(reactor, emulator.url, MODEL, SMALL16))
        self.assertIn("digest mismatch", str(failed))

    async def test_what_a_person_reads_of_an_error(self) -> None:
        emulator = await self.started(challenge="off")
        for fault, shown in (
            (Fault("manifest", "error", status=412, text="needs a newer Ollama"), "412: needs a"),
            (Fault("manifest", "error", status=429, retry_after=3), "TOOMANYREQUESTS"),
            (Fault("manifest", "cloudflare"), "502: <!DOCTYPE html>"),
            (Fault("manifest", "unhealthy"), "503: no healthy upstream"),
            (Fault("manifest", "error", status=404), "file does not exist"),
            (Fault("manifest", "portal"), "pull model manifest"),
            (Fault("manifest", "drop"), "EOF"),
            (Fault("manifest", "cut", after=20), "unexpected EOF after 20 bytes"),
        ):
            emulator.faults.clear()
            emulator.faults.add(fault)
            failed = await self.failing(pull(reactor, emulator.url, MODEL, SMALL16))
            self.assertIn(shown, str(failed))
            self.assertEqual(fault.happened, 1)

    async def test_a_401_in_spite_of_a_token_is_not_asked_a_third_time(self) -> None:
        emulator = await self.started()
        emulator.faults.add(Fault("manifest", "error", status=401))
        failed = await self.failing(pull(reactor, emulator.url, MODEL, SMALL16))
        self.assertEqual(str(failed), "unauthorized: access denied")
        self.assertEqual(emulator.counters.requests, {"manifest GET": 2, "token GET": 2})

    async def test_a_secure_client_follows_to_no_other_host(self) -> None:
        emulator = await self.started(head_redirects=True)
        self.assert_whole(await pull(reactor, emulator.url, MODEL, SMALL16), emulator.models[MODEL])
        secure = CURRENT.scaled(part_min=50_000, insecure=False)
        failed = await self.failing(pull(reactor, emulator.url, MODEL, secure))
        self.assertIn("blocked redirect to a different host", str(failed))

    async def test_blobs_that_it_has_are_not_asked_for(self) -> None:
        emulator = await self.started(challenge="off")
        have = [digest for digest, _ in emulator.models[MODEL].blobs]
        await pull(reactor, emulator.url, MODEL, SMALL16, have=have)
        self.assertEqual(emulator.counters.requests, {"manifest GET": 1})

    async def test_giving_up_leaves_no_connection(self) -> None:
        emulator = await self.started()
        emulator.faults.add(Fault("store", "stall", after=10))
        pulling = Deferred.fromCoroutine(pull(reactor, emulator.url, MODEL, SMALL16))
        await emulator.stalled(8)
        pulling.cancel()
        with self.assertRaises(CancelledError):
            await pulling
        await emulator.idle()
        self.assertEqual(emulator.counters.blob_requests, 0)


class TransferPullTests(EmulatorCase):
    """What a client of tensor models does."""

    async def test_a_redirect_is_used_at_once(self) -> None:
        emulator = await self.started(f"{MODEL}=2000x150")
        pulled = await pull(reactor, emulator.url, MODEL, SMALL_TRANSFER)
        self.assert_whole(pulled, emulator.models[MODEL])
        self.assertEqual(pulled.bytes, emulator.models[MODEL].size)
        self.assertEqual(emulator.counters.requests["blob HEAD"], 0)
        self.assertEqual(emulator.counters.requests["store GET"], 151)
        self.assertLessEqual(emulator.counters.blob_requests_peak, TRANSFER.bodies)

    async def test_a_200_is_read_and_thrown_away_first(self) -> None:
        emulator = await self.started(redirect=False)
        model = emulator.models[MODEL]
        pulled = await pull(reactor, emulator.url, MODEL, SMALL_TRANSFER)
        self.assert_whole(pulled, model)
        self.assertEqual(pulled.bytes, 2 * model.size)
        self.assertEqual(emulator.counters.sent, 2 * model.size)

    async def test_a_cut_blob_begins_again(self) -> None:
        emulator = await self.started()
        emulator.faults.add(Fault("store", "cut", after=5, times=2, reset=True))
        pulled = await pull(reactor, emulator.url, MODEL, SMALL_TRANSFER)
        self.assert_whole(pulled, emulator.models[MODEL])
        self.assertEqual(len(pulled.retries), 2)
