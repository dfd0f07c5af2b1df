"""The hop budget: how many Python functions of ours one warm exchange and one relayed chunk may enter; it keeps speed on noisy machines.

A count, not a time: it is the same on every machine. Raise a budget only with a reason in the commit that does. What is done for many
exchanges at once (counting them, writing their lines) is in the count: the rounds are whole batches, settled within the span.
"""

import asyncio
import json
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import CodeType, FrameType

import robin
from robin.app.sidecar import Sidecar, sidecar_runtime
from robin.config.load import Loaded, load
from robin.testing.authority import IdentityAuthority
from robin.testing.embedded_gateway import EmbeddedGateway
from robin.testing.embedded_identity import EmbeddedIdentities
from robin.testing.waiting import eventually
from robin.transport.clock import SystemClock

EXCHANGE_BUDGET = 55  # it is 52
CHUNK_BUDGET = 16  # it is 15
GATEWAY_BUDGET = 114  # it is 110, of an absolute-form exchange with a credential and both records; without the thread of the audit
TIGHT = 0.85  # a count below this part of its budget: the budget guards nothing any more
ROUNDS = 2 * 32  # a multiple of what the recorder settles at once

_OURS = str(Path(robin.__file__).parent)
REQUEST = (
    b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: budget\r\nAccept: application/json\r\n"
    b"Accept-Encoding: gzip\r\nAuthorization: Bearer placeholder\r\nConnection: keep-alive\r\n\r\n"
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Ledger:
    """Counts entries into functions of Robin while it is open; a coroutine that goes on counts again."""

    def __init__(self) -> None:
        self.calls: Counter[CodeType] = Counter()

    def __enter__(self) -> "Ledger":
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_OURS):
            self.calls[frame.f_code] += 1

    def per_round(self, rounds: int) -> int:
        """Entries a round; what a timer or a split read adds now and then is rounded away."""
        return round(self.calls.total() / rounds)

    def dearest(self, rounds: int) -> str:
        """The functions entered most, for the message of a failure."""
        rows = [f"{count / rounds:6.2f} {code.co_qualname} ({Path(code.co_filename).name})" for code, count in self.calls.most_common(60)]
        return "\n" + "\n".join(rows)


class Peers:
    """A caller and an origin on raw sockets, in the same loop as the sidecar."""

    def __init__(self, caller: socket.socket, origin: socket.socket, flush: Callable[[], None], request: bytes = REQUEST) -> None:
        self.flush = flush
        self.request = request
        self.caller = caller
        self.origin = origin
        self.upstream: socket.socket | None = None
        self.loop = asyncio.get_running_loop()

    async def exchange(self, answer: bytes = ANSWER) -> None:
        await self.loop.sock_sendall(self.caller, self.request)
        if self.upstream is None:
            self.upstream, _ = await self.loop.sock_accept(self.origin)
        seen = b""
        while not seen.endswith(b"\r\n\r\n"):
            seen += await self.loop.sock_recv(self.upstream, 65536)
        await self.loop.sock_sendall(self.upstream, answer)
        await self.receive(len(ANSWER))

    async def receive(self, octets: int) -> None:
        while octets > 0:
            got = await self.loop.sock_recv(self.caller, octets)
            assert got
            octets -= len(got)


@asynccontextmanager
async def peers(tmp_path: Path) -> AsyncIterator[Peers]:
    token = tmp_path / "token"
    token.write_bytes(IdentityAuthority(issuer="https://issuer.test", trust_domain="robin.test").service_account_token(audience="a"))
    with socket.create_server(("127.0.0.1", 0)) as origin, (tmp_path / "log").open("wb") as log:
        origin.setblocking(False)
        loaded = load(
            {
                "ROBIN_UPSTREAM_URL": f"http://127.0.0.1:{origin.getsockname()[1]}",
                "ROBIN_LISTEN_ADDR": "127.0.0.1:0",
                "ROBIN_ADMIN_ADDR": "off",
                "ROBIN_TOKEN_FILE": str(token),
            },
            {},
        )
        assert isinstance(loaded, Loaded)
        runtime = sidecar_runtime(loaded.settings, {}, log_fd=log.fileno())
        sidecar = runtime.plane
        assert isinstance(sidecar, Sidecar)
        serving = asyncio.get_running_loop().create_task(runtime.serve())
        await eventually(lambda: runtime.started, what="the sidecar")
        host, _, port = runtime.listening[0].rpartition(":")
        with socket.create_connection((host, int(port))) as caller:
            caller.setblocking(False)
            both = Peers(caller, origin, sidecar.flush)

            async def settled() -> bool:  # a token file is cached once it is more than a second old
                await both.exchange()
                return sidecar.identity_metrics.cache_hit > 0

            await eventually(settled, every_s=0.1, what="a token file older than a second")
            yield both
            if both.upstream is not None:
                both.upstream.close()
        runtime.begin_drain()
        assert await serving == 0
        await runtime.close()


