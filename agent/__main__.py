"""`python -m agent` and the command `callback-agent`."""

import contextlib
import sys


def main() -> int:
    """Run the command that the process's arguments name; its exit status."""
    if sys.argv[1:2] == ["serve"]:
        # Before the imports, which take a tenth of a second: a SIGHUP must not end the process.
        from agent.daemon import memory, signals

        memory.collect_young_objects_only()

        # Where that fails, the command tries again and reports it.
        with contextlib.suppress(OSError, RuntimeError):
            signals.start()
    from agent import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
