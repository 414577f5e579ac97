"""Row 30: a file is absent while an edit goes on. A lone removal is believed at once."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
from errno import ENOENT
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent import client
from agent.disk import second_look
from agent.disk.filesystems import Kind
from agent.disk.fingerprint import Fingerprint
from agent.disk.permissions import IGNORE, Trust
from agent.disk.snapshot import Snapshot
from agent.disk.stalls import StallMonitor
from agent.reload import looker
from agent.reload.attempt import Look
from agent.reload.directory_state import DirectoryState
from agent.reload.removed_files import MAX_WAIT, MissingFiles, git_is_writing
from agent.reload.syntax_check import Checker
from agent.timing import CheckLimits
from support import editors
from support.agents import DEADLINE, Agent, running, wait_for, write

NAMES = ("a", "b", "c", "d")
CONF = "".join(f"{name}.qcb = done-job-self\n" for name in NAMES)
#: Seconds for which git's filter runs for each file: far longer than the quiet period.
FILTER = 0.1


class Watcher:
    """Asks again and again which files fire, and keeps all answers."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.answers: list[tuple[str, ...]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with client.Client(str(self._agent.pipe), timeout=DEADLINE) as one:
            while not self._stop.is_set():
                found = one.call("lookup", {"event": "done-job-self"})
                self.answers.append(tuple(c["file"] for c in found["callbacks"]))

    def __enter__(self) -> Watcher:
        self._thread.start()
        wait_for(lambda: self.answers, "the first answer")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def git(*arguments: str, cwd: Path) -> None:
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    who = ("-c", "user.name=x", "-c", "user.email=x@example.com")
    subprocess.run(["git", *who, *arguments], cwd=cwd, env=environ, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits, A and B, that differ in all files; a slow filter for each of them."""
    editors.need("git")
    path = tmp_path / "cb"
    path.mkdir()
    git("init", "-q", "-b", "A", cwd=path)
    git("config", "filter.slow.clean", "cat", cwd=path)
    git("config", "filter.slow.smudge", "cat", cwd=path)
    for branch in "AB":
        if branch == "B":
            git("checkout", "-q", "-b", "B", cwd=path)
        for name in NAMES:
            (path / f"{name}.qcb").write_text(f"# {branch}\n")
        (path / "callbacks.conf").write_text(f"# {branch}\n{CONF}")
        (path / ".gitattributes").write_text("*.qcb filter=slow\ncallbacks.conf filter=slow\n")
        git("add", "-A", cwd=path)
        git("commit", "-q", "-m", branch, cwd=path)
    git("config", "filter.slow.smudge", f"sleep {FILTER}; cat", cwd=path)
    return path


@pytest.mark.parametrize("where", ["work tree", "linked work tree"])
def test_row_30_git_checkout_with_a_filter(tmp_path: Path, repository: Path, where: str) -> None:
    directory = repository
    if where == "linked work tree":
        directory = tmp_path / "linked"
        git("checkout", "-q", "A", cwd=repository)
        git("worktree", "add", "-q", str(directory), "B", cwd=repository)
    every = tuple(f"{name}.qcb" for name in NAMES)
    starts = itertools.cycle("AB")
    with running(tmp_path, directory) as agent:
        well = 0
        for attempt in range(20):
            start = next(starts)
            before = len(agent.history())
            with Watcher(agent) as watcher:
                began = time.time()
                git("checkout", "-q", "-B", f"C{attempt}", start, cwd=directory)
                agent.reload()
            assert {code for _, _, code in agent.served()} == {f"# {start}\n"}
            if _longest_absence(directory, began) > MAX_WAIT / 2:
                # This machine stood still in the middle of it.
                continue
            assert set(watcher.answers) == {every}
            records = agent.history()[before:]
            assert not [c for r in records for c in r["changes"] if c["change"] == "removed"]
            assert agent.status()["state"] == "ok"
            well += 1
            if well == 2:
                return
    pytest.fail("git always took long: this machine is too busy")


def _longest_absence(directory: Path, began: float) -> float:
    """The longest time in seconds between two files that git wrote, which it removes and writes one
    after the other, since it was started."""
    names = (*(f"{name}.qcb" for name in NAMES), "callbacks.conf")
    written = sorted((directory / name).stat().st_ctime for name in names)
    return max(b - a for a, b in itertools.pairwise([began, *written]))


def test_row_30_a_removal_alone_does_not_wait(tmp_path: Path) -> None:
    """It is faster than one that comes with the edit of another file, whenever the machine is."""
    directory = write(tmp_path / "cb", CONF, **{f"{name}_qcb": "" for name in NAMES})

    def faster(number: int) -> bool:
        alone = [_removal(agent, directory, name) for name in ("d.qcb", "callbacks.conf")]
        write(directory, CONF, d_qcb="")
        agent.reload()
        (directory / "a.qcb").write_text(f"# edited {number}\n")
        together = _removal(agent, directory, "d.qcb")
        write(directory, CONF, d_qcb="")
        agent.reload()
        return max(alone) < together

    with running(tmp_path, directory) as agent:
        assert any(map(faster, range(20)))


def _removal(agent: Agent, directory: Path, name: str) -> float:
    """Remove a file; the seconds until it is served no more."""
    began = time.monotonic()
    (directory / name).unlink()
    gone = set(agent.fires("done-job-self")) if name == "callbacks.conf" else {name}
    wait_for(lambda: not gone & set(agent.fires("done-job-self")), f"the removal of {name}")
    taken = time.monotonic() - began
    agent.reload()
    assert f"{directory}/{name}" in {c["path"] for r in agent.history() for c in r["causes"]}
    return taken


def test_row_30_a_removal_while_others_are_edited_is_believed_in_the_end(tmp_path: Path) -> None:
    directory = write(tmp_path / "cb", CONF, **{f"{name}_qcb": "" for name in NAMES})
    stop = threading.Event()

    def edit() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            new = directory / "new"
            new.write_text(f"# {number}\n")
            new.rename(directory / "a.qcb")
            time.sleep(0.02)

    thread = threading.Thread(target=edit)
    with running(tmp_path, directory) as agent:
        thread.start()
        try:
            wait_for(lambda: agent.status()["generation"] > 2, "edits")
            (directory / "b.qcb").unlink()
            wait_for(lambda: "b.qcb" not in agent.fires("done-job-self"), "the removal")
        finally:
            stop.set()
            thread.join()
        agent.reload()
        assert agent.fires("done-job-self") == ["a.qcb", "c.qcb", "d.qcb"]


# The rule -----------------------------------------------------------------------------------------

HERE = (1, 1)
ALL: dict[str, Fingerprint] = {".": (9,), "a": HERE, "b": HERE, "callbacks.conf": HERE}


def after(*readings: dict[str, Fingerprint], at: float = 0.0) -> MissingFiles:
    missing = MissingFiles()
    for number, one in enumerate(readings):
        missing.update(one, {"a", "b", "callbacks.conf"}, at + number / 100)
    return missing


def test_files_that_go_together_are_a_removal() -> None:
    missing = after(ALL, {**ALL, "a": ENOENT, "b": ENOENT})
    assert missing.awaited(0.02) == {"a", "b"}
    assert not missing.is_edited(0.02)


def test_a_change_of_another_file_is_an_edit_for_a_while() -> None:
    missing = after(ALL, {**ALL, "a": ENOENT, "b": (2, 2)})
    assert missing.is_edited(0.02)
    assert not missing.is_edited(0.02 + MAX_WAIT)
    assert missing.awaited(0.02 + MAX_WAIT) == frozenset()
    # A file that comes back has changed, and each missing file has its own time.
    missing = after(ALL, {**ALL, "a": ENOENT}, {**ALL, "a": (3, 3), "b": ENOENT})
    assert missing.is_edited(0.02)
    assert missing.awaited(0.015 + MAX_WAIT) == {"b"}


def test_a_file_that_is_saved_and_then_removed_is_a_lone_removal() -> None:
    missing = after(ALL, {**ALL, "a": (2, 2)}, {**ALL, "a": ENOENT})
    assert missing.awaited(0.02) == {"a"}
    assert not missing.is_edited(0.02)


def test_a_file_counts_as_missing_only_until_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread may be suspended afterwards, and the file come back meanwhile."""
    directory = write(tmp_path / "cb", CONF, **{f"{name}_qcb": "" for name in NAMES})
    now = 0.0
    monkeypatch.setattr(looker, "time", SimpleNamespace(monotonic=lambda: now))
    checker = Checker(lambda _: None, CheckLimits())
    monitor = StallMonitor(lambda: None, lambda _: None, 10.0)
    looks = looker.Looker(lambda _: Kind.LOCAL, monitor, checker, Trust(IGNORE))
    state = DirectoryState(str(directory))

    def look() -> Look:
        found = looks.first_looks([state], True)
        looks.second_looks(found)
        return found[0][1]

    state.evaluate(look().snapshot, checker)
    (directory / "a.qcb").write_text("# edited\n")
    (directory / "b.qcb").unlink()
    assert look().awaited == {"b.qcb"}
    real = second_look.confirmed_missing

    def late(snapshot: Snapshot) -> frozenset[str]:
        nonlocal now
        found = real(snapshot)
        now += 2 * MAX_WAIT
        return found

    monkeypatch.setattr(second_look, "confirmed_missing", late)
    assert look().awaited == {"b.qcb"}
    # Looked for again, it was missing for that long.
    assert look().gone == {"b.qcb"}


def test_another_directory_in_its_place_is_taken_as_it_is() -> None:
    missing = after(ALL, {**ALL, "b": (2, 2)}, {**ALL, ".": (8,), "a": ENOENT, "b": (4, 4)})
    assert not missing.is_edited(0.02)


def test_the_lock_of_git_is_found_from_below(tmp_path: Path) -> None:
    below = tmp_path / "tree/a/b"
    below.mkdir(parents=True)
    (tmp_path / "link").symlink_to(below)
    assert not git_is_writing(str(below))
    (tmp_path / "tree/.git").mkdir()
    assert not git_is_writing(str(below))
    (tmp_path / "tree/.git/index.lock").write_text("")
    assert git_is_writing(str(below))
    assert git_is_writing(str(tmp_path / "link"))
    (tmp_path / "tree/a/.git").write_text("gitdir: ../../elsewhere\n")
    assert not git_is_writing(str(below))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/index.lock").write_text("")
    assert git_is_writing(str(below))
    assert not git_is_writing(str(tmp_path / "missing"))
