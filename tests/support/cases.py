"""Mass cases for the trigger language: triggers, and an event to ask them about.

Everything is made from few and small alphabets, and the terms of the triggers from the
events, so that matches, near misses and partial matches are all common. All triggers are
valid; events are, but for a few.
"""

from __future__ import annotations

import re
from random import Random
from typing import Any, NamedTuple

from hypothesis import strategies as st

Event = str | dict[str, Any]
Owner = dict[str, Any]


class Case(NamedTuple):
    """The triggers of an index, and the parameters of one request to it."""

    triggers: list[str]
    event: Event
    owner: Owner | None
    occurred: list[Event]


NAMES = ["done", "complete", "killed", "failed", "running", "Done", "do", "x y", "or", "and"]
WEIGHTED_NAMES = NAMES[:4] * 4 + NAMES

PLAIN_TYPES = ["job", "global"]
EXTRA_TYPES = ["work", "subjob", "host", "time", "repeat", "globaltime", "globalrepeat"]
WEIGHTED_TYPES = ["job"] * 10 + ["work"] * 10 + PLAIN_TYPES + EXTRA_TYPES

IDS = [7, 7, 12, 12, 120, 0, 1]
LONG_ID = "9" * 5000  # more digits than int() reads

LABELS = ["a", "a-b", "a-1", "b", "job A", "my-label", "self-x", "s", "12-a", "selfish"]
POSING_LABELS = ["self", "self", "parent", "12", "12", "007", "*"]
ODD_LABELS = ["a*", "-a", "a-", "R&D", "a|b", "R and D"]
ODD_LABELS += ["a&&b", "a || b", "(a)", " a", "a ", "a\nb", "1²", "٣", "A", "or", "x\\*", "SELF"]

EXTRAS = ["1", "1-10", "7", "07", "Segment: 1-100", "a.b", "b", "b-1", "render01"]
ODD_EXTRAS = ["*", "-", "1-", "-1", "x (2)", "p && q", "R and D", " 1", "self", "a\nb", "1**", "."]
TIMES = ["834567890", "834567890-3600", "834567891"]

NOT_GIVEN: list[str | None] = ["", None]

WORDS = ["and", "AND", "And", "or", "OR", "oR"]
SPACES = ["", " ", " ", " ", "  ", "\t", "\n", "\u00a0"]


# Events


def _label(r: Random) -> str:
    chance = r.random()
    if chance < 0.1:
        return r.choice(POSING_LABELS)
    return r.choice(LABELS if chance < 0.8 else ODD_LABELS)


def _extra(r: Random, kind: str) -> str:
    if "time" in kind or "repeat" in kind:
        return r.choice(TIMES)
    return r.choice(EXTRAS if r.random() < 0.85 else ODD_EXTRAS)


def _digits(r: Random) -> str:
    if r.random() < 0.005:
        return LONG_ID
    return "0" * r.choice([0, 0, 0, 1, 2, 20]) + str(r.choice(IDS))


def _job(r: Random) -> dict[str, Any]:
    """A job of which each field may not be given; the same few numbers come again and again."""
    job: dict[str, Any] = {}
    if r.random() < 0.85:
        job["id"] = r.choice(IDS)
    if r.random() < 0.85:
        label = _label(r)
        job["label"] = label if r.random() < 0.95 else r.choice(NOT_GIVEN)
    if r.random() < 0.5:
        job["pid"] = r.choice(IDS)
    if r.random() < 0.85:
        job["pgrp"] = r.choice([3, 3, 3, 3, 0, 12])
    return job


def _has_extra(r: Random, kind: str) -> bool:
    return kind in EXTRA_TYPES or r.random() < 0.1


def _string_event(r: Random) -> str:
    name, kind = r.choice(WEIGHTED_NAMES), r.choice(WEIGHTED_TYPES)
    context = r.choice(["self", "self", "parent", _digits(r), _label(r), _label(r), _label(r)])
    return f"{name}-{kind}-{context}" + (f"-{_extra(r, kind)}" if _has_extra(r, kind) else "")


def _object_event(r: Random) -> dict[str, Any]:
    name, kind = r.choice(WEIGHTED_NAMES), r.choice(WEIGHTED_TYPES)
    event: dict[str, Any] = {"name": name, "type": kind, "job": _job(r)}
    if _has_extra(r, kind):
        event["extra"] = _extra(r, kind)
    elif r.random() < 0.2:
        event["extra"] = r.choice(NOT_GIVEN)
    return event


