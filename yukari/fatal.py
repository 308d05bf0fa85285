"""
End a start that cannot succeed, with one line for the person who started it.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from twisted.logger import Logger

_log = Logger()


WRONG_USE = 2
"""The exit status of a command with wrong flags or arguments, of the verbs as of the daemon."""


class Ended(SystemExit):
    """The start has failed; ``line`` is on stderr and in the log already."""

    def __init__(self, line: str, status: int) -> None:
        super().__init__(status)
        self.line = line


def end(*messages: object, status: int = 1) -> NoReturn:
    """
    Write one plain line for each message to stderr and to the log, then raise `Ended`.

    A bare ``SystemExit`` would do until logging begins; after that, text for `sys.stderr` becomes
    a log event, and with ``--logfile`` nobody sees it.
    """
    lines = ["yukari: " + " ".join(str(message).split()) for message in messages]
    for line in lines:
        if sys.__stderr__ is not None:
            try:
                print(line, file=sys.__stderr__, flush=True)
            except OSError:
                pass
        _log.error("{log_line}", log_line=line, on_stderr=True)
    raise Ended(lines[0], status)
