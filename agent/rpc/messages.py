"""The types of everything that passes through the pipe, and the table of methods.

This is the only definition of requests, results and records. msgspec decodes requests with these
types; `agent.rpc.openrpc` derives the JSON Schemas and the OpenRPC document from them.

Two rules are stated beside a type because msgspec cannot express them in an annotation:

- `__post_init__` checks rules between members. `SCHEMA_RULE` beside it is the same rule as a JSON
  Schema. A property test holds that the two agree.
- The syntax of an event given as text is checked by `agent.core.trigger`, which names the column.
  `EVENT_TEXT_PATTERN` is the same rule as a regular expression; the decoder does not apply it.

A `description` says what a value should be, in words that can follow "expected": a client reads it
when the value is refused. `EXPECTED` is the description of a whole type.

This file is long because it is the whole protocol: a reader finds everything in one place.

To add a method, add a row to `METHODS` and a function to `agent.server.handlers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, NamedTuple

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, defstruct
from msgspec.structs import fields, force_setattr

from agent.core.event import TYPES

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
#: JSON-RPC 2.0 leaves -32000 to -32099 to the server.
REFUSED: Final = -32000
TOO_LARGE: Final = -32001

#: The errors of JSON-RPC 2.0, with the specification's words, and the agent's own.
ERRORS: Final[Mapping[int, str]] = {
    PARSE_ERROR: "Parse error",
    INVALID_REQUEST: "Invalid Request",
    METHOD_NOT_FOUND: "Method not found",
    INVALID_PARAMS: "Invalid params",
    INTERNAL_ERROR: "Internal error",
    REFUSED: "Refused",
    TOO_LARGE: "Responses too large",
}

#: The largest integer that msgspec, C and SQL can hold: 64 bits with sign.
MAX_INTEGER: Final = 2**63 - 1

#: The most owners of one lookup.
MAX_OWNERS: Final = 10_000

#: The fewest seconds between two heartbeats. So a thousand subscribers cost a tenth of a processor.
MIN_HEARTBEAT: Final = 0.1
#: The most seconds between two heartbeats.
MAX_HEARTBEAT: Final = 3600.0

#: The types of event that need an extra.
NEEDS_EXTRA: Final = frozenset(name for name, row in TYPES.items() if row.extra is not None)
_WITH_EXTRA = [name for name in TYPES if name in NEEDS_EXTRA]
_WITHOUT_EXTRA = [name for name in TYPES if name not in NEEDS_EXTRA]

#: An event given as text: no empty name, no empty extra after a context, and an extra where the
#: type needs one.
EVENT_TEXT_PATTERN: Final = (
    r"^[^-]+-(?![a-z]+-(?:self|parent|[0-9]+)-(?![\s\S]))"
    rf"(?:(?:{'|'.join(_WITHOUT_EXTRA)})-[\s\S]|(?:{'|'.join(_WITH_EXTRA)})-[^-]*-)"
)

# Pieces that several types share ----------------------------------------------------------------

_Natural = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
_Positive = Annotated[int, Meta(ge=1)]
_Count = Annotated[int, Meta(ge=0)]
_Generation = Annotated[
    int, Meta(description="counts accepted indexes since the agent started, from 1", ge=1)
]
_IndexDigest = Annotated[str, Meta(description="names the whole index by content", min_length=1)]
_FileDigest = Annotated[
    str,
    Meta(
        description="sha256: and the hex digest of the implementation's bytes",
        pattern=r"^sha256:[0-9a-f]{64}(?![\s\S])",
    ),
]
_LineNumber = Annotated[int, Meta(description="a line number, from 1", ge=1)]
_Instance = Annotated[str, Meta(description="a random name of this run of the agent", min_length=1)]
_Time = Annotated[
    str,
    Meta(
        description="RFC 3339, UTC, milliseconds",
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z(?![\s\S])",
        extra_json_schema={"format": "date-time"},
    ),
]

# mypy cannot read a Literal that is built at run time.
if TYPE_CHECKING:
    EventType = str
else:
    EventType = Literal[tuple(TYPES)]

EventText = Annotated[str, Meta(extra_json_schema={"pattern": EVENT_TEXT_PATTERN})]


def _described(text: str) -> Meta:
    return Meta(description=text)


def _job_number(what: str) -> Meta:
    return Meta(description=f"{what}, an integer from 0 to {MAX_INTEGER}, or null")


# Parameters -------------------------------------------------------------------------------------


class _Params(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Parameters and their parts. They hold no reference cycles, so the garbage collector does not
    track them."""


