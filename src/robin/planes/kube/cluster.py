"""Calls of Robin itself to the cluster, with its own credential, JSON both ways; no request of an agent passes here."""

import json
from dataclasses import dataclass
from typing import Final

from robin.model.secret import Secret
from robin.model.verdict import Permit
from robin.planes.kube.bootstrap import Bootstrap
from robin.transport.http_client import HttpClient
from robin.wire.http_call import HttpResponse
from robin.wire.strict_json import JsonObject, parse_json_object

_BODY_BYTES: Final = 262144
_MESSAGE_MAX: Final = 200
USER_AGENT: Final = "robin-kube"


class NoBootstrap(Exception):
    """There is no token in the bootstrap file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterCalls:
    """`prefix` is the path of the cluster's URL. `plain` is the Permit for calls with a minted token, without Robin's own certificate."""

    client: HttpClient
    permit: Permit
    plain: Permit
    bootstrap: Bootstrap
    prefix: str

    async def send(
        self,
        method: str,
        path: str,
        body: JsonObject | None,
        *,
        audit_id: str,
        deadline_at: float,
        anew: bool = False,
        minted: Secret | None = None,
    ) -> HttpResponse:
        """One call. `anew`: look at the credential file first. `minted`: the value of Authorization in place of Robin's own credential.

        Raises Fault, NoBootstrap.
        """
        own = self.bootstrap.fields(anew=anew) if minted is None else (("Authorization", minted),)
        if own is None:
            raise NoBootstrap
        fields: list[tuple[str, str | Secret]] = [("Accept", "application/json"), ("User-Agent", USER_AGENT), *own]
        if audit_id:
            fields.append(("Audit-ID", audit_id))
        octets = b""
        if body is not None:
            fields.append(("Content-Type", "application/json"))
            octets = json.dumps(body, separators=(",", ":")).encode()
        permit = self.permit if minted is None else self.plain
        return await self.client.request(
            permit,
            method,
            self.prefix + path,
            fields,
            octets,
            limit_bytes=_BODY_BYTES,
            deadline_at=deadline_at,
            repeatable=True,  # a TokenRequest or a review changes nothing in the cluster
        )


def read_object(response: HttpResponse) -> JsonObject:
    """The JSON object of a response; empty where it is none."""
    try:
        return parse_json_object(response.body)
    except ValueError:
        return {}


def shown_message(response: HttpResponse) -> str:
    """The message of a Status object, for a refusal: printable, on one line, short."""
    message = read_object(response).get("message")
    text = message if isinstance(message, str) else ""
    return "".join(character if character.isprintable() else " " for character in text)[:_MESSAGE_MAX]


def status_kind(response: HttpResponse) -> str:
    """`details.kind` of a Status object: which resource it is about."""
    details = read_object(response).get("details")
    kind = details.get("kind") if isinstance(details, dict) else None
    return kind if isinstance(kind, str) else ""
