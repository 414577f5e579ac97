"""What a supervisor imports to ask the callback agent: which callbacks fire on this event?

This one file is the whole client. It needs nothing but the standard library of Python 3.6 or
newer, on Linux or macOS, and may be copied beside a supervisor's own code. The commands of the
agent use it too; there is no other door.

Every call blocks until the agent has answered, and never longer than `timeout` seconds. It
returns a whole answer or raises an `AgentError`:

    >>> from agent.client import AgentError, Client
    >>> with Client(pipe, timeout=2.0) as agent:
    ...     answer = agent.lookup("failed-job-self")
    >>> [c["file"] for c in answer["callbacks"] if c["enabled"]]
    ['mail-status.qcb']

A callback whose `enabled` is false is one that the supervisor's language flags forbid: whoever
runs the callbacks must look at it. With the jobs themselves, the agent works out whose event it is:

    >>> event = {"name": "failed", "type": "job", "job": {"id": 1234, "label": "render"}}
    >>> try:
    ...     answer = Client(pipe).lookup(event, owner={"id": 1234}, code=True)
    ... except AgentError as error:
    ...     print("no answer:", error)
    >>> [c["code"] for c in answer["callbacks"] if c["enabled"]]
    ['mail-status\\n']

A `Client` keeps its connection from call to call, which saves most of the time of a lookup. It may
be used after a fork, but not by two threads at once: give each its own.
"""

# Python 3.6 knows none of the newer forms that these rules ask for.
# ruff: noqa: UP006, UP007, UP032, UP035, UP041, UP045

import errno
import json
import os
import socket
import stat
import time
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

#: Seconds that one call may take, connecting and receiving included. An answer takes well under
#: a millisecond; who waits longer than this waits for an agent that is stopped or stuck.
DEFAULT_TIMEOUT = 5.0

#: The pipe of an agent that root runs.
ROOT_PIPE = "/run/callback-agent/pipe"

#: The longest answer that is read, in bytes, so that a server gone mad cannot fill the memory.
#: A list of 100,000 callbacks with 2 KB of code each is a fifth of it.
MOST_ANSWER_BYTES = 1 << 30

#: Bytes asked for at a time: a whole ordinary answer.
_READ_BYTES = 1 << 16

#: Seconds between two tries to connect while the agent's queue of new connections is full.
_CONNECT_PAUSE = 0.01

#: Seconds that a wait of 0 lasts: what has arrived is still read.
_POLL = 0.001

#: An event as a string ("failed-job-self") or as an object with name, type, extra and job.
Event = Union[str, Mapping[str, Any]]


class AgentError(Exception):
    """The agent gave no answer that can be used; the text says why."""


class NoAgent(AgentError):
    """No agent answers at this path: nothing there, refused, no permission, or it hung up."""


class TimedOut(AgentError):
    """The deadline passed before the whole answer was there."""


