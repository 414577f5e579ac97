"""Follows the agent in a thread: subscribes, and loads each new index.

**What counts as current.** The agent reports each change of what it serves on the subscription, and
a heartbeat every second. An index may answer for some seconds after the last of these messages (see
`Pace`), and no longer than until a message says that another index is served, or the connection
ends. The caller's thread compares the time at each answer, so this holds even if the thread that
follows is late, or is gone because a process was forked.

The thread extends that time only when it has read everything that has come.
"""

from __future__ import annotations

import base64
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from agent import client
from agent.client import AgentError, Client, Subscription, TimedOut
from agent.core.index import Index
from agent.core.unit import Implementation
from agent.mirror.answers import Answers
from agent.rpc import listed


class Pace(NamedTuple):
    """How closely the agent is followed, in seconds."""

    #: Between two heartbeats.
    heartbeat: float = 1.0
    #: Without a message, until it is no longer known what is served: time for a heartbeat that is
    #: late on a busy machine.
    max_silence: float = 3.0
    #: How long the thread waits for a record before it does what else is to be done.
    interval: float = 0.5


#: Seconds between two attempts to connect: the first, and the longest.
FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 1.0

_NO_INDEX: Final = replace(Index.of(0, ()), digest="")


class Follower:
    """The index of the agent at `path`, kept current by a thread that `start` starts."""

    def __init__(self, path: str, timeout: float, pace: Pace = Pace()) -> None:  # noqa: B008
        self._path = path
        self._timeout = timeout
        self._pace = pace
        #: What answers now. Only replaced as a whole.
        self.answers = Answers(_NO_INDEX, 0.0)
        self.answers.replace()
        #: Set by callers that want code.
        self.wants_code = False
        #: Why there is no connection.
        self.error: AgentError | None = None
        #: Whether the agent is known to be gone, or silent: nothing is known before the first try.
        self.gone = False
        self._heard = 0.0
        #: The latest generation that the agent gave in other answers while an index is loaded.
        self._latest = 0
        self._pause = FIRST_PAUSE
        self._code: Mapping[str, Implementation] = {}
        self._subscription: Subscription | None = None
        self._closed = False
        self._prepare()
        _followers.add(self)

    def _prepare(self) -> None:
        """Prepare for the first thread of this process."""
        self._process = os.getpid()
        self._thread: threading.Thread | None = None
        # Reentrant, as a signal handler may ask, too.
        self._lock = threading.RLock()
        self._ready = threading.Event()
        self._closing = threading.Event()

    @property
    def alive(self) -> bool:
        """Whether the agent is connected and heard of."""
        return (
            self._subscription is not None
            and time.monotonic() < self._heard + self._pace.max_silence
        )

    def start(self) -> None:
        """Start the thread, if it does not run. If the system has no thread left, a later call
        does."""
        if self._process != os.getpid():
            self.forked()  # by something that does not call Python's fork handlers
        thread = self._thread
        if self._closed or (thread is not None and thread.is_alive()):
            return
        with self._lock:
            if self._thread is thread:
                new = threading.Thread(target=self._run, name="callback mirror", daemon=True)
                with contextlib.suppress(RuntimeError):
                    new.start()
                    self._thread = new

    def wait(self, timeout: float) -> bool:
        """Wait until an index is current, for at most `timeout` seconds; whether one is."""
        self.start()
        return self._ready.wait(timeout)

    def compare(self, generation: int, digest: str) -> None:
        """Find out from an answer of the agent whether the index here, or the one that is loaded
        meanwhile, is the one that it serves."""
        with self._lock:
            self._latest = max(self._latest, generation)
            answers = self.answers
        if generation > answers.index.generation:
            answers.replace()
        elif digest != answers.index.digest:
            answers.doubt()

    def close(self) -> None:
        """End the thread, within the pace's interval. Nothing is current any more."""
        self._closed = True
        self._closing.set()
        self.gone = False
        self.answers.replace()

    def forked(self) -> None:
        """Note that this is the child of a fork, in which the thread does not run. The index stays,
        and counts as current again when the agent has confirmed it."""
        self.answers.forked()
        subscription, self._subscription = self._subscription, None
        self.gone = False
        self._prepare()
        if subscription is not None:
            subscription.close()

    # The thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        self._pause = FIRST_PAUSE
        while not self._closed:
            try:
                with Client(self._path, self._timeout, restart=0) as agent:
                    self._subscription = agent.subscribe(heartbeat=self._pace.heartbeat)
                    self.error = None
                    self._follow(agent, self._subscription)
            except AgentError as error:
                self.error = error
            finally:
                self._disconnect()
            self._closing.wait(self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _disconnect(self) -> None:
        self._ready.clear()
        self.answers.doubt()
        if self._closed:
            # It may have been loaded after `close`.
            self.answers.replace()
        self.gone = not self._closed
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close()

    def _follow(self, agent: Client, subscription: Subscription) -> None:
        """Keep the index current. Raises AgentError when the connection is lost."""
        loaded: Answers | None = None
        wait = 0.0
        while not self._closed:
            if _differs(self.answers, subscription, loaded):
                self._ready.clear()
                self.answers.replace()
            try:
                subscription.next(wait)
                wait = 0.0
                continue
            except TimedOut:
                wait = self._pace.interval
            # Everything that has come is read.
            self._heard = subscription.heard
            self.gone = not self.alive
            if _is_served(self.answers, subscription):
                self._confirm(self.answers, self._heard)
            elif self.answers.replaced:
                loaded = self._load(agent)
            if self.wants_code and self.answers.coded is None:
                self._add_code(agent, self.answers)

    def _confirm(self, answers: Answers, when: float) -> None:
        """Let the answers of an index that was served at `when` be given for a while."""
        if answers.confirm(when, self._pace.max_silence):
            self._pause = FIRST_PAUSE
            self._ready.set()

    def _load(self, agent: Client) -> Answers:
        with self._lock:
            self._latest = 0
        asked = time.monotonic()
        result = agent.list()
        with self._readable():
            index = listed.index(result, self.answers.index)
        answers = Answers(index, asked)
        if self.wants_code:
            self._add_code(agent, answers)
        with self._lock:
            self.answers = answers
            if self._latest > index.generation:
                # A caller has an answer of a later one.
                answers.replace()
        self._confirm(answers, asked)
        return answers

    def _add_code(self, agent: Client, answers: Answers) -> None:
        """Add the code of the callbacks, if all of it is still served."""
        wanted = {c.implementation.digest for c in answers.index.callbacks()}
        code = {digest: self._code[digest] for digest in wanted & self._code.keys()}
        unknown = sorted(wanted - code.keys())
        for start in range(0, len(unknown), client._MAX_DIGESTS):
            found = agent.code(unknown[start : start + client._MAX_DIGESTS])
            with self._readable():
                made = map(_implementation, found["code"].values())
                code |= {implementation.digest: implementation for implementation in made}
        self._code = code
        with contextlib.suppress(KeyError):
            answers.coded = listed.with_code(answers.index, code)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """What is read here came from something that may not be an agent."""
        try:
            yield
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            why = f"its answer has another form: {error!r}"
            raise client._not_an_agent(self._path, why) from error


def _implementation(content: Mapping[str, Any]) -> Implementation:
    text = content.get("text")
    return Implementation.of(base64.b64decode(content["base64"]) if text is None else text.encode())


def _is_served(answers: Answers, subscription: Subscription) -> bool:
    """Whether this is the index that the agent says it serves."""
    said = subscription.generation, subscription.digest, frozenset(subscription.held)
    return not answers.replaced and answers.served == said


def _differs(answers: Answers, subscription: Subscription, loaded: Answers | None) -> bool:
    """Whether the agent says that it serves another index. One that was loaded on this connection
    may be newer than what the agent has said so far."""
    if answers is loaded and answers.index.generation > subscription.generation:
        return False
    return not _is_served(answers, subscription)


#: Those of this process, for `_forked`.
_followers: weakref.WeakSet[Follower] = weakref.WeakSet()


def _forked() -> None:
    for follower in list(_followers):
        follower.forked()


os.register_at_fork(after_in_child=_forked)
