"""Reads slurm.conf, as far as the adapter has to know it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

#: How deep files may include one another.
_MAX_DEPTH = 10

#: `Name=value` at the start of a line, or after white space: a value may be quoted.
_PAIR = re.compile(r"(?:^|(?<=\s))([A-Za-z]\w*)\s*\+?=\s*(\"[^\"]*\"|[^\s\"]*)")
#: From a `#` on that is not escaped, the rest of a line is a comment.
_COMMENT = re.compile(r"(?<!\\)#.*")
_INCLUDE = re.compile(r"include\s+(\S.*)", re.IGNORECASE)
#: Lines that begin so describe something, and have no settings.
_ENTITY = re.compile(r"(NodeName|NodeSet|PartitionName|DownNodes|FrontendName)\s*=", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, and where it is."""

    value: str
    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def read(path: Path, _depth: int = 0) -> dict[str, Setting]:
    """The settings of a slurm.conf and of what it includes, by their names in lower case.

    Of a setting that is there twice, the last one counts. Raises OSError.
    """
    found: dict[str, Setting] = {}
    text = path.read_text(encoding="utf-8", errors="replace")
    begun, before = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        begun, before = begun or number, before + line
        # A backslash at the end of a line continues it.
        if before.endswith("\\"):
            before = before[:-1]
            continue
        bare = _COMMENT.sub("", before).strip()
        if include := _INCLUDE.fullmatch(bare):
            if _depth < _MAX_DEPTH:
                found |= read(path.parent / include[1].strip(), _depth + 1)
        elif not _ENTITY.match(bare):
            for name, value in _PAIR.findall(bare):
                found[name.lower()] = Setting(value.strip('"'), path, begun)
        begun, before = 0, ""
    return found
