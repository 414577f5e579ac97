"""The command `fire`: what would run on an event, and runs it where no farm is touched."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from agent import runner
from agent.cli import rendering, screen
from agent.cli.asking import ask, not_understood
from agent.cli.completing import files
from agent.cli.exits import USAGE, Failed
from agent.cli.input import content, not_empty
from agent.cli.lookup import event_options, hints, params_of
from agent.cli.output import print_json, print_lines, say
from agent.cli.rendering import JsonObject
from agent.cli.runner_options import interpreter, interpreter_option, time_limit_option
from agent.core.quoting import printable
from agent.runner import Target

#: The id of the callbacks' job where nothing says it: a callback needs one.
DEFAULT_JOB = 1


class DryFarm:
    """A farm that only prints what it is asked to do. It knows the jobs that it was given."""

    def __init__(self, jobs: Sequence[Mapping[str, Any]], quiet: bool) -> None:
        self._jobs = jobs
        self._quiet = quiet
        #: What it was asked to do, in order.
        self.asked: list[str] = []

    def jobinfo(self, ids: Sequence[int]) -> list[Mapping[str, Any]]:
        """The jobs with these ids; all that it was given if there are no ids."""
        return [job for job in self._jobs if not ids or job.get("id") in ids]

    def modify(self, target: Target, fields: Mapping[str, Any]) -> None:
        """Print it, as all methods below do."""
        self._say(f"modify {target}: {json.dumps(fields, ensure_ascii=False)}")

    def mail(self, target: Target, report: str) -> None:
        self._say(f"mail {report} of {target}")

    def block(self, target: Target) -> None:
        self._say(f"block {target}")

    def unblock(self, target: Target) -> None:
        self._say(f"unblock {target}")

    def kill(self, target: Target) -> None:
        self._say(f"kill {target}")

    def fail(self, target: Target) -> None:
        self._say(f"fail {target}")

    def complete(self, target: Target) -> None:
        self._say(f"complete {target}")

    def retry(self, target: Target) -> None:
        self._say(f"retry {target}")

    def requeue(self, target: Target) -> None:
        self._say(f"requeue {target}")

    def suspend(self, target: Target) -> None:
        self._say(f"suspend {target}")

    def resume(self, target: Target) -> None:
        self._say(f"resume {target}")

    def preempt(self, target: Target) -> None:
        self._say(f"preempt {target}")

    def interrupt(self, target: Target) -> None:
        self._say(f"interrupt {target}")

    def migrate(self, target: Target) -> None:
        self._say(f"migrate {target}")

    def _say(self, text: str) -> None:
        self.asked.append(text)
        if not self._quiet:
            print_lines([f"{screen.INDENT}asks the farm: {printable(text)}"])


@click.command()
@event_options
@click.option("--run", "carry_out", is_flag=True, help="Run them, without touching a farm.")
@click.option(
    "--jobs",
    metavar="FILE",
    shell_complete=files,
    help="With --run: the jobs that qb.jobinfo knows, a JSON list of objects.",
)
@interpreter_option
@time_limit_option("With --run: how long each callback may run.")
def fire(
    event: str,
    code: bool,
    as_json: bool,
    pipe: str | None,
    carry_out: bool,
    jobs: str | None,
    interpreters: Sequence[str],
    time_limit: float,
    **about: Any,
) -> int:
    """Show what would run on EVENT, or run it without a farm.

    With --run the callbacks run on this machine, as the calling user. What they ask the farm to do
    is printed and not done.

    Exit status: 0 all succeeded or there is nothing to run, 1 one failed.
    """
    params = params_of(event, about)
    commands = dict(interpreter(given) for given in interpreters)
    known = _jobs(jobs)
    job = about["owner_job"] or about["job"] or (_id(known[0]) if len(known) == 1 else DEFAULT_JOB)
    if jobs is None:
        known = [_own_job(job, about)]
    elif not carry_out:
        say("--jobs is used with --run only")
    elif job not in map(_id, known):
        say(
            f"the callbacks' own job {job} is not in {printable(jobs)}, so qb.jobinfo does not find"
            " it; --owner-job says which job it is"
        )
    answer = ask(lambda agent: agent.lookup(**params, code=True), pipe)
    try:
        shown = {**answer, "callbacks": [_shown(c, code) for c in answer["callbacks"]]}
        asked = params["event"]
        hows = [_how(c, job, asked, commands) for c in answer["callbacks"]]
        if not as_json:
            limit = screen.width()
            print_lines(_rows(shown, hows, limit))
            for line in _notes(event, answer, limit):
                say(line)
        if not carry_out:
            if as_json:
                print_json(shown)
            return 0
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _end)
        farm = DryFarm(known, as_json)
        results = [
            _run(
                callback,
                farm,
                as_json,
                job=job,
                event=asked,
                interpreters=commands,
                time_limit=time_limit,
            )
            for callback in answer["callbacks"]
        ]
    except (LookupError, TypeError, ValueError, AttributeError):
        raise not_understood() from None
    if as_json:
        print_json({**shown, "results": [_fields(r) for r in results], "asked": farm.asked})
    return 0 if all(r.outcome in ("succeeded", "not-enabled") for r in results) else 1


def _own_job(job: int, about: Mapping[str, Any]) -> JsonObject:
    """The callbacks' own job, as the options describe it."""
    fields = {"label": "label", "parent": "pid", "pgrp": "pgrp"}
    prefix = "owner_" if about["owner_job"] else ""
    named = {name: about[prefix + option] for option, name in fields.items()}
    return {"id": job} | {name: value for name, value in named.items() if value is not None}


