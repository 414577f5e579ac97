"""The clients in Perl and C against servers, signals and folders that are not as they should be.

`tests/test_client.py` shows the same of the client in Python.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients import drivers
from support.agents import DEADLINE, Agent, running, write
from support.stand_in import (
    ANSWER,
    Behaviour,
    StandIn,
    Start,
    answer,
    hang_up,
    hang_up_after_reading,
    line,
    requests,
    says,
    silent,
    well,
)

#: Any user who is not root; nobody has this id.
USER = 54321
#: Seconds that a call may take where it must fail: it costs the test this long.
BRIEF = "0.3"

Talk = Callable[..., dict[str, Any]]


class Client:
    """A client in a process of its own."""

    def __init__(self, command: list[str], **environ: Any) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **environ
        )

    def send(self, method: str = "status", **more: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line({"method": method, "params": {}} | more))
        self.process.stdin.flush()

    def outcome(self) -> dict[str, Any]:
        """What came of a call. A client that was killed has no outcome, so this fails."""
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        if "error" in found:
            found["error"]["class"] = found["error"].get("class", "Refused").rpartition(":")[2]
        return found

    def call(self, method: str = "status", **more: Any) -> dict[str, Any]:
        self.send(method, **more)
        return self.outcome()

    def error(self, **more: Any) -> str:
        """The class of the error of a call."""
        return str(self.call(**more)["error"]["class"])

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            # The sanitizers report what was lost at the end.
            assert self.process.wait(DEADLINE) == 0
        finally:
            self.process.kill()
            self.process.stdout.close()


@pytest.fixture(params=["perl", "c"])
def language(request: pytest.FixtureRequest) -> str:
    drivers.needed(request.param)
    return str(request.param)


@contextlib.contextmanager
def client(language: str, *arguments: str, **environ: Any) -> Iterator[Client]:
    one = Client(drivers.command(language, *arguments), **environ)
    try:
        yield one
    finally:
        one.close()


# -- answers --------------------------------------------------------------------------------------


def test_an_answer_in_many_pieces_is_put_together(language: str, start: Start) -> None:
    def drip(connection: socket.socket) -> None:
        for request in requests(connection):
            for byte in answer(request, {"text": "x\u2028y"}):
                connection.sendall(bytes([byte]))

    with client(language, start(drip).path) as one:
        assert one.call() == one.call("list") == {"result": {"text": "x\u2028y"}}


def test_a_long_answer_is_read_whole(language: str, start: Start) -> None:
    # JSON::PP decodes about 3 MB a second.
    long = {"text": (1_000_000 if language == "perl" else 20_000_000) * "x"}
    with client(language, start(says(lambda r: answer(r, long))).path) as one:
        assert one.call() == {"result": long}


def test_what_is_no_answer_to_the_request_is_passed_over(language: str, start: Start) -> None:
    noise = (
        line({"jsonrpc": "2.0", "id": 999, "result": "another's"})
        + line({"jsonrpc": "2.0", "id": True, "result": "another's"})
        + line({"jsonrpc": "2.0", "method": "reload", "params": {"id": 1, "result": [{}]}})
    )
    with client(language, start(says(noise, answer)).path) as one:
        assert one.call() == {"result": ANSWER}


def test_a_refusal_of_the_whole_connection_is_the_outcome(language: str, start: Start) -> None:
    refusal = {"code": -32000, "message": "too many connections"}
    gone = line({"jsonrpc": "2.0", "id": None, "error": refusal})

    def refuses_at_once(connection: socket.socket) -> None:
        connection.sendall(gone)

    with client(language, start(refuses_at_once, says(gone, hold=True), well).path) as one:
        # A line that is longer than the socket's buffer: it cannot be sent whole.
        long = one.call("lookup", params={"event": 400_000 * "x"})["error"]
        assert (long["code"], long["message"]) == (-32000, "too many connections")
        assert one.call()["error"]["code"] == -32000
        assert one.call()["result"]["method"] == "status"


@pytest.mark.parametrize(
    "nonsense",
    [b"HTTP/1.1 400 Bad Request\n", b"[]\n", b"\xff\n", b'{"jsonrpc":"2.0","id":1}\n', b"{\n"],
)
def test_nonsense_is_not_an_answer(language: str, start: Start, nonsense: bytes) -> None:
    # A line without an id may be a notification, which is waited through.
    may_wait = nonsense == b"{\n"
    server = start(says(nonsense, hold=True))
    with client(language, server.path, BRIEF if may_wait else "60") as one:
        assert one.error() in {"Error"} | ({"TimedOut"} if may_wait else set())


# -- servers that go ------------------------------------------------------------------------------


def half(request: dict[str, Any]) -> bytes:
    return answer(request)[:-10]


@pytest.mark.parametrize(
    "gone", [hang_up, hang_up_after_reading, says(half)], ids=["at-once", "after-reading", "half"]
)
def test_a_call_is_sent_again_when_the_server_hangs_up(
    language: str, start: Start, gone: Behaviour
) -> None:
    server = start(gone, gone, says(answer), gone, well)
    with client(language, server.path, "60", "60") as one:
        assert one.call() == {"result": ANSWER}
        assert one.call()["result"]["method"] == "status"
    assert server.accepted == 5


def test_a_call_waits_for_an_agent_that_restarts(language: str, tmp_path: Path) -> None:
    directory = write(tmp_path / "cb", "a.py = done-job-self\n", a_py="#\n")
    agent = Agent(tmp_path, directory)
    agent.start()
    try:
        with client(language, str(agent.pipe), "60", "60") as one:
            first = one.call("lookup", params={"event": "done-job-self"})
            assert [c["file"] for c in first["result"]["callbacks"]] == ["a.py"]
            assert agent.stop() == 0
            one.send("lookup", params={"event": "done-job-self"})
            agent.start()
            assert one.outcome() == first
    finally:
        agent.stop()


def test_nobody_there(language: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "nothing", tmp_path / "file", tmp_path / "file" / "below", "x" * 300):
        with client(language, str(path)) as one:
            assert one.error() == "NoAgent"


# -- time -----------------------------------------------------------------------------------------


def trickle(connection: socket.socket) -> None:
    """Sends an answer that has no end, so that something can always be read."""
    next(requests(connection))
    while True:
        connection.sendall(b"x")
        time.sleep(0.001)


@pytest.mark.parametrize("slow", [silent, says(half, hold=True), trickle])
def test_a_call_ends_in_time_and_the_next_is_answered(
    language: str, start: Start, slow: Behaviour
) -> None:
    with client(language, start(slow, well).path, BRIEF) as one:
        assert one.error() == "TimedOut"
        one.send()
        # This machine may be suspended for longer than the call has.
        found = one.outcome()
        assert found.get("error", {"class": "TimedOut"})["class"] == "TimedOut"
        assert "result" not in found or found["result"]["method"] == "status"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse where the queue is full")
def test_a_server_that_reads_nothing_and_a_full_queue(language: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, contextlib.ExitStack() as stack:
        server.bind(str(tmp_path / "pipe"))
        server.listen(0)
        with client(language, str(tmp_path / "pipe"), BRIEF) as one:
            assert one.error(params={"event": 600_000 * "x"}) == "TimedOut"
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                try:
                    waiting.connect(str(tmp_path / "pipe"))
                except BlockingIOError:
                    break
            assert one.error() == "TimedOut"


def test_signals_do_not_end_a_call(language: str, start: Start) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def waits(connection: socket.socket) -> None:
        for request in requests(connection):
            asked.set()
            go_on.wait(DEADLINE)
            connection.sendall(answer(request))

    with client(language, start(waits).path) as one:
        one.send()
        assert asked.wait(DEADLINE)
        for _ in range(50):
            one.process.send_signal(signal.SIGUSR1)
            time.sleep(0.001)
        go_on.set()
        assert one.outcome() == {"result": ANSWER}


# -- processes and folders ------------------------------------------------------------------------


def test_after_a_fork_each_process_has_its_own_connection(language: str, start: Start) -> None:
    server = start(well, well, well)
    with client(language, server.path) as one:
        one.call()
        one.send(fork=True)
        assert one.outcome()["result"]["method"] == "status"
        assert one.outcome()["result"]["method"] == "status"
    # The parent goes on with its own.
    assert server.accepted == 2


@pytest.fixture
def shared(place: Path, language: str) -> list[str]:
    """The command of a client for a user who may not read this project."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    command = drivers.command(language)
    copied = []
    for part in command:
        source = Path(
            part.removeprefix(f"-I{drivers.SCRIPTS}") or drivers.SCRIPTS / "CallbackAgent.pm"
        )
        if source.is_absolute():
            (place / source.name).write_bytes(source.read_bytes())
            (place / source.name).chmod(0o755)
            part = str(place / source.name) if not part.startswith("-I") else f"-I{place}"
        copied.append(part)
    return copied


