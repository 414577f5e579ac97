"""One thread that asks as fast as it is answered: `asker.py WHOM PATH SECONDS` prints how many
answers came in a second. WHOM is one of ASKERS, PATH the socket."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

# Answers between two looks at the clock, and before the first.
BATCH = 200


def known(path: str) -> Callable[[int], object]:
    """A mirror, asked for one event again and again."""
    mirror = _mirror(path)
    return lambda number: mirror.lookup("done-job-self")


def new(path: str) -> Callable[[int], object]:
    """A mirror, asked for another event each time."""
    mirror = _mirror(path)
    return lambda number: mirror.lookup(f"complete-work-self-frame-{number}")


def redis_py(path: str) -> Callable[[int], object]:
    """redis-py, asked for the value of one key."""
    import redis

    one = redis.Redis(unix_socket_path=path)
    return lambda number: one.get("answer")


ASKERS = {"mirror-known": known, "mirror-new": new, "redis-py": redis_py}


def _mirror(path: str):  # type: ignore[no-untyped-def]
    from agent.mirror import Mirror

    mirror = Mirror(path)
    mirror.wait(60.0)
    return mirror


def main(whom: str, path: str, seconds: float) -> float:
    """Answers in a second."""
    ask = ASKERS[whom](path)
    for number in range(BATCH):
        assert ask(number)
    asked = BATCH
    began = time.perf_counter()
    while True:
        for number in range(asked, asked + BATCH):
            ask(number)
        asked += BATCH
        # Read after the first: this process may be suspended before it.
        if (now := time.perf_counter()) >= began + seconds:
            return (asked - BATCH) / (now - began)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    print(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
