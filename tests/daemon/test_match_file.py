"""The counts of matches are stored, and a file that cannot be used is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.index import Index
from agent.daemon.match_file import MatchFile
from agent.disk.permissions import IGNORE, REFUSE, Trust
from agent.server.matches import Count, Matches
from support.indexes import served

INDEX = Index.of(1, [served(["done-job-*", "done-job-é"], "/a"), served(["done-job-*"], "/b")])


@pytest.fixture
def file(tmp_path: Path) -> MatchFile:
    return MatchFile(str(tmp_path / "0123"), Trust(IGNORE))


def content(matches: Matches) -> dict[tuple[str, str], tuple[int, float | None]]:
    counts = [*matches.rows(INDEX, 77.0)]
    return {(c.directory, c.registration.text): (n.matches, n.last) for c, n in counts}


def test_what_is_stored_is_loaded(file: MatchFile, tmp_path: Path) -> None:
    matches = Matches()
    first, second, third = INDEX.callbacks()
    matches.add([first, second], 3, 5.0)
    matches.add([second], 1, 6.5)
    assert file.store(matches, INDEX) == []
    stored = tmp_path / "0123.matches"
    assert stored.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == [stored.name]
    again = file.load()
    assert content(again) == content(matches)
    assert content(again)["/a", "done-job-é"] == (4, 6.5)
    assert content(again)["/b", "done-job-*"] == (0, None)
    since = {c.directory: n.since for c, n in again.rows(INDEX, 77.0)}
    assert since["/a"] == 5.0
    assert since["/b"] not in (5.0, 77.0)
    assert third.directory == "/b"


def test_it_is_written_only_where_something_changed(file: MatchFile, tmp_path: Path) -> None:
    matches = Matches()
    file.store(matches, INDEX)
    before = (tmp_path / "0123.matches").stat().st_ino
    file.store(matches, INDEX)
    assert (tmp_path / "0123.matches").stat().st_ino == before
    matches.add([next(INDEX.callbacks())], 1, 1.0)
    file.store(matches, INDEX)
    assert content(file.load())["/a", "done-job-*"] == (1, 1.0)


def test_what_is_not_served_is_not_stored(file: MatchFile) -> None:
    matches = Matches({("/gone", "1.py", "done-job-*"): Count(1.0, 5, 2.0)})
    assert file.store(matches, INDEX) == [("/gone", "1.py", "done-job-*")]
    assert len(file.load()) == INDEX.count


@pytest.mark.parametrize(
    "damaged",
    [
        *(b"", b"\0" * 100, b"[]", b"{}", b'{"form":1,"callbacks":[["/a"]]}', b"[" * 5000),
        b'{"form":2,"callbacks":[]}',
        b'{"form":1,"callbacks":[["/a","1.py","x",true,1,1]]}',
    ],
)
def test_a_damaged_file_is_not_used(
    file: MatchFile, tmp_path: Path, damaged: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "0123.matches").write_bytes(damaged)
    assert len(file.load()) == 0
    assert "damaged and not used" in caplog.text
    file.store(Matches(), INDEX)
    assert len(file.load()) == INDEX.count


def test_a_failure_is_reported_once_and_when_it_ends(
    file: MatchFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "0123.matches").mkdir()
    assert len(file.load()) == 0
    for _ in range(3):
        file.store(Matches(), INDEX)
    assert caplog.text.count("cannot be") == 1
    (tmp_path / "0123.matches").rmdir()
    matches = Matches()
    file.store(matches, INDEX)
    file.store(matches, INDEX)
    assert caplog.text.count("are stored again") == 1


def test_a_folder_that_others_may_write_to_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o777)
    file = MatchFile(str(tmp_path / "0123"), Trust(REFUSE))
    file.store(Matches(), INDEX)
    assert list(tmp_path.iterdir()) == []
    assert "cannot be stored" in caplog.text
