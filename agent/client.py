"""What a supervisor imports to ask the callback agent: which callbacks fire on this event?

This file is the whole client. It needs only the standard library of Python 3.6 or newer, on Linux
or macOS, and may be copied into a supervisor's own code. The agent's commands use it too.

Every call blocks until the agent has answered, for `timeout` seconds at most. It returns a whole
answer or raises an `AgentError`:

    >>> from agent.client import AgentError, Client
    >>> with Client(pipe, timeout=2.0) as agent:
    ...     answer = agent.lookup("failed-job-self")
    >>> [c["file"] for c in answer["callbacks"] if c["enabled"]]
    ['mail-status.qcb']

The supervisor's language flags forbid a callback whose `enabled` is false: whoever runs the
callbacks must check it. Given the jobs, the agent derives the contexts of the event:

    >>> event = {"name": "failed", "type": "job", "job": {"id": 1234, "label": "render"}}
    >>> try:
    ...     answer = Client(pipe).lookup(event, owner={"id": 1234}, code=True)
    ... except AgentError as error:
    ...     print("no answer:", error)
    >>> [c["code"] for c in answer["callbacks"] if c["enabled"]]
    ['mail-status\\n']

A `Client` keeps its connections between calls, which saves most of the time of a lookup. It may be
used by several threads at once, and after a fork.

The results are those of the pipe, as dictionaries. Type checkers know their members: see
`LookupResult`, `Callback` and so on.
"""

# Python 3.6 does not have the newer forms that these rules ask for.
# ruff: noqa: UP006, UP007, UP032, UP035, UP041, UP045

# This file is long because it is the whole client: one file can be copied into a supervisor.

import contextlib
import errno
import json
import os
import socket
import stat
import time
from collections import deque
from typing import (
    TYPE_CHECKING,
    Any,
    Dict,
    Generator,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
    overload,
)

#: Seconds that one call may take, connecting and receiving included. An answer takes well under
#: a millisecond; an agent that takes longer than this is stopped or stuck.
DEFAULT_TIMEOUT = 5.0

#: Seconds that a call waits for an agent that is not there, within its timeout: it may be
#: restarted, which takes 0.2 s, and up to 2 s with 100,000 callbacks.
DEFAULT_RESTART = 3.0

#: The pipe of an agent that root runs.
ROOT_PIPE = "/run/callback-agent/pipe"

#: The longest answer that is read, in bytes, so that a broken server cannot fill the memory.
#: A list of 100,000 callbacks with 2 KB of code each is a fifth of it.
MAX_ANSWER_BYTES = 1 << 30

#: Bytes of code that a client keeps, by digest. When there is more, all of it is dropped.
MAX_CODE_BYTES = 16 << 20

#: Bytes of requests that `lookup_many` has on the way at a time. They fit into the socket's buffer,
#: so the client never waits for the agent to read while the agent waits for the client.
_WINDOW_BYTES = 1 << 16

#: Bytes that are received at a time: a whole ordinary answer.
_READ_BYTES = 1 << 16

#: Seconds between two attempts to connect: the first, and the longest.
_CONNECT_PAUSE = 0.01
_LONGEST_PAUSE = 0.1

#: Seconds that a wait of 0 lasts, so that what has arrived is read.
_POLL = 0.001

#: Seconds that a subscriber waits before it believes that nothing came: it may have been suspended,
#: or busy, and what came is still to be read.
_LAST_LOOK = 0.5

#: Digests that are asked for at once. One has 71 characters, and a line at most 1 MiB.
_MAX_DIGESTS = 1000

#: The longest time limit in seconds: sockets take no larger numbers on every system.
_LONGEST_TIMEOUT = 1e6

#: A deadline that is not reached.
_NEVER = float("inf")