@pytest.mark.parametrize(
    ("owner", "mode", "problem"),
    [
        (USER, 0o755, ""),
        (0, 0o755, ""),
        (USER + 1, 0o755, "belongs to another user"),
        (USER, 0o777, "others may write to"),
        (0, 0o775, "others may write to"),
    ],
)
@pytest.mark.parametrize("variable", ["XDG_RUNTIME_DIR", "TMPDIR"])
def test_a_default_pipe_in_a_folder_of_others_is_refused(
    shared: list[str], place: Path, owner: int, mode: int, problem: str, variable: str
) -> None:
    folder = place / (
        "callback-agent" if variable == "XDG_RUNTIME_DIR" else f"callback-agent-{USER}"
    )
    folder.mkdir()
    server = StandIn(folder / "pipe", [well])
    for path in (folder, folder / "pipe"):
        os.chown(path, owner, owner)
        path.chmod(mode if path == folder else 0o777)
    # An empty path is the default one.
    other = {"user": USER, "group": USER, "extra_groups": [], "env": {variable: str(place)}}
    one = Client([*shared, ""], **other)
    try:
        found = one.call()
    finally:
        one.close()
        server.stop()
    if problem:
        assert found["error"]["class"] == "NoAgent"
        assert problem in found["error"]["message"]
    else:
        assert found["result"]["method"] == "status"
    assert server.accepted == (not problem)


