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

A `Client` keeps its connection between calls, which saves most of the time of a lookup. It may be
used after a fork, but not by two threads at once: give each thread its own.
"""

# Python 3.6 does not have the newer forms that these rules ask for.
# ruff: noqa: UP006, UP007, UP032, UP035, UP041, UP045

import errno
import json
import os
import socket
import stat
import time
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

#: Seconds that one call may take, connecting and receiving included. An answer takes well under
#: a millisecond; an agent that takes longer than this is stopped or stuck.
DEFAULT_TIMEOUT = 5.0

#: The pipe of an agent that root runs.
ROOT_PIPE = "/run/callback-agent/pipe"

#: The longest answer that is read, in bytes, so that a broken server cannot fill the memory.
#: A list of 100,000 callbacks with 2 KB of code each is a fifth of it.
MAX_ANSWER_BYTES = 1 << 30

#: Bytes that are received at a time: a whole ordinary answer.
_READ_BYTES = 1 << 16

#: Seconds between two attempts to connect while the agent's queue of new connections is full.
_CONNECT_PAUSE = 0.01

#: Seconds that a wait of 0 lasts, so that what has arrived is read.
_POLL = 0.001

#: An event as a string ("failed-job-self") or as an object with name, type, extra and job.
Event = Union[str, Mapping[str, Any]]


class AgentError(Exception):
    """The agent gave no usable answer; the text says why."""


class NoAgent(AgentError):
    """No agent answers at this path: no pipe, refused, no permission, or hung up."""


class TimedOut(AgentError):
    """The deadline passed before the whole answer arrived."""


class Refused(AgentError):
    """The agent answered with an error (JSON-RPC 2.0, section 5.1).

    `code` is the number (-32602 for a wrong event), `message` the text, `data` the details, mostly
    a dictionary with `pointer`, `expected` and, for an event string, `column`.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class Client:
    """A connection to the agent whose pipe is at `path`. The first call opens it.

    `timeout` is in seconds and limits each call as a whole. If the agent was restarted since the
    last call, the call is sent once more, on a new connection: every call can be repeated without
    harm. After an error the next call opens a new connection.
    """

    def __init__(self, path: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.path = path
        self.timeout = timeout
        self._connection = None  # type: Optional[_Connection]
        self._process = 0
        self._last_id = 0

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. The next call opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def lookup(
        self,
        event: Event,
        owner: Optional[Mapping[str, Any]] = None,
        occurred: Optional[Sequence[Event]] = None,
        code: bool = False,
    ) -> Dict[str, Any]:
        """The callbacks that fire on `event`: `{generation, digest, callbacks, partial}`.

        `owner` is the job that has the callbacks (`id`, `label`, `pid`, `pgrp`); by default the
        event's own job. `occurred` are earlier events. With `code`, each callback has the text of
        its file as `code`, or as `code_base64` if its bytes are not UTF-8.
        """
        return self._dictionary("lookup", _about(event, owner, occurred, code))

    def explain(
        self,
        event: Event,
        owner: Optional[Mapping[str, Any]] = None,
        occurred: Optional[Sequence[Event]] = None,
        code: bool = False,
    ) -> Dict[str, Any]:
        """As `lookup`, with a `verdict` (`fires`, `partial`, `no`) and a `reason` for each."""
        return self._dictionary("explain", _about(event, owner, occurred, code))

    def list(self, code: bool = False) -> Dict[str, Any]:
        """Every callback that is served: `{generation, digest, callbacks}`."""
        return self._dictionary("list", {"code": True} if code else {})

    def status(self) -> Dict[str, Any]:
        """The agent's health, directories, settings and last reload."""
        return self._dictionary("status", {})

    def reload(self) -> Dict[str, Any]:
        """Read everything again; the record of it. Changes made before the call are then served.

        It can take longer than a lookup: give the client a longer `timeout`.
        """
        return self._dictionary("reload", {})

    def history(self, limit: Optional[int] = None) -> Dict[str, Any]:
        """The last records, newest last: `{records}`."""
        return self._dictionary("history", {} if limit is None else {"limit": limit})

    def subscribe(self) -> "Subscription":
        """The records from now on, on a separate connection. See `Subscription`."""
        return Subscription(self.path, self.timeout)

    def call(self, method: str, params: Optional[Mapping[str, Any]] = None) -> Any:
        """The result of any method of the agent, as JSON gives it.

        Raises NoAgent, TimedOut, Refused, or AgentError if what answers is not an agent.
        """
        deadline = time.monotonic() + self.timeout
        if self._process != os.getpid():
            # After a fork, parent and child share the socket. If both read from it, each gets parts
            # of the other's answers.
            self.close()
            self._process = os.getpid()
        self._last_id += 1
        try:
            if self._connection is not None:
                try:
                    return self._connection.ask(self._last_id, method, params, deadline)
                except _HungUp:
                    self.close()
            self._connection = _Connection(self.path, self.timeout, deadline)
            return self._connection.ask(self._last_id, method, params, deadline)
        except BaseException as error:
            # Unless a whole answer was read, the rest of it may still arrive.
            if not isinstance(error, Refused):
                self.close()
            raise

    def _dictionary(self, method: str, params: Mapping[str, Any]) -> Dict[str, Any]:
        result = self.call(method, params)
        if not isinstance(result, dict):
            self.close()
            raise _not_an_agent(self.path, "the result is not an object")
        return result


class Subscription:
    """An iterator of the records that the agent makes from the moment this is created.

    `generation` and `digest` are those of the index at that moment. Iterating waits without limit,
    `next` with one. NoAgent is raised when the agent closes the connection, since changes are no
    longer reported: subscribe again, and compare the digest.
    """

    def __init__(self, path: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        deadline = time.monotonic() + timeout
        self._path = path
        self._connection = _Connection(path, timeout, deadline)
        self._closed = False
        try:
            answer = self._connection.ask(1, "subscribe", None, deadline)
            if not isinstance(answer, dict):
                raise _not_an_agent(path, "the result is not an object")
        except BaseException:
            self.close()
            raise
        self.generation = answer.get("generation")
        self.digest = answer.get("digest")

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the subscription. Iterating ends too."""
        self._closed = True
        self._connection.close()

    def __iter__(self) -> Iterator[Dict[str, Any]]:
        return self

    def __next__(self) -> Dict[str, Any]:
        if self._closed:
            raise StopIteration
        return self.next()

    def next(self, timeout: Optional[float] = None) -> Dict[str, Any]:
        """The next record; waits for `timeout` seconds, or without limit. 0 takes what has arrived.

        Raises TimedOut, after which it can be called again and no record is lost, NoAgent if the
        agent has closed the connection, AgentError if what it sends is not JSON-RPC.
        """
        if self._closed:
            raise NoAgent("this subscription is closed")
        deadline = None if timeout is None else time.monotonic() + max(timeout, _POLL)
        try:
            while True:
                message = self._connection.message(deadline)
                record = message.get("params")
                if message.get("method") == "reload" and isinstance(record, dict):
                    return record
        except TimedOut:
            raise TimedOut("no record within {:g} s".format(timeout or 0)) from None
        except AgentError:
            self.close()
            raise


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

    The caller's own is left out if its folder belongs to another user: anyone can make a folder in
    /tmp, and an agent's answers hold code that will be run.
    """
    uid = os.geteuid()
    own = default_pipe(os.environ, uid)
    paths = [] if _belongs_to_another(os.path.dirname(own), uid) else [own]
    if own != ROOT_PIPE:
        paths.append(ROOT_PIPE)
    return paths


def _belongs_to_another(folder: str, uid: int) -> bool:
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    return not stat.S_ISDIR(found.st_mode) or found.st_uid not in (uid, 0)


def _about(
    event: Event,
    owner: Optional[Mapping[str, Any]],
    occurred: Optional[Sequence[Event]],
    code: bool,
) -> Dict[str, Any]:
    """The parameters of lookup and explain. An empty owner is sent: it matches nothing."""
    params = {"event": event}  # type: Dict[str, Any]
    if owner is not None:
        params["owner"] = owner
    if occurred is not None:
        params["occurred"] = list(occurred)
    if code:
        params["code"] = True
    return params


class _HungUp(NoAgent):
    """The agent closed the connection before a whole answer arrived."""


class _Connection:
    """One open socket, and the bytes received after the last whole line."""

    def __init__(self, path: str, timeout: float, deadline: float) -> None:
        self._path = path
        self._timeout = timeout
        self._rest = bytearray()
        self._socket = self._connect(deadline)

    def close(self) -> None:
        self._socket.close()

    def ask(
        self, number: int, method: str, params: Optional[Mapping[str, Any]], deadline: float
    ) -> Any:
        """The result of one request. Answers to others, and notifications, are ignored."""
        request = {"jsonrpc": "2.0", "id": number, "method": method}  # type: Dict[str, Any]
        if params:
            request["params"] = params
        line = json.dumps(request, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"
        broken = None  # type: Optional[OSError]
        try:
            self._wait_until(deadline)
            self._socket.sendall(line)
        except socket.timeout:
            raise self._timed_out() from None
        except OSError as error:
            # The agent may have sent the reason why it closed (a line too long, a refused user).
            broken = error
        while True:
            try:
                message = self.message(deadline)
            except _HungUp:
                if broken is not None and broken.errno not in (errno.EPIPE, errno.ECONNRESET):
                    raise AgentError(
                        "{}: cannot send: {}".format(self._path, broken.strerror)
                    ) from None
                raise
            if "method" in message or "id" not in message:
                continue
            answered = message["id"]
            if answered is None and "error" in message:
                # An error without an id is about a line that the agent could not read or refused.
                # Only this request has been sent.
                raise self._refused(message["error"])
            if answered != number or isinstance(answered, bool):
                continue
            if ("result" in message) == ("error" in message):
                raise _not_an_agent(self._path, "an answer has either a result or an error")
            if "error" in message:
                raise self._refused(message["error"])
            return message["result"]

    def message(self, deadline: Optional[float]) -> Dict[str, Any]:
        """The next line, which must be a JSON object."""
        try:
            message = json.loads(self._line(deadline).decode("utf-8"))
        except (ValueError, RecursionError):
            raise _not_an_agent(self._path, "it does not send JSON") from None
        if not isinstance(message, dict):
            raise _not_an_agent(self._path, "it does not send JSON-RPC")
        return message

    def _line(self, deadline: Optional[float]) -> bytes:
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
                self._wait_until(deadline)
                chunk = self._socket.recv(_READ_BYTES)
                if not chunk:
                    raise _HungUp(self._path + ": the agent closed the connection")
                self._rest += chunk
        except socket.timeout:
            raise self._timed_out() from None
        except ConnectionError:
            raise _HungUp(self._path + ": the agent reset the connection") from None
        except OSError as error:
            raise AgentError("{}: cannot receive: {}".format(self._path, error.strerror)) from None
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return line

    def _connect(self, deadline: float) -> socket.socket:
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
            raise self._timed_out() from None
        except (OSError, ValueError) as error:
            one.close()
            raise NoAgent("{}: {}".format(self._path, _connection_error(error))) from None
        except BaseException:
            one.close()
            raise

    def _wait_until(self, deadline: Optional[float]) -> None:
        if deadline is None:
            self._socket.settimeout(None)
        else:
            self._set_timeout(self._socket, deadline)

    @staticmethod
    def _set_timeout(one: socket.socket, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout()
        one.settimeout(left)

    def _timed_out(self) -> TimedOut:
        return TimedOut("{}: no answer within {:g} s".format(self._path, self._timeout))

    def _refused(self, error: Any) -> AgentError:
        code, message, data = _error_parts(error)
        if code is None:
            return _not_an_agent(self._path, "its error has no code and message")
        return Refused(code, message, data)


def _error_parts(error: Any) -> Tuple[Optional[int], str, Any]:
    """Code, message and data of a JSON-RPC error; the code is None if it is not one."""
    if not isinstance(error, dict):
        return None, "", None
    code = error.get("code")
    message = error.get("message")
    if not isinstance(code, int) or isinstance(code, bool) or not isinstance(message, str):
        return None, "", None
    return code, message, error.get("data")


def _not_an_agent(path: str, why: str) -> AgentError:
    return AgentError("{}: what answers there is not a callback agent: {}".format(path, why))


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
