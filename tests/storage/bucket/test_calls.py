"""Calls that end with their store."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from yukari.s3.errors import S3Error
from yukari.storage.bucket.calls import Calls


class CallsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.calls = Calls()

    def running(self, asked: Deferred[str]) -> Deferred[str]:
        async def ask() -> str:
            return await asked

        return Deferred.fromCoroutine(self.calls.run(ask()))

    def test_a_call_returns_its_result(self) -> None:
        asked: Deferred[str] = Deferred()
        running = self.running(asked)
        asked.callback("here")
        self.assertEqual(self.successResultOf(running), "here")

    def test_interrupting_ends_calls_in_progress_with_an_error_that_passes(self) -> None:
        running = [self.running(Deferred()) for _ in range(2)]
        self.calls.interrupt()
        for each in running:
            self.assertTrue(self.failureResultOf(each, S3Error).value.passing)

    def test_after_that_no_call_begins(self) -> None:
        self.calls.interrupt()
        asked: Deferred[str] = Deferred()
        self.failureResultOf(self.running(asked), S3Error)
        self.assertEqual(asked.callbacks, [])

    def test_a_caller_that_cancels_its_call_sees_it_cancelled(self) -> None:
        running = self.running(Deferred())
        running.cancel()
        self.failureResultOf(running, CancelledError)

    def test_stopping_waits_for_a_call_that_cleans_up(self) -> None:
        cleaned: Deferred[None] = Deferred()

        async def call() -> None:
            try:
                await Deferred()
            finally:
                await cleaned

        running = Deferred.fromCoroutine(self.calls.run(call()))
        stopping = Deferred.fromCoroutine(self.calls.stop())
        self.assertNoResult(stopping)
        cleaned.callback(None)
        self.successResultOf(stopping)
        self.failureResultOf(running, S3Error)
