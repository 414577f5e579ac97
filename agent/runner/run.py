"""Runs the callbacks of an answer, and says what became of each."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from agent.core import languages
from agent.core.event import Event, EventError
from agent.runner import farm as farms
from agent.runner.arguments import check_arguments, code_of
from agent.runner.farm import BadCall, Farm, Target
from agent.runner.output import Output
from agent.runner.process import Ended, greeting, run_process

#: Seconds that a callback may run. Callbacks are short: in a supervisor they hold up everything.
DEFAULT_TIME_LIMIT = 60.0

Outcome = Literal["succeeded", "failed", "killed", "timed-out", "not-enabled", "not-run"]

#: By language, or by the path of a callback: the interpreter, as a path, a name or a whole command.
Interpreters = Mapping[str, str | Sequence[str]]

#: What runs callbacks, if the caller does not say.
DEFAULT_INTERPRETERS: Interpreters = {"python": sys.executable, "perl": "perl"}

#: Before the program, on the command line. Python: output at once, nothing from a user's folder.
_OPTIONS = {"python": ("-u", "-s", "-c"), "perl": ("-e",)}
_PROGRAMS = {
    language: resources.files(__package__).joinpath(file).read_text(encoding="utf-8")
    for language, file in (("python", "python_child.py"), ("perl", "perl_child.pl"))
}
#: Variables that a callback gets from the runner's own environment.
_PASSED_ON = ("QBDIR", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one callback."""

    path: str
    trigger: str
    outcome: Outcome
    #: The exit status, if it failed by one.
    status: int | None = None
    #: The number of the signal, if one killed it.
    signal: int | None = None
    #: What a person should know of the outcome, one line; mostly empty.
    reason: str = ""
    seconds: float = 0.0
    #: The last part of what it printed, 4 KiB at most.
    output: str = ""
    #: How many bytes it printed.
    output_bytes: int = 0
    #: The file that has the output, if a folder was given and could be written.
    log: str | None = None

    def __str__(self) -> str:
        said: str = self.outcome
        if self.status is not None:
            said += f" with status {self.status}"
        if self.signal is not None:
            said += f" by {_signal_name(self.signal)}"
        if self.outcome not in ("not-enabled", "not-run"):
            said += f" after {self.seconds:.2f} s"
        return said + (f": {self.reason}" if self.reason else "")


def run(
    answer: Mapping[str, Any],
    farm: Farm,
    *,
    job: int,
    event: str | Mapping[str, Any] | None = None,
    interpreters: Interpreters | None = None,
    at_once: int = 1,
    time_limit: float = DEFAULT_TIME_LIMIT,
    folder: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[Result]:
    """Run what fires: the callbacks of an answer of `lookup(code=True)`, in its order.

    `job` is the id of the job that the callbacks belong to (the owner), `event` what was asked for:
    .qcb code for a work item or an instance needs it. `interpreters` adds to DEFAULT_INTERPRETERS.
    `at_once` callbacks run at a time, each for `time_limit` seconds at most. `folder` gets a `.cb`
    file for each. `environment` is the whole environment, clean_environment() by default.

    Returns one result for each callback, in the answer's order. A callback that fails, or cannot be
    run, is a result and never an exception. Raises TypeError or ValueError, before any of them
    runs, if it cannot use an argument: `time_limit` is above 0 and at most MAX_TIME_LIMIT,
    `at_once` 1 or more, and commands and variables are what the system takes.
    """
    check_arguments(answer, job, event, interpreters, at_once, time_limit, folder, environment)
    if environment is None:
        environment = clean_environment()
    one = _Runner(farm, job, event, interpreters or {}, time_limit, folder, environment)
    callbacks = answer["callbacks"]
    if at_once == 1:
        return [one.run(callback) for callback in callbacks]
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(one.run, callbacks))


def clean_environment() -> dict[str, str]:
    """The environment of a callback: nothing of the caller's but QBDIR, TZ and the loader's."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    found = {"PATH": _PATH, "HOME": "/", "LANG": "C.UTF-8", "PYTHONIOENCODING": "utf-8", **kept}
    try:
        user = pwd.getpwuid(os.geteuid())
    except KeyError:
        return found
    return {**found, "HOME": user.pw_dir, "LOGNAME": user.pw_name, "USER": user.pw_name}


def interpreter(callback: Mapping[str, Any], interpreters: Interpreters) -> list[str]:
    """The command that runs a callback; empty for Qube code, which needs none."""
    known = {**DEFAULT_INTERPRETERS, **interpreters}
    command = known.get(callback["path"], known.get(callback["language"], ()))
    return [command] if isinstance(command, str) else list(command)


def obstacle(
    callback: Mapping[str, Any],
    *,
    job: int,
    event: str | Mapping[str, Any] | None = None,
    interpreters: Interpreters | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Why `run` with these arguments would not run an enabled callback of an answer, as far as is
    known before it is tried; empty if it would. Raises what `run` raises for the callback's code.
    """
    code = code_of(callback)
    if code is None:
        return "the answer has no code: ask with code=True"
    language = callback["language"]
    if language == "qube":
        text = languages.code_string(code)
        if text not in languages.CODES:
            return f"{text[:60]!r} is not one of Qube's code strings"
        try:
            farms.code_target(text, job, _target(job, event))
        except BadCall as error:
            return str(error)
        return ""
    command = interpreter(callback, interpreters or {})
    if not command or language not in _PROGRAMS:
        return f"no interpreter for {language}"
    # Where it is looked for when it is started: by this PATH, in the directory /.
    folders = os.get_exec_path(clean_environment() if environment is None else environment)
    path = os.pathsep.join(os.path.join("/", folder) for folder in folders)
    if not shutil.which(command[0], path=path):
        return f"the interpreter {command[0]} does not exist or cannot be run"
    return ""


