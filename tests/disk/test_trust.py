"""Who may change callbacks: every rule, with files of real users, and no race."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from agent import settings
from agent.core.diagnostic import Diagnostic, Severity
from agent.core.unit import FAULT, UNSAFE, Evaluation, Unit, evaluate
from agent.disk.directory import read
from agent.disk.permissions import IGNORE, REFUSE, WARN, Trust
from agent.reload.last_good import LastGood
from agent.settings.host import Host
from support.agents import Agent, running, wait_for, write
from support.given import by_flag
from support.strangers import Strangers

CONF = "a.pl = done-job-self\nb.pl = failed-job-self\n"
REFUSING = Trust(REFUSE)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="to give files away takes root")


@pytest.fixture
def cb(place: Path) -> Path:
    """A callback directory, two levels down, with nothing unsafe."""
    return safe(write(place / "above" / "cb", CONF, a_pl="# a\n", b_pl="# b\n"))


def safe(cb: Path) -> Path:
    for path in (cb, cb.parent, *cb.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return cb


def judged(cb: Path, trust: Trust = REFUSING, accepted: Unit | None = None) -> Evaluation:
    return evaluate(read(str(cb), trust=trust).reading, accepted)


def unsafe(judgement: Evaluation) -> list[Diagnostic]:
    return [f for f in judgement.findings if f.code == "unsafe"]


def served(judgement: Evaluation) -> list[str]:
    return [r.file for r in judgement.unit.served()] if judgement.unit else []


def command(hint: str | None) -> str:
    """The command of a hint, without the rest of its text."""
    assert hint is not None
    return hint.partition(", or ")[0]


#: What can be unsafe, relative to the callback directory; and whether other lines are then served.
PLACES = {".": False, "callbacks.conf": False, "a.pl": True, "..": False, "../..": False}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("wrong", ["anybody", "group", "owner"])
def test_what_others_may_write_is_refused_and_the_command_mends_it(
    cb: Path, users: Strangers, name: str, wrong: str
) -> None:
    path = Path(os.path.normpath(cb / name))
    mode = path.stat().st_mode
    if wrong == "anybody":
        path.chmod(mode | 0o002)
    elif wrong == "group":
        os.chown(path, 0, users.group)
        path.chmod(mode | 0o020)
    else:
        os.chown(path, users.other.uid, -1)
    accepted = judged(cb, Trust(IGNORE)).unit

    first = judged(cb)
    assert first.held == UNSAFE
    assert served(first) == (["b.pl"] if PLACES[name] else [])
    (finding,) = unsafe(first)
    assert finding.severity is Severity.ERROR
    assert str(path) in finding.message
    found = path.stat()
    assert f"owner {found.st_uid}" in finding.message
    assert f"mode {stat.S_IMODE(found.st_mode):04o}" in finding.message
    # If something becomes unsafe later, what was served stays served.
    later = judged(cb, accepted=accepted)
    assert later.held == UNSAFE
    assert later.unit == accepted

    subprocess.run(["sh", "-c", command(finding.hint)], check=True)
    mended = judged(cb)
    assert mended.held is None
    assert not unsafe(mended)
    assert served(mended) == ["a.pl", "b.pl"]


def test_the_command_can_be_pasted_whatever_the_path_is(place: Path) -> None:
    cb = safe(write(place / "an odd; 'name' $(x)" / "cb", "a.pl = a-job-self\n", a_pl="#\n"))
    cb.chmod(0o777)
    (finding,) = unsafe(judged(cb))
    subprocess.run(["sh", "-c", command(finding.hint)], check=True)
    assert judged(cb).held is None
    assert stat.S_IMODE(cb.stat().st_mode) == 0o755


@needs_root
@pytest.mark.parametrize("name", PLACES)
def test_a_trusted_group_may_write(cb: Path, users: Strangers, name: str) -> None:
    path = Path(os.path.normpath(cb / name))
    os.chown(path, 0, users.group)
    path.chmod(path.stat().st_mode | 0o020)
    assert unsafe(judged(cb))
    trust = Trust(REFUSE, groups=frozenset({users.group}))
    assert not unsafe(judged(cb, trust))
    # Only its group: not all users, and not another group.
    assert unsafe(judged(cb, Trust(REFUSE, groups=frozenset({users.group + 1}))))
    path.chmod(path.stat().st_mode | 0o002)
    assert unsafe(judged(cb, trust))


def test_the_agents_user_is_trusted_and_no_other(cb: Path, users: Strangers) -> None:
    for path in (cb.parent, cb, *cb.iterdir()):
        os.chown(path, users.other.uid, -1)
    own = Trust(REFUSE, uid=users.other.uid)
    # The parents belong to root, who is trusted too.
    assert judged(cb, own).held is None
    assert served(judged(cb, own)) == ["a.pl", "b.pl"]
    assert unsafe(judged(cb, Trust(REFUSE, uid=users.member.uid)))
    os.chown(cb / "a.pl", users.member.uid, -1)
    assert judged(cb, own).held == UNSAFE
    assert served(judged(cb, own)) == ["b.pl"]


# Sticky directories ------------------------------------------------------------------------------


def test_in_a_sticky_directory_of_roots_what_is_ours_is_ours(cb: Path, users: Strangers) -> None:
    cb.parent.chmod(0o1777)
    assert judged(cb).held is None
    # A directory there that belongs to another user is unsafe.
    os.chown(cb, users.other.uid, -1)
    assert judged(cb).held == UNSAFE
    assert judged(cb, Trust(REFUSE, uid=users.other.uid)).held is None


def test_without_the_sticky_bit_anybody_may_put_another_in_its_place(cb: Path) -> None:
    cb.parent.chmod(0o777)
    (finding,) = unsafe(judged(cb))
    assert finding.path == str(cb.parent)


def test_a_sticky_directory_of_anothers_is_unsafe(cb: Path, users: Strangers) -> None:
    cb.parent.chmod(0o1777)
    os.chown(cb.parent, users.other.uid, -1)
    assert judged(cb).held == UNSAFE
    # It must belong to root, not to the agent's user.
    assert judged(cb, Trust(REFUSE, uid=users.other.uid)).held == UNSAFE


def test_a_callback_directory_may_not_itself_be_one_of_anybodys(cb: Path) -> None:
    """Any user may create the file that a line names there, before root does."""
    cb.chmod(0o1777)
    assert judged(cb).held == UNSAFE


# Links -------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(place: Path) -> Path:
    """Another directory, two levels down, as the target of links."""
    return safe(write(place / "far" / "off", CONF, a_pl="# far\n", b_pl="# b\n"))


@pytest.mark.parametrize("form", ["absolute", "relative", "twice", "dots"])
@pytest.mark.parametrize("bad", ["end", "way", "nothing"])
def test_a_directory_that_is_a_link_is_judged_by_what_it_leads_to_and_over(
    place: Path, elsewhere: Path, form: str, bad: str
) -> None:
    link = place / "link"
    target = {
        "absolute": str(elsewhere),
        "relative": "far/off",
        "twice": "second",
        "dots": "far/../far/./off/../off",
    }[form]
    link.symlink_to(target)
    if form == "twice":
        (place / "second").symlink_to(elsewhere)
    wrong = {"end": elsewhere, "way": elsewhere.parent, "nothing": None}[bad]
    if wrong is None:
        assert judged(link).held is None
        return
    wrong.chmod(0o777)
    found = judged(link)
    assert found.held == UNSAFE
    assert served(found) == []
    # With dots, the path leads through its own end, which is reported by both names.
    assert {f.path for f in unsafe(found)} - {str(elsewhere)} <= {str(link), str(wrong)}
    assert str(wrong if bad == "way" else link) in {f.path for f in unsafe(found)}


@pytest.mark.parametrize("name", ["callbacks.conf", "a.pl"])
@pytest.mark.parametrize("bad", ["file", "way", "nothing"])
def test_a_file_that_is_a_link_is_judged_by_what_it_leads_to_and_over(
    cb: Path, elsewhere: Path, name: str, bad: str
) -> None:
    (cb / name).unlink()
    (cb / name).symlink_to(f"../../far/off/{name}")
    if bad == "nothing":
        assert judged(cb).held is None
        return
    (elsewhere / name if bad == "file" else elsewhere).chmod(0o777)
    found = judged(cb)
    assert found.held == UNSAFE
    assert served(found) == ([] if name == "callbacks.conf" else ["b.pl"])
    assert len(unsafe(found)) == 1


def test_a_strangers_link_in_a_sticky_directory_is_his(
    place: Path, cb: Path, users: Strangers
) -> None:
    """They may change it at any time, however safe its present target is."""
    sticky = place / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    ours, his = sticky / "ours", sticky / "his"
    ours.symlink_to(cb)
    his.symlink_to(cb)
    os.chown(his, users.other.uid, -1, follow_symlinks=False)
    assert judged(ours).held is None
    assert judged(his).held == UNSAFE


@pytest.mark.parametrize("kind", ["nowhere", "loop"])
def test_a_link_that_leads_nowhere_is_a_fault_and_no_more(cb: Path, kind: str) -> None:
    accepted = judged(cb).unit
    (cb / "a.pl").unlink()
    (cb / "a.pl").symlink_to("a.pl" if kind == "loop" else "nothing")
    found = judged(cb, accepted=accepted)
    assert found.held == FAULT
    assert found.unit == accepted


# Refuse, warn, ignore ----------------------------------------------------------------------------


def test_warned_of_it_is_served(cb: Path) -> None:
    (cb / "a.pl").chmod(0o666)
    cb.chmod(0o777)
    found = judged(cb, Trust(WARN))
    assert found.held is None
    assert served(found) == ["a.pl", "b.pl"]
    assert {f.severity for f in unsafe(found)} == {Severity.WARNING}
    assert {f.path for f in unsafe(found)} == {str(cb), f"{cb}/a.pl"}


def test_ignored_it_is_served_without_a_word(cb: Path) -> None:
    cb.chmod(0o777)
    found = judged(cb, Trust(IGNORE))
    assert (found.held, found.findings) == (None, ())
    assert served(found) == ["a.pl", "b.pl"]


@pytest.mark.parametrize(("uid", "default"), [(0, "refuse"), (1000, "warn")])
def test_roots_agent_refuses_and_others_warn(uid: int, default: str) -> None:
    host = Host("linux", uid, "/home/me", "/")
    found = settings.resolve({}, {}, None, host)
    assert (found.unsafe_permissions, found.sources["unsafe_permissions"]) == (default, "default")
    for word in ("refuse", "warn", "ignore"):
        given = settings.resolve(by_flag({"unsafe_permissions": word}), {}, None, host)
        assert given.unsafe_permissions == word


@pytest.mark.parametrize(
    ("mode", "status", "word"), [("refuse", 1, "error"), ("warn", 0, "warning")]
)
def test_check_says_it_without_an_agent(cb: Path, mode: str, status: int, word: str) -> None:
    (cb / "callbacks.conf").chmod(0o666)
    done = subprocess.run(
        [sys.executable, "-m", "agent", "check", "--unsafe-permissions", mode, str(cb)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert f"{cb}/callbacks.conf:1:1: {word}: " in done.stdout
    assert "[unsafe]" in done.stdout


# A running agent ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.pl", "callbacks.conf", ".", ".."])
def test_live_it_is_held_with_the_old_served_and_heals(tmp_path: Path, cb: Path, name: str) -> None:
    with running(tmp_path, cb, CALLBACK_AGENT_UNSAFE_PERMISSIONS="refuse") as agent:
        assert agent.status()["state"] == "ok"
        before = agent.served()
        path = Path(os.path.normpath(cb / name))
        path.chmod(path.stat().st_mode | 0o002)
        (cb / "a.pl").write_text("# not from just anybody\n")
        record = agent.reload()
        assert agent.status()["state"] == "degraded"
        assert record["held"] == [{"directory": str(cb), "reason": "unsafe"}]
        assert agent.served() == before
        (told,) = [d for d in record["diagnostics"] if d["code"] == "unsafe"]
        subprocess.run(["sh", "-c", command(told["hint"])], check=True)
        if name == "..":
            # Parents of the directories are checked at each reload and each poll.
            agent.reload()
        wait_for(lambda: agent.status()["state"] == "ok", "it heals by itself")
        assert agent.fires("done-job-self", code=True) == ["a.pl"]
        assert "not from just anybody" in str(agent.served())
        wait_for(lambda: agent.records()[-1]["event"] == "restored", "the record in the log")


def test_a_start_serves_the_good_lines_beside_an_unsafe_file_and_none_of_an_unsafe_conf(
    tmp_path: Path, place: Path
) -> None:
    one = safe(write(place / "one", CONF, a_pl="#\n", b_pl="#\n"))
    two = safe(write(place / "two", "c.pl = done-job-self\n", c_pl="#\n"))
    (one / "a.pl").chmod(0o666)
    (two / "callbacks.conf").chmod(0o666)
    with running(tmp_path, one, two, CALLBACK_AGENT_UNSAFE_PERMISSIONS="refuse") as agent:
        assert [Path(p).name for p, _, _ in agent.served()] == ["b.pl"]
        assert [d["held"] for d in agent.status()["directories"]] == ["unsafe", "unsafe"]


def test_after_a_restart_what_was_served_stays_and_nothing_unsafe_comes(
    tmp_path: Path, cb: Path
) -> None:
    agent = Agent(tmp_path, cb, CALLBACK_AGENT_UNSAFE_PERMISSIONS="refuse")
    agent.start()
    before = agent.served()
    agent.reload()  # When it returns, what is served is stored.
    assert agent.stop() == 0
    (cb / "b.pl").write_text("# evil\n")
    cb.chmod(0o777)
    agent.start()
    try:
        assert agent.served() == before
        assert agent.status()["state"] == "degraded"
    finally:
        agent.stop()


# Between check and use ---------------------------------------------------------------------------


@contextlib.contextmanager
def swapping(place: Path, *ones: Path) -> Iterator[None]:
    """Meanwhile, these take turns at `place`, by rename, as fast as possible."""

    def swap() -> None:
        spare = place.with_name(f"{place.name}.spare")
        while True:
            for one in ones:
                if one.is_symlink() or one.is_dir():
                    spare.symlink_to(os.readlink(one) if one.is_symlink() else one)
                else:
                    os.link(one, spare)
                os.rename(spare, place)
                spare.unlink(missing_ok=True)

    # A process, not a thread: it must be able to run between any two steps of the reader.
    swapper = multiprocessing.get_context("fork").Process(target=swap, daemon=True)
    swapper.start()
    try:
        yield
    finally:
        swapper.kill()
        swapper.join()


THOROUGH = hypothesis_settings.get_current_profile_name() == "thorough"
#: Readings, at least. Each error of this kind that was tried showed within some hundred.
READINGS = 3000 if THOROUGH else 1000


@pytest.mark.parametrize("what", ["file", "conf", "link", "file or link", "directory"])
@pytest.mark.parametrize("again", [False, True], ids=["fresh", "after a reading"])
def test_unsafe_bytes_are_never_served_however_files_are_swapped(
    place: Path, cb: Path, what: str, again: bool
) -> None:
    evil = safe(write(place / "evil" / "cb", "a.pl = evil-job-self\n", a_pl="# evil\n"))
    (evil / "b.pl").write_text("# b\n")
    # The target of a link is safe itself: only the path to it is not.
    if what in ("file", "conf"):
        (evil / "a.pl").chmod(0o666)
        (evil / "callbacks.conf").chmod(0o666)
    (evil.parent if what == "directory" else evil).chmod(0o777)
    good, where = cb, cb
    name = "callbacks.conf" if what == "conf" else "a.pl"
    if what == "directory":
        where = place / "link"
        where.symlink_to(cb)
        swapped, ones = where, [good, evil]
    else:
        swapped = cb / name
        kept = place / f"kept-{name}"
        os.link(swapped, kept)
        ones = [kept, evil / name]
        if what.endswith("link"):
            links = [place / "to-good", place / "to-evil"]
            links[0].symlink_to(kept)
            links[1].symlink_to(evil / name)
            ones = links if what == "link" else [kept, links[1]]
    seen: set[str] = set()
    before = None
    accepted = judged(cb).unit
    with swapping(swapped, *ones):
        for count in range(50_000):
            snapshot = read(str(where), before, trust=REFUSING)
            before = snapshot if again else None
            verdict = evaluate(snapshot.reading, None)
            assert "evil" not in str(verdict.unit)
            assert "evil" not in str(evaluate(snapshot.reading, accepted).unit)
            seen.add("unsafe" if unsafe(verdict) else "safe" if verdict.held is None else "other")
            if count >= READINGS and seen >= {"safe", "unsafe"}:
                break
    assert seen >= {"safe", "unsafe"}


# The state folder --------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["state", "above", "own"])
def test_a_state_folder_that_others_may_write_to_is_not_used(
    place: Path, messages: list[str], bad: str
) -> None:
    above = place / "above"
    state = above / "state"
    state.mkdir(parents=True)
    kept = LastGood(str(state), "/pipe", REFUSING)
    kept.open()
    assert kept.save("/cb", Unit(), None)
    assert messages == []
    assert stat.S_IMODE(os.stat(kept.folder).st_mode) == 0o700
    {"state": state, "above": above, "own": Path(kept.folder)}[bad].chmod(0o777)
    again = LastGood(str(state), "/pipe", REFUSING)
    again.open()
    assert again.load("/cb") == (None, [])
    assert not again.save("/other", Unit(), None)
    assert len(messages) == 1
    assert "is writable for all users" in messages[0]
    # The command in the message corrects it, without a restart.
    told_command = messages[0].rpartition("; ")[2]
    subprocess.run(["sh", "-c", told_command], check=True)
    again.flush()
    assert not again.waiting or again.load("/cb")[0] is not None
    assert again.load("/other")[0] is not None
    assert "stored again" in messages[1]


def test_a_strangers_state_folder_is_not_used(
    place: Path, users: Strangers, messages: list[str]
) -> None:
    state = place / "state"
    state.mkdir(0o700)
    os.chown(state, users.other.uid, -1)
    kept = LastGood(str(state), "/pipe", REFUSING)
    kept.open()
    assert not kept.save("/cb", Unit(), None)
    assert list(state.iterdir()) == []
    assert "belongs to another user" in messages[0]


def test_what_was_planted_in_an_unsafe_state_folder_does_not_come_to_life(
    tmp_path: Path, cb: Path, place: Path
) -> None:
    agent = Agent(tmp_path, cb, CALLBACK_AGENT_UNSAFE_PERMISSIONS="refuse")
    agent.state = place / "state"
    agent.start()
    assert agent.fires("done-job-self") == ["a.pl"]
    agent.reload()
    assert agent.stop() == 0
    agent.state.chmod(0o777)
    (cb / "callbacks.conf").write_text("a.pl = (\n")
    agent.start()
    try:
        assert agent.served() == []
        assert any("cannot be stored" in note for note in agent.status()["notes"])
    finally:
        agent.stop()


def test_quoting_is_what_a_shell_reads() -> None:
    status = os.stat("/")
    found = Trust(REFUSE).check("/a b'c", os.stat_result((0o100666, *tuple(status)[1:])), None)
    assert found is not None
    assert shlex.split(found.hint)[-1] == "/a b'c"
