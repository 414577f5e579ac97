"""What an agent serves, as far as this user may know it: what `check` and `diff` compare with.

A running agent says which directories it serves, and with which settings it judges them. What it
accepted of them is in its state directory. Where that cannot be read, the agent's own answers say
nearly as much. Where no agent runs, the state directory says what it will serve when it starts.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shlex
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agent import client
from agent.check import Subject
from agent.cli.rendering import JsonObject
from agent.core.index import ServedDirectory
from agent.core.quoting import printable
from agent.core.unit import Unit
from agent.reload import accepted
from agent.reload.stored import DAMAGE, StoredUnit
from agent.settings import TABLE, Given, Settings, group_id
from agent.settings.host import Host, default_state
from agent.settings.path_list import DEFAULT

#: Seconds that an answer with the code of all callbacks may take.
_CODE_TIMEOUT = 60.0
#: How often the state directory is read until it agrees with what the agent serves: it may store
#: something meanwhile.
_READS = 3

#: Seconds in which the file systems of the directories that are served must answer, where another
#: path is compared with them. A server that is down does not.
_SAME_TIMEOUT = 3.0

#: How a directory is judged that no agent serves, as far as is known.
AS_NEW = "as new"


@dataclass(slots=True)
class Serving:
    """The agent that is asked; without an answer, what it stored."""

    #: The settings of this command, and what its flags and variables gave.
    settings: Settings
    given: Mapping[str, Given]
    pipe: str = ""
    #: What the agent answers to `status`; None if none answers.
    status: JsonObject | None = None
    #: Why the agent at a pipe could not be asked, though there seems to be one.
    trouble: str = ""
    #: What a person must know of what is judged, and how.
    notes: list[str] = field(default_factory=list)
    _listed: Sequence[Mapping[str, Any]] | None = field(default=None, repr=False)

    @classmethod
    def find(cls, settings: Settings, given: Mapping[str, Given]) -> Serving:
        """Ask the agent of the pipe that is given, else of the default pipes."""
        found = cls(settings, given)
        for pipe in [settings.pipe] if "pipe" in given else client.default_paths():
            try:
                # restart=0: usually no agent runs here, so do not wait for one to restart.
                with client.Client(pipe, restart=0) as agent:
                    found.pipe, found.status = pipe, agent.status()
                # Raises if the answer has another form.
                _ = found.directories, found._agents_settings
                return found
            except client.NoAgent as error:
                if os.path.exists(pipe) and not os.access(pipe, os.W_OK):
                    found.trouble = str(error)
            except (client.AgentError, LookupError, TypeError, AttributeError) as error:
                found.trouble = f"{pipe}: {error}"
            found.pipe, found.status = "", None
        return found

    # What the agent says ------------------------------------------------------------------------

    @property
    def directories(self) -> dict[str, JsonObject]:
        """By path, what `status` says of each directory that is served."""
        return {d["path"]: d for d in self.status["directories"]} if self.status else {}

    def listed(self) -> Sequence[str]:
        """The directories that are meant where none is named: those of the settings. Where the
        settings name none, those of the agent, rather than a default that it does not use. If the
        agent serves others than these, `notes` says so."""
        own, source = self.settings.directories, self.settings.sources["directories"]
        served = list(self.directories)
        if not served or {*served} == {*own} or source == TABLE["directories"].flag:
            return own
        if source == DEFAULT:
            self.notes.append(
                f"no setting names directories, so those of the agent at {self.pipe} are checked"
            )
            return served
        more = f", and {len(served) - 1} more" if len(served) > 1 else ""
        self.notes.append(
            f"{source} names other directories than the agent at {self.pipe} serves; to check"
            f" those: callback-agent check {shlex.quote(served[0])}{more}"
        )
        return own

    @property
    def _agents_settings(self) -> dict[str, Any]:
        return {k: s["value"] for k, s in self.status["settings"].items()} if self.status else {}

    def languages(self) -> frozenset[str]:
        """The language flags with which the agent serves; without one, those of this command."""
        return frozenset(self._agents_settings.get("languages", self.settings.languages))

    def callbacks(self, directory: str) -> list[Mapping[str, Any]]:
        """What `list` says of a directory, with code. Raises client.AgentError."""
        if self._listed is None:
            with client.Client(self.pipe, _CODE_TIMEOUT) as agent:
                self._listed = agent.list(code=True)["callbacks"]
        return [c for c in self._listed if c["directory"] == directory]

    # How a directory is judged ------------------------------------------------------------------

    def new_subject(self, directory: str) -> Subject:
        """A directory to be judged as at the first reading.

        If the agent serves it, it is judged with the agent's settings, unless flags or variables of
        this command say otherwise. Raises SettingsError.
        """
        values: dict[str, Any] = {}
        languages, uid = self.settings.languages, None
        if directory in self.directories:
            values = self._agents_settings
            if "qb_conf" not in self.given:
                languages = self.languages()
            with contextlib.suppress(OSError):
                uid = os.stat(self.pipe).st_uid
        mode, _ = self._value("unsafe_permissions", values)
        group = group_id(*self._value("trusted_group", values))
        return Subject(directory, languages, mode, group, uid)

    def _value(self, name: str, agents: Mapping[str, Any]) -> tuple[str, str]:
        """A setting's value, and its source."""
        if name in agents and name not in self.given:
            return str(agents[name]), f"the agent's {name}"
        return str(getattr(self.settings, name)), self.settings.sources[name]

    def subject(self, directory: str) -> tuple[Subject, str]:
        """A directory to be judged as an edit of what is accepted of it, and a phrase that says as
        what it is judged.

        If it is served under another path, that path is judged: what is wrong may depend on the
        directories above it. Raises SettingsError.
        """
        served, why = self.served_as(directory)
        subject = self.new_subject(served or directory)
        unit, how = self._accepted(subject)
        if how == AS_NEW:
            if why:
                how = f"{AS_NEW}, because what is served cannot be read ({why})"
        elif subject.path != directory:
            how = f"{how} (as {subject.path})"
        return replace(subject, accepted=unit), how

    def served_as(self, directory: str) -> tuple[str | None, str]:
        """The path by which a directory is served, or was by an agent that stopped: itself, or
        another path of the same directory; None if it is not. And why that is not known, if it is
        not."""
        why = ""
        paths = list(self.directories)
        if self.status is None:
            trust = self.new_subject(directory).trust
            for state, pipe in self._places():
                try:
                    paths += accepted.stored_directories(state, pipe, trust)
                except (OSError, *DAMAGE) as error:
                    why = why or _why(state, error)
        if directory in paths:
            return directory, ""
        try:
            found = _same_directory(directory, paths)
        except TimeoutError:
            why = f"a directory that is served does not answer within {_SAME_TIMEOUT:g} s"
            return None, why
        return found, "" if found else why

    def _accepted(self, subject: Subject) -> tuple[StoredUnit | None, str]:
        directory = subject.path
        if self.status is None:
            return self._stored_of_stopped_agent(subject)
        if directory not in self.directories:
            return None, AS_NEW
        found, why = self.stored(subject)
        serves = f"as an edit of what the agent at {self.pipe} serves"
        if found is not None:
            return found, serves
        if self.directories[directory]["callbacks"] == 0 and not why:
            # Nothing was ever accepted of it.
            return None, AS_NEW
        try:
            unit = accepted.listed_unit(self.callbacks(directory))
        except (client.AgentError, LookupError, TypeError, ValueError) as error:
            return None, f"{AS_NEW}, because what is served cannot be read ({why}; {error})"
        if unit is None:
            return None, f"{serves}, which is nothing"
        note = f"what the agent stored cannot be read ({why}): files that were removed earlier"
        note += " are reported as missing-file"
        self.notes += [note] if note not in self.notes else []
        return StoredUnit(unit, None), f"{serves}, as it answers"

    def stored(self, subject: Subject) -> tuple[StoredUnit | None, str]:
        """What the running agent stored of a directory that it serves; else None, and why it
        cannot be read."""
        state = str(self._agents_settings.get("state", self.settings.state))
        pipe = str(self._agents_settings.get("pipe", self.pipe))
        directory, why = subject.path, ""
        for _ in range(_READS):
            try:
                found = accepted.stored_unit(state, pipe, directory, subject.trust)
            except (OSError, *DAMAGE) as error:
                why = _why(state, error)
                continue
            if found is None:
                serves_nothing = not self.directories[directory]["digest"]
                return None, "" if serves_nothing else f"{state} has nothing of it"
            if self._is_served(directory, found.unit):
                return found, ""
            why = f"{state} has another version than the agent serves"
        return None, why

    def _is_served(self, directory: str, unit: Unit) -> bool:
        """Whether this unit is what the agent serves."""
        served = ServedDirectory.of(directory, unit, self.languages())
        return bool(served.digest == self.directories[directory]["digest"])

    def _stored_of_stopped_agent(self, subject: Subject) -> tuple[StoredUnit | None, str]:
        why = [self.trouble] if self.trouble else []
        for state, pipe in self._places():
            try:
                found = accepted.stored_unit(state, pipe, subject.path, subject.trust)
            except (OSError, *DAMAGE) as error:
                why.append(_why(state, error))
                continue
            if found is not None:
                ends = f"; {why[0]}" if why else "; no agent answers"
                return found, f"as an edit of what {state} has stored of it{ends}"
        if why:
            return None, f"{AS_NEW}, because what is served cannot be read ({'; '.join(why)})"
        return None, AS_NEW

    def _places(self) -> Iterator[tuple[str, str]]:
        """State directory and pipe of the agents that may have run."""
        yield self.settings.state, self.settings.pipe
        if "pipe" in self.given:
            return
        # Root's, whose state directory has another default.
        root = default_state({}, Host("", 0, "/", None))
        state = self.settings.state if "state" in self.given else root
        if (state, client.ROOT_PIPE) != (self.settings.state, self.settings.pipe):
            yield state, client.ROOT_PIPE


