"""What is to be done so that Slurm reports its events to the adapter, and what of it is done.

Nothing is changed here: an administrator pastes the commands.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from agent.slurm import slurm_conf
from agent.slurm.slurm_conf import Setting

#: Where the hook is installed, by default.
HOOK = "/usr/local/lib/callback-agent/slurm-hook"
#: Where Slurm has its configuration, by default.
CONF = "/etc/slurm/slurm.conf"
#: The hook as it ships.
SOURCE = resources.files("agent.slurm") / "hook.sh"

#: Seconds that Slurm should remember a job that ended. Callbacks that retry it, or ask about it,
#: come some seconds later.
MIN_JOB_AGE = 60
#: The settings that name the hook, and what each is for.
_HOOKS = {"PrologSlurmctld": "a job or task starts", "EpilogSlurmctld": "a job or task ends"}
#: What needs no quotes, neither in sh nor in slurm.conf.
_PLAIN = re.compile(r"/[A-Za-z0-9/._+-]*")


class BadPath(Exception):
    """A path cannot be used: what was found and expected."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, or that is done."""

    #: What was found.
    text: str
    #: What to do: commands, or lines of slurm.conf. Nothing if it is done.
    todo: tuple[str, ...] = ()
    #: It works without this.
    optional: bool = False


def steps(conf: Path, hook: str, spool: str) -> list[Step]:
    """What is to be done and what is done, in the order to do it in. Raises BadPath."""
    for path in (hook, spool):
        if not _PLAIN.fullmatch(path):
            raise BadPath(f"{path}: expected an absolute path of letters, digits and / . _ + -")
    try:
        settings = slurm_conf.read(conf)
    except OSError as error:
        text = f"{error.filename or conf}: {error.strerror}; name the configuration of slurmctld"
        return [Step(text, ("callback-agent slurm setup --slurm-conf FILE",))]
    user = settings["slurmuser"].value if "slurmuser" in settings else "root"
    user = user.partition("(")[0]
    lines: list[Step] = []
    for name in _HOOKS:
        lines += _program(name, hook, settings.get(name.lower()), conf, user)
    lines += _completion(hook, settings, conf, user)
    lines += _age(settings.get("minjobage"))
    if any(step.todo and not step.optional for step in lines):
        text = "slurmctld reads slurm.conf when it starts; running jobs go on"
        lines.append(Step(text, ("systemctl restart slurmctld",)))
    return [_spool(spool, user), _hook(hook, spool), *lines]


def _entry(user: str) -> pwd.struct_passwd | None:
    """Slurm's user; None if there is no such user here."""
    try:
        return pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        return None


def _spool(spool: str, name: str) -> Step:
    """The directory where the hook leaves events: only Slurm's user may write to it."""
    make = (f"install -d -o {name} -g $(id -gn {name}) -m 0700 {spool}",)
    entry = _entry(name)
    if entry is None:
        return Step(f"the spool: SlurmUser is {name}, and there is no such user here", make)
    try:
        status = os.stat(spool)
    except FileNotFoundError:
        return Step(f"the spool {spool} does not exist", make)
    except OSError as error:
        return Step(f"the spool {spool}: {error.strerror}", make)
    if not stat.S_ISDIR(status.st_mode):
        return Step(f"the spool {spool} is not a directory", (f"rm {spool}", *make))
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != entry.pw_uid or mode & 0o077:
        what = f"belongs to user {status.st_uid} and has mode {mode:04o}"
        expected = f"expected {entry.pw_uid} ({entry.pw_name}), who runs the hook, and 0700"
        return Step(f"the spool {spool} {what}; {expected}", make)
    return Step(f"the spool {spool} belongs to {entry.pw_name}")


def hook_text(spool: str) -> str:
    """The hook that writes to a spool."""
    return re.sub(r"(?m)^spool=.*$", f"spool={spool}", SOURCE.read_text(encoding="utf-8"))


