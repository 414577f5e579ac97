"""Asks the running agent, through `agent.client` alone, and prints the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from agent import client
from agent.cli.exits import NO_AGENT, USAGE, Failed
from agent.cli.output import print_json, print_lines, say
from agent.cli.rendering import JsonObject

#: JSON-RPC 2.0: the errors that say that the request was wrong, not the agent.
_BAD_REQUEST = {-32700, -32600, -32602}


def show(
    request: Callable[[client.Client], Any],
    rows: Callable[[JsonObject], Iterator[str]],
    pipe: str | None,
    as_json: bool,
    *,
    status: Callable[[JsonObject], int] = lambda _: 0,
    nothing: str = "",
    timeout: float = client.DEFAULT_TIMEOUT,
) -> int:
    """Ask, and print the answer: the lines that `rows` makes, or as JSON, or `nothing`.

    The exit status that `status` gives. `timeout` is in seconds. Raises Failed.
    """
    answer = ask(request, pipe, timeout)
    try:
        result = status(answer)
        lines = [] if as_json else list(rows(answer))
    except (LookupError, TypeError, ValueError, AttributeError):
        raise Failed(
            NO_AGENT, "the agent's answer has an unknown form: the agent may be of another version"
        ) from None
    if as_json:
        print_json(answer)
    elif lines:
        print_lines(lines)
    elif nothing:
        say(nothing)
    return result


def ask(
    request: Callable[[client.Client], Any],
    pipe: str | None,
    timeout: float = client.DEFAULT_TIMEOUT,
) -> JsonObject:
    """The answer of the agent at `pipe`, or else of the first that is found. Raises Failed."""
    missing = []
    for path in [pipe] if pipe else client.default_paths():
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
    raise Failed(
        NO_AGENT,
        f"no agent: {'; '.join(missing)}; start one with `callback-agent serve`, or name its pipe"
        " with --pipe",
    )


def _refusal(error: client.Refused) -> str:
    """The agent's error as one line, with where it was and what was expected."""
    data = error.data if isinstance(error.data, dict) else {}
    text = error.message
    # The message may contain it already.
    if data.get("pointer") and str(data["pointer"]) not in text:
        text += f", at {data['pointer']}"
    if data.get("column"):
        text += f", column {data['column']}"
    if data.get("expected") and str(data["expected"]) not in text:
        text += f"; expected {data['expected']}"
    return text