class Refused(AgentError):
    """The agent answered with an error (JSON-RPC 2.0, section 5.1).

    `code` is the number (-32602 for a wrong event), `message` the text, `data` what else the
    agent said, mostly a dictionary with `pointer`, `expected` and, for an event string, `column`.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class Client:
    """A connection to the agent whose pipe is at `path`. It is opened at the first call.

    `timeout` is in seconds and holds for each call as a whole. If the agent was restarted since
    the last call, the call is sent again, once, on a new connection: every call is harmless to
    repeat. After an error the next call begins with a new connection.
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
        """Give the connection up. The next call opens a new one."""
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

        `owner` is the job that the callbacks hang on (`id`, `label`, `pid`, `pgrp`); without it
        the event's own. `occurred` are events that came before. With `code`, each callback has
        the text of its file as `code`, or as `code_base64` where its bytes are not UTF-8.
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

        It may take longer than a lookup: give the client a `timeout` to match.
        """
        return self._dictionary("reload", {})

    def history(self, limit: Optional[int] = None) -> Dict[str, Any]:
        """The last records, newest last: `{records}`."""
        return self._dictionary("history", {} if limit is None else {"limit": limit})

    def subscribe(self) -> "Subscription":
        """The records from now on, on a connection of their own. See `Subscription`."""
        return Subscription(self.path, self.timeout)

    def call(self, method: str, params: Optional[Mapping[str, Any]] = None) -> Any:
        """The result of any method of the agent, as JSON gives it.

        Raises NoAgent, TimedOut, Refused, or a plain AgentError where what answers is no agent.
        """
        deadline = time.monotonic() + self.timeout
        if self._process != os.getpid():
            # A child that forked shares the socket with its parent. Two processes must not read
            # from it: each would get parts of the other's answers.
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
            # Only after a whole answer is the connection known to hold nothing of this call.
            if not isinstance(error, Refused):
                self.close()
            raise

    def _dictionary(self, method: str, params: Mapping[str, Any]) -> Dict[str, Any]:
        result = self.call(method, params)
        if not isinstance(result, dict):
            self.close()
            raise _no_sense(self.path, "the result is no object")
        return result


class Subscription:
    """An iterator of the records that the agent makes from the moment this is created.

    `generation` and `digest` are the index at that moment. Iterating waits without limit, `next`
    for so many seconds at most. When the agent goes, NoAgent is raised, so that nobody goes on
    believing that nothing changes: subscribe again, and compare the digest.
    """

    def __init__(self, path: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        deadline = time.monotonic() + timeout
        self._path = path
        self._connection = _Connection(path, timeout, deadline)
        self._closed = False
        try:
            answer = self._connection.ask(1, "subscribe", None, deadline)
            if not isinstance(answer, dict):
                raise _no_sense(path, "the result is no object")
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
        """The next record; waits for it `timeout` seconds, or without limit. 0 takes what is there.

        Raises TimedOut, after which it may be called again without a record being lost, NoAgent
        when the agent has closed the connection, AgentError when it talks nonsense.
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
    """Where the agent of the user `uid` has its pipe when nothing else is said."""
    if uid == 0:
        return ROOT_PIPE
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        return os.path.join(runtime, "callback-agent", "pipe")
    temporary = environ.get("TMPDIR", "")
    if not os.path.isabs(temporary):
        temporary = "/tmp"  # noqa: S108  (the folder below it must be the user's own)
    return os.path.join(temporary, "callback-agent-{}".format(uid), "pipe")


def default_paths() -> List[str]:
    """The pipes to try when none is named: the caller's own, then root's.

    The caller's own is left out where its folder is somebody else's: anyone may make a folder in
    /tmp, and what an agent answers is code that will be run.
    """
    uid = os.geteuid()
    own = default_pipe(os.environ, uid)
    paths = [] if _is_foreign(os.path.dirname(own), uid) else [own]
    if own != ROOT_PIPE:
        paths.append(ROOT_PIPE)
    return paths


def _is_foreign(folder: str, uid: int) -> bool:
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
    """The parameters of lookup and explain. An empty owner is sent: nothing in it matches."""
    params = {"event": event}  # type: Dict[str, Any]
    if owner is not None:
        params["owner"] = owner
    if occurred is not None:
        params["occurred"] = list(occurred)
    if code:
        params["code"] = True
    return params


class _HungUp(NoAgent):
    """The agent closed the connection before a whole answer was there."""


