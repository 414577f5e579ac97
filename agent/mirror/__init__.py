"""The agent's whole index in the caller's own process: a lookup is a function call.

    >>> from agent.mirror import Mirror
    >>> with Mirror(pipe) as mirror:
    ...     mirror.wait()
    ...     answer = mirror.lookup("failed-job-self")
    >>> [c["file"] for c in answer["callbacks"] if c["enabled"]]
    ['mail-status.qcb']

A `Mirror` gives the answers that the pipe gives at the same generation. A thread subscribes to the
agent, and loads each new index. An answer is only computed here while the index is known to be the
one that is served: from the moment when the agent says that another one is, or is not heard of for
some seconds, the agent itself is asked through the pipe, until the new index is loaded. So nothing
waits for the mirror, not even the first lookup.

A mirror may be used by several threads at once, and after a fork: the child then uses the index of
its parent as soon as the agent has confirmed it.

It needs Python 3.11 and this package, unlike `agent.client`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from typing import Any, Self, overload

from agent import client
from agent.client import (
    DEFAULT_RESTART,
    DEFAULT_TIMEOUT,
    Client,
    Event,
    ExplainResult,
    Job,
    ListResult,
    LookupResult,
    NoAgent,
    Owner,
    OwnersResult,
    Pending,
    Refused,
    TimedOut,
)
from agent.mirror.answers import Answers
from agent.mirror.follower import Follower
from agent.mirror.frozen import frozen
from agent.rpc.question import QUICK_CHARACTERS

__all__ = ["Mirror"]

#: `list` is a method of the mirror.
_Lookups = list[LookupResult]


class Mirror:
    """A mirror of the agent whose pipe is at `path`. The first call starts to load the index.

    Where the agent is asked, `timeout` and `restart` mean what they mean for `Client`. With
    `last_index`, calls are answered from the last index while the agent is gone, unless it is known
    that another index took its place; without, they raise NoAgent or TimedOut as `Client` does.

    Results are shared by all callers, and cannot be changed; what `copy.deepcopy` makes of one can.
    """

    def __init__(
        self,
        path: str,
        timeout: float = DEFAULT_TIMEOUT,
        *,
        restart: float = DEFAULT_RESTART,
        last_index: bool = False,
    ) -> None:
        self.path = os.fspath(path)
        self.timeout = timeout
        self.last_index = last_index
        self._client = Client(self.path, timeout, restart=restart)
        self._follower = Follower(self.path, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if "_follower" in self.__dict__:
            self.close()

    def close(self) -> None:
        """Drop the connections. Later calls ask the agent through the pipe."""
        self._follower.close()
        self._client.close()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the index is here and current. Raises AgentError if it is not in time."""
        deadline = client._Deadline(self.timeout if timeout is None else timeout)
        if not self._follower.wait(deadline.at - time.monotonic()):
            text = f"{self.path}: no index within {deadline.seconds:g} s"
            raise self._follower.error or TimedOut(text)

    @property
    def generation(self) -> int:
        """That of the index that is here; 0 before the first is."""
        return self._here().index.generation

    @property
    def digest(self) -> str:
        """That of the index that is here."""
        return self._here().index.digest

    @property
    def age(self) -> float:
        """Seconds since this index was known to be the one that is served; infinite before the
        first is here."""
        answers = self._here()
        return time.monotonic() - answers.current_at if answers.current_at else math.inf

    @property
    def alive(self) -> bool:
        """Whether the agent is connected, and was heard of in the last seconds."""
        self._follower.start()
        return self._follower.alive

    def _here(self) -> Answers:
        self._follower.start()
        return self._follower.answers

    @overload
    def lookup(
        self,
        event: Event,
        owner: Job | None = None,
        occurred: Sequence[Event] | None = None,
        code: bool = False,
        pending: Sequence[Pending] | None = None,
        *,
        timeout: float | None = None,
    ) -> LookupResult: ...

    @overload
    def lookup(
        self,
        event: Event,
        *,
        occurred: Sequence[Event] | None = None,
        code: bool = False,
        pending: Sequence[Pending] | None = None,
        owners: Sequence[Owner],
        timeout: float | None = None,
    ) -> OwnersResult: ...

    def lookup(
        self,
        event: Event,
        owner: Job | None = None,
        occurred: Sequence[Event] | None = None,
        code: bool = False,
        pending: Sequence[Pending] | None = None,
        owners: Sequence[Owner] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """As `Client.lookup`."""
        if owner is None and occurred is None and pending is None and owners is None and not code:
            answers = self._follower.answers
            if type(event) is str:
                answer = answers.events.get(event)
                if answer is None and len(event) <= QUICK_CHARACTERS and event.isascii():
                    answer = answers.to_event(event)
                # Compared after the answer was found: then it was current when it was given.
                if answer is not None and time.monotonic() < answers.until:
                    return answer
        params = client._params(event, owner, occurred, pending)
        if owners is not None:
            params["owners"] = owners
        return self._call("lookup", params, code, timeout)

    def lookup_many(
        self,
        events: Sequence[Event],
        owner: Job | None = None,
        occurred: Sequence[Event] | None = None,
        code: bool = False,
        pending: Sequence[Pending] | None = None,
        timeout: float | None = None,
    ) -> _Lookups:
        """As `Client.lookup_many`."""
        found = []
        for number, event in client._numbered(events):
            try:
                found.append(self.lookup(event, owner, occurred, code, pending, timeout=timeout))
            except Refused as refused:
                refused.index = number
                raise
        return found

    def explain(
        self,
        event: Event,
        owner: Job | None = None,
        occurred: Sequence[Event] | None = None,
        code: bool = False,
        pending: Sequence[Pending] | None = None,
        timeout: float | None = None,
    ) -> ExplainResult:
        """As `Client.explain`."""
        params = client._params(event, owner, occurred, pending)
        result: ExplainResult = self._call("explain", params, code, timeout)
        return result

    def list(self, code: bool = False, timeout: float | None = None) -> ListResult:
        """As `Client.list`."""
        result: ListResult = self._call("list", {}, code, timeout)
        return result

    def _call(self, method: str, params: dict[str, Any], code: bool, timeout: float | None) -> Any:
        """The result of a method: from here if the index is current, else from the agent."""
        deadline = client._Deadline(self.timeout if timeout is None else timeout)
        if code:
            params["code"] = True
            self._follower.wants_code = True
        self._follower.start()
        answers = self._follower.answers
        if self._may_answer(answers):
            answer = self._answer(answers, method, params, deadline)
            # It may have taken long.
            if answer is not None and self._may_answer(answers):
                return answer
        try:
            answer = frozen(getattr(self._client, method)(**params, timeout=timeout))
        except (NoAgent, TimedOut):
            answers = self._follower.answers
            answer = None
            if self._may_be_last(answers):
                # The agent took all the time of the call.
                answer = self._answer(answers, method, params, client._Deadline(deadline.seconds))
            if answer is None:
                raise
            return answer
        self._follower.compare(answer["generation"], answer["digest"])
        return answer

    def _may_answer(self, answers: Answers) -> bool:
        """Whether this index answers without a question to the agent."""
        return answers.is_current() or (self._may_be_last(answers) and self._follower.gone)

    def _may_be_last(self, answers: Answers) -> bool:
        """Whether this index may answer if the agent does not."""
        return self.last_index and not answers.replaced

    def _answer(self, answers: Answers, method: str, params: dict[str, Any], deadline: Any) -> Any:
        def spend(_: int) -> None:
            if time.monotonic() > deadline.at:
                raise client._too_late(self.path, deadline)

        return answers.to_call(method, params, spend)
