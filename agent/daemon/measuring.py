"""Keeps what is measured: reads the counters, stores the matches, writes the metrics file."""

from __future__ import annotations

import anyio
from anyio import to_thread

from agent.daemon.match_file import STORE_INTERVAL, MatchFile
from agent.daemon.metrics_file import INTERVAL, MAX_BYTES, MetricsFile
from agent.disk.containment import keep_running
from agent.reload.reloader import Reloader
from agent.server.handlers import Handlers
from agent.server.listener import Pipe
from agent.server.matches import Identity


class Measuring:
    """The tasks, from the first index on. `match_file` and `metrics_file` are None for none."""

    def __init__(
        self,
        reloader: Reloader,
        pipe: Pipe,
        handlers: Handlers,
        match_file: MatchFile,
        metrics_file: MetricsFile | None,
    ) -> None:
        self._reloader = reloader
        self._pipe = pipe
        self._lookups = handlers.lookups
        self._metrics = handlers.metrics
        self._match_file = match_file
        self._metrics_file = metrics_file

    async def run(self) -> None:
        """Work until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_running, "counting lookups", self._lookups.run)
            tasks.start_soon(keep_running, "storing the matches of callbacks", self._store)
            if self._metrics_file is not None:
                tasks.start_soon(keep_running, "writing the metrics", self._write)

    async def stop(self) -> None:
        """Store the last counts, and remove the metrics file."""
        await self._lookups.collect()
        if self._reloader.ready.is_set():
            await to_thread.run_sync(self._store_now)
        if self._metrics_file is not None:
            await to_thread.run_sync(self._metrics_file.remove)

    async def _store(self) -> None:
        while True:
            # Not at the start: lookups wait for that, and there is nothing to store yet.
            await anyio.sleep(STORE_INTERVAL)
            index = self._reloader.index
            unknown = await to_thread.run_sync(self._store_now)
            # Otherwise one of them may be served again.
            if index is self._reloader.index:
                self._lookups.matches.forget(unknown)

    async def _write(self) -> None:
        file = self._metrics_file
        assert file is not None
        while True:
            await self._lookups.collect()
            text = await to_thread.run_sync(self._text, len(self._pipe.clients))
            if text is None:
                file.failed(f"it would have more than {MAX_BYTES} bytes")
            else:
                file.put(text)
            await anyio.sleep(INTERVAL)

    def _store_now(self) -> list[Identity]:
        return self._match_file.store(self._lookups.matches, self._reloader.index)

    def _text(self, clients: int) -> bytes | None:
        """The text of the file, None if it is too long."""
        pieces, size = [], 0
        for piece in self._metrics.text(clients, openmetrics=False):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_BYTES:
                return None
        return b"".join(pieces)
