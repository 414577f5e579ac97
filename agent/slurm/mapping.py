"""Translates what Slurm reports to its hooks into the terms of Qube: pure functions.

A hook's environment becomes a `Report`. `agent.slurm.jobs` makes events of it, with what is known
of the job: the epilog and the job completion plugin report the same end, in either order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from agent.core.quoting import shown

Kind = Literal["prolog", "epilog", "jobcomp", "node prolog", "node epilog"]

#: By Slurm's state of a job that ended: the names of Qube's events, the last of them being how it
#: ended. A `timeout` is not an end to Qube, which kills or fails the job then.
STATES: Mapping[str, tuple[str, ...]] = {
    "COMPLETED": ("complete",),
    "FAILED": ("failed",),
    "BOOT_FAIL": ("failed",),
    "NODE_FAIL": ("failed",),
    "OUT_OF_MEMORY": ("failed",),
    "TIMEOUT": ("timeout", "failed"),
    "DEADLINE": ("timeout", "failed"),
    "CANCELLED": ("killed",),
    "PREEMPTED": ("killed",),
    "REVOKED": ("killed",),
}
#: The event of an end whose outcome nobody knows. In triggers, `done` matches it.
UNKNOWN = ("done",)
#: States of a job that waits, or will run again.
AGAIN = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"})
#: States after which Slurm often requeues a job by itself: only the queue shows whether it did.
MAYBE_AGAIN = frozenset({"NODE_FAIL", "PREEMPTED"})

#: Slurm's NO_VAL: not a number of an array task.
NO_TASK = 4294967294
#: Slurm's INFINITE and NO_VAL, and beyond: not ids either.
_MAX_ID = NO_TASK - 1
#: The most hosts of one job that become events.
MAX_HOSTS = 10_000
#: The most ranges in one name. Slurm has 5 dimensions.
_MAX_RANGES = 16
#: What Slurm writes where it has no value.
_NONE = ("", "(null)", "(None)", "None", "N/A", "None assigned")

#: By SLURM_SCRIPT_CONTEXT.
_CONTEXTS: Mapping[str, Kind] = {
    "prolog_slurmctld": "prolog",
    "epilog_slurmctld": "epilog",
    "prolog_slurmd": "node prolog",
    "epilog_slurmd": "node epilog",
}


class BadReport(Exception):
    """This is not the environment of a hook of Slurm: what was found and expected."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one hook reports. Of what the hook does not know, texts are empty and numbers None."""

    kind: Kind
    #: The job as Qube has it: the whole array.
    job: int
    #: The number of the array task; empty where there is no array.
    task: str = ""
    #: Slurm's own id of this task. It is `job` where there is no array, and for one of its tasks.
    own: int = 0
    #: It is about those tasks of the array that never started.
    rest: bool = False
    name: str = ""
    comment: str = ""
    uid: int | None = None
    user: str = ""
    #: Tasks of the array.
    count: int | None = None
    #: How often the task was started again.
    restart: int | None = None
    nodes: str = ""
    dependency: str = ""
    #: Of the completion plugin: the state, and when it ended, as Slurm writes it.
    state: str = ""
    end: str = ""
    #: Of the epilog: whether the exit status was 0.
    succeeded: bool | None = None


def environment_of(data: bytes) -> dict[str, str]:
    r"""The variables in the text of an environment, which are separated by NUL.

    Bytes that are not UTF-8 become `\xNN`. Of a name that occurs twice, the first counts, as for
    getenv. Raises BadReport.
    """
    if data and not data.endswith(b"\0"):
        raise BadReport("it does not end with NUL: it was cut off, or no hook wrote it")
    found: dict[str, str] = {}
    for line in data.split(b"\0"):
        name, mark, value = line.decode("utf-8", "backslashreplace").partition("=")
        if mark:
            found.setdefault(name, value)
    return found


def kind_of(environment: Mapping[str, str]) -> Kind:
    """The kind of hook that Slurm gave this environment. Raises BadReport."""
    if "JOBSTATE" in environment and "JOBID" in environment:
        return "jobcomp"
    context = environment.get("SLURM_SCRIPT_CONTEXT", "")
    if context in _CONTEXTS:
        return _CONTEXTS[context]
    if context:
        expected = ", ".join(_CONTEXTS)
        raise BadReport(f"SLURM_SCRIPT_CONTEXT is {shown(context)}; expected {expected}")
    # Before 20.11 Slurm does not say it.
    if "SLURM_JOB_EXIT_CODE" in environment:
        return "epilog"
    if "SLURM_JOB_ID" in environment:
        return "prolog"
    raise BadReport("it has neither SLURM_JOB_ID nor JOBID and JOBSTATE: no hook of Slurm wrote it")


def report_of(data: bytes) -> Report:
    """What the hook with this environment reports. Raises BadReport."""
    variables = environment_of(data)
    kind = kind_of(variables)
    return _completion(variables) if kind == "jobcomp" else _script(kind, variables)


