"""DocumentServer: an authority's discovery document and keys, where its issuer URL says they are."""

import json

from tests.testing.asking import ask

from robin.testing.authority import IdentityAuthority
from robin.testing.documents import DocumentServer


async def test_an_authority_is_found_from_its_issuer_url():
    async with DocumentServer() as server:
        authority = IdentityAuthority(issuer=server.url)
        server.publish(authority)
        _, _, body = await ask(server.port, "/.well-known/openid-configuration")
        discovery = json.loads(body)
        assert discovery["issuer"] == server.url
        path = discovery["jwks_uri"].removeprefix(server.url)
        _, _, keys = await ask(server.port, path)
        assert json.loads(keys) == authority.jwks()
        authority.rotate_key()
        _, _, keys = await ask(server.port, path)
        assert len(json.loads(keys)["keys"]) == 2


async def test_other_paths_and_methods_are_refused():
    async with DocumentServer({"/a": lambda: {"b": 1}}) as server:
        assert (await ask(server.port, "/nothing"))[0] == 404
        status, fields, _ = await ask(server.port, "/a", method="POST", body=b"x")
        assert (status, fields["allow"]) == (405, "GET, HEAD")
        assert (await ask(server.port, "/a", method="HEAD"))[::2] == (200, b"")
        assert (await ask(server.port, "/a?x=y"))[0] == 200
