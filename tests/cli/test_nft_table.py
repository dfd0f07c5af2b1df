"""The lockdown's table: what is read back must be what was written, rule by rule."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from robin.cli.nft_table import Lockdown, LockdownFailed, check, name_servers, render

LOCKDOWN = Lockdown(gateway=(("10.0.0.1", 8081), ("fd00::1", 8081)), dns=(("10.0.0.53", 53),))


def match(kind: dict[str, Any], right: object, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": kind, "right": right}}


def payload(protocol: str, name: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": name}}


def listing() -> dict[str, Any]:
    """As nft 1.0.6 shows it."""
    accept: dict[str, None] = {"accept": None}
    rules = [
        [match({"meta": {"key": "oifname"}}, "lo"), accept],
        [match({"ct": {"key": "state"}}, "established", "in"), accept],
        [match(payload("ip", "daddr"), "10.0.0.1"), match(payload("tcp", "dport"), 8081), accept],
        [match(payload("ip6", "daddr"), "fd00::1"), match(payload("tcp", "dport"), 8081), accept],
        [match(payload("ip", "daddr"), "10.0.0.53"), match(payload("udp", "dport"), 53), accept],
        [match(payload("ip", "daddr"), "10.0.0.53"), match(payload("tcp", "dport"), 53), accept],
        *([match(payload("icmpv6", "type"), f"nd-{kind}"), accept] for kind in ("router-solicit", "neighbor-solicit", "neighbor-advert")),
    ]
    chain = {"family": "inet", "table": "robin", "name": "output", "type": "filter", "hook": "output", "prio": 0, "policy": "drop"}
    head = [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "inet", "name": "robin"}}, {"chain": chain}]
    return {"nftables": [*head, *({"rule": {"family": "inet", "expr": rule}} for rule in rules)]}


def rule(read: dict[str, Any], at: int) -> list[dict[str, Any]]:
    expressions: list[dict[str, Any]] = read["nftables"][3 + at]["rule"]["expr"]
    return expressions


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "the policy accepts": lambda read: read["nftables"][2]["chain"].update(policy="accept"),
    "another hook": lambda read: read["nftables"][2]["chain"].update(hook="input"),
    "another family": lambda read: read["nftables"][2]["chain"].update(family="ip"),
    "another priority": lambda read: read["nftables"][2]["chain"].update(prio=100),
    "no chain": lambda read: read["nftables"].pop(2),
    "two chains": lambda read: read["nftables"].append(copy.deepcopy(read["nftables"][2])),
    "one rule less": lambda read: read["nftables"].pop(6),
    "one rule more": lambda read: read["nftables"].append({"rule": {"expr": [{"accept": None}]}}),
    "a rule for all": lambda read: rule(read, 2).pop(0),
    "another address": lambda read: rule(read, 2)[0]["match"].update(right="10.0.0.2"),
    "a network": lambda read: rule(read, 2)[0]["match"].update(right={"prefix": {"addr": "10.0.0.0", "len": 8}}),
    "not this address": lambda read: rule(read, 2)[0]["match"].update(op="!="),
    "a jump": lambda read: rule(read, 2).__setitem__(-1, {"jump": {"target": "x"}}),
    "new connections": lambda read: rule(read, 1)[0]["match"].update(right=["established", "new"]),
    "another order": lambda read: read["nftables"].insert(3, read["nftables"].pop(5)),
    "no list": lambda read: read.clear(),
}


def test_the_table_that_was_written_is_accepted() -> None:
    check(json.dumps(listing()), LOCKDOWN)
    assert render(LOCKDOWN).count(" accept\n") == len(LOCKDOWN.rules()) == len(listing()["nftables"]) - 3


@pytest.mark.parametrize("change", CHANGES)
def test_any_other_table_is_refused(change: str) -> None:
    read = listing()
    CHANGES[change](read)
    with pytest.raises(LockdownFailed):
        check(json.dumps(read), LOCKDOWN)


def test_what_is_no_listing_is_refused() -> None:
    for text in ("", "[]", '{"nftables": 1}', "{", "[" * 100_000):
        with pytest.raises(LockdownFailed):
            check(text, LOCKDOWN)


def test_name_servers_are_those_of_resolv_conf(tmp_path: Any) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("# x\nnameserver 10.0.0.10\nnameserver fd00:0::a\nnameserver\nnameserver name\noptions ndots:5\nnameserver 10.0.0.10\n")
    assert name_servers(str(file)) == (("10.0.0.10", 53), ("fd00::a", 53))