def _target(job: int, event: str | Mapping[str, Any] | None) -> Target | None:
    """The work item or instance of the callbacks' job that the event is about, if it is."""
    if isinstance(event, str):
        try:
            read = Event.from_text(event)
        except EventError:
            return None
        own = not read.contexts.isdisjoint(("self", str(job)))
        kind, name = read.type, read.extra
    elif event is not None:
        own = event["job"].get("id") in (None, job)
        kind, name = event["type"], event.get("extra")
    else:
        return None
    return Target(job, kind, name) if own and name else None


class _Runner:
    """What all callbacks of one call share."""

    def __init__(
        self,
        farm: Farm,
        job: int,
        event: str | Mapping[str, Any] | None,
        interpreters: Interpreters,
        time_limit: float,
        folder: str | os.PathLike[str] | None,
        environment: Mapping[str, str],
    ) -> None:
        self._farm, self._job, self._event = farm, job, event
        self._interpreters = interpreters
        self._time_limit = time_limit
        self._folder = folder
        self._environment = environment
        self._one_at_a_time = threading.Lock()

    def run(self, callback: Mapping[str, Any]) -> Result:
        """Run one callback. Does not raise."""
        began = time.monotonic()
        output = Output(None, "")
        facts: dict[str, Any]
        if not callback["enabled"]:
            facts = {"outcome": "not-enabled", "reason": "supervisor_language_flags forbids it"}
        elif why := self._obstacle(callback):
            facts = _not_run(why)
        elif callback["language"] == "qube":
            facts = self._qube(callback)
        else:
            output = Output(self._folder, f"{self._job}-{callback['file']}-")
            facts = self._process(callback, output)
            output.close()
        facts["reason"] = "; ".join(filter(None, [facts.get("reason", ""), output.error]))
        return Result(
            callback["path"],
            callback["trigger"],
            seconds=time.monotonic() - began,
            output=output.tail,
            output_bytes=output.size,
            log=output.path,
            **facts,
        )

    def _obstacle(self, callback: Mapping[str, Any]) -> str:
        return obstacle(
            callback,
            job=self._job,
            event=self._event,
            interpreters=self._interpreters,
            environment=self._environment,
        )

    def _qube(self, callback: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a code string says."""
        text = languages.code_string(code_of(callback) or b"")
        target = farms.code_target(text, self._job, _target(self._job, self._event))
        try:
            with self._one_at_a_time:
                farms.call_code_string(self._farm, text, target)
        except Exception as error:
            return {"outcome": "failed", "reason": f"{text}: {_told(error)}"}
        return {"outcome": "succeeded"}

    def _process(self, callback: Mapping[str, Any], output: Output) -> dict[str, Any]:
        """Run Python or Perl."""
        command = interpreter(callback, self._interpreters)
        language, code = callback["language"], code_of(callback) or b""
        try:
            ended = run_process(
                [*command, *_OPTIONS[language], _PROGRAMS[language]],
                greeting(callback["path"], code, self._job, farms.FUNCTIONS),
                self._answer,
                output,
                self._time_limit,
                self._environment,
            )
        except OSError as error:
            return _not_run(f"{command[0]} cannot be started: {error.strerror}")
        return _facts(ended, command[0], self._time_limit)

    def _answer(self, request: bytes) -> bytes:
        """The answer to what a callback asks of the farm, as JSON."""
        try:
            asked = json.loads(request)
            function, args, named = asked["function"], asked["args"], asked["named"]
            with self._one_at_a_time:
                result = farms.call(self._farm, function, args, named)
            return json.dumps({"result": result}).encode()
        except BadCall as error:
            return json.dumps({"error": str(error)}).encode()
        except Exception as error:
            return json.dumps({"error": _told(error)}).encode()


def _facts(ended: Ended, command: str, time_limit: float) -> dict[str, Any]:
    """What the end of a process means for its callback."""
    if ended.timed_out:
        reason = f"killed after {time_limit:g} s"
        if not ended.gone:
            reason = f"at the limit of {time_limit:g} s it could not be killed: it may still run"
        return {"outcome": "timed-out", "reason": reason}
    if not ended.begun:
        return _not_run(f"{command} ended ({_exit(ended.parent)}) before the callback began")
    if ended.status is None:
        # It was killed with its group.
        reason = (
            "the process that started it was ended; if the callback left its process group, it"
            " still runs"
        )
        return {"outcome": "killed", "signal": int(signal.SIGKILL), "reason": reason}
    if ended.status < 0:
        return {"outcome": "killed", "signal": -ended.status}
    if ended.status:
        return {"outcome": "failed", "status": ended.status}
    return {"outcome": "succeeded"}


def _not_run(reason: str) -> dict[str, Any]:
    return {"outcome": "not-run", "reason": reason}


def _told(error: Exception) -> str:
    """An exception as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _exit(status: int) -> str:
    return f"status {status}" if status >= 0 else _signal_name(-status)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