# -- the helpers of the client in C ---------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\0"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)


@contextlib.contextmanager
def helper(*arguments: str) -> Iterator[Callable[[str], str]]:
    """What a helper makes of a line."""
    one = Client(drivers.command("c", *arguments))
    stdin, stdout = one.process.stdin, one.process.stdout
    assert stdin is not None
    assert stdout is not None

    def ask(text: str) -> str:
        stdin.write(text.encode() + b"\n")
        stdin.flush()
        found: bytes = stdout.readline()
        return found.decode().removesuffix("\n")

    try:
        yield ask
    finally:
        one.close()


def test_text_is_quoted_as_json() -> None:
    drivers.needed("c")
    with helper("--quote") as quote:

        @given(TEXTS)
        def check(text: str) -> None:
            assert json.loads(quote(text)) == text

        check()


def test_a_member_of_an_object_is_found() -> None:
    drivers.needed("c")
    with helper("--member", "a") as member:

        @given(st.dictionaries(st.sampled_from("abc") | TEXTS, VALUES), st.sampled_from([None, 1]))
        def check(value: dict[str, Any], spaces: int | None) -> None:
            separators = (" , ", " : ") if spaces else None
            found = member(json.dumps(value, separators=separators, ensure_ascii=not spaces))
            assert (json.loads(found) == value["a"]) if "a" in value else (found == "")

        @given(st.text(st.sampled_from('{}[]:,"\\a1 '), max_size=20))
        def survive(noise: str) -> None:
            member(noise)

        check()
        survive()


# -- exceptions of the caller ---------------------------------------------------------------------

#: Asks again and again, while an alarm at some moment of the call raises an exception.
_ALARMS = """
use strict; use warnings; use CallbackAgent; use Time::HiRes 'ualarm';
my $agent = CallbackAgent->new(path => $ARGV[0], timeout => 60);
for my $count (1 .. 600) {
    local $SIG{ALRM} = sub { die "alarm\\n" };
    my $answer = eval {
        ualarm(1 + $count % 300);
        my $found = $agent->lookup('failed-job-self');
        ualarm(0);
        $found;
    };
    my $error = $@;
    ualarm(0);
    die "not the alarm: $error" if !$answer && $error ne "alarm\\n";
    die "not the answer" if $answer && $answer->{callbacks}[0]{file} ne 'a.py';
}
print length CallbackAgent::bytes($_), "\\n" for {text => "\\x{e9}"}, {base64 => 'AAEC'};
print eval { CallbackAgent::bytes({file => 'a.py'}) } // $@;
"""


def test_what_a_signal_handler_of_the_caller_raises_in_perl_reaches_it(tmp_path: Path) -> None:
    drivers.needed("perl")
    folder = write(tmp_path / "cb", "a.py = failed-job-self\n", a_py="0\n")
    with running(tmp_path, folder) as agent:
        done = subprocess.run(
            ["perl", f"-I{drivers.SCRIPTS}", "-e", _ALARMS, str(agent.pipe)],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "2\n3\nit has no code: ask with code => 1",
        "",
    )
