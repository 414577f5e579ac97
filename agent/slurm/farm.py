"""What callbacks ask of the farm, done by Slurm: the `Farm` of `agent.runner`.

A job is a Slurm job or array, and a work item is an array task, named by its number. What Slurm
refuses or cannot do is a SlurmError, which says what to do instead.

The class has the methods of the protocol, so more than 15.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from agent.core.quoting import printable
from agent.runner import Target
from agent.slurm import mapping
from agent.slurm.commands import Row, Slurm, SlurmError, printed

#: The state of a task while its epilog runs. Slurm then does not say how it ended.
_ENDING = "COMPLETING"
#: Seconds to wait for the end of that, and between two looks. It is the time of the node's epilog.
_PATIENCE, _PAUSE = 10.0, 0.1
#: Seconds that the mail program may take.
_MAIL_TIME_LIMIT = 30.0
#: What may be the address of a job's mail: the user of the job chose it.
_ADDRESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@-]{0,253}")

#: What `modify` may change, by its name in lower case: as `scontrol update` names it. What leads to
#: another job, or to a node or partition, is not among it.
_FIELDS = {
    name.lower(): name
    for name in (
        *("Account", "AdminComment", "ArrayTaskThrottle", "Comment", "Deadline", "Dependency"),
        *("ExcNodeList", "Features", "JobName", "MailType", "MailUser", "Nice", "Partition"),
        *("Priority", "QOS", "Requeue", "ReservationName", "StartTime", "TimeLimit", "WCKey"),
    )
}
#: Qube's names of some.
_FIELDS |= {"name": "JobName", "cluster": "Partition", "reservation": "ReservationName"}


class SlurmFarm:
    """The farm that a `Slurm` is. `about` gives what else is known of a job: label, pid, pgrp."""

    def __init__(
        self, slurm: Slurm, about: Callable[[int], Mapping[str, Any]] = lambda _: {}
    ) -> None:
        self._slurm = slurm
        self._about = about

    def jobinfo(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """The jobs with these ids that Slurm still knows; all that are not over if there are none.

        Each has id, name, user, status (Qube's), state (Slurm's), priority, cluster, dependency,
        comment, times in seconds since 1970, and its tasks in `work`. Raises SlurmError.
        """
        arrays: dict[int, list[Row]] = {}
        for row in self._slurm.rows(ids, ended=bool(ids)):
            arrays.setdefault(row.array or row.id, []).append(row)
        return [self._job(number, rows) for number, rows in sorted(arrays.items())]

    def _job(self, number: int, rows: Sequence[Row]) -> dict[str, Any]:
        first = rows[0]
        leading = min(rows, key=_rank)
        return {
            "id": number,
            "name": first.name,
            "user": first.user,
            "status": _status(leading),
            "state": leading.state,
            "reason": leading.reason,
            "priority": leading.priority,
            "cluster": first.partition,
            "dependency": first.dependency,
            "comment": first.comment,
            "cwd": first.directory,
            "timesubmit": first.submitted,
            "work": [_work(row) for row in rows if row.task],
            **self._about(number),
        }

    def modify(self, target: Target, fields: Mapping[str, Any]) -> None:
        """Change fields of a job or task, by Qube's names or those of `scontrol update`."""
        changed = []
        for name, value in fields.items():
            known = _FIELDS.get(name.lower())
            if known is None:
                raise SlurmError(
                    f"modify: {printable(name)} cannot be changed here; expected one of"
                    f" {', '.join(sorted(_FIELDS))}"
                )
            changed.append(f"{known}={value}")
        self._any(target, "update", f"JobId={_spec(target)}", *changed)

    def mail(self, target: Target, report: str) -> None:
        """Send the mail `status`: Slurm's MailProg, to the job's MailUser or else to its user."""
        if report not in ("status", "subjob-status"):
            raise SlurmError(f"Slurm has no mail {report}; use mail-status, or send it in Python")
        if target.kind != "work":
            target = Target(target.job)
        rows = self._settled(target)
        if not rows:
            raise SlurmError(f"no mail: {_forgotten(target)}")
        program = self._slurm.setting("MailProg")
        address = self._address(target, rows[0])
        states = Counter(row.state for row in rows)
        told = ", ".join(
            f"{count} {state}" if len(rows) > 1 else state for state, count in states.items()
        )
        subject = printable(f"Slurm Job_id={_spec(target)} Name={rows[0].name} {told}")
        lines = [f"{_name(row)} {row.state} {row.nodes}".rstrip() for row in rows]
        printed(
            f"mail: MailProg {program}",
            [program, "-s", subject, address],
            "set MailProg in slurm.conf",
            _MAIL_TIME_LIMIT,
            text="".join(f"{line}\n" for line in lines),
        )

    def _address(self, target: Target, row: Row) -> str:
        shown = self._slurm.call("scontrol", "show", "job", _spec(target))
        found = re.search(r"(?m)^   MailUser=(\S*)", shown)
        address = found[1] if found else row.user
        if not _ADDRESS.fullmatch(address):
            raise SlurmError(f"mail: {printable(address)} of {target} is not an address")
        return address

    def block(self, target: Target) -> None:
        """`scontrol hold`: what waits does not start; what runs goes on."""
        self._any(target, "hold", _spec(target))

    def unblock(self, target: Target) -> None:
        """`scontrol release`."""
        self._any(target, "release", _spec(target))

    def kill(self, target: Target) -> None:
        """`scancel`."""
        self._slurm.call("scancel", _spec(target))

    def fail(self, target: Target) -> NoReturn:
        """Slurm cannot."""
        raise _cannot("end", target, "as failed", "kill ends it as CANCELLED")

    def complete(self, target: Target) -> NoReturn:
        """Slurm cannot."""
        raise _cannot("end", target, "as complete", "kill ends it as CANCELLED")

    def retry(self, target: Target) -> None:
        """`scontrol requeue` of each task that failed; of a task that is about to end, then."""
        rows = self._settled(target)
        failed = [row for row in rows if _outcome(row) == "failed"]
        if not rows:
            raise SlurmError(_forgotten(target))
        if not failed:
            states = ", ".join(sorted({row.state for row in rows}))
            raise SlurmError(f"nothing to retry: {target} is {states}; requeue runs it again")
        self._slurm.call("scontrol", "requeue", ",".join(map(_name, failed)))

    def requeue(self, target: Target) -> None:
        """`scontrol requeue`."""
        self._settled(target)
        self._any(target, "requeue", _spec(target))

    def suspend(self, target: Target) -> None:
        """`scontrol suspend`: of what runs."""
        self._any(target, "suspend", _spec(target))

    def resume(self, target: Target) -> None:
        """`scontrol resume`: of what is suspended."""
        self._any(target, "resume", _spec(target))

    def preempt(self, target: Target) -> NoReturn:
        """Slurm cannot."""
        instead = "block starts no more of its tasks, interrupt runs it elsewhere or later"
        raise _cannot("preempt", target, "when its current work is done", instead)

    def interrupt(self, target: Target) -> None:
        """`scontrol requeue` of what runs."""
        running = [row for row in self._rows(target) if row.state in ("RUNNING", "SUSPENDED")]
        if not running:
            raise SlurmError(f"nothing to interrupt: {target} does not run")
        self._slurm.call("scontrol", "requeue", ",".join(map(_name, running)))

    def migrate(self, target: Target) -> NoReturn:
        """Slurm cannot."""
        instead = 'modify({"ExcNodeList": NODES}) and then requeue'
        raise _cannot("migrate", target, "to other hosts by itself", instead)

    def _any(self, target: Target, *arguments: str) -> None:
        """Call scontrol, for all tasks of a target: it succeeds if it does for any of them.

        scontrol reports the others as well: `1_0-2: No error 1_3-7: Job is pending execution`.
        """
        # scontrol does not always say that it does not know a job.
        if not self._slurm.rows([target.job], ended=True):
            raise SlurmError(f"{arguments[0]}: {_forgotten(target)}")
        try:
            self._slurm.call("scontrol", *arguments)
        except SlurmError as error:
            if ": No error" not in str(error):
                raise

    def _rows(self, target: Target) -> list[Row]:
        """What Slurm still knows of a target: its tasks that ended, too."""
        spec = _spec(target)
        rows = self._slurm.rows([target.job], ended=True)
        return rows if target.kind == "job" else [row for row in rows if _name(row) == spec]

    def _settled(self, target: Target) -> list[Row]:
        """The same, once no task of it is about to end."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            rows = self._rows(target)
            if all(row.state != _ENDING for row in rows) or time.monotonic() > deadline:
                return rows
            time.sleep(_PAUSE)


def _spec(target: Target) -> str:
    """A target as Slurm's programs take it: `12`, or `12_7` for an array task.

    Raises SlurmError.
    """
    if target.kind == "job":
        return str(target.job)
    if target.kind == "subjob":
        raise SlurmError(
            f"Slurm has no instances: {target}; use the job {target.job}, or an array task as a"
            f" work item ({target.job}:7)"
        )
    if not (target.name.isascii() and target.name.isdecimal()):
        raise SlurmError(
            f"{printable(str(target))}: a work item is an array task of Slurm, named by its number,"
            f" such as {target.job}:7"
        )
    return f"{target.job}_{target.name}"


def _name(row: Row) -> str:
    """A line of squeue as Slurm's programs take it."""
    return f"{row.array}_{row.task}" if row.task else str(row.id)


def _work(row: Row) -> dict[str, Any]:
    return {
        "name": row.task,
        "status": _status(row),
        "state": row.state,
        "jobid": row.id,
        "host": row.nodes,
        "timestart": row.started,
        "timecomplete": row.ended,
    }


def _outcome(row: Row) -> str:
    """Qube's name of how a task ended; empty if it did not."""
    return mapping.STATES.get(row.state, ("",))[-1]


def _status(row: Row) -> str:
    """Qube's name of a state."""
    if row.waits:
        return "blocked" if row.is_held else "waiting"
    return _outcome(row) or ("suspended" if row.state == "SUSPENDED" else "running")


#: Of the tasks of an array, the first of these states is that of the array.
_RANKS = ("running", "suspended", "waiting", "blocked", "failed", "killed", "complete")


def _rank(row: Row) -> int:
    return _RANKS.index(_status(row))


def _forgotten(target: Target) -> str:
    forgets = "Slurm forgets what ended after MinJobAge seconds"
    return f"Slurm does not know {target}, or it has not started; {forgets}"


def _cannot(verb: str, target: Target, how: str, instead: str) -> SlurmError:
    return SlurmError(f"Slurm cannot {verb} {target} {how}; {instead}")