async def ledger_of_warm_exchanges(both: Peers) -> Ledger:
    for _ in range(5):
        await both.exchange()
    both.flush()
    with Ledger() as ledger:
        for _ in range(ROUNDS):
            await both.exchange()
        both.flush()
    return ledger


async def test_a_warm_exchange_stays_within_its_budget(tmp_path: Path) -> None:
    async with peers(tmp_path) as both:
        ledger = await ledger_of_warm_exchanges(both)
    calls = ledger.per_round(ROUNDS)
    assert calls <= EXCHANGE_BUDGET, ledger.dearest(ROUNDS)
    counted = {code.co_qualname: count for code, count in ledger.calls.items()}
    assert counted["Recorder._count_one"] == counted["Recorder._json"] == ROUNDS, "exchanges were not settled within the span"
    assert calls >= EXCHANGE_BUDGET * TIGHT, "the budget is loose: tighten it"


async def test_a_relayed_chunk_stays_within_its_budget(tmp_path: Path) -> None:
    async with peers(tmp_path) as both:
        await both.exchange()
        await both.exchange(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (ROUNDS * 1000 + 2))
        assert both.upstream is not None
        both.flush()
        with Ledger() as ledger:
            for _ in range(ROUNDS):
                await both.loop.sock_sendall(both.upstream, b"x" * 1000)
                await both.receive(1000)
    calls = ledger.per_round(ROUNDS)
    assert calls <= CHUNK_BUDGET, ledger.dearest(ROUNDS)
    assert calls >= CHUNK_BUDGET * TIGHT, "the budget is loose: tighten it"


@asynccontextmanager
async def gateway_peers(folder: Path) -> AsyncIterator[Peers]:
    clock, token_grant = SystemClock(), {"grant_type": "forward", "audience": "a"}
    with socket.create_server(("127.0.0.1", 0)) as origin:
        origin.setblocking(False)
        port = origin.getsockname()[1]
        endpoint = {"host": "a.test", "port": port, "tls": "none"}
        profile = {"id": "p", "display_name": "P", "credentials": [{"name": "t", "token_grant": token_grant}], "endpoints": [endpoint]}
        (folder / "profile.yaml").write_text(json.dumps(profile))
        section = {
            "listeners": [{"name": "proxy", "listen": "127.0.0.1:0"}],
            "admin": {"listen": "off"},
            "profiles": ["profile.yaml"],
            "providers": [{"profile": "p", "callers": ["*"], "unsafe_plaintext": ["a.test"]}],
            "addresses": {"hosts": {"a.test": ["127.0.0.1"]}, "unsafe_loopback": [f"127.0.0.1:{port}"]},
        }
        (folder / "robin.yaml").write_text(json.dumps({"version": 1, "gateway": section}))
        identities = EmbeddedIdentities(IdentityAuthority(), clock)
        async with EmbeddedGateway(folder / "robin.yaml", identities) as gateway:
            with socket.create_connection(("127.0.0.1", gateway.port)) as caller:
                caller.setblocking(False)
                request = REQUEST.replace(b" /v1", b" http://a.test:%d/v1" % port).replace(b"Host: 127.0.0.1", b"Host: a.test:%d" % port)
                both = Peers(caller, origin, gateway.runtime.plane.flush, request)
                yield both
                if both.upstream is not None:
                    both.upstream.close()
            records = [line for line in gateway.lines if line["event"] == "gateway.decision"]
            assert {(one["verdict"], one["grant"]["provider"]) for one in records} == {("permit", "p")}


async def test_a_warm_exchange_of_the_gateway_stays_within_its_budget(tmp_path: Path) -> None:
    async with gateway_peers(tmp_path) as both:
        ledger = await ledger_of_warm_exchanges(both)
    calls = ledger.per_round(ROUNDS)
    assert calls <= GATEWAY_BUDGET, ledger.dearest(ROUNDS)
    assert calls >= GATEWAY_BUDGET * TIGHT, f"the budget is loose: tighten it to {calls}"
