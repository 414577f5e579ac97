"""The command `help`: the manual in the terminal."""

from __future__ import annotations

import re

import click

from agent import manual
from agent.cli.completing import pages
from agent.cli.exits import USAGE, Failed
from agent.cli.input import not_empty
from agent.cli.output import paint, print_page
from agent.cli.usage import did_you_mean

#: The title of a page, a heading, or a topic in the list of topics.
_STANDS_OUT = re.compile(
    r"\A.+$ | ^[A-Z][A-Z\ ,'*-]+$ | ^Finding\ codes.*:$ | ^\ \ [\w-]+(?=\ \ )",
    re.MULTILINE | re.VERBOSE,
)


@click.command("help")
@click.argument("topic", metavar="[TOPIC|CODE]", required=False, shell_complete=pages)
def help_(topic: str | None) -> int:
    """Show a page of the manual, or the meaning of a finding's code.

    The page of a code says what it means and how to correct it. Without an argument: the list of
    topics and codes.

    Exit status: 0 shown, 2 no such page.
    """
    if topic is None:
        print_page(_coloured(manual.overview()))
        return 0
    page = manual.find(not_empty(topic, "TOPIC"))
    if page is None:
        meant = did_you_mean(manual.near(topic))
        raise Failed(
            USAGE,
            f"the manual has no page {topic}{meant}; expected a finding's code or one of"
            f" {', '.join(manual.topics())}",
        )
    print_page(_coloured(manual.rendered(page)))
    return 0


def _coloured(page: str) -> str:
    """The page with its titles and topics in colour, if the output is a terminal."""
    return _STANDS_OUT.sub(lambda found: paint(found[0], "cyan"), page)
