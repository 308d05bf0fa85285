"""
Tests, and what they stand on: an emulated registry and emulated clients.

``HYPOTHESIS_PROFILE`` says how hard the properties are tried: ``quick`` (the
default), ``thorough``, ``repeatable`` (the same examples every time) or ``few``.
"""

import os
from functools import partial
from threading import Thread

from hypothesis import HealthCheck, settings
from twisted.python.threadpool import ThreadPool

settings.register_profile(
    "quick", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=2000)
settings.register_profile("repeatable", settings.get_profile("quick"), derandomize=True)
settings.register_profile("few", settings.get_profile("repeatable"), max_examples=10)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# A run that SIGTERM or Ctrl-C ends in the middle of a test would wait for the threads of that
# test's daemon for ever: its clean-ups are not called.
ThreadPool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]
