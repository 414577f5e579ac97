"""Carries requests out: calls their handlers, offloads what takes long, contains what fails.

What is quick is answered on the loop that serves. The rest (`list`, `explain`, lookups with many
events or large results, lines in which something is wrong) is done by a few threads. It ends when
its client is gone, or when it costs more than one request may.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from agent.rpc import jsonrpc, question, results
from agent.rpc.messages import ERRORS, INTERNAL_ERROR, REFUSED, Request, UnreadLookup
from agent.rpc.question import BadText
from agent.server.batcher import TIME_SLICE
from agent.server.handlers import Handlers, Outcome, Refused
from agent.server.offload import Abandoned, Effort, OverLimit, Workers
from agent.server.outbox import Line
from agent.server.shared import Client
from agent.timing import PipeLimits

#: Requests that are carried out in threads at the same time, and lines that are decoded there.
MAX_OFFLOADED = 2
#: Seconds between two reports of the same kind about clients or internal errors.
REPORT_INTERVAL = 60.0

_logger = logging.getLogger(__name__)


class Service:
    """Answers requests. No method raises: one request must never end the agent."""

    def __init__(self, handlers: Handlers, limits: PipeLimits) -> None:
        self._limits = limits
        self._handlers = handlers
        self._reported: dict[str, float] = {}
        self._workers = Workers(MAX_OFFLOADED, "requests")
        # Separate: a good request never waits for lines in which something is wrong.
        self._readers = Workers(MAX_OFFLOADED, "lines")

    def answer_together(self, lookups: list[UnreadLookup]) -> list[bytes] | None:
        """The response to each lookup; None if any of them cannot be answered at once."""
        until = time.monotonic() + TIME_SLICE
        try:
            cache = self._handlers.lookups.cache
            return cache.responses(lookups, lambda: time.monotonic() > until)
        except Exception:  # `answer` meets it again, and says which one it is
            return None

    def measured(self, seconds: float, number: int) -> None:
        """Record that `number` lookups took `seconds` each."""
        self._handlers.lookups.durations.observe(seconds, number)

    def answer(self, request: Request, connection: Client) -> Line | Awaitable[Line]:
        """The response to a request; an awaitable of it if it takes long."""
        try:
            outcome = self._handlers.by_method[request.method](request.params, connection)
        except Exception as error:
            return self._failed(request, error)
        if isinstance(outcome, bytes):
            return jsonrpc.result_line(request.id, outcome)
        return self._answer_later(request, outcome, connection)

    async def _answer_later(self, request: Request, outcome: Outcome, connection: Client) -> Line:
        try:
            if callable(outcome):
                # The future is not kept: its error and this frame would hold each other.
                effort = Effort(lambda: connection.gone, self._limits)
                encoded = await self._offload(outcome, effort)
            else:
                encoded = outcome if isinstance(outcome, bytes) else await outcome
            return jsonrpc.result_line(request.id, encoded)
        except Abandoned:
            return b""
        except Exception as error:
            return self._failed(request, error)

    def _offload(
        self, compute: Callable[[results.Spend], bytes], effort: Effort
    ) -> Awaitable[bytes]:
        def work() -> bytes:
            effort.begin()
            return compute(effort.spend)

        return self._workers.run(work)

    async def read(self, line: bytes, connection: Client) -> jsonrpc.Message:
        """Decode a line in a thread: it is long, or something in it is wrong."""
        effort = Effort(lambda: connection.gone, self._limits)

        def work() -> jsonrpc.Message:
            effort.begin()
            return jsonrpc.read_quickly(line) or jsonrpc.read_slowly(line, effort.checkpoint)

        try:
            return await self._readers.run(work)
        except OverLimit as over:
            return jsonrpc.Refusal(jsonrpc.error(None, REFUSED, f"Request refused: {over}"))
        except Exception as error:
            return self.unreadable(error)

    def unreadable(self, error: Exception) -> jsonrpc.Refusal:
        """The response to a line whose decoding raised this error."""
        if not isinstance(error, Abandoned):
            self.report(f"internal error in a request: {error!r}")
        return jsonrpc.Refusal(jsonrpc.error(None, INTERNAL_ERROR, ERRORS[INTERNAL_ERROR]))

    def forget(self, connection: Client) -> None:
        """Forget a closed connection."""
        self._handlers.forget(connection)

    def report(self, message: str) -> None:
        """Report what clients do, or what fails for them, once a minute for each kind."""
        kind = message.partition(":")[0][:20]
        now = time.monotonic()
        if now - self._reported.get(kind, -REPORT_INTERVAL) < REPORT_INTERVAL:
            return
        self._reported[kind] = now
        _logger.warning("%s", message)

    def _failed(self, request: Request, error: Exception) -> bytes:
        if isinstance(error, BadText):
            return question.refusal(request.id, error)
        if isinstance(error, Refused):
            return jsonrpc.error(request.id, REFUSED, str(error))
        if isinstance(error, OverLimit):
            data = {"expected": "a smaller request"}
            return jsonrpc.error(request.id, REFUSED, f"Request refused: {error}", data)
        self.report(f"internal error in {request.method}: {error!r}")
        return jsonrpc.error(request.id, INTERNAL_ERROR, ERRORS[INTERNAL_ERROR])
