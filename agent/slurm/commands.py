"""Slurm's own programs, called with a time limit: squeue, scontrol and scancel.

Users choose the names and comments of their jobs, and may put anything in them, also what looks
like the next field or the next job. So the fields of squeue are separated by a text that is random
for each call. It is handed over in the environment, where other users cannot read it.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from agent.slurm.mapping import AGAIN

#: Seconds that one call may take. Slurm's programs themselves give up after some MessageTimeout
#: (10 s by default).
TIME_LIMIT = 30.0
#: What squeue prints where there is no value.
_NONE = ("", "N/A", "NONE", "(null)")

#: Why a job is held, by a user, an administrator, or Slurm itself, which after a failed launch says
#: `launch failed requeued held`, in later versions with `_`.
_HELD = re.compile(r"^JobHeld|^JobHoldMaxRequeue$|requeued.(in.)?held")

#: What Slurm's programs take from the environment: it must not change what they print.
_TAKEN = re.compile(r"(SQUEUE|SCANCEL|SCONTROL|SLURM)_(?!CONF$|CONF_SERVER$|JWT$)")


class SlurmError(Exception):
    """Slurm refused something, or did not answer: what was asked, and what was said."""


class NotThere(SlurmError):
    """slurmctld does not answer. The same call may succeed later."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of squeue: a job, an array task, or those tasks of an array that have not started.

    Texts are empty where Slurm has no value. Times are seconds since 1970, 0 where Slurm has none.
    """

    #: Its own id: each array task that has started has one.
    id: int
    #: The id of the array; its own where it is not of one.
    array: int
    #: The number of the array task, or those that have not started: `3-7,9%2`.
    task: str
    #: As in `squeue -o %T`: PENDING, RUNNING, COMPLETING, SUSPENDED, FAILED ...
    state: str
    #: Why it does not run: Dependency, JobHeldUser, Resources ...
    reason: str
    #: Such as `afterok:12(unfulfilled),afterany:13_*(unfulfilled)`.
    dependency: str
    user: str
    uid: int
    partition: str
    nodes: str
    priority: int
    submitted: int
    started: int
    ended: int
    directory: str
    command: str
    name: str
    comment: str

    @property
    def waits(self) -> bool:
        """Whether it waits, for the first time or to run again."""
        return self.state in AGAIN

    @property
    def is_held(self) -> bool:
        """Whether all of it is held. Tasks that wait have one line, with the reasons of all."""
        return all(_HELD.search(reason) for reason in self.reason.split(","))


#: By field of Row: the letter of `squeue -o`.
_LETTERS = dict(
    zip(
        (field.name for field in fields(Row)),
        "AFKTrEuUPNQVSeZojk",
        strict=True,
    )
)


class Slurm:
    """The Slurm that a slurm.conf describes; the one that its programs find, without one.

    `time_limit` is that of one call, in seconds.
    """

    def __init__(self, conf: str | None = None, time_limit: float = TIME_LIMIT) -> None:
        self._time_limit = time_limit
        kept = {name: value for name, value in os.environ.items() if not _TAKEN.match(name)}
        self._environ = {**kept, "LC_ALL": "C.UTF-8", **({"SLURM_CONF": conf} if conf else {})}

    def rows(self, ids: Sequence[int] = (), *, ended: bool = False) -> list[Row]:
        """The jobs and tasks that are not at their end yet, of these ids only if there are any.

        The id of an array is for all of it. With `ended` also those that Slurm still remembers:
        it forgets them MinJobAge seconds after their end. Raises SlurmError.
        """
        options = ["--noheader", *(["--states=all"] if ended else [])]
        if ids:
            options.append(f"--jobs={','.join(map(str, ids))}")
        between, end = secrets.token_hex(16), secrets.token_hex(16)
        form = between.join(f"%{letter}" for letter in _LETTERS.values()) + end
        # Without a limit to the length of a list of tasks.
        more = {"SQUEUE_FORMAT": form, "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
        try:
            text = self.call("squeue", *options, more=more)
        except SlurmError as error:
            # squeue says so if it knows none of them.
            if "Invalid job id" in str(error):
                return []
            raise
        return [_row(line.split(between)) for line in text.split(f"{end}\n")[:-1]]

    def call(self, program: str, *arguments: str, more: Mapping[str, str] | None = None) -> str:
        """What one of Slurm's programs prints. `more` is added to its environment.

        Raises NotThere if slurmctld did not answer, else SlurmError.
        """
        command = [program, *arguments]
        environ = {**self._environ, **(more or {})}
        advice = "install Slurm's client programs or set PATH"
        return printed(" ".join(command), command, advice, self._time_limit, environ)

    def setting(self, name: str) -> str:
        """A value of slurmctld's configuration, such as MailProg; empty if it has none.

        Raises SlurmError.
        """
        found = re.search(rf"(?m)^{name} *= (.*)$", self.call("scontrol", "show", "config"))
        return found[1].strip() if found else ""


def printed(
    said: str,
    command: Sequence[str],
    advice: str,
    time_limit: float,
    environ: Mapping[str, str] | None = None,
    text: str = "",
) -> str:
    """What a program prints that gets `text` as its input, and may take `time_limit` seconds.

    Errors begin with `said`. `advice` is what to do if it cannot be run. Raises NotThere if it did
    not end in time or reached no slurmctld, else SlurmError.
    """
    try:
        done = subprocess.run(
            command,
            env=environ,
            input=text.encode(errors="replace"),
            capture_output=True,
            timeout=time_limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotThere(f"{said}: no answer within {time_limit:g} s") from None
    except OSError as error:
        raise SlurmError(f"{said}: it cannot be run: {error.strerror}; {advice}") from None
    if done.returncode != 0:
        why = " ".join(done.stderr.decode(errors="replace").split())
        kind = NotThere if _NO_ANSWER.search(why) else SlurmError
        raise kind(f"{said}: {why or f'exit status {done.returncode}'}")
    return done.stdout.decode(errors="replace")


#: What Slurm's programs say when they reach no slurmctld.
_NO_ANSWER = re.compile(
    r"Unable to contact slurm controller|Socket timed out"
    r"|Connection refused|Zero Bytes|communication (connection )?failure|in standby mode",
    re.IGNORECASE,
)


def _row(values: Sequence[str]) -> Row:
    """The job of the fields of a line. Raises SlurmError."""
    if len(values) != len(_LETTERS):
        raise SlurmError(
            f"squeue printed {len(values)} fields of a job; expected {len(_LETTERS)}:"
            " this version of Slurm is not supported"
        )
    found = {n: "" if v in _NONE else v for n, v in zip(_LETTERS, values, strict=True)}
    numbers = {n: _number(found[n]) for n in ("id", "array", "uid", "priority")}
    times = {n: _number(found[n]) for n in ("submitted", "started", "ended")}
    return Row(**{**found, **numbers, **times})  # type: ignore[arg-type]


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