class JobFields(_Params, frozen=True):
    """The fields of a job, as they were given."""

    id: Annotated[_Natural | None, _job_number("the job's id")] = None
    label: Annotated[
        str | None, _described("the job's label, text or null; empty counts as not given")
    ] = None
    pid: Annotated[
        _Natural | None, _job_number("the id of the job's parent (1 or lower: not given)")
    ] = None
    pgrp: Annotated[_Natural | None, _job_number("the job's process group (0: not given)")] = None


class Job(JobFields, frozen=True):
    """A job, as far as the client gave it. None is not given and equals nothing; a pid of 1 or
    lower and a pgrp of 0 count as not given."""

    EXPECTED: ClassVar = "a job, as an object with any of id, label, pid and pgrp"

    def __post_init__(self) -> None:
        if self.label == "":
            force_setattr(self, "label", None)


class Pending(_Params, frozen=True):
    """What one callback still waits for, as an earlier result said it."""

    EXPECTED: ClassVar = "a pending callback, as an object with path, trigger and missing"

    path: Annotated[str, _described("the callback's path, as text")]
    trigger: Annotated[str, _described("the callback's trigger, as text")]
    missing: Annotated[str, _described("what the callback still waits for, as trigger text")]


# These may be left out, but not given as null: msgspec decodes by the annotation and does not
# compare defaults with it.
if TYPE_CHECKING:
    JobIfGiven = Job | None
    NaturalIfGiven = int | None
    PendingIfGiven = tuple[Pending, ...] | None
else:
    JobIfGiven = Job
    NaturalIfGiven = _Natural
    PendingIfGiven = tuple[Pending, ...]

_PENDING = _described("the pending callbacks of an owner, as an array")


class Owner(Job, frozen=True):
    """A job that has the callbacks, one of many, and its pending callbacks."""

    EXPECTED: ClassVar = "a job, as an object with any of id, label, pid, pgrp and pending"

    pending: Annotated[PendingIfGiven, _PENDING] = None


class EventObject(_Params, frozen=True):
    """An event given as an object. Its contexts are derived from the job's ids."""

    EXPECTED: ClassVar = (
        "an event, as an object with name, type, job and, where the type needs it, extra"
    )
    SCHEMA_RULE: ClassVar[dict[str, Any]] = {
        "anyOf": [
            {"properties": {"type": {"type": "string", "enum": _WITHOUT_EXTRA}}},
            {
                "required": ["extra"],
                "properties": {
                    "extra": {
                        "description": "an extra that is not empty, because this type needs one",
                        "type": "string",
                        "minLength": 1,
                    }
                },
            },
        ],
    }

    name: Annotated[
        str,
        Meta(
            description="the event's name, text that is not empty and has no hyphen",
            pattern=r"^[^-]+(?![\s\S])",
        ),
    ]
    type: Annotated[EventType, _described(f"the event's type, one of {' '.join(TYPES)}")]
    job: Annotated[Job, _described("the job that the event is of, an object which may be empty")]
    extra: Annotated[
        str | None, _described("the event's extra, text or null; empty counts as not given")
    ] = None

    def __post_init__(self) -> None:
        if self.extra == "":
            force_setattr(self, "extra", None)
        if self.extra is None and self.type in NEEDS_EXTRA:
            raise ValueError("this type needs an extra")


Event = Annotated[
    EventText | EventObject,
    _described(
        "an event, as text (name-type-context or name-type-context-extra) or as an object with"
        " name, type, job and extra"
    ),
]

if TYPE_CHECKING:
    EventsIfGiven = tuple[Event, ...] | None
    OwnersIfGiven = tuple[Owner, ...] | None
else:
    EventsIfGiven = tuple[Event, ...]
    OwnersIfGiven = Annotated[tuple[Owner, ...], Meta(max_length=MAX_OWNERS)]

_CODE = _described("true or false: whether the files' text is wanted too")


def _not_both(one: str, other: str) -> dict[str, Any]:
    """The rule that at most one of two members is given."""
    return {"description": f"{one} or {other}, not both", "not": {"required": [one, other]}}


