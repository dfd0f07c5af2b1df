"""The CA of the bridge in its two slots: another signer under load, another certificate in place, and where its key is (gateway.md 5)."""

import asyncio
import datetime
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.planes.gateway.rig import Client, Origin, running, wall_now

from robin.model.faults import Fault
from robin.planes.gateway.authority import BridgeAuthority
from robin.planes.gateway.new_authority import make_authority
from robin.testing.authority import IdentityAuthority
from robin.testing.certificates import CertificateAuthority
from robin.testing.embedded_gateway import EmbeddedGateway
from robin.testing.embedded_identity import EmbeddedIdentities
from robin.testing.manual_clock import ManualClock
from robin.testing.waiting import eventually
from robin.transport.clock import SystemClock

_SWITCHES = 36
_PER_S = 50
BRIDGED = {"name": "bridged", "hosts": ["a.test"], "ports": ["TLS"], "tls": "bridge"}


def fill(folder: Path, name: str, *, days: int = 30, now: datetime.datetime | None = None) -> Path:
    """A new CA with a key of its own in this slot."""
    folder.mkdir(exist_ok=True)
    certificate, key = make_authority(name, days=days, permit_dns=[], now=now or wall_now())
    (folder / "tls.key").touch(mode=0o600)
    (folder / "tls.key").write_bytes(key)
    (folder / "tls.crt").write_bytes(certificate)
    return folder


