"""Rows 25, 26, 28, 29 and 31 to 33: what the system says in another way than one expects."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from faults.steps import (
    SOON,
    code_of,
    edit,
    held,
    linux,
    root,
    started,
    told_of,
    waits_held,
    waits_well,
)
from support import editors
from support.agents import Agent, running, wait_for
from support.onlooker import CONF, Onlooker, answer, files, put

#: Takes a write lease, as file servers do for their clients; gives it back at the end of its input.
_LEASE = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("taken", flush=True)
sys.stdin.read()
"""


@root
@linux
def test_row_25_btrfs(tmp_path: Path, directory: Path, mount: Callable[..., None]) -> None:
    """Its device number is in no table of mounts. It is local all the same: there are leases, so a
    writer who pauses is noticed, and nothing is polled."""
    editors.need("mkfs.btrfs")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    editors.run("mkfs.btrfs", "-q", image)
    directory.mkdir()
    if subprocess.run(["mount", "-o", "loop,ro", image, directory], capture_output=True).returncode:
        pytest.skip("no loop devices here")
    subprocess.run(["umount", directory], check=True)
    mount("-o", "loop", image, directory)
    put(directory, files(1))
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        assert [d["watch"] for d in agent.status()["directories"]] == ["events"]
        assert agent.status()["notes"] == []
        text = files(2)[CONF]
        with (directory / CONF).open("wb", 0) as writer:
            writer.write(text[: len(text) // 2].encode())
            waits_held(agent, directory, "being-written")
            writer.write(text[len(text) // 2 :].encode())
        look.sees(answer((directory, {**files(1), CONF: text})), SOON)
        look.saw_only(code_of(directory, 1), answer((directory, {**files(1), CONF: text})))


@root
@linux
@pytest.mark.parametrize("name", [CONF, "a.pl"])
def test_row_26_another_has_a_write_lease(tmp_path: Path, directory: Path, name: str) -> None:
    """Opening the file fails with EAGAIN: it is being written, which is no fault."""
    put(directory, files(1))
    new = {**files(1), name: files(2)[name]}
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        other = tmp_path / "other"
        other.write_text(new[name])
        holder = subprocess.Popen(
            [sys.executable, "-c", _LEASE, other], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"taken\n"
            other.rename(directory / name)
            waits_held(agent, directory, "being-written")
            wait_for(lambda: told_of(agent) == {"being-written"}, "the record")
        finally:
            holder.communicate()
        look.sees(answer((directory, new)), SOON)
        waits_well(agent)
        look.saw_only(code_of(directory, 1), answer((directory, new)))
        reasons = {one["reason"] for record in agent.history() for one in record["held"]}
        assert reasons == {"being-written"}


def _somebody() -> pwd.struct_passwd:
    """A user who is not root, and whose group is not root's."""
    for user in pwd.getpwall():
        if user.pw_uid not in (0, 65534) and user.pw_gid not in (0, 65534):
            return user
    pytest.skip("there is no user but root here")


@root
@linux
def test_row_28_an_acl_lets_others_write(tmp_path: Path, directory: Path) -> None:
    """The mode is that of the trusted group, and the ACL names somebody else."""
    editors.need("setfacl")
    put(directory, files(1))
    group = _somebody().pw_gid
    agent = Agent(tmp_path, directory)
    agent.flags += ["--trusted-group", str(group), "--unsafe-permissions", "refuse"]
    with started(agent), Onlooker(agent) as look:
        new = directory / ".new"
        new.write_text(files(2)["a.pl"])
        os.chown(new, 0, group)
        new.chmod(0o664)
        if subprocess.run(["setfacl", "-m", "u:65534:rw", new], capture_output=True).returncode:
            pytest.skip("no ACLs on this file system")
        new.rename(directory / "a.pl")
        waits_held(agent, directory, "unsafe")
        look.saw_only(code_of(directory, 1))
        editors.run("setfacl", "-b", directory / "a.pl")
        (directory / "a.pl").chmod(0o664)
        look.sees(answer((directory, {**files(1), "a.pl": files(2)["a.pl"]})), SOON)
        waits_well(agent)


@root
@linux
def test_row_29_a_member_of_the_trusted_group_saves(tmp_path: Path, directory: Path) -> None:
    """Saved by rename, the file is the member's own. A file of anybody else is still refused."""
    put(directory, files(1))
    member = _somebody()
    agent = Agent(tmp_path, directory)
    agent.flags += ["--trusted-group", str(member.pw_gid), "--unsafe-permissions", "refuse"]
    with started(agent), Onlooker(agent) as look:

        def save(version: int, owner: int) -> None:
            new = directory / ".new"
            new.write_text(files(version)["a.pl"])
            os.chown(new, owner, member.pw_gid)
            new.chmod(0o664)
            new.rename(directory / "a.pl")

        for version in (2, 3):
            save(version, member.pw_uid)
            look.sees(answer((directory, {**files(1), "a.pl": files(version)["a.pl"]})), SOON)
            waits_well(agent)
        save(4, 65534)
        waits_held(agent, directory, "unsafe")
        look.sees(answer((directory, {**files(1), "a.pl": files(3)["a.pl"]})), SOON)


@linux
def test_row_31_clients_use_up_the_descriptors(tmp_path: Path, directory: Path) -> None:
    """With 256 descriptors and 300 idle clients a removed callback is off at once."""
    editors.need("prlimit")
    put(directory, files(1))
    agent = Agent(tmp_path, directory)
    agent.prefix = ["prlimit", "--nofile=256:256"]
    with started(agent), Onlooker(agent) as look, ExitStack() as clients:
        for _ in range(300):
            one = clients.enter_context(socket.socket(socket.AF_UNIX))
            one.connect(str(agent.pipe))
        for version in (2, 3):
            edit(directory / CONF, files(version, "b.pl")[CONF])
            look.sees(answer((directory, {**files(1), CONF: files(version, "b.pl")[CONF]})), SOON)


#: As some FUSE file systems do it: each look at a file gives another time.
_ODD = """
import itertools, os, stat
import agent.cli
number = itertools.count(1)
def odd(real):
    def look(*arguments, **how):
        found = real(*arguments, **how)
        if not stat.S_ISREG(found.st_mode):
            return found
        at = found.st_mtime_ns + next(number) * 1_000_000_000
        return os.stat_result(found[:10], {"st_mtime_ns": at, "st_ctime_ns": found.st_ctime_ns})
    return look
os.stat, os.fstat = odd(os.stat), odd(os.fstat)
agent.cli.main()
"""


def test_row_32_stat_is_never_the_same_twice(tmp_path: Path, directory: Path) -> None:
    """Equal bytes in two readings are enough. What is served is never part of a file."""
    put(directory, files(1))
    agent = Agent(tmp_path, directory)
    agent.program = ["-c", _ODD]
    with started(agent), Onlooker(agent) as look:
        look.sees(code_of(directory, 1), SOON)
        for version in (2, 3):
            edit(directory / "a.pl", files(version)["a.pl"])
            look.sees(answer((directory, {**files(1), "a.pl": files(version)["a.pl"]})), SOON)
        waits_well(agent)


@root
@linux
def test_row_33_owners_that_a_namespace_hides(tmp_path: Path, directory: Path) -> None:
    """Without a map of users, the agent and all others have one id. They are strangers.

    The directory itself must be reported: /tmp above it is unsafe in any case, because its owner
    root is not mapped either.
    """
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-U", "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    put(directory, files(1))
    for path in (directory, *directory.iterdir()):
        os.chown(path, 1_234_567, 1_234_567)
    agent = Agent(tmp_path, directory)
    agent.prefix = [unshare, "-U"]
    agent.flags += ["--unsafe-permissions", "refuse"]
    with started(agent):
        assert held(agent) == {str(directory): "unsafe"}
        assert agent.served() == []
        unsafe = {d["path"] for d in agent.history()[-1]["diagnostics"] if d["code"] == "unsafe"}
        assert unsafe >= {str(directory), str(directory / CONF)}
