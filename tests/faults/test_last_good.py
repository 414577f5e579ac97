"""The last-good units in the state directory: written once, read with suspicion."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core import trigger
from agent.core.languages import Verdict
from agent.core.unit import Implementation, Registration, Unit
from agent.disk.permissions import IGNORE, REFUSE, Trust
from agent.reload import state_files
from agent.reload.accepted import stored_unit
from agent.reload.last_good import LastGood
from agent.reload.state_files import Damaged
from agent.reload.stored import StoredSettings
from agent.timing import Timing
from faults.steps import stopped
from support.agents import Agent, running, wait_for, write

DIRECTORY = "/cb"


def registration(file: str, line: int) -> Registration:
    tree, _ = trigger.parse("done-job-self")
    assert tree is not None
    return Registration(file, tree, "done-job-self", line, 3)


def unit(**code: bytes) -> Unit:
    files = {name.replace("_", "."): Implementation.of(text) for name, text in code.items()}
    lines = tuple(registration(file, line) for line, file in enumerate(files, 1))
    return Unit(lines, files)


class Keeper:
    """The folder of one agent, opened again and again."""

    def __init__(self, state: Path, messages: list[str]) -> None:
        self.state = state
        self.messages = messages
        self.kept = self.open()

    def open(self) -> LastGood:
        self.kept = LastGood(str(self.state), "/pipe", Trust(IGNORE))
        self.kept.open()
        return self.kept

    def save(self, one: Unit, directory: str = DIRECTORY) -> None:
        assert self.kept.save(directory, one, 7)

    def list(self, *directories: str) -> None:
        self.kept.save_settings(StoredSettings("/etc/qb.conf", True, [*directories], []))

    def load(self, directory: str = DIRECTORY) -> Unit | None:
        known, self.findings = self.open().load(directory)
        return None if known is None else known.unit

    def files(self, pattern: str = "*.code") -> dict[str, os.stat_result]:
        return {p.name: p.stat() for p in Path(self.kept.folder).glob(pattern)}

    def path(self) -> Path:
        """The file of the one directory."""
        key = hashlib.sha256(DIRECTORY.encode()).hexdigest()[:32]
        return Path(self.kept.folder) / key


@pytest.fixture
def keeper(tmp_path: Path, messages: list[str]) -> Keeper:
    return Keeper(tmp_path / "state", messages)


def test_what_is_kept_comes_back(keeper: Keeper) -> None:
    good = Implementation(b"x = 1\n", Implementation.of(b"x = 1\n").digest, Verdict())
    whole = unit(a_py=b"", b_pl=b"\xff\x00", c_qcb=b"kill\n")
    whole = Unit(whole.registrations, {**whole.implementations, "d.py": good}, True)
    keeper.save(whole)
    assert keeper.load() == whole
    keeper.kept.sync()
    assert keeper.load() == whole


def test_many_lines_are_encoded_in_pieces(keeper: Keeper) -> None:
    files = {f"{n}.py": Implementation.of(b"%d" % (n % 7)) for n in range(1700)}
    whole = Unit(tuple(registration(f, n) for n, f in enumerate(files)), files)
    keeper.save(whole)
    assert keeper.load() == whole
    assert len(keeper.files()) == 7
    body = next(Path(keeper.kept.folder).glob("*.new")).read_bytes().partition(b"\n")[2]
    assert len(json.loads(body)["registrations"]) == 1700


def test_code_is_written_once_whatever_else_is_edited(keeper: Keeper) -> None:
    """20 MB that stay as they are cost an edit of another file nothing."""
    large = {f"f{n}_pl": os.urandom(1 << 20) for n in range(20)}
    keeper.save(unit(**large, a_pl=b"1"))
    keeper.kept.sync()
    before = keeper.files()
    keeper.save(unit(**large, a_pl=b"2"))
    after = keeper.files()
    assert len(after) - len(before) == 1
    assert all(after[name].st_ino == status.st_ino for name, status in before.items())
    assert all(len(p.read_bytes()) < 20_000 for p in Path(keeper.kept.folder).glob("*.new"))
    assert keeper.load() == unit(**large, a_pl=b"2")


def test_code_goes_when_nothing_needs_it_any_more(keeper: Keeper) -> None:
    keeper.list(DIRECTORY, "/other")
    keeper.save(unit(a_pl=b"1", b_pl=b"2"))
    keeper.save(unit(a_pl=b"2"), "/other")
    keeper.kept.sync()
    assert len(keeper.files()) == 2
    keeper.save(unit(a_pl=b"3"))
    # The older unit, which a power failure may bring back, still has its code.
    assert len(keeper.files()) == 3
    keeper.kept.sync()
    assert len(keeper.files()) == 2
    keeper.list(DIRECTORY)
    keeper.kept.sync()
    assert len(keeper.files()) == 1
    assert keeper.load() == unit(a_pl=b"3")
    assert not keeper.kept.waiting


def test_the_code_of_another_run_goes_too(keeper: Keeper) -> None:
    keeper.list(DIRECTORY)
    keeper.save(unit(a_pl=b"1"))
    (Path(keeper.kept.folder) / f"{'0' * 64}.code").write_bytes(b"x")
    (Path(keeper.kept.folder) / f"{'1' * 64}.code.begun").write_bytes(b"x")
    assert keeper.load() == unit(a_pl=b"1")
    keeper.list(DIRECTORY)
    keeper.kept.sync()
    assert len(keeper.files("*.code*")) == 1
    assert keeper.load() == unit(a_pl=b"1")


def test_a_power_failure_at_any_moment_leaves_one_of_the_two(keeper: Keeper) -> None:
    """What was not synced may come back empty: the one before is whole then."""
    first, second = unit(a_pl=b"1", b_pl=b"same"), unit(a_pl=b"2", b_pl=b"same")
    keeper.list(DIRECTORY)
    keeper.save(first)
    keeper.kept.sync()
    old = set(keeper.files("*"))
    keeper.save(second)
    saved = keeper.state.with_name("saved")
    shutil.copytree(keeper.state, saved)
    for lost in set(keeper.files("*")) - old:
        shutil.rmtree(keeper.state)
        shutil.copytree(saved, keeper.state)
        (Path(keeper.kept.folder) / lost).write_bytes(b"")
        assert keeper.load() == first, lost
        assert [f.code for f in keeper.findings] == ["kept-damaged"]
    shutil.rmtree(keeper.state)
    shutil.copytree(saved, keeper.state)
    assert keeper.load() == second


def test_format_1_is_read_once_and_written_as_2(keeper: Keeper) -> None:
    whole = unit(a_py=b"x = 1\n", b_pl=b"\xff")
    keeper.save(whole)
    old = {
        "form": 1,
        "directory": DIRECTORY,
        "device": 7,
        "registrations": [["a.py", "done-job-self", 1], ["b.pl", "done-job-self", 2]],
        "implementations": {
            file: {
                "digest": i.digest,
                "base64": base64.b64encode(base64.b64encode(i.code)).decode(),
                "compiles": None,
            }
            for file, i in whole.implementations.items()
        },
    }
    body = json.dumps(old).encode()
    shutil.rmtree(keeper.kept.folder)
    keeper.open().load(DIRECTORY)
    keeper.path().write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    found = keeper.load()
    assert found is not None
    assert [(r.file, r.text, r.line) for r in found.registrations] == [
        (r.file, r.text, r.line) for r in whole.registrations
    ]
    assert found.implementations == whole.implementations
    keeper.save(found)
    keeper.kept.sync()
    assert b'"form":2' in keeper.path().read_bytes()
    assert keeper.load() == found


# What may be in a file's place -------------------------------------------------------------------


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2 << 30)


def deep(path: Path) -> None:
    body = b'{"form":2,"directory":' + b"[" * 100_000
    path.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def odd(path: Path) -> None:
    body = json.dumps(
        {
            "form": 2,
            "directory": DIRECTORY,
            "device": 7,
            "emptied": False,
            "registrations": [],
            "implementations": {"a.py": {"digest": "sha256:../settings", "compiles": None}},
        }
    ).encode()
    path.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


@pytest.mark.parametrize("make", [fifo, folder, link, huge, deep, odd])
@pytest.mark.parametrize("where", ["", ".new", ".begun", "code", "code.begun", "settings"])
def test_whatever_stands_there_the_start_goes_on(
    keeper: Keeper, make: Callable[[Path], None], where: str
) -> None:
    whole = unit(a_pl=b"1")
    keeper.list(DIRECTORY)
    keeper.save(whole)
    keeper.kept.sync()
    base = Path(keeper.kept.folder)
    (code,) = base.glob("*.code")
    path = {
        "code": code,
        "code.begun": Path(f"{code}.begun"),
        "settings": base / "settings",
    }.get(where) or Path(f"{keeper.path()}{where}")
    path.unlink(missing_ok=True)
    make(path)
    if where in ("", "code"):
        assert keeper.load() is None
    else:
        assert keeper.load() == whole
    # It is written again, unless a folder is in the way, which is reported.
    keeper.kept.save(DIRECTORY, whole, 7)
    keeper.kept.sync()
    if make is not folder:
        assert keeper.load() == whole
    elif where in ("", "code"):
        assert "cannot be stored" in keeper.messages[-1]
        assert keeper.messages[-1].endswith(f"Is a directory: {path}")


def test_a_folder_in_the_place_of_a_file_does_not_stay_open(tmp_path: Path) -> None:
    opened = os.listdir("/proc/self/fd")
    with pytest.raises(IsADirectoryError):
        state_files.read(str(tmp_path), 10)
    assert os.listdir("/proc/self/fd") == opened


def test_folders_of_somebody_else_are_left_alone(keeper: Keeper) -> None:
    keeper.list(DIRECTORY)
    keeper.save(unit(a_pl=b"1"))
    keeper.kept.sync()
    others = [Path(keeper.kept.folder) / name for name in ("backup", "backup.code")]
    for other in others:
        other.mkdir()
    keeper.open()
    keeper.list(DIRECTORY)
    newer = unit(a_pl=b"2")
    keeper.save(newer)
    keeper.kept.sync()
    assert keeper.load() == newer
    assert not keeper.kept.waiting
    assert len([path for path in keeper.files() if path != "backup.code"]) == 1
    assert all(other.is_dir() for other in others)
    assert keeper.messages == []


def test_a_fifo_does_not_hang_the_start_of_an_agent(tmp_path: Path) -> None:
    directory = write(tmp_path / "cb", "a.pl = done-job-self\n", a_pl="1\n")
    agent = Agent(tmp_path, directory)
    agent.start()
    agent.reload()
    assert agent.stop() == 0
    for path in [p for p in agent.state.rglob("*") if p.is_file()]:
        path.unlink()
        os.mkfifo(path)
    agent.start()
    assert agent.fires("done-job-self") == ["a.pl"]
    assert agent.stop() == 0


def test_the_code_files_of_an_agent(tmp_path: Path) -> None:
    directory = write(tmp_path / "cb", "a.py = done-job-self\nb.pl = a-job-b\n", a_py="x = 1\n")
    (directory / "b.pl").write_text("1\n")
    with running(tmp_path, directory) as agent:
        (directory / "b.pl").write_text("2\n")
        agent.reload()
        # That the Python compiles is kept too: after a restart nothing waits for its check.
        wait_for(lambda: b'"compiles":true' in b"".join(units(agent)), "the verdict")
        kept = {b"x = 1\n", b"2\n", (directory / "callbacks.conf").read_bytes()}
        wait_for(lambda: contents(agent) == kept, "the end of the old code")
        agent.stop(signal.SIGKILL)
    (directory / "callbacks.conf").write_text("broken\n")
    with running(tmp_path, directory) as agent:
        assert agent.fires("done-job-self") == ["a.py"]
        assert agent.history()[0]["event"] == "started"


@pytest.mark.parametrize("lost", ["the state directory", "one code file", "the settings"])
def test_what_somebody_removes_of_the_state_directory_is_stored_again(
    tmp_path: Path, lost: str
) -> None:
    one = write(tmp_path / "one", "a.pl = done-job-self\n", a_pl="1\n")
    two = write(tmp_path / "two", "b.pl = done-job-self\n", b_pl="2\n")
    agent = Agent(tmp_path, one, two).use(Timing(rescan=0.1))
    agent.start()

    def stored() -> set[str]:
        names = {p.name for p in agent.state.rglob("*") if p.is_file()}
        # The counts of matches are written every 5 minutes.
        return {name for name in names if ".matches" not in name}

    def synced() -> set[str]:
        """All that is stored, under its final name: the settings, and of each directory the unit,
        the code and the text of callbacks.conf. A listing during a rename may miss a file."""
        names = stored()
        return names if len(names) == 7 and not any(".new" in name for name in names) else set()

    try:
        whole = wait_for(synced, "that all is synced")
        assert "settings" in whole
        (folder,) = (path for path in agent.state.iterdir() if path.is_dir())
        if lost == "the state directory":
            # It would store again what is gone while the rest is being removed.
            with stopped(agent):
                shutil.rmtree(agent.state)
        elif lost == "one code file":
            next(folder.glob("*.code")).unlink()
        else:
            (folder / "settings").unlink()
        wait_for(lambda: any("stored again" in note for note in agent.status()["notes"]), "a note")
        wait_for(lambda: synced() == whole, "what was removed")
        assert len(agent.history()) == 1
        agent.stop(signal.SIGKILL)
        (one / "callbacks.conf").write_text("broken\n")
        (two / "callbacks.conf").write_text("broken\n")
        agent.start()
        assert agent.fires("done-job-self") == ["a.pl", "b.pl"]
    finally:
        agent.stop()


def units(agent: Agent) -> list[bytes]:
    return [p.read_bytes() for p in agent.state.rglob("*") if re.fullmatch("[0-9a-f]{32}", p.name)]


def contents(agent: Agent) -> set[bytes]:
    found = set()
    for path in agent.state.rglob("*.code"):
        with contextlib.suppress(FileNotFoundError):  # The agent just removed it.
            found.add(path.read_bytes())
    return found


def test_a_code_file_that_somebody_removed_is_written_again(keeper: Keeper) -> None:
    keeper.save(unit(a_pl=b"1"))
    keeper.kept.sync()
    for path in Path(keeper.kept.folder).glob("*.code"):
        path.unlink()
    keeper.save(unit(a_pl=b"1"))
    assert keeper.load() == unit(a_pl=b"1")


def test_a_state_file_is_never_waited_for(tmp_path: Path) -> None:
    for make in (fifo, folder, huge, link):
        path = tmp_path / make.__name__
        make(path)
        with pytest.raises((OSError, state_files.Damaged)):
            state_files.read(str(path), 1 << 20)


def test_damaged_settings_are_reported(keeper: Keeper) -> None:
    keeper.list(DIRECTORY)
    settings = Path(keeper.kept.folder) / "settings.new"
    data = settings.read_bytes()
    settings.write_bytes(data[:70] + b"X" + data[71:])
    assert keeper.open().settings is None
    [message] = [m for m in keeper.messages if "settings" in m]
    assert "damaged and not used" in message


def test_a_directory_that_is_taken_off_the_list_while_it_is_synced(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is gone then, which is no failure."""
    keeper.list(DIRECTORY)
    keeper.save(unit(a_py=b"1\n"))
    fsync = os.fsync

    def and_unlist(fd: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        keeper.list("/other")
        keeper.kept.flush()

    monkeypatch.setattr(os, "fsync", and_unlist)
    keeper.kept.sync()
    assert keeper.messages == []
    assert keeper.load() is None


def test_the_text_of_callbacks_conf_comes_back_and_what_is_served_does_not_depend_on_it(
    keeper: Keeper,
) -> None:
    keeper.list(DIRECTORY)
    for text in (b"# one\n", b"# two\n"):
        whole = replace(unit(a_pl=b"1"), conf=text)
        keeper.save(whole)
        keeper.kept.sync()
        # Not that of before.
        assert len(keeper.files()) == 2
        found = keeper.load()
        assert found == whole
        assert found.conf == text
    (Path(keeper.kept.folder) / f"{hashlib.sha256(text).hexdigest()}.code").unlink()
    found = keeper.load()
    assert found == whole
    assert (found.conf, keeper.findings) == (None, [])


def test_another_process_reads_what_was_stored_and_changes_nothing(keeper: Keeper) -> None:
    state, trust = str(keeper.state), Trust(IGNORE)
    assert stored_unit(f"{state}/none", "/pipe", DIRECTORY, trust) is None
    assert not (keeper.state / "none").exists()
    keeper.save(unit(a_pl=b"1"))
    assert stored_unit(state, "/pipe", "/other", trust) is None
    assert stored_unit(state, "/another/pipe", DIRECTORY, trust) is None
    before = sorted(keeper.files("*"))
    found = stored_unit(state, "/pipe", DIRECTORY, trust)
    assert found is not None
    assert (found.unit, found.device) == (unit(a_pl=b"1"), 7)
    assert sorted(keeper.files("*")) == before
    (new,) = Path(keeper.kept.folder).glob("*.new")
    new.write_bytes(b"damaged")
    with pytest.raises(Damaged):
        stored_unit(state, "/pipe", DIRECTORY, trust)
    Path(keeper.kept.folder).chmod(0o702)
    with pytest.raises(OSError, match="writ"):
        stored_unit(state, "/pipe", DIRECTORY, Trust(REFUSE))
