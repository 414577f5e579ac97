"""Exit statuses that all commands share, and what stops a command with one of them."""

from __future__ import annotations

#: Bad usage or settings.
USAGE = 2
#: No agent, or one that does not answer.
NO_AGENT = 3
#: Another daemon has the directory. `serve` has the same for the pipe (agent.daemon).
IN_USE = 4
#: The output could not be written.
NO_OUTPUT = 5


class Failed(Exception):
    """Stops a command: the exit status, and one line that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
