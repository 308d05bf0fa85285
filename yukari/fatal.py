"""
End a start that cannot succeed, with one line for the person who started it.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from twisted.logger import Logger

_log = Logger()


class Ended(SystemExit):
    """The start has failed, exit status 1; ``line`` is on stderr and in the log already."""

    def __init__(self, line: str) -> None:
        super().__init__(1)
        self.line = line


def end(message: object) -> NoReturn:
    """
    Write one plain line to stderr and to the log, then raise `Ended`.

    A bare ``SystemExit`` would do until logging begins; after that, text for `sys.stderr` becomes
    a log event, and with ``--logfile`` nobody sees it.
    """
    line = "yukari: " + " ".join(str(message).split())
    if sys.__stderr__ is not None:
        try:
            print(line, file=sys.__stderr__, flush=True)
        except OSError:
            pass
    _log.error("{log_line}", log_line=line, on_stderr=True)
    raise Ended(line)
