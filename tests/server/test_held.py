"""While a directory is held, results say so; otherwise nothing of it is in them."""

from __future__ import annotations

import json
from typing import Any

from agent.client import Client
from support.agents import DEADLINE, write
from support.requests import CONF, exchange, line
from support.sites import Site

EVENT = "done-job-self"


def asked(site: Site) -> list[Any]:
    """What `held` is in each method's result, asked alone, pipelined and in a batch, with and
    without what a cache may have; a result without it is None."""
    methods: list[tuple[str, dict[str, Any]]] = [
        *(("lookup", {"event": EVENT}), ("explain", {"event": EVENT}), ("list", {}))
    ]
    methods += [(m, {**params, "code": True}) for m, params in methods]
    methods.append(("lookup", {"event": "never-job-asked"}))
    requests: list[dict[str, Any]] = [
        {"jsonrpc": "2.0", "id": n, "method": m, "params": p} for n, (m, p) in enumerate(methods)
    ]
    alone = [site.agent.call(m, p) for m, p in methods]
    pipelined = exchange(site.agent, b"".join(map(line, requests)))
    [batch] = exchange(site.agent, line(requests))
    for answers in (pipelined, batch):
        assert [json.dumps(a["result"]) for a in answers] == [json.dumps(a) for a in alone]
    return [result.get("held") for result in alone]


def test_results_name_what_is_held_from_the_record_to_the_next(site: Site) -> None:
    here, there = str(site.directory), str(site.folder / "there")
    write(site.folder / "there", "b.py = done-job-self\n", b_py="0\n")
    site.path_list(site.directory, site.folder / "there")
    assert asked(site) == [None] * 7
    before = site.agent.status()
    site.edit("nonsense\n")
    assert asked(site) == [[here]] * 7
    # Held or not, the same index is served: only what is said of it changes.
    write(site.folder / "there", "nonsense\n")
    site.reload()
    assert asked(site) == [[here, there]] * 7
    site.edit(CONF)
    assert asked(site) == [[there]] * 7
    after = site.agent.status()
    assert [after[k] for k in ("generation", "digest")] == [
        before[k] for k in ("generation", "digest")
    ]
    # A directory that is listed no more is not held, though nobody corrected it.
    site.path_list(site.directory)
    assert asked(site) == [None] * 7


def test_a_subscription_knows_what_is_held(site: Site) -> None:
    with Client(str(site.agent.pipe), DEADLINE).subscribe() as records:
        assert records.held == []
        assert "held" not in site.agent.call("subscribe")
        site.edit("nonsense\n")
        records.next(DEADLINE)
        assert records.held == [str(site.directory)] == site.agent.call("subscribe")["held"]
        with Client(str(site.agent.pipe), DEADLINE).subscribe() as later:
            assert later.held == records.held
        site.edit(CONF)
        records.next(DEADLINE)
        assert records.held == []


def test_results_agree_with_status_at_every_instant(site: Site) -> None:
    """Whatever a client reads between two equal states was never said of another."""
    one = line({"jsonrpc": "2.0", "id": 1, "method": "status"})
    two = line({"jsonrpc": "2.0", "id": 2, "method": "lookup", "params": {"event": EVENT}})
    seen = set()
    with site.agent.connect() as talk, talk.makefile("rb") as answers:
        for number in range(60):
            if number % 3 == 0:
                bad = number % 2 == 0
                (site.directory / "callbacks.conf").write_text("nonsense\n" if bad else CONF)
            talk.sendall(one + two + one)
            first, found, last = (json.loads(answers.readline())["result"] for _ in range(3))
            held = [[d["path"] for d in s["directories"] if d["held"]] for s in (first, last)]
            if held[0] == held[1]:
                assert found.get("held", []) == held[0]
                seen.add(bool(held[0]))
            if number % 3 == 2:
                site.reload()
    assert seen == {True, False}
    site.edit(CONF)
