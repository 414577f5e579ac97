"""Ways in which programs edit a callback directory, each with a directory of its own.

All that an edit writes carries its version number, see versions.py. Writers and clients are
processes of their own; they share numbers.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.timing import DEFAULTS
from support.versions import Part, Versions

#: Seconds for which an in-place writer may pause between two writes, past the quiet period or not.
PAUSES = (0.0, 0.001, 0.008, 0.03)


class Numbers:
    """Integers that processes share. Each is written by one process only."""

    def __init__(self, count: int) -> None:
        # Not `struct.pack_into`: it writes zeros first, which others would see.
        self._numbers = memoryview(mmap.mmap(-1, 8 * count)).cast("q")

    def __getitem__(self, place: int) -> int:
        return self._numbers[place]

    def __setitem__(self, place: int, value: int) -> None:
        self._numbers[place] = value

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers.tolist())


class Shared:
    """What writers and clients share."""

    def __init__(self, ways: int, clients: int) -> None:
        self.ways = ways
        #: By way: the newest version whose last step has begun, and the newest that is done.
        self.begun = Numbers(ways)
        self.done = Numbers(ways)
        #: By client: its lookups.
        self.lookups = Numbers(clients)
        self._served = [Numbers(ways) for _ in range(clients)]
        self._flags = Numbers(2)

    def saw(self, client: int, way: int, version: int) -> None:
        """Note that this client was served this version."""
        self._served[client][way] = version

    def served(self) -> list[int]:
        """By way, the newest version that any client was served."""
        return [max(versions) for versions in zip(*self._served, strict=True)]

    @property
    def no_more_edits(self) -> bool:
        return bool(self._flags[0])

    @property
    def no_more_lookups(self) -> bool:
        return bool(self._flags[1])

    def end_edits(self) -> None:
        self._flags[0] = 1

    def end_lookups(self) -> None:
        self._flags[1] = 1


class Edit:
    """One edit under way. What it leaves on disk for a quiet period or longer is an edit of its
    own: `gap` notes it, so that it is right to be served."""

    def __init__(self, way: Way, version: int, shared: Shared, random: random.Random) -> None:
        self.versions = way.versions
        self.version = version
        self.random = random
        self.apart: list[tuple[Part, ...]] = []
        self._way = way
        self._shared = shared

    @property
    def path(self) -> Path:
        return Path(self.versions.path)

    @property
    def served(self) -> int:
        """The newest version that any client was served."""
        return self._shared.served()[self._way.place]

    def last_step(self) -> None:
        """Note that the version may be served from the next step on."""
        self._shared.begun[self._way.place] = self.version

    @contextmanager
    def gap(self, *shown: tuple[Part, ...]) -> Iterator[None]:
        """Encloses the time between two steps. `shown` is what an answer would contain then."""
        began = time.monotonic()
        yield
        if time.monotonic() - began >= DEFAULTS.quiet_period:
            self.apart += shown


@dataclass(frozen=True, slots=True)
class Way:
    """A way to edit a directory: what of it changes, and how a version is made."""

    place: int
    name: str
    versions: Versions
    make: Callable[[Path, Versions], None]
    edit: Callable[[Edit], None]


def write_all(folder: Path, versions: Versions, version: int) -> None:
    folder.mkdir(parents=True)
    for name, text in versions.files(version).items():
        (folder / name).write_text(text)


def first_version(path: Path, versions: Versions) -> None:
    write_all(path, versions, 0)


def replace(path: Path, text: str, mtime: float | None = None) -> None:
    """Write a file by rename."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    if mtime is not None:
        os.utime(new, (mtime, mtime))
    new.rename(path)


def in_place(edit: Edit) -> None:
    with (edit.path / "callbacks.conf").open("w") as file:
        file.write(edit.versions.conf_text(edit.version))
        file.flush()
        edit.last_step()


def slowly(edit: Edit, path: Path, text: str) -> None:
    cuts = sorted(edit.random.randrange(len(text)) for _ in range(edit.random.randint(1, 3)))
    with path.open("w") as file:
        for begin, end in zip([0, *cuts], [*cuts, None], strict=True):
            file.write(text[begin:end])
            file.flush()
            time.sleep(edit.random.choice(PAUSES))
        edit.last_step()


def in_place_slowly(edit: Edit) -> None:
    slowly(edit, edit.path / "callbacks.conf", edit.versions.conf_text(edit.version))


def code_in_place(edit: Edit) -> None:
    (name,) = edit.versions.names(edit.version)
    slowly(edit, edit.path / name, edit.versions.code_text(name, edit.version))


def by_rename(edit: Edit) -> None:
    edit.last_step()
    replace(edit.path / "callbacks.conf", edit.versions.conf_text(edit.version))


def code_by_rename(edit: Edit) -> None:
    edit.last_step()
    (name,) = edit.versions.names(edit.version)
    replace(edit.path / name, edit.versions.code_text(name, edit.version))