def _same_directory(directory: str, paths: Iterable[str]) -> str | None:
    """The first of some paths that leads to the same directory as `directory`; None if none does.

    Raises TimeoutError if a file system does not answer.
    """
    answer: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def work() -> None:
        answer.put(next((path for path in paths if _is_same(path, directory)), None))

    # A call to a file system that does not answer cannot be ended.
    threading.Thread(target=work, name="compares directories", daemon=True).start()
    try:
        return answer.get(timeout=_SAME_TIMEOUT)
    except queue.Empty:
        raise TimeoutError from None


def _is_same(path: str, directory: str) -> bool:
    try:
        return os.path.samefile(path, directory)
    except OSError:
        return False


def judged_lines(judged: Mapping[str, str], tally: str) -> Iterator[str]:
    """The last lines of a report: the tally, and how each directory was judged where that is not
    as new. `judged` says it by directory."""
    ways: dict[str, list[str]] = {}
    for directory, how in judged.items():
        ways.setdefault(how, []).append(directory)
    if len(ways) == 1:
        (how,) = ways
        yield tally if how == AS_NEW else f"{tally}; judged {printable(how)}"
        return
    yield tally
    for how, directories in ways.items():
        yield printable(f"judged {how}: {', '.join(directories)}")


def _why(state: str, error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return f"{state}: {text or type(error).__name__}"
