"""The client against a server that misbehaves.

The server here is a stand-in, on a real Unix socket: the real agent cannot be made to hang up in
the middle of an answer, to keep silent, or to talk nonsense.
"""

from __future__ import annotations

import ast
import doctest
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent import aio, client
from agent.client import AgentError, Client, NoAgent, Refused, Subscription, TimedOut
from support.agents import DEADLINE
from support.stand_in import (
    ANSWER,
    Behaviour,
    StandIn,
    Start,
    answer,
    hang_up,
    hang_up_after_reading,
    line,
    once,
    requests,
    says,
    silent,
    well,
)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a timeout, calls wait longer here: a shared machine may stop for seconds."""
    for opening in (Client.__init__, Subscription.__init__):
        monkeypatch.setattr(opening, "__defaults__", (DEADLINE,))


def half(request: dict[str, Any]) -> bytes:
    return answer(request)[:-10]


#: Ways of hanging up before there was an answer.
HANGING_UP = [hang_up, hang_up_after_reading, says(half)]
WAYS = ["at-once", "after-reading", "in-the-answer"]


# -- answers ----------------------------------------------------------------------------------


def test_a_request_is_json_rpc_with_the_parameters_that_were_given(start: Start) -> None:
    server = start(well)
    with Client(server.path) as client:
        agent: Any = client  # This server answers with what it was asked.
        sent = agent.lookup("failed-job-self")
        assert sent["jsonrpc"] == "2.0"
        assert sent["method"] == "lookup"
        assert sent["params"] == {"event": "failed-job-self"}
        event = {"name": "failed", "type": "job", "job": {"id": 7}}
        sent = agent.explain(event, owner={}, occurred=[], code=True)
        assert sent["method"] == "explain"
        assert sent["params"] == {"event": event, "owner": {}, "occurred": [], "code": True}
        assert "params" not in agent.list()
        assert agent.list(code=True)["params"] == {"code": True}
        assert agent.history(0)["params"] == {"limit": 0}
        assert "params" not in agent.history()
        assert [agent.status()["method"], agent.reload()["method"]] == ["status", "reload"]
        assert agent.call("rpc.discover", {"x": "\u00e9\U0001f600"})["params"] == {
            "x": "\u00e9\U0001f600"
        }
    assert server.accepted == 1


def test_an_answer_in_many_pieces_is_put_together(start: Start) -> None:
    def drip(connection: socket.socket) -> None:
        for request in requests(connection):
            for byte in answer(request, {"text": "x\u2028y"}):
                connection.sendall(bytes([byte]))

    with Client(start(drip).path) as agent:
        assert agent.status() == agent.call("list") == {"text": "x\u2028y"}


def test_a_long_answer_is_read_whole(start: Start) -> None:
    long = {"text": "x" * 5_000_000}
    with Client(start(says(lambda r: answer(r, long))).path) as agent:
        assert agent.status() == long


def test_other_answers_and_notifications_are_passed_over(start: Start) -> None:
    noise = (
        line({"jsonrpc": "2.0", "id": 999, "result": "another's"})
        + line({"jsonrpc": "2.0", "id": "1", "result": "another's"})
        + line({"jsonrpc": "2.0", "id": True, "result": "another's"})
        + line({"jsonrpc": "2.0", "method": "reload", "params": {}})
    )
    with Client(start(says(noise, answer)).path) as agent:
        assert agent.status() == ANSWER


def test_an_error_is_raised_with_all_that_it_says_and_the_connection_goes_on(start: Start) -> None:
    def refuse_then_answer(connection: socket.socket) -> None:
        incoming = requests(connection)
        error = {"code": -32602, "message": "no such type", "data": {"column": 8}}
        connection.sendall(line({"jsonrpc": "2.0", "id": next(incoming)["id"], "error": error}))
        connection.sendall(answer(next(incoming)))

    server = start(refuse_then_answer)
    with Client(server.path) as agent:
        with pytest.raises(Refused, match="no such type") as raised:
            agent.lookup("failed-jbo-self")
        assert (raised.value.code, raised.value.data) == (-32602, {"column": 8})
        assert agent.lookup("failed-job-self") == ANSWER
    assert server.accepted == 1


def test_an_error_without_id_is_ours_even_when_the_agent_hangs_up_on_us(start: Start) -> None:
    """A line that is too long is refused before it is read to its end."""

    def refuse_early(connection: socket.socket) -> None:
        error = {"code": -32600, "message": "line too long"}
        connection.sendall(line({"jsonrpc": "2.0", "id": None, "error": error}))

    with Client(start(refuse_early).path) as agent, pytest.raises(Refused, match="line too long"):
        agent.call("lookup", {"event": "x" * 4_000_000})


# -- never half an answer, never one for another question --------------------------------------


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff\xfe\n",
        b"\n",
        b"[]\n",
        b"5\n",
        b"[" * 100_000 + b"\n",
        lambda r: line({"jsonrpc": "2.0", "id": r["id"]}),
        lambda r: line({"jsonrpc": "2.0", "id": r["id"], "result": {}, "error": {}}),
        lambda r: line({"jsonrpc": "2.0", "id": r["id"], "error": "no"}),
        lambda r: line({"jsonrpc": "2.0", "id": r["id"], "error": {"code": True, "message": ""}}),
        lambda r: answer(r, "no object"),
    ],
    ids=[
        *("http", "not-utf-8", "empty", "array", "number", "too-deep", "neither", "both"),
        *("error-is-text", "code-is-true", "result-is-text"),
    ],
)
def test_nonsense_is_an_error_and_the_next_call_begins_anew(start: Start, nonsense: Any) -> None:
    server = start(says(nonsense, hold=True), well)
    with Client(server.path) as agent:
        with pytest.raises(AgentError, match="not a callback agent") as raised:
            agent.status()
        assert not isinstance(raised.value, NoAgent | TimedOut | Refused)
        assert agent.status()["method"] == "status"


def test_an_answer_that_does_not_end_is_given_up(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER_BYTES", 1 << 20)
    flood = says(b"x" * (1 << 20), b"x" * (1 << 18), hold=True)
    with Client(start(flood).path) as agent, pytest.raises(AgentError, match="does not end"):
        agent.status()


@pytest.mark.parametrize("behaviour", HANGING_UP, ids=WAYS)
def test_who_hangs_up_on_a_new_connection_gives_no_answer(
    start: Start, behaviour: Behaviour
) -> None:
    server = start(behaviour, well)
    with Client(server.path, restart=0) as agent, pytest.raises(NoAgent, match="connection"):
        agent.status()
    assert server.accepted == 1


@pytest.mark.parametrize("second", HANGING_UP, ids=WAYS)
def test_a_second_hang_up_in_one_call_is_not_tried_again(start: Start, second: Behaviour) -> None:
    server = start(once, second, well)
    with Client(server.path, restart=0) as agent:
        assert agent.status() == ANSWER
        with pytest.raises(NoAgent):
            agent.status()
    assert server.accepted == 2


def answer_then(after: Behaviour) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        connection.sendall(answer(next(requests(connection))))
        after(connection)

    return behave


@pytest.mark.parametrize("after", HANGING_UP, ids=WAYS)
def test_a_kept_connection_that_was_closed_is_made_anew_once(
    start: Start, after: Behaviour
) -> None:
    """The agent was restarted between two calls, or while the second was under way."""
    server = start(answer_then(after), well)
    with Client(server.path) as agent:
        assert agent.status() == ANSWER
        again = agent.call("lookup", {"event": "failed-job-self"})
        assert again["params"] == {"event": "failed-job-self"}
    assert server.accepted == 2


def test_an_agent_that_stopped_is_no_agent(start: Start) -> None:
    server = start(once)
    with Client(server.path, restart=0) as agent:
        assert agent.status() == ANSWER
        server.stop()
        with pytest.raises(NoAgent, match="nobody listens"):
            agent.status()


# -- deadlines ----------------------------------------------------------------------------------


def drips(connection: socket.socket) -> None:
    """Always says something, and never ends the line."""
    while True:
        connection.sendall(b" ")
        time.sleep(0.01)  # The pace of the drip, which the test does not wait for.


def never_reads(connection: socket.socket) -> None:
    threading.Event().wait(60)


@pytest.mark.parametrize(
    ("behaviour", "size"),
    [
        (silent, 1),
        (drips, 1),
        (says(half, hold=True), 1),
        (says(line({"jsonrpc": "2.0", "id": 77, "result": {}}), hold=True), 1),
        (never_reads, 5_000_000),
    ],
    ids=["silent", "drips", "half", "another's", "never-reads"],
)
def test_the_deadline_holds_for_the_call_as_a_whole(
    start: Start, behaviour: Behaviour, size: int
) -> None:
    with Client(start(behaviour).path, timeout=0.3) as agent:
        began = time.monotonic()
        with pytest.raises(TimedOut, match=r"within 0\.3 s"):
            agent.lookup("x" * size)
        took = time.monotonic() - began
    # The server would be silent for ever.
    assert 0.3 <= took < 30


def test_a_full_queue_of_connections_is_waited_for_until_the_deadline(tmp_path: Path) -> None:
    path = str(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        waiting = []
        for _ in range(20):
            other = socket.socket(socket.AF_UNIX)
            other.setblocking(False)
            waiting.append(other)
            if other.connect_ex(path) != 0:
                break
        else:
            pytest.skip("this system has no bound on waiting connections")
        # macOS refuses instead of letting wait.
        with pytest.raises((TimedOut, NoAgent)):
            Client(path, timeout=0.3).status()
        for other in waiting:
            other.close()


def test_a_late_answer_is_not_taken_for_the_next_one(start: Start) -> None:
    asked_again = threading.Event()

    def late(connection: socket.socket) -> None:
        request = next(requests(connection))
        asked_again.wait(30)
        connection.sendall(answer(request, {"stale": True}))

    def then(connection: socket.socket) -> None:
        for request in requests(connection):
            asked_again.set()
            connection.sendall(answer(request, {"stale": False}))

    with Client(start(late, then).path, timeout=1.0) as agent:
        with pytest.raises(TimedOut):
            agent.status()
        agent.timeout = 30
        assert agent.status() == {"stale": False}


# -- who is not there ---------------------------------------------------------------------------


def test_no_agent_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cases = {
        "nothing": "there is no pipe",
        "file": "nobody listens",
        "file/pipe": "there is no pipe",
        "x" * 200: "too long|no pipe",
    }
    for name, why in cases.items():
        with pytest.raises(NoAgent, match=why) as raised:
            Client(str(tmp_path / name), restart=0).status()
        assert str(tmp_path / name) in str(raised.value)


def in_a_child(act: Callable[[], str]) -> str:
    """What `act` returns in a child process, or the error that it raises there."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        told = "the child failed"
        try:
            told = act()
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
        finally:
            os.write(writing, told.encode())
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as told_by_child:
        said = told_by_child.read()
    os.waitpid(child, 0)
    return said