def together(edit: Edit) -> None:
    """All files, one rename after the other. What is written first changes from edit to edit."""
    files = edit.versions.files(edit.version)
    for name, text in files.items():
        (edit.path / f".{name}.new").write_text(text)
    names = list(files)
    edit.random.shuffle(names)
    code = dict.fromkeys(edit.versions.names(edit.version), edit.version - 1)
    conf = edit.version - 1
    pause = edit.random.choice((0.0, 0.001, 0.003))
    #: When each rename began and ended, and what an answer would hold of the disk after it.
    times: list[tuple[float, float]] = []
    states = []
    for name in names:
        time.sleep(pause)
        if name == names[-1]:
            edit.last_step()
        began = time.monotonic()
        (edit.path / f".{name}.new").rename(edit.path / name)
        times.append((began, time.monotonic()))
        if name == "callbacks.conf":
            conf = edit.version
        else:
            code[name] = edit.version
        states.append(edit.versions.mixture(conf, code))
    for state, (began, _), (_, ended) in zip(states, times, times[1:], strict=False):
        if ended - began >= DEFAULTS.quiet_period:
            edit.apart.append(state)


def new_names(edit: Edit) -> None:
    """callbacks.conf first, then the files that it newly names, as `cp *` and rsync do."""
    files = edit.versions.files(edit.version)
    (edit.path / "callbacks.conf").write_text(files.pop("callbacks.conf"))
    for name, text in files.items():
        if edit.random.random() < 0.2:
            time.sleep(edit.random.choice(PAUSES))
        edit.last_step()
        replace(edit.path / name, text)
    # What was accepted before this one may be needed yet: to remove it now would be an edit.
    keep = {*files, "callbacks.conf"}
    for version in range(edit.served, edit.version):
        keep |= set(edit.versions.names(version))
    for file in edit.path.iterdir():
        if file.name not in keep:
            file.unlink()


def older(edit: Edit) -> None:
    """By an older file of the same size, always of the same age, by rename or in place."""
    conf = edit.path / "callbacks.conf"
    edit.last_step()
    if edit.random.random() < 0.5:
        replace(conf, edit.versions.conf_text(edit.version), mtime=1e9)
    else:
        with conf.open("w") as file:
            file.write(edit.versions.conf_text(edit.version))
            os.utime(file.fileno(), (1e9, 1e9))


def made_again(edit: Edit) -> None:
    """Removed, file by file, and made again, file by file. While the directory is there without
    callbacks.conf, nothing is served if that lasts."""
    path = edit.path
    with edit.gap(()):
        (path / "callbacks.conf").unlink()
        shutil.rmtree(path)
    time.sleep(edit.random.choice(PAUSES))
    with edit.gap(()):
        path.mkdir()
        for name, text in edit.versions.files(edit.version).items():
            edit.last_step()
            replace(path / name, text)


def renamed(edit: Edit) -> None:
    """The directory is renamed away, and another one takes its place."""
    swap(edit, edit.path)


def parent_renamed(edit: Edit) -> None:
    """The same with its parent."""
    swap(edit, edit.path.parent, edit.path.name)


def swap(edit: Edit, path: Path, below: str = "") -> None:
    new, old = path.with_name(f"{path.name}.new"), path.with_name(f"{path.name}.old")
    write_all(new / below, edit.versions, edit.version)
    path.rename(old)
    time.sleep(edit.random.choice(PAUSES))
    edit.last_step()
    new.rename(path)
    shutil.rmtree(old)


def release(path: Path, versions: Versions, version: int) -> Path:
    folder = path.with_name(f"{path.name}.releases") / str(version)
    write_all(folder, versions, version)
    return folder


def linked(path: Path, versions: Versions) -> None:
    path.parent.mkdir(parents=True)
    path.symlink_to(release(path, versions, 0))


def switched(edit: Edit) -> None:
    """The directory is a link; another release is made and the link switched to it."""
    switch(edit, edit.path)


def switch(edit: Edit, link: Path) -> None:
    old = os.readlink(link)
    new = link.with_name(f".{link.name}.new")
    new.symlink_to(release(edit.path, edit.versions, edit.version))
    edit.last_step()
    new.rename(link)
    shutil.rmtree(old)


def linked_data(path: Path, versions: Versions) -> None:
    path.mkdir(parents=True)
    (path / "..data").symlink_to(release(path, versions, 0))
    for name in versions.files(0):
        (path / name).symlink_to(f"..data/{name}")


def data_switched(edit: Edit) -> None:
    """All files are links through one link, which is switched, as Kubernetes does."""
    switch(edit, edit.path / "..data")


def ways(folder: Path) -> list[Way]:
    """Every way to edit, each with a directory of its own."""
    both = {"conf": True, "code": True}
    one = {"conf": False, "code": True, "stems": ("a",)}
    listed: list[tuple[str, dict[str, Any], Callable[[Path, Versions], None], Any]] = [
        ("in place, one write", {}, first_version, in_place),
        ("in place, several writes", {}, first_version, in_place_slowly),
        ("code in place, several writes", one, first_version, code_in_place),
        ("by rename", {}, first_version, by_rename),
        ("Python by rename", one | {"extension": ".py"}, first_version, code_by_rename),
        ("several files together", both, first_version, together),
        ("conf before its new files", both | {"renamed": True}, first_version, new_names),
        ("older, same size and mtime", {}, first_version, older),
        ("directory removed, made again", both, first_version, made_again),
        ("directory renamed, replaced", both, first_version, renamed),
        ("parent renamed, replaced", both, first_version, parent_renamed),
        ("link to directory switched", both, linked, switched),
        ("links to files switched", both, linked_data, data_switched),
    ]
    return [
        Way(place, name, Versions(f"k{place}", str(folder / f"{place}/callback"), **what), *how)
        for place, (name, what, *how) in enumerate(listed)
    ]
