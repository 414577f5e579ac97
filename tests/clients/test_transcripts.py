"""The agent gives the transcripts byte for byte, and each client says what is in them."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clients import drivers, transcripts
from clients.transcripts import Exchange


@pytest.mark.parametrize("file", transcripts.FILES, ids=lambda file: str(file.stem))
def test_the_agent_answers_as_the_transcript_says(file: Path, tmp_path: Path) -> None:
    exchanges = transcripts.read(file)
    with transcripts.serving(tmp_path, file.stem) as replay:
        found = replay.exchanges([exchange.request for exchange in exchanges])
    transcripts.update(file, found)
    assert found == exchanges, (
        f"{file} says something else; if the agent is right, run this with UPDATE_TRANSCRIPTS=1"
    )


@contextlib.contextmanager
def player(path: Path, exchanges: list[Exchange]) -> Iterator[list[Any]]:
    """A server that answers each request with the next answer of a transcript. Gives the requests
    that came, with the id that the transcript has."""
    came: list[Any] = []
    left = iter(exchanges)

    def serve(one: socket.socket) -> None:
        with one, one.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line)
                identity = json.dumps(request["id"]).encode()
                came.append(request | {"id": 1})
                one.sendall(next(left).answer.replace(b'"id":1', b'"id":' + identity, 1) + b"\n")

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        threading.Thread(target=accept, daemon=True).start()
        yield came
        # Ends the thread that accepts.
        server.shutdown(socket.SHUT_RDWR)


def exact(value: Any) -> str:
    """JSON in one spelling: other than `==`, it tells 1 from true and from 1.0."""
    return json.dumps(value, sort_keys=True)


SENDING = [name for name, row in drivers.CLIENTS.items() if not row.own_index]
ANSWERING = [name for name, row in drivers.CLIENTS.items() if row.own_index]


@pytest.mark.parametrize("name", ANSWERING)
@pytest.mark.parametrize("file", transcripts.CALLS, ids=lambda file: str(file.stem))
def test_an_index_of_its_own_answers_as_the_transcript_says(
    file: Path, name: str, tmp_path: Path
) -> None:
    row = drivers.CLIENTS[name]
    site = transcripts.SITE
    with transcripts.serving(tmp_path, file.stem) as replay, row.driver(replay.pipe) as call:
        for exchange in transcripts.read(file):
            asked = json.loads(exchange.request.replace(site.encode(), str(tmp_path).encode()))
            params = asked.get("params", {})
            if asked["method"] in row.own_index and drivers.takes(asked["method"], params):
                outcome = json.dumps(call(asked["method"], params), separators=(",", ":"))
                found = json.loads(replay.same(outcome.encode()))
                assert exact(found) == exact(exchange.outcome), exchange.request


@pytest.mark.parametrize("name", SENDING)
@pytest.mark.parametrize("file", transcripts.CALLS, ids=lambda file: str(file.stem))
def test_a_client_sends_and_returns_what_the_transcript_says(
    file: Path, name: str, tmp_path: Path
) -> None:
    drivers.needed(name)
    exchanges = transcripts.read(file)
    pipe = tmp_path / "pipe"
    with player(pipe, exchanges) as came, drivers.CLIENTS[name].driver(str(pipe)) as call:
        for number, exchange in enumerate(exchanges):
            asked = exchange.call
            outcome = call(asked["method"], asked.get("params", {}))
            assert exact(_without_class(outcome)) == exact(exchange.outcome), exchange.request
            assert exact(_with_params(came[number])) == exact(_with_params(asked))
    assert len(came) == len(exchanges)


def _with_params(request: dict[str, Any]) -> dict[str, Any]:
    """A request, with what a client may leave out: no parameters, and `code` that is false."""
    params = {"code": False} | request.get("params", {})
    return request | {"params": params}


def _without_class(outcome: dict[str, Any]) -> dict[str, Any]:
    """An outcome as the pipe has it: the driver of Perl adds the class of an error."""
    error = outcome.get("error")
    if error is None:
        return outcome
    return {"error": {name: value for name, value in error.items() if name != "class"}}
