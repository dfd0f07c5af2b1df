"""An agent's environment behind a gateway: proxy variables, what each program trusts, and what must not be in the pod.

No value of a variable is shown: a proxy URL may hold a token. Those of the deployment contract are expected, each of them.
"""

import contextlib
import datetime
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from robin.cli.findings.finding import Finding, fail, ok, warn
from robin.cli.pem import certificate_blocks, fingerprints
from robin.config.agent_environment import ADDED_ROOTS, PROXY, REPLACED_ROOTS
from robin.transport.clock import Clock
from robin.transport.tls import TlsFileError, read_file

if TYPE_CHECKING:
    from cryptography import x509

TRUST: Final = "/etc/robin/trust"
RELAY: Final = "http://127.0.0.1:8081"
ACCOUNT_TOKEN: Final = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})
_SOON_S: Final = 7 * 86400.0


@dataclass(slots=True, kw_only=True)
class Trusted:
    """The CAs of the file that agents trust, by SHA-256."""

    path: str
    cas: dict[str, "x509.Certificate"] = field(default_factory=dict)


def look_at_proxies(environ: Mapping[str, str]) -> Iterator[Finding]:
    """The proxy variables."""
    values = {name: environ.get(name, "") for name in PROXY}
    for name in (name for name, value in values.items() if not value):
        yield fail("proxy_unset", f"{name} is not set", f"{name}={RELAY}")
    given = {name: value for name, value in values.items() if value}
    for name, value in given.items():
        if proxy_place(value) is None:
            yield fail("proxy_invalid", f"{name} is not http://HOST:PORT", f"{name}={RELAY}")
        elif "@" in value:
            yield warn("proxy_credential", f"{name} holds a credential, which is fixed at the start", "use a relay, whose token is renewed")
    if len(set(given.values())) > 1:
        yield warn("proxy_differs", f"{', '.join(given)} do not name the same proxy", "give all of them one value")
    if len(given) == len(PROXY) and len(set(given.values())) == 1 and proxy_place(values["HTTPS_PROXY"]) is not None:
        yield ok("proxy_set", "the four proxy variables name one proxy")
    yield from _no_proxy(environ)
    if environ.get("NODE_USE_ENV_PROXY") != "1":
        yield fail(
            "node_proxy_unset", "NODE_USE_ENV_PROXY is not 1: Node's fetch goes past the proxy", "NODE_USE_ENV_PROXY=1 (Node 22.21, or 24)"
        )
    for name in ("ALL_PROXY", "all_proxy"):
        if environ.get(name):
            yield warn("proxy_other", f"{name} is set too, and some programs prefer it", f"unset {name}")


def _no_proxy(environ: Mapping[str, str]) -> Iterator[Finding]:
    expected = "localhost,127.0.0.1,::1"
    for name in ("NO_PROXY", "no_proxy"):
        value = environ.get(name)
        if value is None:
            yield fail("no_proxy_unset", f"{name} is not set: what runs in this pod would be asked through the proxy", f"{name}={expected}")
        elif more := [part for entry in value.split(",") if (part := entry.strip()) and part not in _LOCAL]:
            text = f"{name} has {len(more)} entries beside this host: they hang where egress is closed, and are holes where it is not"
            yield warn("no_proxy_wide", text, f"{name}={expected}")


