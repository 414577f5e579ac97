"""The command `top`: what the agent does, live."""

from __future__ import annotations

import contextlib
import math
import os
import select
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import click

from agent.cli import screen
from agent.cli.asking import no_agent, not_understood
from agent.cli.exits import USAGE, Failed
from agent.cli.feed import Feed
from agent.cli.openmetrics import Callback
from agent.cli.options import pipe_option
from agent.cli.output import is_dumb, is_terminal, paint, print_lines
from agent.cli.record_words import word
from agent.cli.rendering import JsonObject, span
from agent.cli.screen import Cell, Row, Size, cut
from agent.cli.status import facts, fitting, reasons, state, verdict
from agent.core.counting import count
from agent.core.quoting import printable
from agent.core.record_event import STILL_HELD

#: Seconds between two looks at the keys, the records that came, and the size of the terminal.
REFRESH_INTERVAL = 0.2
#: What ends `top`. The terminal gives \x04 for ctrl-D.
QUIT = frozenset("qQ\x04")

_COLOURS = {"held": "red", STILL_HELD: "red", "restored": "green"}


@click.command()
@pipe_option
def top(pipe: str | None) -> int:
    """Show live what the agent does, until q is pressed.

    Shows the state and what is held, how many lookups are answered and how fast, the callbacks that
    match most often, and the records as they come. Needs a terminal. One that can only print lines
    (TERM=dumb) gets one line at each change.
    """
    if not is_terminal() or sys.stdin is None or not sys.stdin.isatty():
        raise Failed(USAGE, "top needs a terminal: use status, log -f or metrics instead")
    feed = Feed(pipe)
    try:
        feed.update()
        if feed.gone:
            raise no_agent(feed.gone, pipe)
        if is_dumb():
            _print_lines(feed)
        else:
            _show(feed)
    except (LookupError, TypeError, ValueError, AttributeError):
        raise not_understood() from None
    except KeyboardInterrupt:
        pass  # ctrl-C is how many leave it.
    finally:
        feed.close()
    return 0


def _show(feed: Feed) -> None:
    """Show the feed until a key in QUIT is pressed."""
    from rich.live import Live
    from rich.text import Text

    shown: Size | None = None
    with (
        _keys() as keyboard,
        Live(console=screen.console(), screen=True, auto_refresh=False) as live,
    ):
        while True:
            size = screen.terminal_size()
            if feed.update() or size != shown:
                shown = size
                live.console.size = size
                text = Text.from_ansi("\n".join(view(feed, size)), no_wrap=True, overflow="crop")
                live.update(text, refresh=True)
            if _quits(keyboard):
                return


def _print_lines(feed: Feed) -> None:
    """Print a line about the feed when it changes, until a key in QUIT is pressed."""
    before = ""
    with _keys() as keyboard:
        while True:
            text = summary(feed)
            if text != before:
                print_lines([f"{datetime.now(UTC).astimezone():%H:%M:%S} {text}"])
                before = text
            if _quits(keyboard):
                return
            feed.update()


def _quits(keyboard: int) -> bool:
    """Whether a key in QUIT is pressed within REFRESH_INTERVAL."""
    if not select.select([keyboard], [], [], REFRESH_INTERVAL)[0]:
        return False
    keys = os.read(keyboard, 1024)
    return not keys or bool(QUIT & set(keys.decode("latin-1")))


