"""Callback directories whose every byte says which version it is of, so that an answer tells
whether it is of one version or of a mixture.

A version is a number that goes up. Each line of callbacks.conf has it in its trigger, each
implementation in its code. All versions of one file have the same size, so that a size never tells
them apart.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: Lines of one callbacks.conf.
LINES = 8

#: One callback of an answer: its file, the version of its line, the version of its code.
Part = tuple[str, int, int]
#: What an answer holds of one directory.
Shown = tuple[Part, ...]

_TRIGGER = re.compile(r"(\w+)-work-self-\* \|\| v(\d{8})-work-self-(\d)")
_CODE = re.compile(r"# (\w+) (\S+) v(\d{8})\n")


class NoVersion(Exception):
    """A callback that stood on disk in no version. The text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Versions:
    """All versions of one directory: which of its parts change from one to the next.

    `event` fires all of its callbacks, and no other directory's. `stems` are the implementations;
    with `renamed` each version has files of its own names.
    """

    event_name: str
    path: str
    conf: bool = True
    code: bool = False
    renamed: bool = False
    stems: tuple[str, ...] = ("a", "b", "c")
    extension: str = ".pl"

    @property
    def event(self) -> str:
        return f"{self.event_name}-work-self-1"

    def names(self, version: int) -> list[str]:
        """The implementation files."""
        tail = f"_{version:08d}" if self.renamed else ""
        return [f"{stem}{tail}{self.extension}" for stem in self.stems]

    def conf_text(self, version: int) -> str:
        """callbacks.conf."""
        names = self.names(version)
        return "".join(
            f"{names[i % len(names)]} = {self._trigger(version, i)}\n" for i in range(LINES)
        )

    def _trigger(self, version: int, line: int) -> str:
        version = version if self.conf else 0
        return f"{self.event_name}-work-self-* || v{version:08d}-work-self-{line}"

    def code_text(self, name: str, version: int) -> str:
        """The code of one implementation file."""
        version = version if self.code else 0
        return f"# {self.event_name} {name.partition('_')[0]} v{version:08d}\n"

    def files(self, version: int) -> dict[str, str]:
        """All files, by name; callbacks.conf is the last."""
        files = {name: self.code_text(name, version) for name in self.names(version)}
        return files | {"callbacks.conf": self.conf_text(version)}

    def shown(self, version: int) -> Shown:
        """What an answer holds of a whole version."""
        return self.mixture(version, dict.fromkeys(self.names(version), version))

    def mixture(self, conf: int, code: Mapping[str, int]) -> Shown:
        """What an answer would hold of one version's callbacks.conf and other versions' code."""
        names = self.names(conf)
        line = conf if self.conf else 0
        return tuple(
            (name, line, code[name] if self.code else 0)
            for name in (names[i % len(names)] for i in range(LINES))
        )

    def read(self, callbacks: Iterable[Mapping[str, Any]]) -> Shown:
        """What these callbacks of an answer show, each checked against all that is known of it.

        Raises NoVersion.
        """
        shown = []
        last = 0
        for found in callbacks:
            trigger = _TRIGGER.fullmatch(found["trigger"])
            code = _CODE.fullmatch(found["code"])
            if not trigger or not code:
                raise NoVersion(f"no version has this trigger or code: {found}")
            digest = "sha256:" + hashlib.sha256(found["code"].encode()).hexdigest()
            right = (
                trigger[1] == code[1] == self.event_name
                and found["line"] == int(trigger[3]) + 1 > last
                and found["file"].partition("_")[0] == code[2]
                and found["path"] == f"{self.path}/{found['file']}"
                and found["directory"] == self.path
                and found["digest"] == digest
                and found["enabled"] is True
            )
            if not right:
                raise NoVersion(f"no version has this callback: {found}")
            last = found["line"]
            shown.append((found["file"], int(trigger[2]), int(code[3])))
        return tuple(shown)

    def version(self, shown: Shown) -> int | None:
        """The version that this is the whole of, None if it is of none."""
        if not shown:
            return None
        version = max(shown[0][1:])
        return version if shown == self.shown(version) else None
