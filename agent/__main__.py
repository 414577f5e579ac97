"""`python -m agent` does what the command `callback-agent` does."""

import sys

from agent.cli import main

if __name__ == "__main__":
    sys.exit(main())