def _hook(hook: str, spool: str) -> Step:
    source, folder = shlex.quote(str(SOURCE)), shlex.quote(os.path.dirname(hook))
    make = (
        f"install -d -m 0755 {folder}",
        f"sed 's|^spool=.*|spool={spool}|' {source} > {hook}",
        f"chmod 0755 {hook}",
    )
    try:
        text = Path(hook).read_text(encoding="utf-8", errors="replace")
        status = os.stat(hook)
    except FileNotFoundError:
        return Step(f"the hook {hook} does not exist", make)
    except OSError as error:
        return Step(f"the hook {hook}: {error.strerror}", make)
    if text != hook_text(spool):
        return Step(f"the hook {hook} is of another version, or for another spool", make)
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != 0 or mode & 0o022 or mode & 0o555 != 0o555:
        what = f"belongs to user {status.st_uid} and has mode {mode:04o}"
        todo = (f"chown root:root {hook}", f"chmod 0755 {hook}")
        return Step(f"the hook {hook} {what}; expected 0 and 0755", todo)
    return Step(f"the hook {hook} writes to {spool}")


def _program(
    name: str, hook: str, setting: Setting | None, conf: Path, user: str
) -> Iterator[Step]:
    """PrologSlurmctld or EpilogSlurmctld."""
    if setting is None or not setting.value:
        text = f"{conf} has no {name}, which reports that {_HOOKS[name]}; add the line"
        yield Step(text, (f"{name}={hook}",))
    else:
        yield from _called(name, hook, setting, user)


def _called(name: str, hook: str, setting: Setting, user: str) -> Iterator[Step]:
    """A setting that names the hook, or a program that calls it, or one that is to call it."""
    if setting.value == hook:
        yield Step(f"{setting}: {name} is the hook")
        return
    if _calls(setting.value, hook):
        text = f"{setting}: {name} is {setting.value}, which calls the hook"
        if _may_run(user, setting.value):
            yield Step(text)
        else:
            yield Step(f"{text}, but {user} may not run it", _executable(setting.value))
        return
    both = f"{os.path.dirname(hook)}/{name}"
    if not _calls(both, hook):
        # exec: the exit status, with which a site refuses jobs, is that of the site's own program.
        lines = ["#!/bin/sh", hook, f'exec {shlex.quote(setting.value)} "$@"']
        text = f"{name} is {setting.value} already; a program that calls both"
        words = " ".join(map(shlex.quote, lines))
        yield Step(text, (f"printf '%s\\n' {words} > {both}", *_executable(both)))
    text = f"{setting}: {name} is {setting.value}, which does not call the hook; change the line to"
    yield Step(text, (f"{name}={both}",))


def _calls(program: str, hook: str) -> bool:
    """Whether a program is a script that has a line with the hook."""
    try:
        text = Path(program).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(hook in line and not line.lstrip().startswith("#") for line in text.split("\n"))


def _executable(program: str) -> tuple[str]:
    return (f"chmod 0755 {shlex.quote(program)}",)


def _may_run(user: str, program: str) -> bool:
    """Whether the mode of a program lets Slurm's user run it."""
    status, entry = os.stat(program), _entry(user)
    if entry is None:
        return True  # The step of the spool reports it.
    if entry.pw_uid == 0:
        bits = 0o111
    elif entry.pw_uid == status.st_uid:
        bits = 0o100
    else:
        groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
        bits = 0o010 if status.st_gid in groups else 0o001
    return bool(status.st_mode & bits)


def _completion(
    hook: str, settings: Mapping[str, Setting], conf: Path, user: str
) -> Iterator[Step]:
    """JobCompType and JobCompLoc."""
    kind, place = settings.get("jobcomptype"), settings.get("jobcomploc")
    lines = ("JobCompType=jobcomp/script", f"JobCompLoc={hook}")
    if kind is None or kind.value.lower() in ("", "jobcomp/none"):
        text = f"{conf} has no JobCompType, which reports how a job ended; add the lines"
        yield Step(text, lines)
    elif kind.value.lower() != "jobcomp/script":
        # The queue shows it too, a second later.
        text = (
            f"{kind}: JobCompType is {kind.value}, and Slurm has only one. It may stay: then the"
            " queue is asked how a job ended, which takes a second more. Else change the lines to"
        )
        yield Step(text, lines, optional=True)
    elif place is None or not place.value:
        yield Step(f"{kind}: there is no JobCompLoc beside it; add the line", lines[1:])
    else:
        yield from _called("JobCompLoc", hook, place, user)


def _age(setting: Setting | None) -> Iterator[Step]:
    """MinJobAge: the default is enough."""
    if setting and setting.value.isdecimal() and int(setting.value) < MIN_JOB_AGE:
        text = (
            f"{setting}: MinJobAge is {setting.value}: so soon Slurm forgets what ended, and"
            " callbacks cannot retry it or ask about it; change the line to"
        )
        yield Step(text, ("MinJobAge=300",), optional=True)
