"""A Slurm of one node on the loopback, for tests to submit jobs to: munge, slurmctld and slurmd.

Everything is in a folder of its own. Nothing of an installed Slurm is read or changed but its
programs and its users.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from support.agents import DEADLINE, wait_for

_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_PROGRAMS = (
    *("munged", "slurmctld", "slurmd", "setpriv"),
    *("sbatch", "squeue", "scancel", "scontrol", "sinfo"),
)
#: Seconds until a process that was asked to end is killed.
_PATIENCE = 10.0

#: At these, six array tasks, a failing job and a dependent one are done 6 s after `sbatch`; at the
#: defaults they take 20 to 30 s.
_SETTINGS = {
    "ClusterName": "test",
    "SlurmUser": "slurm",
    "AuthType": "auth/munge",
    "ProctrackType": "proctrack/linuxproc",
    "ReturnToService": "2",
    "SchedulerType": "sched/builtin",
    "SchedulerParameters": "sched_min_interval=0,sched_interval=1,batch_sched_delay=0",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_CPU",
    # The machine may have less.
    "SlurmdParameters": "config_overrides",
    "MinJobAge": "60",
    "KillWait": "2",
}


def missing() -> str:
    """Why no cluster can be started here; empty if one can."""
    if os.geteuid() != 0:
        return "not root: slurmd needs it"
    lacking = [name for name in _PROGRAMS if not shutil.which(name, path=_PATH)]
    if lacking:
        return f"not here: {', '.join(lacking)} (slurmctld slurmd slurm-client munge of Debian)"
    for user in ("slurm", "munge"):
        try:
            pwd.getpwnam(user)
        except KeyError:
            return f"there is no user {user}"
    return ""


class Cluster:
    """A cluster below a folder. Use `cluster`, which starts and ends it."""

    def __init__(self, folder: Path, settings: Mapping[str, str], cpus: int) -> None:
        self.folder = folder
        self.conf = folder / "slurm.conf"
        #: Leads Slurm's programs to this cluster.
        self.environ = {
            **{n: v for n, v in os.environ.items() if not n.startswith(("SLURM", "SQUEUE"))},
            "PATH": _PATH,
            "SLURM_CONF": str(self.conf),
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name, owner in (("munge", "munge"), ("state", "slurm"), ("spool", "root")):
            (folder / name).mkdir(mode=0o755)
            shutil.chown(folder / name, owner, owner)
        host = socket.gethostname().partition(".")[0]
        ports = _free_ports(2)
        lines = {
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": ports[0],
            "SlurmdPort": ports[1],
            "AuthInfo": f"socket={folder}/munge/socket",
            "StateSaveLocation": folder / "state",
            "SlurmdSpoolDir": folder / "spool",
            "SlurmctldPidFile": folder / "state/slurmctld.pid",
            "SlurmdPidFile": folder / "spool/slurmd.pid",
            "SlurmctldLogFile": folder / "state/slurmctld.log",
            "SlurmdLogFile": folder / "spool/slurmd.log",
            **_SETTINGS,
            **settings,
        }
        text = "".join(f"{name}={value}\n" for name, value in lines.items())
        text += f"NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN\n"
        text += "PartitionName=p Nodes=ALL Default=YES State=UP\n"
        self.conf.write_text(text)

    def start(self) -> None:
        """Start all of it, and wait until the node takes jobs."""
        key = self.folder / "munge/key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        shutil.chown(key, "munge", "munge")
        files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{name}={self.folder}/munge/{file}" for name, file in files.items()]
        self._launch("munge", "munged", "--foreground", "--force", f"--key-file={key}", *options)
        wait_for((self.folder / "munge/socket").exists, "the socket of munged")
        self.start_controller("-c")
        self._launch("root", "slurmd", "-D", "-f", str(self.conf))
        wait_for(self.idle, "an idle node")

    def start_controller(self, *options: str) -> None:
        """Start slurmctld."""
        self._launch("slurm", "slurmctld", "-D", "-f", str(self.conf), *options)

    def stop_controller(self, number: int = signal.SIGTERM) -> None:
        """End slurmctld."""
        self._end("slurmctld", number)

    def answers(self) -> bool:
        """Whether slurmctld answers."""
        return self._call("scontrol", "ping").returncode == 0

    def idle(self) -> bool:
        """Whether the node has nothing to do, and takes jobs."""
        for name, process in self._processes.items():
            assert process.poll() is None, f"{name} has ended: {self.logs()[-4000:]}"
        done = self._call("sinfo", "-h", "-o", "%t")
        return done.returncode == 0 and done.stdout.strip() == "idle"

    def sbatch(self, command: str, *options: str) -> int:
        """Submit a job that runs a shell command; its id."""
        given = ("--parsable", "--output=/dev/null", *options, f"--wrap={command}")
        return int(self.run("sbatch", *given).partition(";")[0])

    def squeue(self, *arguments: str) -> list[str]:
        """The lines of `squeue`, without their head."""
        return self.run("squeue", "-h", *arguments).splitlines()

    def scancel(self, *arguments: str) -> None:
        """Cancel jobs."""
        self.run("scancel", *arguments)

    def scontrol(self, *arguments: str) -> str:
        """What `scontrol` prints."""
        return self.run("scontrol", *arguments)

    def run(self, *command: str) -> str:
        """What one of Slurm's programs prints; it must succeed."""
        done = self._call(*command)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def logs(self) -> str:
        """All logs."""
        found = [*self.folder.glob("*.log"), *self.folder.glob("*/*.log")]
        return "".join(f"\n{file}:\n{file.read_text('utf-8', 'replace')}" for file in found)

    def stop(self) -> None:
        """End every process of the cluster, and those of its jobs."""
        with contextlib.suppress(AssertionError, OSError, subprocess.TimeoutExpired):
            if "slurmctld" in self._processes:
                self.scancel("--partition=p")
                wait_for(lambda: not self.squeue(), "the end of all jobs", _PATIENCE)
        for name in reversed([*self._processes]):
            self._end(name, signal.SIGTERM)
        for pid in self._left_over():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _call(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environ, cwd=self.folder, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip

    def _launch(self, user: str, program: str, *arguments: str) -> None:
        """Start a process that ends with this one, whatever ends this one."""
        # Set first: setpriv would keep what the user before was allowed.
        entry = pwd.getpwnam(user)
        who = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups"]
        with (self.folder / f"{program}.log").open("ab") as log:
            self._processes[program] = subprocess.Popen(
                ["setpriv", "--pdeathsig=TERM", *who, program, *arguments],
                env=self.environ, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def _end(self, name: str, number: int) -> None:
        process = self._processes.pop(name)
        process.send_signal(number)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _left_over(self) -> Iterator[int]:
        """The processes of jobs and hooks that are still there: all have this SLURM_CONF."""
        mark = f"SLURM_CONF={self.conf}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    yield int(folder.name)


@contextlib.contextmanager
def cluster(
    settings: Mapping[str, str] | None = None, *, folder: Path | None = None, cpus: int = 4
) -> Iterator[Cluster]:
    """A cluster that takes jobs, and is ended and removed at the end.

    `settings` are further lines of slurm.conf. `folder` is new and may be entered by everybody; by
    default one is made in /tmp, as that of a test may not.
    """
    made = folder or Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    made.chmod(0o755)
    try:
        one = Cluster(made, settings or {}, cpus)
        try:
            one.start()
            yield one
        finally:
            one.stop()
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        bound = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in bound:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in bound]
