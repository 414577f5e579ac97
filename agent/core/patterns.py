"""A set of patterns with `*`, made so that finding those that match a text is fast.

- A pattern without `*` costs one probe of a hash table, whatever the number of patterns.
- Patterns `prefix*`, and a lone `*`, cost one probe for each length of prefix that occurs.
- Patterns with one other `*` (`x*y`, `*x`) are grouped by the lengths of their two ends. A text
  has one head and one tail of those lengths, so a group costs one probe.
- Patterns with two (`x*m*y`, `*m*`) are grouped by the lengths of ends and middle. A group costs
  one probe for each place in the text where the middle may be.
- Patterns with more are filed under their two ends and their longest middle part, which is a
  pattern of the kind above. Those under a key that fits are tried one after another.

If trying every pattern of a group is cheaper than the probes, they are tried. A set is never
changed: `edit_patterns` makes a new one that shares with the old all that the edits do not touch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from agent.core.event import glob, glob_steps
from agent.core.steps import Steps

V = TypeVar("V")
K = TypeVar("K")
E = TypeVar("E")

#: The lengths of a pattern's two ends; of its two ends and its middle part.
_Shape = tuple[int, ...]

#: The only place where a pattern that matches a whole text begins.
_WHOLE = (0,)
#: The cost of trying a pattern, in probes.
_TRY = 4


def _tried(patterns: Mapping[str, V], text: str, tail: bool, steps: Steps) -> Iterator[str]:
    """The patterns that match the text, or with `tail` the rest of it after one of its hyphens."""
    for pattern in patterns:
        steps.take(glob_steps(pattern, text))
        if glob("*-" + pattern if tail else pattern, text):
            yield pattern


def _heads(text: str, length: int, starts: Sequence[int], steps: Steps) -> dict[str, int]:
    """The texts of this length at `starts`, each with the place after its first occurrence.

    Whatever a pattern matches after a later occurrence, it also matches after the first.
    """
    heads: dict[str, int] = {}
    for start in starts:
        steps.take()
        if start + length > len(text):
            break
        heads.setdefault(text[start : start + length], start + length)
    return heads


def _fitting(
    group: Mapping[str, V], shape: _Shape, text: str, starts: Sequence[int], steps: Steps
) -> Iterator[str]:
    """The patterns of one shape that match the text from one of `starts` to its end, each once."""
    first, last = shape[0], shape[-1]
    if starts[0] + sum(shape) > len(text):
        return
    # A probe of a long text costs more than one.
    weight, most = 1 + sum(shape) // 64, _TRY * len(group)
    if len(starts) * weight > most:
        yield from _tried(group, text, starts is not _WHOLE, steps)
        return
    heads = _heads(text, first, starts, steps)
    end = len(text) - last
    tail = text[end:]
    if len(shape) == 2:
        for head, after in heads.items():
            pattern = f"{head}*{tail}"
            if after <= end and pattern in group:
                yield pattern
        return
    if len(heads) * len(text) * weight > most:
        yield from _tried(group, text, starts is not _WHOLE, steps)
        return
    size = shape[1]
    found: set[str] = set()
    for head, after in heads.items():
        for at in range(after, end - size + 1):
            if not at & 63:
                steps.take(64 * weight)
            pattern = f"{head}*{text[at : at + size]}*{tail}"
            if pattern in group:
                found.add(pattern)
    yield from found


def _shape(parts: Sequence[str]) -> tuple[_Shape, str]:
    """The shape of a pattern, and the key under which it is filed.

    `parts` are the parts of the pattern between its `*`. The key is the pattern itself if it has
    at most one middle part.
    """
    if len(parts) == 2:
        return (len(parts[0]), len(parts[1])), "*".join(parts)
    first, middle, last = parts[0], max(parts[1:-1], key=len), parts[-1]
    return (len(first), len(middle), len(last)), f"{first}*{middle}*{last}"


class _General(Generic[V]):
    """Patterns with a `*` that is not only at the end, by shape."""

    __slots__ = ("deep", "shallow")

    def __init__(
        self,
        shallow: dict[_Shape, dict[str, V]],
        deep: dict[_Shape, dict[str, dict[str, V]]],
    ) -> None:
        #: Patterns with one or two `*`.
        self.shallow = shallow
        #: Patterns with more, by their key.
        self.deep = deep

    def find(self, text: str, starts: Sequence[int], steps: Steps) -> Iterator[V]:
        """What is filed under each pattern that matches the text from one of `starts` on."""
        for shape, group in self.shallow.items():
            steps.take()
            for pattern in _fitting(group, shape, text, starts, steps):
                yield group[pattern]
        for shape, keys in self.deep.items():
            steps.take()
            for key in _fitting(keys, shape, text, starts, steps):
                patterns = keys[key]
                for pattern in _tried(patterns, text, starts is not _WHOLE, steps):
                    yield patterns[pattern]

    def items(self) -> Iterator[tuple[str, V]]:
        """Every pattern, and what is filed under it."""
        for group in self.shallow.values():
            yield from group.items()
        for keys in self.deep.values():
            for patterns in keys.values():
                yield from patterns.items()


class Patterns(Generic[V]):
    """What is filed under each pattern of one field. Never changed after it is built.

    In `literal`, the key None stands for an event without the field.
    """

    __slots__ = ("general", "lengths", "literal", "prefix")

    def __init__(
        self,
        literal: dict[str | None, V],
        prefix: dict[str, V],
        lengths: tuple[int, ...],
        general: _General[V] | None,
    ) -> None:
        self.literal = literal
        self.prefix = prefix
        #: The different lengths of the prefixes.
        self.lengths = lengths
        #: None if there are no such patterns.
        self.general = general

    def find(self, text: str | None, steps: Steps) -> Iterator[V]:
        """What is filed under each pattern that the text matches."""
        if (found := self.literal.get(text)) is not None:
            yield found
        if text is None:
            return
        for length in self.lengths:
            if length <= len(text) and (found := self.prefix.get(text[:length])) is not None:
                yield found
        if self.general is not None:
            yield from self.general.find(text, _WHOLE, steps)

    def only_literal(self) -> bool:
        """Whether all texts that are not in `literal` match the same patterns."""
        return self.general is None and not any(self.lengths)

    def find_tails(self, text: str, steps: Steps) -> Iterator[V]:
        """What is filed under each pattern that matches the rest of the text after some hyphen."""
        starts = [at + 1 for at, character in enumerate(text) if character == "-"]
        if not starts:
            return
        steps.take(len(starts))
        yield from self._literal_tails(text, starts, steps)
        yield from self._prefix_tails(text, starts, steps)
        if self.general is not None:
            yield from self.general.find(text, starts, steps)

    def _literal_tails(self, text: str, starts: list[int], steps: Steps) -> Iterator[V]:
        if len(starts) * (1 + len(text) // 64) <= _TRY * len(self.literal):
            for start in starts:
                steps.take(1 + len(text) // 64)
                if (found := self.literal.get(text[start:])) is not None:
                    yield found
            return
        for literal, value in self.literal.items():
            steps.take()
            if literal is not None and text.endswith(literal):
                before = len(text) - len(literal)
                if before and text[before - 1] == "-":
                    yield value

    def _prefix_tails(self, text: str, starts: list[int], steps: Steps) -> Iterator[V]:
        if len(starts) * sum(1 + n // 64 for n in self.lengths) > _TRY * len(self.prefix):
            for prefix, value in self.prefix.items():
                steps.take(glob_steps(prefix, text))
                if "-" + prefix in text:
                    yield value
            return
        for length in self.lengths:
            steps.take(len(starts))
            for prefix in {text[s : s + length] for s in starts if s + length <= len(text)}:
                if (found := self.prefix.get(prefix)) is not None:
                    yield found

    def __len__(self) -> int:
        """Zero if and only if nothing is filed."""
        return len(self.literal) + len(self.prefix) + (self.general is not None)


# Edits -------------------------------------------------------------------------------------------


def edited(
    old: dict[K, V], edits: Mapping[K, E], edit: Callable[[V | None, E], V | None]
) -> dict[K, V]:
    """A copy of `old` after the edits, without what became empty."""
    if not old:
        return {key: value for key, change in edits.items() if (value := edit(None, change))}
    # Not `dict(old)`: where keys were removed, that takes 2 ms for 100,000, ten times as long, and
    # holds the GIL.
    new = old.copy()
    for key, change in edits.items():
        value = edit(new.get(key), change)
        if value:
            new[key] = value
        else:
            new.pop(key, None)
    return new


_NONE: dict[Any, Any] = {}
_EMPTY: Patterns[Any] = Patterns(_NONE, _NONE, (), None)


def patterns_of(values: dict[str | None, V]) -> Patterns[V]:
    """These patterns. The dictionary may become a part of the set: do not change it afterwards."""
    # Joined, most patterns are searched for a `*` many times as fast as one by one.
    if "*" not in "".join(filter(None, values)):
        return Patterns(values, _NONE, (), None)
    return edit_patterns(None, values, lambda _, value: value)


def edit_patterns(
    old: Patterns[V] | None,
    edits: Mapping[str | None, E],
    edit: Callable[[V | None, E], V | None],
) -> Patterns[V]:
    """The patterns after the edits.

    `edit(value, change)` returns the new value of a pattern, None or empty to remove the pattern.
    `old` and a value that is not there are None.
    """
    literal: dict[str | None, E] = {}
    prefix: dict[str, E] = {}
    general: dict[str, E] = {}
    for pattern, change in edits.items():
        if pattern is None or "*" not in pattern:
            literal[pattern] = change
        elif pattern.index("*") == len(pattern) - 1:
            prefix[pattern[:-1]] = change
        else:
            general[pattern] = change
    old = old or _EMPTY
    prefixes = edited(old.prefix, prefix, edit) if prefix else old.prefix
    return Patterns(
        edited(old.literal, literal, edit) if literal else old.literal,
        prefixes,
        tuple({len(p) for p in prefixes}) if prefix else old.lengths,
        _edit_general(old.general, general, edit) if general else old.general,
    )


def _edit_general(
    old: _General[V] | None, edits: Mapping[str, E], edit: Callable[[V | None, E], V | None]
) -> _General[V] | None:
    shallow: dict[_Shape, dict[str, E]] = {}
    deep: dict[_Shape, dict[str, dict[str, E]]] = {}
    for pattern, change in edits.items():
        parts = pattern.split("*")
        shape, key = _shape(parts)
        if len(parts) <= 3:
            shallow.setdefault(shape, {})[pattern] = change
        else:
            deep.setdefault(shape, {}).setdefault(key, {})[pattern] = change

    def edit_group(old: dict[str, V] | None, group: dict[str, E]) -> dict[str, V]:
        return edited(old or _NONE, group, edit)

    def edit_keys(
        old: dict[str, dict[str, V]] | None, keys: dict[str, dict[str, E]]
    ) -> dict[str, dict[str, V]]:
        return edited(old or _NONE, keys, edit_group)

    new = _General(
        edited(old.shallow if old else _NONE, shallow, edit_group),
        edited(old.deep if old else _NONE, deep, edit_keys),
    )
    return new if new.shallow or new.deep else None
