"""Rows 28, 29 and 33: who may write is more than mode bits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.diagnostic import Diagnostic
from agent.core.unit import UNSAFE, Evaluation, evaluate
from agent.disk import permissions
from agent.disk.directory import read
from agent.disk.permissions import REFUSE, Trust
from support.agents import Agent, wait_for, write
from support.strangers import Strangers, User

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="to give files away takes Linux and root"
)
needs_acl = pytest.mark.skipif(shutil.which("setfacl") is None, reason="there is no setfacl")

CONF = "a.pl = done-job-self\nb.pl = failed-job-self\n"


@pytest.fixture
def cb(place: Path) -> Path:
    cb = write(place / "above" / "cb", CONF, a_pl="# a\n", b_pl="# b\n")
    for path in (cb.parent, cb, *cb.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return cb


def judged(cb: Path, groups: frozenset[int] = frozenset()) -> Evaluation:
    return evaluate(read(str(cb), trust=Trust(REFUSE, groups=groups)).reading, None)


def unsafe(judgement: Evaluation) -> list[Diagnostic]:
    return [f for f in judgement.findings if f.code == "unsafe"]


def setfacl(*arguments: str | Path) -> None:
    done = subprocess.run(["setfacl", *arguments], capture_output=True, text=True, check=False)
    if "not supported" in done.stderr:
        pytest.skip("this file system has no ACLs")
    assert not done.returncode, done.stderr


# Row 28 ------------------------------------------------------------------------------------------


@needs_acl
@pytest.mark.parametrize("name", ["a.pl", "callbacks.conf", ".", ".."])
@pytest.mark.parametrize("who", ["user", "group"])
def test_an_acl_entry_counts_as_write_permission_and_the_command_removes_it(
    cb: Path, users: Strangers, name: str, who: str
) -> None:
    """The group that the mode shows is trusted, so only the ACL tells."""
    path = Path(os.path.normpath(cb / name))
    os.chown(path, 0, users.group)
    path.chmod(path.stat().st_mode | 0o020)
    groups = frozenset({users.group})
    assert judged(cb, groups).held is None
    entry = f"u:{users.other.uid}" if who == "user" else f"g:{users.other.gid}"
    setfacl("-m", f"{entry}:rwx", path)
    found = judged(cb, groups)
    assert found.held == UNSAFE
    (finding,) = unsafe(found)
    assert entry in finding.message
    subprocess.run(["sh", "-c", finding.hint or ""], check=True)
    assert judged(cb, groups).held is None


@needs_acl
def test_an_acl_is_read_as_it_is_meant(cb: Path, users: Strangers) -> None:
    groups = frozenset({users.group})
    file = cb / "a.pl"
    os.chown(file, 0, users.group)
    file.chmod(0o664)
    # Those who are trusted without it.
    setfacl("-m", f"u:0:rw,u:{users.member.uid}:rw,g:{users.group}:rw", file)
    assert judged(cb, groups).held is None
    # What the mask takes away is not there.
    setfacl("-m", f"u:{users.other.uid}:rw,m::r", file)
    assert judged(cb, groups).held is None
    # Read is not write.
    setfacl("-m", f"u:{users.other.uid}:r,m::rw", file)
    assert judged(cb, groups).held is None
    # The mode's group bits are the mask: here the owning group may only read.
    os.chown(file, 0, users.other.gid)
    setfacl("-m", "g::r", file)
    assert file.stat().st_mode & 0o020
    assert judged(cb, groups).held is None
    setfacl("-m", "g::rw", file)
    (finding,) = unsafe(judged(cb, groups))
    subprocess.run(["sh", "-c", finding.hint or ""], check=True)
    assert judged(cb, groups).held is None


@needs_acl
def test_a_default_acl_counts_for_the_files_that_have_it(cb: Path, users: Strangers) -> None:
    setfacl("-m", f"d:u:{users.other.uid}:rwx", cb)
    assert judged(cb).held is None
    (cb / "a.pl").unlink()
    (cb / "a.pl").write_text("# new\n")
    (finding,) = unsafe(judged(cb))
    assert finding.message.startswith(str(cb / "a.pl"))


@needs_acl
def test_an_acl_that_is_set_while_the_agent_runs(
    tmp_path: Path, cb: Path, users: Strangers
) -> None:
    os.chown(cb, 0, users.group)
    cb.chmod(0o775)
    agent = Agent(tmp_path, cb)
    agent.flags += ["--unsafe-permissions", "refuse", "--trusted-group", users.group_name]
    agent.start()
    try:
        assert agent.status()["state"] == "ok"
        # The mode stays as it is.
        setfacl("-m", f"u:{users.other.uid}:rwx", cb)
        (cb / "a.pl").write_text("# not from them\n")
        wait_for(lambda: agent.status()["state"] == "degraded", "it is held")
        assert "not from them" not in str(agent.served())
        setfacl("-b", cb)
        wait_for(lambda: agent.status()["state"] == "ok", "it is well again")
    finally:
        agent.stop()


# Row 29 ------------------------------------------------------------------------------------------


def with_sed(cb: Path) -> None:
    subprocess.run(["sed", "-i", "s/# a/# new/", cb / "a.pl"], check=True)


def with_mv(cb: Path) -> None:
    (cb / "new").write_text("# new\n")
    (cb / "new").chmod(0o644)
    os.replace(cb / "new", cb / "a.pl")


def as_new_file(cb: Path) -> None:
    (cb / "c.pl").write_text("# new\n")
    (cb / "c.pl").chmod(0o644)
    text = (cb / "callbacks.conf").read_text()
    (cb / "callbacks.conf").write_text(f"{text}c.pl = done-work-self\n")


@pytest.mark.parametrize("save", [with_sed, with_mv, as_new_file])
def test_what_a_member_of_the_trusted_group_saved_is_accepted(
    tmp_path: Path, cb: Path, users: Strangers, save: Callable[[Path], None]
) -> None:
    for path in (cb, cb / "callbacks.conf"):
        os.chown(path, 0, users.group)
        path.chmod(0o775 if path.is_dir() else 0o664)
    agent = Agent(tmp_path, cb)
    agent.flags += ["--unsafe-permissions", "refuse", "--trusted-group", users.group_name]
    agent.start()
    try:
        assert users.member.does(lambda: save(cb)) is None
        wait_for(lambda: "# new" in str(agent.served()), "what the member saved")
        assert agent.status()["state"] == "ok"
        # And nobody else's.
        os.chown(cb / "a.pl", users.other.uid, -1)
        wait_for(lambda: agent.status()["state"] == "degraded", "it is held")
    finally:
        agent.stop()


def test_a_group_that_is_someones_primary_one_counts_too(cb: Path, users: Strangers) -> None:
    os.chown(cb / "a.pl", users.member.uid, -1)
    assert judged(cb).held == UNSAFE
    assert judged(cb, frozenset({users.member.gid})).held is None


def test_a_directory_of_a_member_is_accepted(cb: Path, users: Strangers) -> None:
    os.chown(cb, users.member.uid, -1)
    assert judged(cb).held == UNSAFE
    assert judged(cb, frozenset({users.group})).held is None
    os.chown(cb, users.other.uid, -1)
    assert judged(cb, frozenset({users.group})).held == UNSAFE


def test_a_user_database_that_does_not_answer_delays_and_accepts_nobody(
    cb: Path, users: Strangers, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = pytest.importorskip("agent.disk.identity")
    ended: list[bool] = []

    def never(uid: int) -> frozenset[int]:
        wait_for(lambda: ended, "the end of the test")
        return frozenset({users.group})

    monkeypatch.setattr(identity, "_groups", {})
    monkeypatch.setattr(identity, "_groups_of", never)
    os.chown(cb / "a.pl", users.member.uid, -1)
    os.chown(cb / "b.pl", users.other.uid, -1)
    try:
        snapshot = read(str(cb), trust=Trust(REFUSE, groups=frozenset({users.group})))
        assert evaluate(snapshot.reading, None).held == UNSAFE
        assert "does not say" in str(evaluate(snapshot.reading, None).findings)
        # It is asked again.
        assert snapshot.retry
    finally:
        ended.append(True)


# Row 33 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--map-root-user"]], ids=["no map", "root mapped"])
def test_owners_that_a_user_namespace_does_not_map_are_strangers(
    cb: Path, users: Strangers, flags: list[str]
) -> None:
    """One file belongs to a stranger. Without a map it is shown with the id of the agent itself."""
    os.chown(cb / "a.pl", users.other.uid, -1)
    prefix = ["unshare", "--user", *flags]
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("no user namespace can be made here")
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "agent", "check", "--unsafe-permissions", "refuse", cb],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "a user who is not mapped" in done.stdout
    assert "[unsafe]" in done.stdout


# Sticky directories ------------------------------------------------------------------------------


def switch(link: Path, to: Path) -> Callable[[], None]:
    def switched() -> None:
        new = link.with_name("new")
        new.symlink_to(to)
        os.replace(new, link)

    return switched


@pytest.mark.parametrize("may_write", ["others", "group", pytest.param("acl", marks=needs_acl)])
def test_a_link_in_a_sticky_directory_is_its_owners_however_they_may_write(
    place: Path, cb: Path, users: Strangers, may_write: str
) -> None:
    evil = write(place / "evil" / "cb", CONF, a_pl="# evil\n", b_pl="# evil\n")
    shared = place / "shared"
    shared.mkdir()
    member: User = users.member
    if may_write == "group":
        os.chown(shared, 0, users.group)
    shared.chmod({"others": 0o1777, "group": 0o1775, "acl": 0o1755}[may_write])
    if may_write == "acl":
        setfacl("-m", f"u:{member.uid}:rwx", shared)
    link = shared / "callbacks"
    link.symlink_to(cb)
    assert judged(link).held is None
    os.chown(link, member.uid, -1, follow_symlinks=False)
    assert member.does(switch(link, evil)) is None
    found = judged(link)
    assert found.held == UNSAFE
    assert found.unit is None


def test_a_walk_leaves_no_descriptors_open(place: Path, cb: Path) -> None:
    for number in range(permissions.MAX_OPEN * 2):
        folder = place / f"d{number}"
        folder.mkdir()
        (folder / "x.pl").write_text("#\n")
        (cb / f"x{number}.pl").symlink_to(folder / "x.pl")
    lines = "".join(f"x{n}.pl = done-work-self\n" for n in range(permissions.MAX_OPEN * 2))
    (cb / "callbacks.conf").write_text(lines)

    def opened() -> list[Path]:
        """What is open on the way: another thread may open and close files elsewhere."""
        found = (Path(os.path.realpath(fd.path)) for fd in os.scandir("/proc/self/fd"))
        return sorted(p for p in found if p.is_relative_to(place) or place.is_relative_to(p))

    before = opened()
    assert judged(cb).held is None
    assert opened() == before