if TYPE_CHECKING:
    from typing import TypedDict

    # Members that may be left out are in a class of their own: Python 3.6 to 3.10 have no
    # NotRequired. A test compares all of these with the types that the agent sends.

    class Job(TypedDict, total=False):
        """A job, as far as the caller knows it."""

        id: Optional[int]
        label: Optional[str]
        pid: Optional[int]
        pgrp: Optional[int]

    class Pending(TypedDict):
        """What a callback still waits for, as an answer said it."""

        path: str
        trigger: str
        missing: str

    class Owner(Job, total=False):
        """One of many jobs that have the callbacks, and what is pending for it."""

        pending: Sequence[Pending]

    class _EventObject(TypedDict):
        name: str
        type: str
        job: Job

    class EventObject(_EventObject, total=False):
        """An event as an object."""

        extra: Optional[str]

    class _Callback(TypedDict):
        file: str
        path: str
        directory: str
        language: str
        trigger: str
        line: int
        digest: str
        enabled: bool

    class Callback(_Callback, total=False):
        """One callback; with its text, or its bytes in base64, if that was asked for."""

        code: str
        code_base64: str

    class PartialCallback(Callback):
        """A callback that the event brings closer, and what it still waits for."""

        missing: str

    class ExplainedCallback(Callback):
        """A callback, and why it fires or not."""

        verdict: str
        reason: str

    class _Index(TypedDict):
        generation: int
        digest: str

    class _Held(TypedDict, total=False):
        held: List[str]

    class LookupResult(_Index, _Held):
        """Which callbacks fire, and which are partial."""

        callbacks: List[Callback]
        partial: List[PartialCallback]

    class OwnerPartial(TypedDict):
        """A callback that is partial for one owner: its place, and what is missing."""

        callback: int
        missing: str

    class OwnerResult(TypedDict):
        """What fires for one owner, as places in `callbacks`, and what is partial."""

        fires: List[int]
        partial: List[OwnerPartial]

    class OwnersResult(_Index, _Held):
        """What a lookup for many owners found."""

        callbacks: List[Callback]
        owners: List[OwnerResult]

    class ExplainResult(_Index, _Held):
        """Every callback of the event's name and type, with a verdict."""

        callbacks: List[ExplainedCallback]

    class ListResult(_Index, _Held):
        """Every callback that is served."""

        callbacks: List[Callback]

    class Since(TypedDict):
        """A record: the run of the agent that made it, and its number there, or 0 for none."""

        instance: str
        sequence: int

    class Content(TypedDict, total=False):
        """A file's text, or its bytes in base64."""

        text: str
        base64: str

    class CodeResult(TypedDict):
        """Files by digest."""

        code: Dict[str, Content]

    Event = Union[str, EventObject]
else:
    Job = Pending = Owner = EventObject = Callback = PartialCallback = ExplainedCallback = dict
    LookupResult = OwnersResult = OwnerPartial = OwnerResult = ExplainResult = ListResult = dict
    Content = CodeResult = Since = dict
    Event = Union[str, Mapping[str, Any]]

#: Records and the result of `status` are long, and people read them more than programs: see
#: `callback-agent help log` and `callback-agent help pipe` for their members.
Record = Dict[str, Any]
StatusResult = Dict[str, Any]
HistoryResult = Dict[str, List[Record]]


class AgentError(Exception):
    """The agent gave no usable answer; the text says why."""


class NoAgent(AgentError):
    """No agent answers at this path: no pipe, refused, no permission, or hung up."""


class TimedOut(AgentError):
    """The deadline passed before the whole answer arrived."""


