"""`log -f`: each record once and in order, whenever and however often the log is rotated."""

from __future__ import annotations

import contextlib
import gc
import gzip
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.cli import log_files, log_following


class Rotated:
    """A log that is written and rotated, in one style, without losing anything."""

    def __init__(self, folder: Path, style: str) -> None:
        self.path = folder / "log"
        self.style = style
        self.number = 0
        self.path.touch()

    def write(self, to: Path | None = None) -> None:
        self.number += 1
        with open(to or self.path, "a") as file:
            file.write(f"[Jan 20, 2014 17:58:36] record {self.number}\n    one\n")

    def rotate(self) -> None:
        for number in range(40, 0, -1):
            for packed in ("", ".gz"):
                old = self.path.with_name(f"log.{number}{packed}")
                if old.exists():
                    old.rename(self.path.with_name(f"log.{number + 1}{packed}"))
        first = self.path.with_name("log.1")
        if self.style == "copied":
            shutil.copy(self.path, first)
            os.truncate(self.path, 0)
            return
        self.path.rename(first)
        self.path.touch()
        if self.style == "late":
            self.write(first)  # Who writes still has the old file open.
        if self.style == "packed":
            second = self.path.with_name("log.2")
            if second.exists():
                with gzip.open(f"{second}.gz", "wb") as file:
                    file.write(second.read_bytes())
                shutil.copystat(second, f"{second}.gz")
                second.unlink()

    def do(self, steps: str) -> None:
        for step in steps:
            self.rotate() if step == "R" else self.write()


def records(entries: list[Any]) -> list[int]:
    return [int(entry.data.split(b"record ")[1].split(b"\n")[0]) for entry in entries]


STYLES = ("renamed", "late", "copied", "packed")
#: What happens to the log while the follower waits: records (w) and rotations (R).
STEPS = st.text("wwR", max_size=6)


@given(st.sampled_from(STYLES), STEPS, st.lists(STEPS, max_size=5), st.lists(STEPS, max_size=8))
@example("renamed", "w", ["wRw", "RwRw"], [])
@example("renamed", "w", ["wRw", ""], ["", "wRwRwRwRw"])
@example("copied", "", ["wRwRw"], [])
@example("copied", "wR", ["", "wRw", "w"], [])
def test_each_record_is_shown_once_and_in_order(
    style: str, before: str, at_looks: list[str], at_files: list[str]
) -> None:
    """Also if the log is rotated while its files are looked through."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        log = Rotated(Path(folder), style)
        log.do(before)
        shown = list(range(1, log.number + 1))
        looks, files = iter([*at_looks, "w"]), iter(at_files)
        idle = 0

        def wait(_: float) -> None:
            nonlocal idle
            steps = next(looks, None)
            idle = idle + 1 if steps is None else 0
            log.do(steps or "")

        open_regular = log_files.open_regular

        def opened(path: str) -> Any:
            log.do(next(files, ""))
            return open_regular(path)

        file = open_regular(str(log.path))
        reported: Callable[[str], None] = pytest.fail
        added = log_following.added(file, str(log.path), log_files.whole_lines(file), reported)
        with (
            mock.patch("agent.cli.log_following.time.sleep", wait),
            mock.patch.object(log_files, "open_regular", opened),
        ):
            while idle < 3 or (idle < 99 and len(shown) < log.number):
                shown += records(next(added))
        assert shown == list(range(1, log.number + 1))


@pytest.mark.parametrize("is_there", [True, False])
def test_files_that_stay_as_they_are_are_not_opened_again(tmp_path: Path, is_there: bool) -> None:
    log = Rotated(tmp_path, "renamed")
    log.write()
    file = log_files.open_regular(str(log.path))
    reported: Callable[[str], None] = pytest.fail
    added = log_following.added(file, str(log.path), log_files.whole_lines(file), reported)
    log.rotate()
    if not is_there:
        log.path.unlink()
    with (
        mock.patch("agent.cli.log_following.time.sleep"),
        mock.patch.object(log_files, "open_regular", wraps=log_files.open_regular) as opened,
        contextlib.closing(added),
    ):
        for _ in range(3):
            assert next(added) == []
        opened.assert_called()
        opened.reset_mock()
        for _ in range(3):
            assert next(added) == []
        opened.assert_not_called()
        log.write()
        assert records(next(added) + next(added) + next(added)) == [2]


def test_each_file_is_closed(tmp_path: Path) -> None:
    """Also an empty one, one that was rotated meanwhile, and one of which nothing was asked."""
    log = Rotated(tmp_path, "renamed")
    log.do("wRR")
    open_regular = log_files.open_regular
    rotations = iter("RR")

    def opened(path: str) -> Any:
        file = open_regular(path)
        log.do(next(rotations, ""))
        return file

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", ResourceWarning)
        for looks in (0, 1):
            with open_regular(str(log.path)) as file:
                with mock.patch.object(log_files, "open_regular", opened):
                    added = log_following.added(file, str(log.path), 0, pytest.fail)
                for _ in range(looks):
                    next(added)
                added.close()
        del added
        gc.collect()
    # The collector also closes what other tests left open.
    assert [m for one in found if str(tmp_path) in (m := str(one.message))] == []
