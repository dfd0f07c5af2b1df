"""The environment of a program behind the gateway: where its proxy is, and whom it trusts. No value in it is a secret."""

import re
from collections.abc import Mapping
from typing import Final

PROXY: Final = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")  # curl reads http_proxy in lower case only
DIRECT: Final = ("NO_PROXY", "no_proxy")
DIRECT_HOSTS: Final = "localhost,127.0.0.1,::1"  # a longer list opens ways around the gateway
NODE_PROXY: Final = "NODE_USE_ENV_PROXY"  # Node 22.21, or 24 and later
ADDED_ROOTS: Final = ("NODE_EXTRA_CA_CERTS",)
"""These name roots beside those that the program has: `ca.crt` is enough."""
REPLACED_ROOTS: Final = tuple(
    "SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE GIT_SSL_CAINFO AWS_CA_BUNDLE PIP_CERT NPM_CONFIG_CAFILE CARGO_HTTP_CAINFO "
    "DENO_CERT GRPC_DEFAULT_SSL_ROOTS_FILE_PATH".split()
)
"""These name all roots: with `ca.crt` alone a program could reach no host whose TLS stays closed. npm's is here
since a `cafile` of an npmrc would beat NODE_EXTRA_CA_CERTS."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:,@%+=-]+")


def agent_environment(*, proxy_url: str, ca_file: str, bundle_file: str) -> dict[str, str]:
    """Every variable, in the order in which people read them. `bundle_file` has the CA and the public roots."""
    environment = dict.fromkeys(PROXY, proxy_url) | dict.fromkeys(DIRECT, DIRECT_HOSTS) | {NODE_PROXY: "1"}
    return environment | dict.fromkeys(ADDED_ROOTS, ca_file) | dict.fromkeys(REPLACED_ROOTS, bundle_file)


def as_exports(environment: Mapping[str, str]) -> str:
    """The same as lines of a POSIX shell."""
    return "".join(f"export {name}={quoted(value)}\n" for name, value in environment.items())


def quoted(value: str) -> str:
    """As a POSIX shell reads it back."""
    return value if _PLAIN.fullmatch(value) else "'" + value.replace("'", "'\\''") + "'"
