"""A short form of stress/nth.py: each kind of system call fails, with all errors that it may have.

The long run is made by hand: `python tests nth`. Which N meets which error is left to chance.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from stress.nth import ONCE_ONLY, WHERE, Case, Runner
from support import inject

pytestmark = pytest.mark.skipif(
    not inject.available(), reason="needs Linux and a C compiler, cc, to stand before the C library"
)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    one = Runner(tmp_path)
    yield one
    one.close()


def well(runner: Runner, cases: list[Case]) -> None:
    """All cases went well, and some call failed: else this would show nothing."""
    assert sum([runner.run(case) for case in cases]) > 0, "no call failed"
    assert not runner.wrong, "\n".join(runner.wrong)


#: Errors of one kind in one edit each.
SAMPLE = 6


@pytest.mark.parametrize("kind", WHERE["edit"])
def test_an_edit_while_calls_fail(runner: Runner, kind: str) -> None:
    errors = inject.KINDS[kind]
    seldom = kind in ("process", "exec", "stderr", "rename", "fsync")
    most, count = (1, 2) if seldom else (6, SAMPLE)
    some = random.sample(errors, min(count, len(errors)))
    once = [Case("edit", kind, e, random.randint(1, most), for_ever=False) for e in some]
    lasting = random.choice([error for error in errors if error not in ONCE_ONLY])
    well(runner, [*once, Case("edit", kind, lasting, 1, for_ever=True)])


@pytest.mark.parametrize(
    ("scene", "kind"),
    [
        *(("start", kind) for kind in ("flock", "bind", "thread", "process")),
        *(("connect", kind) for kind in WHERE["connect"]),
        *(("pipe made again", kind) for kind in WHERE["pipe made again"]),
    ],
)
def test_other_scenes_while_calls_fail(runner: Runner, scene: str, kind: str) -> None:
    errors = [error for error in inject.KINDS[kind] if error not in ONCE_ONLY]
    for_ever = random.random() < 0.5
    well(runner, [Case(scene, kind, random.choice(errors), 1, for_ever)])
