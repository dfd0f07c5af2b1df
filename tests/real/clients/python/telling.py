"""What every client program here does with what it got: one JSON line on stdout for each step."""

import json
from typing import Any


def tell(step: str, got: Any) -> None:
    print(json.dumps({"step": step, "got": got}), flush=True)
