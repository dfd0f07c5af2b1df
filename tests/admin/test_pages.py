"""Which page answers what, without sockets."""

import pytest

from robin.admin.pages import Pages, Response, refuse
from robin.admin.readiness import Readiness
from robin.model.faults import FAULTS, Fault
from robin.model.identity import IdentityState, IdentityStatus
from robin.wire.http1 import parse_request

REFUSED = IdentityStatus(source="jwtsvid", state=IdentityState.REFUSED, expires_in_s=None, usable=False, reasons=("identity_refused",))
FRESH = IdentityStatus(source="file", state=IdentityState.FRESH, expires_in_s=100.0, usable=True, reasons=())
OK = Response(status=200, body=b"ok\n")


class Sidecar:
    """What the pages look at."""

    def __init__(self) -> None:
        self.readiness = Readiness(started=True, draining=False, identities=(FRESH,))
        self.accepts: list[str] = []
        self.quits = 0

    def begin_drain(self) -> None:
        self.quits += 1

    def scrape(self, accept: str) -> tuple[str, bytes]:
        self.accepts.append(accept)
        return "text/x", b"numbers\n"

    def ask(self, start: str, *fields: str, local: bool = True, may_quit: bool = True) -> Response:
        pages = Pages(status=lambda: self.readiness, scrape=self.scrape, begin_drain=self.begin_drain if may_quit else None)
        raw = "\r\n".join([f"{start} HTTP/1.1", "Host: x", *fields, "", ""]).encode()
        return pages.respond(parse_request(raw, target_bytes=8192, fields_max=100), local=local)


@pytest.fixture
def sidecar() -> Sidecar:
    return Sidecar()


def test_health_is_ok_whatever_the_identity_is(sidecar):
    sidecar.readiness = Readiness(started=False, draining=True, identities=(REFUSED,))
    for path in ("/healthz", "/livez", "/healthz?verbose"):
        assert sidecar.ask(f"GET {path}") == Response(status=200, content_type="text/plain; charset=utf-8", body=b"ok\n")


def test_startup_is_a_matter_of_having_started_once(sidecar):
    sidecar.readiness = Readiness(started=False, draining=False, identities=(FRESH,))
    assert (sidecar.ask("GET /startupz")).status == 503
    sidecar.readiness = Readiness(started=True, draining=True, identities=(REFUSED,))
    answer = sidecar.ask("GET /startupz")
    assert (answer.status, answer.content_type, answer.body) == (200, "application/json", sidecar.readiness.render())


def test_ready_is_a_matter_of_now(sidecar):
    for readiness, status in (
        (Readiness(started=True, draining=False, identities=(FRESH,)), 200),
        (Readiness(started=True, draining=False, identities=(REFUSED,)), 503),
        (Readiness(started=True, draining=True, identities=(FRESH,)), 503),
    ):
        sidecar.readiness = readiness
        answer = sidecar.ask("GET /readyz")
        assert (answer.status, answer.body) == (status, readiness.render())


def test_metrics_are_scraped_with_all_of_accept(sidecar):
    answer = sidecar.ask("GET /metrics", "Accept: a/b;q=0.5", "accept: c/d")
    assert (answer.status, answer.content_type, answer.body) == (200, "text/x", b"numbers\n")
    sidecar.ask("GET /metrics")
    assert sidecar.accepts == ["a/b;q=0.5,c/d", ""]


@pytest.mark.parametrize("path", ["/", "/v1/models", "/healthz/", "//healthz", "/HEALTHZ", "/%68ealthz", "/metrics/../healthz", "*"])
def test_anything_else_is_unknown(sidecar, path):
    answer = sidecar.ask(f"{'OPTIONS' if path == '*' else 'GET'} {path}")
    assert (answer.status, answer.body) == (404, b"not found; there are /livez /readyz /startupz /metrics\n")


def test_an_unknown_page_names_those_of_the_plane_too(sidecar):
    pages = Pages(status=lambda: sidecar.readiness, scrape=sidecar.scrape, begin_drain=None, more={b"/status/x": lambda _: OK})
    raws = (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /status/x HTTP/1.1\r\nHost: x\r\n\r\n")
    answers = [pages.respond(parse_request(raw, target_bytes=99, fields_max=9), local=True) for raw in raws]
    assert answers == [Response(status=404, body=b"not found; there are /livez /readyz /startupz /metrics /status/x\n"), OK]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"])
@pytest.mark.parametrize("path", ["/healthz", "/startupz", "/readyz", "/metrics"])
def test_probes_are_read_only(sidecar, method, path):
    answer = sidecar.ask(f"{method} {path}")
    assert (answer.status, answer.allow) == (405, "GET, HEAD")
    assert sidecar.accepts == []


def test_quit_does_not_exist_unless_it_is_enabled(sidecar):
    for method in ("POST", "GET"):
        assert (sidecar.ask(f"{method} /quitquitquit", may_quit=False)).status == 404
    assert sidecar.quits == 0


def test_quit_drains_and_says_so_each_time(sidecar):
    for _ in range(2):
        answer = sidecar.ask("POST /quitquitquit", "Content-Length: 0")
        assert (answer.status, answer.content_type, answer.body) == (200, "application/json", b'{"status":"draining"}\n')
    assert sidecar.quits == 2


@pytest.mark.parametrize(
    ("fields", "local"),
    [
        ((), False),
        (("Origin: http://127.0.0.1:4001",), True),
        (("Origin: null",), True),
        (("Sec-Fetch-Site: same-origin",), True),
        (("Sec-Fetch-Site: none",), True),
    ],
)
def test_quit_is_not_for_strangers_and_browsers(sidecar, fields, local):
    assert (sidecar.ask("POST /quitquitquit", *fields, local=local)).status == 403
    assert sidecar.quits == 0


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS"])
def test_quit_takes_post_only(sidecar, method):
    answer = sidecar.ask(f"{method} /quitquitquit")
    assert (answer.status, answer.allow) == (405, "POST")
    assert sidecar.quits == 0


def test_a_refusal_repeats_its_code_only():
    for code in FAULTS:
        answer = refuse(Fault(code, "bad_field: canary"))
        assert b"canary" not in answer.body
        assert answer.status == (405 if code in {"method_refused", "method_unknown"} else FAULTS[code].status)
        assert (answer.allow is not None) == (answer.status == 405)
