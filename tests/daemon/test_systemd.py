"""What systemd is told, on a socket of the test's own; and the unit and logrotate files."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import runner, slurm
from agent.daemon.signals import END_SECONDS, STOP_SECONDS
from agent.daemon.systemd import Notify
from agent.timing import Timing
from support.agents import DEADLINE, Agent, wait_for, write

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "scripts/callback-agent.service"
SLURM_UNIT = ROOT / "scripts/callback-agent-slurm.service"
LOGROTATE = ROOT / "scripts/callback-agent.logrotate"


class Manager:
    """A service manager's socket. Each datagram is a list of `NAME=value`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def next(self, seconds: float = DEADLINE) -> list[str]:
        """The next message; an empty list if none comes in time."""
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(1 << 16).decode().split("\n")
        except TimeoutError:
            return []

    def until(self, what: str) -> list[str]:
        """The next message that has an assignment that begins so."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            message = self.next()
            if any(part.startswith(what) for part in message):
                return message
        raise AssertionError(f"{what} never came")

    def drain(self) -> None:
        """Drop what has come."""
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.recv(1 << 16)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    with manager.socket:
        yield manager


@pytest.fixture
def agent(tmp_path: Path, manager: Manager) -> Iterator[Agent]:
    """An agent that is not started yet."""
    cb = write(tmp_path / "cb", "a.pl = done-job-self\nb.pl = a-job-b\n", a_pl="#\n", b_pl="#\n")
    agent = Agent(tmp_path, cb, NOTIFY_SOCKET=manager.address)
    yield agent
    if agent.process is not None:
        agent.stop()


def test_ready_means_that_the_first_index_answers_and_sighup_reloads(
    agent: Agent, manager: Manager
) -> None:
    process = agent.launch()
    message = manager.until("READY")
    # At once, without another try.
    process.send_signal(signal.SIGHUP)
    assert agent.fires("done-job-self") == ["a.pl"]
    assert message == ["READY=1", "STATUS=ok: generation 1, 2 callbacks served"]
    (agent.directories[0] / "a.pl").write_text("# new\n")
    process.send_signal(signal.SIGHUP)
    wait_for(lambda: agent.served()[0][2] == "# new\n", "the edit")
    assert process.poll() is None


def test_not_ready_before_the_first_index(agent: Agent, manager: Manager) -> None:
    """While somebody is writing there is no whole index yet."""
    conf = agent.directories[0] / "callbacks.conf"
    text = conf.read_text()
    # It waits for the writer for as long as he takes, however slow this machine is.
    agent.use(Timing(writing=300))
    with conf.open("w") as writer:
        process = agent.launch()
        # It is far enough to read: it has made the lock of its pipe.
        wait_for(Path(f"{agent.pipe}.lock").exists, "the lock")
        assert manager.next(0.5) == []
        assert not agent.pipe.exists()
        writer.write(text)
    manager.until("READY")
    wait_for(lambda: agent.fires("done-job-self") == ["a.pl"], "what was written")
    assert process.poll() is None


def test_sighup_before_it_is_ready_does_not_end_it(agent: Agent, manager: Manager) -> None:
    with (agent.directories[0] / "callbacks.conf").open("a"):
        process = agent.launch()
        wait_for(lambda: waits_for_hangup(process.pid), "its signal mask")
        process.send_signal(signal.SIGHUP)
        manager.until("READY")
    assert process.poll() is None
    wait_for(lambda: agent.fires("done-job-self") == ["a.pl"], "what was written")


def waits_for_hangup(pid: int) -> bool:
    """Whether a process blocks SIGHUP, which a thread of it waits for (proc(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    blocked = re.search(r"^SigBlk:\s*([0-9a-f]+)", status, re.MULTILINE)
    return blocked is not None and bool(int(blocked[1], 16) & 1 << (signal.SIGHUP - 1))


def test_the_status_has_state_and_generation(agent: Agent, manager: Manager) -> None:
    agent.launch()
    manager.until("READY")
    conf = agent.directories[0] / "callbacks.conf"
    before = conf.read_text()
    conf.write_text("what?\n")
    assert manager.until("STATUS=degraded") == ["STATUS=degraded: generation 1, 2 callbacks served"]
    conf.write_text(before)
    assert manager.until("STATUS=ok") == ["STATUS=ok: generation 1, 2 callbacks served"]
    conf.write_text("a.pl = done-job-self\n")
    assert manager.until("STATUS=ok") == ["STATUS=ok: generation 2, 1 callback served"]


def test_the_watchdog_is_fed_by_the_loop_that_serves(agent: Agent, manager: Manager) -> None:
    agent.environ["WATCHDOG_USEC"] = "200000"
    began = time.monotonic()
    process = agent.launch()
    manager.until("READY")
    for _ in range(15):
        assert manager.until("WATCHDOG") == ["WATCHDOG=1"]
    # Twice in the time that it has, not more often. From the launch on, since those that came
    # while this process stood still are read at once.
    assert time.monotonic() - began > 1.2
    # A process that does not run feeds nothing, and goes on when it does.
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: stopped(process.pid), "the stop")
    manager.drain()
    assert manager.next(0.5) == []
    process.send_signal(signal.SIGCONT)
    manager.until("WATCHDOG")


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T"


def test_a_loop_that_hangs_feeds_no_watchdog(agent: Agent, manager: Manager) -> None:
    """The process lives, its threads run, and yet nobody is answered: systemd must know."""
    agent.environ["WATCHDOG_USEC"] = "200000"
    agent.environ["PYTHONPATH"] = str(ROOT)
    # The signal handler runs in the loop's thread, and keeps it.
    handle = "signal.signal(signal.SIGUSR1, lambda *_: threading.Event().wait(5))"
    agent.program = [
        "-c",
        "import signal, threading; from agent import cli; from agent.daemon import process;"
        " set_up = process.prepare;"
        f" process.prepare = lambda serves: (set_up(serves), {handle}); cli.main()",
    ]
    process = agent.launch()
    manager.until("WATCHDOG")
    process.send_signal(signal.SIGUSR1)
    silent = 0.0
    last = time.monotonic()
    end = last + DEADLINE
    while silent < 1.0 and last < end:
        assert manager.next() != []
        silent = max(silent, time.monotonic() - last)
        last = time.monotonic()
    assert silent >= 1.0
    manager.until("WATCHDOG")


def test_no_watchdog_unless_asked_for(agent: Agent, manager: Manager) -> None:
    agent.environ |= {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}
    agent.launch()
    manager.until("READY")
    end = time.monotonic() + 0.3
    while (left := end - time.monotonic()) > 0:
        assert "WATCHDOG=1" not in manager.next(left)


def test_a_manager_that_is_not_there_is_no_reason_to_stop(agent: Agent, manager: Manager) -> None:
    manager.socket.close()
    agent.start()
    assert agent.fires("done-job-self") == ["a.pl"]
    assert agent.messages() == []


def test_an_abstract_address_and_a_manager_that_does_not_read() -> None:
    manager = Manager(f"@callback-agent-test-{os.getpid()}")
    with manager.socket:
        notify = Notify({"NOTIFY_SOCKET": manager.address})
        notify.send("READY=1", "STATUS=well")
        assert manager.next() == ["READY=1", "STATUS=well"]
        for _ in range(10_000):
            notify.send("STATUS=" + "x" * 1000)
    notify.send("STATUS=nobody hears")
    Notify({}).send("STATUS=nobody is told")


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "3000000"}, 1.5),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "400000", "WATCHDOG_PID": f"{os.getpid()}"}, 0.2),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"NOTIFY_SOCKET": "/n"}, None),
        ({"WATCHDOG_USEC": "3000000"}, None),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "soon"}, None),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": ""}, None),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "0"}, None),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "\u00b2"}, None),
    ],
)  # fmt: skip
def test_the_time_between_two_signs_of_life(
    environ: dict[str, str], interval: float | None
) -> None:
    assert Notify(environ).interval == interval


