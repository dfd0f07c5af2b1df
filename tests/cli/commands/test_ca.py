"""`robin ca`: a CA is made once, bundles are published with nothing lost or leaked (E67), and what a proxy shows is told apart (E68)."""

import asyncio
import base64
import datetime
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from tests.planes.gateway.rig import running

from robin.cli.main import main
from robin.planes.gateway.new_authority import make_authority
from robin.testing.certificates import CertificateAuthority
from robin.transport.clock import SystemClock

Output = pytest.CaptureFixture[str]


def ca(folder: Path, name: str, *, days: int = 30, ago: int = 0) -> Path:
    """A CA certificate; its key stands beside it."""
    now = datetime.datetime.fromtimestamp(SystemClock().wall(), datetime.UTC) - datetime.timedelta(days=ago)
    certificate, key = make_authority(name, days=days, permit_dns=[], now=now)
    (folder / f"{name}.key").write_bytes(key)
    path = folder / f"{name}.crt"
    path.write_bytes(certificate)
    return path


def names(pem: bytes | str) -> list[str]:
    octets = pem.encode() if isinstance(pem, str) else pem
    return [str(one.subject.rfc4514_string()).removeprefix("CN=") for one in x509.load_pem_x509_certificates(octets)]


def sha256(path: Path, capsys: Output) -> str:
    capsys.readouterr()
    assert main(["ca", "fingerprint", str(path)]) == 0
    return capsys.readouterr().out.split("\n")[0].removeprefix("sha256 ")


def test_e67_a_ca_is_made_once_and_never_the_same_twice(tmp_path: Path, capsys: Output) -> None:
    assert main(["ca", "init", "--out", str(tmp_path / "ca"), "--permit-dns", "example.com"]) == 0
    files = {file.name: (file.stat().st_mode & 0o777, file.read_bytes()) for file in (tmp_path / "ca").iterdir()}
    assert {name: mode for name, (mode, _) in files.items()} == {"tls.key": 0o600, "tls.crt": 0o644, "ca.crt": 0o644}
    assert main(["ca", "init", "--out", str(tmp_path / "ca")]) == 1
    assert {file.name: (file.stat().st_mode & 0o777, file.read_bytes()) for file in (tmp_path / "ca").iterdir()} == files
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "ca.crt").symlink_to("/nowhere")
    assert main(["ca", "init", "--out", str(tmp_path / "half")]) == 1
    assert [file.name for file in (tmp_path / "half").iterdir()] == ["ca.crt"]
    assert main(["ca", "init", "--out", str(tmp_path / "other")]) == 0
    one, other = (x509.load_pem_x509_certificate((tmp_path / name / "ca.crt").read_bytes()) for name in ("ca", "other"))
    assert one.subject != other.subject
    constraints = one.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    usage = one.extensions.get_extension_for_class(x509.KeyUsage)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.crl_sign, usage.value.digital_signature) == (True, True, True, False)
    assert one.extensions.get_extension_for_class(x509.NameConstraints).critical
    capsys.readouterr()
    assert main(["ca", "fingerprint", str(tmp_path / "ca" / "ca.crt"), "--expect", str(tmp_path / "ca" / "ca.crt")]) == 0
    assert "subject CN=robin-bridge-ca-" in capsys.readouterr().out
    for words in (["tls.key"], ["ca.crt", "--expect", str(tmp_path / "ca" / "tls.key")]):
        assert main(["ca", "fingerprint", str(tmp_path / "ca" / words[0]), *words[1:]]) == 2
        assert "this is a private key; name a PEM file with certificates" in capsys.readouterr().err


