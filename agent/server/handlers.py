"""What answers each method of the pipe: one function for each row of `agent.rpc.messages.METHODS`.

A handler gets the parameters and the connection. It returns the encoded result, or where that
takes long, what computes it: a function, which runs in a worker thread and is given a `Spend`; or
an awaitable. It raises `Refused` or `question.BadText` for what the client did wrong.

Every result is of the index that is current when the request is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol

import msgspec

from agent import __version__
from agent.core.index import Index
from agent.core.quoting import encodable
from agent.reload.reloader import Reloader
from agent.rpc import openrpc, results
from agent.rpc.lookup_cache import NotQuick
from agent.rpc.messages import (
    CodeParams,
    EmptyResult,
    ExplainParams,
    HistoryParams,
    ListParams,
    LookupCounts,
    LookupParams,
    NoParams,
    StatusResult,
    SubscribeParams,
)
from agent.rpc.results import Spend
from agent.server.access import AccessPolicy
from agent.server.batcher import TIME_SLICE
from agent.server.listener import Pipe
from agent.server.lookups import Lookups
from agent.server.matches import Matches
from agent.server.metrics import Metrics
from agent.server.shared import Client
from agent.server.subscriptions import Subscriptions, in_worker_if_long

#: Seconds for which the result of `list` is cached, so that clients that ask at once share it.
LIST_CACHE_SECONDS = 5.0

#: Seconds in which the counters must have been read. It takes some milliseconds.
COLLECT_SECONDS = 10.0

Outcome = bytes | Callable[[Spend], bytes] | Awaitable[bytes]
Handler = Callable[[Any, Client], Outcome]


class Refused(Exception):
    """The client may not do this. The text says why."""


class Notes(Protocol):
    """The last messages that are not records."""

    last: list[str]


class Handlers:
    """The functions that answer requests, by method, and what they need."""

    def __init__(
        self,
        reloader: Reloader,
        pipe: Pipe,
        access: AccessPolicy,
        notes: Notes,
        matches: Matches | None = None,
    ) -> None:
        """`matches` holds what was counted before the start."""
        self._reloader = reloader
        self._access = access
        self._pipe = pipe
        self._notes = notes
        self._began = time.monotonic()
        self.subscriptions = Subscriptions(reloader.records, lambda: reloader.index)
        self._document: bytes | None = None
        self.lookups = Lookups(reloader.index, matches or Matches())
        self.metrics = Metrics(reloader, self.lookups)
        #: Results of `list`, without and with code.
        self._lists: dict[bool, bytes] = {}
        self._list_timer: asyncio.TimerHandle | None = None
        self.by_method: Mapping[str, Handler] = {
            "lookup": self._lookup,
            "explain": self._explain,
            "list": self._list,
            "code": self._code,
            "status": self._status,
            "reload": self._reload,
            "history": self._history,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "metrics": self._metrics,
            "rpc.discover": self._discover,
        }
        reloader.swapped.append(self._use_new_index)

    def load(self) -> None:
        """Load what is needed late: for refused requests, `status` and `rpc.discover`. It takes
        some 60 ms."""
        openrpc.build_validators()
        self._document = _encoded_document()

    def forget(self, connection: Client) -> None:
        """Forget a closed connection."""
        self.subscriptions.forget(connection)

    def _use_new_index(self) -> None:
        self.lookups.use(self._reloader.index)
        self._lists = {}

    # One function for each method -----------------------------------------------------------------

    def _lookup(self, params: LookupParams, connection: Client) -> Outcome:
        began = time.monotonic()
        # Hashing thousands of owners to find a cached result would take milliseconds.
        if params.owners is None:
            with contextlib.suppress(NotQuick):
                result = self.lookups.cache.result(
                    params, lambda: time.monotonic() > began + TIME_SLICE
                )
                self.lookups.answered(began)
                return result
        done = partial(self.lookups.offloaded, began)
        return partial(results.lookup, self._reloader.index, params, done=done)

    def _explain(self, params: ExplainParams, connection: Client) -> Outcome:
        return partial(results.explain, self._reloader.index, params)

    def _list(self, params: ListParams, connection: Client) -> Outcome:
        if self._list_timer is None:
            loop = asyncio.get_running_loop()
            self._list_timer = loop.call_later(LIST_CACHE_SECONDS, self._drop_lists)
        return partial(_cached_list, self._reloader.index, self._lists, params.code)

    def _code(self, params: CodeParams, connection: Client) -> Outcome:
        return partial(results.code, self._reloader.index, params.digests)

    def _drop_lists(self) -> None:
        self._list_timer = None
        self._lists = {}

    def _status(self, params: NoParams, connection: Client) -> Outcome:
        reloader = self._reloader
        directories: Any = reloader.directories()
        settings: Any = reloader.settings.as_json()
        last: Any = msgspec.Raw(reloader.records.newest_summary(reloader.index))  # encoded already
        return results.encode(
            StatusResult(
                version=__version__,
                pid=os.getpid(),
                uptime=round(time.monotonic() - self._began, 3),
                instance=reloader.records.recorder.instance,
                sequence=reloader.records.recorder.sequence,
                state=reloader.state,  # type: ignore[arg-type]
                generation=reloader.index.generation,
                digest=reloader.index.digest,
                callbacks=reloader.index.count,
                disabled=sum(s.disabled for s in reloader.index.served),
                warnings=reloader.records.recorder.warnings,
                last_change=round(time.monotonic() - reloader.changed, 3),
                directories=directories,
                settings=settings,
                last_reload=last,
                clients=len(self._pipe.clients - {connection}),
                lookups=LookupCounts(
                    total=self.lookups.total, per_second=round(self.lookups.per_second, 1)
                ),
                notes=[*map(encodable, reloader.notes), *self._notes.last],
            )
        )

    def _reload(self, params: NoParams, connection: Client) -> Outcome:
        if not self._access.allows_reload(connection.peer):
            raise Refused("Reload refused: only root and the agent's user may ask for one")
        return self._reloader.reload()

    def _history(self, params: HistoryParams, connection: Client) -> Outcome:
        records = self._reloader.records.history.newest(params.limit)
        return in_worker_if_long(partial(results.history, records), records)

    def _subscribe(self, params: SubscribeParams, connection: Client) -> Outcome:
        return self.subscriptions.subscribe(params, connection)

    def _unsubscribe(self, params: NoParams, connection: Client) -> Outcome:
        self.subscriptions.unsubscribe(connection)
        return results.encode(EmptyResult())

    def _metrics(self, params: NoParams, connection: Client) -> Outcome:
        loop = asyncio.get_running_loop()
        collected = asyncio.run_coroutine_threadsafe(self.lookups.collect(), loop)
        clients = len(self._pipe.clients)

        def compute(spend: Spend) -> bytes:
            collected.result(COLLECT_SECONDS)
            return results.text(self.metrics.text(clients), spend)

        return compute

    def _discover(self, params: NoParams, connection: Client) -> Outcome:
        return self._document or (lambda spend: _encoded_document())


def _cached_list(index: Index, lists: dict[bool, bytes], code: bool, spend: Spend) -> bytes:
    """The result of `list`. Clients that ask at about the same time share it."""
    known = lists.get(code)
    if known is None:
        # If the index was swapped meanwhile, the handlers have another `lists`.
        known = lists[code] = results.callbacks(index, code, spend)
    return known


def _encoded_document() -> bytes:
    return results.encode(openrpc.document(__version__))