def _objects_need(*owner: str) -> dict[str, Any]:
    """The rule that `occurred` holds objects only where it is known from which job they are seen:
    where the event is an object, or one of these members is given. A refusal names the last."""
    description = "the job from which the objects in occurred are seen"
    return {
        "anyOf": [
            {"required": ["event"], "properties": {"event": {"type": "object"}}},
            {"properties": {"occurred": {"type": "array", "items": {"type": "string"}}}},
            *({"description": description, "required": [name]} for name in owner),
        ]
    }


class ExplainParams(_Params, frozen=True):
    """Parameters of `explain`, and of `lookup` for one owner.

    event: text in the trigger's own syntax, whose syntax is not checked yet, or an object.
    owner: the job that has the callbacks; None is the event's own job. `{}` is an owner
        without fields, and nothing matches it.
    occurred: events that happened before. It holds no objects if there is no owner and the event
        is text: their contexts could not be derived.
    code: whether the files' text is wanted too.
    pending: in place of `occurred`, what earlier results said is missing.
    """

    EXPECTED: ClassVar = (
        "parameters by name: event, and where wanted owner, code, and occurred or pending"
    )
    SCHEMA_RULE: ClassVar[dict[str, Any]] = {
        "allOf": [_objects_need("owner"), _not_both("occurred", "pending")]
    }

    event: Event
    owner: Annotated[
        JobIfGiven,
        _described("the job that has the callbacks; without it, the event's own job"),
    ] = None
    occurred: Annotated[
        EventsIfGiven, _described("the events that occurred before, as an array")
    ] = None
    code: Annotated[bool, _CODE] = False
    pending: Annotated[PendingIfGiven, _PENDING] = None

    def __post_init__(self) -> None:
        self._check(self.owner is not None)

    def _check(self, owned: bool) -> None:
        """Check the rules between members. `owned`: an owner is given. Raises ValueError."""
        if self.occurred is None:
            return
        if self.pending is not None:
            raise ValueError("occurred and pending exclude each other")
        if not owned and type(self.event) is str and EventObject in map(type, self.occurred):
            raise ValueError("an object in occurred needs an owner")


class LookupParams(ExplainParams, frozen=True):
    """Parameters of `lookup`: those of `explain`, or for many owners at once.

    owners: in place of `owner`, the jobs that have the callbacks. Each may have its own `pending`;
        those that have none use that of the request.
    """

    EXPECTED: ClassVar = (
        "parameters by name: event, and where wanted owner or owners, code, and occurred or pending"
    )
    SCHEMA_RULE: ClassVar[dict[str, Any]] = {
        "allOf": [
            _objects_need("owners", "owner"),
            _not_both("occurred", "pending"),
            _not_both("owner", "owners"),
            {
                "description": "occurred, or owners with pending, not both",
                "anyOf": [
                    {"not": {"required": ["occurred"]}},
                    {
                        "properties": {
                            "owners": {"type": "array", "items": {"not": {"required": ["pending"]}}}
                        }
                    },
                ],
            },
        ]
    }

    owners: Annotated[
        OwnersIfGiven,
        _described(f"the jobs that have the callbacks, an array of at most {MAX_OWNERS}"),
    ] = None

    def __post_init__(self) -> None:
        if self.owners is None:
            if self.occurred is not None:  # asked here, as the call would cost every lookup
                self._check(self.owner is not None)
            return
        if self.owner is not None:
            raise ValueError("owner and owners exclude each other")
        self._check(True)
        if self.occurred is not None and any(o.pending is not None for o in self.owners):
            raise ValueError("occurred and the pending of an owner exclude each other")


class ListParams(_Params, frozen=True):
    """Parameters of `list`. code: whether the files' text is wanted too."""

    EXPECTED: ClassVar = "parameters by name: code, where wanted"

    code: Annotated[bool, _CODE] = False


class CodeParams(_Params, frozen=True):
    """Parameters of `code`. digests: names of files' contents, as callbacks have them."""

    EXPECTED: ClassVar = "parameters by name: digests"

    digests: Annotated[tuple[str, ...], _described("the digests of callbacks, as an array")]


class HistoryParams(_Params, frozen=True):
    """Parameters of `history`. limit: how many records at most; None is all that are kept."""

    EXPECTED: ClassVar = "parameters by name: limit, where wanted"

    limit: Annotated[
        NaturalIfGiven,
        _described(
            f"an integer from 0 to {MAX_INTEGER}: how many of the newest records are wanted at most"
        ),
    ] = None


