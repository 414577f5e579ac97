"""Subscriptions: every record, in order, on the connection that asked."""

from __future__ import annotations

import json

from support.agents import wait_for
from support.requests import CONF, STATUS, call
from support.sites import Site


def test_who_subscribed_gets_every_record_in_order(site: Site) -> None:
    with site.agent.connect() as one, one.makefile("rb") as lines:
        # Twice is once.
        one.sendall(call("subscribe") * 2)
        first = json.loads(lines.readline())["result"]
        assert first == json.loads(lines.readline())["result"]
        listed = site.agent.call("list")
        assert first == {"generation": listed["generation"], "digest": listed["digest"]}
        site.seen()
        for text in ("1\n", "2\n", "3\n"):
            site.edit(CONF, a_py=text)
        site.edit("nonsense\n")
        site.edit(CONF)
        # No record, no notification.
        site.reload()
        got = [json.loads(lines.readline()) for _ in range(5)]
        assert {(n["jsonrpc"], n["method"]) for n in got} == {("2.0", "reload")}
        assert all(set(n) == {"jsonrpc", "method", "params"} for n in got)
        assert [n["params"] for n in got] == site.records()
        one.sendall(call("unsubscribe", 9))
        assert json.loads(lines.readline()) == {"jsonrpc": "2.0", "id": 9, "result": {}}
        site.edit(CONF, a_py="4\n")
        one.sendall(STATUS)
        assert json.loads(lines.readline())["id"] == 1


def test_a_subscription_is_of_its_connection_alone(site: Site) -> None:
    with site.agent.connect() as one, site.agent.connect() as other:
        for connection in (one, other):
            connection.sendall(call("subscribe"))
            connection.recv(65536)
        other.sendall(call("unsubscribe"))
        other.recv(65536)
        site.edit(CONF, a_py="1\n")
        assert b'"method":"reload"' in one.recv(65536)
        other.sendall(STATUS)
        assert b'"method"' not in other.recv(65536)


def test_the_notification_of_a_reload_comes_before_its_answer(site: Site) -> None:
    with site.agent.connect() as one, one.makefile("rb") as lines:
        with site.at_once():
            # Else the edit may be served, and told of, before anybody has subscribed.
            (site.directory / "a.py").write_text("1\n")
            one.sendall(call("subscribe", 1) + call("reload", 2) + call("status", 3))
        got = [json.loads(lines.readline())]
        while "method" not in got[-1]:
            got.append(json.loads(lines.readline()))
        while got[-1].get("id") != 3:
            got.append(json.loads(lines.readline()))
    # By the events the edit may have been served before the reload, but it was told of.
    assert [g["id"] for g in got if "id" in g] == [1, 2, 3]
    assert len([g for g in got if g.get("method") == "reload"]) == 1


def test_a_subscriber_that_goes_is_forgotten(site: Site) -> None:
    before = site.agent.status()["clients"]
    with site.agent.connect() as one:
        one.sendall(call("subscribe"))
        one.recv(65536)
    wait_for(lambda: site.agent.status()["clients"] <= before)
    site.edit(CONF, a_py="1\n")
    assert site.agent.served()
