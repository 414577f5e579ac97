"""Publishes each record to subscribers, the history, `status` and the reload log."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import anyio
from anyio import to_thread

from agent.core.diagnostic import Diagnostic
from agent.core.index import Index
from agent.reload.causes import ListedDirectory
from agent.reload.log import History, Log
from agent.reload.record import STARTED, Recorder
from agent.rpc import results
from agent.rpc.messages import Record


class Publisher:
    """Makes records and publishes them. For the event loop."""

    def __init__(self, log: Log) -> None:
        self.recorder = Recorder()
        self.history = History()
        #: Called with each record, encoded, as soon as it is made.
        self.listeners: list[Callable[[bytes], None]] = []
        self._log = log
        #: The newest record as `status` has it.
        self._summary: bytes | None = None

    async def emit_record(
        self,
        index: Index,
        findings: tuple[Diagnostic, ...],
        held: dict[str, str],
        listed: Mapping[str, ListedDirectory],
        qb_conf: str,
        began: float,
    ) -> None:
        """Make a record if there is something to record.

        Given are the index that is served now, all diagnostics, why which directory is held, what
        is known of all listed directories, the path of qb.conf, and the monotonic time in seconds
        when the reload began.
        """
        recorder = self.recorder
        if not recorder.is_due(index, findings, held, listed):
            return
        # Also if the agent is stopped meanwhile: the index is served, and subscribers may have the
        # record before the log has it.
        with anyio.CancelScope(shield=True):
            made = await to_thread.run_sync(
                lambda: _encoded(recorder.make(index, listed, qb_conf, began))
            )
            recorder.done(index)
            await self._publish(*made)

    async def emit_stopped(self, index: Index) -> None:
        """Make the last record."""
        await self._publish(*_encoded(self.recorder.stopped(index)))

    def unchanged(self, index: Index) -> bytes:
        """A record without changes, which is not published."""
        return results.encode(self.recorder.unchanged(index))

    def records_after(self, sequence: int) -> list[bytes] | None:
        """The records of this run after the one with this number, encoded, oldest first.

        None if they are not all known: there is no such record, or it is too long ago.
        """
        return self.history.newest_exactly(self.recorder.sequence - sequence)

    def newest_summary(self, index: Index) -> bytes:
        """The newest record, as `status` has it, encoded.

        Where the first one is still being made, this makes one for this call.
        """
        if self._summary is not None:
            return self._summary
        return results.summary(self.recorder.unchanged(index, STARTED))

    async def _publish(self, record: Record, encoded: bytes, summary: bytes) -> None:
        self.history.add(encoded)
        self._summary = summary
        for listener in list(self.listeners):
            listener(encoded)
        await to_thread.run_sync(self._log.write, record, encoded)


def _encoded(record: Record) -> tuple[Record, bytes, bytes]:
    """A record, it as JSON, and its summary as JSON."""
    return record, results.encode(record), results.summary(record)
