"""Runs the callbacks that the agent says fire.

`run` takes an answer of `Client.lookup(code=True)` and a `Farm`, the object in which a supervisor
does what callbacks ask for. The code that runs is that of the answer, never that on disk.
"""

from agent.runner.arguments import MAX_TIME_LIMIT
from agent.runner.farm import Farm, Target
from agent.runner.output import TAIL_BYTES
from agent.runner.run import (
    DEFAULT_INTERPRETERS,
    DEFAULT_TIME_LIMIT,
    Interpreters,
    Outcome,
    Result,
    clean_environment,
    interpreter,
    obstacle,
    run,
)

__all__ = [
    "DEFAULT_INTERPRETERS",
    "DEFAULT_TIME_LIMIT",
    "MAX_TIME_LIMIT",
    "TAIL_BYTES",
    "Farm",
    "Interpreters",
    "Outcome",
    "Result",
    "Target",
    "clean_environment",
    "interpreter",
    "obstacle",
    "run",
]
