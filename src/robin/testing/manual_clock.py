"""A clock that stands still until a test moves it: both readings at once, or the wall clock alone."""


class ManualClock:
    """A `transport.clock.Clock`; starts at a round second of 2026 so that failures read well."""

    __slots__ = ("_monotonic", "_suspended", "_wall")

    def __init__(self, *, wall: float = 1_780_000_000.0, monotonic: float = 1000.0) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._suspended = 0.0

    def wall(self) -> float:
        """Seconds since the epoch."""
        return self._wall

    def monotonic(self) -> float:
        """Seconds that never step back."""
        return self._monotonic

    def boottime(self) -> float:
        """Seconds that never step back, suspensions included."""
        return self._monotonic + self._suspended

    def suspend(self, seconds: float) -> None:
        """Let time pass while the machine sleeps: only the monotonic clock stands still."""
        self._wall += seconds
        self._suspended += seconds

    def advance(self, seconds: float) -> None:
        """Move both readings forward."""
        if seconds < 0:
            raise ValueError("monotonic time does not go back; use step_wall")
        self._wall += seconds
        self._monotonic += seconds

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, without passing time."""
        self._wall += seconds
