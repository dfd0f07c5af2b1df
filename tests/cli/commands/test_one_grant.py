"""`robin doctor --grant` and `robin token --grant`: one live grant of robin.yaml, and what of it may be seen (G58)."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.cli.conftest import Ended, RunRobin
from tests.grants.proxied import Answering, reply, token_reply

from robin.app.one_grant import OneGrant, obtain_one, plans_of
from robin.cli.findings import grant
from robin.config.gateway_load import load_gateway
from robin.testing.authority import IdentityAuthority
from robin.testing.message import ReceivedRequest
from robin.transport.clock import SystemClock

JSON = b"Content-Type: application/json"
PROFILE = """\
id: demo
display_name: Demo
credentials: [{name: token, token_grant: {token_endpoint: "%(url)s/token", issuer: "%(url)s/realms/a", scopes: [read], audience: api,
  audience_overrides: [{host: a.localhost, audience: a}, {host: b.localhost, audience: b}]}}]
endpoints: [{host: a.localhost, tls: none}, {host: b.localhost, tls: none}]
"""


class Issuer(Answering):
    """Serves `metadata` at the place of RFC 8414, and `token` to every POST."""

    def __init__(self) -> None:
        super().__init__(self._respond)
        self.metadata: dict[str, object] | None = {}
        self.token = token_reply("an-opaque-token", scope="read")

    def _respond(self, request: ReceivedRequest) -> bytes:
        if request.method == b"POST":
            return self.token
        if self.metadata is None or request.target != b"/.well-known/oauth-authorization-server/realms/a":
            return reply(404)
        stated = {"issuer": f"{self.url}/realms/a", "token_endpoint": f"{self.url}/token", **self.metadata}
        return reply(200, json.dumps(stated).encode(), JSON)


class Stage:
    def __init__(self, issuer: Issuer, folder: Path, authority: IdentityAuthority) -> None:
        self.issuer = issuer
        self.path = folder / "robin.yaml"
        self.assertion = authority.service_account_token(audience=f"{issuer.url}/realms/a", lifetime_s=600)
        (folder / "token").touch(mode=0o600)
        (folder / "token").write_bytes(self.assertion)
        (folder / "p.yaml").write_text(PROFILE % {"url": issuer.url})
        section = {
            "identities": {"default": {"source": "file", "token_file": f"{folder}/token", "audience": f"{issuer.url}/realms/a"}},
            "profiles": ["p.yaml"],
            "providers": [{"profile": "demo", "callers": ["*"], "unsafe_plaintext": ["a.localhost", "b.localhost"]}],
        }
        self.path.write_text(json.dumps({"version": 1, "gateway": section}))

    async def run(self, run: RunRobin, command: str, *flags: str, named: str = "demo/token") -> Ended:
        return await run(command, "--grant", named, "--config", str(self.path), *flags)

    async def look(self) -> tuple[OneGrant, list[str]]:
        """What `robin doctor --grant` finds, without a process."""
        settings, _ = load_gateway(str(self.path))
        assert settings is not None
        plan = plans_of(settings, "demo", "token")[0]
        result = await obtain_one(settings, plan, SystemClock(), metadata=True)
        return result, [f"{one.health} {one.subject}: {one.what}" for one in grant.look(plan, result, SystemClock().wall())]


@asynccontextmanager
async def staged(folder: Path, authority: IdentityAuthority) -> AsyncIterator[Stage]:
    async with Issuer() as issuer:
        yield Stage(issuer, folder, authority)


async def test_g58_two_issuers_that_differ_in_a_slash_are_both_shown_with_the_difference(
    tmp_path: Path, authority: IdentityAuthority, run_robin: RunRobin
) -> None:
    async with staged(tmp_path, authority) as at:
        at.issuer.metadata = {"issuer": f"{at.issuer.url}/realms/a/", "grant_types_supported": ["implicit"]}
        shown = f'the profile has "{at.issuer.url}/realms/a", the metadata has "{at.issuer.url}/realms/a/": only the second ends in `/`'
        works = await at.run(run_robin, "doctor")
        assert works.code == 0, works.err
        assert f"warn  issuer           {shown}" in works.out
        assert "warn  grant type       the metadata lists implicit, and not client_credentials" in works.out
        assert "ok    token            issued: sha256:" in works.out
        told = json.dumps({"error": "invalid_client", "error_description": f"aud of {at.assertion.decode()} is wrong"}).encode()
        at.issuer.token = reply(401, told, JSON)
        fails = await at.run(run_robin, "doctor", "--json")
        assert fails.code == 4
        found = {one["subject"]: one for one in json.loads(fails.out)["findings"]}
        assert (found["issuer"]["status"], found["issuer"]["what"]) == ("fail", shown)
        assert found["token"]["what"].startswith("grant_refused: invalid_client: the issuer refused the request")
        assert re.search(r"invalid_client: aud of \*\*\*(?:\.\*\*\*){0,2} is wrong\)$", found["token"]["what"]), "a token, or its parts"
        assert [request.method for request in at.issuer.seen] == [b"GET", b"POST", b"GET", b"POST"]
        assert not [1 for request in at.issuer.seen if request.method == b"GET" and (request.body or request.values(b"authorization"))]


async def test_token_shows_hash_claims_and_usable_time_and_the_token_only_if_asked(
    tmp_path: Path, authority: IdentityAuthority, run_robin: RunRobin
) -> None:
    async with staged(tmp_path, authority) as at:
        token = authority.service_account_token(audience="api", lifetime_s=600).decode()
        at.issuer.token = token_reply(token, scope="read write")
        shown = await at.run(run_robin, "token", "--grant-audience", "b")
        assert (shown.code, shown.err) == (0, "")
        assert b"audience=b" in at.issuer.seen[0].body
        assert shown.out.startswith("token: sha256:")
        assert '"system:serviceaccount:demo:agent"' in shown.out
        assert shown.out.endswith("scope granted: read write\nusable for: 270 s")
        assert token.rpartition(".")[2] not in shown.out
        raw = await at.run(run_robin, "token", "--unsafe-show-token")
        assert raw.out == token
        assert raw.err == 'robin: requests get tokens of several audiences: "a", "b"; this is the first, --grant-audience chooses'
        at.issuer.token = reply(503)
        refused = await at.run(run_robin, "token", "--grant-audience", "a")
        assert (refused.code, refused.out) == (4, "")
        assert refused.err == "robin: issuer_unavailable: status_503: the issuer cannot serve this now; look at the issuer, and try again"
        unknown = await at.run(run_robin, "token", named="demo/tokens")
        assert (unknown.code, unknown.err) == (2, 'robin: there is no grant "demo/tokens"; use demo/token')


async def test_what_is_missing_is_found_and_nothing_of_it_is_sent(tmp_path: Path, authority: IdentityAuthority) -> None:
    async with staged(tmp_path, authority) as at:
        at.issuer.metadata = None
        result, found = await at.look()
        assert result.token is not None
        assert any(line.startswith("warn metadata: there is none at ") for line in found)
        at.issuer.metadata = {"token_endpoint": f"{at.issuer.url}/oauth/token", "scopes_supported": ["write"]}
        _, found = await at.look()
        assert f"they differ from character {len(at.issuer.url) + 2} on" in found[3]
        assert found[4] == "warn scopes: the metadata lists write, and not read"
        (tmp_path / "token").unlink()
        at.issuer.seen.clear()
        _, found = await at.look()
        assert found[-1].startswith("fail identity: identity_unavailable: ")
        assert [request.method for request in at.issuer.seen] == [b"GET"]
