"""One ConfigMap at a Kubernetes API server: read it, and apply it (server-side apply), with the ServiceAccount of this pod.

Direct, never through a proxy; bounded in time and size. The token goes into one header and nowhere else.
"""

import http.client
import json
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from robin.transport.tls import TlsFileError, load_roots, new_context, read_file

FIELD_MANAGER: Final = "robin-ca-bundle"
_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_S: Final = 15.0
_ANSWER_BYTES: Final = 4 << 20


class ApiError(Exception):
    """The API server did not do it; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigMap:
    """`version` is the resourceVersion that it was read with, None: there was none."""

    namespace: str
    name: str
    data: dict[str, str]
    version: str | None = None


class ApiServer:
    """Calls one API server."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, token: str) -> None:
        self._host = host
        self._port = port
        self._context = context
        self._token = token

    def read(self, namespace: str, name: str) -> ConfigMap | None:
        """None: there is none. Raises ApiError."""
        status, answer = self._call("GET", f"/api/v1/namespaces/{namespace}/configmaps/{name}")
        if status == 404:
            return None
        if status != 200:
            raise ApiError(f"{namespace}/{name} cannot be read: {_reason(status, answer)}")
        data = answer.get("data") or {}
        metadata = answer.get("metadata")
        version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
        if not isinstance(data, dict) or not isinstance(version, str):
            raise ApiError(f"{namespace}/{name} cannot be read: this is no ConfigMap")
        return ConfigMap(namespace=namespace, name=name, data={str(key): str(value) for key, value in data.items()}, version=version)

    def apply(self, wanted: ConfigMap) -> bool:
        """Make it so. Returns False where another writer came between. Raises ApiError."""
        metadata = {"name": wanted.name, "namespace": wanted.namespace}
        if wanted.version is not None:
            metadata["resourceVersion"] = wanted.version
        body = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": wanted.data})
        place = f"/api/v1/namespaces/{wanted.namespace}/configmaps/{wanted.name}"
        status, answer = self._call("PATCH", f"{place}?fieldManager={FIELD_MANAGER}&force=true", body)
        if status == 409:
            return False
        if status not in {200, 201}:
            raise ApiError(f"{wanted.namespace}/{wanted.name} cannot be applied: {_reason(status, answer)}")
        return True

    def _call(self, method: str, target: str, body: str | None = None) -> tuple[int, dict[str, Any]]:
        fields = {"Authorization": f"Bearer {self._token}", "Accept": "application/json", "Connection": "close"}
        if body is not None:
            fields["Content-Type"] = "application/apply-patch+yaml"  # JSON is YAML
        call = http.client.HTTPSConnection(self._host, self._port, context=self._context, timeout=_TIMEOUT_S)
        try:
            call.request(method, target, body, fields)
            response = call.getresponse()
            octets = response.read(_ANSWER_BYTES)
            answer = json.loads(octets)
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            raise ApiError(f"the API server at {self._host}:{self._port} gives no answer: {why}") from None
        finally:
            call.close()
        return response.status, answer if isinstance(answer, dict) else {}


def api_server(url: str | None, token_file: str | None, ca_file: str | None) -> ApiServer:
    """The one that the flags name, else that of this pod. Raises ApiError."""
    if url is None:
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")  # noqa: TID251
        if not host or not port.isdecimal():
            raise ApiError("this is no pod of a cluster; name the API server with --server, --token-file and --server-ca")
        place = (host, int(port))
    else:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise ApiError("--server: write https://host[:port]")
        place = (parts.hostname, parts.port or 443)
    token_path, ca_path = token_file or str(_ACCOUNT / "token"), ca_file or str(_ACCOUNT / "ca.crt")
    context = new_context(ssl.PROTOCOL_TLS_CLIENT)
    try:
        load_roots(context, ca_path)
    except (TlsFileError, OSError) as error:
        raise ApiError(f"{ca_path}: {error}") from None
    try:
        token = read_file(token_path, "the token file").strip().decode("ascii")
    except (TlsFileError, OSError, UnicodeDecodeError) as error:
        raise ApiError(f"{token_path}: {error if isinstance(error, TlsFileError) else type(error).__name__}") from None
    if not token.isprintable() or " " in token or not token:
        raise ApiError(f"{token_path}: this is no token")
    return ApiServer(*place, context, token)


def _reason(status: int, answer: dict[str, Any]) -> str:
    """The words of the Status, which name the missing right."""
    message = answer.get("message")
    return f"{status} {ascii(str(message))[1:-1][:300]}" if message else str(status)
