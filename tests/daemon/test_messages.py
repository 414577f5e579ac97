"""What is logged: on standard error from a thread, and the last of it for `status`."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from agent.daemon.messages import MAX_NOTES, MessageHandler


@pytest.fixture
def handler() -> Iterator[MessageHandler]:
    level = logging.getLogger("agent").level
    one = MessageHandler()
    one.install()
    yield one
    logging.getLogger().removeHandler(one)
    logging.getLogger("agent").setLevel(level)
    # Its thread writes to standard error, which the next test may read.
    one.drain(60)


def test_messages_of_the_agent_and_warnings_of_libraries_are_taken(
    handler: MessageHandler, capfd: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("agent.disk.watch").info("scanning every %d s", 30)
    logging.getLogger("asyncio").info("not this")
    logging.getLogger("asyncio").warning("slow callback")
    handler.drain(60)
    assert handler.last == ["scanning every 30 s", "slow callback"]
    assert capfd.readouterr().err == (
        "callback-agent: scanning every 30 s\ncallback-agent: slow callback\n"
    )


@pytest.mark.parametrize(
    ("text", "value", "written"),
    [("%s", "a\udcff", b"a\\udcff"), ("%d and %d", "one", b"%d and %d")],
    ids=["not UTF-8", "wrong arguments"],
)
def test_no_message_raises(
    handler: MessageHandler,
    capfdbinary: pytest.CaptureFixture[bytes],
    text: str,
    value: str,
    written: bytes,
) -> None:
    # Not through a logger: the handlers of pytest would raise.
    handler.handle(logging.LogRecord("agent", logging.INFO, "", 0, text, (value,), None))
    handler.drain(60)
    assert capfdbinary.readouterr().err == b"callback-agent: " + written + b"\n"


def test_only_the_last_are_kept(handler: MessageHandler) -> None:
    for number in range(2 * MAX_NOTES):
        logging.getLogger("agent").info("message %d", number)
    assert len(handler.last) == MAX_NOTES
    assert handler.last[-1] == f"message {2 * MAX_NOTES - 1}"
