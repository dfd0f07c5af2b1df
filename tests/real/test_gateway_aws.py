"""S3 through the gateway with keys of a role that its clients never see: boto3, the AWS CLI, and versitygw's STS and S3.

The clients have made-up keys, a proxy URL and a CA file. STS verifies the identity token with the keys of its issuer, an authority of ours;
S3 verifies session token and signature of each request.
"""

import contextlib
import datetime
import json
import re
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.real.parts import awsclients, debian
from tests.real.parts.program import Ended, run
from tests.real.parts.s3 import ADDRESS, Cloud, versitygw
from tests.wire import sigv4_cases

from robin.planes.gateway.new_authority import make_authority
from robin.testing.authority import IdentityAuthority
from robin.testing.certificates import CertificateAuthority
from robin.testing.process import RobinProcess

pytestmark = pytest.mark.real

AUDIENCE = "sts.amazonaws.com"
SUBJECT = "system:serviceaccount:demo:agent"
PROFILE = """\
id: s3
display_name: S3
credentials:
  - {{name: aws, token_grant: {{preset: aws, role_arn: "{cloud.role}", region: us-east-1, token_endpoint: "{cloud.sts}"}}}}
endpoints:
  - {{host: s3.test, port: {cloud.port}, signing_service: s3, signing_region: us-east-1}}
"""


@dataclass(frozen=True, kw_only=True)
class Stand:
    """What the clients know: `proxy`, `ca_file` and `url`."""

    robin: RobinProcess
    proxy: str
    ca_file: Path
    url: str
    home: Path

    async def run(self, *command: str | Path, codes: tuple[int, ...] = (0,)) -> Ended:
        """With keys that are none, and the documented environment."""
        made_up = {"AWS_ACCESS_KEY_ID": "AKIAPLACEHOLDER00000", "AWS_SECRET_ACCESS_KEY": "placeholder", "AWS_SESSION_TOKEN": "placeholder"}
        quiet = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1"}
        trust = {"AWS_CA_BUNDLE": str(self.ca_file), "SSL_CERT_FILE": str(self.ca_file), "CURL_CA_BUNDLE": str(self.ca_file)}
        proxies = dict.fromkeys("HTTP_PROXY HTTPS_PROXY http_proxy https_proxy".split(), self.proxy)
        return await run(command, home=self.home, environment={**made_up, **quiet, **trust, **proxies}, codes=codes)

    async def aws(self, *words: str, codes: tuple[int, ...] = (0,)) -> Ended:
        """The AWS CLI."""
        return await self.run(awsclients.find(), "-m", "awscli", "--endpoint-url", self.url, *words, codes=codes)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [one for one in self.robin.events if one.get("event") == name]


@contextlib.asynccontextmanager
async def stand(folder: Path, cloud: Cloud, *, roots: Path, token: bytes) -> AsyncIterator[Stand]:
    """The gateway in front of an S3 at s3.test."""
    slot, home = folder / "ca", folder / "home"
    slot.mkdir()
    home.mkdir()
    certificate, key = make_authority("robin-bridge-ca-test", days=1, permit_dns=[], now=datetime.datetime.now(datetime.UTC))
    (slot / "tls.crt").write_bytes(certificate)
    (slot / "tls.key").touch(mode=0o600)
    (slot / "tls.key").write_bytes(key)
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_bytes(token)
    (folder / "s3.yaml").write_text(PROFILE.format(cloud=cloud))
    section = {
        "listeners": [{"name": "proxy", "listen": "127.0.0.1:0"}],
        "admin": {"listen": "127.0.0.1:0"},
        "drain": {"min": "0s", "max": "5s"},
        "identities": {"default": {"source": "file", "token_file": str(folder / "token"), "audience": AUDIENCE}},
        "profiles": ["s3.yaml"],
        "providers": [{"profile": "s3", "callers": ["local"]}],
        "bridge": {"slots": {"a": str(slot)}},
        "upstream_tls": {"ca_files": [str(roots)]},
        "addresses": {"hosts": {"s3.test": ["127.0.0.1"]}, "unsafe_loopback": [f"127.0.0.1:{cloud.port}"]},
    }
    (folder / "robin.yaml").write_text(json.dumps({"version": 1, "gateway": section}))  # JSON is YAML
    async with RobinProcess("gateway", "--config", str(folder / "robin.yaml")) as robin:
        listening = await robin.event("listening")
        await robin.event("started")
        proxy = f"http://{listening['listen'][0]}"
        yield Stand(robin=robin, proxy=proxy, ca_file=slot / "tls.crt", url=f"https://s3.test:{cloud.port}", home=home)