class Refused(AgentError):
    """The agent answered with an error (JSON-RPC 2.0, section 5.1).

    `code` is the number (-32602 for a wrong event), `message` the text, `data` the details, mostly
    a dictionary with `pointer`, `expected` and, for an event string, `column`. `index` is the place
    of the request among those that were sent together; None if the error is about the connection.
    """

    def __init__(
        self, code: int, message: str, data: Any = None, index: Optional[int] = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data
        self.index = index

    def __reduce__(self) -> Any:
        # To be raised in another process, as by concurrent.futures and multiprocessing.
        return type(self), (self.code, self.message, self.data, self.index)


class BadArgument(AgentError):
    """An argument cannot be sent as JSON: NaN, a date, a value that contains itself, or text that
    is not Unicode, as of a file name that is not UTF-8."""


class RecordsLost(AgentError):
    """A subscription missed records that are no longer known, mostly because the agent was
    restarted. Read everything again; the subscription goes on."""


class Client:
    """Connections to the agent whose pipe is at `path`. The first call opens one.

    `timeout` is in seconds and limits each call as a whole; each call takes its own `timeout`, too.
    If the agent is not there, a call waits for `restart` seconds, within its timeout, and is sent
    again when the agent is back: every call can be repeated without harm. After an error the next
    call opens a new connection.
    """

    def __init__(
        self, path: str, timeout: float = DEFAULT_TIMEOUT, *, restart: float = DEFAULT_RESTART
    ) -> None:
        self.path = os.fspath(path)
        self.timeout = timeout
        self.restart = restart
        #: Connections that no call uses. Threads take them and put them back; each such step is one
        #: operation that the interpreter does not interrupt, so there is no lock, which a fork
        #: could leave locked.
        self._idle = deque()  # type: deque[_Connection]
        self._process = os.getpid()
        self._code = _Code()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that no call uses now. The next call opens a new one."""
        idle, self._idle = self._idle, deque()
        for connection in idle:
            connection.close()

    @overload
    def lookup(
        self,
        event: Event,
        owner: Optional[Job] = None,
        occurred: Optional[Sequence[Event]] = None,
        code: bool = False,
        pending: Optional[Sequence[Pending]] = None,
        *,
        timeout: Optional[float] = None,
    ) -> LookupResult: ...

    @overload
    def lookup(
        self,
        event: Event,
        *,
        occurred: Optional[Sequence[Event]] = None,
        code: bool = False,
        pending: Optional[Sequence[Pending]] = None,
        owners: Sequence[Owner],
        timeout: Optional[float] = None,
    ) -> OwnersResult: ...

    def lookup(
        self,
        event: Event,
        owner: Optional[Job] = None,
        occurred: Optional[Sequence[Event]] = None,
        code: bool = False,
        pending: Optional[Sequence[Pending]] = None,
        owners: Optional[Sequence[Owner]] = None,
        timeout: Optional[float] = None,
    ) -> Any:
        """The callbacks that fire on `event`: `{generation, digest, callbacks, partial}`.

        `owner` is the job that has the callbacks (`id`, `label`, `pid`, `pgrp`); by default the
        event's own job. `occurred` are earlier events; in their place, `pending` is what earlier
        answers said is missing, each as `{path, trigger, missing}`. With `code`, each callback has
        the text of its file as `code`, or as `code_base64` if its bytes are not UTF-8; what the
        client has already is not sent again.

        `owners`, in place of `owner`, are up to 10,000 jobs, each with its own `pending` where
        wanted. The answer is then `{generation, digest, callbacks, owners}`: `callbacks` are those
        that fire or are partial for any owner, and `owners` says of each, in the order given, which
        of them: `fires` is a list of places in `callbacks`, `partial` of `{callback, missing}`.
        """
        params = _params(event, owner, occurred, pending)
        if owners is not None:
            params["owners"] = owners
        return self._with_code("lookup", params, code, timeout)

    def lookup_many(
        self,
        events: Sequence[Event],
        owner: Optional[Job] = None,
        occurred: Optional[Sequence[Event]] = None,
        code: bool = False,
        pending: Optional[Sequence[Pending]] = None,
        timeout: Optional[float] = None,
    ) -> List[LookupResult]:
        """`lookup` of each event; none is asked only after the answer to the one before.

        The answers are in the order of the events. `timeout` limits all of them together. The first
        event that is refused raises Refused, whose `index` is its place.
        """
        deadline = self._deadline(timeout)
        lines = []
        for number, event in _numbered(events):
            params = _params(event, owner, occurred, pending)
            if code:
                params["code"] = True
            lines.append(_request(number, "lookup", params))
        answers = self._exchange(lines, deadline) if lines else []
        return [self._object(answer) for answer in answers]

    def explain(
        self,
        event: Event,
        owner: Optional[Job] = None,
        occurred: Optional[Sequence[Event]] = None,
        code: bool = False,
        pending: Optional[Sequence[Pending]] = None,
        timeout: Optional[float] = None,
    ) -> ExplainResult:
        """As `lookup`, with a `verdict` (`fires`, `partial`, `no`) and a `reason` for each."""
        params = _params(event, owner, occurred, pending)
        result: ExplainResult = self._with_code("explain", params, code, timeout)
        return result

    def list(self, code: bool = False, timeout: Optional[float] = None) -> ListResult:
        """Every callback that is served: `{generation, digest, callbacks}`."""
        result: ListResult = self._with_code("list", {}, code, timeout)
        return result

    def code(self, digests: Sequence[str], timeout: Optional[float] = None) -> CodeResult:
        """The files with these digests: `{code: {digest: {text} or {base64}}}`.

        Digests of nothing that is served now are left out.
        """
        params = {"digests": digests}
        result: CodeResult = self._object(self.call("code", params, timeout))
        return result

    def status(self, timeout: Optional[float] = None) -> StatusResult:
        """The agent's health, directories, settings and last reload."""
        result: StatusResult = self._object(self.call("status", {}, timeout))
        return result

    def reload(self, timeout: Optional[float] = None) -> Record:
        """Read everything again; the record of it. Changes made before the call are then served.

        It can take longer than a lookup: give it a longer `timeout`.
        """
        result: Record = self._object(self.call("reload", {}, timeout))
        return result

    def history(
        self, limit: Optional[int] = None, timeout: Optional[float] = None
    ) -> HistoryResult:
        """The last records, newest last: `{records}`."""
        params = {} if limit is None else {"limit": limit}
        result: HistoryResult = self._object(self.call("history", params, timeout))
        return result

    def metrics(self, timeout: Optional[float] = None) -> Dict[str, str]:
        """What is measured: `{text}`, in the OpenMetrics format."""
        result: Dict[str, str] = self._object(self.call("metrics", {}, timeout))
        return result

    def subscribe(
        self, since: Optional[Since] = None, heartbeat: Optional[float] = None
    ) -> "Subscription":
        """The records from now on, on a separate connection. See `Subscription`.

        `since` is the `position` of an earlier subscription: the records after it come first.
        `heartbeat` is in seconds, from 0.1 to 3600: so often the agent says that it is alive. A
        subscription that is given one of them goes on by itself when the agent is restarted.
        """
        return Subscription(
            self.path, self.timeout, since=since, heartbeat=heartbeat, restart=self.restart
        )

    def call(
        self,
        method: str,
        params: Optional[Mapping[str, Any]] = None,
        timeout: Optional[float] = None,
    ) -> Any:
        """The result of any method of the agent, as JSON gives it.

        Raises NoAgent, TimedOut, Refused, BadArgument, or AgentError if what answers is not an
        agent.
        """
        deadline = self._deadline(timeout)
        return self._exchange([_request(0, method, params)], deadline)[0]

    # Connections --------------------------------------------------------------------------------

    def _deadline(self, timeout: Optional[float]) -> "_Deadline":
        return _Deadline(self.timeout if timeout is None else timeout)

    def _exchange(self, lines: List[bytes], deadline: "_Deadline") -> List[Any]:
        """The results of some requests. They are sent again while the agent is not there."""
        wait_until = min(deadline.at, _Deadline(self.restart, "restart").at)
        pause = _CONNECT_PAUSE
        absent = None  # type: Optional[NoAgent]
        while True:
            connection = self._take()
            is_new = connection is None
            try:
                if connection is None:
                    connection = _Connection(self.path, deadline.at)
                results = connection.ask(lines, deadline.at)
            except Refused as refused:
                if connection is not None:
                    self._put_back(connection, refused.index is not None)
                raise
            except _Absent as error:
                if connection is not None:
                    connection.close()
                if not is_new:
                    continue
                if time.monotonic() + pause > wait_until:
                    raise
                absent = error
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            except socket.timeout:
                if connection is not None:
                    connection.close()
                elif absent is not None:
                    # The time ran out during a pause: raise the error of the last attempt.
                    raise absent from None
                raise _too_late(self.path, deadline) from None
            except BaseException:
                # The rest of the answer may still arrive.
                if connection is not None:
                    connection.close()
                raise
            else:
                self._put_back(connection, True)
                return results

    def _take(self) -> "Optional[_Connection]":
        """A connection that no call uses, or None."""
        if self._process != os.getpid():
            # After a fork, parent and child share the sockets. If both read from one, each gets
            # parts of the other's answers.
            self.close()
            self._process = os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _put_back(self, connection: "_Connection", reusable: bool) -> None:
        """Keep the connection of a call that is over, or close it. `reusable`: everything that was
        asked on it is answered."""
        if reusable and connection.process == os.getpid():
            self._idle.append(connection)
        else:
            connection.close()

    def _object(self, result: Any) -> Any:
        if not isinstance(result, dict):
            self.close()
            raise _not_an_agent(self.path, "the result is not an object")
        return result

    def _with_code(
        self, method: str, params: Dict[str, Any], code: bool, timeout: Optional[float]
    ) -> Any:
        """The result of a method whose callbacks may have code."""
        deadline = self._deadline(timeout)
        steps = self._code.steps(self.path, method, params, code)
        try:
            request = next(steps)
            while True:
                request = steps.send(self._exchange([request], deadline)[0])
        except StopIteration as end:
            return self._object(end.value)


class _Code:
    """The code of callbacks, by digest, so that it is never another version's."""

    def __init__(self) -> None:
        #: By digest, the member that it adds to a callback; and how many characters all of them
        #: have.
        self._by_digest = {}  # type: Dict[str, Dict[str, str]]
        self._size = 0

    def steps(
        self, path: str, method: str, params: Dict[str, Any], code: bool
    ) -> Generator[bytes, Any, Any]:
        """Ask a method whose callbacks may have code: yields requests, takes their results, and
        returns the result. Code that is known is not asked for again."""
        if not code:
            return (yield _request(0, method, params))
        if self._by_digest:
            result = yield _request(0, method, params)
            try:
                if (yield from self._complete(_callbacks(result))):
                    return result
            except (AttributeError, KeyError, TypeError):
                raise _not_an_agent(path, "its callbacks are not callbacks") from None
        result = yield _request(0, method, dict(params, code=True))
        with contextlib.suppress(AttributeError, KeyError, TypeError):
            for callback in _callbacks(result):
                for member in {"code", "code_base64"} & callback.keys():
                    self._keep(callback["digest"], {member: callback[member]})
        return result

    def _complete(self, callbacks: List[Dict[str, Any]]) -> Generator[bytes, Any, bool]:
        """Add the code to callbacks. False if it is not known: a file was edited meanwhile, or it
        is too much to ask for by digest."""
        wanted = {c["digest"] for c in callbacks} - self._by_digest.keys()
        if len(wanted) > _MAX_DIGESTS:
            return False
        if wanted:
            result = yield _request(0, "code", {"digests": sorted(wanted)})
            names = {"text": "code", "base64": "code_base64"}
            for digest, content in result["code"].items():
                self._keep(digest, {names[name]: text for name, text in content.items()})
        codes = [self._by_digest.get(c["digest"]) for c in callbacks]
        if None in codes:
            return False
        for callback, code in zip(callbacks, codes):  # noqa: B905  (Python 3.10)
            callback.update(code or {})
        return True

    def _keep(self, digest: str, code: Dict[str, str]) -> None:
        """Keep the code of a callback, as the members that it adds."""
        if digest in self._by_digest:
            return
        size = sum(len(text) for text in code.values())
        self._size += size
        if self._size > MAX_CODE_BYTES:
            # A new one: another thread may read the old one.
            self._by_digest, self._size = {}, size
        self._by_digest[digest] = code


class _Subscribed:
    """What a subscription knows of the agent. `agent.aio` uses it too."""

    def __init__(self, records: "_Records") -> None:
        self._records = records

    @property
    def generation(self) -> int:
        """That of the index that is served, as far as the agent has said."""
        return self._records.generation

    @property
    def digest(self) -> str:
        """That of the index that is served, as far as the agent has said."""
        return self._records.digest

    @property
    def held(self) -> List[str]:
        """The directories that are held, as far as the agent has said."""
        return self._records.held

    @property
    def position(self) -> Optional[Since]:
        """The newest record that was returned: what a later subscription takes as `since`."""
        return self._records.position

    @property
    def heard(self) -> float:
        """When something last came from the agent, in seconds of `time.monotonic`."""
        return self._records.heard


class Subscription(_Subscribed):
    """An iterator of the records that the agent makes from the moment this is created.

    Iterating waits without limit, `next` with one. It is for one thread at a time.

    If the agent is not there, this waits for it for `restart` seconds, within `timeout`.

    Without `since` and `heartbeat`, NoAgent is raised when the agent closes the connection, since
    changes are no longer reported: subscribe again, and compare the digest.

    With one of them, the connection is made again: for `restart` seconds after it was lost, then
    NoAgent is raised. The records that were missed come first. If the agent no longer knows them,
    RecordsLost is raised once in their place, and the records after them follow.

    With `heartbeat`, NoAgent is also raised if nothing comes for `heartbeat + timeout` seconds: the
    agent is stopped or stuck.
    """

    def __init__(
        self,
        path: str,
        timeout: float = DEFAULT_TIMEOUT,
        *,
        since: Optional[Since] = None,
        heartbeat: Optional[float] = None,
        restart: float = DEFAULT_RESTART,
    ) -> None:
        deadline = _Deadline(timeout)
        super().__init__(_Records(path, timeout, since, heartbeat, restart))
        self._connection = None  # type: Optional[_Connection]
        self._closed = False
        try:
            while not self._records.answered:
                self._receive(deadline.at)
        except socket.timeout:
            self.close()
            raise _too_late(path, deadline) from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the subscription. Iterating ends too."""
        self._closed = True
        self._disconnect()

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        if self._closed:
            raise StopIteration
        return self.next()

    def next(self, timeout: Optional[float] = None) -> Record:
        """The next record; waits for `timeout` seconds, or without limit. 0 takes what has arrived.

        Raises TimedOut or RecordsLost, after which it can be called again and no record is lost,
        NoAgent if the agent is gone, AgentError if what it sends is not JSON-RPC.
        """
        deadline = _record_deadline(timeout)
        while not self._closed:
            record = self._records.take()
            if record is not None:
                return record
            try:
                self._receive(deadline)
            except socket.timeout:
                raise TimedOut("no record within {:g} s".format(timeout or 0)) from None
            except AgentError:
                self.close()
                raise
        raise NoAgent("this subscription is closed")

    def _receive(self, deadline: float) -> None:
        """Receive one message, or do one step towards a new connection. Raises socket.timeout at
        the deadline."""
        try:
            until = self._records.wait_until(deadline)
            try:
                if self._connection is None:
                    self._connection = self._connect(until)
                self._records.add(self._connection.message(until))
            except socket.timeout:
                self._records.check_silence(self._connection.heard if self._connection else 0.0)
                if until == deadline:
                    raise
        except _Absent:
            self._disconnect()
            pause = self._records.pause(deadline)
            if pause is None:
                raise
            left = deadline - time.monotonic()
            time.sleep(max(0.0, min(pause, left)))
            if left < pause:
                raise socket.timeout() from None

    def _connect(self, until: float) -> "_Connection":
        """A new connection, on which the request is sent."""
        connection = _Connection(self._records.path, until)
        try:
            # If it cannot be sent, what is received says why.
            connection.send(self._records.request(), until)
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class _Records:
    """The records of a subscription, and when to give up waiting for them. The connection that they
    come on is not here: `agent.aio` uses this too. Times are in seconds of `time.monotonic`."""

    def __init__(
        self,
        path: str,
        timeout: float,
        since: Optional[Since],
        heartbeat: Optional[float],
        restart: float,
    ) -> None:
        self.path = path
        self.generation = 0
        self.digest = ""
        self.held = []  # type: List[str]
        self.position = since
        self.heard = 0.0
        #: Whether the agent has answered on this connection.
        self.answered = False
        self._timeout = timeout
        self._heartbeat = heartbeat
        self._restart = _Deadline(restart, "restart").seconds
        self._goes_on = since is not None or heartbeat is not None
        #: The newest record that came, or that is lost.
        self._newest = since
        #: What is not returned yet: positions and records, None for those that are lost.
        self._waiting = deque()  # type: deque[tuple[Optional[Since], Optional[Record]]]
        self._quiet_since = time.monotonic()
        #: Since when the agent seems silent, but what has arrived may not be read yet.
        self._doubted_since = None  # type: Optional[float]
        self._gone_since = None  # type: Optional[float]
        self._pause = _CONNECT_PAUSE

    def request(self) -> bytes:
        """The request to send on a new connection."""
        params = {}  # type: Dict[str, Any]
        if self._newest is not None:
            params["since"] = self._newest
        if self._heartbeat is not None:
            params["heartbeat"] = self._heartbeat
        return _request(0, "subscribe", params)

    def add(self, message: Dict[str, Any]) -> None:
        """Take a message in. Raises Refused, or AgentError if it is not an agent's."""
        self.heard = self._quiet_since = time.monotonic()
        self._doubted_since = None
        if not self.answered:
            if _is_result(self.path, message, 0):
                self._answer(message["result"])
            return
        method, params = message.get("method"), message.get("params")
        if method in ("reload", "heartbeat") and isinstance(params, dict):
            self.generation, self.digest = params.get("generation", 0), params.get("digest", "")
            if method == "reload":
                with contextlib.suppress(KeyError, TypeError):
                    self.held = [held["directory"] for held in params["held"]]
                self._keep(params)

    def take(self) -> Optional[Record]:
        """The next record that has come, or None. Raises RecordsLost."""
        if not self._waiting:
            return None
        self.position, record = self._waiting.popleft()
        if record is None:
            raise RecordsLost(
                self.path + ": records were missed that the agent does not know any more; read"
                " everything again"
            )
        return record

    def wait_until(self, deadline: float) -> float:
        """Until when the next message may be waited for."""
        if not self.answered:
            limit = self._quiet_since + self._timeout
        elif self._heartbeat is not None:
            limit = self._quiet_since + self._heartbeat + self._timeout
        else:
            return deadline
        now = time.monotonic()
        if limit <= now:
            if self._doubted_since is None:
                self._doubted_since = now
            limit = max(self._doubted_since + _LAST_LOOK, now + _POLL)
        return min(limit, deadline)

    def check_silence(self, heard: float) -> None:
        """Raise NoAgent if nothing came for too long. `heard` is when the last bytes came: they may
        be a part of a message."""
        now = time.monotonic()
        if heard > self._quiet_since:
            self._quiet_since, self._doubted_since = heard, None
        elif self._doubted_since is not None and now >= self._doubted_since + _LAST_LOOK:
            seconds = now - self._quiet_since
            raise NoAgent("{}: nothing came for {:.1f} s".format(self.path, seconds))

    def pause(self, deadline: float) -> Optional[float]:
        """Note that the connection is lost, or cannot be made. Returns the seconds until the next
        attempt, or None if the connection is given up. Before the agent has first answered that is
        also so where the next attempt would be after the deadline."""
        now = time.monotonic()
        self.answered = False
        self._quiet_since, self._doubted_since = now, None
        if self._gone_since is None:
            self._gone_since = now
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        until = self._gone_since + self._restart
        if not self.heard:
            until = min(until, deadline)
        elif not self._goes_on:
            return None
        return pause if now + pause <= until else None

    def _answer(self, result: Any) -> None:
        if not isinstance(result, dict):
            raise _not_an_agent(self.path, "the result is not an object")
        position = _position(result)
        missed = result.get("missed")
        if not all(isinstance(record, dict) for record in _list(self.path, missed or [])):
            raise _not_an_agent(self.path, "a record is not an object")
        held = _list(self.path, result.get("held", []))
        self.answered = True
        self._gone_since, self._pause = None, _CONNECT_PAUSE
        self.generation, self.digest = result.get("generation", 0), result.get("digest", "")
        self.held = held
        if self._newest is None:
            self.position = position
        elif missed is None:
            self._waiting.append((position, None))
        else:
            for record in missed:
                self._keep(record)
        self._newest = position

    def _keep(self, record: Record) -> None:
        self._newest = _position(record) or self._newest
        self._waiting.append((self._newest, record))


def _list(path: str, found: Any) -> List[Any]:
    """An array of an answer. Raises AgentError if it is something else."""
    if not isinstance(found, list):
        raise _not_an_agent(path, "a member that must be an array is not one")
    return found


def _record_deadline(timeout: Optional[float]) -> float:
    """The deadline of one wait for a record."""
    return _NEVER if timeout is None else max(_Deadline(timeout).at, time.monotonic() + _POLL)


def _position(found: Dict[str, Any]) -> Optional[Since]:
    """The place of a record, or of the result of `subscribe`."""
    if "instance" not in found or "sequence" not in found:
        return None
    return {"instance": found["instance"], "sequence": found["sequence"]}


def default_pipe(environ: Mapping[str, str], uid: int) -> str:
    """The default pipe of the agent of the user `uid`."""
    if uid == 0:
        return ROOT_PIPE
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        return os.path.join(runtime, "callback-agent", "pipe")
    temporary = environ.get("TMPDIR", "")
    if not os.path.isabs(temporary):
        temporary = "/tmp"  # noqa: S108  (the folder below it must belong to the user)
    return os.path.join(temporary, "callback-agent-{}".format(uid), "pipe")


def default_paths() -> List[str]:
    """The pipes to try if none is named: the caller's own, then root's.

    The caller's own is left out if others own its folder or may write to it: anyone can make a
    folder in /tmp, and an agent's answers hold code that will be run. Only root can make that of
    root's.
    """
    own = default_pipe(os.environ, os.geteuid())
    if own == ROOT_PIPE:
        return [ROOT_PIPE]
    try:
        _check_owner(own)
    except _Absent:
        pass
    except NoAgent:
        return [ROOT_PIPE]
    return [own, ROOT_PIPE]


def _check_owner(path: str) -> None:
    """Raise NoAgent if a path is the caller's own default pipe, and others can make a pipe there.

    This is done before each connection: while no agent runs, another user can make the folder.
    """
    uid = os.geteuid()
    if path == ROOT_PIPE or path != default_pipe(os.environ, uid):
        return
    folder = os.path.dirname(path)
    try:
        found = os.lstat(folder)
    except OSError as error:
        raise _no_connection(path, error) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (uid, 0):
        raise NoAgent("{}: {} belongs to another user".format(path, folder))
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NoAgent("{}: others may write to {}: chmod go-w it".format(path, folder))


def _params(
    event: Event,
    owner: Optional[Mapping[str, Any]],
    occurred: Optional[Sequence[Event]],
    pending: Optional[Sequence[Mapping[str, Any]]],
) -> Dict[str, Any]:
    """The parameters of lookup and explain. An empty owner is sent: it matches nothing."""
    params = {"event": event}  # type: Dict[str, Any]
    if owner is not None:
        params["owner"] = owner
    if occurred is not None:
        params["occurred"] = occurred
    if pending is not None:
        params["pending"] = pending
    return params


def _numbered(events: Sequence[Event]) -> Iterator[Tuple[int, Event]]:
    """Each event with its index. Raises BadArgument if `events` is a single event, or no list."""
    if isinstance(events, (str, bytes, Mapping)) or not hasattr(events, "__iter__"):
        raise BadArgument("events is {!r:.100}: expected a list of events".format(events))
    return enumerate(events)


def _request(number: int, method: str, params: Optional[Mapping[str, Any]]) -> bytes:
    """The line of one request. Raises BadArgument."""
    request = {"jsonrpc": "2.0", "id": number, "method": method}  # type: Dict[str, Any]
    if params:
        request["params"] = params
    try:
        text = json.dumps(request, allow_nan=False, separators=(",", ":"), default=_json_type)
        if "\\ud" in text:
            # Perhaps one half of a surrogate pair, as in a file name that is not UTF-8.
            json.dumps(request, ensure_ascii=False, default=_json_type).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise BadArgument(
            "an argument of {} cannot be sent as JSON: {}".format(method, error)
        ) from None
    return text.encode("ascii") + b"\n"


def _json_type(value: Any) -> Any:
    """A mapping or sequence of another type as a dictionary or list. Raises TypeError."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return list(value)
    raise TypeError("{} is not text, a number, a list or a mapping".format(type(value).__name__))


def _callbacks(result: Dict[str, Any]) -> List[Dict[str, Any]]:
    """All callbacks of a result."""
    return [*result["callbacks"], *result.get("partial", ())]


class _Deadline:
    """The time when a call must end: `at` in monotonic seconds, `seconds` after it began."""

    def __init__(self, seconds: float, name: str = "timeout") -> None:
        try:
            if seconds != seconds:
                raise ValueError
            self.at = time.monotonic() + min(seconds, _LONGEST_TIMEOUT)
        except (TypeError, ValueError):
            text = "{} is {!r}: expected seconds, as a number".format(name, seconds)
            raise BadArgument(text) from None
        self.seconds = seconds


class _Absent(NoAgent):
    """The agent is not there; it may be restarting."""


class _HungUp(_Absent):
    """The agent closed the connection before a whole answer arrived."""


class _Connection:
    """One open socket, and the bytes received after the last whole line."""

    def __init__(self, path: str, deadline: float) -> None:
        self._path = path
        self.process = os.getpid()
        self._rest = bytearray()
        self._socket = self._connect(deadline)
        #: When bytes last came, in seconds of `time.monotonic`.
        self.heard = time.monotonic()

    def close(self) -> None:
        self._socket.close()

    def ask(self, lines: List[bytes], deadline: float) -> List[Any]:
        """The results of requests, whose ids count from 0. Raises Refused for the first that is
        refused; where its `index` is not None, the connection can be used again."""
        results = []  # type: List[Any]
        refused = None  # type: Optional[Refused]
        for window in _windows(lines):
            broken = self.send(b"".join(window), deadline)
            for _ in window:
                try:
                    results.append(self._result(len(results), deadline))
                except Refused as error:
                    if error.index is None:
                        raise
                    refused = refused or error
                    results.append(None)
                except _HungUp:
                    if broken is None or broken.errno in (errno.EPIPE, errno.ECONNRESET):
                        raise
                    text = "{}: cannot send: {}".format(self._path, broken.strerror)
                    raise AgentError(text) from None
        if refused is not None:
            raise refused
        return results

    def send(self, data: bytes, deadline: float) -> Optional[OSError]:
        """Send bytes. An error is returned, as the agent may have sent the reason why it closed (a
        line too long, a refused user)."""
        try:
            self._set_timeout(self._socket, deadline)
            self._socket.sendall(data)
        except socket.timeout:
            raise
        except OSError as error:
            return error
        return None

    def _result(self, number: int, deadline: float) -> Any:
        """The result of one request. Answers to others, and notifications, are ignored."""
        while True:
            message = self.message(deadline)
            if _is_result(self._path, message, number):
                return message["result"]

    def message(self, deadline: float) -> Dict[str, Any]:
        """The next line, which must be a JSON object."""
        return _decoded(self._path, self._line(deadline))

    def _line(self, deadline: float) -> bytes:
        """The next whole line. If this is interrupted, what has arrived of it is kept."""
        searched = 0
        try:
            while True:
                end = self._rest.find(b"\n", searched)
                if end >= 0:
                    break
                searched = len(self._rest)
                if searched > MAX_ANSWER_BYTES:
                    raise _not_an_agent(self._path, "its answer does not end")
                self._set_timeout(self._socket, deadline)
                chunk = self._socket.recv(_READ_BYTES)
                if not chunk:
                    raise _HungUp(self._path + ": the agent closed the connection")
                self._rest += chunk
                self.heard = time.monotonic()
        except socket.timeout:
            raise
        except ConnectionError:
            raise _HungUp(self._path + ": the agent reset the connection") from None
        except OSError as error:
            raise AgentError("{}: cannot receive: {}".format(self._path, error.strerror)) from None
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return line

    def _connect(self, deadline: float) -> socket.socket:
        _check_owner(self._path)
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            while True:
                try:
                    self._set_timeout(one, deadline)
                    one.connect(self._path)
                    return one
                except BlockingIOError:
                    # The queue of new connections is full: Linux fails at once in place of waiting.
                    time.sleep(min(_CONNECT_PAUSE, max(0.0, deadline - time.monotonic())))
        except socket.timeout:
            one.close()
            raise
        except (OSError, ValueError) as error:
            one.close()
            raise _no_connection(self._path, error) from None
        except BaseException:
            one.close()
            raise

    @staticmethod
    def _set_timeout(one: socket.socket, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout()
        one.settimeout(left if left < _NEVER else None)


def _decoded(path: str, line: bytes) -> Dict[str, Any]:
    """The JSON object on a line. Raises AgentError."""
    try:
        message = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        raise _not_an_agent(path, "it does not send JSON") from None
    if not isinstance(message, dict):
        raise _not_an_agent(path, "it does not send JSON-RPC")
    return message


def _is_result(path: str, message: Dict[str, Any], number: int) -> bool:
    """Whether a message is the result of the request with this id; False if it is to be ignored.

    Raises Refused if it is an error, and AgentError if it is neither.
    """
    if "method" in message or "id" not in message:
        return False
    answered = message["id"]
    if answered is None and "error" in message:
        # About a line that the agent could not read, or the connection as a whole.
        raise _refusal(path, message["error"], None)
    if answered != number or isinstance(answered, bool):
        return False
    if ("result" in message) == ("error" in message):
        raise _not_an_agent(path, "an answer has either a result or an error")
    if "error" in message:
        raise _refusal(path, message["error"], number)
    return True


def _refusal(path: str, error: Any, index: Optional[int]) -> AgentError:
    """The exception for a JSON-RPC error."""
    if isinstance(error, dict):
        code, message = error.get("code"), error.get("message")
        if isinstance(code, int) and not isinstance(code, bool) and isinstance(message, str):
            return Refused(code, message, error.get("data"), index)
    return _not_an_agent(path, "its error has no code and message")


def _windows(lines: List[bytes]) -> Iterator[List[bytes]]:
    """Lines in groups of about _WINDOW_BYTES."""
    window = []  # type: List[bytes]
    size = 0
    for line in lines:
        if window and size + len(line) > _WINDOW_BYTES:
            yield window
            window, size = [], 0
        window.append(line)
        size += len(line)
    if window:
        yield window


def _too_late(path: str, deadline: _Deadline) -> TimedOut:
    return TimedOut("{}: no answer within {:g} s".format(path, deadline.seconds))


def _not_an_agent(path: str, why: str) -> AgentError:
    return AgentError("{}: what answers there is not a callback agent: {}".format(path, why))


def _no_connection(path: str, error: Exception) -> NoAgent:
    text = "{}: {}".format(path, _connection_error(error))
    absent = getattr(error, "errno", None) in (errno.ENOENT, errno.ECONNREFUSED)
    return _Absent(text) if absent else NoAgent(text)


def _connection_error(error: Exception) -> str:
    """Why a connection could not be made."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOENT, errno.ENOTDIR):
        return "there is no pipe"
    if number == errno.ECONNREFUSED:
        return "nobody listens there (the agent has stopped, or this is not a pipe)"
    if number in (errno.EACCES, errno.EPERM):
        return "no permission to connect"
    if number in (errno.ENOTSOCK, errno.EPROTOTYPE):
        return "it is not an agent's pipe"
    return str(getattr(error, "strerror", None) or error)
