"""Memory that was freed is kept for what arrives next."""

import subprocess
import sys

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.processes import bare_environment

PROGRAM = """
import os, resource
from yukari.daemon.allocator import keep_freed

zeros = os.open("/dev/zero", os.O_RDONLY)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [os.read(zeros, 256 * 1024) for _ in range(100)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(int(keep_freed()), faults(), faults())
"""
"""Reads 26 MB in pieces as they arrive from upstream, frees all of them, and does it again."""


class AllocatorTests(SynchronousTestCase):
    def test_pieces_as_they_arrive_take_memory_from_the_system_only_once(self) -> None:
        """Else the system zeroes new pages for all that is ever received."""
        command = [sys.executable, "-c", PROGRAM]
        told = subprocess.check_output(command, env=bare_environment())
        kept, first, again = map(int, told.split())
        if not kept:
            raise SkipTest("this C library has no mallopt")
        self.assertLess(again, first / 10)
