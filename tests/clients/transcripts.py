"""The transcripts in fixtures/pipe: requests, and what the agent answers.

fixtures/README.md describes the files. What differs from run to run is replaced in them; each
replacement is here. `UPDATE_TRANSCRIPTS=1 pytest tests/clients` writes the answers of the agent
into the files: review the difference.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from support.agents import Agent
from support.documents import ROOT

FOLDER = ROOT / "fixtures" / "pipe"
FILES = sorted(FOLDER.glob("*.jsonl"))
#: Those that clients are compared with. `lines` has what no client sends: batches, notifications,
#: what is not JSON, and parameters of a wrong kind.
CALLS = [file for file in FILES if file.stem != "lines"]
#: The transcript of a site that is held.
HELD = "held"

#: Where the site is in the transcripts, and what else has one value for a whole run.
SITE = "/srv/farm"
INDEX = "sha256:" + 64 * "1"
DIRECTORY = "sha256:" + 64 * "2"
INSTANCE = "00000000000000aa"
PID = 4242
#: What differs from answer to answer, and what stands for it.
VARYING = [
    (rb'"(time|mtime)":"[0-9T:.-]+Z"', rb'"\1":"2026-01-02T03:04:05.678Z"'),
    (rb'"(uptime|last_change|per_second|duration_ms)":[0-9.e-]+', rb'"\1":1.5'),
    (rb'("change":"\w+","owner"):"[^"]*"', rb'\1:"mia"'),
    (rb'"watch":"(events|scan)"', rb'"watch":"events"'),
    (rb'^(\{"version"|.*"result":\{"version"):"[^"]*"', rb'\1:"0.1.0"'),
]


class Exchange(NamedTuple):
    """A line that is sent, and the line that answers it; empty where nothing does."""

    request: bytes
    answer: bytes

    @property
    def call(self) -> dict[str, Any]:
        """The request, decoded."""
        decoded: dict[str, Any] = json.loads(self.request)
        return decoded

    @property
    def outcome(self) -> dict[str, Any]:
        """The `result` or the `error` of the answer, alone."""
        decoded = json.loads(self.answer)
        return {name: decoded[name] for name in ("result", "error") if name in decoded}


def read(file: Path) -> list[Exchange]:
    """The exchanges of a transcript."""
    lines = file.read_bytes().split(b"\n")
    assert lines.pop() == b"", f"{file.name}: a line feed is missing at the end"
    assert len(lines) % 2 == 0, f"{file.name}: a request has no answer"
    return [Exchange(*pair) for pair in zip(lines[::2], lines[1::2], strict=True)]


class Replay:
    """An agent that serves the site, and makes its answers comparable."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        # So that the record of a check that came later is there.
        agent.reload()
        status = agent.status()
        self._values = {
            str(agent.folder).encode(): SITE.encode(),
            status["digest"].encode(): INDEX.encode(),
            f'"instance":"{status["instance"]}"'.encode(): f'"instance":"{INSTANCE}"'.encode(),
            f'"pid":{status["pid"]},'.encode(): f'"pid":{PID},'.encode(),
        }
        for directory in status["directories"]:
            self._values[directory["digest"].encode()] = DIRECTORY.encode()

    @property
    def pipe(self) -> str:
        """The path of the agent's pipe."""
        return str(self.agent.pipe)

    def same(self, answer: bytes) -> bytes:
        """An answer as the transcripts have it."""
        for value, stand_in in self._values.items():
            answer = answer.replace(value, stand_in)
        for pattern, replacement in VARYING:
            answer = re.sub(pattern, replacement, answer)
        return answer

    def exchanges(self, requests: list[bytes]) -> list[Exchange]:
        """What the agent answers to lines that are sent on one connection."""
        found = []
        with contextlib.closing(self.agent.connect()) as one, one.makefile("rb") as answers:
            for request in requests:
                one.sendall(request.replace(SITE.encode(), str(self.agent.folder).encode()))
                one.sendall(b"\n")
                answer = answers.readline().rstrip(b"\n") if _is_answered(request) else b""
                found.append(Exchange(request, _shortened(request, self.same(answer))))
        return found


def _is_answered(request: bytes) -> bool:
    with contextlib.suppress(ValueError):
        decoded = json.loads(request)
        parts = decoded if isinstance(decoded, list) else [decoded]
        return not parts or any(not isinstance(part, dict) or "id" in part for part in parts)
    return True


def _shortened(request: bytes, answer: bytes) -> bytes:
    """What is long and described elsewhere is cut to its beginning or its end."""
    if b'"method":"metrics"' in request:
        assert answer.endswith(rb'# EOF\n"}}')
        return re.sub(rb'"text":".*"\}\}', rb'"text":"# EOF\\n"}}', answer)
    if b'"method":"rpc.discover"' in request:
        answer, count = re.subn(rb'("openrpc":"[^"]*"),.*\}$', rb"\1}}", answer)
        assert count == 1
    return answer


@contextlib.contextmanager
def serving(folder: Path, name: str) -> Iterator[Replay]:
    """The site of a transcript, served from a folder."""
    directory = folder / (HELD if name == HELD else "callback")
    shutil.copytree(FOLDER / directory.name, directory)
    shutil.copy(FOLDER / "qb.conf", folder)
    # As git leaves them, others may write to them where the umask allows it.
    for path in (directory, *directory.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    agent = Agent(folder, directory)
    agent.flags += ["--unsafe-permissions", "warn"]
    agent.start()
    try:
        yield Replay(agent)
    finally:
        agent.stop()


def update(file: Path, found: list[Exchange]) -> None:
    """Write answers into a transcript."""
    if os.environ.get("UPDATE_TRANSCRIPTS") == "1":
        file.write_bytes(b"".join(b"%b\n%b\n" % exchange for exchange in found))
