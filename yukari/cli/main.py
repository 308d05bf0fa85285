"""
The ``yukari`` command.

With a verb it does what the verb says; without one it is the daemon.
"""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Run the console script: a verb, or the daemon with its flags."""
    completes = "_YUKARI_COMPLETE" in os.environ
    if completes or sys.argv[1:2] == ["help"]:
        sys.argv[1:] = [] if completes else ["--help"]
    elif not sys.argv[1:] or sys.argv[1].startswith("-"):  # The daemon takes flags alone.
        # What a start makes stays: to look through it for garbage would take a tenth of its time.
        gc.disable()
        from yukari.tap import main as daemon

        daemon()
        return
    from yukari.cli.verbs import yukari

    yukari(prog_name="yukari")
