"""Subscriptions: every record, in order, on the connection that asked."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from support.agents import wait_for
from support.requests import CONF, STATUS, call, exchange, line
from support.sites import Site


def test_who_subscribed_gets_every_record_in_order(site: Site) -> None:
    with site.agent.connect() as one, one.makefile("rb") as lines:
        # Twice is once.
        one.sendall(call("subscribe") * 2)
        first = json.loads(lines.readline())["result"]
        assert first == json.loads(lines.readline())["result"]
        listed = site.agent.call("list")
        status = site.agent.status()
        newest = {"instance": status["instance"], "sequence": status["sequence"]}
        assert first == {
            "generation": listed["generation"], "digest": listed["digest"], **newest
        }  # fmt: skip
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
            # Else the edit may be served and recorded before anybody has subscribed.
            (site.directory / "a.py").write_text("1\n")
            one.sendall(call("subscribe", 1) + call("reload", 2) + call("status", 3))
        got = [json.loads(lines.readline())]
        while "method" not in got[-1]:
            got.append(json.loads(lines.readline()))
        while got[-1].get("id") != 3:
            got.append(json.loads(lines.readline()))
    # The edit may have been served before the reload, by an event; but it was reported.
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


# What was missed ---------------------------------------------------------------------------------


def subscribed(site: Site, **params: Any) -> dict[str, Any]:
    """The result of `subscribe`."""
    result: dict[str, Any] = site.agent.call("subscribe", params)
    return result


def test_who_says_what_it_has_gets_what_it_missed(site: Site) -> None:
    before = subscribed(site)
    assert "missed" not in before
    position = {"instance": before["instance"], "sequence": before["sequence"]}
    assert subscribed(site, since=position) == {**before, "missed": []}
    site.seen()
    for text in ("1\n", "2\n"):
        site.edit(CONF, a_py=text)
    after = subscribed(site, since=position)
    assert after["missed"] == site.records() != []
    assert after["sequence"] == after["missed"][-1]["sequence"]
    assert subscribed(site, since={**position, "sequence": 0})["missed"] == site.agent.history()
    # Of another run of the agent, or of a record that this one has not made.
    for unknown in (
        {**position, "instance": "0123456789abcdef"},
        {**position, "instance": ""},
        {**position, "sequence": after["sequence"] + 1},
        {**position, "sequence": 2**63 - 1},
    ):
        assert subscribed(site, since=unknown) == {**after, "missed": None}


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        *(({"heartbeat": wrong}, "/heartbeat") for wrong in (0, -1, 0.09, 3600.5, 1e30, "1", None)),
        ({"heartbeat": True}, "/heartbeat"),
        ({"heart": 1}, "/heart"),
        ({"since": None}, "/since"),
        ({"since": {"instance": "x"}}, "/since"),
        ({"since": {"instance": "x", "sequence": -1}}, "/since/sequence"),
        ({"since": {"instance": 7, "sequence": 1}}, "/since/instance"),
        ({"since": {"instance": "x", "sequence": 1, "time": 5}}, "/since/time"),
    ],
)
def test_wrong_parameters_are_refused_and_nothing_is_sent(
    site: Site, params: dict[str, Any], pointer: str
) -> None:
    with site.agent.connect() as one, one.makefile("rb") as lines:
        one.sendall(call("subscribe", **params))
        error = json.loads(lines.readline())["error"]
        assert (error["code"], error["data"]["pointer"]) == (-32602, "/params" + pointer)
        if pointer == "/heartbeat":
            assert "a number from 0.1 to 3600" in error["message"]
        site.edit(CONF, a_py="1\n")
        one.sendall(STATUS)
        assert json.loads(lines.readline())["id"] == 1


#: Lines that make each record longer than what is copied on the loop.
MANY = 200


def many(version: int) -> str:
    return "".join(f"a.py = v{version}n{n}-job-self\n" for n in range(MANY))


class Follower:
    """A subscriber that comes and goes, and must get each record once, in order."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.instance = site.agent.status()["instance"]
        self.have = site.agent.status()["sequence"]
        self.missed = self.notified = 0

    def got(self, record: dict[str, Any]) -> None:
        assert record["sequence"] == self.have + 1
        self.have += 1

    def follow(self, until: int, most: int, batch: bool) -> None:
        """Subscribe, in a batch with other requests where wanted, and read so many records."""
        since = {"instance": self.instance, "sequence": self.have}
        request = json.loads(call("subscribe", "s", since=since))
        status = json.loads(STATUS)
        with self.site.agent.connect() as one, one.makefile("rb") as lines:
            one.sendall(line([status] * 20 + [request] + [status] * 20) if batch else line(request))
            answer = json.loads(lines.readline())
            for part in answer if batch else [answer]:
                if part["id"] == "s":
                    answer = part
            result = answer["result"]
            for record in result["missed"]:
                self.got(record)
                self.missed += 1
            assert self.have == result["sequence"]
            for _ in range(most):
                if self.have >= until:
                    break
                self.got(json.loads(lines.readline())["params"])
                self.notified += 1


