"""`auth_style: basic` and `placeholder`: what the origin gets, and what is refused before anything is sent or asked for."""

import base64
from pathlib import Path

from tests.grants.proxied import NAMES, reply, token_reply, world

STYLE = "auth_style: basic, username: oauth2, placeholder: robin-placeholder"
PLACE: dict[str, object] = {"schemes": ["http"], "ports": ["PORT"]}
RULES: list[dict[str, object]] = [
    {"name": "any", "hosts": ["a.localhost", "b.localhost"], **PLACE},
    {"name": "watched", "effect": "deny", "mode": "report", "hosts": ["a.localhost"], "paths": ["/bound/watched"], **PLACE},
]
SECTION: dict[str, object] = {"policy": {"rules": RULES}}
BOUND = "[{host: a.localhost, port: %(port)d, tls: none, path: /bound/**}]"
OTHER = """\
id: other
display_name: Other
credentials: [{name: token, placeholder: robin-placeholder-2, token_grant: {grant_type: forward, audience: x}}]
endpoints: [{host: c.localhost, tls: none}]
"""
ENCODED = base64.b64encode(b"x-access-token:robin-placeholder").decode()


async def test_a_placeholder_of_each_form_that_clients_send_is_replaced_at_the_bound_endpoint(tmp_path: Path) -> None:
    async with world(tmp_path, style=STYLE, endpoints=BOUND, section=SECTION) as at:
        sent = [
            f"Authorization: Basic {ENCODED}\r\n",
            f"authorization: bASIC  {ENCODED.rstrip('=')}\r\nX-Api-Key: robin-placeholder\r\n",
            "Authorization: token robin-placeholder\r\n",
            "Authorization: Bearer robin-placeholder\r\nAuthorization: Bearer something-else\r\n",
            f"Proxy-Authorization: Basic {ENCODED}\r\n",
            "",
        ]
        for fields in sent:
            assert (await at.ask("/bound/x?robin=placeholder", fields=fields)).status == 200
        expected = b"Basic " + base64.b64encode(b"oauth2:token-0")
        assert at.authorizations == [[expected]] * len(sent)
        assert not any(b"robin-placeholder" in value for seen in at.origin.seen for _, value in seen.fields)


REFUSED = [
    ("b.localhost", "/", "Authorization: Bearer robin-placeholder", "place"),
    ("b.localhost", "/", f"Authorization: Basic {ENCODED}", "place"),
    ("b.localhost", "/", f"X-Other: basic {ENCODED}", "place"),
    ("b.localhost", "/", "Cookie: a=b; key=robin-placeholder", "place"),
    ("b.localhost", "/", "X_Api_Key: robin-placeholder", "place"),
    ("b.localhost", "/?key=robin-placeholder", "", "target"),
    ("b.localhost", "/%72obin%2Dplaceholder", "", "target"),
    ("a.localhost", "/elsewhere", "Authorization: Bearer robin-placeholder", "place"),
    ("a.localhost", "/bound/watched", "Authorization: Bearer robin-placeholder", "place"),
    ("a.localhost", "/bound/x?key=robin-placeholder", "Authorization: Bearer robin-placeholder", "target"),
    ("a.localhost", "/bound/x", "User-Agent: robin-placeholder", "field"),
    ("a.localhost", "/bound/x", f"X-Auth: Basic {ENCODED}", "field"),
    ("a.localhost", "/bound/x", "Authorization: Bearer robin-placeholder-2", "place"),
    ("a.localhost", "/bound/x", "Authorization: Bearer robin-placeholder,robin-placeholder-2", "place"),
]


async def test_a_placeholder_in_any_other_place_is_refused_and_nothing_is_sent(tmp_path: Path) -> None:
    (tmp_path / "q.yaml").write_text(OTHER)
    providers = [{"profile": name, "callers": ["*"], "unsafe_plaintext": NAMES} for name in ("demo", "other")]
    section = SECTION | {"profiles": ["p.yaml", "q.yaml"], "providers": providers}
    async with world(tmp_path, style=STYLE, endpoints=BOUND, section=section) as at:
        for host, path, field, _ in REFUSED:
            refused = await at.ask(path, host=host, fields=field and f"{field}\r\n")
            assert (refused.status, refused.problem["code"]) == (403, "placeholder_misused"), (host, path, field)
            assert 'details="placeholder_misused"' in (refused.value("Proxy-Status") or "")
        assert (at.origin.seen, at.issuer.seen) == ([], [])
        decisions = await at.lines("gateway.decision", len(REFUSED))
        told = [(one["host"], one["path"], one["verdict"], one["code"], one["why"]) for one in decisions]
        expected = [(host, path.partition("?")[0], "deny", "placeholder_misused", why) for host, path, _, why in REFUSED]
        assert told == expected


async def test_the_names_of_credentials_are_for_those_who_may_use_them(tmp_path: Path) -> None:
    for callers, named in ((["*"], True), (["demo-app"], False)):
        async with world(tmp_path, style=STYLE, endpoints=BOUND, section=SECTION, callers=callers) as at:
            refused = await at.ask(host="b.localhost", fields="Authorization: Bearer robin-placeholder\r\n")
            assert (refused.status, b"demo/token" in refused.body) == (403, named)


async def test_a_reload_changes_what_is_a_placeholder(tmp_path: Path) -> None:
    async with world(tmp_path, style=STYLE, endpoints=BOUND, section=SECTION) as at:
        at.reload(attached=False)
        assert (await at.ask(host="b.localhost", fields="X-Other: robin-placeholder\r\n")).status == 200
        at.reload()
        assert (await at.ask(host="b.localhost", fields="X-Other: robin-placeholder\r\n")).status == 403


async def test_a_response_does_not_show_the_pair_of_basic_nor_the_token(tmp_path: Path) -> None:
    async with world(tmp_path, style=STYLE, endpoints=BOUND, section=SECTION) as at:
        at.issuer.reply = lambda _: token_reply("long-token-0")
        pair = base64.b64encode(b"oauth2:long-token-0")
        at.origin.reply = lambda _: reply(200, b"", b"X-Pair: Basic " + pair, b"X-Token: got long-token-0", b"X-Other: plain")
        response = await at.ask("/bound/x")
        assert [response.value(name) for name in ("X-Pair", "X-Token", "X-Other")] == ["[redacted]", "[redacted]", "plain"]
        assert not any("long-token-0" in str(line) or pair.decode() in str(line) for line in at.gateway.lines)
