"""`robin passport issue | verify | bundle` and `robin broker key list`, as a person uses them against a broker that runs (P37, P47)."""

import asyncio
import json
import os
import shlex
import shutil
import signal
import socket
import threading
from pathlib import Path

import pytest
from tests.planes.broker.conftest import Life

from robin.cli.main import main
from robin.planes.broker.keys import activate_key, add_key, load_keys, make_key, retire_key

BODY = b'{"a":1}'


async def robin(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, output and errors of one command."""
    capsys.readouterr()
    try:
        code = await asyncio.to_thread(main, list(words))
    except SystemExit as left:
        code = int(str(left.code))
    said = capsys.readouterr()
    return code, said.out, said.err


async def test_a_request_is_issued_verified_and_refused_from_the_command_line(life: Life, capsys):
    folder = life.folder
    (folder / "body").write_bytes(BODY)
    ask = ["passport", "issue", "--socket", life.socket, "--scheme", "http", "--authority", life.authority, "--path", "/orders"]
    post = [*ask, "--method", "POST", "--body", str(folder / "body"), "--header", "Content-Type: application/json"]
    pinned = ["--bundle", str(folder / "bundle.json"), "--bundle-key", str(folder / "sign.jwk.pub")]
    request = folder / "request"
    verify = ["passport", "verify", "--request", str(request), *pinned]

    for profile in ("wimse-httpsig", "transcript-v1"):
        code, headers, said = await robin(capsys, *post, "--profile", profile)
        assert (code, said) == (0, "")
        head = f"POST /orders HTTP/1.1\r\nHost: {life.authority}\r\n" + headers.replace("\n", "\r\n")
        request.write_bytes(f"{head}Content-Length: 7\r\n\r\n".encode() + BODY)
        code, out, _ = await robin(capsys, *verify)
        found = json.loads(out)
        assert (code, found["allowed"], found["reason"], found["route_id"]) == (0, True, "passport_verified", "create")
        assert found["subject"] == "spiffe://example.org/agent"
        assert (await robin(capsys, *verify))[0] == 0  # no store of uses is kept
        digest = found["base_sha256" if profile == "wimse-httpsig" else "transcript_sha256"]
        assert digest in (life.folder / "state" / "audit.jsonl").read_text()
        request.write_bytes(f"{head}Transfer-Encoding: chunked\r\n\r\n7\r\n".encode() + BODY + b"\r\n0\r\n\r\n")
        assert (await robin(capsys, *verify))[0] == 0
        chunks = request.read_bytes()
        request.write_bytes(chunks + b"GET /other HTTP/1.1\r\n\r\n")
        assert (await robin(capsys, *verify))[0] == 2
        for ambiguous in (
            chunks.replace(b"POST /", f"POST http://{life.authority}/".encode()),
            chunks.replace(b"\r\n", b"\r\nConnection: content-type\r\n", 1),
        ):
            request.write_bytes(ambiguous)
            code, out, _ = await robin(capsys, *verify)
            assert (code, json.loads(out)["reason"]) == (1, "transcript_ambiguous")
        request.write_bytes(f"{head}Content-Length: 7\r\n\r\n".encode() + BODY[:-1] + b"]")
        assert (await robin(capsys, *verify, "--at", "nan"))[0] == 2
        code, out, _ = await robin(capsys, *verify)
        assert (code, json.loads(out)["reason"]) == (1, "body_digest_mismatch")
        for flags, reason in (
            (["--at", "9999999999"], "stale_bundle_fail_closed"),
            (["--authority", "other.example"], "authority_not_served"),
            (["--scheme", "https"], "body_digest_mismatch" if profile == "wimse-httpsig" else "request_binding_mismatch"),
        ):
            code, out, _ = await robin(capsys, *verify, *flags)
            assert (code, json.loads(out)["reason"]) == (1, reason)
        assert not any(line.partition(": ")[2] in out for line in headers.splitlines())
        code, _, base = await robin(capsys, *verify, "--explain")
        assert (code, len(base.splitlines())) == (1, 7 if profile == "wimse-httpsig" else 20)
        (folder / "claimed").write_text(base.replace("POST", "PUT"))
        differs = [*verify, "--claimed-base", str(folder / "claimed")]
        code, _, said = await robin(capsys, *differs)
        number = 1 if profile == "wimse-httpsig" else 2
        assert (code, said.splitlines()[0]) == (1, f"line {number} differs")
        assert "PUT" in said.splitlines()[2]
        request.write_bytes(f"{head}Content-Length: 7\r\n\r\n".encode() + BODY)
        (folder / "claimed").write_text(base)  # of transcript-v1 it is whole, of the other profile without its token
        assert (await robin(capsys, *differs))[0] == (0 if profile == "transcript-v1" else 1)
        secrets = [line.partition(": ")[2] for line in headers.splitlines() if line.startswith(("Workload", "Authorization"))]
        assert [secret for secret in secrets if secret in base + said] == []
    request.write_bytes(f"GET /orders HTTP/1.1\r\nHost: {life.authority}\r\n\r\n".encode())
    code, out, said = await robin(capsys, *verify, "--explain")
    assert (code, json.loads(out)["reason"]) == (1, "passport_missing")
    assert said == "robin passport verify: the request was refused before a base was built\n"
    request.write_bytes(b"GET /orders HTTP/1.1\r\n")
    code, _, said = await robin(capsys, *verify)
    assert (code, said) == (2, "robin passport verify: --request is not one whole HTTP/1.1 request\n")
    assert (await robin(capsys, *verify[:4], *pinned[:2]))[0] == 2  # neither a key nor the flag for none

    code, out, _ = await robin(capsys, *ask, "--method", "GET", "--format", "curl", "--connect-to", "127.0.0.1:1")
    words = shlex.split(out)
    assert (code, words[0], words[-1]) == (0, "curl", f"http://{life.authority}/orders")
    assert f"{life.authority}:127.0.0.1:1" in words
    code, out, _ = await robin(capsys, *ask, "--method", "GET", "--format", "json", "--query", "a=1")
    assert (code, json.loads(out)["reason"]) == (0, "broker_passport_issued")
    assert (await robin(capsys, *ask, "--method", "PUT"))[::2] == (1, "deny route_mismatch\n")
    assert (await robin(capsys, *ask, "--method", "GET", "--min-identity", "pod_svid"))[::2] == (1, "deny insufficient_key_binding\n")
    code, _, said = await robin(capsys, *ask, "--method", "GET", "--socket", str(folder / "none"))
    assert (code, said) == (
        3,
        f"robin passport: {folder}/none: No such file or directory; start robin broker, or name its socket with --socket\n",
    )


@pytest.mark.skipif(shutil.which("curl") is None, reason="the line is for curl")
async def test_the_curl_line_of_a_request_with_a_body_is_accepted(life: Life, capsys):
    """Curl adds a Content-Type of its own to a body, and one that is sent must be covered."""
    body = life.folder / "body"
    body.write_bytes(BODY)
    ask = ["passport", "issue", "--socket", life.socket, "--scheme", "http", "--authority", life.authority, "--path", "/orders"]
    post = [*ask, "--method", "POST", "--body", str(body), "--format", "curl"]
    for words in ([], ["--profile", "transcript-v1"], ["--header", "content-type: application/json"]):
        code, out, _ = await robin(capsys, *post, *words)
        assert code == 0
        line = [*shlex.split(out), "-o", os.devnull, "-w", "%{http_code}"]
        curl = await asyncio.create_subprocess_exec(*line, stdout=asyncio.subprocess.PIPE)
        assert (words, (await curl.communicate())[0]) == (words, b"200")


async def test_a_bundle_is_checked_before_it_is_signed_and_its_key_is_private(life: Life, capsys):
    folder = life.folder
    bundle, key, draft = (str(folder / name) for name in ("bundle.json", "sign.jwk", "draft.json"))
    assert Path(key).stat().st_mode & 0o777 == 0o600
    code, out, _ = await robin(capsys, "passport", "bundle", "verify", "--bundle", bundle, "--bundle-key", f"{key}.pub")
    assert (code, out) == (0, f"serial 1, created {json.loads(Path(bundle).read_text())['created_at']}, 1 keys, 4 routes\n")
    text = Path(bundle).read_text()
    Path(bundle).write_text(text.replace('"serial": 1', '"serial": 2'))
    code, _, said = await robin(capsys, "passport", "bundle", "verify", "--bundle", bundle, "--bundle-key", f"{key}.pub")
    assert (code, said.partition(":")[0]) == (1, "bundle_signature_invalid")

    build = ["passport", "bundle", "build", "--config", str(life.config), "--out", draft]
    draft_line = f"{draft}: not signed yet, 1 keys; robin passport bundle sign makes the bundle that verifiers take\n"
    assert await robin(capsys, *build) == (0, draft_line, "")
    (own,) = (folder / "state" / "keys").glob("*.jwk")
    own.unlink()
    code, out, _ = await robin(capsys, *build)
    (made,) = (folder / "state" / "keys").glob("*.jwk")
    assert (code, out) == (0, f"{made}: made now, the first issuer key; the broker signs with it\n{draft_line}")
    document = json.loads(Path(draft).read_text())
    assert document["serial"] == document["created_at"]
    assert '"d"' not in Path(draft).read_text()
    sign = ["passport", "bundle", "sign", "--bundle", draft, "--key", key, "--out", bundle]
    Path(draft).write_text(json.dumps({**document, "routes": [{"route_id": "x"}]}))
    code, _, said = await robin(capsys, *sign)
    assert (code, "a route lacks a member" in said) == (2, True)
    Path(draft).write_text(json.dumps(document))
    Path(key).chmod(0o604)
    code, _, said = await robin(capsys, *sign)
    assert (code, said) == (2, f"robin passport bundle sign: {key}: everyone can reach it; chmod 0600 it\n")
    Path(key).chmod(0o600)
    assert (await robin(capsys, *sign))[0] == 0
    assert (await robin(capsys, *sign[:-2]))[::2] == (2, "robin passport bundle sign: --out is missing\n")
    code, out, _ = await robin(capsys, "passport", "bundle", "show", "--bundle", bundle)
    assert (code, json.loads(out)["serial"]) == (0, document["serial"])
    code, _, said = await robin(capsys, "passport", "bundle", "keygen", "--out", key)
    assert (code, "File exists" in said) == (2, True)

    check = ["broker", "--check", "--config", str(life.config)]
    assert await robin(capsys, *check) == (0, f"{life.config}: broker: ok\n", "")
    Path(bundle).write_text(text)
    code, _, said = await robin(capsys, *check)
    assert (code, said) == (0, "")
    Path(bundle).write_text(text.replace('"serial": 1', '"serial": 3'))
    code, _, said = await robin(capsys, *check)
    assert (code, said.startswith("robin broker: bundle_signature_invalid: ")) == (2, True)
    Path(bundle).unlink()
    os.mkfifo(bundle)
    code, _, said = await robin(capsys, *check)
    assert (code, said) == (2, "robin broker: bundle_policy_missing: it is not a regular file\n")
    Path(bundle).unlink()
    Path(bundle).write_text(text)
    for content, part in ((None, f"{folder}/checkpoint.pem: No such file"), ("", "broker.audit.checkpoint_key_file: ")):
        if content is not None:
            (folder / "checkpoint.pem").write_text(content)
        life.broker["audit"] = {"checkpoint_key_file": str(folder / "checkpoint.pem")}
        life.write()
        code, _, said = await robin(capsys, *check)
        assert (code, said.startswith(f"robin broker: {part}")) == (2, True), said
    del life.broker["audit"]
    life.write()
    (folder / "state").chmod(0o770)
    code, _, said = await robin(capsys, *check)
    assert (code, "others can write to it" in said) == (2, True)
    (folder / "state").chmod(0o700)
    code, out, _ = await robin(capsys, "broker", "key", "list", "--config", str(life.config))
    kid = document["trust_domains"][0]["issuers"][0]["keys"][0]["kid"]
    assert (code, out.split()[:2]) == (0, [kid, "active"])
    assert (await robin(capsys, "broker", "key", "sell", "--config", str(life.config)))[0] == 2


async def test_a_key_is_replaced_while_the_broker_serves(life: Life, capsys):
    """Item P37: no request is refused, an early retirement is."""

    async def key(*words: str) -> tuple[int, str, str]:
        return await robin(capsys, "broker", "key", *words, "--config", str(life.config))

    async def check(kid: str) -> None:
        for profile in ("wimse-httpsig", "transcript-v1"):
            assert (await life.send(await life.headers(profile=profile)))[0] == 200
        assert {one["kid"] for one in life.records("passport.verify")[-2:]} == {kid}

    old = (await key("list"))[1].split()[0]
    earlier = await life.headers()
    new = (await key("new"))[1].strip()
    await check(old)
    code, _, said = await key("activate", new, "--bundle", str(life.folder / "bundle.json"))
    assert (code, said.startswith("robin broker: warning: no bundle was named that has this key")) == (0, True)
    assert await key("activate", old, "--bundle", str(life.folder / "bundle.json")) == (0, "", "")
    life.make_bundle(serial=2)
    await life.process.event("bundle_loaded", after=1)
    assert (await key("activate", new, "--bundle", str(life.folder / "bundle.json"))) == (0, "", "")
    await check(old)  # until it reloads
    life.process.send_signal(signal.SIGHUP)
    await life.process.event("reload")
    await check(new)
    assert (await life.send(earlier))[0] == 200
    code, _, said = await key("retire", old)
    assert (code, "may still be valid for" in said) == (1, True)
    assert (await key("retire", new))[0] == 2
    assert (await key("activate", "unknown"))[0] == 2
    path = life.folder / "state" / "keys" / f"{old}.jwk"
    path.chmod(0o644)
    life.process.send_signal(signal.SIGHUP)
    refused = await life.process.event("keys_refused")
    assert str(path) in refused["detail"]
    await check(new)


def test_a_key_is_retired_once_its_passports_have_ended(tmp_path: Path):
    old, new = (add_key(tmp_path / "keys", now=1000) for _ in range(2))
    assert (old.status, new.status) == ("active", "next")
    activate_key(tmp_path / "keys", new.kid, now=2000)
    assert retire_key(tmp_path / "keys", old.kid, now=2629) == 1
    assert retire_key(tmp_path / "keys", old.kid, now=2630) == 0
    assert [key.kid for key in load_keys(tmp_path / "keys", now=0, auto_create=False)] == [new.kid]
    (tmp_path / "keys" / f"{new.kid}.jwk").write_text((tmp_path / "keys" / f"{new.kid}.jwk").read_text().replace("active", "retiring"))
    activate_key(tmp_path / "keys", new.kid, now=3000)  # as after a crash between its two files
    assert load_keys(tmp_path / "keys", now=0, auto_create=False)[0].status == "active"


NO_BROKER = "the response is none of a broker; "


@pytest.mark.parametrize(
    ("reply", "said"), [(b"", "the connection was closed without a response; "), (b"HTTP/1.1 400\r\n", NO_BROKER), (b"[1]\n", NO_BROKER)]
)
def test_a_socket_that_is_no_brokers_is_named_with_a_fix(tmp_path: Path, reply: bytes, said: str, capsys):
    place = str(tmp_path / "s")

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(reply)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(place)
        listening.listen()
        server = threading.Thread(target=serve, args=(listening,))
        server.start()
        code = main(["passport", "issue", "--method", "GET", "--path", "/", "--authority", "a", "--socket", place])
        server.join()
    assert (code, capsys.readouterr().err.startswith(f"robin passport: {place}: {said}")) == (3, True)


def test_a_kid_can_be_an_argument():
    assert not [pair.kid for pair in (make_key(status="next", created=0) for _ in range(500)) if pair.kid.startswith("-")]
