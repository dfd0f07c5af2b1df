"""Short forms for writing cases: a good Host line, a refused request, a served one."""

from tests.corpus.cases import Cut, Refused, RequestCase, Verdict

HOST = b"Host: localhost\r\n"


def wrong(
    id: str, item: str, raw: bytes, code: str = "bad_request", word: str = "", *, begun: bool = False, base: bytes = b""
) -> RequestCase:
    """One request that Robin refuses with `code`."""
    return RequestCase(id=id, item=item, raw=raw, verdicts=(Refused(code=code, word=word, begun=begun),), base=base)


def served(id: str, item: str, raw: bytes, *verdicts: Verdict, base: bytes = b"") -> RequestCase:
    """One or more requests with their verdicts in order."""
    return RequestCase(id=id, item=item, raw=raw, verdicts=verdicts, base=base)


def cut(id: str, item: str, raw: bytes) -> RequestCase:
    """C sends this and leaves."""
    return RequestCase(id=id, item=item, raw=raw, verdicts=(Cut(),))
