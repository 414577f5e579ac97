"""`python -m support.run_with TIMING COMMAND ...`: the agent with other times and limits.

TIMING is what `encoded` makes of a `Timing`.
"""

from __future__ import annotations

import sys

import msgspec

from agent import cli
from agent.timing import Timing


def encoded(timing: Timing) -> str:
    """A `Timing` as an argument of a program."""
    return msgspec.json.encode(timing).decode()


if __name__ == "__main__":
    given = msgspec.json.decode(sys.argv.pop(1), type=Timing)
    sys.exit(cli.main(timing=given))
