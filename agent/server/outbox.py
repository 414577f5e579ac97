"""Responses that a client has not read yet, and how many bytes are held for all clients together.

Nothing is copied: a large response that waits for two hundred clients is in memory once.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from itertools import islice

#: A response with its line feed: whole, or in the pieces that it was made of.
Line = bytes | tuple[bytes, ...]

#: Bytes from which a piece is kept as an object that several clients may share. Smaller ones are
#: cheaper to copy than to count.
MIN_SHARED = 1 << 16
#: Bytes that a waiting piece costs besides its own, for its view and its place in the queue.
PIECE_OVERHEAD = 300
#: Pieces in one write. The kernel takes at most 1,024 (IOV_MAX).
MAX_PIECES = 64


class Ledger:
    """Counts the bytes that are held for all clients together. What several hold counts once."""

    def __init__(self, limit: int, over: Callable[[], None]) -> None:
        """`over` is called whenever more than `limit` bytes are held."""
        self.total = 0
        self._limit = limit
        self._over = over
        #: By the id of each shared piece, in how many queues it is. The queues keep it alive.
        self._holders: dict[int, int] = {}

    def add(self, size: int) -> None:
        """Count bytes more, or fewer if negative."""
        self.total += size
        if self.total > self._limit and size > 0:
            self._over()

    def hold(self, piece: bytes) -> None:
        """Count a piece that was added to a queue."""
        if len(piece) < MIN_SHARED:
            self.add(len(piece) + PIECE_OVERHEAD)
            return
        holders = self._holders.get(id(piece), 0)
        self._holders[id(piece)] = holders + 1
        if not holders:
            self.add(len(piece))

    def release(self, piece: bytes) -> None:
        """Count a piece that was removed from a queue."""
        if len(piece) < MIN_SHARED:
            self.total -= len(piece) + PIECE_OVERHEAD
            return
        holders = self._holders.pop(id(piece)) - 1
        if holders:
            self._holders[id(piece)] = holders
        else:
            self.total -= len(piece)


class Outbox:
    """The queue of what one client has not read yet."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        #: Each piece, the view of its unsent part, and whether it ends a line.
        self._pieces: deque[tuple[bytes, memoryview, bool]] = deque()
        #: Bytes that wait, with what it costs to keep them.
        self.size = 0
        #: Whether what was sent so far ends with a complete line.
        self.between_lines = True

    def __len__(self) -> int:
        return len(self._pieces)

    def put(self, line: Line, sent: int = 0) -> None:
        """Add a line of which `sent` bytes are sent already."""
        if sent:
            self.between_lines = False
        pieces = (line,) if isinstance(line, bytes) else line
        last = len(pieces) - 1
        for number, piece in enumerate(pieces):
            if sent >= len(piece):
                sent -= len(piece)
                continue
            if sent and len(piece) < MIN_SHARED:
                piece, sent = piece[sent:], 0
            view = memoryview(piece)[sent:]
            sent = 0
            self._pieces.append((piece, view, number == last))
            self.size += len(view) + PIECE_OVERHEAD
            self._ledger.hold(piece)

    def send(self, descriptor: int) -> None:
        """Write what the kernel takes at once. Raises OSError; BlockingIOError if it takes none."""
        sent = os.writev(descriptor, [view for _, view, _ in islice(self._pieces, MAX_PIECES)])
        self.size -= sent
        while sent:
            piece, view, ends = self._pieces[0]
            if sent < len(view):
                self._pieces[0] = (piece, view[sent:], ends)
                self.between_lines = False
                return
            self._pieces.popleft()
            self.size -= PIECE_OVERHEAD
            self._ledger.release(piece)
            sent -= len(view)
            self.between_lines = ends

    def clear(self) -> None:
        """Drop everything."""
        for piece, _, _ in self._pieces:
            self._ledger.release(piece)
        self._pieces.clear()
        self.size = 0


def length(line: Line) -> int:
    """Bytes of a line."""
    return len(line) if isinstance(line, bytes) else sum(map(len, line))


def joined(pieces: list[bytes]) -> Line:
    """One line of these pieces. Small ones are joined, large ones stay as they are."""
    if sum(map(len, pieces)) < MIN_SHARED:
        return b"".join(pieces)
    line: list[bytes] = []
    small: list[bytes] = []
    for piece in pieces:
        if len(piece) < MIN_SHARED:
            small.append(piece)
            continue
        if small:
            line.append(b"".join(small))
            small = []
        line.append(piece)
    if small:
        line.append(b"".join(small))
    return tuple(line)