async def use_s3(at: Stand) -> bytes:
    """What boto3 and the CLI do with the bucket; all that they said."""
    ended = await at.run(awsclients.find(), awsclients.SIGN.with_name("use_s3.py"), at.url)
    assert ended.told == {
        "small": "hello",
        "empty": 0,
        "odd": "odd",
        "listed": True,
        "large": True,
        "range": "ell",
        "deleted": 404,
        "digested": 100_000,
        "signed url": [403, "caller_credential_refused"],
    }
    said = ended.stdout + ended.stderr.encode()
    (at.home / "file").write_bytes(b"0123456789" * 1_000_000)
    for words in (
        ["s3", "cp", "file", "s3://bucket/by cli/file"],
        ["s3", "ls", "s3://bucket/by cli/"],
        ["s3", "cp", "s3://bucket/by cli/file", "back"],
    ):
        ended = await at.aws(*words)
        said += ended.stdout + ended.stderr.encode()
    assert (at.home / "back").read_bytes() == (at.home / "file").read_bytes()
    return said


def test_g27_botocore_gives_the_signatures_of_the_table() -> None:
    shared = {"time": sigv4_cases.TIME, "key_id": sigv4_cases.KEY_ID, "secret": sigv4_cases.SECRET}
    found = awsclients.sign([asdict(case) | shared for case in sigv4_cases.CASES])
    assert found == [case.signature for case in sigv4_cases.CASES]


async def test_boto3_and_the_aws_cli_use_s3_with_keys_of_a_role_that_they_never_see(tmp_path: Path) -> None:
    pki = CertificateAuthority(tmp_path / "pki")
    authority = IdentityAuthority(issuer=f"https://{ADDRESS}")
    token = authority.service_account_token(audience=AUDIENCE)
    with versitygw(pki, "s3.test", authority, audience=AUDIENCE, subject=SUBJECT) as cloud:
        async with stand(tmp_path, cloud, roots=pki.ca_file, token=token) as at:
            said = await use_s3(at)
            (call,) = at.events("grant_call")
            assert (call["status"], call["grant"]["identity_sub"]) == (200, SUBJECT)
            assert re.fullmatch(r"[0-9a-f-]{36}", call["grant"]["issuer_request_id"])
            assert {one["grant"]["token_hash"] for one in at.events("gateway.decision") if one["grant"]} == {call["grant"]["token_hash"]}
            log = "\n".join(line for _, line in at.robin.lines).encode()
            assert token not in said + log
            assert b"placeholder" not in log


async def test_a_token_that_sts_refuses_is_a_fault_and_s3_sees_nothing(tmp_path: Path) -> None:
    pki = CertificateAuthority(tmp_path / "pki")
    authority = IdentityAuthority(issuer=f"https://{ADDRESS}")
    cases = {"subject": {"sub": "system:serviceaccount:demo:other"}, "issuer": {"iss": "https://other.example"}}
    with versitygw(pki, "s3.test", authority, audience=AUDIENCE, subject=SUBJECT) as cloud:
        for name, claims in cases.items():
            folder = tmp_path / name
            folder.mkdir()
            token = authority.service_account_token(audience=AUDIENCE, **claims)
            async with stand(folder, cloud, roots=pki.ca_file, token=token) as at:
                refused = await at.run(debian.find("curl"), "-sS", f"{at.url}/bucket/small")
                problem = json.loads(refused.stdout)
                assert (problem["status"], problem["code"], problem["issuer_error"]) == (502, "grant_refused", "InvalidIdentityToken")
                (call,) = at.events("grant_call")
                assert call["grant"]["issuer_request_id"]
        assert "/bucket/" not in cloud.s3.log_text()
