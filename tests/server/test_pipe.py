"""The pipe, on real sockets: JSON-RPC 2.0 to the letter, and clients that behave badly."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from agent.rpc.messages import METHODS, Record
from support.agents import DEADLINE, Agent, wait_for, write
from support.requests import CONF, STATUS, call, code, exchange, line
from support.sites import Site
from support.valid import check, check_params, check_result

LOOKUP = {"jsonrpc": "2.0", "id": 1, "method": "lookup", "params": {"event": "done-job-self"}}


# JSON-RPC 2.0 ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        # Its section 7, with methods of ours in place of `subtract`, `update` and the like.
        ('{"jsonrpc": "2.0", "method": "unsubscribe", "params": [], "id": 1}', ({}, 1)),
        ('{"jsonrpc": "2.0", "method": "unsubscribe", "params": {}, "id": 2}', ({}, 2)),
        ('{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}', None),
        ('{"jsonrpc": "2.0", "method": "foobar"}', None),
        ('{"jsonrpc": "2.0", "method": "foobar", "id": "1"}', (-32601, "1")),
        ('{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]', (-32700, None)),
        ('{"jsonrpc": "2.0", "method": 1, "params": "bar"}', (-32600, None)),
        ('[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},', (-32700, None)),
        ("[]", (-32600, None)),
        ("[1]", [(-32600, None)]),
        ("[1,2,3]", [(-32600, None)] * 3),
        (
            '[{"jsonrpc": "2.0", "method": "unsubscribe", "id": "1"},'
            ' {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},'
            ' {"jsonrpc": "2.0", "method": "unsubscribe", "params": {}, "id": "2"},'
            ' {"foo": "boo"},'
            ' {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},'
            ' {"jsonrpc": "2.0", "method": "unsubscribe", "id": "9"}]',
            [({}, "1"), ({}, "2"), (-32600, None), (-32601, "5"), ({}, "9")],
        ),
        (
            '[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},'
            ' {"jsonrpc": "2.0", "method": "unsubscribe", "params": [7]}]',
            None,
        ),
        # What other servers often get wrong.
        ("5", (-32600, None)),
        ("null", (-32600, None)),
        ('"status"', (-32600, None)),
        ("true", (-32600, None)),
        ("{}", (-32600, None)),
        ("[[]]", [(-32600, None)]),
        ('{"jsonrpc": "2.0", "method": "unsubscribe", "id": 0}', ({}, 0)),
        ('{"jsonrpc": "2.0", "method": "unsubscribe", "id": null}', ({}, None)),
        ('{"jsonrpc": "2.0", "method": "unsubscribe", "id": ""}', ({}, "")),
        ('{"jsonrpc": "2.0", "method": "unsubscribe", "id": -1.5}', ({}, -1.5)),
        ('{"jsonrpc": "2.0", "method": "unsubscribe", "id": true}', (-32600, None)),
        ('{"jsonrpc": "2.0", "method": "unsubscribe", "id": [1]}', (-32600, None)),
        ('{"jsonrpc": "1.0", "method": "unsubscribe", "id": 1}', (-32600, 1)),
        ('{"method": "unsubscribe", "id": 1}', (-32600, 1)),
        ('{"jsonrpc": "2.0", "id": 1}', (-32600, 1)),
        ('{"jsonrpc": "2.0", "method": "unsubscribe", "params": 5, "id": 1}', (-32600, 1)),
        ('{"jsonrpc": "2.0", "method": "unsubscribe", "params": null, "id": 1}', (-32600, 1)),
        ('{"jsonrpc": "2.0", "method": "unsubscribe", "params": "", "id": 1}', (-32600, 1)),
        ('{"jsonrpc": "2.0", "method": "unsubscribe", "params": {"x": 1}, "id": 1}', (-32602, 1)),
        ('{"jsonrpc": "2.0", "method": "unsubscribe", "params": [1], "id": 1}', (-32602, 1)),
        ('{"jsonrpc": "2.0", "method": "lookup", "id": 1}', (-32602, 1)),
        ('{"jsonrpc": "2.0", "method": "lookup", "params": [], "id": 1}', (-32602, 1)),
        ('{"jsonrpc": "2.0", "method": "lookup", "params": ["a-job-1", 1], "id": 1}', (-32602, 1)),
        ('{"jsonrpc": "2.0", "method": "Status", "id": 1}', (-32601, 1)),
        ('{"jsonrpc": "2.0", "method": "rpc.none", "id": 1}', (-32601, 1)),
        ('{"id": 7, "jsonrpc": "2.0", "method": "unsubscribe", "id": 8}', ({}, 8)),
        ("{'jsonrpc': '2.0'}", (-32700, None)),
        ("NaN", (-32700, None)),
        ('{"jsonrpc": "2.0", "method": "unsubscribe", "id": 1} x', (-32700, None)),
        ("   ", None),
        ("", None),
        ("\r", None),
        (' \t{"jsonrpc":"2.0","method":"unsubscribe","id":1}\r', ({}, 1)),
    ],
)
def test_one_line_gets_what_the_specification_says(agent: Agent, sent: str, expected: Any) -> None:
    def short(answer: dict[str, Any]) -> tuple[Any, Any]:
        assert answer["jsonrpc"] == "2.0"
        assert set(answer) in ({"jsonrpc", "id", "result"}, {"jsonrpc", "id", "error"})
        if "error" in answer:
            assert isinstance(answer["error"]["message"], str)
            return code(answer), answer["id"]
        return answer["result"], answer["id"]

    # Nothing ends the connection: later requests are answered.
    *answers, last = exchange(agent, sent.encode() + b"\n" + STATUS)
    assert "result" in last
    got = [short(a) if isinstance(a, dict) else [*map(short, a)] for a in answers]
    assert got == ([] if expected is None else [expected])


def test_bytes_that_are_not_utf_8_are_a_parse_error(agent: Agent) -> None:
    bad = b'{"jsonrpc":"2.0","id":1,"method":"lookup","params":{"event":"done-job-\xff"}}\n'
    first, second = exchange(agent, bad + STATUS)
    assert (code(first), first["id"]) == (-32700, None)
    assert "result" in second


def test_every_methods_result_holds_to_its_schema(site: Site) -> None:
    job = {"id": 7, "label": "x", "pid": 6, "pgrp": 6}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("lookup", {"event": "done-job-self"}),
        ("lookup", {"event": "done-job-self", "code": True, "occurred": ["done-job-parent"]}),
        ("lookup", {"event": {"name": "done", "type": "job", "job": job}, "owner": job}),
        ("explain", {"event": "done-job-self"}),
        ("list", {}),
        ("list", {"code": True}),
        ("lookup", {"event": "done-job-self", "owners": [job, {}]}),
        ("lookup", {"event": "done-job-self", "pending": []}),
        ("code", {"digests": [site.agent.call("list")["callbacks"][0]["digest"]]}),
        ("status", {}),
        ("reload", {}),
        ("history", {}),
        ("history", {"limit": 1}),
        ("subscribe", {}),
        ("unsubscribe", {}),
        ("metrics", {}),
        ("rpc.discover", {}),
    ]
    assert {method for method, _ in calls} == set(METHODS), "add a call of the method above"
    for method, params in calls:
        check_params(method, params)
        result = site.agent.call(method, params)
        check_result(method, result)
        if method in ("lookup", "explain", "list"):
            assert result["callbacks"]
        if method == "code":
            assert len(result["code"]) == 1


def test_rpc_discover_tells_of_every_method(agent: Agent) -> None:
    document = agent.call("rpc.discover")
    assert document["openrpc"].startswith("1.")
    assert {m["name"] for m in document["methods"]} == set(METHODS)


@pytest.mark.parametrize(
    ("params", "pointer", "column"),
    [
        ({"event": "failed-jbo-self"}, "/params/event", 8),
        ({"event": "failed"}, "/params/event", None),
        ({"event": "-job-self"}, "/params/event", 1),
        ({"event": "failed-work-self"}, "/params/event", 17),
        ({"event": "done-job-self", "occurred": ["x-y-z"]}, "/params/occurred/0", 3),
        ({"event": "done-job-self", "occurred": [{"name": "a"}]}, "/params/occurred/0", None),
        ({"event": {"name": "a-b", "type": "job", "job": {}}}, "/params/event/name", None),
        ({"event": {"name": "a", "type": "work", "job": {}}}, "/params/event", None),
        ({"event": "done-job-self", "owner": {"id": "7"}}, "/params/owner/id", None),
        ({"event": "done-job-self", "other": 1}, "/params", None),
    ],
)
def test_bad_params_are_told_where_and_what_was_expected(
    agent: Agent, params: dict[str, Any], pointer: str, column: int | None
) -> None:
    (answer,) = exchange(agent, call("lookup", **params))
    assert code(answer) == -32602
    data = answer["error"]["data"]
    assert data["pointer"].startswith(pointer)
    assert data["expected"]
    if column is not None:
        assert data["column"] == column


# Order, batches, and bytes however they come -----------------------------------------------------


def test_answers_come_in_request_order_with_a_reload_among_them(site: Site) -> None:
    (site.directory / "a.py").write_text("1\n")
    sent = b"".join(
        call("reload" if n in (3, 50) else "lookup", n, **({} if n in (3, 50) else PARAMS))
        for n in range(100)
    )
    answers = exchange(site.agent, sent)
    assert [a["id"] for a in answers] == list(range(100))
    # Requests before the reload may be answered from the old index, those after it may not.
    generation = answers[3]["result"]["generation"]
    assert {a["result"]["generation"] for a in answers[4:]} == {generation}


PARAMS = {"event": "done-job-self"}


def test_a_batch_with_a_reload_inside_is_answered_in_order(site: Site) -> None:
    (site.directory / "a.py").write_text("1\n")
    batch = [
        LOOKUP,
        {"jsonrpc": "2.0", "id": 2, "method": "reload"},
        {**LOOKUP, "id": 3, "params": {"event": "done-job-self", "code": True}},
        {"jsonrpc": "2.0", "method": "reload"},
        5,
        {**LOOKUP, "id": "last"},
    ]
    answers, after = exchange(site.agent, line(batch) + STATUS)
    assert [a["id"] for a in answers] == [1, 2, 3, None, "last"]
    check(Record, answers[1]["result"])
    assert answers[2]["result"]["callbacks"][0]["code"] == "1\n"
    assert after["id"] == 1


def test_a_reload_as_notification_is_done_and_not_answered(site: Site) -> None:
    (site.directory / "a.py").write_text("1\n")
    sent = line({"jsonrpc": "2.0", "method": "reload"}) + call("list", code=True)
    (answer,) = exchange(site.agent, sent)
    assert answer["result"]["callbacks"][0]["code"] == "1\n"


def test_the_largest_batch_is_answered_and_one_more_is_one_error(site: Site) -> None:
    batch = [{**LOOKUP, "id": n} for n in range(1000)]
    first, second, third = exchange(site.agent, line(batch) + line([*batch, LOOKUP]) + STATUS)
    assert [a["id"] for a in first] == list(range(1000))
    assert (code(second), second["id"]) == (-32600, None)
    assert "result" in third


def test_bytes_one_at_a_time_make_the_same_answers(site: Site) -> None:
    sent = line(LOOKUP) + b"\n" + line([LOOKUP, 5]) + b"x\n" + STATUS
    with site.agent.connect() as one, one.makefile("rb") as answers:
        for byte in sent:
            one.sendall(bytes([byte]))
        got = [json.loads(answers.readline()) for _ in range(4)]
    assert (got[0]["id"], len(got[1]), code(got[2]), got[3]["id"]) == (1, 2, -32700, 1)


def _streams(chance: random.Random, clients: int) -> list[bytes]:
    """What each client sends: whole lines, of which many are good for nothing alone but would be
    lookups if they stood beside each other's."""
    one, other = call("lookup", 1, event="done-job-self"), call("lookup", 22, event="done-job-x")
    owned = call("lookup", 3, event="done-job-self", owner={"id": 4})
    odd = [
        call("explain", 5, event="done-job-self"),
        call("lookup", None, event="done-job-self"),
        call("lookup", "six", event="done-job-self"),
        line({"jsonrpc": "2.0", "method": "lookup", "params": {"event": "done-job-self"}}),
        call("lookup", 7, event="no event"),
        call("lookup", 8, event="done-job-self", code=True),
        line([json.loads(one), json.loads(other)]),
        one[:-1] + other,
        one[:-1] + b"\r\n",
        b"  " + one,
        b"\n",
        one.replace(b"}}", b"}\n}"),
        one[:20] + b"\n",
        one[20:],
        one[:-2] + b"\n",
        b"}" + one,
    ]
    how_odd = chance.choice([0, 0, 0.01, 0.3])
    return [
        b"".join(
            chance.choice(odd if chance.random() < how_odd else [one, one, other, owned])
            for _ in range(chance.choice([1, 1, 2, 9, 300]))
        )
        for _ in range(clients)
    ]


