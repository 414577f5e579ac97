"""Limits of files: what is over one gets a finding, and what was served stays served."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import settings
from agent.core import conf, planning, trigger, unit
from agent.core.unit import ERROR, Evaluation, Plan, Unit, evaluate
from agent.disk.directory import read
from support.agents import running, wait_for, write

CONF = "a.pl = done-job-self\n"


@pytest.fixture
def cb(tmp_path: Path) -> Path:
    return write(tmp_path / "cb", CONF, a_pl="#\n")


def judged(directory: Path, accepted: Unit | None = None) -> Evaluation:
    return evaluate(read(str(directory)).reading, accepted)


def codes(found: Evaluation) -> list[str]:
    return [f.code for f in found.findings]


def held_for(found: Evaluation, accepted: Unit | None, code: str, *said: object) -> None:
    """Held with one finding, which says the numbers and what to do; the old stays served."""
    assert (found.held, codes(found), found.unit) == (ERROR, [code], accepted)
    (finding,) = found.findings
    for what in said:
        assert str(what) in finding.message
    assert finding.hint


def test_conf_bytes(cb: Path) -> None:
    accepted = judged(cb).unit
    file = cb / "callbacks.conf"
    file.write_bytes(CONF.encode() + b"#" * (unit.MAX_CONF_BYTES - len(CONF)))
    assert judged(cb, accepted).held is None
    os.truncate(file, unit.MAX_CONF_BYTES + 1)
    held_for(
        judged(cb, accepted),
        accepted,
        "too-big",
        unit.MAX_CONF_BYTES + 1,
        unit.MAX_CONF_BYTES,
    )
    # Not even looked at, however large.
    os.truncate(file, 1 << 40)
    held_for(judged(cb, accepted), accepted, "too-big", 1 << 40)


def test_conf_lines(cb: Path) -> None:
    accepted = judged(cb).unit
    file = cb / "callbacks.conf"
    file.write_text(CONF + "\n" * (unit.MAX_CONF_LINES - 1))
    assert judged(cb, accepted).held is None
    file.write_text(CONF + "\n" * unit.MAX_CONF_LINES)
    held_for(
        judged(cb, accepted),
        accepted,
        "too-many-lines",
        unit.MAX_CONF_LINES + 1,
        unit.MAX_CONF_LINES,
    )


def test_implementation_bytes(cb: Path) -> None:
    accepted = judged(cb).unit
    file = cb / "a.pl"
    file.write_bytes(b"#" * unit.MAX_CODE_BYTES)
    assert judged(cb, accepted).held is None
    file.write_bytes(b"#" * (unit.MAX_CODE_BYTES + 1))
    held_for(
        judged(cb, accepted),
        accepted,
        "too-big",
        "a.pl",
        unit.MAX_CODE_BYTES + 1,
        unit.MAX_CODE_BYTES,
    )


def test_callbacks_in_a_directory(cb: Path) -> None:
    accepted = judged(cb).unit

    def planner(_: str, path: str, data: bytes, before: Plan | None) -> Plan:
        return planning.plan(data, path, before, max_callbacks=10)

    lines = [f"a.pl = x{n}-job-self\n" for n in range(11)]
    (cb / "callbacks.conf").write_text("".join(lines[:10]))
    assert evaluate(read(str(cb), planner=planner).reading, accepted).held is None
    (cb / "callbacks.conf").write_text("".join(lines))
    found = evaluate(read(str(cb), planner=planner).reading, accepted)
    held_for(found, accepted, "too-many-callbacks", 11, 10)


LONGEST = trigger.MAX_LENGTH
NESTED = trigger.MAX_NESTING


@pytest.mark.parametrize(
    ("make", "most", "code"),
    [
        (lambda n: "x-job-" + "y" * (n - 6), LONGEST, "too-long"),
        # Written out it has four characters more: `*-` before and `-*` within.
        (lambda n: "globaltime-" + "1" * (n - 15), LONGEST, "too-long"),
        (lambda n: "(" * n + "x-job-self" + ")" * n, NESTED, "too-deep"),
    ],
    ids=["length", "written out", "nesting"],
)
def test_trigger_length_and_nesting(
    cb: Path, make: Callable[[int], str], most: int, code: str
) -> None:
    accepted = judged(cb).unit
    (cb / "callbacks.conf").write_text(f"a.pl = {make(most)}\n")
    assert judged(cb, accepted).held is None
    (cb / "callbacks.conf").write_text(f"{CONF}a.pl = {make(most + 1)}\n")
    found = judged(cb, accepted)
    # The short form, which is longer when written out, is that of global events.
    wrong = [c for c in codes(found) if c != "global-trigger"]
    assert (found.held, wrong, found.unit) == (ERROR, [code], accepted)
    assert found.findings[0].line == 2
    # At a first reading the other lines are served.
    first = judged(cb)
    assert first.unit is not None
    assert [r.text for r in first.unit.served()] == ["done-job-self"]


def test_qb_conf_bytes(tmp_path: Path) -> None:
    file = tmp_path / "qb.conf"
    file.write_bytes(b"#" * settings.MAX_QB_CONF_BYTES)
    assert isinstance(settings.read_qb_conf(str(file)), bytes)
    os.truncate(file, 1 << 40)
    found = settings.read_qb_conf(str(file))
    assert isinstance(found, OSError)
    assert str(settings.MAX_QB_CONF_BYTES) in str(found)


def test_over_the_limit_in_one_directory_the_others_are_served_on(tmp_path: Path, cb: Path) -> None:
    other = write(tmp_path / "other", "b.pl = done-job-self\n", b_pl="# 1\n")
    with running(tmp_path, cb, other) as agent:
        os.truncate(cb / "a.pl", unit.MAX_CODE_BYTES + 1)
        (other / "b.pl").write_text("# 2\n")
        agent.reload()
        assert [(Path(p).name, c) for p, _, c in agent.served()] == [
            ("a.pl", "#\n"),
            ("b.pl", "# 2\n"),
        ]
        assert [d["held"] for d in agent.status()["directories"]] == ["error", None]
        os.truncate(cb / "a.pl", 2)
        wait_for(lambda: agent.status()["state"] == "ok", "it heals")


@pytest.mark.parametrize(
    "part",
    [
        "a.pl = {\n", 'a.pl = "', "a.pl = \\", "(", "x-job-self && ", "and ", "a.pl = x-job-*\\*\n",
        "=", "#", "\\\\*", "a.pl = (\n", '"\\', "|| &&", " ", "-", "*",
        "\udcff", "a.pl=x-job-self\n",
        "supervisor_language_flags = {\n", "supervisor_language_flags = \"", "q = {{{\n", ",",
    ],
)  # fmt: skip
def test_any_conf_is_read_in_time_linear_in_its_size(part: str) -> None:
    data = (part * (100_000 // len(part))).encode("utf-8", "surrogateescape")
    began = time.thread_time()
    planning.plan(data, "/cb/callbacks.conf")
    planning.plan(b"a.pl = " + data, "/cb/callbacks.conf")
    conf.read_qb(data, "/etc/qb.conf", ("supervisor_language_flags",))
    trigger.parse(data.decode("utf-8", "surrogateescape"))
    trigger.parse(data[:60_000].decode("utf-8", "surrogateescape"))
    assert time.thread_time() - began < 5
