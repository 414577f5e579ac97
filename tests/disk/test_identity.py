"""Names of users: a user database that does not answer delays one question, and not for long."""

from __future__ import annotations

import os
import pwd
import threading
import time

import pytest

from agent.disk import identity
from support.agents import wait_for


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_names", {})


def test_the_name_of_a_user() -> None:
    name = pwd.getpwuid(os.getuid()).pw_name
    wait_for(lambda: identity.user_name(os.getuid()) == name)
    assert identity.user_name(4_000_000_001) is None


def test_a_user_database_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """All names of one record together take no longer than the first."""
    ended = threading.Event()
    asked: list[int] = []

    def never(uid: int) -> str:
        asked.append(uid)
        ended.wait()
        return "late"

    monkeypatch.setattr(identity, "_name_of", never)
    try:
        began = time.monotonic()
        assert [identity.user_name(uid) for uid in range(500)] == [None] * 500
        # The thread that asks may begin late.
        wait_for(lambda: asked)
        assert asked == [0]
        # Generous: 500 questions one after the other take twice as long.
        assert time.monotonic() - began < 250 * identity.NAME_TIMEOUT
    finally:
        ended.set()
    # Once it answers, it is asked again.
    for uid in (0, 7):
        wait_for(lambda uid=uid: identity.user_name(uid) == "late")  # type: ignore[misc]
