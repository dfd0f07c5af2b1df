"""requests as an application uses it: a Session with a base URL and nothing else."""

import io
import os

import requests
from telling import tell

BASE = os.environ["BASE_URL"]


def main() -> None:
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {os.environ['PLACEHOLDER']}"
        tell("get", session.get(f"{BASE}/echo", params={"a": "b c", "d": "é"}).json())
        tell("post json", session.post(f"{BASE}/echo", json={"x": "é" * 1000}).json())
        tell("post form", session.post(f"{BASE}/echo", data={"x": "y"}).json())
        tell("post files", session.post(f"{BASE}/echo", files={"f": ("n.bin", io.BytesIO(b"z" * 2_000_000))}).json()["body"]["bytes"])
        tell("chunked", session.put(f"{BASE}/echo", data=(b"piece" for _ in range(1000))).json())
        tell("empty post", session.post(f"{BASE}/echo").json())
        tell("delete", session.delete(f"{BASE}/echo").json()["method"])
        tell("options", session.options(f"{BASE}/echo").json()["method"])
        head = session.head(f"{BASE}/large")
        tell("head", [head.status_code, head.headers["Content-Length"], head.content.decode()])
        part = session.get(f"{BASE}/large", headers={"Range": "bytes=-32"})
        tell("range", [part.status_code, part.content.hex(), part.headers["Content-Range"]])
        tell("gzip", session.get(f"{BASE}/gzip").text[:11])
        moved = session.post(f"{BASE}/redirect", params={"status": "307", "to": "/echo?moved"}, data=b"again")
        tell("redirect", [moved.json()["method"], moved.json()["target"], moved.json()["body"]["bytes"], len(moved.history)])
        tell("no content", [session.get(f"{BASE}/status?is={code}").status_code for code in (204, 304, 404, 500)])
        session.get(f"{BASE}/cookies")
        tell("cookies", session.get(f"{BASE}/cookies").text)
        with session.get(f"{BASE}/endless", stream=True) as endless:
            tell("left", len(next(endless.iter_content(100))))
        tell("until close", len(session.get(f"{BASE}/until-close").content))
        with session.get(f"{BASE}/paused", stream=True) as paused:
            tell("paused", list(paused.iter_lines(decode_unicode=True)))
        tell("after", session.get(f"{BASE}/echo?after").status_code)
        early = session.post(f"{BASE}/refuse-early", data=b"x" * 10_000)
        tell("early", [early.status_code, early.text])
        tell("last", session.get(f"{BASE}/echo?last").status_code)


if __name__ == "__main__":
    main()
