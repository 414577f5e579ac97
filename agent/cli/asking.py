"""Asks the running agent, through `agent.client` alone, and prints the answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from agent import client
from agent.cli.exits import NO_AGENT, USAGE, Failed
from agent.cli.output import print_json, print_lines, say
from agent.cli.rendering import JsonObject

#: JSON-RPC 2.0: the errors that say that the request was wrong, not the agent.
_BAD_REQUEST = {-32700, -32600, -32602}


def show(
    request: Callable[[client.Client], Any],
    rows: Callable[[JsonObject], Iterable[str]],
    pipe: str | None,
    as_json: bool,
    *,
    status: Callable[[JsonObject], int] = lambda _: 0,
    notes: Callable[[JsonObject], Iterable[str]] = lambda _: (),
    timeout: float = client.DEFAULT_TIMEOUT,
) -> int:
    """Ask, and print the answer: the lines that `rows` makes, or as JSON.

    What a person should know besides, the lines that `notes` makes, goes to standard error. Returns
    the exit status that `status` gives. `timeout` is in seconds. Raises Failed.
    """
    answer = ask(request, pipe, timeout)
    try:
        result = status(answer)
        lines, said = ([], []) if as_json else ([*rows(answer)], [*notes(answer)])
    except (LookupError, TypeError, ValueError, AttributeError):
        raise not_understood() from None
    if as_json:
        print_json(answer)
    else:
        print_lines(lines)
    for line in said:
        say(line)
    return result


def not_understood() -> Failed:
    """What stops a command that does not know the form of an answer."""
    return Failed(
        NO_AGENT, "the agent's answer has an unknown form: the agent may be of another version"
    )


def ask(
    request: Callable[[client.Client], Any],
    pipe: str | None,
    timeout: float = client.DEFAULT_TIMEOUT,
) -> JsonObject:
    """The answer of the agent at `pipe`, or else of the first that is found. Raises Failed."""
    missing = []
    for path in _pipes(pipe):
        try:
            with client.Client(path, timeout, restart=0) as agent:
                answer: JsonObject = request(agent)
                return answer
        except client.NoAgent as error:
            missing.append(str(error))
        except client.Refused as error:
            status = USAGE if error.code in _BAD_REQUEST else NO_AGENT
            raise Failed(status, _refusal(error)) from None
        except client.AgentError as error:
            raise Failed(NO_AGENT, str(error)) from None
    raise no_agent("; ".join(missing), pipe)


def _pipes(pipe: str | None) -> list[str]:
    """The pipes at which an agent is looked for: the one that was named, else the default ones."""
    return [pipe] if pipe else client.default_paths()


def no_agent(why: str, pipe: str | None) -> Failed:
    """The error of a command that finds no agent at the pipe that was named; None is the default
    ones."""
    how = "start one with `callback-agent serve`, or name its pipe with --pipe"
    if any(map(_is_denied, _pipes(pipe))):
        how = (
            "your user may not connect: run this as root or as the agent's user, or have the agent"
            " let a group of yours connect (serve --pipe-group)"
        )
    return Failed(NO_AGENT, f"no agent: {why}; {how}")


def _is_denied(pipe: str) -> bool:
    """Whether this user may not connect to what is at the path of a pipe."""
    try:
        os.stat(pipe)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return not os.access(pipe, os.W_OK)


def _refusal(error: client.Refused) -> str:
    """The agent's error as one line: where in the command line, what was found and expected."""
    data = error.data if isinstance(error.data, dict) else {}
    pointer, expected = str(data.get("pointer", "")), str(data.get("expected", ""))
    where = _argument(pointer)
    if where is None:
        text = error.message
        if pointer and pointer not in text:
            text += f", at {pointer}"
        return text + (f"; expected {expected}" if expected and expected not in text else "")
    if data.get("column"):
        where += f", column {data['column']}"
    parts = [str(data["found"])] if data.get("found") else []
    # No option can give null.
    parts += [f"expected {expected.removesuffix(', or null')}"] if expected else []
    return f"{where}: {'; '.join(parts) or error.message}"


def _argument(pointer: str) -> str | None:
    """The argument or option that a JSON pointer into the request leads to; None if to none."""
    while pointer:
        if pointer in _ARGUMENTS:
            return _ARGUMENTS[pointer]
        pointer = pointer.rpartition("/")[0]
    return None


#: By JSON pointer: what on the command line a part of a request comes from.
_ARGUMENTS = {
    "/params/event": "EVENT",
    "/params/event/job/id": "--job",
    "/params/event/job/label": "--label",
    "/params/event/job/pid": "--parent",
    "/params/event/job/pgrp": "--pgrp",
    "/params/owner": "--owner-job",
    "/params/owner/label": "--owner-label",
    "/params/owner/pid": "--owner-parent",
    "/params/owner/pgrp": "--owner-pgrp",
    "/params/occurred": "--occurred",
    "/params/code": "--code",
}