def test_what_many_send_at_once_is_answered_as_if_each_were_alone(site: Site) -> None:
    """The agent is stopped while they send, so that it reads all of it in one turn of its loop."""
    assert site.agent.process is not None
    process = site.agent.process
    chance = random.Random(20)
    for turn in range(40):
        streams = _streams(chance, 6)
        alone = [exchange(site.agent, stream) for stream in streams]
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(site.agent.connect()) for _ in streams]
            for client in clients:  # so that all of them are let in before the turn
                client.sendall(call("unsubscribe", 0))
                assert client.recv(1024) == b'{"jsonrpc":"2.0","id":0,"result":{}}\n'
            # A line may come in two pieces, the second of them in the next turn.
            cuts = [
                chance.choice([len(stream), chance.randrange(len(stream))]) for stream in streams
            ]
            for piece in (0, 1):
                process.send_signal(signal.SIGSTOP)
                try:
                    for client, stream, cut in zip(clients, streams, cuts, strict=True):
                        client.sendall(stream[cut:] if piece else stream[:cut])
                        if piece and chance.random() < 0.5:
                            client.shutdown(socket.SHUT_WR)
                finally:
                    process.send_signal(signal.SIGCONT)
            answers = []
            for client in clients:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_WR)
                with client.makefile("rb") as lines:
                    answers.append([json.loads(answer) for answer in lines])
        assert answers == alone, (turn, streams, cuts)


