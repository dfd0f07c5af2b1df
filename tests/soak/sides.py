"""The two sides: plain HTTP with a projected token file, and TLS with JWT-SVIDs from a Workload API and roots that rotate."""

import asyncio
import os
import signal
from typing import Any

from tests.soak.mix import AUDIENCE
from tests.soak.side import Side

from robin.model.secret import Secret
from robin.testing.certificates import CertificateAuthority
from robin.testing.projected import ProjectedDirectory
from robin.testing.waiting import eventually
from robin.testing.workload_api import Outcome, Refusal, WorkloadApi
from robin.wire.workload_api import JwtSvid, JwtSvidRequest

_FILE_EVERY_S = 2.0
_FILE_LIFETIME_S = 30.0
_SVID_LIFETIME_S = 24.0  # Robin fetches the next after half of it
_REFUSES_S = 4.0
_NOTICED_S = 10.0
_SETTLE_S = 1.5


class PlainSide(Side):
    """A token file, swapped as the kubelet does it; an upstream without TLS."""

    name = "plain"

    async def prepare(self) -> dict[str, str]:
        """The volume with its first token."""
        self._volume = ProjectedDirectory(self.scratch / "tokens")
        self._write()
        return {"ROBIN_TOKEN_FILE": str(self._volume.token_file)}

    async def rotate(self) -> None:
        """A new token every two seconds."""
        while True:
            await asyncio.sleep(_FILE_EVERY_S)
            self._write()

    async def reload(self, seconds: float) -> None:
        """SIGHUP, three times."""
        for _ in range(3):
            await _hang_up(self)
            await asyncio.sleep(seconds / 3)

    def _write(self) -> None:
        self.rotations += 1
        self._volume.write({"token": self.authority.service_account_token(audience=AUDIENCE, lifetime_s=_FILE_LIFETIME_S)})


class TlsSide(Side):
    """A Workload API that is not always there; an upstream whose CA is replaced under way."""

    name = "tls"
    host = "localhost"
    tls = True

    async def prepare(self) -> dict[str, str]:
        """Endpoint and roots."""
        self._refusing = False
        self._api = WorkloadApi(self._issue)
        endpoint = await self._api.start_unix(str(self.scratch / "workload.sock"))
        self._generation = 0
        self._roots = self._new_roots()
        self._leaf = self._roots.issue(self.host, "127.0.0.1")
        self._bundle = self.scratch / "roots.pem"
        self._trust(self._roots.ca_pem)
        return {
            "ROBIN_TOKEN_SOURCE": "jwtsvid",
            "ROBIN_SPIFFE_SOCKET": f"unix://{endpoint.path}",
            "ROBIN_UPSTREAM_CA_FILE": str(self._bundle),
        }

    def upstream_settings(self) -> dict[str, Any]:
        """The leaf to show."""
        return {"leaf": [str(self._leaf.certificate_file), str(self._leaf.key_file)]}

    async def rotate(self) -> None:
        """Robin asks by itself."""
        await asyncio.Event().wait()

    async def reload(self, seconds: float) -> None:
        """SIGHUP; a Workload API that refuses; new roots beside the old, a new leaf, the old roots gone; a broken bundle, and mended."""
        self._refusing = True
        lifting = asyncio.get_running_loop().call_later(min(seconds, _REFUSES_S), self._relent)
        try:
            await self._hang_up()
            old, new = self._roots, self._new_roots()
            await self._swap(old.ca_pem + new.ca_pem)
            await asyncio.sleep(_SETTLE_S)  # handshakes under way still trust the old roots alone
            self._roots, self._leaf = new, new.issue(self.host, "127.0.0.1")
            await self.upstream.ask("leaf", files=self.upstream_settings()["leaf"])
            await asyncio.sleep(_SETTLE_S)  # handshakes under way still show the old leaf
            await self._swap(new.ca_pem)
            await self._swap(b"-----BEGIN CERTIFICATE-----\nnot one\n-----END CERTIFICATE-----\n", broken=True)
            await self._hang_up()
            await self._swap(new.ca_pem)
        finally:
            lifting.cancel()
            self._relent()

    async def part(self) -> None:
        """The endpoint goes."""
        await self._api.close()

    async def _hang_up(self) -> None:
        """SIGHUP, which reads the bundle again, whether it is good or not."""
        before = self._loads
        await _hang_up(self)
        await eventually(lambda: self._loads > before, timeout_s=_NOTICED_S, every_s=0.02, what="the CA file to be read at SIGHUP")

    @property
    def _loads(self) -> int:
        return self.records.events["upstream_ca_reloaded"] + self.records.events["upstream_ca_failed"]

    async def _swap(self, pem: bytes, *, broken: bool = False) -> None:
        """Replace the bundle and wait until Robin has noticed."""
        event = "upstream_ca_failed" if broken else "upstream_ca_reloaded"
        before = self.records.events[event]
        self._trust(pem)
        await eventually(
            lambda: self.records.events[event] > before, timeout_s=_NOTICED_S, every_s=0.05, what=f"{event} behind a swap of the CA file"
        )

    def _trust(self, pem: bytes) -> None:
        fresh = self._bundle.with_suffix(".new")
        fresh.write_bytes(pem)
        fresh.rename(self._bundle)

    def _new_roots(self) -> CertificateAuthority:
        self._generation += 1
        return CertificateAuthority(self.scratch / f"ca-{self._generation}", name=f"Soak CA {self._generation} {os.urandom(4).hex()}")

    def _relent(self) -> None:
        self._refusing = False

    async def _issue(self, request: JwtSvidRequest) -> Outcome:
        if self._refusing:
            return Refusal(code="Unavailable", text="the agent has lost its server")
        self.rotations += 1
        token = self.authority.jwt_svid(audience=list(request.audiences), lifetime_s=_SVID_LIFETIME_S)
        return (JwtSvid(spiffe_id=f"spiffe://{self.authority.trust_domain}/ns/demo/sa/agent", svid=Secret(token)),)


async def _hang_up(side: Side) -> None:
    """SIGHUP, and wait until it has been heard."""
    before = side.records.events["reload"]
    side.robin.send_signal(signal.SIGHUP)
    await eventually(lambda: side.records.events["reload"] > before, timeout_s=_NOTICED_S, every_s=0.02, what="SIGHUP to be heard")
