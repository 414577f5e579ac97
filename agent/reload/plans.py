"""Parses callbacks.conf files, each content once.

A small file is parsed at once. A large one may take seconds, so it is parsed in a thread of its
own: a reading waits a short time for it, then goes on without the plan, and is repeated when the
plan is ready. So edits of other directories do not wait, and a plan is kept even if the reading
that asked for it was given up.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass

from agent.core import planning
from agent.core.unit import Plan

#: The most bytes that are parsed at once, which takes about 10 ms.
MAX_INLINE = 64 << 10
#: Seconds that a reading waits for the parser. Edits of other directories wait as long.
WAIT = 0.25


@dataclass(slots=True)
class _Parse:
    """One content to parse, and the result."""

    directory: str
    digest: bytes
    data: bytes
    path: str
    before: Plan | None
    done: threading.Event
    result: Plan | Exception | None = None


class Plans:
    """The plans of large callbacks.conf files: the newest of each directory. `parsed` is called in
    the parser's thread, with a directory whose plan is ready. Safe between threads."""

    def __init__(self, parsed: Callable[[str], None], wait: float = WAIT) -> None:
        self._parsed = parsed
        self._wait = wait
        self._lock = threading.Lock()
        self._newest: dict[str, _Parse] = {}
        self._running = False

    def plan(self, directory: str, path: str, data: bytes, before: Plan | None) -> Plan | None:
        """What a callbacks.conf says; None while it is being parsed. `before` is an older plan of
        it, whose triggers are not parsed again. Blocks for at most `wait` seconds; raises what the
        parser raised."""
        if len(data) <= MAX_INLINE:
            return planning.plan(data, path, before)
        digest = hashlib.sha256(data).digest()
        with self._lock:
            parse = self._newest.get(directory)
            new = parse is None or parse.digest != digest
            if parse is None or new:
                parse = _Parse(directory, digest, data, path, before, threading.Event())
                self._start()
                self._newest[directory] = parse
        if new:
            parse.done.wait(self._wait)
        if not parse.done.is_set():
            return None
        if isinstance(parse.result, Exception):
            with self._lock:
                if self._newest.get(directory) is parse:
                    del self._newest[directory]
            try:
                raise parse.result
            finally:
                # The traceback has the variables of here, which must not have the error.
                del parse
        return parse.result

    def forget(self, directories: Collection[str]) -> None:
        """Forget these directories, which are not listed any more."""
        with self._lock:
            self._newest = {d: p for d, p in self._newest.items() if d not in directories}

    def _start(self) -> None:
        """Start the thread, unless it runs. The lock must be held. Raises RuntimeError."""
        if not self._running:
            threading.Thread(target=self._work, name="parses", daemon=True).start()
            self._running = True

    def _work(self) -> None:
        while True:
            with self._lock:
                todo = [p for p in self._newest.values() if not p.done.is_set()]
                if not todo:
                    self._running = False
                    return
            parse = todo[0]
            try:
                parse.result = planning.plan(parse.data, parse.path, parse.before)
            except (
                Exception
            ) as error:  # MemoryError, or a defect. It concerns this directory alone.
                # Without its traceback, which has the variables of here.
                parse.result = error.with_traceback(None)
            parse.data, parse.before = b"", None
            parse.done.set()
            self._parsed(parse.directory)