def renew(folder: Path, *, days: float) -> None:
    """Another certificate for the key that is there."""
    key = serialization.load_pem_private_key((folder / "tls.key").read_bytes(), None)
    old = x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    builder = x509.CertificateBuilder().subject_name(old.subject).issuer_name(old.subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(old.not_valid_before_utc)
    builder = builder.not_valid_after(old.not_valid_before_utc + datetime.timedelta(days=days))
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    (folder / "tls.crt").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def test_a_slot_that_changes_in_place_is_used_waits_or_changes_nothing(tmp_path: Path) -> None:  # E38
    clock = ManualClock(wall=SystemClock().wall())
    folder = fill(tmp_path / "a", "first")
    authority = BridgeAuthority(str(folder), ttl_s=86400, contexts=4, per_second=1000, wall=clock.wall)

    def look() -> str:
        clock.advance(10)
        return authority.look()

    first, context = authority.ca, authority.context("a.test")
    assert look() == ""
    renew(folder, days=20)
    assert (look(), authority.ca is first, authority.context("a.test") is context, authority.pending) == ("ca_renewed", False, False, False)
    kept = authority.ca
    (folder / "tls.crt").write_bytes(b"-----BEGIN CERTIFICATE-----\n")
    assert (look(), authority.ca is kept, authority.pending, authority.valid) == ("ca_invalid", True, False, True)
    fill(folder, "other")
    assert (look(), authority.ca is kept, authority.pending) == ("ca_key_changed", True, True)
    assert look() == ""
    after = BridgeAuthority(str(folder), ttl_s=60, contexts=4, per_second=1, wall=clock.wall, before=authority)  # as by a reload
    assert (after.ca is kept, after.pending, after.mints) == (True, True, authority.mints)
    clock.advance(21 * 86400)
    with pytest.raises(Fault, match="bridge_unavailable"):
        authority.check("a.test")
    assert (look(), authority.ca is kept, authority.pending, authority.valid) == ("ca_renewed", False, False, True)


async def test_what_changes_in_the_signing_slot_is_seen_by_the_operator_and_by_new_callers(tmp_path: Path) -> None:  # E38
    clock = ManualClock(wall=SystemClock().wall())
    slot = fill(tmp_path / "a", "first")
    bridge = {"slots": {"a": str(slot)}}
    pki = CertificateAuthority(tmp_path / "pki")
    origin = await Origin().start(pki.issue("a.test", "b.test").server_context(alpn=("http/1.1",)))
    rules = [
        {"name": "bridged", "hosts": ["a.test"], "ports": [origin.port], "tls": "bridge"},
        {"name": "closed", "hosts": ["b.test"], "ports": [origin.port]},
    ]
    gateway_section = {
        "listeners": [{"name": "proxy", "listen": "127.0.0.1:0"}],
        "admin": {"listen": "127.0.0.1:0", "probes": "127.0.0.1:0"},
        "bridge": bridge,
        "policy": {"rules": rules},
        "upstream_tls": {"ca_files": [str(pki.ca_file)]},
        "addresses": {
            "hosts": {"a.test": ["127.0.0.1"], "b.test": ["127.0.0.1"]},
            "unsafe_loopback": [f"127.0.0.1:{origin.port}"],
        },
    }
    (tmp_path / "robin.yaml").write_text(json.dumps({"version": 1, "gateway": gateway_section}))
    async with EmbeddedGateway(tmp_path / "robin.yaml", EmbeddedIdentities(IdentityAuthority(), clock), clock=clock) as gateway:

        async def page(path: str, port: int = gateway.admin_port) -> str:
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            _, _, body = await client.ask(f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close")
            client.writer.close()
            return body.decode()

        async def looked(event: str) -> dict[str, Any]:
            clock.advance(15)
            found = await eventually(lambda: next((one for one in gateway.lines if one["event"] == event), None), what=event)
            assert found is not None
            return found

        async def signer() -> str:
            """The SHA-256 of the CA certificate whose end is that of the leaf which a new client is shown."""
            client = Client(*await asyncio.open_connection("127.0.0.1", gateway.port))
            assert (await client.connect(f"a.test:{origin.port}"))[0] == 200
            leaf = (await client.start_tls("a.test", signing)).getpeercert(binary_form=True)
            assert (await client.ask("GET / HTTP/1.1", f"Host: a.test:{origin.port}"))[0] == 200
            client.writer.close()
            ca = x509.load_pem_x509_certificate(signing.read_bytes())
            assert x509.load_der_x509_certificate(leaf or b"").not_valid_after_utc == ca.not_valid_after_utc
            return ca.fingerprint(hashes.SHA256()).hex()

        signing = tmp_path / "signing.crt"
        renew(slot, days=0.25)  # less than a leaf may live, so that a leaf shows which certificate of the one key it was signed for
        signing.write_bytes((slot / "tls.crt").read_bytes())
        await looked("ca_renewed")
        await signer()
        first = (slot / "tls.crt").read_text()
        before = json.loads(await page("/status/gateway"))["ca"][0]
        (slot / "tls.crt").write_bytes(b"-----BEGIN CERTIFICATE-----\n")
        await looked("ca_invalid")
        assert await signer() == before["sha256"]
        fill(slot, "other")
        assert (await looked("ca_key_changed"))["ca_sha256"] == before["sha256"]
        assert "robin_gateway_ca_pending" + '{plane="gateway"} 1' in await page("/metrics")
        now = json.loads(await page("/status/gateway"))
        assert (now["ca"], now["ca_pending"]) == ([before], True)
        probes = next(one for one in gateway.lines if one["event"] == "listening")["admin"][-1]
        assert await signer() == before["sha256"]
        published = await page("/ca.crt", int(probes.rpartition(":")[2]))
        assert first in published
        assert (slot / "tls.crt").read_text() in published
        gateway.reload()  # and a reload of something else does not take the new key either
        assert json.loads(await page("/status/gateway"))["ca_pending"]
        clock.advance(31 * 86400)  # of all CAs
        client = Client(*await asyncio.open_connection("127.0.0.1", gateway.port))
        refused = await client.connect(f"a.test:{origin.port}")
        client.writer.close()
        assert (refused[0], json.loads(refused[2])["code"]) == (503, "bridge_unavailable")
        client = Client(*await asyncio.open_connection("127.0.0.1", gateway.port))  # what is not bridged is served
        assert (await client.connect(f"b.test:{origin.port}"))[0] == 200
        await client.start_tls("b.test", pki.ca_file)
        assert (await client.ask("GET / HTTP/1.1", f"Host: b.test:{origin.port}"))[0] == 200
        client.writer.close()
    assert origin.server is not None
    origin.server.close()


async def test_another_slot_signs_under_load_and_no_client_that_trusts_both_fails(tmp_path: Path) -> None:  # E37, E39
    """Fifty CONNECTs a second are begun, whether those before them have ended or not; each of them that fails ends the test."""
    other = fill(tmp_path / "b", "robin-bridge-ca-next")
    section = {"bridge": {"slots": {"a": str(tmp_path / "ca"), "b": str(other)}, "sign_with": "a"}, "limits": {"connections_per_caller": 0}}
    async with running(tmp_path, [BRIDGED], section=section) as rig:
        both = tmp_path / "both.crt"
        both.write_bytes(rig.ca_file.read_bytes() + (other / "tls.crt").read_bytes())
        own, stage = f"a.test:{rig.tls.port}", "before"
        begun, signers = Counter[str](), dict[str, list[str]]()
        opened: list[Client] = []

        async def bridge() -> None:
            began = stage
            client = await rig.client()
            assert (await client.connect(own))[0] == 200
            leaf = x509.load_der_x509_certificate((await client.start_tls("a.test", both)).getpeercert(binary_form=True) or b"")
            signer = str(leaf.issuer.rdns[0].rfc4514_string()).removeprefix("CN=robin-bridge-ca-")
            signers.setdefault(began if began == stage else "during", []).append(signer)
            assert (await client.ask("GET / HTTP/1.1", f"Host: {own}"))[0] == 200
            opened.append(client)

        async def switch() -> None:
            nonlocal stage
            stage = "during"
            document = json.loads((tmp_path / "robin.yaml").read_text())
            document["gateway"]["bridge"]["sign_with"] = "b"
            (tmp_path / "robin.yaml").write_text(json.dumps(document))
            rig.robin.send_signal(signal.SIGHUP)
            await rig.robin.event("config_loaded")
            stage = "after"

        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            loop = asyncio.get_running_loop()
            start = loop.time()
            while begun["after"] < _PER_S:
                await asyncio.sleep(start + begun.total() / _PER_S - loop.time())
                begun[stage] += 1
                group.create_task(bridge())
                if begun.total() == _PER_S:
                    group.create_task(switch())
        assert (set(signers["before"]), set(signers["after"])) == ({"test"}, {"next"})
        assert len(opened) == begun.total() == sum(map(len, signers.values()))
        for client in opened:  # those from before the switch too
            assert (await client.ask("GET /still HTTP/1.1", f"Host: {own}"))[0] == 200
        assert await rig.metrics("robin_gateway_ca_signing") == {'slot="a"': 0, 'slot="b"': 1}
        assert (await rig.metrics("robin_gateway_leaf_mints_total"))[""] == 2  # one for each signer
        # E39: a key is in its slot, and nowhere else that the gateway could have written it
        written = [name for name in (tmp_path / "written").read_text().split() if not name.isdigit()]  # an anonymous descriptor has no name
        assert written == []
        descriptors = {os.readlink(entry) for entry in Path(f"/proc/{rig.robin.pid}/fd").iterdir()}
        assert not [name for name in descriptors if name.startswith("/memfd")]  # and not even one of those stays open


@pytest.mark.slow
async def test_clients_connect_without_pause_through_dozens_of_switches_of_the_slot_that_signs(tmp_path: Path) -> None:  # E37
    other = fill(tmp_path / "b", "robin-bridge-ca-next")
    section = {"bridge": {"slots": {"a": str(tmp_path / "ca"), "b": str(other)}, "sign_with": "a"}}
    async with running(tmp_path, [BRIDGED], section=section) as rig:
        both = tmp_path / "both.crt"
        both.write_bytes(rig.ca_file.read_bytes() + (other / "tls.crt").read_bytes())
        own, signers, over = f"a.test:{rig.tls.port}", list[str](), False

        async def load() -> None:
            while not over:
                client = await rig.client()
                assert (await client.connect(own))[0] == 200
                leaf = x509.load_der_x509_certificate((await client.start_tls("a.test", both)).getpeercert(binary_form=True) or b"")
                signers.append(str(leaf.issuer.rdns[0].rfc4514_string()).removeprefix("CN=robin-bridge-ca-"))
                assert (await client.ask("GET / HTTP/1.1", f"Host: {own}"))[0] == 200
                client.writer.close()

        document = json.loads((tmp_path / "robin.yaml").read_text())
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(load())
            for at in range(_SWITCHES):
                slot, signer = ("b", "next") if at % 2 == 0 else ("a", "test")
                document["gateway"]["bridge"]["sign_with"] = slot
                (tmp_path / "robin.yaml").write_text(json.dumps(document))
                rig.robin.send_signal(signal.SIGHUP)
                await rig.robin.event("config_loaded", after=at)
                before = len(signers)
                await eventually(lambda before=before, signer=signer: signer in signers[before:], what="a leaf of the new signer")  # type: ignore[misc]
            over = True
        assert not [line for line in rig.robin.events if line.get("level") == "error"]
        closes = [one for one in rig.records if one["event"] == "gateway.close"]
        assert {one["fault"] for one in closes} == {""}
