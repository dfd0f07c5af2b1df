"""Nouns of passports: signer classes and their two axes, routes, source rules, and the request that is judged."""

import re
from dataclasses import dataclass, field
from typing import Final, Literal

IDENTITY: Final = ("none", "peercred", "pod_svid", "caller_svid")
KEY_PROTECTION: Final = ("software", "kms", "hardware")
TRANSCRIPT: Final = "transcript-v1"
HTTPSIG: Final = "wimse-httpsig"
PROFILES: Final = (TRANSCRIPT, HTTPSIG)
NS: Final = "urn:robin:passport:v1"
CTX_NAMES: Final = ("actor_type", "purpose", "tool_name", "workflow_id", "max_txn_value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Who was verified, and where the key lives: each a word of its order."""

    identity: str = "none"
    key_protection: str = "software"

    def satisfies(self, minimum: "Axes") -> bool:
        """Whether both axes hold."""
        return IDENTITY.index(self.identity) >= IDENTITY.index(minimum.identity) and KEY_PROTECTION.index(
            self.key_protection
        ) >= KEY_PROTECTION.index(minimum.key_protection)

    def capped(self, most: "Axes") -> "Axes":
        """The lower of both on each axis."""
        return Axes(
            identity=min(self.identity, most.identity, key=IDENTITY.index),
            key_protection=min(self.key_protection, most.key_protection, key=KEY_PROTECTION.index),
        )

    def raised(self, least: "Axes") -> "Axes":
        """The higher of both on each axis."""
        return Axes(
            identity=max(self.identity, least.identity, key=IDENTITY.index),
            key_protection=max(self.key_protection, least.key_protection, key=KEY_PROTECTION.index),
        )


SIGNER_CLASSES: Final = {
    "software": Axes(),
    "remote_kms": Axes(key_protection="kms"),
    "hardware_local": Axes(key_protection="hardware"),
    "attested_workload": Axes(identity="pod_svid"),
}
"""What is credited when only the class is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenancePolicy:
    """What a source rule asks of the SPIFFE provenance; an empty text asks nothing."""

    profile: str = ""
    required_spiffe_trust_domain: str = ""
    required_posture: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRule:
    """Whose passports a route admits. One of the two subject members is set, or neither: any subject."""

    source_type: str
    issuer: str
    trust_domain: str
    subject_exact: str = ""
    subject_prefix: str = ""
    required_key_binding: str = ""
    provenance: ProvenancePolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CtxRules:
    """What a route asks of the context of a passport."""

    allow: tuple[str, ...] = ()
    required_tool_name: str = ""
    required_workflow_id: str = ""
    max_txn_value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassportRoute:
    """One route, of the broker's settings or of a bundle."""

    route_id: str
    audiences: tuple[str, ...]
    method: str
    path_template: str
    scheme: str = "https"
    authorities: tuple[str, ...] = ()
    profiles: tuple[str, ...] = PROFILES
    required_key_binding: str = "software"
    require: Axes = Axes()
    allowed_sources: tuple[SourceRule, ...] = ()
    covered_headers: tuple[str, ...] = ("x-trustplane-nonce",)
    covered_if_present: tuple[str, ...] = ("content-type",)
    extra_components: tuple[str, ...] = ()
    require_authority: bool = True
    audience_match: str = "exact"
    repeated_keys: bool = False
    query_order: str = "strict"
    body: str = "bound"
    ctx: CtxRules = field(default_factory=CtxRules)
    freshness_class: str = "bounded"
    max_staleness_seconds: int = 300

    @property
    def minimum(self) -> Axes:
        """What the signer must have on both axes."""
        return SIGNER_CLASSES[self.required_key_binding].raised(self.require)

    def fits_path(self, path: str) -> bool:
        """Whether the path is this template: `{name}` stands for one segment that no server behind us reads as another path."""
        return self.fits_segments(path.split("/"))

    def fits_segments(self, segments: list[str]) -> bool:
        """The same for a path that was split at its slashes, once for many routes."""
        wanted = self.path_template.split("/")
        return len(wanted) == len(segments) and all(
            _is_one_segment(segment) if part.startswith("{") and part.endswith("}") else part == segment
            for part, segment in zip(wanted, segments, strict=True)
        )

    @property
    def is_exact(self) -> bool:
        """Whether the template has no `{name}`."""
        return "{" not in self.path_template


# Servers decode escapes, some of them twice; some take a backslash for `/`, and some end a path at `;`, `?`, `#` or NUL.
_LEAVES_SEGMENT: Final = re.compile(
    r"\\|%(?:25)*(?:2f|5c|00)|%(?![0-9a-f]{2})|^(?:\.|%(?:25)*2e){1,2}(?:;|%(?:25)*(?:3b|3f|23)|$)", re.IGNORECASE
)


def _is_one_segment(segment: str) -> bool:
    return segment != "" and _LEAVES_SEGMENT.search(segment) is None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedRequest:
    """One request as a verifier received it. `fields`: lower-case name and trimmed value, in order.

    `body_bytes`: the size of the body as announced, None: unknown. `joined`: how who passed the request on may have joined the lines of one
    name: by a comma alone, or by one with or without a space; empty: lines are as they came.
    """

    method: str
    target: str
    authority: str
    fields: tuple[tuple[str, str], ...]
    body_bytes: int | None = 0
    joined: Literal["", ",", ", "] = ""

    def values(self, name: str) -> list[str]:
        """The values of every field line of that name."""
        return [value for other, value in self.fields if other == name]

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The query without its question mark."""
        return self.target.partition("?")[2]


def find_route(routes: tuple[PassportRoute, ...], method: str, path: str) -> PassportRoute | None:
    """The route of a request by method and path, an exact one before a template."""
    segments = path.split("/")
    fitting = [route for route in routes if route.method == method and route.fits_segments(segments)]
    return min(fitting, key=lambda route: not route.is_exact, default=None)
