"""Builds and runs the load generator, scripts/load.c, the one that asks every server here."""

import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from bench.process import BenchError, cpu_seconds

SOURCE = Path(__file__).resolve().parents[2] / "scripts" / "load.c"
# The bytes that stand for a request's number, and for bytes that may change; see load.c.
ID = b"\x01"
ANY = b"\x02"


@dataclass(frozen=True)
class Server:
    """Someone to be asked: where, what, and what must come back."""

    name: str
    pid: int
    socket: Path
    request: bytes
    answer: bytes
    frame: str = "line"


@dataclass(frozen=True)
class Shape:
    """How a server is asked: connections, requests sent at once on each, or a pace of its own."""

    connections: int = 1
    depth: int = 1
    rate: float = 0.0  # requests a second, over all connections; 0: as fast as it answers


@dataclass(frozen=True)
class Sample:
    """What one run of the load generator measured. Times in microseconds, CPU in cores."""

    per_second: float
    p50: float
    p99: float
    p999: float
    max: float
    generator_cpu: float
    server_cpu: float


class Generator:
    """The compiled load generator."""

    def __init__(self, folder: Path, seconds: float, warm_up: float) -> None:
        self._folder = folder
        self._program = folder / "load"
        self._times = ("--seconds", str(seconds), "--warm-up", str(warm_up))
        # Seconds after which a run cannot be under way any more.
        self.limit = seconds + warm_up + 20.0
        compiler = shutil.which("cc")
        if compiler is None:
            raise BenchError("no C compiler 'cc' for load.c: apt-get install gcc libc6-dev")
        built = subprocess.run(
            [compiler, "-O2", "-o", self._program, SOURCE],
            check=False,
            capture_output=True,
            text=True,
        )
        if built.returncode:
            raise BenchError(f"{SOURCE} does not compile:\n{built.stderr}")

    def start(self, server: Server, shape: Shape) -> subprocess.Popen[str]:
        """Begin a run; `finish` waits for it."""
        request = self._folder / "request"
        answer = self._folder / "answer"
        request.write_bytes(server.request)
        answer.write_bytes(server.answer)
        command: list[str | Path] = [
            self._program, "--socket", server.socket, "--request", request, "--answer", answer,
            "--frame", server.frame, "--connections", str(shape.connections),
            "--depth", str(shape.depth), "--rate", str(shape.rate), *self._times,
        ]  # fmt: skip
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(self, load: subprocess.Popen[str], server_cpu: float, name: str) -> Sample:
        """What the run measured; `server_cpu` is put with it."""
        try:
            out, err = load.communicate(timeout=self.limit)
        finally:
            load.kill()
        if load.returncode:
            raise BenchError(f"the load generator failed on {name}: {err}")
        got = json.loads(out)
        return Sample(
            got["per_second"], got["p50"], got["p99"], got["p999"], got["max"], got["cpu"],
            server_cpu,
        )  # fmt: skip

    def run(self, server: Server, shape: Shape) -> Sample:
        """Ask `server` for a while and measure; the server's CPU share covers the warm-up too."""
        before = cpu_seconds(server.pid)
        began = time.monotonic()
        load = self.start(server, shape)
        try:
            load.wait(self.limit)
        except subprocess.TimeoutExpired:
            load.kill()
        share = (cpu_seconds(server.pid) - before) / (time.monotonic() - began)
        return self.finish(load, share, server.name)