@contextlib.contextmanager
def _keys() -> Iterator[int]:
    """Standard input, on which each key can be read when it is pressed."""
    import termios
    import tty

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard)
        yield keyboard
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def view(feed: Feed, size: Size) -> list[str]:
    """The lines that are on the screen: as many as it has, none longer than it is wide."""
    columns, status = size.columns, feed.status
    if columns < screen.MIN_COLUMNS:
        lines = screen.wrap(summary(feed), columns)[: max(1, size.lines - 1)]
        return [*lines, cut("q quits", columns)][: size.lines]
    if feed.gone:
        head = [paint(cut(_gone(feed), columns), "red")]
    else:
        head = [verdict(status, columns)]
    head += facts(status, columns)
    if feed.latency:
        half, most = map(_time, feed.latency)
        head.append(cut(f"latency: half of the lookups {half}, 99 % {most}", columns))
    # The last line says how to leave; each part begins with an empty line.
    room = max(0, size.lines - len(head) - 1)
    parts = []
    if why := fitting(reasons(status, columns), max(1, room // 3)):
        parts.append([line for lines in why for line in lines])
    if feed.callbacks:
        parts.append(_matches(feed.callbacks[: max(1, room // 3 - 1)], columns))
    left = room - sum(len(part) + 1 for part in parts) - 2
    if left > 0:
        parts.append(_records([*feed.records][-left:][::-1], columns))
    body = [line for part in parts for line in ("", *part)][:room]
    body += [""] * (room - len(body))
    return [*head, *body, cut("q quits", columns)][: size.lines]


def summary(feed: Feed) -> str:
    """All of it in one line."""
    status = feed.status
    parts = [_gone(feed) if feed.gone else state(status)]
    parts.append(f"{count(status['callbacks'], 'callback')}, generation {status['generation']}")
    if "lookups" in status:
        parts.append(f"{status['lookups']['per_second']:.1f} lookups per second")
    if feed.latency:
        parts.append(f"99 % {_time(feed.latency[1])}")
    if feed.records:
        record = feed.records[-1]
        about = ", ".join(filter(None, (_outcome(record), _cause(record))))
        parts.append(f"last record: {word(record)}" + (f", {about}" if about else ""))
    return printable("; ".join(parts))


def _gone(feed: Feed) -> str:
    return f"no agent answers: {printable(feed.gone)}; what follows is what it said last"


def _matches(callbacks: Sequence[Callback], columns: int) -> list[str]:
    """The callbacks that match most often, as a table."""
    rows = [
        Row([Cell(str(c.matches)), Cell(_ago(c.ago)), Cell(c.path), Cell(c.trigger)])
        for c in callbacks
    ]
    return list(screen.table(("MATCHES", "LAST", "CALLBACK", "TRIGGER", ""), rows, columns, (0, 1)))


def _ago(seconds: float | None) -> str:
    """How long ago a match was."""
    return "never" if seconds is None else f"{span(seconds)} ago"


def _records(records: Iterable[JsonObject], columns: int) -> list[str]:
    """These records as a table."""
    rows = [
        Row(
            [
                Cell(f"{datetime.fromisoformat(record['time']).astimezone():%m-%d %H:%M:%S}"),
                Cell(word(record), _COLOURS.get(word(record), "cyan")),
                Cell(str(record["generation"])),
                Cell(_outcome(record)),
                Cell(_cause(record)),
            ]
        )
        for record in records
    ]
    headings = ("TIME", "RECORD", "GENERATION", "OUTCOME", "CAUSE", "")
    return list(screen.table(headings, rows, columns, range(4)))


def _outcome(record: JsonObject) -> str:
    """What changed, and what is wrong after it, in numbers."""
    changes = Counter(change["change"] for change in record["changes"])
    parts = [f"{number} {change}" for change, number in changes.items()]
    if record["held"]:
        parts.append(f"{len(record['held'])} held")
    if errors := sum(d["severity"] == "error" for d in record["diagnostics"]):
        parts.append(count(errors, "error"))
    return ", ".join(parts)


def _cause(record: JsonObject) -> str:
    """The first cause, and how many more there are."""
    causes = record["causes"]
    if not causes:
        return ""
    return str(causes[0]["path"]) + (f" and {len(causes) - 1} more" if len(causes) > 1 else "")


def _time(seconds: float) -> str:
    """An upper bound of a duration: `within 25 us`, `within 2.5 ms`, `over 10 s`."""
    if seconds == math.inf:
        return "over 10 s"
    units = ("s", 1.0), ("ms", 1e-3), ("us", 1e-6)
    unit, size = next((one for one in units if seconds >= one[1]), units[-1])
    return f"within {seconds / size:g} {unit}"