def test_no_permission_is_told(start: Start) -> None:
    server = start(well)
    os.chmod(server.path, 0)

    def ask() -> str:
        if os.getuid() == 0:  # To root, modes say nothing.
            os.setuid(65534)
        return str(Client(server.path).status())

    assert in_a_child(ask) == f"NoAgent: {server.path}: no permission to connect"


def test_the_default_paths_are_the_callers_own_and_then_roots(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/4711")
    root = "/run/callback-agent/pipe"
    assert client.default_paths() == ["/run/user/4711/callback-agent/pipe", root]
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert client.default_paths() == [f"{tmp_path}/callback-agent-4711/pipe", root]
    monkeypatch.setenv("TMPDIR", "relative")
    assert client.default_pipe(os.environ, 4711) == "/tmp/callback-agent-4711/pipe"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert client.default_paths() == [root]


def test_a_default_folder_that_is_somebody_elses_is_not_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Who makes a folder in /tmp under another's name must not hand him code to run."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    folder = tmp_path / "callback-agent-4711"
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    assert client.default_paths() == [client.ROOT_PIPE]
    folder.unlink()
    folder.mkdir()
    if os.getuid() == 0:
        os.chown(folder, 4712, 4712)
    assert client.default_paths() == [client.ROOT_PIPE]
    if os.getuid() == 0:
        os.chown(folder, 4711, 4711)
        assert client.default_paths() == [str(folder / "pipe"), client.ROOT_PIPE]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_default_folder_that_another_user_makes_later_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: Start
) -> None:
    """A client outlives its agent and the folder of its pipe."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    folder = tmp_path / "callback-agent-4711"
    [path, _] = client.default_paths()

    async def ask() -> Any:
        async with aio.Client(path, timeout=DEADLINE, restart=0) as agent:
            return await agent.status()

    with Client(path, timeout=DEADLINE, restart=0) as agent:
        with pytest.raises(NoAgent, match="there is no pipe"):
            agent.status()
        folder.mkdir()
        server = StandIn(folder / "pipe", [once, once, once, once])
        assert agent.status() == ANSWER
        assert anyio.run(ask) == ANSWER
        for mode, owner, problem in (
            (0o775, 4711, "others may write to"),
            (0o757, 0, "others may write to"),
            (0o755, 4712, "belongs to another user"),
        ):
            folder.chmod(mode)
            os.chown(folder, owner, owner)
            for call in (agent.status, agent.subscribe, lambda: anyio.run(ask)):
                with pytest.raises(NoAgent, match=problem):
                    call()
        server.stop()
    assert server.accepted == 2


def test_a_child_that_forked_does_not_use_its_parents_connection(start: Start) -> None:
    server = start(well, well)
    with Client(server.path) as agent:
        agent.status()
        assert in_a_child(lambda: str(agent.call("list")["method"])) == "list"
        assert agent.status()["method"] == "status"
    assert server.accepted == 2


# -- subscriptions ------------------------------------------------------------------------------


def record(number: int) -> bytes:
    return line({"jsonrpc": "2.0", "method": "reload", "params": {"generation": number}})


SUBSCRIBED = {"generation": 3, "digest": "d"}


def test_a_subscription_gives_the_records_in_order_and_tells_when_the_agent_goes(
    start: Start,
) -> None:
    noise = line({"jsonrpc": "2.0", "method": "other", "params": {}})
    behaviour = says(lambda r: answer(r, SUBSCRIBED) + record(4), noise, record(5), record(6)[:20])
    with Client(start(behaviour).path).subscribe() as records:
        assert (records.generation, records.digest) == (3, "d")
        assert [next(records), next(records)] == [{"generation": 4}, {"generation": 5}]
        with pytest.raises(NoAgent):
            next(records)


def test_waiting_for_a_record_has_a_deadline_and_loses_none(start: Start) -> None:
    go_on = threading.Event()

    def in_two_parts(connection: socket.socket) -> None:
        request = next(requests(connection))
        connection.sendall(answer(request, SUBSCRIBED) + record(4)[:20])
        go_on.wait(30)
        connection.sendall(record(4)[20:])
        silent(connection)

    with Subscription(start(in_two_parts).path) as records:
        with pytest.raises(TimedOut):
            records.next(0.1)
        with pytest.raises(TimedOut):
            records.next(0)
        go_on.set()
        assert records.next(30) == {"generation": 4}
        records.close()
        assert list(records) == []


def test_a_subscription_that_is_not_answered_is_an_error(start: Start) -> None:
    with pytest.raises(TimedOut):
        Client(start(silent).path, timeout=0.2).subscribe()
    with pytest.raises(NoAgent):
        Client(start(hang_up).path, restart=0).subscribe()
    with pytest.raises(AgentError, match="not an object"):
        Client(start(says(lambda r: answer(r, 1))).path).subscribe()


def test_a_client_and_its_subscription_have_connections_of_their_own(start: Start) -> None:
    server = start(well, well)
    with Client(server.path) as agent:
        agent.status()
        with agent.subscribe():
            assert server.accepted == 2
            assert agent.status()["method"] == "status"


# -- one file for any Python --------------------------------------------------------------------

SOURCE = Path(client.__file__)


def test_the_example_in_the_client_works(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    # The example is of a supervisor, which waits less long than a test.
    monkeypatch.setattr(client, "Client", lambda path, timeout=0.0: Client(path, DEADLINE))
    callback = {"file": "mail-status.qcb", "enabled": True, "code": "mail-status\n"}
    off = {"file": "logFailuresToDB.py", "enabled": False, "code": ""}
    behaviour = says(lambda r: answer(r, {**ANSWER, "callbacks": [off, callback]}))
    server = start(behaviour, behaviour)
    failed, tried = doctest.testmod(client, extraglobs={"pipe": server.path})
    assert failed == 0
    assert tried > 2


def test_the_client_is_written_in_the_python_of_old_supervisors() -> None:
    ast.parse(SOURCE.read_text(), feature_version=(3, 6))


@pytest.mark.parametrize("version", ["3.6", "3.7", "3.8", "3.9", "3"])
def test_a_copy_of_the_client_works_in_an_old_python(
    version: str, start: Start, tmp_path: Path
) -> None:
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"there is no python{version} on this machine")
    shutil.copy(SOURCE, tmp_path / "asks.py")
    script = (
        "import asks, sys\n"
        "with asks.Client(sys.argv[1]) as agent: print(agent.lookup('failed-job-self')['method'])\n"
        "since = {'instance': 'i', 'sequence': 7}\n"
        "print(agent.subscribe(since, heartbeat=5).position)\n"
        "try: asks.Client(sys.argv[2]).status()\n"
        "except asks.NoAgent as error: print(error)\n"
    )
    done = subprocess.run(
        [python, "-c", script, start(well, well).path, str(tmp_path / "none")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    position = {"instance": "i", "sequence": 7}
    printed = f"lookup\n{position}\n{tmp_path}/none: there is no pipe\n"
    assert done.stdout == printed, done.stderr