# The files in scripts/ ---------------------------------------------------------------------------


def setting(name: str, unit: Path = UNIT) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)


def test_the_unit_says_what_the_agent_does() -> None:
    assert setting("Type") == ["notify"]
    assert setting("NotifyAccess") == ["main"]
    (start,) = setting("ExecStart")
    (reload,) = setting("ExecReload")
    # The command, which waits and fails when something is held; not a signal.
    assert start.split()[-1] == "serve"
    assert reload.split() == [start.split()[0], "reload"]
    for name in ("RuntimeDirectory", "StateDirectory", "LogsDirectory"):
        assert setting(name) == ["callback-agent"]
    assert setting("RuntimeDirectoryMode") == ["0755"]
    assert setting("StateDirectoryMode") == ["0700"]
    assert setting("NoNewPrivileges") == ["yes"]
    assert setting("ProtectSystem") == ["strict"]
    assert int(setting("WatchdogSec")[0]) > 0
    # More than the agent takes, whatever does not answer.
    assert int(setting("TimeoutStopSec")[0]) > STOP_SECONDS + END_SECONDS


def test_the_unit_starts_again_until_what_it_needs_is_there() -> None:
    """A group of a directory service, for example, which may come long after the boot."""
    assert "nss-user-lookup.target" in setting("After")
    assert setting("StartLimitIntervalSec") == ["0"]
    assert setting("Restart") == ["on-failure"]
    assert int(setting("RestartSec")[0]) < int(setting("RestartMaxDelaySec")[0]) <= 60
    assert int(setting("RestartSteps")[0]) > 1


