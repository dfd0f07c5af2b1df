"""How a profile writes a credential with auth_style basic, and what clients may send in its place: what is wrong with these keys."""

import re
from collections.abc import Iterator
from typing import Final

from robin.config.parse import shown
from robin.policy.placeholders import GRAMMAR

DEFAULT_USERNAME: Final = "x-access-token"
_USERNAME: Final = re.compile(r"[!-9;-~]{1,128}")  # RFC 7617 section 2: no colon


def judge_style(style: str, header: str, username: str, placeholder: str) -> Iterator[tuple[str, str, str, str]]:
    """Key, code, what is wrong and the fix, of each key that is. The texts are as written, "" where a key is left out."""
    if style == "basic":
        if header.lower() not in ("", "authorization"):
            yield "header_name", "grant_header_invalid", "auth_style basic writes Authorization", "remove header_name"
        if username and _USERNAME.fullmatch(username) is None:
            fix = "write at most 128 visible ASCII characters without a colon"
            yield "username", "value_invalid", f"{shown(username)} is not a user name", fix
    elif username:
        yield "username", "value_invalid", "only auth_style basic has a username", "remove it, or use auth_style: basic"
    if placeholder and GRAMMAR.fullmatch(placeholder) is None:
        fix = "write 12 to 128 letters, digits and . _ ~ -, such as robin-placeholder"
        what = "the placeholder is too short, too long, or has other characters"  # not shown: it may be a key by mistake
        yield "placeholder", "value_invalid", what, fix