def event(r: Random) -> Event:
    """A valid event, as a string or as an object."""
    return _string_event(r) if r.random() < 0.45 else _object_event(r)


def owner(r: Random) -> Owner:
    """A valid owner, now and then an empty one."""
    return {} if r.random() < 0.1 else _job(r)


def _broken(r: Random) -> Event:
    """An event that is refused."""
    if r.random() < 0.6:
        return r.choice(
            [
                "",
                "done",
                "done-job",
                "done-job-",
                "done--self",
                "-job-self",
                "done-job-self-",
                "done-job-12-",
                "done-work-self",
                "done-work-12",
                "done-work-parent-",
                "done-work-a",
                "done-Job-self",
                "done-nothing-self",
                "done- job-self",
                "done-j*-self",
                "globaltime-10000",
            ]
        )
    broken = _object_event(r)
    change = r.randrange(4)
    if change == 0:
        broken["name"] = r.choice(["", "a-b", None])
    elif change == 1:
        broken["type"] = r.choice(["", "Job", "*", None])
    elif change == 2:
        broken["type"] = r.choice(EXTRA_TYPES)
        broken["extra"] = r.choice(NOT_GIVEN)
    else:
        broken["job"] = r.choice(["12", {"id": "12"}, {"label": 12}, {"pgrp": True}])
    return broken


# Terms


def _safe(text: str) -> str:
    """The text as a trigger can hold it: `*` for all that would end the term."""
    text = text.replace("\\", "")
    text = re.sub(r"[()]|&&|\|\|", "*", text)
    text = re.sub(r"(?<!\S)(and|or)(?!\S)", "*", text, flags=re.IGNORECASE)
    return text.strip() or "*"


def _star(r: Random, text: str) -> str:
    """The text with one or two of its stretches, maybe empty ones, made a wildcard."""
    for _ in range(r.choice([1, 1, 1, 2])):
        start, end = sorted(r.choices(range(len(text) + 1), k=2))
        text = text[:start] + r.choice(["*"] * 6 + ["\\*", "**"]) + text[end:]
    # A backslash before `\*` is left out: what it should mean nobody has said.
    return text.replace("\\\\*", "\\*")


def _near(r: Random, text: str) -> str:
    """The text itself, mostly, or one that may well match it too, or just not."""
    chance = r.random()
    if chance < 0.65:
        return text
    if chance < 0.85:
        return _star(r, text)
    if chance < 0.9:
        return text + "-*"
    if chance < 0.93:
        return text.swapcase()
    cut = text.split("-")
    return "-".join(cut[: r.randint(1, len(cut))])


def _term(r: Random, near: Event, owner: Owner | None) -> str:
    """A term that may be satisfied by this event."""
    if isinstance(near, str):
        name, kind, rest = near.split("-", 2)
        pieces = rest.split("-", 1)
        context = pieces[0]
        extra = pieces[1] if len(pieces) > 1 else None
        others = ["self", "parent"]
        job: dict[str, Any] = {}
    else:
        name, kind, extra, job = near["name"], near["type"], near.get("extra"), near["job"]
        context = "self" if owner is None or job.get("id") == owner.get("id") else ""
        context = context or str(job.get("id", "self"))
        if job.get("label") in POSING_LABELS and r.random() < 0.4:
            context = _star(r, job["label"])
        others = [job.get("label") or "a"] * 4 + ["parent", "self"]
    for field in ("id", "pid"):
        if field in (owner or job):
            others.append("0" * r.choice([0, 0, 2]) + str((owner or job)[field]))

    if kind in ("globaltime", "globalrepeat") and r.random() < 0.4:
        return f"{kind}-{_near(r, _safe(extra or '1')).strip() or '*'}"

    chance = r.random()
    if chance < 0.2 and name in ("complete", "killed", "failed"):
        name = "done"
    elif chance < 0.3:
        name = _star(r, name).replace("-", "")
    elif chance < 0.4:
        name = r.choice(NAMES)

    if r.random() < 0.05:
        kind = r.choice(WEIGHTED_TYPES)

    if r.random() < 0.35:
        context = r.choice(others)
    context, extra = _safe(context), _safe(extra) if extra else None
    if r.random() < 0.08:
        context = _star(r, context)
    if r.random() < 0.12:
        context = r.choice(["*", "*", "*", "\\*", "**"])
    chance = r.random()
    if chance < 0.15:
        extra = r.choice(["*", "*", "\\*", "**"])
    elif chance < 0.2:
        extra = None
    elif chance < 0.25:
        extra = _safe(_extra(r, kind))
    rest = context if extra is None else f"{context}-{extra}"
    if r.random() < 0.4:
        rest = _near(r, rest)
    rest = rest.strip() or "*"
    if re.fullmatch(r"(self|parent|[0-9]+|(\\?\*)+)-", rest):
        rest += "1"  # an empty extra is an error, but only after what is surely a context
    return f"{name}-{kind}-{rest}"