def test_a_client_that_is_gone_takes_no_others_answer(site: Site) -> None:
    """It asks and closes in the turn in which a new one comes, which may get its descriptor."""
    assert site.agent.process is not None
    process = site.agent.process
    for number in range(1, 60):
        gone, stays = site.agent.connect(), site.agent.connect()
        process.send_signal(signal.SIGSTOP)
        try:
            gone.sendall(call("lookup", -number, event="done-job-self"))
            gone.close()
            stays.sendall(call("lookup", number, event="done-job-self"))
            new = site.agent.connect()
            new.sendall(call("lookup", 1000 + number, event="done-job-self"))
        finally:
            process.send_signal(signal.SIGCONT)
        with stays, new:
            for client, identity in ((stays, number), (new, 1000 + number)):
                client.shutdown(socket.SHUT_WR)
                with client.makefile("rb") as lines:
                    assert [json.loads(answer)["id"] for answer in lines] == [identity]


def test_a_line_is_answered_before_the_next_one_is_whole(agent: Agent) -> None:
    with agent.connect() as one, one.makefile("rb") as answers:
        one.sendall(STATUS + STATUS[:-1])
        assert "result" in json.loads(answers.readline())
        one.sendall(b"\n")
        assert "result" in json.loads(answers.readline())


def test_a_socket_and_json_are_all_that_a_client_needs(site: Site) -> None:
    done = subprocess.run(
        ["socat", "-t", "10", "-", f"UNIX-CONNECT:{site.agent.pipe}"],
        input=line(LOOKUP),
        capture_output=True,
        timeout=DEADLINE,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert [c["file"] for c in answer["result"]["callbacks"]] == ["a.py"]
    assert [(c["file"], c["missing"]) for c in answer["result"]["partial"]] == [
        ("q.qcb", "done-job-parent")
    ]


# A line that is too long -------------------------------------------------------------------------

MEBIBYTE = 1 << 20


def padded(length: int) -> bytes:
    """A good request of just so many bytes before its line feed."""
    request = STATUS[:-1]
    return request[:-1] + b" " * (length - len(request)) + b"}\n"


def test_a_line_of_just_a_mebibyte_is_answered(agent: Agent) -> None:
    for answer in exchange(agent, padded(MEBIBYTE) + padded(MEBIBYTE)):
        assert "result" in answer


@pytest.mark.parametrize("more", [1, 5 * MEBIBYTE])
@pytest.mark.parametrize("ended", [False, True])
def test_a_longer_line_is_answered_with_an_error_and_the_connection_is_closed(
    agent: Agent, more: int, ended: bool
) -> None:
    too_long = padded(MEBIBYTE + more)
    with agent.connect() as one, one.makefile("rb") as answers:
        # What came before it is answered, what comes after it is not; and neither writing nor
        # reading fails, so that a client which writes first learns why.
        one.sendall(STATUS + (too_long + STATUS if ended else too_long[:-1]))
        got = [json.loads(answer) for answer in answers]
    assert len(got) == 2
    assert "result" in got[0]
    assert (code(got[1]), got[1]["id"]) == (-32600, None)


def test_a_client_that_goes_on_after_a_line_too_long_is_cut_off(agent: Agent) -> None:
    before = agent.status()["clients"]
    with agent.connect() as one:
        one.sendall(b"x" * (MEBIBYTE + 1))
        wait_for(lambda: agent.status()["clients"] <= before)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            one.sendall(b"x" * (64 * MEBIBYTE))


@pytest.mark.parametrize("header", [b"", b"Content-Length: %d\r\n\r\n" % len(STATUS)])
def test_a_client_that_frames_otherwise_hears_it_and_soon(agent: Agent, header: bytes) -> None:
    with agent.connect() as slow, agent.connect() as one, one.makefile("rb") as answers:
        # What may still become a request has more time than what lacks the line feed alone.
        slow.sendall(STATUS[:-2])
        one.sendall(STATUS + header + STATUS.rstrip())
        got = [json.loads(answer) for answer in answers]
        assert "result" in got.pop(0)
        assert [(code(a), a["id"]) for a in got] == [(-32700, None)] * bool(header) + [
            (-32600, None)
        ]
        for refused in got:
            expected = "one JSON value on each line, ended by a line feed, without headers"
            assert refused["error"]["data"]["expected"] == expected
        slow.sendall(STATUS[-2:])
        with slow.makefile("rb") as late:
            assert "result" in json.loads(late.readline())


# Clients that behave badly -----------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", STATUS * 5000, call("reload") * 10, b'{"jsonrpc'])
def test_a_client_may_close_before_it_reads(agent: Agent, sent: bytes) -> None:
    before = agent.status()["clients"]
    for _ in range(5):
        with agent.connect() as one:
            one.setblocking(False)
            # It fills what the kernel holds, and goes.
            try:
                one.sendall(sent)
            except BlockingIOError:
                assert len(sent) > 100_000
    wait_for(lambda: agent.status()["clients"] <= before)


def test_who_sends_no_more_still_gets_all_answers(site: Site) -> None:
    many = b"".join(call("list", n, code=True) for n in range(3000))
    with site.agent.connect() as one, one.makefile("rb") as answers:

        def send() -> None:
            one.sendall(many)
            one.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        assert [json.loads(a)["id"] for a in answers] == list(range(3000))
        sender.join()


def test_a_slow_reader_does_not_hurt_others_and_loses_nothing(site: Site) -> None:
    """Its answers pile up to a bound, then it is not read from any more."""
    write(site.directory, CONF, a_py="#" * 100_000 + "\n")
    site.reload()
    one = call("list", code=True)
    with site.agent.connect() as slow:
        slow.setblocking(False)
        sent = 0
        try:
            # Answers of some 200 MB: far more than may wait.
            for _ in range(2000):
                sent += slow.send(one)
        except BlockingIOError:
            pass
        assert site.agent.fires("done-job-self") == ["a.py"]
        assert site.agent.process is not None
        assert resident(site.agent.process.pid) < 200 << 20
        slow.settimeout(DEADLINE)
        slow.shutdown(socket.SHUT_WR)
        with slow.makefile("rb") as answers:
            assert sum(1 for answer in answers if answer.endswith(b"}\n")) == sent // len(one)


def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# The socket itself -------------------------------------------------------------------------------


def test_the_pipe_is_its_users_alone(agent: Agent) -> None:
    mode = agent.pipe.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_a_second_agent_for_a_pipe_exits_4_and_says_who_holds_it(agent: Agent) -> None:
    assert agent.process is not None
    second = subprocess.run(
        agent.command, capture_output=True, text=True, timeout=DEADLINE, cwd=agent.folder
    )
    assert second.returncode == 4
    assert str(agent.process.pid) in second.stderr
    assert second.stderr.count("\n") == 1
    assert agent.status()["pid"] == agent.process.pid


def test_a_file_in_the_pipes_place_is_left_alone(tmp_path: Path) -> None:
    one = Agent(tmp_path)
    one.pipe.write_text("precious")
    process = one.launch()
    assert process.wait(DEADLINE) == 2
    assert one.pipe.read_text() == "precious"
    assert str(one.pipe) in one.errors.read_text()


def test_the_next_agent_takes_over_what_a_killed_one_left(tmp_path: Path) -> None:
    one = Agent(tmp_path, write(tmp_path / "cb", "a.py = done-job-self\n", a_py="0\n")).start()
    assert one.process is not None
    one.process.kill()
    one.process.wait()
    assert one.pipe.exists()
    try:
        assert one.start().fires("done-job-self") == ["a.py"]
    finally:
        assert one.stop() == 0


@pytest.mark.parametrize("in_a_batch", [False, True])
def test_who_asks_much_at_once_does_not_make_others_wait(site: Site, in_a_batch: bool) -> None:
    """Other clients are answered between the answers to this one."""
    conf = "".join(f"a.py = done-job-{n}\n" for n in range(2000))
    write(site.directory, conf, a_py="0\n")
    site.reload()
    one = call("list")
    sent = b"[" + b",".join([one[:-1]] * 200) + b"]\n" if in_a_batch else one * 200

    def turns() -> int:
        """How often another client is answered until this one is."""
        answered = threading.Event()
        got: list[bytes] = []

        def read(greedy: socket.socket) -> None:
            with greedy.makefile("rb") as answers:
                got.extend(answers)
            answered.set()

        with site.agent.connect() as greedy:
            reader = threading.Thread(target=read, args=(greedy,))
            reader.start()
            greedy.sendall(sent)
            greedy.shutdown(socket.SHUT_WR)
            count = 0
            while not answered.is_set():
                site.agent.call("unsubscribe")
                count += 1
            reader.join()
        assert len(got) == (1 if in_a_batch else 200)
        return count

    # It is this process that may have stood still meanwhile, though not each time.
    assert any(turns() > 10 for _ in range(5))
