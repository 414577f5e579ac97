"""The Nth system call of a kind fails, for N = 1, 2, 3 ... until a run is clean: once, and from
then on; with every error that its manual page lists.

The calls are those of a real agent, see support/inject.py. They fail during an edit, during a
start, while clients connect, and while the pipe is made again. What must hold:

- The agent does not end. At a start it may end with an exit status and a message, no traceback.
- What is served is the old version or the new one, whole. A system fault is not an edit: nothing is
  removed because a call failed.
- What failed is reported: by a finding, a note, or on standard error.
- When the calls work again, the new version is served, the state is `ok`, and the log is complete.

Prints a line for each kind and scene, and each case that was wrong; exits 1 if there was one.

    python tests nth --kind flock
    python tests nth --seconds 60 --seed 7       (as many cases as that, in random order)
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.client import AgentError, Client, NoAgent
from agent.timing import CheckLimits, Timing
from support.agents import DEADLINE, Agent, wait_for
from support.inject import KINDS, Injector, number
from support.onlooker import CONF, Answer, Onlooker, answer, files, put

#: Seconds within which an agent that cannot do what it was asked says so, or is asked no longer.
GIVEN_UP = 2.0
#: Seconds until a source of events that failed is tried again, and lost events are found.
RESCAN = 3.0
#: An edit waits for its check as long as a test waits.
CHECKS = CheckLimits(max_wait=DEADLINE)
#: More calls than one run makes.
MAX_N = 3000
#: Errors that say that a file is not there. From then on that is a removal.
ABSENCE = ("ENOENT", "ENOTDIR", "ELOOP", "ENAMETOOLONG")
#: An interrupted call is repeated by Python itself, so one that is interrupted for ever would
#: never end; no kernel does that.
ONCE_ONLY = ("EINTR",)


@dataclass(frozen=True)
class Case:
    """One trial: in this scene the Nth call of this kind fails with this error."""

    scene: str
    kind: str
    error: str
    nth: int
    for_ever: bool

    def __str__(self) -> str:
        how = "on" if self.for_ever else "only"
        return f"{self.scene}: {self.kind} number {self.nth} {how}: {self.error}"


class Trial:
    """One agent, and the version that is in its directory."""

    def __init__(self, folder: Path) -> None:
        self.directory = folder / "callback"
        self.version = 1
        put(self.directory, content(1))
        # What failed is tried again after `rescan`: each case waits for that.
        self.agent = Agent(folder, self.directory).use(Timing(rescan=RESCAN, checks=CHECKS))
        self.injector = Injector(self.agent)

    @property
    def right(self) -> Answer:
        """What is to be served of what is on disk."""
        return answer((self.directory, content(self.version)))

    def start(self) -> None:
        self.injector.next_process()
        self.agent.start()

    def edit(self) -> None:
        """Write another version, as one edit."""
        self.version += 1
        put(self.directory, content(self.version))

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """What is done meanwhile happens at once for the agent."""
        assert self.agent.process is not None
        os.kill(self.agent.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.agent.process.pid, signal.SIGCONT)

    def arm(self, case: Case) -> None:
        self.injector.arm(case.kind, case.nth, number(case.error), case.for_ever)

    def first_failed(self, case: Case) -> None:
        """Wait until the call failed, if it is the first of its kind: some are made after the
        answer, such as those that bring a unit to the disk. Later ones may never be made."""

        def failed() -> bool:
            self.alive()
            return case.nth > 1 or self.injector.failed > 0

        wait_for(failed, "the first call")

    def alive(self) -> None:
        assert self.agent.process is not None
        status = self.agent.process.poll()
        assert status is None, f"the agent ended with {status}: {self.said()[-1000:]}"

    def said(self) -> str:
        """All that the agent wrote to standard error."""
        return self.agent.errors.read_text(errors="replace") if self.agent.errors.exists() else ""

    def is_well(self) -> bool:
        """Whether the newest version is served, and nothing is wrong."""
        self.alive()
        with contextlib.suppress(NoAgent):
            return served(self.agent) == self.right and self.agent.status()["state"] == "ok"
        return False

    def recovers(self) -> None:
        self.injector.disarm()
        try:
            wait_for(self.is_well, "recovery", DEADLINE / 2)
        except AssertionError:
            self.alive()
            status = self.agent.status()
            told = [d["message"] for d in status["last_reload"]["diagnostics"]]
            is_new = served(self.agent) == self.right
            raise AssertionError(
                f"no recovery: state {status['state']}, the newest is served: {is_new},"
                f" findings {told}, notes {status['notes'][-2:]}"
            ) from None

    def note_of_log(self) -> str:
        """What the agent last said of its log."""
        notes: list[str] = self.agent.status()["notes"]
        return next((note for note in reversed(notes) if "reload log" in note), "")

    def helpers(self) -> list[int]:
        """The processes that the agent started."""
        assert self.agent.process is not None
        found = []
        for task in Path(f"/proc/{self.agent.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread that ended meanwhile
                found += [int(pid) for pid in (task / "children").read_text().split()]
        return found


def content(version: int) -> dict[str, str]:
    """A callback directory of one version, with Python to be checked."""
    made = files(version, "a.pl", "b.pl")
    made["c.py"] = f"version = {version}\n"
    made[CONF] += "c.py = failed-job-self\n"
    return made


def served(agent: Agent) -> Answer:
    return tuple(agent.served())


def edited(trial: Trial, case: Case) -> None:
    """An edit while the agent runs."""
    agent = trial.agent
    if case.kind == "stderr":
        # Something to say: the log cannot be written. Its first record is, at some time.
        wait_for(agent.log.exists, "the first record in the log")
        # Else a record that comes between the two makes a new log.
        with trial.stopped():
            agent.log.rename(agent.log.with_suffix(".away"))
            agent.log.mkdir()
    before = trial.right
    with Client(str(agent.pipe), timeout=GIVEN_UP) as one, Onlooker(agent) as look:
        with trial.stopped():
            trial.arm(case)
            trial.edit()
            if case.kind in ("process", "exec"):
                # Another one is started only where there is none.
                for helper in trial.helpers():
                    os.kill(helper, signal.SIGKILL)
        with contextlib.suppress(AgentError):
            one.call("reload")
        trial.first_failed(case)
        if case.for_ever and trial.injector.failed:
            told: list[str] = []
            with contextlib.suppress(AssertionError):
                wait_for(lambda: served_or_said(trial, case, told), deadline=DEADLINE / 2)
                told.clear()
            assert not told, f"the old version is served, and only this is reported: {told}"
        if case.kind == "stderr":
            trial.injector.disarm()
            agent.log.rmdir()
            agent.log.with_suffix(".away").rename(agent.log)
        if absent := case.for_ever and case.error in ABSENCE:
            # A removal that was believed may be taken a moment later: wait for it.
            trial.injector.disarm()
            agent.reload()
        trial.recovers()
        look.sees(trial.right)
        if case.kind == "stderr":
            # Until then, the agent does not say again that the log cannot be written.
            wait_for(lambda: "is written again" in trial.note_of_log(), "the log")
    if not absent:
        look.saw_only(before, trial.right)


def served_or_said(trial: Trial, case: Case, told: list[str]) -> bool:
    """Whether the new version is served, or it is reported why it is not; what is reported."""
    with contextlib.suppress(AgentError), Client(str(trial.agent.pipe), timeout=GIVEN_UP) as one:
        status = one.call("status")
        found = status["last_reload"]["diagnostics"]
        told[:] = [f"{d['code']}: {d['message']}" for d in found] + status["notes"]
        told.append(f"state {status['state']}")
        # A check that cannot be made holds nothing: it is waited for.
        held = status["state"] == "degraded" or case.kind in ("process", "exec")
        return (held and names(case, " ".join(told))) or served(trial.agent) == trial.right
    told[:] = ["no answer"]
    return False


#: What stands for an error besides its own text.
CODES = {
    "EACCES": ("may not read",),
    "EAGAIN": ("being-written",),
    "ENXIO": ("not-a-regular-file",),
    # Of a directory on the way to a file.
    "ENOENT": ("missing:",),
    "ENOTDIR": ("not-a-directory:",),
    "ELOOP": ("dangling-link:",),
}

#: What stands for any error of a kind: where Python itself does not say more, or a file is not
#: the point.
WORDS = {
    "thread": ("can't start new thread",),
    "process": ("not-checked",),
    "exec": ("not-checked",),
}


def names(case: Case, text: str) -> bool:
    """Whether a text says what failed."""
    right = (os.strerror(number(case.error)), *CODES.get(case.error, ()), *WORDS.get(case.kind, ()))
    return any(part in text for part in right)


def started(trial: Trial, case: Case) -> None:
    """A start after an edit that came while no agent ran."""
    agent = trial.agent
    agent.stop()
    trial.edit()
    trial.injector.next_process()
    trial.arm(case)
    said = len(trial.said())
    process = agent.launch()

    def over() -> bool:
        return process.poll() is not None or agent.answers()

    # A helper process is started after the first answer.
    wait_for(
        lambda: trial.injector.failed or (over() if case.nth > 1 else process.poll() is not None),
        "a call that fails, the end, or an answer",
    )
    with contextlib.suppress(AssertionError):
        wait_for(over, deadline=GIVEN_UP)
    trial.injector.disarm()
    with contextlib.suppress(AssertionError):
        trial.recovers()
        return
    text = trial.said()[said:]
    ended = process.poll()
    if ended is None:
        trial.recovers()
    # A start may fail, if that is said: systemd starts it again.
    assert "Traceback" not in text, f"a traceback: {text[-1000:]}"
    wanted = 4 if case.kind == "flock" and case.error == "EWOULDBLOCK" else 2
    assert ended == wanted, f"exit status {ended} instead of {wanted}: {text}"
    assert wanted == 4 or names(case, text), f"not said what it was: {text}"
    trial.start()
    trial.recovers()


def connected(trial: Trial, case: Case) -> None:
    """Clients connect."""
    agent = trial.agent
    with Onlooker(agent) as look:
        trial.arm(case)
        for _ in range(3):
            with contextlib.suppress(AgentError), Client(str(agent.pipe), timeout=0.3) as one:
                one.call("status")
        trial.first_failed(case)
        # Those who are connected are served all the time.
        count = look.lookups
        wait_for(lambda: look.lookups > count + 10, "lookups of those who are connected")
        trial.recovers()
        look.saw_only(trial.right)


def made_again(trial: Trial, case: Case) -> None:
    """The pipe and its lock are removed, and made again."""
    agent = trial.agent
    inode = agent.pipe.stat().st_ino
    with Onlooker(agent) as look:
        trial.arm(case)
        agent.pipe.with_name(f"{agent.pipe.name}.lock").unlink()
        agent.pipe.unlink()

        def over() -> bool:
            if trial.injector.failed:
                return True
            with contextlib.suppress(FileNotFoundError):
                return agent.pipe.stat().st_ino != inode and agent.answers()
            return False

        wait_for(over, "the pipe, or that it could not be made")
        trial.alive()
        trial.recovers()
        look.saw_only(trial.right)


SCENES: dict[str, Callable[[Trial, Case], None]] = {
    "edit": edited,
    "start": started,
    "connect": connected,
    "pipe made again": made_again,
}
#: Which kinds of calls are made to fail where. At a start, Python itself opens and reads a thousand
#: files first, and ends where it cannot.
WHERE = {
    "edit": tuple(kind for kind in KINDS if kind not in ("flock", "accept", "bind")),
    "start": tuple(kind for kind in KINDS if kind not in ("open", "read", "stat", "accept")),
    "connect": ("accept",),
    "pipe made again": ("flock", "bind"),
}


class Runner:
    """Runs cases, each with the agent of the last one if that was well."""

    def __init__(self, folder: Path, verbose: bool = False) -> None:
        self._folder = folder
        self.verbose = verbose
        self._trial: Trial | None = None
        self._number = 0
        self.wrong: list[str] = []
        self.cases = 0

    def run(self, case: Case) -> bool:
        """Whether a call failed: if none did, N is past the last call."""
        self.cases += 1
        began = time.monotonic()
        try:
            if self._trial is None:
                self._number += 1
                folder = self._folder / str(self._number)
                folder.mkdir()
                self._trial = Trial(folder)
                self._trial.start()
            SCENES[case.scene](self._trial, case)
            return self._trial.injector.failed > 0
        except Exception as error:
            self.wrong.append(f"{case}: {error}")
            print(f"WRONG: {self.wrong[-1]}", flush=True)
            failed = self._trial is not None and self._trial.injector.failed > 0
            self.close()
            return failed
        finally:
            if self.verbose:
                print(f"{time.monotonic() - began:7.2f} s  {case}", flush=True)

    def close(self) -> None:
        """End the agent."""
        trial, self._trial = self._trial, None
        if trial is not None and trial.agent.process is not None:
            trial.injector.disarm()
            trial.agent.stop(signal.SIGKILL)


def numbers(scene: str, kind: str, error: str, for_ever: bool) -> Iterator[Case]:
    """The cases for N = 1, 2, 3 ...; send each whether a call failed."""
    for nth in range(1, MAX_N):
        yield Case(scene, kind, error, nth, for_ever)


def every(kinds: tuple[str, ...], scenes: tuple[str, ...]) -> list[tuple[str, str, str, bool]]:
    """Scene, kind, error and whether for ever."""
    return [
        (scene, kind, error, for_ever)
        for scene in scenes
        for kind in WHERE[scene]
        if kind in kinds
        for error in KINDS[kind]
        for for_ever in (False, True)
        if not (for_ever and error in ONCE_ONLY)
    ]


def sampled(runner: Runner, seconds: float, seed: int, kinds: tuple[str, ...]) -> None:
    """Cases in random order: small N oftener than large ones."""
    chance = random.Random(seed)
    cases = every(kinds, tuple(SCENES))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        scene, kind, error, for_ever = chance.choice(cases)
        runner.run(Case(scene, kind, error, int(chance.paretovariate(0.7)), for_ever))


def all_of(runner: Runner, kinds: tuple[str, ...], scenes: tuple[str, ...], most: int) -> None:
    """Every case, and a line for each kind and scene."""
    counts: dict[tuple[str, str], list[int]] = {}
    for scene, kind, error, for_ever in every(kinds, scenes):
        nth = 0
        for case in numbers(scene, kind, error, for_ever):
            nth = case.nth
            if not runner.run(case) or nth >= most:
                break
        counts.setdefault((scene, kind), []).append(nth)
    for (scene, kind), reached in counts.items():
        print(f"{scene}: {kind}: {sum(reached)} cases, N up to {max(reached)}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=list(KINDS), action="append", help="these alone")
    parser.add_argument("--scene", choices=list(SCENES), action="append", help="these alone")
    parser.add_argument("--most", type=int, default=MAX_N, help="the largest N (%(default)s)")
    parser.add_argument("--seconds", type=float, help="random cases for so long")
    parser.add_argument("--seed", type=int, default=1, help="of the random choices (%(default)s)")
    parser.add_argument("--verbose", action="store_true", help="a line for each case")
    parser.add_argument("--folder", help="an existing folder to work in")
    options = parser.parse_args()
    kinds = tuple(options.kind or KINDS)
    with tempfile.TemporaryDirectory(prefix="nth-", dir=options.folder) as folder:
        runner = Runner(Path(folder).resolve(), options.verbose)
        try:
            if options.seconds is not None:
                sampled(runner, options.seconds, options.seed, kinds)
            else:
                all_of(runner, kinds, tuple(options.scene or SCENES), options.most)
        finally:
            runner.close()
    print(f"{runner.cases} cases, {len(runner.wrong)} of them wrong")
    return 1 if runner.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