# Triggers


def _expression(r: Random, terms: list[str]) -> str:
    """All of the terms in one expression, with parentheses that may be needed or not."""
    if len(terms) == 1:
        return _wrapped(r, terms[0], 0.06)
    cut = r.randint(1, len(terms) - 1)
    left, right = _expression(r, terms[:cut]), _expression(r, terms[cut:])
    operator = r.choice(["&&", "&&", "||", "||", *WORDS])
    before, after = r.choice(SPACES), r.choice(SPACES)
    if operator.isalpha():
        before = before or ("" if left.endswith(")") else " ")
        after = after or ("" if right.startswith("(") else " ")
    elif re.match(r"[&|]", right):
        after = after or " "
    if left.endswith(("&", "|")):
        before = before or " "
    return _wrapped(r, f"{left}{before}{operator}{after}{right}", 0.35)


def _wrapped(r: Random, text: str, chance: float) -> str:
    if r.random() >= chance:
        return text
    return f"({r.choice(SPACES)}{text}{r.choice(SPACES)})"


def _trigger(r: Random, pool: list[Event], owner: Owner | None) -> str:
    count = r.choice([1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5])
    terms = [_term(r, pool[0] if r.random() < 0.5 else r.choice(pool), owner) for _ in range(count)]
    return r.choice(SPACES) + _expression(r, terms) + r.choice(SPACES)


def trigger(r: Random) -> str:
    """A valid trigger."""
    return _trigger(r, [event(r) for _ in range(3)], None)


def case(r: Random) -> Case:
    """Some triggers, and a request about events that they are near to."""
    given = None if r.random() < 0.35 else owner(r)
    pool = [event(r) for _ in range(r.randint(2, 4))]
    triggers = [_trigger(r, pool, given) for _ in range(r.randint(1, 10))]
    now, occurred = pool[0], [other for other in pool[1:] if r.random() < 0.5]
    if isinstance(now, str) and given is None and r.random() < 0.97:
        occurred = [other for other in occurred if isinstance(other, str)]  # else refused
    if r.random() < 0.02:
        now = _broken(r)
    if r.random() < 0.02:
        occurred.insert(r.randint(0, len(occurred)), _broken(r))
    return Case(triggers, now, given, occurred)


# The same for Hypothesis, which draws what Random would, and so can make it smaller


def cases() -> st.SearchStrategy[Case]:
    """Cases as above."""
    return st.randoms(use_true_random=False).map(case)


def triggers() -> st.SearchStrategy[str]:
    """Valid triggers."""
    return st.randoms(use_true_random=False).map(trigger)


def events() -> st.SearchStrategy[Event]:
    """Valid events."""
    return st.randoms(use_true_random=False).map(event)


def owners() -> st.SearchStrategy[Owner | None]:
    """Valid owners, or none."""
    return st.none() | st.randoms(use_true_random=False).map(owner)


def _spliced(text: str, at: int, cut: int, new: str) -> str:
    at %= len(text) + 1
    return text[:at] + new + text[at + cut :]


def texts() -> st.SearchStrategy[str]:
    """Any text: noise, the language's own pieces in no order, and triggers with a fault."""
    pieces = ["done", "job", "work", "self", "parent", "7", "-", "-", "-", "*", "\\", "\\*"]
    pieces += ["&&", "||", "&", "|", "(", ")", " ", "\t", "\0", "and", "OR", "é", "²", "\u2028"]
    pieces += ["globaltime-", "globalrepeat-", "done-job-self", " and ", " or ", "#", '"', "="]
    shuffled = st.lists(st.sampled_from(pieces), max_size=20).map("".join)
    faulty = st.builds(
        _spliced, triggers(), st.integers(0, 200), st.integers(0, 3), st.sampled_from(["", *pieces])
    )
    return st.one_of(st.text(max_size=60), shuffled, faulty)