def test_no_record_is_lost_or_comes_twice_while_edits_go_on(site: Site) -> None:
    followers = [Follower(site) for _ in range(3)]
    edits = 25
    until = followers[0].have + edits
    errors: list[BaseException] = []

    def edit() -> None:
        try:
            for version in range(edits):
                site.edit(many(version))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=edit)
    thread.start()
    try:
        turn = 0
        while min(follower.have for follower in followers) < until and not errors:
            for number, follower in enumerate(followers):
                follower.follow(until, (turn + number) % 3, batch=(turn + number) % 2 == 0)
            turn += 1
    finally:
        thread.join()
    assert not errors
    assert [follower.have for follower in followers] == [until] * 3
    assert all(follower.missed and follower.notified for follower in followers)
    # Results of more than a MiB are put together in a thread.
    since = {"instance": followers[0].instance, "sequence": until - edits}
    missed, history = exchange(site.agent, call("subscribe", since=since) + call("history"))
    assert len(json.dumps(missed)) > 1 << 20
    assert missed["result"]["missed"] == history["result"]["records"][-edits:]


def test_a_subscription_in_a_batch_begins_after_the_batch(site: Site) -> None:
    """What is recorded while the batch is answered comes after its responses."""
    with site.agent.connect() as one, one.makefile("rb") as lines:
        with site.at_once():
            (site.directory / "a.py").write_text("1\n")
            requests = [json.loads(call(m, n)) for n, m in enumerate(("subscribe", "reload"))]
            one.sendall(line(requests) + STATUS)
        subscribe, reload = (answer["result"] for answer in json.loads(lines.readline()))
        records = [json.loads(lines.readline())]
        while "method" in records[-1]:
            records.append(json.loads(lines.readline()))
        assert records.pop()["id"] == 1
        sequences = [record["params"]["sequence"] for record in records]
        assert sequences == list(range(subscribe["sequence"] + 1, reload["sequence"] + 1))
        # The last one counts.
        one.sendall(line([json.loads(call(m)) for m in ("subscribe", "unsubscribe")]))
        assert len(json.loads(lines.readline())) == 2
        site.edit(CONF, a_py="2\n")
        one.sendall(STATUS)
        assert json.loads(lines.readline())["id"] == 1


# Heartbeats --------------------------------------------------------------------------------------


@contextmanager
def beating(site: Site, heartbeat: float) -> Iterator[tuple[socket.socket, Any]]:
    """A subscriber with heartbeats, and what it receives."""
    with site.agent.connect() as one, one.makefile("rb") as lines:
        one.sendall(call("subscribe", heartbeat=heartbeat))
        assert "result" in json.loads(lines.readline())
        yield one, lines


def beat(lines: Any) -> dict[str, Any]:
    """The next message, which must be a heartbeat."""
    message = json.loads(lines.readline())
    assert message.pop("jsonrpc") == "2.0"
    params: dict[str, Any] = message.pop("params")
    assert message == {"method": "heartbeat"}
    return params


def test_heartbeats_say_what_is_served_until_they_are_not_wanted(site: Site) -> None:
    def index() -> dict[str, Any]:
        listed = site.agent.call("list")
        return {"generation": listed["generation"], "digest": listed["digest"]}

    with beating(site, 0.1) as (one, lines), beating(site, 0.1) as (_, clock):
        for _ in range(3):
            assert beat(lines) == index()
        site.edit(CONF, a_py="1\n")
        while (message := json.loads(lines.readline()))["method"] == "heartbeat":
            pass
        assert message["params"]["digest"] == index()["digest"] == beat(lines)["digest"]
        # The newest `subscribe` counts, and then `unsubscribe`.
        for end in (call("subscribe", "end"), call("unsubscribe", "end")):
            one.sendall(call("subscribe", heartbeat=0.1) + end)
            while json.loads(lines.readline()).get("id") != "end":
                pass
            for _ in range(3):
                clock.readline()
            one.sendall(STATUS)
            assert json.loads(lines.readline())["id"] == 1


def test_who_does_not_read_is_sent_no_more_heartbeats(site: Site) -> None:
    site.edit(CONF, a_py="#" * 2_000_000)
    with beating(site, 0.1) as (one, lines), beating(site, 0.1) as (_, clock):
        one.sendall(call("list", "l", code=True))
        wait_for(lambda: len(one.recv(1 << 16, socket.MSG_PEEK)) > 50_000, "the list")
        # The rest of the list waits until it is read.
        for _ in range(5):
            clock.readline()
        # Sent before the rest is read, so that it is answered as soon as that is.
        one.sendall(STATUS)
        while json.loads(lines.readline()).get("id") != "l":
            pass
        behind = 0
        while "id" not in json.loads(lines.readline()):
            behind += 1
        assert behind < 5
        beat(lines)
