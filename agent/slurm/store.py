"""What the daemon keeps on disk: one SQLite database, so that each step is whole or not at all.

In one transaction an event is marked as handled, and what follows from it is kept: the states of
jobs, what is pending, and the callbacks that it fires. Only then is its file removed from the
spool. A callback is marked before it starts and dropped when it has ended. So whatever ends the
daemon, no event is lost and none is handled twice; a callback that was running then is run again,
as a repeat.

The class has methods to read and to write each thing that is kept, so more than 15.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from agent.slurm.known import Job, Known, Task

#: Raised when the format of the database changes. Other versions are refused.
FORMAT_VERSION = 1
#: The most names of handled events that are kept: more than a spool can hold that was not emptied
#: when the machine lost its power.
MAX_HANDLED = 200_000
#: Seconds that a transaction waits for another program that has the database open.
_BUSY_SECONDS = 10.0

_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (
    job INTEGER NOT NULL, name TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (job, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pending (
    owner INTEGER NOT NULL, path TEXT NOT NULL, trigger TEXT NOT NULL, missing TEXT NOT NULL,
    PRIMARY KEY (owner, path, trigger)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS handled (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, begun INTEGER NOT NULL DEFAULT 0, data BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""

#: By owner, by path and trigger: what is still missing.
Pending = dict[int, dict[tuple[str, str], str]]

_encode = msgspec.msgpack.Encoder().encode
_job = msgspec.msgpack.Decoder(Job).decode
_task = msgspec.msgpack.Decoder(Task).decode
_any = msgspec.msgpack.Decoder().decode


class StoreError(Exception):
    """The database cannot be read or written: what failed."""


@dataclass(frozen=True, slots=True)
class Run:
    """A callback that is to run, once."""

    number: int
    #: The event's name in the spool; what found it, where it has no file.
    source: str
    #: When the event happened, in seconds since 1970.
    at: float
    #: The job that the callback belongs to.
    owner: int
    #: The event as the agent was asked.
    event: Mapping[str, Any]
    #: The callback as the agent answered, with its code.
    callback: Mapping[str, Any]
    #: It was begun before, and it is not known what became of it.
    repeat: bool = False


class Store:
    """The database. Every method raises StoreError."""

    def __init__(self, path: str) -> None:
        with _errors(path):
            self._path = path
            # It has the code of callbacks, and what is made beside it gets the same mode.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version not in (0, FORMAT_VERSION):
                raise StoreError(
                    f"the format of {path} is {version}, and {FORMAT_VERSION} is expected: another"
                    " version of callback-agent wrote it; use that version, or move the file away"
                )
            self._db.executescript(_TABLES)
            self._db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")

    def close(self) -> None:
        """Close it."""
        with _errors(self._path):
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep all that is written inside, or, if anything is raised, nothing."""
        with _errors(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def part(self) -> Iterator[None]:
        """The same for a part of a transaction."""
        with _errors(self._path):
            self._db.execute("SAVEPOINT part")
            try:
                yield
                self._db.execute("RELEASE part")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK TO part")
                    self._db.execute("RELEASE part")
                raise

    # Jobs, and what is pending ------------------------------------------------------------------

    def known(self) -> Known:
        """All jobs."""
        with _errors(self._path):
            jobs = [_job(data) for (data,) in self._db.execute("SELECT data FROM jobs")]
            rows = self._db.execute("SELECT job, name, data FROM tasks").fetchall()
        return Known(jobs, ((job, name, _task(data)) for job, name, data in rows))

    def save(self, known: Known) -> None:
        """Write what changed of the jobs."""
        for number in known.forgotten:
            for table, column in (("jobs", "id"), ("tasks", "job"), ("pending", "owner")):
                self._db.execute(f"DELETE FROM {table} WHERE {column} = ?", (number,))  # noqa: S608
        for number, name in known.changed:
            job = known.jobs.get(number)
            if job is None:
                continue
            if name is None:
                self._db.execute("REPLACE INTO jobs VALUES (?, ?)", (number, _encode(job)))
                continue
            task = known.tasks[number].get(name)
            if task is not None:
                values = (number, name, _encode(task))
                self._db.execute("REPLACE INTO tasks VALUES (?, ?, ?)", values)
        known.changed.clear()
        known.forgotten.clear()

    def pending(self) -> Pending:
        """What is pending for each job."""
        found: Pending = {}
        with _errors(self._path):
            rows = self._db.execute("SELECT owner, path, trigger, missing FROM pending")
            for owner, path, trigger, missing in rows:
                found.setdefault(owner, {})[path, trigger] = missing
        return found

    def set_pending(self, owner: int, path: str, trigger: str, missing: str | None) -> None:
        """Keep what is missing; None: the callback fired, and begins again."""
        if missing is None:
            where = "DELETE FROM pending WHERE owner = ? AND path = ? AND trigger = ?"
            self._db.execute(where, (owner, path, trigger))
        else:
            values = (owner, path, trigger, missing)
            self._db.execute("REPLACE INTO pending VALUES (?, ?, ?, ?)", values)

    # Events -------------------------------------------------------------------------------------

    def is_handled(self, name: str) -> bool:
        """Whether the event of this name was handled."""
        with _errors(self._path):
            found = self._db.execute("SELECT 1 FROM handled WHERE name = ?", (name,))
            return found.fetchone() is not None

    def handled(self, name: str) -> None:
        """Mark the event of this name as handled. In a transaction."""
        self._db.execute("INSERT INTO handled (name) VALUES (?)", (name,))

    def forget_handled(self) -> None:
        """Forget the oldest marks beyond MAX_HANDLED."""
        oldest = "SELECT max(number) - ? FROM handled"
        with _errors(self._path):
            self._db.execute(f"DELETE FROM handled WHERE number <= ({oldest})", (MAX_HANDLED,))  # noqa: S608

    # Callbacks ----------------------------------------------------------------------------------

    def add_run(
        self,
        source: str,
        at: float,
        owner: int,
        event: Mapping[str, Any],
        callback: Mapping[str, Any],
    ) -> Run:
        """Keep a callback that is to run."""
        data = _encode((source, at, owner, event, callback))
        cursor = self._db.execute("INSERT INTO runs (data) VALUES (?)", (data,))
        return Run(cursor.lastrowid or 0, source, at, owner, event, callback)

    def runs(self) -> Iterable[Run]:
        """The callbacks that wait or were begun, in order."""
        with _errors(self._path):
            rows = self._db.execute("SELECT number, data, begun FROM runs ORDER BY number")
            return [Run(*(number, *_any(data), bool(begun))) for number, data, begun in rows]

    def begin_run(self, number: int) -> None:
        """Mark a callback before it starts."""
        with _errors(self._path):
            self._db.execute("UPDATE runs SET begun = 1 WHERE number = ?", (number,))

    def end_run(self, number: int) -> None:
        """Drop a callback that has ended."""
        with _errors(self._path):
            self._db.execute("DELETE FROM runs WHERE number = ?", (number,))

    # Counters -----------------------------------------------------------------------------------

    def count(self, name: str, more: int = 1) -> None:
        """Count something."""
        with _errors(self._path):
            self._db.execute(
                "INSERT INTO counters VALUES (?, ?)"
                " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                (name, more),
            )

    def counters(self) -> dict[str, int]:
        """All that was counted since the database was made."""
        with _errors(self._path):
            return dict(self._db.execute("SELECT name, value FROM counters"))


@contextmanager
def _errors(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from error
    except msgspec.MsgspecError as error:
        raise StoreError(f"{path} is damaged: {error}; move it away") from error
