"""Messages that are not records: on standard error, and the last of them in `status`.

Any module logs them with the standard `logging` module. Records have a log of their own
(`agent.reload.log`).
"""

from __future__ import annotations

import contextlib
import logging

from agent.core.counting import count
from agent.daemon.signals import END_SECONDS, STOP_SECONDS
from agent.reload.writer import Writer, write_all

#: Messages that `status` shows.
MAX_NOTES = 20
#: Messages that wait for a standard error that is not read, and their bytes.
MAX_WAITING = 200
MAX_WAITING_BYTES = 256 << 10
#: Seconds that the end of the agent waits for standard error.
DRAIN_SECONDS = 0.5

_logger = logging.getLogger(__name__)


class MessageHandler(logging.Handler):
    """Writes to standard error from a thread of its own. Logging never blocks and never raises."""

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        """Raises RuntimeError where no thread can be started."""
        super().__init__()
        self.setFormatter(logging.Formatter("callback-agent: %(message)s"))
        #: The text of the last MAX_NOTES messages, newest last.
        self.last: list[str] = []
        self._writer = Writer(
            "messages",
            _write_message,
            lambda error: None,
            self._report_dropped,
            max_waiting,
            MAX_WAITING_BYTES,
        )
        self._writer.start()

    def install(self) -> None:
        """Take what this package logs at INFO and above, and the warnings of libraries."""
        logging.getLogger("agent").setLevel(logging.INFO)
        logging.getLogger().addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one message."""
        try:
            text, note = self.format(record), record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit: it must not end the caller
            note = str(record.msg)
            text = f"callback-agent: {note}"
        # Whoever has read it on standard error finds it in `status`.
        self.last = [*self.last, note][-MAX_NOTES:]
        self._put(text)

    def say(self, text: str) -> None:
        """Queue one line for standard error that `status` does not show."""
        self._put(f"callback-agent: {text}")

    def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Wait until everything is written, for at most `seconds`."""
        self._writer.wait(seconds)

    def report_forced_end(self) -> None:
        """Say that the stop was cut short."""
        _logger.warning(
            "something did not end in %.0f s; ended without waiting for it", STOP_SECONDS
        )
        self.drain(END_SECONDS / 2)

    def _put(self, text: str) -> None:
        self._writer.put(f"{text}\n".encode("utf-8", "backslashreplace"))

    def _report_dropped(self, dropped: int) -> None:
        self._put(
            f"callback-agent: {count(dropped, 'message')} before this dropped: nobody read them"
        )


def _write_message(line: bytes) -> None:
    # Nobody may read standard error any more. That does not stop the agent.
    with contextlib.suppress(OSError):
        write_all(2, line)