def _script(kind: Kind, variables: Mapping[str, str]) -> Report:
    """Of PrologSlurmctld, EpilogSlurmctld, Prolog and Epilog."""
    own = _id(variables, "SLURM_JOB_ID")
    array = _number(variables, "SLURM_ARRAY_JOB_ID")
    task = _number(variables, "SLURM_ARRAY_TASK_ID")
    is_array = bool(array) and task is not None
    status = _number(variables, "SLURM_JOB_EXIT_CODE")
    on_node = kind in ("node prolog", "node epilog")
    return Report(
        kind,
        job=array if is_array and array else own,
        task=str(task) if is_array else "",
        own=own,
        name=_text(variables, "SLURM_JOB_NAME"),
        comment=_text(variables, "SLURM_JOB_COMMENT"),
        uid=_number(variables, "SLURM_JOB_UID"),
        user=_text(variables, "SLURM_JOB_USER"),
        count=_number(variables, "SLURM_ARRAY_TASK_COUNT") if is_array else None,
        restart=_number(variables, "SLURM_JOB_RESTART_COUNT") or 0,
        nodes=_text(variables, "SLURMD_NODENAME" if on_node else "SLURM_JOB_NODELIST"),
        succeeded=None if status is None else status == 0,
    )


def _completion(variables: Mapping[str, str]) -> Report:
    """Of jobcomp/script."""
    own = _id(variables, "JOBID")
    array = _number(variables, "ARRAYJOBID")
    task = _number(variables, "ARRAYTASKID")
    return Report(
        "jobcomp",
        job=array or own,
        task=str(task) if array and task is not None else "",
        own=own,
        rest=bool(array) and task is None,
        name=_text(variables, "JOBNAME"),
        uid=_number(variables, "UID"),
        nodes=_text(variables, "NODES"),
        dependency=_text(variables, "DEPENDENCY"),
        state=variables["JOBSTATE"].partition(" ")[0].rstrip("+"),
        end=_text(variables, "END"),
    )


def _text(variables: Mapping[str, str], name: str) -> str:
    value = variables.get(name, "")
    return "" if value in _NONE else value


def _number(variables: Mapping[str, str], name: str) -> int | None:
    """A number; None for none, and for Slurm's values that stand for none."""
    text = variables.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(_MAX_ID))):
        return None
    number = int(text)
    return number if number <= _MAX_ID else None


def _id(variables: Mapping[str, str], name: str) -> int:
    number = _number(variables, name)
    if not number:
        raise BadReport(f"{name} is {shown(variables.get(name, ''))!r}; expected the id of a job")
    return number


# What a job says of itself -----------------------------------------------------------------------

_COMMENT = re.compile(r"(?:^|;)\s*(label|parent|pgrp)=([^;]*)")
_DEPENDENCY = re.compile(r"(?:after\w*|expand):([0-9]{1,10})")


def said_in(comment: str) -> dict[str, str]:
    """What a job's comment says: `label=beauty pass; pgrp=12`, of label, parent and pgrp."""
    return {name: value.strip() for name, value in _COMMENT.findall(comment) if value.strip()}


def parent_of(dependency: str) -> int | None:
    """The first job that a job waits for, as squeue and jobcomp write it."""
    found = _DEPENDENCY.search(dependency)
    return int(found[1]) if found and 0 < int(found[1]) <= _MAX_ID else None


# Tasks -------------------------------------------------------------------------------------------

_TASKS = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9})(?::([0-9]{1,9}))?)?")


def tasks_in(text: str) -> set[int]:
    """The numbers in a list of array tasks, as squeue shows those that wait: `3-7,9-21:4%2`."""
    found: set[int] = set()
    for part in text.split(","):
        if read := _TASKS.fullmatch(part.partition("%")[0]):
            first, last, step = int(read[1]), int(read[2] or read[1]), int(read[3] or 1)
            found.update(range(first, last + 1, step or 1))
    return found


# Nodes -------------------------------------------------------------------------------------------

_PART = re.compile(r"[^,\[]*(?:\[[^\]]*(?:\]|$)[^,\[]*)*,?")
_RANGES = re.compile(r"\[([^\[\]]*)\]")
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


def hosts(nodes: str) -> list[str]:
    """The names in a list of nodes: `gpu1,node[01-03,07]`. At most MAX_HOSTS.

    What is not such a list is one name.
    """
    found: list[str] = []
    try:
        for part in _PART.findall(nodes):
            if part.count("[") > _MAX_RANGES:
                raise ValueError(part)
            for name in _names(part.removesuffix(",")) if part.strip(",") else ():
                found.append(name)
                if len(found) == MAX_HOSTS:
                    return found
    except ValueError:
        return [nodes]
    return found


def _names(part: str) -> Iterator[str]:
    """The names of one part. Raises ValueError."""
    found = _RANGES.search(part)
    if found is None:
        if "[" in part or "]" in part:
            raise ValueError(part)
        yield part
        return
    head, tail = part[: found.start()], part[found.end() :]
    for one in found[1].split(","):
        read = _RANGE.fullmatch(one)
        if read is None:
            raise ValueError(part)
        first, last = int(read[1]), int(read[2] or read[1])
        for number in range(first, last + 1):
            for rest in _names(tail) if tail else ("",):
                yield f"{head}{number:0{len(read[1])}}{rest}"
