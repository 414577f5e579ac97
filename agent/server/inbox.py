"""What a client sent that is not carried out yet: bytes, cut into lines step by step."""

from __future__ import annotations

from collections import deque

from agent.rpc.lines import Lines, LineTooLong

#: Bytes that may wait before no more is read from a client.
MAX_WAITING_INPUT = 1 << 16
#: Bytes of complete lines that are taken in one step.
MAX_PIECE = 4096


class Inbox:
    """The queue of one client's bytes and lines. Each step costs little, however much waits."""

    def __init__(self) -> None:
        #: What was received, and how many bytes of it are cut into lines.
        self._received = b""
        self._cut = 0
        self._unfinished = Lines()
        self._lines: deque[bytes] = deque()

    @property
    def size(self) -> int:
        """Bytes that wait."""
        waiting = sum(map(len, self._lines))
        return len(self._received) - self._cut + self._unfinished.size + waiting

    @property
    def full(self) -> bool:
        """Whether no more should be read from the client at present."""
        return len(self._received) - self._cut > MAX_WAITING_INPUT

    @property
    def has_bytes(self) -> bool:
        """Whether there are bytes that are not cut into lines."""
        return self._cut < len(self._received)

    @property
    def has_unfinished_line(self) -> bool:
        """Whether a line has begun and not ended."""
        return self._unfinished.pending

    @property
    def unfinished_line(self) -> bytes:
        """What has arrived of a line that has begun and not ended."""
        return self._unfinished.begun

    def put(self, data: bytes) -> None:
        """Add what was received."""
        self._received = self._received[self._cut :] + data
        self._cut = 0

    def take_line(self) -> bytes | None:
        """The next complete line, without its line feed, if one is cut off already."""
        return self._lines.popleft() if self._lines else None

    def take_piece(self) -> bytes | None:
        """The next complete lines, at most MAX_PIECE bytes, with their line feeds. None if the next
        line is longer, or not complete."""
        if self._unfinished.pending:
            return None
        end = self._received.rfind(b"\n", self._cut, self._cut + MAX_PIECE) + 1
        if end <= self._cut:
            return None
        piece = self._received[self._cut : end]
        self._cut = end
        return piece

    def split(self, piece: bytes) -> None:
        """Put back what `take_piece` returned, as lines."""
        self._lines.extend(self._unfinished.feed(piece))

    def cut_line(self) -> bool:
        """Cut up to the end of the next line; whether it ended. Raises LineTooLong, and then drops
        all bytes from that line on."""
        data, start = self._received, self._cut
        end = data.find(b"\n", start) + 1 or len(data)
        self._cut = end
        try:
            lines = self._unfinished.feed(data[start:end] if start or end < len(data) else data)
        except LineTooLong as too_long:
            self._lines.extend(too_long.lines)
            self._received, self._cut = b"", 0
            raise
        self._lines.extend(lines)
        return bool(lines)

    def clear(self) -> None:
        """Drop everything."""
        self._received, self._cut = b"", 0
        self._unfinished.clear()
        self._lines.clear()