class _Connection:
    """One open socket, and the bytes that came after the last whole line."""

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
        """The result for one request. Answers to others, and notifications, are passed over."""
        request = {"jsonrpc": "2.0", "id": number, "method": method}  # type: Dict[str, Any]
        if params:
            request["params"] = params
        line = json.dumps(request, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"
        broken = None  # type: Optional[OSError]
        try:
            self._wait_until(deadline)
            self._socket.sendall(line)
        except socket.timeout:
            raise self._late() from None
        except OSError as error:
            # The agent may have said why it hung up (a line too long, a user it does not know).
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
                # An error without an id is about bytes that the agent could not read or would
                # not take. Only this request is under way, so they were ours.
                raise self._refused(message["error"])
            if answered != number or isinstance(answered, bool):
                continue
            if ("result" in message) == ("error" in message):
                raise _no_sense(self._path, "an answer has a result or an error, not both or none")
            if "error" in message:
                raise self._refused(message["error"])
            return message["result"]

    def message(self, deadline: Optional[float]) -> Dict[str, Any]:
        """The next line, which must be a JSON object."""
        try:
            message = json.loads(self._line(deadline).decode("utf-8"))
        except (ValueError, RecursionError):
            raise _no_sense(self._path, "it does not speak JSON") from None
        if not isinstance(message, dict):
            raise _no_sense(self._path, "it does not speak JSON-RPC")
        return message

    def _line(self, deadline: Optional[float]) -> bytes:
        """The next whole line. What has come of it is kept if this is interrupted."""
        searched = 0
        try:
            while True:
                end = self._rest.find(b"\n", searched)
                if end >= 0:
                    break
                searched = len(self._rest)
                if searched > MOST_ANSWER_BYTES:
                    raise _no_sense(self._path, "its answer does not end")
                self._wait_until(deadline)
                chunk = self._socket.recv(_READ_BYTES)
                if not chunk:
                    raise _HungUp(self._path + ": the agent closed the connection")
                self._rest += chunk
        except socket.timeout:
            raise self._late() from None
        except ConnectionError:
            raise _HungUp(self._path + ": the agent broke the connection") from None
        except OSError as error:
            raise AgentError("{}: cannot receive: {}".format(self._path, error.strerror)) from None
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return line

    def _connect(self, deadline: float) -> socket.socket:
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            while True:
                try:
                    self._set_timeout(door, deadline)
                    door.connect(self._path)
                    return door
                except BlockingIOError:
                    # A full queue of new connections: Linux says so at once and does not wait.
                    time.sleep(min(_CONNECT_PAUSE, max(0.0, deadline - time.monotonic())))
        except socket.timeout:
            door.close()
            raise self._late() from None
        except (OSError, ValueError) as error:
            door.close()
            raise NoAgent("{}: {}".format(self._path, _why_not(error))) from None
        except BaseException:
            door.close()
            raise

    def _wait_until(self, deadline: Optional[float]) -> None:
        if deadline is None:
            self._socket.settimeout(None)
        else:
            self._set_timeout(self._socket, deadline)

    @staticmethod
    def _set_timeout(door: socket.socket, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout()
        door.settimeout(left)

    def _late(self) -> TimedOut:
        return TimedOut("{}: no answer within {:g} s".format(self._path, self._timeout))

    def _refused(self, error: Any) -> AgentError:
        code, message, data = _parts(error)
        if code is None:
            return _no_sense(self._path, "its error has no code and message")
        return Refused(code, message, data)


def _parts(error: Any) -> Tuple[Optional[int], str, Any]:
    """Code, message and data of a JSON-RPC error; no code where it is none."""
    if not isinstance(error, dict):
        return None, "", None
    code = error.get("code")
    message = error.get("message")
    if not isinstance(code, int) or isinstance(code, bool) or not isinstance(message, str):
        return None, "", None
    return code, message, error.get("data")


def _no_sense(path: str, why: str) -> AgentError:
    return AgentError("{}: what answers there is no callback agent: {}".format(path, why))


def _why_not(error: Exception) -> str:
    """Why a connection could not be made, for people."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOENT, errno.ENOTDIR):
        return "there is no pipe"
    if number == errno.ECONNREFUSED:
        return "nobody listens there (the agent has stopped, or this is no pipe)"
    if number in (errno.EACCES, errno.EPERM):
        return "no permission to connect"
    if number in (errno.ENOTSOCK, errno.EPROTOTYPE):
        return "that is no agent's pipe"
    return str(getattr(error, "strerror", None) or error)
