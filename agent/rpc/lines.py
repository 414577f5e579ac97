"""Cuts a stream of bytes into lines.

The stream is cut at every line feed and nowhere else: JSON has no bare line feed inside a value, so
what is between two of them is one message, valid or not. A bad line never affects the next one.
Only a line of more than MAX_LINE bytes ends the stream: its end may never come.
"""

from __future__ import annotations

from typing import Final

#: Bytes of one line, its line feed not counted. Far above any real request, and small enough for
#: every client to have one in memory.
MAX_LINE: Final = 1 << 20


class LineTooLong(Exception):
    """A line exceeds `MAX_LINE`."""

    def __init__(self, lines: list[bytes]) -> None:
        super().__init__(f"a line of more than {MAX_LINE} bytes")
        #: The complete lines before it.
        self.lines = lines


class Lines:
    """Cuts a stream of bytes into lines. Its cost is linear in the bytes, however they arrive."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._broken = False

    @property
    def pending(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._begun)

    @property
    def begun(self) -> bytes:
        """What has arrived of the unfinished line."""
        return bytes(self._begun)

    @property
    def size(self) -> int:
        """Bytes of the unfinished line."""
        return len(self._begun)

    def clear(self) -> None:
        """Drop the unfinished line."""
        self._begun = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes; return the lines that they complete, without their line feeds.

        Raises `LineTooLong` once, as soon as a line is known to be too long. Later bytes are
        dropped.
        """
        if self._broken:
            return []
        begun = self._begun
        lines = data.split(b"\n")
        rest = lines.pop()
        # Earlier bytes of the unfinished line are not searched again.
        if lines and begun:
            lines[0] = bytes(begun) + lines[0]
            begun.clear()
        # No line is too long if all of this together is not.
        if len(begun) + len(data) > MAX_LINE or (lines and len(lines[0]) > MAX_LINE):
            for number, line in enumerate(lines):
                if len(line) > MAX_LINE:
                    raise self._too_long(lines[:number])
            if len(begun) + len(rest) > MAX_LINE:
                raise self._too_long(lines)
        begun += rest
        return lines

    def _too_long(self, lines: list[bytes]) -> LineTooLong:
        self._broken = True
        self._begun.clear()
        return LineTooLong(lines)
