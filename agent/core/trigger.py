"""The trigger language: text to a tree, the tree back to text, and what is missing of a trigger.

A *trigger* is an expression of terms with `&&`, `||` and parentheses; `&&` binds tighter. The
words `and` and `or`, in any case, are the same operators where white space, a parenthesis or an
end of the text is on both sides. A term ends at an operator, a parenthesis or the end of the text;
white space inside it belongs to it, white space around it does not. See `agent.core.term` for what
a term matches.

A trigger reacts to events, not to states: it fires for an event that satisfies one of its terms
while the whole expression is true of that event and those that occurred before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from agent.core.diagnostic import Edit, Problem, ProblemError
from agent.core.quoting import shown
from agent.core.term import Term, parse_term
from agent.core.term_report import MAX_PROBLEMS

#: The longest trigger that is read, in characters. Triggers that people write are far shorter.
MAX_LENGTH = 65_536
#: How deep parentheses may nest. It keeps every walk of a tree far from Python's own limit.
MAX_NESTING = 100

# A word that touches && or || counts as an operator too: there it is an error all the same, and a
# term that began with such a word could not be written in the canonical text.
_OPERATOR = re.compile(
    r"&&|\|\||[()]"
    r"|(?:(?<![^\s()])|(?<=&&)|(?<=\|\|))(?:and|or)(?:(?![^\s()])|(?=&&|\|\|))",
    re.IGNORECASE,
)
_SYMBOL = re.compile(r"&&|\|\||[()]")
_WORD = re.compile(r"\b(?:and|or)\b", re.IGNORECASE)
_SYMBOLS = frozenset({"&&", "||", "(", ")"})
_WORDS = {"and": "&&", "or": "||"}


@dataclass(frozen=True, slots=True)
class And:
    """All of its parts, at least two, none of them an And."""

    parts: tuple[Term | Or, ...]

    def __str__(self) -> str:
        return " && ".join(f"({p})" if isinstance(p, Or) else str(p) for p in self.parts)


@dataclass(frozen=True, slots=True)
class Or:
    """Any of its parts, at least two, none of them an Or."""

    parts: tuple[Term | And, ...]

    def __str__(self) -> str:
        return " || ".join(f"({p})" if isinstance(p, And) else str(p) for p in self.parts)


_SIGNS: dict[type[And | Or], str] = {And: "&&", Or: "||"}

#: Stands for a term with an error. A tree that holds it is not used.
_NO_TERM = Term("", "", "")

#: The tree of a trigger. `str` gives its canonical text, which parses to the same tree.
Trigger = Term | And | Or


def terms(trigger: Trigger) -> Sequence[Term]:
    """Every term of a trigger, from left to right."""
    if isinstance(trigger, Term):
        return (trigger,)
    found: list[Term] = []
    for part in trigger.parts:
        if isinstance(part, Term):
            found.append(part)
        else:
            found += terms(part)
    return found


def missing(trigger: Trigger, holds: Callable[[Term], bool]) -> Trigger | None:
    """The trigger with its true parts removed; None if all of it is true.

    `holds` says whether a term is true: whether one of the events that occurred satisfies it. A
    true part of an And is removed; an Or with a true part is removed as a whole.
    """
    if isinstance(trigger, Term):
        return None if holds(trigger) else trigger
    rest = [missing(part, holds) for part in trigger.parts]
    if isinstance(trigger, Or):
        return None if None in rest else _join(Or, [r for r in rest if r is not None])
    return _join(And, [r for r in rest if r is not None]) if any(rest) else None


# Text to tree ------------------------------------------------------------------------------------


def parse(text: str) -> tuple[Trigger | None, list[Problem]]:
    """The tree of a trigger's text, and the problems of the text, at most MAX_PROBLEMS and one.

    Takes any text. Returns a tree, or None and at least one problem of severity error. Columns
    count from 1 in the text; edits are of the text. Raises nothing.
    """
    problems: list[Problem] = []
    try:
        if len(text) > MAX_LENGTH:
            message = f"this trigger has {len(text)} characters; at most {MAX_LENGTH} are read"
            raise _error("too-long", MAX_LENGTH, 1, message, "split it into several lines")
        tree: Trigger | None
        if _is_term(text):
            tree = parse_term(text, 0, problems)  # Nearly every trigger is one term.
        else:
            tree = _flat(text) or _Parser(text, problems).parse()
        # The canonical text, which is less than twice as long, must be readable too.
        if tree and 2 * len(text) > MAX_LENGTH and (length := len(str(tree))) > MAX_LENGTH:
            message = f"this trigger has {length} characters when written out"
            hint = f"at most {MAX_LENGTH} are read: split it into several lines"
            raise _error("too-long", 0, 1, message, hint)
    except ProblemError as error:
        return None, [*problems, error.problem]
    return tree, problems


def _error(
    code: str, offset: int, length: int, message: str, hint: str, *edits: Edit
) -> ProblemError:
    """The error about `length` characters at `offset` of a trigger."""
    return ProblemError(code, message, hint, None, offset + 1, length, edits)


def _is_term(text: str) -> bool:
    """Whether the text is one term without an operator in it or white space around it."""
    if "&&" in text or "||" in text or "(" in text or ")" in text:
        return False
    words = text.split()
    if len(words) == 1:
        return words[0] == text and text.lower() not in ("and", "or")
    return words != [] and text == text.strip() and _OPERATOR.search(text) is None


def _flat(text: str) -> Trigger | None:
    """The tree of a text without parentheses that has operators of one kind and no problems; None
    of any other. Most triggers with operators are such a text."""
    if "(" in text or ")" in text or _may_have_words(text):
        return None
    kind: type[And | Or] = And if "&&" in text else Or
    if ("||" in text) is (kind is And):
        return None  # operators of both kinds, or none
    problems: list[Problem] = []
    try:
        parts = [parse_term(part.strip(), 0, problems) for part in text.split(_SIGNS[kind])]
    except ProblemError:
        return None
    return None if problems else kind(tuple(parts))


class _Token(NamedTuple):
    """One token: its kind (`&&`, `||`, `(`, `)` or `term`), and where it begins and ends."""

    kind: str
    start: int
    end: int


class _Parser:
    """Recursive descent over the tokens of one text.

    A term that is no event does not end it: the other terms may have mistakes of their own.
    """

    def __init__(self, text: str, problems: list[Problem]) -> None:
        self._text = text
        #: Problems of terms are appended to it, and the one of the structure.
        self._problems = problems
        self._tokens = list(_tokens(text))
        #: The number of the next token, and its kind; empty at the end.
        self._next = -1
        self._kind = ""
        self._advance()
        #: Where the parentheses that are open now were opened.
        self._opened: list[int] = []
        #: Whether a term has an error.
        self._failed = False

    def parse(self) -> Trigger | None:
        """The tree of the whole text; None if one of its terms has an error.

        Raises ProblemError for an error of the structure.
        """
        if not self._tokens:
            hint = "write an event, such as done-job-self"
            raise _error("empty-trigger", 0, 1, "there is no trigger after the `=`", hint)
        try:
            tree = self._disjunction()
            if self._kind:
                start = self._tokens[self._next].start
                message, edit = "this `)` closes nothing", Edit(start, start + 1, "")
                raise _error("trigger-syntax", start, 1, message, "remove it", edit)
        except ProblemError:
            for kind, start, end in self._tokens[self._next :]:
                if kind == "term":
                    self._term(start, end)
            raise
        self._warn_of_words()
        return None if self._failed else tree

    def _warn_of_words(self) -> None:
        """Warn once of all words that are operators."""
        if not _may_have_words(self._text):
            return
        found = [(t.start, t.end, t.kind) for t in self._tokens if t.kind in ("&&", "||")]
        words = [each for each in found if self._text[each[0]] not in "&|"]
        if not words:
            return
        (start, end, kind), *_ = words
        message = f"`{self._text[start:end]}` is read as `{kind}`, the only form in Qube's manual"
        edits = tuple(Edit(*each) for each in words)
        problem = Problem(
            *("word-operator", message, "write && and || in place of the words"),
            column=start + 1,
            length=end - start,
            edits=edits,
        )
        self._problems.insert(0, problem)

    def _disjunction(self) -> Trigger:
        first = self._conjunction()
        if self._kind != "||":
            return first
        parts = [first]
        while self._kind == "||":
            self._advance()
            parts.append(self._conjunction())
        return _join(Or, parts)

    def _conjunction(self) -> Trigger:
        first = self._operand()
        if self._kind != "&&":
            return first
        parts = [first]
        while self._kind == "&&":
            self._advance()
            parts.append(self._operand())
        return _join(And, parts)

    def _operand(self) -> Trigger:
        """A term or a group; an operator, a `)` or the end must follow it."""
        if not self._kind:
            raise self._dangling(len(self._tokens) - 1, f"nothing follows `{self._quoted(-1)}`")
        kind, start, end = self._tokens[self._next]
        if kind not in ("term", "("):
            where = f"before `{self._quoted(self._next)}`"
            if self._next > 0:
                where = f"between `{self._quoted(self._next - 1)}` and `{self._quoted(self._next)}`"
            raise self._dangling(self._next, f"there is no event {where}")
        self._advance()
        tree = self._term(start, end) if kind == "term" else self._group(start)
        if self._kind in ("term", "("):
            before, after = self._quoted(self._next - 1), self._quoted(self._next)
            message = f"an operator is missing between `{before}` and `{after}`"
            start = self._tokens[self._next].start
            joins = self._text[:start].rstrip().endswith(("&", "+"))
            edit = Edit(start, start, "&& " if joins else "|| ")
            raise _error("trigger-syntax", start, 1, message, "write && or || there", edit)
        return tree

    def _term(self, start: int, end: int) -> Term:
        """The term that the text holds there. One with an error is reported."""
        try:
            return parse_term(self._text[start:end], start, self._problems)
        except ProblemError as error:
            # Beyond MAX_PROBLEMS errors are dropped, but the first one never is.
            if not self._failed or len(self._problems) < MAX_PROBLEMS:
                self._problems.append(self._as_the_others(error.problem))
            self._failed = True
            return _NO_TERM

    def _as_the_others(self, problem: Problem) -> Problem:
        """The problem of a term; where the correction makes an event of a name alone, it takes the
        type and the context from the first events of the trigger, if these agree."""
        if problem.code != "not-an-event" or not problem.edits:
            return problem
        first = self._tokens[:MAX_PROBLEMS]
        texts = (self._text[t.start : t.end] for t in first if t.kind == "term")
        others = {text.partition("-")[2] for text in texts if text.count("-") > 1}
        if len(others) != 1:
            return replace(problem, edits=()) if others else problem
        start, end, text = problem.edits[0]
        return replace(
            problem, edits=(Edit(start, end, f"{text.partition('-')[0]}-{others.pop()}"),)
        )

    def _dangling(self, index: int, message: str) -> ProblemError:
        """The error about the token at `index`: there is no event where one is expected."""
        kind, start, end = self._tokens[index]
        before = self._tokens[index - 1] if index else None
        hint = "write an event there"
        edits: tuple[Edit, ...] = ()
        if before is not None and before.kind == "(" and kind == ")":
            message = "there is no event in these parentheses"
            edits = self._without_group(index)
            return _error("trigger-syntax", start, 1, message, hint, *edits)
        if before is None or before.kind in ("(", kind) or index == len(self._tokens) - 1:
            # What follows a `(`, or repeats an operator, or ends the text, is one too many.
            hint += ", or remove the operator"
            edits = (Edit(start, end, ""),) if kind != ")" else ()
        if before is not None and kind == ")" and before.kind in ("&&", "||"):
            hint += ", or remove the operator"
            edits = (Edit(before.start, before.end, ""),)
        return _error("trigger-syntax", start, end - start, message, hint, *edits)

    def _without_group(self, index: int) -> tuple[Edit, ...]:
        """What removes the parentheses that the token at `index` closes, and one operator there."""
        first, last = index - 1, index
        operators = ("&&", "||")
        if first > 0 and self._tokens[first - 1].kind in operators:
            first -= 1
        elif index + 1 < len(self._tokens) and self._tokens[index + 1].kind in operators:
            last += 1
        if last - first == len(self._tokens) - 1:
            return ()
        start = self._tokens[first].start
        end = self._tokens[last].end
        # With the white space on one side.
        if first > 0:
            start = len(self._text[:start].rstrip())
        return (Edit(start, end, ""),)

    def _group(self, start: int) -> Trigger:
        """What is in the parentheses that were opened at `start`."""
        if len(self._opened) == MAX_NESTING:
            message = f"parentheses nest more than {MAX_NESTING} deep here"
            raise _error("too-deep", start, 1, message, "remove some")
        self._opened.append(start)
        tree = self._disjunction() if self._kind else None
        if tree is None or not self._kind:
            message = "this parenthesis is never closed"
            hint = "write the `)` that closes it"
            end = len(self._text.rstrip())
            edit = Edit(end, end, ")")
            raise _error("trigger-syntax", self._opened[-1], 1, message, hint, edit)
        self._advance()
        self._opened.pop()
        return tree

    def _advance(self) -> None:
        """Take the next token."""
        self._next += 1
        self._kind = self._tokens[self._next].kind if self._next < len(self._tokens) else ""

    def _quoted(self, index: int) -> str:
        """A token as messages quote it."""
        token = self._tokens[index]
        return shown(self._text[token.start : token.end])


def _tokens(text: str) -> Iterator[_Token]:
    operators = _OPERATOR if _may_have_words(text) else _SYMBOL
    at = 0
    for operator in operators.finditer(text):
        start, end = operator.span()
        if term := text[at:start].strip():
            at = text.index(term, at)
            yield _Token("term", at, at + len(term))
        kind = operator[0]
        yield _Token(kind if kind in _SYMBOLS else _WORDS[kind.lower()], start, end)
        at = end
    if term := text[at:].strip():
        at = text.index(term, at)
        yield _Token("term", at, at + len(term))


def _may_have_words(text: str) -> bool:
    """Whether words may be in a text that are operators. Soon seen, as nearly no text has any."""
    lower = text.lower()
    return ("and" in lower or "or" in lower) and _WORD.search(text) is not None


def term_places(text: str) -> Iterator[tuple[int, int]]:
    """Where each term of a text begins and ends, whether it is an event or not."""
    return ((token.start, token.end) for token in _tokens(text) if token.kind == "term")


def _join(kind: type[And | Or], parts: Sequence[Trigger]) -> Trigger:
    """One tree of `parts`, the only part itself. Parts of the same kind are merged into it."""
    if len(parts) == 1:
        return parts[0]
    merged: list[Trigger] = []
    for part in parts:
        if isinstance(part, kind):
            merged.extend(part.parts)
        else:
            merged.append(part)
    return kind(tuple(merged))  # type: ignore[arg-type]
