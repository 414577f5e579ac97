"""Two users of this machine, made for the tests, and what they can do."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from support.agents import DEADLINE


@dataclass(frozen=True)
class User:
    """A user: the id, the primary group, and all groups as the machine's database has them."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]

    @classmethod
    def of(cls, name: str) -> User:
        entry = pwd.getpwnam(name)
        return cls(name, entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(name, entry.pw_gid)))

    def does(self, what: Callable[[], Any], groups: tuple[int, ...] | None = None) -> Any:
        """What comes of it when this user does it: its JSON, or the name of the exception."""
        here, there = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setgroups(self.groups if groups is None else groups)
                os.setresgid(self.gid, self.gid, self.gid)
                os.setresuid(self.uid, self.uid, self.uid)
                try:
                    came: Any = what()
                except Exception as error:
                    came = type(error).__name__
                os.write(there, json.dumps(came).encode())
            finally:
                os._exit(0)
        os.close(there)
        with open(here, "rb") as file:
            said = file.read()
        os.waitpid(child, 0)
        return json.loads(said)


@dataclass(frozen=True)
class Strangers:
    """A member of a group (not their primary one), and one who is not."""

    member: User
    other: User
    group: int
    group_name: str


@contextlib.contextmanager
def made() -> Iterator[Strangers]:
    """Make the users and the group; they are removed at the end. Skips where that cannot be."""
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("useradd"):
        pytest.skip("two more users take root and useradd")
    group, one, two = (f"cb{kind}{os.getpid()}" for kind in ("group", "member", "other"))
    try:
        for command in (
            ["groupadd", group],
            ["useradd", "-M", "-N", "-s", "/usr/sbin/nologin", "-G", group, one],
            ["useradd", "-M", "-N", "-s", "/usr/sbin/nologin", two],
        ):
            told = changed(command)
            if told:
                pytest.skip(f"{command[0]} failed: {told}")
        yield Strangers(User.of(one), User.of(two), grp.getgrnam(group).gr_gid, group)
    finally:
        for command in (["userdel", one], ["userdel", two], ["groupdel", group]):
            changed(command)


def changed(command: list[str]) -> str:
    """Change the machine's users; why it failed. Another test may just have the files locked."""
    end = time.monotonic() + DEADLINE
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        told = done.stderr.strip() or str(done.returncode)
        if not done.returncode:
            return ""
        if "lock" not in told or time.monotonic() > end:
            return told
        time.sleep(0.1)
