"""Row 36: names that look like the one that was meant."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from agent.core import look_alikes, unit
from agent.core.unit import CONF, Absent
from agent.disk import directory
from support.agents import running, write

NFC = unicodedata.normalize("NFC", "grün.py")
NFD = unicodedata.normalize("NFD", "grün.py")


def hint_of(folder: Path) -> str:
    """The hint of the one finding about a directory at its first reading."""
    snapshot = directory.read(str(folder))
    (finding,) = unit.evaluate(snapshot.reading, None).findings
    return finding.hint or ""


@pytest.mark.parametrize(("named", "there"), [(NFC, NFD), (NFD, NFC)])
def test_row_36_another_normal_form(tmp_path: Path, named: str, there: str) -> None:
    folder = tmp_path / "cb"
    folder.mkdir()
    (folder / there).write_text("0\n")
    if (folder / named).exists():
        pytest.skip("to this file system the two names are the same")
    (folder / CONF).write_text(f"{named} = done-job-self\n")
    with running(tmp_path, folder) as agent:
        (finding,) = agent.reload()["diagnostics"]
        assert finding["code"] == "missing-file"
        assert "looks the same" in finding["hint"]
        assert ascii(there) in finding["hint"]
        # As the hint says: rename it.
        os.rename(folder / there, folder / named)
        assert agent.reload()["diagnostics"] == []
        assert agent.fires("done-job-self") == [named]


@pytest.mark.parametrize("there", ["notfy.py", "Notify.py", "notify.PY", "notiyf.py", "NOTFY.py"])
def test_row_36_a_near_miss_of_a_file(tmp_path: Path, there: str) -> None:
    folder = write(tmp_path / "cb", "notify.py = done-job-self\n")
    (folder / there).write_text("0\n")
    line = f"write: {there} = done-job-self"
    if not there.endswith(".py"):
        line = f"rename the file {there} to notify.py"
    assert hint_of(folder) == line


@pytest.mark.parametrize(
    "there", ["callback.conf", "Callbacks.conf", "callbacks.conf.txt", "callbacks.cnf"]
)
def test_row_36_a_near_miss_of_callbacks_conf(tmp_path: Path, there: str) -> None:
    folder = tmp_path / "cb"
    folder.mkdir()
    (folder / there).write_text("a.py = done-job-self\n")
    assert hint_of(folder) == f"rename the file {there} to callbacks.conf"


def test_row_36_a_file_that_was_renamed(tmp_path: Path) -> None:
    folder = write(tmp_path / "cb", "notify.py = done-job-self\n", notify_py="0\n")
    with running(tmp_path, folder) as agent:
        (folder / "notify.py").rename(folder / "Notify.py")
        (finding,) = agent.reload()["diagnostics"]
        assert finding["code"] == "removed"
        assert finding["hint"] == "write: Notify.py = done-job-self"


def test_row_36_what_editors_leave_is_no_near_miss(tmp_path: Path) -> None:
    folder = write(tmp_path / "cb", "notify.py = done-job-self\n")
    names = ["notify.py~", ".notify.py.swp", "#notify.py#", "notify.p", "other.py", "callbacks.con"]
    for name in names:
        (folder / name).write_text("")
    assert "did you mean" not in hint_of(folder)


def test_row_36_a_large_directory_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "cb", "notify.py = done-job-self\n")
    for number in range(directory.MAX_LISTED):
        (folder / f"{number}.py").touch()
    asked: list[int] = []
    similar = look_alikes.similar

    def counted(missing: list[str], conf: str | None, names: list[str]) -> dict[str, str]:
        asked.append(len(names))
        return similar(missing, conf, names)

    monkeypatch.setattr(look_alikes, "similar", counted)
    reading = directory.read(str(folder)).reading
    assert isinstance(reading.files["notify.py"], Absent)
    assert asked == [directory.MAX_LISTED]


def test_only_so_many_names_are_sought() -> None:
    missing = [f"name{number}.py" for number in range(1000)]
    names = [name.upper() for name in missing]
    assert len(look_alikes.similar(missing, None, names)) == look_alikes.MAX_SOUGHT


def test_the_nearest_name_comes_first() -> None:
    names = ["notfy.py", "Notify.py"]
    assert "Notify.py" in look_alikes.similar(["notify.py"], None, names)["notify.py"]
    assert look_alikes.similar(["notify.py"], None, ["notify.pl"])["notify.py"]


def hint_of_missing(folder: Path) -> str:
    fault = directory.read(str(folder)).reading.fault
    assert fault is not None
    assert fault.code == "missing"
    return fault.hint or ""


def test_a_directory_that_is_missing_names_one_that_was_probably_meant(tmp_path: Path) -> None:
    create = "create the directory, mount it, or correct the path"
    (tmp_path / "callback" / "night").mkdir(parents=True)
    (tmp_path / "shot-0010").mkdir()
    (tmp_path / "library").write_text("")
    near = f"did you mean {tmp_path}/callback? If not, {create}"
    assert hint_of_missing(tmp_path / "calback") == near
    assert hint_of_missing(tmp_path / "Callback") == near
    # In a folder above it too, if what follows is there.
    assert hint_of_missing(tmp_path / "calback" / "night").startswith(
        f"did you mean {tmp_path}/callback/night? "
    )
    for other in ("calback/day", "shot-0011", "libary", "nothing/like/it"):
        assert hint_of_missing(tmp_path / other) == create


def test_a_file_with_another_number_is_another_file() -> None:
    names = ["notify1.py", "notify12.py", "mail3.qcb"]
    assert look_alikes.similar(["notify2.py", "notify.py", "mial3.qcb"], None, names) == {
        "notify.py": "notify1.py",
        "mial3.qcb": "mail3.qcb",
    }


def test_a_file_with_a_suffix_that_an_editor_appends() -> None:
    names = ["n.py.TXT", "m.pl.bak", "n.pyc", "x.py"]
    assert look_alikes.similar(["n.py", "m.pl", "long.py"], None, names) == {
        "n.py": "n.py.TXT",
        "m.pl": "m.pl.bak",
    }
