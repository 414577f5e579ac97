"""A short run of stress/fuzz.py, and what it does when it finds something.

The long run is made by hand: `scripts/fuzz --seconds 600`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stress import fuzz
from support import targets
from support.agents import DEADLINE

TESTS = Path(__file__).parents[1]

# A search that finds something makes it as small as it can, however slow this machine is.
pytestmark = pytest.mark.timeout(600)


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TESTS), "fuzz", *options]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=5 * DEADLINE, check=False
    )


def test_some_seconds_find_nothing() -> None:
    done = run("--seconds", "6")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(targets.TARGETS)
    assert all(line.endswith("well") for line in done.stdout.splitlines())


def test_a_finding_is_found() -> None:
    def target(data: bytes) -> None:
        assert b"7" not in data

    seeds, words = targets.TARGETS["triggers"][1:]
    found = fuzz.searched((target, seeds, words), 5 * DEADLINE)
    assert isinstance(found, bytes)
    assert b"7" in found
    tried = fuzz.searched((lambda _: None, seeds, words), 2.0)
    assert isinstance(tried, int)
    assert tried > 0


def test_a_finding_can_be_seen_again(capsys: pytest.CaptureFixture[str]) -> None:
    def target(data: bytes) -> None:
        raise AssertionError(f"{len(data)} bytes are too many")

    assert fuzz.again(target, b"abc") == 1
    assert "3 bytes are too many" in capsys.readouterr().out
    assert fuzz.again(lambda _: None, b"abc") == 0
    done = run("--target", "triggers", "--bytes", repr(b"\xff(\0 && "))
    assert (done.returncode, done.stdout) == (0, "nothing was found\n")


def test_time_that_grows_faster_than_size_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "MAX_SECONDS", 0.01)
    monkeypatch.setattr(targets, "MAX_SECONDS_A_BYTE", 1e-7)

    @targets.in_time
    def quadratic(data: bytes) -> None:
        for n in range(0, len(data), 4):
            data[:n].count(b"x")

    quadratic(b"x" * 100)
    # One input in 16 is repeated.
    with pytest.raises(AssertionError, match="bytes took"):
        quadratic(b"\x07x")


@pytest.mark.parametrize("name", targets.TARGETS)
def test_what_each_target_begins_with_is_well(name: str) -> None:
    target, seeds, words = targets.TARGETS[name]
    for data in (*seeds, *words, b""):
        target(data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        # Found by the fuzzer: as it would be written out it was too long to be read again.
        ("triggers", b"'globalrepeat-"),
    ],
)
def test_what_was_found_before(name: str, data: bytes) -> None:
    targets.TARGETS[name][0](data)
