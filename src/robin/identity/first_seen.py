"""When a token was first seen: its lifetime counts from then, however often it is read, judged or given again."""

from robin.model.secret import Secret
from robin.wire.jose import fingerprint


class FirstSeen:
    """Remembers the last token that was met, by its fingerprint."""

    __slots__ = ("_at", "_mark")

    def __init__(self) -> None:
        self._mark = b""
        self._at = 0.0

    def when(self, text: Secret, wall: float) -> float:
        """The wall clock at which this token was first seen: now, where it is another one than the last."""
        mark = fingerprint(text)
        if mark != self._mark:
            self._mark, self._at = mark, wall
        return self._at