def proxy_place(value: str) -> tuple[str, int] | None:
    """Host and port of a proxy URL without TLS; None: it is none."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(value)
        if parts.scheme == "http" and parts.hostname and parts.port:
            return parts.hostname, parts.port
    return None


def look_at_trust(environ: Mapping[str, str], trusted: Trusted, clock: Clock) -> Iterator[Finding]:
    """The CA file, and the file of each variable; `trusted` is filled in."""
    try:
        listed = _certificates(trusted.path)
    except ValueError as error:
        text = f"{trusted.path}: {error}; whether the files of the variables have the CA was not looked at"
        yield fail("ca_file_unreadable", text, "mount the ConfigMap robin-trust there, or name the file with --ca-file")
        listed = {}
    now = datetime.datetime.fromtimestamp(clock.wall(), datetime.UTC)
    for digest, one in listed.items():
        trusted.cas[digest] = one
        left_s = (one.not_valid_after_utc - now).total_seconds()
        if left_s <= 0:
            yield fail("ca_expired", f"the CA {digest} in {trusted.path} has expired", "publish the renewed one: robin ca bundle")
        elif left_s < _SOON_S:
            yield warn("ca_expires", f"the CA {digest} in {trusted.path} ends within a week", "renew its slot, then robin ca bundle")
    if trusted.cas:
        yield ok("ca_file", f"{trusted.path} has {', '.join(trusted.cas)}")
    bundle = os.path.join(os.path.dirname(trusted.path), "bundle.crt")
    for name in ADDED_ROOTS:
        yield from _variable(name, environ, trusted, trusted.path)
    for name in REPLACED_ROOTS:
        yield from _variable(name, environ, trusted, bundle)


def _variable(name: str, environ: Mapping[str, str], trusted: Trusted, expected: str) -> Iterator[Finding]:
    path, fix = environ.get(name), f"{name}={expected}"
    if not path:
        yield fail("ca_variable_unset", f"{name} is not set", fix)
        return
    try:
        found = _blocks(_content(path))
    except ValueError as error:
        yield fail("ca_file_unreadable", f"{name} names a file that is no use: {error}", fix)
        return
    if not trusted.cas:
        return
    missing = [digest for digest in trusted.cas if digest not in found]
    if missing:
        yield fail("ca_missing", f"the file of {name} lacks the CA {', '.join(missing)}", fix)
    elif name in REPLACED_ROOTS and found.keys() <= trusted.cas.keys():
        yield fail("ca_only", f"{name} replaces the public roots, and its file has the gateway's CA alone: public TLS breaks", fix)
    else:
        yield ok("ca_variable", f"{name} has the CA, and {len(found) - len(trusted.cas)} other certificates")


def _certificates(path: str) -> "dict[str, x509.Certificate]":
    """By SHA-256. Raises ValueError with the reason."""
    from cryptography import x509  # noqa: PLC0415 - loaded only here

    content = _content(path)
    try:
        return {digest: x509.load_pem_x509_certificate(block) for digest, block in _blocks(content).items()}
    except ValueError:
        raise ValueError("there is something in it that is no certificate") from None


def _blocks(content: bytes) -> dict[str, bytes]:
    """By SHA-256. Raises ValueError."""
    try:
        found = dict(zip(fingerprints(content), certificate_blocks(content), strict=True))
    except ValueError:
        raise ValueError("there is something in it that is no certificate") from None
    if not found:
        raise ValueError("there is no certificate in it")
    return found


def _content(path: str) -> bytes:
    """Raises ValueError with the reason."""
    try:
        content = read_file(path, "it")
    except TlsFileError as error:
        raise ValueError(str(error)) from None
    except OSError as error:
        raise ValueError(error.strerror or type(error).__name__) from None
    if b"PRIVATE KEY" in content:
        raise ValueError("there is a private key in it")
    return content


def look_at_tokens(token_file: str | None, clock: Clock, account_token: str = ACCOUNT_TOKEN) -> Iterator[Finding]:
    """The token of the relay, where its file is named; and one that no agent should have."""
    if os.path.exists(account_token):
        yield warn(
            "service_account_token",
            "a token of the ServiceAccount is mounted here: the agent can use it",
            "automountServiceAccountToken: false",
        )
    if token_file is None:
        return
    from robin.wire.compact_jws import decode_base64url  # noqa: PLC0415
    from robin.wire.strict_json import parse_json_object  # noqa: PLC0415

    try:
        text = read_file(token_file, "it").strip()
        claims = parse_json_object(decode_base64url(text.split(b".")[1].decode("ascii")))
        ends_at, issued_at = float(claims["exp"]), float(claims.get("iat", 0))  # type: ignore[arg-type]
    except (TlsFileError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        yield fail("token_file_unreadable", f"{token_file}: {why}", "mount the projected token there")
        return
    except (ValueError, KeyError, IndexError, TypeError):
        yield fail("token_malformed", f"{token_file} holds no JWT with an end", "mount the projected token there")
        return
    now = clock.wall()
    if ends_at <= now:
        yield fail("token_expired", f"the token ended {now - ends_at:.0f} s ago", "look at what renews it: the kubelet, or the mount")
    else:
        yield ok("token", f"the token is {max(0.0, now - issued_at):.0f} s old, and ends in {ends_at - now:.0f} s")