def _run(callback: JsonObject, farm: DryFarm, quiet: bool, **arguments: Any) -> runner.Result:
    """Run one callback with these arguments of `runner.run`; unless `quiet`, print what it does."""
    if not quiet:
        print_lines([f"{printable(callback['path'])}: {printable(callback['trigger'])}"])
    (result,) = runner.run({"callbacks": [callback]}, farm, **arguments)
    if not quiet:
        print_lines(_result(result))
    return result


def _end(number: int, _: object) -> None:
    """End as SIGINT does, which also ends the callback that runs."""
    raise SystemExit(128 + number)


def _shown(callback: JsonObject, code: bool) -> JsonObject:
    """A callback as it is printed: with its code only if that was asked for."""
    hidden = () if code else ("code", "code_base64")
    return {name: value for name, value in callback.items() if name not in hidden}


def _how(
    callback: JsonObject, job: int, event: str | JsonObject, commands: runner.Interpreters
) -> str:
    """With what a callback of an answer with code would run, or why it would not."""
    if not callback["enabled"]:
        return "does not run"
    if why := runner.obstacle(callback, job=job, event=event, interpreters=commands):
        return f"does not run: {why}"
    command = shlex.join(runner.interpreter(callback, commands))
    return f"with {command}" if command else "by the farm itself"


def _rows(answer: JsonObject, hows: Sequence[str], limit: int | None) -> Iterator[str]:
    """The callbacks that would run, and how."""
    rows = [{**c, "reason": how} for c, how in zip(answer["callbacks"], hows, strict=True)]
    yield from rendering.callbacks({**answer, "callbacks": rows, "partial": []}, limit, "RUNS")


def _notes(event: str, answer: JsonObject, limit: int | None) -> Iterator[str]:
    if not answer["callbacks"]:
        yield f"nothing runs on {printable(event)}"
        if not answer["partial"]:
            yield from hints(event, limit)
    yield from rendering.footnotes({**answer, "partial": []}, limit)


def _result(result: runner.Result) -> Iterator[str]:
    """What became of a callback, with the last part of what it printed."""
    if (left := result.output_bytes - runner.TAIL_BYTES) > 0:
        yield f"{screen.INDENT}| ({left} bytes before this are not shown)"
    for line in result.output.removesuffix("\n").split("\n") if result.output else ():
        yield f"{screen.INDENT}| " + "\t".join(map(printable, line.split("\t")))
    yield f"{screen.INDENT}{printable(str(result))}"


def _fields(result: runner.Result) -> JsonObject:
    """A result as a JSON object, without what is not given."""
    from dataclasses import asdict

    return {name: value for name, value in asdict(result).items() if value not in (None, "")}


def _jobs(file: str | None) -> list[JsonObject]:
    """The jobs in a file; none without a file. Raises Failed."""
    if file is None:
        return []
    try:
        found = json.loads(content(not_empty(file, "--jobs"), "--jobs", file))
    except (ValueError, RecursionError) as error:
        raise Failed(USAGE, f"--jobs: {file} is not JSON: {error}") from None
    if not isinstance(found, list) or not all(_id(job) for job in found):
        raise Failed(
            USAGE, f'--jobs: {file}: expected a list of jobs, such as [{{"id": 1234}}], ids above 0'
        )
    return found


def _id(job: Any) -> int:
    """The id of a job in the file; 0 if it has none."""
    number = job.get("id") if isinstance(job, dict) else None
    return number if isinstance(number, int) and not isinstance(number, bool) else 0
