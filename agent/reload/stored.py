"""The format of the files in the state directory: units and settings as bytes.

A file begins with the digest of the rest, which is JSON. A unit's file names its implementations by
digest; their code is in files of its own (`state_files.CodeFiles`).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from agent.core import planning, trigger
from agent.core.diagnostic import Problem
from agent.core.languages import Verdict
from agent.core.quoting import printable
from agent.core.trigger import Trigger
from agent.core.unit import CONF, Implementation, Plan, Registration, Unit
from agent.reload.state_files import Damaged

#: Raised when the format of the files changes. Version 1, which had the code in the unit's file, is
#: still read; files of other versions are discarded.
FORMAT_VERSION = 2
#: Items that are encoded at once. Encoding holds the GIL, so lookups wait.
_CHUNK = 500

#: What decoding a damaged file may raise.
DAMAGE = (ValueError, RecursionError, MemoryError, msgspec.MsgspecError)

_encode = msgspec.json.Encoder().encode


class _Version(msgspec.Struct):
    form: int


class _Code(msgspec.Struct):
    digest: str
    compiles: bool | None


class _UnitFile(msgspec.Struct, kw_only=True):
    form: int
    directory: str
    device: int | None
    emptied: bool
    #: The digest of the callbacks.conf; None if its bytes are not stored.
    conf: str | None = None
    #: file, trigger, line, column
    registrations: list[tuple[str, str, int, int]]
    implementations: dict[str, _Code]

    def encode(self) -> bytes:
        """As JSON, encoded in pieces: a unit may have a hundred thousand lines."""
        lines, codes = self.registrations, [*self.implementations.items()]
        registrations = _joined(lines[at : at + _CHUNK] for at in range(0, len(lines), _CHUNK))
        implementations = _joined(
            dict(codes[at : at + _CHUNK]) for at in range(0, len(codes), _CHUNK)
        )
        rest = msgspec.structs.replace(self, registrations=[], implementations={})
        return _encode(rest).removesuffix(
            b'[],"implementations":{}}'
        ) + b'[%b],"implementations":{%b}}' % (registrations, implementations)


class _Code1(msgspec.Struct):
    digest: str
    base64: bytes
    compiles: bool | None


class _UnitFile1(msgspec.Struct):
    """A unit in version 1 of the format."""

    form: int
    directory: str
    device: int | None
    registrations: list[tuple[str, str, int]]
    implementations: dict[str, _Code1]


class StoredSettings(msgspec.Struct, frozen=True):
    """The last valid settings, and whether a qb.conf existed then."""

    qb_conf: str
    qb_conf_exists: bool = msgspec.field(name="found")
    directories: list[str]
    languages: list[str]
    form: int = FORMAT_VERSION


@dataclass(frozen=True, slots=True)
class StoredUnit:
    """The last accepted unit of a directory, and the device that it was read from."""

    unit: Unit
    device: int | None
    #: The plan of the unit's callbacks.conf; None if its bytes are not known.
    plan: Plan | None = None


def encode_unit(directory: str, unit: Unit, device: int | None, conf: str | None = None) -> bytes:
    """A unit's file. It names the code and, by the digest `conf`, the text of callbacks.conf. It
    holds neither."""
    file = _UnitFile(
        form=FORMAT_VERSION,
        directory=directory,
        device=device,
        emptied=unit.emptied,
        conf=conf,
        registrations=[(r.file, r.text, r.line, r.column) for r in unit.registrations],
        implementations={
            file: _Code(i.digest, None if i.verdict is None else i.verdict.error is None)
            for file, i in unit.implementations.items()
        },
    )
    return _with_digest(file.encode())


def decode_unit(data: bytes, directory: str, load_code: Callable[[str], bytes]) -> StoredUnit:
    """The unit of a directory from its file. `load_code` returns the code of a digest.

    Raises one of DAMAGE if the file is damaged or belongs to another directory, and what
    `load_code` raises.
    """
    body = _checked(data)
    version = msgspec.json.decode(body, type=_Version).form
    if version == 1:
        old = msgspec.json.decode(body, type=_UnitFile1)
        code = {
            file: (c.digest, c.compiles, base64.b64decode(c.base64, validate=True))
            for file, c in old.implementations.items()
        }
        lines = [(*line, 1) for line in old.registrations]
        return _unit(old.directory, directory, old.device, False, lines, code)
    if version != FORMAT_VERSION:
        raise Damaged(f"its format is {version}, and {FORMAT_VERSION} is expected")
    file = msgspec.json.decode(body, type=_UnitFile)
    code = {
        name: (c.digest, c.compiles, load_code(c.digest))
        for name, c in file.implementations.items()
    }
    conf = None
    # What is served does not depend on it.
    with contextlib.suppress(Damaged, OSError):
        conf = load_code(file.conf) if file.conf is not None else None
    lines = file.registrations
    return _unit(file.directory, directory, file.device, file.emptied, lines, code, conf)


def encode_settings(settings: StoredSettings) -> bytes:
    """The file of the settings."""
    return _with_digest(msgspec.json.encode(settings))


def decode_settings(data: bytes) -> StoredSettings:
    """The settings from their file. Raises one of DAMAGE if it is damaged."""
    settings = msgspec.json.decode(_checked(data), type=StoredSettings)
    if settings.form not in (1, FORMAT_VERSION):
        raise Damaged(f"its format is {settings.form}, and {FORMAT_VERSION} is expected")
    return settings


def _with_digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _checked(data: bytes) -> bytes:
    """The body of a file. Raises Damaged if the digest in its first line does not match."""
    digest, _, body = data.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise Damaged("its digest is wrong")
    return body


def _joined(pieces: Iterable[Any]) -> bytes:
    """The content of one array or object, from pieces that are encoded one by one."""
    return b",".join(_encode(piece)[1:-1] for piece in pieces)


def _unit(
    directory: str,
    expected: str,
    device: int | None,
    emptied: bool,
    lines: Sequence[tuple[str, str, int, int]],
    code: dict[str, tuple[str, bool | None, bytes]],
    conf: bytes | None = None,
) -> StoredUnit:
    """A unit from the parts of its file. `code` has by file the digest, whether it compiles, and
    the bytes. Raises Damaged."""
    if directory != expected:
        raise Damaged(f"it belongs to the directory {printable(directory)}")
    # Triggers are parsed once, for the unit and for the reading of an unchanged callbacks.conf.
    plan = None if conf is None else planning.plan(conf, f"{directory}/{CONF}")
    registrations = plan.registrations if plan else ()
    if [(r.file, r.text, r.line, r.column) for r in registrations] != lines:
        trees = {r.text: r.trigger for r in registrations}
        registrations = tuple(_registration(*line, trees) for line in lines)
    implementations = {}
    for file, (digest, compiles, content) in code.items():
        found = Implementation.of(content)
        if found.digest != digest:
            raise Damaged(f"the digest of {file} is wrong")
        verdict = None if compiles is None else Verdict(None if compiles else _OLD)
        implementations[file] = Implementation(found.code, found.digest, verdict)
    return StoredUnit(Unit(registrations, implementations, emptied, conf), device, plan)


def _registration(
    file: str, text: str, line: int, column: int, trees: Mapping[str, Trigger]
) -> Registration:
    """A line of a unit. `trees` has triggers that are parsed already. Raises Damaged."""
    tree = trees.get(text) or trigger.parse(text)[0]
    if tree is None:
        raise Damaged(f"{text} is not a trigger")
    return Registration(file, tree, text, line, column)


_OLD = Problem("does-not-compile", "it did not compile before")