def test_e67_a_secret_is_printed_and_no_file_is_written(tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ca", "init", "--secret", "robin-gateway-ca-a", "-n", "robin-egress"]) == 0
    secret = yaml.safe_load(capsys.readouterr().out)
    assert (secret["kind"], secret["type"]) == ("Secret", "kubernetes.io/tls")
    assert secret["metadata"] == {"name": "robin-gateway-ca-a", "namespace": "robin-egress"}
    data = {key: base64.b64decode(value) for key, value in secret["data"].items()}
    key = load_pem_private_key(data["tls.key"], None)
    assert key.public_key() == x509.load_pem_x509_certificate(data["tls.crt"]).public_key()
    assert data["ca.crt"] == data["tls.crt"]
    assert list(tmp_path.iterdir()) == []
    assert main(["ca", "init", "--secret", "a"]) == 2
    for words in (["--secret", "A", "-n", "b"], ["--secret", "a", "-n", "b\nc"], ["--out", "x", "--secret", "a"]):
        with pytest.raises(SystemExit) as ended:
            main(["ca", "init", *words])
        assert ended.value.code == 2


def test_e67_a_bundle_is_the_union_of_valid_cas_and_keeps_what_was_published(tmp_path: Path, capsys: Output) -> None:
    a, b, old = ca(tmp_path, "a"), ca(tmp_path, "b"), ca(tmp_path, "old", days=1, ago=3)
    both = tmp_path / "both.pem"
    leaf = CertificateAuthority(tmp_path / "pki").issue("leaf.test").certificate_file.read_bytes()
    both.write_bytes(a.read_bytes() * 2 + leaf + old.read_bytes())
    out = tmp_path / "out"

    def bundle(*words: str) -> int:
        return main(["ca", "bundle", "--out", str(out), *words])

    assert bundle("--ca", str(both), "--keep", "--public-roots") == 0
    said = capsys.readouterr()
    assert ("has expired" in said.err, "is no CA" in said.err) == (True, True)
    assert names((out / "ca.crt").read_bytes())[:1] == ["a"]
    assert {file.name: file.stat().st_mode & 0o777 for file in out.iterdir()} == {"ca.crt": 0o644, "bundle.crt": 0o644}
    whole = (out / "bundle.crt").read_bytes()
    assert whole.startswith((out / "ca.crt").read_bytes())
    assert ssl.create_default_context(cadata=whole.decode()).cert_store_stats()["x509_ca"] > 50

    assert bundle("--ca", str(b), "--keep") == 0
    assert set(names((out / "ca.crt").read_bytes())) >= {"a", "b"}
    assert "stays as it was" in capsys.readouterr().err
    assert bundle("--ca", str(b), "--keep", str(a)) == 0
    assert names((out / "ca.crt").read_bytes()) == ["b", "a"]
    assert bundle("--ca", str(b), "--keep", "--drop", sha256(a, capsys).upper()) == 0
    assert names((out / "ca.crt").read_bytes()) == ["b"]

    before = (out / "ca.crt").read_bytes()
    keyed = tmp_path / "keyed.pem"
    keyed.write_bytes(a.read_bytes() + (tmp_path / "a.key").read_bytes())
    refused = (
        ["--ca", str(keyed)],
        ["--ca", str(a), "--keep", str(keyed)],
        ["--ca", str(old)],
        ["--ca", "/nowhere"],
        ["--ca", "/dev/null"],
    )
    for words in (*refused, ["--ca", str(a), "--drop", sha256(a, capsys)]):
        assert bundle(*words) == 1, words
        assert capsys.readouterr().err.startswith("robin: ")
        assert (out / "ca.crt").read_bytes() == before
    assert sorted(file.name for file in out.iterdir()) == ["bundle.crt", "ca.crt"]


@dataclass
class Api:
    """An API server that holds ConfigMaps: GET and server-side apply, with versions."""

    maps: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    intruder: str = ""  # a CA that another writer publishes between the next GET and PATCH
    status: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
        body = await reader.readexactly(int(fields.get("Content-Length", "0")))
        method, target, _ = head.split(" ", 2)
        self.calls.append((method, target, fields["Authorization"]))
        key = target.partition("?")[0]
        status, answer = self.answer(method, key, body)
        payload = json.dumps(answer).encode()
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(payload)) + payload)
        await writer.drain()
        writer.close()

    def answer(self, method: str, key: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if self.status:
            return self.status, {"message": 'configmaps is forbidden: User "x" cannot patch'}
        found = self.maps.get(key)
        if method == "GET":
            if self.intruder:
                self.put(key, {"ca.crt": self.intruder})
            return (200, found) if found is not None else (404, {})
        wanted = json.loads(body)
        version = wanted["metadata"].get("resourceVersion")
        if found is not None and version is not None and version != found["metadata"]["resourceVersion"]:
            self.intruder = ""
            return 409, {}
        self.put(key, wanted["data"])
        return 200, self.maps[key]

    def put(self, key: str, data: dict[str, str]) -> None:
        version = int(self.maps[key]["metadata"]["resourceVersion"]) if key in self.maps else 0
        self.maps[key] = {"metadata": {"resourceVersion": str(version + 1)}, "data": data}


@asynccontextmanager
async def api_server(folder: Path) -> AsyncIterator[tuple[Api, list[str]]]:
    pki = CertificateAuthority(folder / "api")
    api, token = Api(), folder / "sa-token"
    token.write_text("marked-token\n")
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0, ssl=pki.issue("127.0.0.1").server_context())
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield api, ["--server", url, "--token-file", str(token), "--server-ca", str(pki.ca_file)]
    finally:
        server.close()