def test_a_group_that_is_not_there_yet_is_a_failure_of_this_start_only(agent: Agent) -> None:
    agent.flags += ["--pipe-group", "farm-of-a-directory-service"]
    process = agent.launch()
    assert process.wait(DEADLINE) == 2
    assert "there is no group farm-of-a-directory-service" in agent.errors.read_text()
    agent.flags[-1] = str(os.getegid())
    agent.start()
    assert agent.fires("done-job-self") == ["a.pl"]


def test_the_unit_for_slurm_says_what_the_adapter_does() -> None:
    (start,) = setting("ExecStart", SLURM_UNIT)
    assert start.split()[1:] == ["slurm", "run"]
    assert setting("StateDirectory", SLURM_UNIT) == [Path(slurm.STATE).name]
    assert setting("LogsDirectory", SLURM_UNIT) == [Path(slurm.LOG).parent.name]
    # The callbacks that run are not signalled when it stops, and have the time to end.
    assert setting("KillMode", SLURM_UNIT) == ["mixed"]
    assert int(setting("TimeoutStopSec", SLURM_UNIT)[0]) > runner.DEFAULT_TIME_LIMIT
    assert setting("StartLimitIntervalSec", SLURM_UNIT) == ["0"]
    assert "callback-agent.service slurmctld.service" in setting("After", SLURM_UNIT)[0]


def unit_with_a_command_that_is_here(folder: Path, unit: Path = UNIT) -> Path:
    copy = folder / unit.name
    text = re.sub(r"=/opt/\S+", "=" + (shutil.which("true") or ""), unit.read_text())
    # The man page is installed with the package.
    copy.write_text(re.sub(r"(?m)^Documentation=man:.*\n", "", text))
    return copy


needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not here"
)


@needs_systemd
@pytest.mark.parametrize("file", [UNIT, SLURM_UNIT])
def test_systemd_takes_the_unit(tmp_path: Path, file: Path) -> None:
    unit = unit_with_a_command_that_is_here(tmp_path, file)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # systemd before 254 does not know how to make the pauses longer, and goes on.
    unknown = r"Unknown key( name)? '(RestartSteps|RestartMaxDelaySec)' in section"
    said = [line for line in done.stderr.splitlines() if not re.search(unknown, line)]
    assert not any(unit.name in line for line in said)
    # What it does not know it says: this test can fail.
    unit.write_text(unit.read_text().replace("NoNewPrivileges", "NoNewPrivilege"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert "NoNewPrivilege" in done.stderr


@needs_systemd
def test_systemd_thinks_well_of_the_unit(tmp_path: Path) -> None:
    unit = unit_with_a_command_that_is_here(tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    exposure = re.search(r"Overall exposure level.*: ([0-9.]+)", done.stdout)
    if exposure is None:
        pytest.skip(f"this systemd-analyze is too old: {done.stderr.strip()[:200]}")
    # 10 is the worst; a service without a word of its own has 9.6.
    assert float(exposure[1]) <= 2.0, done.stdout


@pytest.mark.skipif(
    not shutil.which("logrotate") and not Path("/usr/sbin/logrotate").exists(),
    reason="logrotate is not here",
)
def test_logrotate_takes_the_file_and_rotates(tmp_path: Path) -> None:
    logrotate = shutil.which("logrotate") or "/usr/sbin/logrotate"
    log = tmp_path / "reload.log"
    log.write_text("x" * (2 << 20))
    (tmp_path / "slurm.log").write_text("x")
    text = LOGROTATE.read_text().replace("/var/log/callback-agent", str(tmp_path))
    owner = f"{os.geteuid()} {os.getegid()}"
    text = text.replace("root root", owner)
    conf = tmp_path / "conf"
    conf.write_text(text)
    conf.chmod(0o644)
    command = [logrotate, "-d", "-s", str(tmp_path / "status"), str(conf)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"error|unknown|bad |overrides", done.stderr), done.stderr
    assert "log needs rotating" in done.stderr
    # And so it does.
    command.remove("-d")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert log.read_text() == ""
    assert log.stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "reload.log.1").stat().st_size == 2 << 20
