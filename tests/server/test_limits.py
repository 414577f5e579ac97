"""Every limit: what is over it gets a clear error or finding, and nobody else is hurt."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import client
from agent.core import match, reasons, trigger
from agent.core.event import Event, EventError
from agent.core.index import Index, ServedDirectory
from agent.core.languages import DEFAULT_FLAGS
from agent.core.steps import Steps
from agent.core.term import Term
from agent.core.unit import Implementation, Registration, Unit
from agent.reload import check_helper
from agent.rpc import jsonrpc, messages, results
from agent.rpc.lines import MAX_LINE
from agent.server import shared
from agent.timing import CheckLimits, PipeLimits, Timing
from support.agents import DEADLINE, Agent, running, wait_for, write
from support.targets import Checking

ROOT = Path(__file__).parents[2]

CONF = "a.pl = done-job-self\n"

#: Attempts at what shows nothing if this process is suspended while the agent works.
TRIES = 5


def limited(folder: Path, directory: Path, limits: PipeLimits) -> Agent:
    """An agent with these limits of the pipe."""
    return Agent(folder, directory).use(Timing(pipe=limits))


@contextlib.contextmanager
def started(agent: Agent) -> Iterator[Agent]:
    agent.start()
    try:
        yield agent
    finally:
        agent.stop()
        told = agent.errors.read_text()
        assert "Traceback" not in told
        assert "internal" not in told


@pytest.fixture
def cb(tmp_path: Path) -> Path:
    return write(tmp_path / "cb", CONF, a_pl="#\n")


@pytest.fixture
def agent(tmp_path: Path, cb: Path) -> Iterator[Agent]:
    with running(tmp_path, cb) as agent:
        yield agent
        told = agent.errors.read_text()
        assert "Traceback" not in told
        assert "internal" not in told


def request(method: str, identity: int = 1, **params: Any) -> bytes:
    return line({"jsonrpc": "2.0", "id": identity, "method": method, "params": params})


def line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


class Talk:
    """One connection, and what comes back on it."""

    def __init__(self, agent: Agent) -> None:
        self.socket = agent.connect()
        self._lines = self.socket.makefile("rb")

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self.socket.close()

    def send(self, sent: bytes) -> None:
        self.socket.sendall(sent)

    def next(self) -> Any:
        """The next line, None at the end."""
        came = self._lines.readline()
        return json.loads(came) if came else None

    def ask(self, method: str, **params: Any) -> Any:
        self.send(request(method, **params))
        came = self.next()
        assert "result" in came, came
        return came["result"]


def resident(agent: Agent) -> int:
    """The agent's memory in bytes."""
    assert agent.process is not None
    pages = int(Path(f"/proc/{agent.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")


# The pipe ----------------------------------------------------------------------------------------


def test_connections(tmp_path: Path, cb: Path) -> None:
    with started(limited(tmp_path, cb, PipeLimits(max_connections=5))) as agent:
        with contextlib.ExitStack() as stack:
            talks = [stack.enter_context(Talk(agent))]
            wait_for(lambda: talks[0].ask("status")["clients"] == 0, "nobody else")
            talks += [stack.enter_context(Talk(agent)) for _ in range(4)]
            for talk in talks:
                assert talk.ask("status")["state"] == "ok"
            for _ in range(3):
                over = stack.enter_context(Talk(agent))
                error = over.next()["error"]
                assert error["code"] == messages.REFUSED
                assert "5 connections already; try again later" in error["message"]
                assert over.next() is None
            for talk in talks:
                assert talk.ask("status")["state"] == "ok"
        wait_for(lambda: not refused(agent), "room again")


def refused(agent: Agent) -> bool:
    with Talk(agent) as talk, contextlib.suppress(OSError):
        talk.send(request("status"))
        came = talk.next()
        return came is None or "error" in came
    return True


def test_a_line_must_end_in_time_and_silence_may_last_for_ever(tmp_path: Path, cb: Path) -> None:
    agent = limited(tmp_path, cb, PipeLimits(max_line_seconds=4.0))
    with started(agent), Talk(agent) as silent, Talk(agent) as subscribed, Talk(agent) as slow:
        assert subscribed.ask("subscribe")["generation"] == 1
        assert silent.ask("status")["state"] == "ok"
        # What ends in time is answered, however it came.
        whole = request("status")
        slow.send(whole[:10])
        # By now it has seen that the line is begun.
        assert silent.ask("status")["state"] == silent.ask("status")["state"]
        slow.send(whole[10:])
        assert slow.next()["result"]["state"] == "ok"
        with Talk(agent) as begun, Talk(agent) as drip:
            begun.send(whole + b'{"json')
            assert begun.next()["result"]["state"] == "ok"
            began = time.monotonic()
            # A byte now and then does not help.
            while begun.socket.fileno() >= 0 and time.monotonic() - began < 2.0:
                drip.send(b" ")
                time.sleep(0.02)
            for one in (begun, drip):
                error = one.next()["error"]
                assert error["code"] == messages.INVALID_REQUEST
                assert "a line took more than" in error["message"]
                assert one.next() is None
            assert 3.9 < time.monotonic() - began < DEADLINE
        # They were silent for as long, or longer.
        for one in (silent, subscribed, slow):
            assert one.ask("status")["state"] == "ok"


def test_request_bytes(agent: Agent) -> None:
    with Talk(agent) as other, Talk(agent) as talk:
        filler = b" " * (MAX_LINE - len(request("status").strip()))
        talk.send(filler + request("status"))
        assert talk.next()["result"]["state"] == "ok"
        # It is refused as soon as it is too long; it need not end.
        talk.send(b"x" * (MAX_LINE + 1))
        error = talk.next()["error"]
        assert error["code"] == messages.INVALID_REQUEST
        assert str(MAX_LINE) in error["data"]["expected"]
        assert talk.next() is None
        assert other.ask("status")["state"] == "ok"


@needs_proc
def test_requests_in_flight(agent: Agent) -> None:
    """What follows a request that takes long waits, unread, in the sender's buffers."""
    before = resident(agent)
    with Talk(agent) as talk, Talk(agent) as other:
        many = request("reload") + request("lookup", event="x-job-" + "y" * 5000) * 200
        sent = 0
        talk.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while sent < 512 << 20:
                sent += talk.socket.send(many[sent % len(many) :])
        assert sent < 64 << 20
        assert other.ask("status")["state"] == "ok"
        assert resident(agent) - before < 64 << 20
        # Nothing is lost.
        talk.socket.settimeout(DEADLINE)
        whole, rest = divmod(sent, len(many))
        expected = whole * 201 + many[:rest].count(b"\n")
        for _ in range(expected):
            assert "result" in talk.next()


def test_json_depth(agent: Agent) -> None:
    def nested(depth: int) -> bytes:
        return b'{"x":' * (depth - 1) + b"[]" + b"}" * (depth - 1) + b"\n"

    with Talk(agent) as talk:
        talk.send(nested(jsonrpc.MAX_DEPTH))
        assert talk.next()["error"]["code"] == messages.INVALID_REQUEST
        for depth in (jsonrpc.MAX_DEPTH + 1, 1000, 100_000):
            talk.send(nested(depth))
            error = talk.next()["error"]
            assert error["code"] == messages.PARSE_ERROR
            assert str(jsonrpc.MAX_DEPTH) in error["message"]
        talk.send(b"[" * 1_000_000 + b"\n")
        assert talk.next()["error"]["code"] == messages.PARSE_ERROR
        assert talk.ask("status")["state"] == "ok"


@needs_proc
def test_answers_that_are_not_read(agent: Agent, cb: Path) -> None:
    write(cb, CONF, a_pl="#" * 500_000)
    agent.reload()
    before = resident(agent)
    with contextlib.ExitStack() as stack:
        deaf = [stack.enter_context(Talk(agent)) for _ in range(10)]
        for talk in deaf:
            talk.socket.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(1000):
                    talk.socket.send(request("list", code=True))
        with Talk(agent) as other:
            wait_for(lambda: other.ask("status")["clients"] == 10, "these clients and no others")
        # Each may cost the limit, an answer, and what the allocator makes of it.
        assert resident(agent) - before < 10 * 4 * (shared.MAX_UNREAD + 500_000)


def test_notifications_that_are_not_read(tmp_path: Path, cb: Path) -> None:
    """A subscriber that does not read is closed, so that it learns that it missed some."""
    agent = limited(tmp_path, cb, PipeLimits(max_unread_notifications=300_000))
    with started(agent), Talk(agent) as deaf, Talk(agent) as good:
        deaf.ask("subscribe")
        good.ask("subscribe")
        heard = 0
        lines = "".join(f"a.pl = x{n}-job-self\n" for n in range(500))
        for number in range(60):
            write(cb, CONF + (lines if number % 2 == 0 else ""))
            agent.reload()
            while good.next()["params"]["generation"] < agent.status()["generation"]:
                heard += 1
            heard += 1
            if agent.status()["clients"] == 1:
                break
        wait_for(lambda: agent.status()["clients"] == 1, "the deaf one to be closed")
        assert heard >= 5
        assert good.ask("unsubscribe") == {}
        came: Any = 0
        # The last line that it reads may be half a one.
        with contextlib.suppress(ConnectionResetError, ValueError):
            while came is not None:
                came = deaf.next()


# Batches -----------------------------------------------------------------------------------------


def test_requests_of_a_batch(agent: Agent) -> None:
    one = json.loads(request("status"))
    with Talk(agent) as talk:
        talk.send(line([one] * jsonrpc.MAX_BATCH))
        assert len(talk.next()) == jsonrpc.MAX_BATCH
        talk.send(line([one] * (jsonrpc.MAX_BATCH + 1)))
        error = talk.next()["error"]
        assert error["code"] == messages.INVALID_REQUEST
        assert str(jsonrpc.MAX_BATCH) in error["data"]["expected"]
        assert talk.ask("status")["state"] == "ok"


def test_answers_of_a_batch(tmp_path: Path, cb: Path) -> None:
    write(cb, CONF, a_pl="#" * 10_000)
    with started(limited(tmp_path, cb, PipeLimits(max_batch_bytes=100_000))) as agent:
        batch: list[Any] = [json.loads(request("list", n, code=True)) for n in range(100)]
        batch[50] = "no request"
        batch.append({"jsonrpc": "2.0", "method": "list"})
        with Talk(agent) as talk:
            talk.send(line(batch))
            came = talk.next()
            assert [a["id"] for a in came] == [*range(50), None, *range(51, 100)]
            good = [a for a in came if "result" in a]
            assert 8 <= len(good) <= 12
            assert good == came[: len(good)]
            codes = {a["error"]["code"] for a in came[len(good) :] if a["id"] is not None}
            assert codes == {messages.TOO_LARGE}
            assert came[50]["error"]["code"] == messages.INVALID_REQUEST
            assert len(talk.ask("list", code=True)["callbacks"]) == 1


def test_a_batch_does_not_make_others_wait(tmp_path: Path) -> None:
    many = "".join(f"a.pl = x{n}-job-self\n" for n in range(3000))
    agent = Agent(tmp_path, write(tmp_path / "cb", many, a_pl="#\n"))
    with started(agent), Talk(agent) as greedy, Talk(agent) as other:
        one = json.loads(request("list", code=True))

        def between() -> int:
            """How often the other is answered until the batch is."""
            greedy.send(line([one] * 60))
            answered = threading.Event()

            def read_all() -> None:
                assert len(greedy.next()) == 60
                answered.set()

            reader = threading.Thread(target=read_all)
            reader.start()
            count = 0
            while not answered.is_set():
                assert other.ask("unsubscribe") == {}
                count += 1
            reader.join()
            return count

        assert any(between() >= 10 for _ in range(TRIES))


# What one request may cost -----------------------------------------------------------------------


def registered(*texts: str) -> Index:
    lines = []
    for number, text in enumerate(texts, 1):
        tree, _ = trigger.parse(text)
        assert tree is not None
        lines.append(Registration("a.pl", tree, str(tree), number))
    unit = Unit(tuple(lines), {"a.pl": Implementation.of(b"#\n")})
    return Index.of(1, [ServedDirectory.of("/cb", unit, DEFAULT_FLAGS)])


def test_as_many_events_as_a_line_holds_against_many_callbacks() -> None:
    """One by one it would take minutes, in which nobody else is answered."""
    index = registered(*(f"done-job-self && x{n}-job-self" for n in range(2000)))
    events = tuple(f"y{n}-job-self" for n in range(40_000))
    params = messages.LookupParams("done-job-self", occurred=(*events, "x7-job-self"))
    began = time.thread_time()
    found = json.loads(results.lookup(index, params))
    assert time.thread_time() - began < 5
    assert [c["trigger"] for c in found["callbacks"]] == ["done-job-self && x7-job-self"]
    assert len(found["partial"]) == 1999


NAMES = st.sampled_from(["done", "failed", "killed", "a", "ab"])
TYPES = st.sampled_from(["job", "work", "global", "subjob", "time"])
PATTERNS = st.builds(
    "-".join,
    st.tuples(
        st.sampled_from(["done", "a", "*", "f*", "*b", "failed"]),
        TYPES,
        st.sampled_from(
            ["self", "parent", "*", "7", "lab", "l*", "lab-x", "*-x", "lab-*", "lab-a-b"]
        ),
    ),
)
EXTRAS = st.sampled_from([None, "*", "x", "7", "a-b", "a*", "*b", "*-*"])
JOBS = st.builds(
    SimpleNamespace,
    id=st.sampled_from([None, 7, 9]),
    label=st.sampled_from([None, "lab", "lab-x", "self"]),
    pid=st.sampled_from([None, 7]),
    pgrp=st.sampled_from([None, 1]),
)


@st.composite
def events(draw: st.DrawFn) -> Event | None:
    owner = draw(st.none() | JOBS)
    extra = draw(st.sampled_from([None, "x", "7", "a-b"]))
    try:
        if draw(st.booleans()):
            text = f"{draw(NAMES)}-{draw(TYPES)}-" + draw(
                st.sampled_from(["self", "parent", "7", "007", "lab", "lab-x", "q-lab", "l-a-b"])
            )
            return Event.from_text(f"{text}-{extra}" if extra else text, owner)
        return Event.from_job(draw(NAMES), draw(TYPES), extra, draw(JOBS), owner)
    except EventError:
        return None


@given(st.lists(PATTERNS, min_size=1), EXTRAS, st.lists(events(), min_size=1, max_size=3))
def test_many_events_at_once_are_what_each_alone_is(
    patterns: list[str], extra: str | None, some: list[Event | None]
) -> None:
    found = [event for event in some if event is not None]
    if not found:
        return
    terms = [trigger.parse(f"{p}-{extra}" if extra else p)[0] for p in patterns]
    steps = Steps()
    holds = match.holding([t for t in terms if t], found * (match.FEW_EVENTS + 1), steps)
    for term in terms:
        assert isinstance(term, Term)
        assert holds(term) == any(map(term.matches, found)), term


@needs_proc
def test_answers_to_large_requests_are_not_remembered(agent: Agent) -> None:
    before = resident(agent)
    with Talk(agent) as talk:
        for number in range(100):
            event = f"x-job-{'y' * 900_000}{number}"
            assert talk.ask("lookup", event=event)["callbacks"] == []
            assert talk.ask("lookup", event="done-job-self", occurred=[event])["partial"] == []
    assert resident(agent) - before < 64 << 20


# Descriptors -------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/usr/bin/prlimit").exists(), reason="needs prlimit")
def test_out_of_descriptors_those_who_are_in_go_on_and_it_heals(tmp_path: Path, cb: Path) -> None:
    agent = Agent(tmp_path, cb)
    agent.prefix = ["prlimit", "--nofile=120:120"]
    with started(agent), Talk(agent) as good:
        wait_for(lambda: good.ask("status")["clients"] == 0, "nobody else")
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                one = stack.enter_context(socket.socket(socket.AF_UNIX))
                one.settimeout(1)
                with contextlib.suppress(OSError):
                    one.connect(str(agent.pipe))
            # It leaves half of its descriptors free; the rest are told so, or hung up on.
            wait_for(lambda: good.ask("status")["clients"] > 5, "many clients")
            for _ in range(100):
                found = good.ask("lookup", event="done-job-self")
                assert [c["file"] for c in found["callbacks"]] == ["a.pl"]
            # An edit that cannot be read is no edit: what was served stays.
            (cb / "a.pl").write_text("# new\n")
            with contextlib.suppress(OSError):
                good.ask("reload")
            found = good.ask("lookup", event="done-job-self", code=True)
            assert found["callbacks"][0]["code"] in ("#\n", "# new\n")
        wait_for(
            lambda: good.ask("list", code=True)["callbacks"][0]["code"] == "# new\n", "the edit"
        )
        wait_for(lambda: good.ask("status")["state"] == "ok", "it heals")
        wait_for(lambda: good.ask("status")["clients"] == 0, "the others to be gone")
        assert agent.status()["clients"] == 1


# Hostile sources ---------------------------------------------------------------------------------

#: What recurses, runs for minutes, or eats memory.
HOSTILE = {
    "nested parentheses": b"(" * 100_000,
    "nested blocks": b"".join(b" " * n + b"if x:\n" for n in range(1000)),
    "a long chain": b"-" * 1_000_000 + b"1",
    "attributes": b"x" + b".x" * 300_000,
    "minutes": b"def f():\n    pass\n" * 200_000,
    "memory": b"x=[1]\n" * 600_000,
    "an f-string": b"f'" + b"{" * 100_000 + b"'",
    "a number": b"x = " + b"9" * 3_000_000,
    "a coding": b"# coding: " + b"x" * 100_000 + b"\n",
    "nothing but NULs": b"\0" * 1_000_000,
}


def test_hostile_sources_neither_end_the_agent_nor_stall_lookups(tmp_path: Path, cb: Path) -> None:
    write(cb, CONF + "h.py = h-job-self\n", h_py="0\n")
    short = Agent(tmp_path, cb).use(Timing(checks=CheckLimits(max_cpu=0.7)))
    with started(short) as agent, Talk(agent) as good:
        assert agent.status()["state"] == "ok"
        longest = 0.0
        for name, source in HOSTILE.items():
            new = cb / ".h.py.new"
            new.write_bytes(source)
            before = good.ask("status")["last_reload"]["time"]
            os.replace(new, cb / "h.py")
            end = time.monotonic() + DEADLINE
            while True:
                began = time.monotonic()
                found = good.ask("lookup", event="done-job-self")
                longest = max(longest, time.monotonic() - began)
                assert [c["file"] for c in found["callbacks"]] == ["a.pl"]
                status = good.ask("status")
                told = [d["code"] for d in status["last_reload"]["diagnostics"]]
                if status["last_reload"]["time"] != before or "does-not-compile" in told:
                    break
                assert time.monotonic() < end, f"{name} was never judged"
                time.sleep(0.002)
            # Back to what compiles, which is served at once.
            (cb / "h.py").write_bytes(b"0\n")
            agent.reload()
            wait_for(lambda: agent.status()["state"] == "ok", name)
        # A compile in the agent itself would hold every lookup for as long as it takes: minutes.
        assert longest < 20
        assert good.ask("status")["pid"] == agent.process.pid  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["minutes", "memory", "nested parentheses"])
