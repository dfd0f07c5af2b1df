"""One provider profile file -> a Profile, and what is wrong with it or has no effect; nothing of it depends on the provider that uses it.

What Robin cannot enforce never widens: an allow rule that it cannot judge is dropped, a deny rule that it cannot judge closes the endpoint.
"""

import re
from dataclasses import replace
from typing import Final

from robin.config.credential_style import DEFAULT_USERNAME, judge_style
from robin.config.diagnostic import Diagnostic, Position
from robin.config.grant_kinds.aws_web_identity import NAME as SIGNING_KIND
from robin.config.parse import shown
from robin.config.profile_endpoints import EndpointReader
from robin.config.profile_keys import Findings, Keys
from robin.config.profile_parts import Profile, ProfileCredential
from robin.config.profile_schema import PROFILE
from robin.config.token_grant import TokenGrantReader
from robin.config.yaml_reader import Located, read_yaml
from robin.wire.fields import is_token

FILE_BYTES_MAX: Final = 256 * 1024
_ID: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PREFIX: Final = re.compile(r"[ -~]{0,32}")
_UNWRITABLE: Final = re.compile(r"host|content-length|transfer-encoding|connection|te|trailer|upgrade|keep-alive|proxy-.*|via|expect")


def read_profile(content: bytes, name: str) -> tuple[Profile | None, tuple[Diagnostic, ...]]:
    """The profile, None where an error is among the diagnostics; `name` is the file in them."""
    if len(content) > FILE_BYTES_MAX:
        start = Position(file=name, line=1, col=1)
        fix = "split it, or remove what does not belong in it"
        return None, (Diagnostic(at=start, code="profile_too_large", message="the file is larger than 256 KiB", fix=fix),)
    root, found = read_yaml(content, name, PROFILE)
    findings = Findings([replace(one, code="profile_unknown_key") if one.code == "unknown_key" else one for one in found])
    if root is None or findings.failed:
        return None, findings.ordered()
    profile = _Reader(findings).read(root)
    return (None if findings.failed else profile), findings.ordered()


class _Reader:
    """Judges one profile; notes everything that is wrong in one run."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._endpoints = EndpointReader(findings)
        self._grants = TokenGrantReader(findings, self._endpoints)

    def read(self, root: Located) -> Profile:
        """The whole of it."""
        assert root.at is not None
        keys = Keys(root, root.at)
        error, warn = self._findings.error, self._findings.warn
        if _ID.fullmatch(keys.text("id")) is None:
            error(keys.place("id"), "profile_id_invalid", "the id is not lower-case words with hyphens", "write it such as my-provider")
        if keys.has("binaries"):
            text = "`binaries` has no effect: an egress gateway does not see executables"
            warn(keys.place("binaries"), "binaries_not_enforced", text, "limit `callers` of the provider instead")
        credentials, seen = [], set()
        for item in keys.items("credentials"):
            name = item.text("name")
            if name in seen:
                error(item.place("name"), "value_invalid", f"two credentials have the name {shown(name)}", "give each its own name")
            seen.add(name)
            credentials.append(self._credential(item))
        endpoints = tuple(filter(None, map(self._endpoints.read, keys.items("endpoints"))))
        if not any(one.grant is not None and one.grant.kind == SIGNING_KIND for one in credentials):
            for endpoint in endpoints:
                if endpoint.signing.given:
                    text = "requests are signed with an AWS credential, and the profile has none"
                    fix = f"remove it, or add a credential of grant_type {SIGNING_KIND}"
                    error(endpoint.signing.at, "signing_kind_mismatch", text, fix)
        return Profile(at=keys.at, id=keys.text("id"), credentials=tuple(credentials), endpoints=endpoints)

    # credentials

    def _credential(self, keys: Keys) -> ProfileCredential:
        grant_keys = keys.inner("token_grant")
        style, header, prefix = keys.text("auth_style") or "bearer", keys.text("header_name"), keys.text("header_prefix")
        inactive = "" if grant_keys is not None else "it has neither a token_grant nor a file"
        takes_file = grant_keys is None
        if style not in ("bearer", "header", "basic"):
            if style not in ("query", "path"):
                fix = "use bearer, header or basic"
                self._findings.error(keys.place("auth_style"), "value_invalid", f"auth_style {shown(style)} is not one of its values", fix)
            elif grant_keys is not None:
                text = f"a granted token is never written as {style}"
                self._findings.error(keys.place("auth_style"), "grant_auth_style_invalid", text, "use auth_style: bearer, header or basic")
            inactive, takes_file = f"auth_style {style} is not supported", False
        username, placeholder = keys.text("username"), keys.text("placeholder")
        for name, code, what, fix in judge_style(style, header, username, placeholder):
            self._findings.error(keys.place(name), code, what, fix)
        if style == "header" and not header:
            self._findings.error(keys.at, "grant_header_invalid", "auth_style header needs a header_name", "add header_name")
        header = header or "Authorization"
        if not is_token(header.encode("ascii", "replace")) or _UNWRITABLE.fullmatch(header.lower()):
            text = f"{shown(header)} is not a field that a credential can be written to"
            self._findings.error(keys.place("header_name"), "grant_header_invalid", text, "name a field such as Authorization or X-Api-Key")
        if prefix and (style != "header" or _PREFIX.fullmatch(prefix) is None):
            fix = "use it with auth_style: header, with at most 32 visible characters or spaces"
            self._findings.error(keys.place("header_prefix"), "value_invalid", "header_prefix cannot be used so", fix)
        refresh = keys.inner("refresh")
        if refresh is not None and refresh.text("strategy") not in ("static", "external"):
            text = f"the refresh strategy {shown(refresh.text('strategy'))} keeps long-lived secrets, and is not supported"
            self._findings.warn(refresh.at, "refresh_not_supported", text, "use token_grant, or a file that something else renews")
            inactive = inactive or "its refresh strategy is not supported, and it has no file"
        grant = None if grant_keys is None else self._grants.read(grant_keys)
        before = {"bearer": "Bearer ", "basic": "Basic "}.get(style, prefix)
        return ProfileCredential(
            at=keys.at,
            name=keys.text("name"),
            required=keys.flag("required"),
            header=header,
            prefix=before,
            style=style,
            grant=grant,
            inactive=inactive,
            takes_file=takes_file,
            username=(username or DEFAULT_USERNAME) if style == "basic" else "",
            placeholder=placeholder,
        )
