"""A program: a command of the agent, with other times and limits than it has by default."""

from __future__ import annotations

import sys

import msgspec

from agent import cli
from agent.timing import Timing


def run_with(timing: Timing) -> list[str]:
    """The arguments of Python that run this program; those of the agent's command follow."""
    # -P: the other files of this folder are no modules for it.
    return ["-P", __file__, msgspec.json.encode(timing).decode()]


if __name__ == "__main__":
    given = msgspec.json.decode(sys.argv.pop(1), type=Timing)
    sys.exit(cli.main(timing=given))
