"""A stand-in for the agent, and answers that are valid for the pipe."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import records
from support.agents import summary
from support.valid import check_result

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "0" * 64

#: Seconds that anything may take that happens at once on a machine that is not busy.
SOON = 60


class StandIn:
    """Answers each method with what `answers` has for it: a result, or a dict with `error`."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.answers: dict[str, Any] = {}
        self.requests: list[dict[str, Any]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(self.path)
        self._socket.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line)
                self.requests.append(request)
                given = self.answers[request["method"]]
                key = "error" if isinstance(given, dict) and "code" in given else "result"
                answer = {"jsonrpc": "2.0", "id": request["id"], key: given}
                connection.sendall(json.dumps(answer).encode() + b"\n")

    def well(self, method: str, result: dict[str, Any]) -> None:
        """Answer so from now on; the answer must be one that the agent may give."""
        check_result(method, result)
        self.answers[method] = result

    def params(self) -> Any:
        """The parameters of the last request."""
        return self.requests[-1].get("params")

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


Run = Callable[..., "subprocess.CompletedProcess[str]"]


def callback(file: str = "mail-status.qcb", line: int = 7, **fields: Any) -> dict[str, Any]:
    languages = {"qcb": "qube", "py": "python", "pl": "perl"}
    return {
        "file": file,
        "path": f"/farm/callback/{file}",
        "directory": "/farm/callback",
        "language": languages[file.rpartition(".")[2]],
        "trigger": "done-job-self",
        "line": line,
        "digest": DIGEST,
        "enabled": True,
        **fields,
    }


def off(**fields: Any) -> dict[str, Any]:
    return callback("logFailuresToDB.py", 6, trigger="failed-job-self-*", enabled=False, **fields)


def answered(*callbacks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"generation": 1, "digest": "d", "callbacks": list(callbacks), **more}


def record(**fields: Any) -> dict[str, Any]:
    usual = {"time": "2014-01-20T17:58:36.000Z", "sequence": 2, "generation": 2, "digest": "d"}
    return records.as_json(**{**usual, "callbacks": 1, "duration_ms": 1.5, **fields})


def health(**fields: Any) -> dict[str, Any]:
    directory = {"path": "/farm/callback", "callbacks": 1, "held": None, "watch": "events"}
    return {
        "version": "0.1.0",
        "pid": 1234,
        "uptime": 3725.5,
        "instance": "0123456789abcdef",
        "sequence": 2,
        "state": "ok",
        "generation": 2,
        "digest": "sha256:index",
        "callbacks": 1,
        "disabled": 0,
        "warnings": 0,
        "last_change": 125.0,
        "directories": [{**directory, "digest": "d"}],
        "settings": {
            "pipe": {"value": "/run/x/pipe", "source": "--pipe"},
            "languages": {"value": ["mail", "qube"], "source": "/etc/qb.conf:12"},
        },
        "last_reload": summary(record()),
        "clients": 1,
        "lookups": {"total": 7, "per_second": 0.5},
        "notes": [],
        **fields,
    }


def is_one_line(text: str) -> bool:
    return text.endswith("\n") and text.count("\n") == 1 and text.startswith("callback-agent: ")
