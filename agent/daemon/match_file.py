"""Stores how often callbacks matched, over restarts.

"Which callback has not matched in 90 days" needs longer than an agent runs. The file is in the
state directory, beside the agent's folder. It is written by rename, so it is whole. A damaged file
is not used, and counting begins again.
"""

from __future__ import annotations

import logging
import time

import msgspec

from agent.core.index import Index
from agent.core.quoting import printable
from agent.disk.permissions import Trust
from agent.disk.whole_file import replace
from agent.reload import state_files
from agent.reload.state_files import Damaged
from agent.server.matches import Count, Identity, Matches

#: Seconds between two writes. So much is lost if the agent is killed.
STORE_INTERVAL = 300.0
#: The most bytes that are read: those of 100,000 callbacks with long names.
MAX_BYTES = 256 << 20
#: Raised when the format of the file changes. Files of other versions are not used.
FORMAT_VERSION = 1
#: Callbacks that are encoded at once. Encoding holds the GIL, so lookups wait.
_CHUNK = 500

#: What decoding a damaged file may raise.
_DAMAGE = (ValueError, RecursionError, MemoryError, msgspec.MsgspecError)

_logger = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


class _File(msgspec.Struct):
    form: int
    #: directory, file, trigger, matches, last match, counted since
    callbacks: list[tuple[str, str, str, int, float | None, float]]


class MatchFile:
    """The file of one agent. All methods block, and none raises."""

    def __init__(self, folder: str, trust: Trust) -> None:
        """`folder` is the agent's own in the state directory."""
        self.path = f"{folder}.matches"
        self._folder = folder.rpartition("/")[0]
        self._trust = trust
        self._failed = False
        #: The version of what was written last.
        self._written: int | None = None

    def load(self) -> Matches:
        """What was stored; nothing if there is no file, or none that can be used."""
        try:
            state_files.check_folder(self._folder, self._trust)
            stored = msgspec.json.decode(state_files.read(self.path, MAX_BYTES), type=_File)
            if stored.form != FORMAT_VERSION:
                raise Damaged(f"version {FORMAT_VERSION} is expected, not {stored.form}")
        except FileNotFoundError:
            return Matches()
        except OSError as error:
            self._report(f"cannot be read from {printable(self.path)}: {error.strerror}")
            return Matches()
        except _DAMAGE as error:
            _logger.warning(
                "the stored matches in %s are damaged and not used: %s; they are counted from now"
                " on",
                printable(self.path),
                error,
            )
            return Matches()
        return Matches(
            {
                (directory, file, trigger): Count(since, matches, last)
                for directory, file, trigger, matches, last, since in stored.callbacks
            }
        )

    def store(self, matches: Matches, index: Index) -> list[Identity]:
        """Write the counts of what is served. The result is what is not served any more, and is to
        be forgotten."""
        rows = [
            (c.directory, c.registration.file, c.registration.text, n.matches, n.last, n.since)
            for c, n in matches.rows(index, time.time())
        ]
        version = matches.version
        unknown = matches.unknown(index)
        if version == self._written and not unknown:
            return unknown
        pieces = [_encode(rows[at : at + _CHUNK])[1:-1] for at in range(0, len(rows), _CHUNK)]
        data = b'{"form":%d,"callbacks":[%b]}' % (FORMAT_VERSION, b",".join(pieces))
        try:
            state_files.check_folder(self._folder, self._trust)
            replace(self.path, data, sync=True)
        except OSError as error:
            self._report(f"cannot be stored in {printable(self.path)}: {error.strerror}")
            return unknown
        if self._failed:
            _logger.info("the matches of callbacks are stored again in %s", printable(self.path))
        self._failed = False
        self._written = version
        return unknown

    def _report(self, what: str) -> None:
        if not self._failed:
            _logger.error("the matches of callbacks %s", what)
        self._failed = True