class Since(_Params, frozen=True):
    """The newest record that a subscriber has: the run of the agent that made it, and its number
    there, or 0 for none."""

    EXPECTED: ClassVar = "a record, as an object with instance and sequence"

    instance: Annotated[str, _described("the instance of a record, as text")]
    sequence: Annotated[
        _Natural, _described(f"the sequence of a record, an integer from 0 to {MAX_INTEGER}")
    ]


if TYPE_CHECKING:
    SinceIfGiven = Since | None
    HeartbeatIfGiven = float | None
else:
    SinceIfGiven = Since
    HeartbeatIfGiven = Annotated[float, Meta(ge=MIN_HEARTBEAT, le=MAX_HEARTBEAT)]


class SubscribeParams(_Params, frozen=True):
    """Parameters of `subscribe`.

    since: the newest record that the subscriber has; the result then has those after it.
    heartbeat: seconds between two heartbeats; None is no heartbeats.
    """

    EXPECTED: ClassVar = "parameters by name: since and heartbeat, where wanted"

    since: Annotated[
        SinceIfGiven, _described("the newest record that the subscriber has, as an object")
    ] = None
    heartbeat: Annotated[
        HeartbeatIfGiven,
        _described(
            f"a number from {MIN_HEARTBEAT:g} to {MAX_HEARTBEAT:g}: seconds between two heartbeats"
        ),
    ] = None


class NoParams(_Params, frozen=True):
    """Parameters of a method that has none."""

    EXPECTED: ClassVar = "no parameters: nothing, {} or []"


# Results and records ----------------------------------------------------------------------------


