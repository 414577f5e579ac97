"""Requests as lines of bytes, and what comes back."""

from __future__ import annotations

import json
import socket
from typing import Any

from support.agents import Agent

CONF = "a.py = done-job-self\nq.qcb = done-job-self && done-job-parent\n"
STATUS = b'{"jsonrpc":"2.0","id":1,"method":"status"}\n'


def call(method: str, identity: object = 1, **params: Any) -> bytes:
    return line({"jsonrpc": "2.0", "id": identity, "method": method, "params": params})


def line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def exchange(agent: Agent, sent: bytes) -> list[Any]:
    """Send all, say that no more comes, and read all answers."""
    with agent.connect() as one:
        one.sendall(sent)
        one.shutdown(socket.SHUT_WR)
        with one.makefile("rb") as answers:
            return [json.loads(answer) for answer in answers]


def code(answer: Any) -> Any:
    return answer["error"]["code"]
