"""Who may ask: modes, the kernel's word on who is there, and one agent for one pipe."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import client, settings
from agent.daemon import pipe_folder
from agent.rpc.messages import REFUSED
from agent.server import access
from agent.server.access import AccessPolicy, Peer
from agent.settings.host import Host
from agent.timing import Timing
from support.agents import DEADLINE, Agent, running, wait_for, write
from support.strangers import Strangers

STATUS = b'{"jsonrpc":"2.0","id":1,"method":"status"}\n'
RELOAD = b'{"jsonrpc":"2.0","id":2,"method":"reload"}\n'


@pytest.fixture
def agent(place: Path) -> Iterator[Agent]:
    with running(place, write(place / "cb", "a.pl = done-job-self\n", a_pl="#\n")) as agent:
        yield agent


@pytest.fixture
def open_agent(place: Path, users: Strangers) -> Iterator[Agent]:
    """An agent that lets a group in."""
    agent = Agent(place, write(place / "cb", "a.pl = done-job-self\n", a_pl="#\n"))
    agent.flags += ["--pipe-group", users.group_name]
    agent.start()
    yield agent
    agent.stop()


def asked(agent: Agent, sent: bytes = STATUS, times: int = 1) -> Any:
    """What the agent answers whoever runs this: the last line of it, or how it failed."""

    def ask() -> Any:
        for _ in range(times):
            with agent.connect() as one:
                one.sendall(sent)
                one.shutdown(socket.SHUT_WR)
                with one.makefile("rb") as answers:
                    lines = answers.readlines()
        return json.loads(lines[-1])

    return ask


def error(answer: Any) -> tuple[int, str]:
    return answer["error"]["code"], answer["error"]["message"]


# The kernel at the door --------------------------------------------------------------------------


def test_the_pipe_is_0600_and_the_kernel_refuses_others(agent: Agent, users: Strangers) -> None:
    assert stat.S_IMODE(agent.pipe.stat().st_mode) == 0o600
    assert agent.pipe.stat().st_uid == os.geteuid()
    assert users.other.does(asked(agent)) == "PermissionError"
    assert users.member.does(asked(agent)) == "PermissionError"
    assert agent.messages() == []
    assert agent.status()["state"] == "ok"


def test_with_a_group_it_is_0660_and_its_members_may(open_agent: Agent, users: Strangers) -> None:
    found = open_agent.pipe.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, users.group)
    # As a supplementary group, and as the primary one.
    assert users.member.gid != users.group
    assert users.member.does(asked(open_agent))["result"]["state"] == "ok"
    primary = dataclasses.replace(users.other, gid=users.group)
    assert primary.does(asked(open_agent), groups=())["result"]["state"] == "ok"
    assert users.other.does(asked(open_agent)) == "PermissionError"


@pytest.mark.parametrize(("uid", "mode"), [(0, 0o755), (1000, 0o700)])
def test_the_default_pipes_folder_is_made_with_its_mode(
    place: Path, monkeypatch: pytest.MonkeyPatch, uid: int, mode: int
) -> None:
    """Whatever the umask."""
    folder = place / "callback-agent"
    now = settings.resolve({}, {}, None, Host("linux", uid, "/home/me", "/"))
    now = dataclasses.replace(now, pipe=str(folder / "pipe"))
    real = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    before = os.umask(0o077 if uid == 0 else 0o000)
    try:
        if uid == real:
            pipe_folder.make(now)
        else:
            # It is made, and then found to belong to another than the one who runs it.
            with pytest.raises(settings.SettingsError, match="belongs to the user id"):
                pipe_folder.make(now)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == mode


def test_a_folder_of_a_strangers_in_the_default_pipes_place_is_refused(
    place: Path, users: Strangers
) -> None:
    folder = place / "callback-agent"
    folder.mkdir()
    os.chown(folder, users.other.uid, -1)
    now = settings.resolve({}, {}, None, Host("linux", 0, "/root", "/"))
    now = dataclasses.replace(now, pipe=str(folder / "pipe"))
    with pytest.raises(settings.SettingsError, match="belongs to the user id"):
        pipe_folder.make(now)
    os.chown(folder, 0, -1)
    folder.chmod(0o777)
    with pytest.raises(settings.SettingsError, match="chmod 755"):
        pipe_folder.make(now)


# The second lock ---------------------------------------------------------------------------------


def test_whatever_the_modes_have_become_strangers_are_refused_with_a_reason(
    agent: Agent, users: Strangers
) -> None:
    agent.pipe.chmod(0o777)
    code, message = error(users.other.does(asked(agent, STATUS * 5)))
    assert code == REFUSED
    assert str(users.other.uid) in message
    # Whatever they send, and however often: one line on standard error for each of them.
    for sent in (b"", b"\xff\0\n", RELOAD, b"x" * 100_000):
        came = users.other.does(asked(agent, sent, times=5))
        assert came in ("BrokenPipeError", "ConnectionResetError") or error(came)[0] == REFUSED
    assert error(users.member.does(asked(agent)))[0] == REFUSED
    # They are written after the answers.
    wait_for(lambda: len(agent.messages()) >= 2)
    told = agent.messages()
    assert len(told) == 2
    assert f"user id {users.other.uid}," in told[0]
    assert f"user id {users.member.uid}," in told[1]
    assert told == [f"callback-agent: {note}" for note in agent.status()["notes"]]
    assert len(agent.history()) == 1


def test_a_group_is_a_lock_of_its_own(open_agent: Agent, users: Strangers) -> None:
    open_agent.pipe.chmod(0o777)
    assert users.member.does(asked(open_agent))["result"]["state"] == "ok"
    assert error(users.other.does(asked(open_agent)))[0] == REFUSED
    # A member by the database who gave the group up is none.
    assert error(users.member.does(asked(open_agent), groups=()))[0] == REFUSED


def test_of_many_groups_all_count_and_no_database_is_asked(
    open_agent: Agent, users: Strangers
) -> None:
    """More than Python's getsockopt can read: 256."""
    open_agent.pipe.chmod(0o777)
    many = tuple(range(70_000, 80_000))
    member = (*many, users.group)
    assert users.member.does(asked(open_agent), groups=member)["result"]["state"] == "ok"
    assert users.other.does(asked(open_agent), groups=member)["result"]["state"] == "ok"
    # The user database calls this one a member; the process gave the group up.
    assert error(users.member.does(asked(open_agent), groups=many))[0] == REFUSED
    assert error(users.other.does(asked(open_agent), groups=many))[0] == REFUSED