class _Result(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Results and their parts. A member that is UNSET is left out."""


class Callback(_Result, frozen=True, kw_only=True):
    """One registration of callbacks.conf with its implementation."""

    SCHEMA_RULE: ClassVar[dict[str, Any]] = {"not": {"required": ["code", "code_base64"]}}

    file: Annotated[str, _described("the implementation's file name")]
    path: Annotated[str, _described("the directory as listed, and the file")]
    directory: Annotated[str, _described("the directory as listed")]
    language: Literal["python", "perl", "qube"]
    trigger: Annotated[str, _described("the trigger in canonical text")]
    line: Annotated[int, Meta(description="its line in callbacks.conf, from 1", ge=1)]
    digest: _FileDigest
    enabled: Annotated[bool, _described("false where supervisor_language_flags forbids it")]
    code: Annotated[str, _described("the file's text, when asked for")] | UnsetType = UNSET
    code_base64: (
        Annotated[
            str,
            Meta(
                description="the file's bytes in base64, where they are not UTF-8",
                extra_json_schema={"contentEncoding": "base64"},
            ),
        ]
        | UnsetType
    ) = UNSET


class PartialCallback(Callback, frozen=True, kw_only=True):
    """A callback that the event brings closer, and what it still waits for."""

    missing: Annotated[str, _described("what has not happened yet, as trigger text")]


class ExplainedCallback(Callback, frozen=True, kw_only=True):
    """A callback, and why it fires or not."""

    verdict: Literal["fires", "partial", "no"]
    reason: str


class OwnerPartial(_Result, frozen=True, kw_only=True):
    """A callback that the event brings closer for one owner."""

    callback: Annotated[int, Meta(description="its place in `callbacks`, from 0", ge=0)]
    missing: Annotated[str, _described("what has not happened yet, as trigger text")]


class OwnerResult(_Result, frozen=True, kw_only=True):
    """Which callbacks fire for one owner, and which are partial."""

    fires: list[Annotated[int, Meta(description="a place in `callbacks`, from 0", ge=0)]]
    partial: list[OwnerPartial]


# A caller that reads it knows that the result may be older than the files.
_Held = (
    Annotated[
        list[str],
        Meta(
            description="the directories that are held; left out where none is",
            min_length=1,
        ),
    ]
    | UnsetType
)


class LookupResult(_Result, frozen=True, kw_only=True):
    """Which callbacks fire, and which are partial: for one owner, or for each of `owners`."""

    SCHEMA_RULE: ClassVar[dict[str, Any]] = {
        "oneOf": [{"required": ["partial"]}, {"required": ["owners"]}]
    }

    generation: _Generation
    digest: _IndexDigest
    callbacks: Annotated[
        list[Callback],
        _described("those that fire; for `owners`, those that fire or are partial for any of them"),
    ]
    partial: (
        Annotated[
            list[PartialCallback],
            _described("those of which the event satisfies a term, but not the whole trigger"),
        ]
        | UnsetType
    ) = UNSET
    owners: Annotated[list[OwnerResult], _described("parallel to the request's")] | UnsetType = (
        UNSET
    )
    held: _Held = UNSET

    def __post_init__(self) -> None:
        if (self.partial is UNSET) is (self.owners is UNSET):
            raise ValueError("either partial or owners")


class ExplainResult(_Result, frozen=True, kw_only=True):
    """Every callback of the event's name and type, with a verdict."""

    generation: _Generation
    digest: _IndexDigest
    callbacks: list[ExplainedCallback]
    held: _Held = UNSET


class ListResult(_Result, frozen=True, kw_only=True):
    """Every callback that is served."""

    generation: _Generation
    digest: _IndexDigest
    callbacks: list[Callback]
    held: _Held = UNSET


class Content(_Result, frozen=True, kw_only=True):
    """A file's content: its text, or its bytes in base64 where they are not UTF-8."""

    SCHEMA_RULE: ClassVar[dict[str, Any]] = {
        "oneOf": [{"required": ["text"]}, {"required": ["base64"]}]
    }

    text: str | UnsetType = UNSET
    base64: Annotated[str, Meta(extra_json_schema={"contentEncoding": "base64"})] | UnsetType = (
        UNSET
    )

    def __post_init__(self) -> None:
        if (self.text is UNSET) is (self.base64 is UNSET):
            raise ValueError("either text or base64")


class CodeResult(_Result, frozen=True, kw_only=True):
    """The contents that were asked for and are served."""

    code: Annotated[dict[str, Content], _described("contents by digest; others are left out")]


class Diagnostic(_Result, frozen=True, kw_only=True):
    """One problem, with its place."""

    severity: Literal["error", "warning", "note"]
    code: Annotated[str, Meta(description="a short name for the kind of problem", min_length=1)]
    path: str
    line: Annotated[_Positive | None, _described("from 1; null for a whole file")]
    column: Annotated[_Positive | None, _described("from 1, in code points; null: a whole file")]
    length: (
        Annotated[_Positive, _described("how many code points are wrong; absent: 1")] | UnsetType
    ) = UNSET
    message: str
    hint: Annotated[str, _described("what to do about it")] | UnsetType = UNSET
    new: (
        Annotated[bool, _described("true if the record before does not have it, else absent")]
        | UnsetType
    ) = UNSET


class Cause(_Result, frozen=True, kw_only=True):
    """A file or directory that changed. What is not known, as of one that is gone, is absent."""

    path: str
    change: Literal["added", "removed", "modified"]
    owner: (
        Annotated[str, _described("the name of the user who owns it, or the user id")] | UnsetType
    ) = UNSET
    mtime: _Time | UnsetType = UNSET
    size: Annotated[int, Meta(description="bytes of the file as it was read", ge=0)] | UnsetType = (
        UNSET
    )


class Change(_Result, frozen=True, kw_only=True):
    """A callback that is served, or not, since this record."""

    change: Literal["added", "removed", "modified"]
    path: str
    trigger: str
    line: _LineNumber
    digest: _FileDigest
    what: (
        Annotated[
            list[Literal["digest", "line", "enabled"]],
            _described("which of these changed; for `modified` only"),
        ]
        | UnsetType
    ) = UNSET


class HeldDirectory(_Result, frozen=True, kw_only=True):
    """A directory that is held, and why."""

    directory: str
    reason: str


class ConfDiff(_Result, frozen=True, kw_only=True):
    """How a callbacks.conf differs from the one that was served before."""

    path: str
    diff: Annotated[
        str,
        _described(
            "a unified diff; bytes that are not UTF-8 are written as \\xNN, and where it is cut its"
            " last line begins with `\\ cut here`"
        ),
    ]


class _RecordHead(_Result, frozen=True, kw_only=True):
    """What a record and its summary share."""

    time: _Time
    instance: _Instance
    sequence: Annotated[
        int,
        _described(
            "numbers the records of this run from 1; one that is not logged has that of the newest"
        ),
    ]
    event: Literal["started", "reloaded", "held", "restored", "stopped"]
    generation: _Generation
    digest: _IndexDigest
    callbacks: Annotated[int, Meta(description="how many are served", ge=0)]
    duration_ms: Annotated[float, Meta(ge=0)]
    causes: list[Cause]


class Record(_RecordHead, frozen=True, kw_only=True):
    """One change, or refused change, of what is served."""

    changes: list[Change]
    held: Annotated[list[HeldDirectory], _described("what is held after it")]
    newly_held: Annotated[
        list[str], _described("the directories in `held` that the record before does not have")
    ]
    restored: Annotated[
        list[str], _described("the listed directories that the record before has as held")
    ]
    diagnostics: list[Diagnostic]
    conf_diff: Annotated[list[ConfDiff], _described("the edits of callbacks.conf files")]


class Omitted(_Result, frozen=True, kw_only=True):
    """How many of each the record has that its summary leaves out."""

    changes: _Count
    held: _Count
    diagnostics: _Count
    causes: _Count


class RecordSummary(_RecordHead, frozen=True, kw_only=True):
    """A record without its changes, with the first of its causes, held directories, diagnostics."""

    held: Annotated[list[HeldDirectory], _described("what is held after it")]
    diagnostics: list[Diagnostic]
    omitted: Omitted


class DirectoryStatus(_Result, frozen=True, kw_only=True):
    """One listed directory."""

    path: str
    callbacks: Annotated[int, Meta(description="how many of them are served", ge=0)]
    held: Annotated[str | None, _described("why it is held; null where it is not")]
    watch: Literal["events", "scan"]
    digest: Annotated[str, _described("names what is served of it")]


class LookupCounts(_Result, frozen=True, kw_only=True):
    """How many lookups were answered."""

    total: Annotated[int, Meta(description="since the start", ge=0)]
    per_second: Annotated[float, Meta(description="on average over the last 5 s", ge=0)]


class SettingStatus(_Result, frozen=True, kw_only=True):
    """The value of one setting, and its source."""

    value: str | list[str]
    source: Annotated[str, _described("the flag, variable or line of qb.conf that set it")]


class StatusResult(_Result, frozen=True, kw_only=True):
    """Health, directories, settings, and the last reload."""

    version: str
    pid: _Positive
    uptime: Annotated[float, Meta(description="seconds", ge=0)]
    instance: _Instance
    sequence: Annotated[int, Meta(description="the number of the newest record", ge=0)]
    state: Literal["ok", "degraded"]
    generation: _Generation
    digest: _IndexDigest
    callbacks: Annotated[int, Meta(description="how many are served", ge=0)]
    disabled: Annotated[int, Meta(description="how many of them are not enabled", ge=0)]
    warnings: Annotated[int, Meta(description="how many current findings are warnings", ge=0)]
    last_change: Annotated[
        float, Meta(description="seconds since the index of this generation is served", ge=0)
    ]
    directories: list[DirectoryStatus]
    settings: dict[str, SettingStatus]
    last_reload: Annotated[RecordSummary, _described("the newest record, shortened")]
    clients: Annotated[
        int, Meta(description="how many are connected besides the one that asks", ge=0)
    ]
    lookups: Annotated[LookupCounts, _described("those that were refused do not count")]
    notes: Annotated[
        list[str],
        _described(
            "what is not in records: refused clients, a watch that fell back to polling; and a"
            " qb.conf that is named and does not exist"
        ),
    ]


class HistoryResult(_Result, frozen=True, kw_only=True):
    """The newest records, newest last."""

    records: list[Record]


class SubscribeResult(_Result, frozen=True, kw_only=True):
    """What is served, and the record after which the notifications go on."""

    generation: _Generation
    digest: _IndexDigest
    instance: _Instance
    sequence: Annotated[
        int, Meta(description="the number of the newest record, 0 before the first", ge=0)
    ]
    missed: (
        Annotated[
            list[Record] | None,
            _described(
                "the records after `since`, oldest first; null where they are no longer known:"
                " read everything again. Left out without `since`"
            ),
        ]
        | UnsetType
    ) = UNSET
    held: _Held = UNSET


class Heartbeat(_Result, frozen=True, kw_only=True):
    """The index that is served now."""

    generation: _Generation
    digest: _IndexDigest


class MetricsResult(_Result, frozen=True, kw_only=True):
    """What is measured."""

    text: Annotated[str, _described("in the OpenMetrics format, version 1.0.0")]


class EmptyResult(_Result, frozen=True, kw_only=True):
    """An empty object."""


class OpenRpcDocument(Struct, frozen=True):
    """An OpenRPC 1.x document."""

    openrpc: Annotated[str, Meta(pattern=r"^1\.")]
    info: dict[str, Any]
    methods: list[dict[str, Any]]


# Methods ----------------------------------------------------------------------------------------


class Method(NamedTuple):
    """One method of the pipe.

    summary: what it is for, in one sentence.
    params, result: the types of its parameters and result.
    example: parameters and a result that belong together.
    positional: the one parameter that may be given by position, alone.
    errors: those that it meets besides the ones that every request can meet.
    """

    summary: str
    params: type[Struct]
    result: type[Struct]
    example: tuple[Struct, Struct]
    positional: str | None = None
    errors: tuple[int, ...] = ()


_DIGEST = "sha256:" + "5d" * 32
_CALLBACK: dict[str, Any] = {
    "file": "mail.py",
    "path": "/farm/callback/mail.py",
    "directory": "/farm/callback",
    "language": "python",
    "trigger": "failed-work-self-*",
    "line": 4,
    "digest": _DIGEST,
    "enabled": True,
}
_INDEX: dict[str, Any] = {"generation": 3, "digest": _DIGEST}
_RECORD: dict[str, Any] = {
    "time": "2026-02-03T04:05:06.789Z",
    "instance": "9f86d081884c7d65",
    "sequence": 5,
    "event": "reloaded",
    **_INDEX,
    "callbacks": 1,
    "duration_ms": 2.5,
    "causes": [
        Cause(
            path="/farm/callback/mail.py",
            change="modified",
            owner="mia",
            mtime="2026-02-03T04:05:06.123Z",
            size=812,
        )
    ],
    "held": [],
    "diagnostics": [],
}
_EXAMPLE_RECORD = Record(
    **_RECORD,
    changes=[
        Change(
            change="modified",
            path=_CALLBACK["path"],
            trigger=_CALLBACK["trigger"],
            line=4,
            digest=_DIGEST,
            what=["digest"],
        )
    ],
    newly_held=[],
    restored=[],
    conf_diff=[],
)
_EXAMPLE_STATUS = StatusResult(
    version="1.0.0",
    pid=1234,
    uptime=3725.5,
    instance="9f86d081884c7d65",
    sequence=5,
    state="ok",
    **_INDEX,
    callbacks=1,
    disabled=0,
    warnings=0,
    last_change=60.5,
    directories=[
        DirectoryStatus(
            path="/farm/callback", callbacks=1, held=None, watch="events", digest=_DIGEST
        )
    ],
    settings={"pipe": SettingStatus(value="/run/callback-agent/pipe", source="default")},
    last_reload=RecordSummary(
        **_RECORD, omitted=Omitted(changes=1, held=0, diagnostics=0, causes=0)
    ),
    clients=2,
    lookups=LookupCounts(total=120000, per_second=31.4),
    notes=[],
)

METHODS: Final[Mapping[str, Method]] = {
    "lookup": Method(
        "Which callbacks fire for an event, and which are waiting for more.",
        LookupParams,
        LookupResult,
        (
            LookupParams("failed-work-self-7"),
            LookupResult(**_INDEX, callbacks=[Callback(**_CALLBACK)], partial=[]),
        ),
        positional="event",
        errors=(REFUSED,),
    ),
    "explain": Method(
        "Why each callback of the event's name and type fires, is partial, or does not.",
        ExplainParams,
        ExplainResult,
        (
            ExplainParams("failed-work-parent-7"),
            ExplainResult(
                **_INDEX,
                callbacks=[
                    ExplainedCallback(
                        **_CALLBACK, verdict="no", reason="the event's context is parent, not self"
                    )
                ],
            ),
        ),
        positional="event",
        errors=(REFUSED,),
    ),
    "list": Method(
        "Every callback that is served.",
        ListParams,
        ListResult,
        (ListParams(), ListResult(**_INDEX, callbacks=[Callback(**_CALLBACK)])),
        errors=(REFUSED,),
    ),
    "code": Method(
        "The files with these digests, of what is served now. Unknown digests are left out.",
        CodeParams,
        CodeResult,
        (CodeParams((_DIGEST,)), CodeResult(code={_DIGEST: Content(text="import mail\n")})),
        errors=(REFUSED,),
    ),
    "status": Method(
        "Health, directories, settings, and the last reload.",
        NoParams,
        StatusResult,
        (NoParams(), _EXAMPLE_STATUS),
    ),
    "reload": Method(
        "Read everything again now. When it returns, every change made to the files before the"
        " call is served, or held with a diagnostic.",
        NoParams,
        Record,
        (NoParams(), _EXAMPLE_RECORD),
        errors=(REFUSED,),
    ),
    "history": Method(
        "The newest records, newest last.",
        HistoryParams,
        HistoryResult,
        (HistoryParams(1), HistoryResult(records=[_EXAMPLE_RECORD])),
    ),
    "subscribe": Method(
        "From now on, send every record on this connection, as the notification `reload`; with"
        " `since`, return those that were missed; with `heartbeat`, say that the agent is alive.",
        SubscribeParams,
        SubscribeResult,
        (
            SubscribeParams(Since("9f86d081884c7d65", 4), 5.0),
            SubscribeResult(
                **_INDEX, instance="9f86d081884c7d65", sequence=5, missed=[_EXAMPLE_RECORD]
            ),
        ),
    ),
    "unsubscribe": Method(
        "Send no more records and heartbeats.",
        NoParams,
        EmptyResult,
        (NoParams(), EmptyResult()),
    ),
    "metrics": Method(
        "What is measured, for Prometheus and what reads its format.",
        NoParams,
        MetricsResult,
        (
            NoParams(),
            MetricsResult(
                text="# HELP callback_agent_generation Accepted indexes since the start.\n"
                "# TYPE callback_agent_generation gauge\ncallback_agent_generation 3.0\n# EOF\n"
            ),
        ),
        errors=(REFUSED,),
    ),
    "rpc.discover": Method(
        "This document.",
        NoParams,
        OpenRpcDocument,
        (NoParams(), OpenRpcDocument(openrpc="1.2.6", info={}, methods=[])),
    ),
}
"""Every method, in the order in which a newcomer wants to read about them."""

#: What the agent sends without a request, and its parameters.
NOTIFICATIONS: Final[Mapping[str, tuple[str, type[Struct]]]] = {
    "reload": ("Sent to subscribers for every record.", Record),
    "heartbeat": ("Sent to a subscriber at the interval that it asked for.", Heartbeat),
}

# Requests: one type for each method, told apart by the member `method` ---------------------------

Id = int | str | float | None | UnsetType
"""A request's id as it came; `msgspec.UNSET` is none, which makes it a notification."""


class Request(
    Struct, frozen=True, forbid_unknown_fields=True, gc=False, kw_only=True, tag_field="method"
):
    """A valid request: its `method`, its `params` in that method's type, and its `id`."""

    method: ClassVar[str]
    params: ClassVar[Any]

    jsonrpc: Literal["2.0"]
    id: Id = UNSET


class UnreadLookup(
    Struct, frozen=True, forbid_unknown_fields=True, gc=False, tag_field="method", tag="lookup"
):
    """A request for a lookup, with its parameters as they were sent: JSON that is not judged yet.

    It says all that is needed where the result is known already.
    """

    jsonrpc: Literal["2.0"]
    params: Raw
    id: Id = UNSET


class UncheckedEvent(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """An event given as an object, of which no rule is checked but the types."""

    name: str
    type: str
    job: JobFields
    extra: str | None = None


if TYPE_CHECKING:
    JobFieldsIfGiven = JobFields | None
else:
    JobFieldsIfGiven = JobFields


class UncheckedLookup(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Parameters of a lookup with no more than an event, an owner and `code`, of which no rule is
    checked but the types. That is enough where the answer to an event like it is known."""

    event: str | UncheckedEvent
    owner: JobFieldsIfGiven = None
    code: bool = False


def _request_type(name: str, method: Method) -> type[Request]:
    params: tuple[Any, ...] = ("params", method.params)
    if not any(field.required for field in fields(method.params)):
        params = (*params, method.params())
    made: Any = defstruct(
        f"{name}_request",
        [params],
        bases=(Request,),
        frozen=True,
        kw_only=True,
        tag=name,
        namespace={"method": name},
        module=__name__,
    )
    request: type[Request] = made
    return request


REQUEST_TYPES: Final[Mapping[str, type[Request]]] = {
    name: _request_type(name, method) for name, method in METHODS.items()
}
"""The type that a line with each method is decoded into."""
