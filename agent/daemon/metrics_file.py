"""Writes the metrics to a file, for the node exporter's textfile collector.

The file is written by rename, so nobody reads a part of it. It is written in a thread, which may
hang with its file system. It is removed when the agent stops: what is not served must not look as
if it were. After a crash it stays; its time (`callback_agent_metrics_timestamp_seconds` in it, and
`node_textfile_mtime_seconds`) says that it is old.

A file that the agent did not write is neither replaced nor removed. Its own begins with a metric
whose name is the agent's, and not of the adapter for Slurm, which writes its own file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re

from agent.core.quoting import printable
from agent.disk.whole_file import check_own, replace
from agent.reload.writer import Writer

#: Seconds between two writes. Prometheus usually asks every 15 s to 60 s.
INTERVAL = 15.0
#: The most bytes of the file.
MAX_BYTES = 64 << 20
#: Seconds that the end of the agent waits for the file to be removed.
REMOVE_SECONDS = 1.0
#: Everyone may read it: the node exporter has a user of its own.
_MODE = 0o644
#: The entry that means that the file is to be removed.
_REMOVE = b""
#: How the files of all versions of the agent begin.
_OWN = re.compile(rb"# (HELP|TYPE) callback_agent_(?!slurm_)")

_logger = logging.getLogger(__name__)


class MetricsFile:
    """The file. No method blocks, except `remove` for REMOVE_SECONDS, and none raises."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._failed = False
        self._writer = Writer(
            "metrics file", self._write, self._report, self._recovered, 1, MAX_BYTES
        )

    def put(self, text: bytes) -> None:
        """Replace the file. If the last text is not written yet, this one takes its place."""
        self._writer.put(text)

    def remove(self) -> None:
        """Remove the file, for nobody writes it any more."""
        self._writer.put(_REMOVE)
        self._writer.wait(REMOVE_SECONDS)

    def failed(self, why: str) -> None:
        """Report once that the file cannot be written."""
        if not self._failed:
            _logger.error("the metrics file %s cannot be written: %s", printable(self._path), why)
        self._failed = True

    def _write(self, text: bytes) -> None:
        check_own(self._path, _OWN, "--metrics-file", remove=text == _REMOVE)
        if text == _REMOVE:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            return
        replace(self._path, text, _MODE)
        if self._failed:
            _logger.info("the metrics file %s is written again", printable(self._path))
        self._failed = False

    def _report(self, error: OSError) -> None:
        self.failed(error.strerror or str(error))

    def _recovered(self, dropped: int) -> None:
        """An older text that was not written is not missed."""