def test_the_check_ends_within_its_limits(name: str) -> None:
    checking = Checking(CheckLimits(max_cpu=1.0, max_memory=256 << 20))
    verdict = checking.verdict(HOSTILE[name])
    assert verdict is not None
    assert verdict.error is not None
    # And the next one is as good as any.
    again = checking.verdict(b"x = 1\n")
    assert again is not None
    assert again.error is None


def test_constants_are_documented_where_they_stand() -> None:
    """Each limit has a line above it that says what it is."""
    bare = []
    for file in sorted((ROOT / "agent").rglob("*.py")):
        lines = file.read_text().splitlines()
        for above, this in itertools.pairwise(lines):
            if this.startswith("MAX_") and not above.startswith(("#", "MAX_")):
                bare.append(f"{file.name}: {this}")
    assert bare == []


def test_the_helper_is_limited_whatever_the_agent_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of the process itself, for when the agent cannot end it."""
    shown = "import resource, sys\nw = sys.modules['agent.reload.check_program']\n"
    shown += "w.examine = lambda s: [[1, 1, str((resource.getrlimit(resource.RLIMIT_CPU)[0],"
    shown += " resource.getrlimit(resource.RLIMIT_AS)[0]))], [], 0]\nmain = w.main\n"
    monkeypatch.setattr(check_helper, "_MODULES", [*check_helper._MODULES, ("last", shown)])
    verdict = Checking().verdict(b"x = 1\n")
    assert verdict is not None
    assert verdict.error is not None
    cpu, memory = map(int, verdict.error.message.rpartition("(")[2].rstrip(")").split(","))
    assert 0 < cpu <= CheckLimits().max_cpu + 3
    assert memory == (CheckLimits().max_memory if sys.platform == "linux" else -1)


def test_the_reasons_of_explain_are_short(tmp_path: Path) -> None:
    """A request of a megabyte is not repeated for each callback."""
    lines = "".join(f"m.qcb = done-work-self-{n} || done-work-x{n}-1\n" for n in range(50))
    directory = write(tmp_path / "callback", lines, m_qcb="mail-status\n")
    with running(tmp_path, directory) as agent:
        answer = agent.call("explain", {"event": "done-work-self-" + "a" * 900_000})
        assert len(answer["callbacks"]) == 50
        assert max(len(c["reason"]) for c in answer["callbacks"]) <= reasons.MAX_REASON + 3


def test_a_lookup_that_takes_long_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Many events that occurred, many patterns: others are answered before it is."""
    lines = "".join(
        f"m.qcb = done-job-self && done-job-lab{n} && done-job-lab{n}x*y\n" for n in range(1000)
    )
    directory = write(tmp_path / "callback", lines, m_qcb="mail-status\n")
    # Long enough that the scheduler of a busy machine lets the others have a turn meanwhile.
    occurred = [f"done-job-lab{n}" for n in range(20_000)]
    params = {"event": "done-job-self", "occurred": occurred}
    request = {"jsonrpc": "2.0", "id": 1, "method": "lookup", "params": params}
    # However long it takes there, it is answered.
    with started(limited(tmp_path, directory, PipeLimits(max_work_seconds=DEADLINE))) as agent:

        def others_first() -> bool:
            with agent.connect() as slow, client.Client(str(agent.pipe), DEADLINE) as other:
                # Connected before, so that only the answers are compared.
                other.lookup("submit-job-self")
                slow.sendall(json.dumps(request).encode() + b"\n")
                for _ in range(5):
                    assert other.lookup("submit-job-self")["callbacks"] == []
                came, _, _ = select.select([slow], [], [], 0)
                with slow.makefile("rb") as answers:
                    answer = json.loads(answers.readline())["result"]
            assert len(answer["partial"]) == 1000
            return not came

        assert any(others_first() for _ in range(TRIES))
