"""A body arrives when both its receiver and the line allow it."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone

from tests.fills.doubles import Transport
from yukari.net.throttle import Line, Paced

RATE = 1_000_000


class Body:
    """Delivers what the test says; resumes the transport at the end, as Twisted's does."""

    def __init__(self) -> None:
        self.transport = Transport()
        self.protocol: Any = None

    def deliverBody(self, protocol: Any) -> None:
        self.protocol = protocol
        protocol.makeConnection(self.transport)
        self.transport.resumeProducing()


class Taking(Protocol):
    """Notes the bytes that arrive, and the end."""

    def __init__(self, paused: bool = False) -> None:
        self.came = b""
        self.ends = 0
        self._paused = paused

    @property
    def _producer(self) -> Any:
        return self.transport

    def connectionMade(self) -> None:
        if self._paused:
            self._producer.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        self.came += data

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        self.ends += 1

    def pause(self) -> None:
        self._producer.pauseProducing()

    def resume(self) -> None:
        self._producer.resumeProducing()

    def stop(self) -> None:
        self._producer.stopProducing()


class PacedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.line = Line(RATE, self.clock)
        self.body = Body()
        self.paced = Paced(self.body, self.line)
        self.taking = Taking()

    def owe(self, seconds: float) -> None:
        """Let others have taken so many bytes of the line."""
        other = self.line.join(lambda: None, lambda: None)
        other.took(round(seconds * RATE))
        other.end()

    def test_the_whole_body_and_its_end_arrive(self) -> None:
        self.paced.deliverBody(self.taking)
        self.body.protocol.dataReceived(b"abc")
        self.body.protocol.dataReceived(b"def")
        self.body.protocol.connectionLost(Failure(ResponseDone()))
        self.assertEqual((self.taking.came, self.taking.ends), (b"abcdef", 1))
        self.clock.advance(1.0)
        self.assertTrue(self.line.is_idle)
        self.assertFalse(self.clock.getDelayedCalls())

    def test_reading_pauses_while_others_use_the_line(self) -> None:
        self.owe(2.0)
        self.paced.deliverBody(self.taking)
        self.assertTrue(self.body.transport.paused)
        self.assertTrue(self.paced.held)
        self.clock.advance(1.5)
        self.assertTrue(self.body.transport.paused)
        self.clock.advance(1.0)
        self.assertFalse(self.body.transport.paused)
        self.assertFalse(self.paced.held)

    def test_an_overdraft_is_waited_for(self) -> None:
        self.paced.deliverBody(self.taking)
        self.body.protocol.dataReceived(bytes(3 * RATE))
        self.assertEqual(len(self.taking.came), 3 * RATE)
        self.assertTrue(self.body.transport.paused)
        self.clock.pump([0.01] * 500)
        self.assertFalse(self.body.transport.paused)

    def test_reading_pauses_while_line_or_receiver_wants_it(self) -> None:
        self.owe(2.0)
        self.paced.deliverBody(self.taking)
        self.taking.pause()
        self.taking.resume()
        self.assertTrue(self.body.transport.paused)
        self.taking.pause()
        self.clock.advance(5.0)
        self.assertTrue(self.body.transport.paused)
        self.taking.resume()
        self.assertFalse(self.body.transport.paused)

    def test_a_taker_that_pauses_at_once_stays_paused(self) -> None:
        self.paced.deliverBody(Taking(paused=True))
        self.assertTrue(self.body.transport.paused)

    def test_a_dropped_body_gives_up_its_place_in_line(self) -> None:
        self.owe(2.0)
        self.paced.deliverBody(self.taking)
        self.taking.stop()
        self.assertTrue(self.body.transport.stopped)
        self.assertFalse(self.paced.held)
        self.assertFalse(self.clock.getDelayedCalls())
        self.body.protocol.connectionLost(Failure(ResponseDone()))
        self.assertEqual(self.taking.ends, 1)