async def test_e67_a_bundle_is_applied_to_config_maps_and_keeps_what_another_writer_published(tmp_path: Path, capsys: Output) -> None:
    a, b, c = ca(tmp_path, "a"), ca(tmp_path, "b"), ca(tmp_path, "c")
    place, other = "/api/v1/namespaces/agents/configmaps/robin-trust", "/api/v1/namespaces/more/configmaps/robin-trust"
    async with api_server(tmp_path) as (api, server):

        async def bundle(*words: str) -> int:
            return await asyncio.to_thread(main, ["ca", "bundle", "--keep", "--configmap", "agents/robin-trust", *server, *words])

        assert await bundle("--ca", str(a), "--public-roots", "--configmap", "more/robin-trust") == 0
        for key in (place, other):
            assert names(api.maps[key]["data"]["ca.crt"]) == ["a"]
            assert api.maps[key]["data"]["bundle.crt"].startswith(a.read_text())
        assert [(method, target.partition("?")[2], token) for method, target, token in api.calls[:2]] == [
            ("GET", "", "Bearer marked-token"),
            ("PATCH", "fieldManager=robin-ca-bundle&force=true", "Bearer marked-token"),
        ]
        api.put(place, {"ca.crt": a.read_text()})
        api.intruder = a.read_text() + c.read_text()
        assert await bundle("--ca", str(b)) == 0  # 409, then read again
        assert names(api.maps[place]["data"]["ca.crt"]) == ["b", "a", "c"]
        for name, text in (("a.key", (tmp_path / "a.key").read_text()), ("words", "x")):
            api.put(place, {"ca.crt": a.read_text() + text})
            assert await bundle("--ca", str(b)) == (1 if name == "a.key" else 0)
        api.status = 403
        capsys.readouterr()
        assert await bundle("--ca", str(a)) == 1
        said = capsys.readouterr()
        assert "cannot patch" in said.err
        assert "marked" not in said.err + said.out
    assert await asyncio.to_thread(main, ["ca", "bundle", "--ca", str(a), "--configmap", "a/b", *server]) == 1
    assert "gives no answer" in capsys.readouterr().err


async def test_e68_what_a_program_behind_the_gateway_gets(tmp_path: Path, capsys: Output) -> None:
    rules = [
        {"name": "bridged", "hosts": ["a.test"], "ports": ["TLS"], "tls": "bridge"},
        {"name": "closed", "hosts": ["b.test"], "ports": ["TLS"]},
    ]
    async with running(tmp_path, rules) as rig:

        async def shown(host: str, expect: Path) -> tuple[int, str]:
            words = ["ca", "fingerprint", "--via", f"http://{rig.address}", f"{host}:{rig.tls.port}", "--expect", str(expect)]
            return await asyncio.to_thread(main, words), capsys.readouterr().out

        pki = rig.pki.ca_file
        slot, public = (f"expected {sha256(path, capsys)} " for path in (rig.ca_file, pki))
        code, said = await shown("a.test", rig.ca_file)
        assert (code, slot in said, "issuer CN=robin-bridge-ca-test" in said) == (0, True, True)
        code, said = await shown("b.test", pki)
        assert (code, public in said, "robin-bridge" in said) == (0, True, False)
        assert [(await shown(host, path))[0] for host, path in (("a.test", pki), ("b.test", rig.ca_file))] == [1, 1]
        assert (await shown("no.test", pki))[0] == 1
