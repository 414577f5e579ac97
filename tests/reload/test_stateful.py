"""Any sequence of file operations, then quiet: a running agent serves what a fresh one does, and
what the rules say.

The rules are written here a second time, as simply as possible and without the agent's code: what
is accepted of a directory, given what was accepted before and what is on disk now. If edits follow
one another without a barrier, the agent may have seen any of the states in between, or none; so the
model keeps everything that may be accepted. After a barrier, and at the end, the state on disk was
seen, and what is served must be one of these.

A fresh agent is one that is started after this one has stopped, on the same pipe, state directory
and settings. It then continues as the running one.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from agent.timing import CheckLimits, Timing
from support.agents import DEADLINE, Agent, wait_for

THOROUGH = settings.get_current_profile_name() == "thorough"
#: Seconds for the whole test.
LIMIT = 3600 if THOROUGH else 900
#: Seconds until an edit must be seen without a barrier: below the time of a scan.
SEEN = 25.0

NAMES = ("a.pl", "b.qcb", "c.py")
CODE = {
    "a.pl": (b"print 1\n", b"print 2\n", b"# caf\xe9\n"),
    "b.qcb": (b"mail-status\n", b"block-self\n"),
    "c.py": (b"a = 1\n", b"a = 2\n", b"a = = 1\n", b"def f(:\n"),
}
COMPILES = {b"a = 1\n": True, b"a = 2\n": True, b"a = = 1\n": False, b"def f(:\n": False}
TRIGGERS = ("failed-job-self", "done-work-self-* || x-work-self-1", "submit-job-label")
BAD_LINES = ("a.pl failed-job-self", "a.txt = failed-job-self", "a.pl = failed-nothing-self")
LANGUAGES = {
    "qube,mail,perl,python": {"qube", "mail", "perl", "python"},
    "qube,mail": {"qube", "mail"},
}

Line = tuple[str, str]


# The rules ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accepted:
    """What is accepted of a directory: lines (file, trigger, number), and code by file."""

    lines: tuple[tuple[str, str, int], ...] = ()
    code: tuple[tuple[str, bytes], ...] = ()

    def without(self, gone: set[str]) -> Accepted:
        return replace(self, code=tuple((f, c) for f, c in self.code if f not in gone))

    def files(self) -> set[str]:
        return {file for file, _, _ in self.lines}


@dataclass(frozen=True)
class Disk:
    """What is in a directory; a `fault` if it cannot be read."""

    fault: bool = False
    #: None where there is none.
    conf: str | None = None
    #: Whether callbacks.conf is there and cannot be read.
    conf_fault: bool = False
    #: Files that cannot be read, or lead nowhere.
    dead: frozenset[str] = frozenset()
    code: dict[str, bytes] = field(default_factory=dict)


def on_disk(path: Path) -> Disk:
    if not path.is_dir():
        return Disk(fault=True)
    conf = path / "callbacks.conf"
    dead = {n for n in NAMES if (path / n).is_symlink() and not (path / n).exists()}
    text, conf_fault = None, False
    try:
        text = conf.read_text()
    except OSError:
        conf_fault = os.path.lexists(conf)
    code = {n: (path / n).read_bytes() for n in NAMES if (path / n).is_file()}
    return Disk(False, text, conf_fault, frozenset(dead), code)


#: What is accepted, None if nothing ever was; and why the directory is held.
State = tuple[Accepted | None, str | None]


def judge(before: Accepted | None, disk: Disk) -> State:
    """What is accepted now."""
    if disk.fault:
        return before, "fault"
    gone = {n for n in NAMES if n not in disk.code and n not in disk.dead}
    if disk.conf_fault:
        return (before.without(gone) if before else None), "fault"
    if disk.conf is None:
        return Accepted(), None
    lines, held = [], None
    for number, text in enumerate(disk.conf.splitlines(), 1):
        name, _, trigger = text.partition(" = ")
        if name in NAMES and trigger in TRIGGERS:
            lines.append((name, trigger, number))
        else:
            held = "error"
    known = before.files() if before else set()
    for name, _, _ in lines:
        if name in gone and name not in known:
            held = held or "error"
        old = dict(before.code).get(name) if before else None
        new = disk.code.get(name)
        broke = name == "c.py" and old and new and COMPILES[old] and not COMPILES[new]
        if broke:
            held = held or "error"
    if any(name in disk.dead for name, _, _ in lines):
        held = "fault"
    if held and before is not None:
        return before.without(gone), held
    if held:
        lines = [line for line in lines if line[0] in disk.code]
    named = {name for name, _, _ in lines}
    code = tuple((n, disk.code[n]) for n in NAMES if n in named and n in disk.code)
    return Accepted(tuple(lines), code), held


def enabled(name: str, code: bytes, languages: set[str]) -> bool:
    if name == "b.qcb":
        return "qube" in languages and ("mail" in languages or b"mail" not in code)
    return {"a.pl": "perl", "c.py": "python"}[name] in languages


Shown = tuple[tuple[str, str, int, bytes, bool], ...]


def shown(accepted: Accepted | None, languages: set[str]) -> Shown:
    """What is served of a directory."""
    code = dict(accepted.code) if accepted else {}
    return tuple(
        (name, trigger, line, code[name], enabled(name, code[name], languages))
        for name, trigger, line in (accepted.lines if accepted else ())
        if name in code
    )


# The operations ----------------------------------------------------------------------------------

conf_lines = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(TRIGGERS)), max_size=5, unique=True
)
bad_lines = st.none() | st.none() | st.sampled_from(BAD_LINES)
places = st.sampled_from(["one", "two", "link"])
codes = st.sampled_from(NAMES).flatmap(
    lambda name: st.tuples(st.just(name), st.sampled_from(CODE[name]))
)
ways = st.sampled_from(["in place", "by rename", "older"])


class Shared:
    """The agent that runs, from one example to the next."""

    folder: Path
    agent: Agent
    example = 0


class AnyEdits(RuleBasedStateMachine):
    """Directories `one` and `two`, and `link`, a link to one of two releases."""

    @initialize()
    def begin(self) -> None:
        # New paths: nothing of the last example is accepted of them.
        Shared.example += 1
        self.folder = Shared.folder / str(Shared.example)
        self.folder.mkdir()
        self.other = self.folder / "elsewhere"
        self.other.mkdir()
        self.listed: list[str] = []
        self.languages = {"perl"}
        self.settings_bad = False
        #: By listed directory, all that may be accepted of it.
        self.may: dict[str, set[Accepted | None]] = {}
        for name in ("one", "two", "releases/a", "releases/b"):
            (self.folder / name).mkdir(parents=True)
            self._put(
                self.folder / name / "callbacks.conf", b"a.pl = failed-job-self\n", "by rename"
            )
            self._put(self.folder / name / "a.pl", f"# {name}\n".encode(), "by rename")
        (self.folder / "link").symlink_to("releases/a")
        self.change_settings(["one", "two", "link"], next(iter(LANGUAGES)))

    # What the agent may have seen

    def _saw(self) -> None:
        """The agent may have seen what is on disk, or not."""
        for name, may in self.may.items():
            disk = on_disk(self.folder / name)
            may |= {judge(before, disk)[0] for before in may}

    def _surely_saw(self) -> None:
        for name, may in self.may.items():
            disk = on_disk(self.folder / name)
            self.may[name] = {judge(before, disk)[0] for before in may}

    def _expected(self) -> dict[str, set[tuple[Shown, str | None]]]:
        """By directory, what may be served, and why it is then held."""
        expected = {}
        for name, may in self.may.items():
            disk = on_disk(self.folder / name)
            states = {judge(before, disk) for before in may}
            expected[name] = {(shown(a, self.languages), held) for a, held in states}
        return expected

    def _served(self) -> dict[str, tuple[Shown, str | None]]:
        """The same of the agent."""
        status = Shared.agent.status()
        callbacks = Shared.agent.call("list", {"code": True})["callbacks"]
        served = {}
        for d in status["directories"]:
            path = Path(d["path"])
            found = tuple(
                (c["file"], c["trigger"], c["line"], _bytes(c), c["enabled"])
                for c in callbacks
                if c["directory"] == d["path"]
            )
            served[path.name] = found, d["held"]
        return served

    def _is_right(self) -> bool:
        served, expected = self._served(), self._expected()
        return list(served) == self.listed and all(
            one in expected[name] for name, one in served.items()
        )

    # Edits

    def _put(self, path: Path, data: bytes, way: str) -> None:
        if path.is_dir() and not path.is_symlink():
            return
        if way == "in place" and path.parent.is_dir():
            with contextlib.suppress(FileNotFoundError):  # A link that leads nowhere.
                path.write_bytes(data)
        elif path.parent.is_dir():
            new = path.with_name(f".{path.name}.new")
            new.write_bytes(data)
            if way == "older":
                os.utime(new, (1e9, 1e9))
            new.rename(path)

    @rule(place=places, lines=conf_lines, bad=bad_lines, way=ways)
    def write_conf(self, place: str, lines: list[Line], bad: str | None, way: str) -> None:
        texts = [f"{name} = {trigger}" for name, trigger in lines] + ([bad] if bad else [])
        data = "".join(f"{text}\n" for text in texts).encode()
        self._put(self.folder / place / "callbacks.conf", data, way)
        self._saw()

    @rule(place=places, code=codes, way=ways)
    def write_code(self, place: str, code: tuple[str, bytes], way: str) -> None:
        self._put(self.folder / place / code[0], code[1], way)
        self._saw()

    @rule(place=places, name=st.sampled_from((*NAMES, "callbacks.conf")))
    def delete_file(self, place: str, name: str) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            (self.folder / place / name).unlink()
        self._saw()

    @rule(place=places, name=st.sampled_from((*NAMES, "callbacks.conf")), data=st.data())
    def link_file(self, place: str, name: str, data: st.DataObject) -> None:
        """The file becomes a link to another place, where there may be a file."""
        file = self.folder / place / name
        target = self.other / f"{place}-{name}"
        if not file.parent.is_dir():
            return
        if data.draw(st.booleans(), "leads somewhere"):
            text = f"a.pl = {TRIGGERS[0]}\n".encode() if name not in CODE else CODE[name][0]
            self._put(target, text, "by rename")
        elif target.exists():
            target.unlink()
            self._saw()
        new = file.with_name(".new-link")
        new.symlink_to(target)
        new.rename(file)
        self._saw()

    @rule(place=places, code=codes)
    def write_behind_link(self, place: str, code: tuple[str, bytes]) -> None:
        target = self.other / f"{place}-{code[0]}"
        if target.exists():
            self._put(target, code[1], "in place")
            self._saw()

    @rule(place=places, name=st.sampled_from((*NAMES, "callbacks.conf")))
    def touch(self, place: str, name: str) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.utime(self.folder / place / name)
        self._saw()

    @rule(place=places, name=st.sampled_from((*NAMES, "callbacks.conf", ".")))
    def change_mode(self, place: str, name: str) -> None:
        path = self.folder / place / name
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            # Group and others may not read; the agent, whose files these are, still may.
            path.chmod(stat.S_IMODE(path.stat().st_mode) ^ 0o044)
        self._saw()

    @rule(place=st.sampled_from(["one", "two"]))
    def delete_directory(self, place: str) -> None:
        path = self.folder / place
        if path.is_dir():
            for file in sorted(path.iterdir()):
                file.unlink()
                self._saw()
            path.rmdir()
        self._saw()

    @rule(place=st.sampled_from(["one", "two"]), lines=conf_lines)
    def make_directory(self, place: str, lines: list[Line]) -> None:
        path = self.folder / place
        if path.exists():
            return
        path.mkdir()
        self._saw()
        for name, trigger in lines:
            self._put(path / name, CODE[name][0], "in place")
            self._saw()
            self._put(path / "callbacks.conf", f"{name} = {trigger}\n".encode(), "in place")
            self._saw()

    @rule()
    def exchange_directories(self) -> None:
        """One is renamed away, and the other into its place."""
        one, two, away = self.folder / "one", self.folder / "two", self.folder / "away"
        for old, new in ((one, away), (two, one), (away, two)):
            if old.exists():
                old.rename(new)
            self._saw()

    @rule(place=st.sampled_from(["one", "two"]), back=st.booleans())
    def rename_directory(self, place: str, back: bool) -> None:
        path, away = self.folder / place, self.folder / f"{place}.away"
        if path.exists() and not away.exists():
            path.rename(away)
            self._saw()
        if back and away.exists() and not path.exists():
            away.rename(path)
        self._saw()

    @rule(release=st.sampled_from(["releases/a", "releases/b", "one", "releases/nothing"]))
    def switch_link(self, release: str) -> None:
        new = self.folder / ".link.new"
        new.symlink_to(release)
        new.rename(self.folder / "link")
        self._saw()

    @rule()
    def leave_droppings(self) -> None:
        for place in ("one", "two", "releases/a"):
            for name in (".callbacks.conf.swp", "4913", "a.pl~", ".#a.pl"):
                if (self.folder / place).is_dir():
                    (self.folder / place / name).touch()
        self._saw()

    @rule(
        listed=st.lists(places, min_size=1, max_size=3, unique=True),
        languages=st.sampled_from(sorted(LANGUAGES)),
    )
    def change_settings(self, listed: list[str], languages: str) -> None:
        # What the agent saw of the directories before it sees this is known, and of this, too.
        if self.listed:
            self.barrier()
        paths = ",".join(str(self.folder / name) for name in listed)
        Shared.agent.qb_conf.write_text(
            f"supervisor_language_flags = {languages}\n"
            f"supervisor_universal_callback_path = {paths}\n"
        )
        self.settings_bad = False
        self.languages = LANGUAGES[languages]
        self.listed = listed
        # What is listed no more is forgotten.
        self.may = {name: self.may.get(name, {None}) for name in listed}
        self.barrier()

    @rule(how=st.sampled_from(["broken", "deleted"]))
    def lose_settings(self, how: str) -> None:
        """The last valid settings stay."""
        if how == "broken":
            Shared.agent.qb_conf.write_text("supervisor_language_flags = 9z\n")
        else:
            Shared.agent.qb_conf.unlink(missing_ok=True)
        self.settings_bad = True

    # What must hold

    @rule()
    def barrier(self) -> None:
        Shared.agent.reload()
        self._surely_saw()
        assert self._is_right(), (self._served(), self._expected())
        self._right_state()

    @rule()
    def wait(self) -> None:
        self._wait()

    def _wait(self) -> None:
        """No barrier: the agent notices the edit."""
        try:
            wait_for(self._is_right, deadline=SEEN)
        except AssertionError:
            raise AssertionError((self._served(), self._expected())) from None
        self._surely_saw()

    def _right_state(self) -> None:
        """`degraded` where a directory is held or the settings are; or a callback was removed."""
        status = Shared.agent.status()
        bad = self.settings_bad or any(d["held"] for d in status["directories"])
        if bad:
            assert status["state"] == "degraded"

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        self._wait()
        Shared.agent.reload()
        served = self._served()
        state = Shared.agent.status()["state"]
        digest = Shared.agent.status()["digest"]
        assert Shared.agent.stop() == 0
        Shared.agent.start()
        # That a directory is held for its Python may come after the first answer; what is served
        # does not.
        assert {n: callbacks for n, (callbacks, _) in self._served().items()} == {
            n: callbacks for n, (callbacks, _) in served.items()
        }
        Shared.agent.reload()
        assert self._served() == served
        assert Shared.agent.status()["state"] == state
        assert Shared.agent.status()["digest"] == digest
        shutil.rmtree(self.folder)


def _bytes(callback: dict[str, str]) -> bytes:
    if "code" in callback:
        return callback["code"].encode()
    return base64.b64decode(callback["code_base64"])


@pytest.mark.timeout(LIMIT)
def test_any_sequence_of_edits_then_quiet(tmp_path: Path) -> None:
    Shared.folder = tmp_path.resolve()
    # A machine that is suspended for a moment must keep no edit from being checked.
    Shared.agent = Agent(Shared.folder).use(Timing(checks=CheckLimits(max_wait=DEADLINE)))
    Shared.agent.start()
    try:
        run_state_machine_as_test(
            AnyEdits,
            settings=settings(
                # A failure is reported as it was found: to make it smaller takes many real agents.
                phases=[Phase.explicit, Phase.reuse, Phase.generate],
                max_examples=1000 if THOROUGH else 16,
                stateful_step_count=40 if THOROUGH else 20,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        Shared.agent.stop()
