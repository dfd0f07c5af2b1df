"""An ASGI application behind `robin.passport` in a real uvicorn: `serve_uvicorn.py PACKAGES SETTINGS PORT`. Runs in Robin's own venv.

It responds with what it got, and is ready when the verifier is.
"""

import asyncio
import json
import sys
from dataclasses import asdict

from robin.passport import PassportASGI, Verifier

PACKAGES, SETTINGS, PORT = sys.argv[1:]
sys.path.append(PACKAGES)  # behind our own, for uvicorn and click
verifier = Verifier.from_config(SETTINGS)


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        while verifier.reasons:
            await asyncio.sleep(0.02)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    message = await receive()
    got = {"body": message["body"].decode(), "passport": asdict(scope["state"]["robin.passport"])}
    got["fields"] = sorted(name.decode() for name, _ in scope["headers"])
    body = json.dumps(got).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(PassportASGI(application, verifier), host="127.0.0.1", port=int(PORT), log_level="warning")
