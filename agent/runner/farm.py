"""What callbacks ask of the farm: the protocol that a supervisor implements, and its two callers.

The functions of the module `qb` in a callback (`call`), and the code strings of .qcb files
(`call_code_string`), end in the same methods of `Farm`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Target:
    """What an action is for: a job, or one of its work items or instances (`subjob`)."""

    job: int
    #: `job`, `work` or `subjob`.
    kind: str = "job"
    #: The name of the work item, or the number of the instance; empty for a job.
    name: str = ""

    def __str__(self) -> str:
        return f"job {self.job}" + (f" {self.kind} {self.name}" if self.name else "")


class Farm(Protocol):
    """What a supervisor does for callbacks.

    The runner calls one method at a time, from any thread. What a method raises is an error in the
    callback that asked. The time that a method takes counts as the callback's.
    """

    def jobinfo(self, ids: Sequence[int]) -> Sequence[Mapping[str, Any]]:
        """The jobs with these ids, without those that do not exist; all jobs if there are no ids.

        The values must be what JSON can hold.
        """

    def block(self, target: Target) -> None:
        """Block it: it does not start until it is unblocked."""

    def unblock(self, target: Target) -> None:
        """Let it start again."""

    def kill(self, target: Target) -> None:
        """End it as killed."""

    def fail(self, target: Target) -> None:
        """End it as failed."""

    def complete(self, target: Target) -> None:
        """End it as complete."""

    def retry(self, target: Target) -> None:
        """Run again what of it failed."""

    def requeue(self, target: Target) -> None:
        """Run it again, whatever became of it."""

    def suspend(self, target: Target) -> None:
        """Stop its processes."""

    def resume(self, target: Target) -> None:
        """Continue its processes."""

    def preempt(self, target: Target) -> None:
        """Free its hosts when the current work is done."""

    def interrupt(self, target: Target) -> None:
        """Free its hosts at once."""

    def migrate(self, target: Target) -> None:
        """Move it to other hosts."""

    def modify(self, target: Target, fields: Mapping[str, Any]) -> None:
        """Change fields of a job, such as its priority."""

    def mail(self, target: Target, report: str) -> None:
        """Send mail: the report is `status`, `license-status`, `report-status` or
        `subjob-status`."""


class BadCall(Exception):
    """A callback called a function of `qb` wrongly, or its code string has no target."""


_VERBS = (
    *("block", "unblock", "kill", "fail", "complete", "retry", "requeue"),
    *("suspend", "resume", "preempt", "interrupt", "migrate"),
)
_WORK_VERBS = ("block", "unblock", "kill", "fail", "complete", "retry", "requeue")

#: By function of `qb` in a callback: the method of Farm, and what it is for ("" for what is named).
_ACTIONS = {
    **{verb: (verb, "") for verb in _VERBS},
    **{f"{verb}work": (verb, "work") for verb in _WORK_VERBS},
}
#: The functions of `qb` in a callback, besides `jobid`.
FUNCTIONS = ("jobinfo", "modify", *_ACTIONS)

#: A job, a work item or an instance as Qube writes them: `1234`, `1234:7`, `1234.0`.
_TARGET = re.compile(r"([0-9]{1,19})(?:([:.])(.+))?", re.DOTALL)


def call(farm: Farm, function: str, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """What a function of `qb` returns: the jobs of `jobinfo`, or the list of what it was for.

    Raises BadCall, and what the farm raises.
    """
    if function == "jobinfo":
        return [dict(job) for job in farm.jobinfo(list(_ids(args, named)))]
    if function == "modify":
        fields = {name: value for part in args if _is_fields(part) for name, value in part.items()}
        fields.update(named)
        if not fields:
            raise BadCall('modify needs fields, such as modify({"priority": 100}, 1234)')
        given = [part for part in args if not _is_fields(part)]
        for target in _targets(function, given, ""):
            farm.modify(target, fields)
        return given
    if function not in _ACTIONS:
        raise BadCall(f"qb has no function {function} here; it has jobid, {', '.join(FUNCTIONS)}")
    if named:
        raise BadCall(f"{function} takes no argument {next(iter(named))}")
    method, kind = _ACTIONS[function]
    for target in _targets(function, args, kind):
        getattr(farm, method)(target)
    return list(args)


def _is_fields(part: Any) -> bool:
    return isinstance(part, Mapping) and "id" not in part


def _ids(args: Sequence[Any], named: Mapping[str, Any]) -> Iterator[int]:
    """The ids that `jobinfo("-id", 1234)` or `jobinfo(id=1234)` asks for."""
    switches = [*zip(args[::2], args[1::2], strict=False), *named.items()]
    if len(args) % 2 or any(str(switch).lstrip("-") != "id" for switch, _ in switches):
        raise BadCall('expected jobinfo("-id", NUMBER): only jobs by id are known here')
    for _, value in switches:
        for one in value if isinstance(value, list) else [value]:
            target = _target("jobinfo", one)
            yield target.job


def _targets(function: str, args: Sequence[Any], kind: str) -> list[Target]:
    """What an action is for: all of it is read before anything is done."""
    found = [
        _target(function, one)
        for part in args
        for one in (part if isinstance(part, list) else [part])
    ]
    if not found:
        raise BadCall(f"{function} needs the id of a job, such as {function}(1234)")
    for target in found:
        if kind and target.kind != kind:
            raise BadCall(f'{function} needs a work item, such as {function}("{target.job}:7")')
    return found


def _target(function: str, given: Any) -> Target:
    text = given.get("id") if isinstance(given, Mapping) else given
    read = None if isinstance(text, bool) else _TARGET.fullmatch(str(text))
    if read is None:
        raise BadCall(
            f"{function}: {str(given)[:60]!r} is not a job (1234), work item (1234:7) or instance"
            " (1234.0)"
        )
    number, mark, name = read.groups()
    kind = {":": "work", ".": "subjob"}.get(mark, "job")
    return Target(int(number), kind, name or "")


def code_target(text: str, job: int, event: Target | None) -> Target:
    """What a known code string of a .qcb file acts on.

    `job` is the job that the callback belongs to, `event` the work item or instance of it that the
    event is about. Raises BadCall if the code string needs one and the event has none.
    """
    verb, _, rest = text.partition("-")
    kind = rest.partition("-")[0]
    if verb == "mail" or kind not in ("work", "subjob"):
        return Target(job)
    if event is None or event.kind != kind:
        what = "a work item" if kind == "work" else "an instance"
        raise BadCall(f"{text} needs an event of {what} of the callback's own job")
    return event


def call_code_string(farm: Farm, text: str, target: Target) -> None:
    """Do what a known code string of a .qcb file says. Raises what the farm raises."""
    verb, _, rest = text.partition("-")
    if verb == "mail":
        farm.mail(target, rest)
    else:
        getattr(farm, verb)(target)