def test_who_was_let_in_or_not_is_known_when_he_connects(agent: Agent, users: Strangers) -> None:
    """A descriptor that root connected and handed on is root's: the kernel says who connected."""
    with agent.connect() as one:

        def ask() -> Any:
            one.sendall(STATUS)
            return json.loads(one.makefile("rb").readline())

        assert users.other.does(ask)["result"]["state"] == "ok"


def test_the_peer_is_who_the_kernel_says() -> None:
    one, other = socket.socketpair()
    with one, other:
        found = Peer.of(one)
    assert found.uid == os.geteuid()
    assert found.groups >= {os.getegid(), *os.getgroups()}


def test_refusals_are_logged_once_a_minute_for_each_user(
    monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr("agent.server.access.time.monotonic", lambda: now)
    door = AccessPolicy(500, None, "all")
    one, two = Peer(501, frozenset({5})), Peer(502, frozenset())
    for _ in range(100):
        assert not door.allows(one)
    assert not door.allows(two)
    assert len(messages) == 2
    now += access.REPORT_INTERVAL - 1
    assert not door.allows(one)
    assert len(messages) == 2
    now += 1
    assert not door.allows(one)
    assert len(messages) == 3
    # More users than are remembered make no more memory.
    for uid in range(10_000, 10_000 + 3 * access.MAX_REPORTED):
        assert not door.allows(Peer(uid, frozenset()))
    assert len(door._reported) <= access.MAX_REPORTED


@pytest.mark.parametrize(
    ("group", "uid", "groups", "admitted"),
    [
        (None, 0, {0}, True),
        (None, 500, {5}, True),
        (None, 501, {0, 500}, False),
        (7, 501, {7}, True),
        (7, 501, {5, 7}, True),
        (7, 501, {5}, False),
        (0, 501, {5}, False),
        (0, 501, {0}, True),
    ],
)
def test_the_door(group: int | None, uid: int, groups: set[int], admitted: bool) -> None:
    door = AccessPolicy(500, group, "all")
    assert door.allows(Peer(uid, frozenset(groups))) is admitted


# Reloads -----------------------------------------------------------------------------------------


def test_a_reload_may_be_kept_to_root_and_the_agents_user(place: Path, users: Strangers) -> None:
    cb = write(place / "cb", "a.pl = done-job-self\n", a_pl="#\n")
    agent = Agent(place, cb)
    agent.flags += ["--pipe-group", users.group_name, "--reload-for", "owner"]
    agent.start()
    try:
        assert users.member.does(asked(agent))["result"]["state"] == "ok"
        code, message = error(users.member.does(asked(agent, RELOAD)))
        assert code == REFUSED
        assert "only root and the agent's user" in message
        # In a batch too; the rest of it is answered.
        batch = b"[" + STATUS.strip() + b"," + RELOAD.strip() + b"]\n"
        one, two = users.member.does(asked(agent, batch))
        assert one["result"]["state"] == "ok"
        assert error(two)[0] == REFUSED
        # As a notification it is not done either.
        quiet = b'{"jsonrpc":"2.0","method":"reload"}\n' + STATUS
        assert users.member.does(asked(agent, quiet))["result"]["state"] == "ok"
        assert agent.reload()["held"] == []
    finally:
        agent.stop()


def test_else_whoever_may_ask_may_ask_for_a_reload(open_agent: Agent, users: Strangers) -> None:
    assert users.member.does(asked(open_agent, RELOAD))["result"]["held"] == []


@pytest.mark.parametrize(("who", "may"), [("all", True), ("owner", False)])
def test_who_may_reload(who: str, may: bool) -> None:
    door = AccessPolicy(500, 7, who)
    assert door.allows_reload(Peer(501, frozenset({7}))) is may
    assert door.allows_reload(Peer(500, frozenset()))
    assert door.allows_reload(Peer(0, frozenset()))


# One agent for one pipe --------------------------------------------------------------------------


def test_of_several_that_start_at_once_one_lives(place: Path) -> None:
    cb = write(place / "cb", "a.pl = done-job-self\n", a_pl="#\n")
    agents = [Agent(place, cb) for _ in range(4)]
    processes = [agent.launch() for agent in agents]
    try:
        wait_for(lambda: sum(p.poll() is not None for p in processes) == 3, "three to give up")
        ended = [p.poll() for p in processes]
        assert sorted(ended, key=str) == [4, 4, 4, None]
        (alive,) = [p.pid for p in processes if p.poll() is None]
        live = agents[0]
        wait_for(live.answers, "its answer")
        assert live.status()["pid"] == alive
        told = live.errors.read_text()
        assert told.count("holds the pipe") == 3
        # Who looks before the first has written its number is not told a wrong one.
        assert set(re.findall(r"\(process (\w+)\)", told)) <= {str(alive), "unknown"}
    finally:
        for agent in agents:
            agent.stop()


def test_a_dead_agents_leftovers_are_taken_over_and_a_live_ones_are_not(agent: Agent) -> None:
    second = Agent(agent.folder, *agent.directories)
    assert second.launch().wait(DEADLINE) == 4
    assert agent.status()["state"] == "ok"
    inode = agent.pipe.stat().st_ino
    # Stopped, it is alive.
    assert agent.process is not None
    agent.process.send_signal(signal.SIGSTOP)
    assert second.launch().wait(DEADLINE) == 4
    assert agent.pipe.stat().st_ino == inode
    agent.process.send_signal(signal.SIGCONT)
    agent.stop(signal.SIGKILL)
    assert agent.pipe.exists()
    second.start()
    assert second.fires("done-job-self") == ["a.pl"]
    assert second.stop() == 0
    assert not agent.pipe.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link", "fifo"])
def test_what_is_no_pipe_is_never_deleted(place: Path, kind: str) -> None:
    agent = Agent(place, write(place / "cb", "", a_pl="#\n"))
    real = place / "precious"
    real.write_text("years of work\n")
    if kind == "file":
        agent.pipe.write_text("years of work\n")
    elif kind == "folder":
        agent.pipe.mkdir()
        (agent.pipe / "file").write_text("years of work\n")
    elif kind == "link":
        agent.pipe.symlink_to(real)
    else:
        os.mkfifo(agent.pipe)
    before = agent.pipe.lstat()
    assert agent.launch().wait(DEADLINE) == 2
    after = agent.pipe.lstat()
    assert (after.st_ino, after.st_mode, after.st_size) == (
        before.st_ino, before.st_mode, before.st_size,
    )  # fmt: skip
    assert real.read_text() == "years of work\n"
    told = agent.errors.read_text()
    assert f"{agent.pipe} is not a socket" in told
    assert "Traceback" not in told


def test_a_lock_that_is_a_link_is_not_followed(place: Path) -> None:
    agent = Agent(place, write(place / "cb", ""))
    victim = place / "precious"
    victim.write_text("years of work\n")
    Path(f"{agent.pipe}.lock").symlink_to(victim)
    assert agent.launch().wait(DEADLINE) == 2
    assert victim.read_text() == "years of work\n"
    assert "lock of the pipe" in agent.errors.read_text()


def test_the_lock_is_its_users_alone(agent: Agent) -> None:
    """Who could open it could hold it, and keep the next agent from starting."""
    found = Path(f"{agent.pipe}.lock").stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_uid == os.geteuid()


def test_a_pipe_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    """The folder goes between the lock and the listening: exit 2, and no traceback."""
    directory = write(tmp_path / "callback", "a.pl = x-job-1\n", a_pl="1\n")
    folder = tmp_path / "run"
    folder.mkdir()
    agent = Agent(tmp_path, directory)
    agent.pipe = folder / "pipe"
    # A writer who does not close keeps the first index from being made: here, until they do.
    agent.use(Timing(writing=300))
    try:
        with (directory / "a.pl").open("ab"):
            process = agent.launch()
            wait_for(lambda: agent.pipe.with_name("pipe.lock").exists())
            shutil.rmtree(folder)
        assert process.wait(DEADLINE) == 2
    finally:
        agent.stop()
    said = agent.errors.read_text()
    assert "cannot be made: No such file or directory" in said
    assert "Traceback" not in said


# The pipe goes while the agent lives --------------------------------------------------------------


def notes(one: client.Client) -> str:
    return "\n".join(one.call("status")["notes"])


@pytest.mark.parametrize("what", ["pipe", "lock", "pipe and lock", "folder"])
def test_a_pipe_that_somebody_removes_is_made_anew(tmp_path: Path, what: str) -> None:
    """As those do who clean up /tmp. Who is connected notices nothing."""
    folder = tmp_path / "run"
    folder.mkdir()
    agent = Agent(tmp_path, write(tmp_path / "callback", "a.pl = x-job-1\n", a_pl="1\n"))
    agent.pipe = folder / "pipe"
    lock = Path(f"{agent.pipe}.lock")
    agent.start()
    try:
        with client.Client(str(agent.pipe), timeout=DEADLINE) as one:
            generation = one.call("status")["generation"]
            for _ in range(2):
                told = notes(one).count("it is made again")
                if what == "folder":
                    shutil.rmtree(folder)
                    # A named pipe's folder is not ours to make.
                    wait_for(lambda: f"the pipe's folder {folder} does not exist" in notes(one))
                    folder.mkdir()
                else:
                    if "pipe" in what:
                        agent.pipe.unlink()
                    if "lock" in what:
                        lock.unlink()
                # It is said when all is made.
                wait_for(lambda n=told: notes(one).count("it is made again") > n)  # type: ignore[misc]
                wait_for(lambda: lock.exists() and agent.answers())
                assert stat.S_IMODE(agent.pipe.stat().st_mode) == 0o600
                assert agent.status()["generation"] == generation
        # It is held as before, by the lock that is there now.
        rival = Agent(tmp_path, *agent.directories)
        rival.pipe = agent.pipe
        assert rival.launch().wait(DEADLINE) == 4
        assert agent.stop() == 0
        assert not agent.pipe.exists()
    finally:
        agent.stop()


def test_another_file_in_the_place_of_the_pipe_is_left_alone(tmp_path: Path) -> None:
    agent = Agent(tmp_path, write(tmp_path / "callback", "a.pl = x-job-1\n", a_pl="1\n"))
    agent.start()
    try:
        with client.Client(str(agent.pipe), timeout=DEADLINE) as one:
            assert notes(one) == ""
            precious = tmp_path / "precious"
            precious.write_text("years of work\n")
            precious.rename(agent.pipe)
            wait_for(lambda: "another file is in the place" in notes(one))
            assert agent.pipe.read_text() == "years of work\n"
            agent.pipe.rename(precious)
            wait_for(agent.answers)
            precious.rename(agent.pipe)
            wait_for(lambda: notes(one).count("another file is in the place") == 2)
        assert agent.stop() == 0
        assert agent.pipe.read_text() == "years of work\n"
    finally:
        agent.stop()


def test_who_lost_pipe_and_lock_to_another_agent_leaves_them_to_it(tmp_path: Path) -> None:
    agent = Agent(tmp_path, write(tmp_path / "callback", "a.pl = x-job-1\n", a_pl="1\n"))
    agent.start()
    next_one = Agent(tmp_path, *agent.directories)
    next_one.state = tmp_path / "other state"
    try:
        with client.Client(str(agent.pipe), timeout=DEADLINE) as one:
            assert notes(one) == ""
            # Both go while the first one is stopped, and the second starts meanwhile.
            assert agent.process is not None
            agent.process.send_signal(signal.SIGSTOP)
            agent.pipe.unlink()
            Path(f"{agent.pipe}.lock").unlink()
            next_one.start()
            agent.process.send_signal(signal.SIGCONT)
            assert next_one.process is not None
            number = next_one.process.pid
            wait_for(lambda: f"(process {number}) holds the pipe" in notes(one))
            assert next_one.status()["pid"] == number
            # Also where the pipe goes once more: the second has the lock, so it makes the pipe.
            for _ in range(3):
                agent.pipe.unlink()
                wait_for(next_one.answers)
                assert next_one.status()["pid"] == number
            assert notes(one).count("holds the pipe") == 1, "told once"
        assert agent.stop() == 0
        assert next_one.status()["pid"] == number
    finally:
        for each in (agent, next_one):
            if each.process is not None:
                each.process.send_signal(signal.SIGCONT)
                each.stop()
