"""What no agent can do without: read the lines, hash the files. `read_and_hash.py DIRECTORY...`

Run as a fresh process beside the agent's start. Prints the number of lines.
"""

import hashlib
import sys
from pathlib import Path


def read(directory: Path) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """File and trigger of each line of callbacks.conf, and the digest of each file named."""
    lines = []
    digests = {}
    for line in (directory / "callbacks.conf").read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        name, _, trigger = line.partition("=")
        lines.append((name.strip(), trigger.strip()))
    for name, _ in lines:
        if name not in digests:
            digests[name] = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    return lines, digests


units = [read(Path(argument)) for argument in sys.argv[1:]]
print(sum(len(lines) for lines, _ in units), flush=True)
