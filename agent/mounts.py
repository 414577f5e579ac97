"""Which file systems are mounted, and of what type."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from agent.directory import LOCAL

_MOUNTS = "/proc/self/mountinfo"


@dataclass(frozen=True, slots=True)
class Mounts:
    """The mounted file systems at one moment; two that are equal say that nothing was mounted or
    unmounted in between. Where the system does not tell (not Linux), there are none."""

    text: bytes = b""
    _types: dict[tuple[int, int], str] = field(default_factory=dict, compare=False)

    @classmethod
    def read(cls) -> Mounts:
        """The mounts of now. Source: proc(5), /proc/pid/mountinfo."""
        try:
            with open(_MOUNTS, "rb") as file:
                text = file.read()
        except OSError:
            return cls()
        types: dict[tuple[int, int], str] = {}
        for line in text.decode("utf-8", "surrogateescape").splitlines():
            before, _, after = line.partition(" - ")
            fields = before.split(" ")
            if len(fields) > 2 and after:
                major, _, minor = fields[2].partition(":")
                types[int(major), int(minor)] = after.split(" ")[0]
        return cls(text, types)

    def local(self, path: str) -> bool:
        """Whether the kernel tells of every change below the path, the nearest that exists.

        An unknown file system is not taken for a local one. Blocks.
        """
        while True:
            try:
                device = os.stat(path).st_dev
                break
            except OSError:
                if path == "/":
                    return False
                path = os.path.dirname(path)
        return self._types.get((os.major(device), os.minor(device))) in LOCAL
