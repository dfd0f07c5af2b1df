"""Asking the admin plane: over TCP and Unix sockets, bounded, and never through a proxy."""

import argparse
import asyncio
import errno
import socket
from pathlib import Path

import pytest

from robin.cli.ask import Answer, Unanswered, add_admin, admin_places, ask, dialled
from robin.model.address import ActivatedAddress, TcpAddress, UnixAddress
from robin.testing.connection import ScriptedConnection
from robin.testing.process import free_port
from robin.testing.recording_upstream import RecordingUpstream, answer, response


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_admin(parser)
    return parser.parse_args(words)


async def test_an_answer_over_tcp_has_status_body_and_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"status":"starting","reasons":["identity_unavailable"],"identity":{}}'
    async with RecordingUpstream(answer(response(503, body))) as admin:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        got = await asyncio.to_thread(ask, (TcpAddress(host="127.0.0.1", port=admin.port),), "GET", "/startupz")
        assert (got.status, got.body, got.reasons) == (503, body, "starting (identity_unavailable)")
        assert (admin.requests[0].method, admin.requests[0].target) == (b"GET", b"/startupz")


async def test_an_answer_over_a_unix_socket(tmp_path: Path) -> None:
    heard = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(response(200, b"ok\n"))
        writer.close()

    path = str(tmp_path / "a.sock")
    async with await asyncio.start_unix_server(serve, path):
        got = await asyncio.to_thread(ask, (UnixAddress(path=path),), "POST", "/quitquitquit")
    assert got == Answer(status=200, body=b"ok\n")
    assert heard[0].startswith(b"POST /quitquitquit HTTP/1.1\r\n")


DEEP = b"[" * 60_000


@pytest.mark.parametrize("body", [b"", b"ok\n", b"[]", DEEP, b'{"status":1}', b"\xff", b'{"status":"x","reasons":7}'])
def test_a_body_that_is_no_probe_has_no_reasons(body: bytes) -> None:
    assert Answer(status=200, body=body).reasons == ""


def test_reasons_cannot_drive_a_terminal() -> None:
    assert "\x1b" not in Answer(status=503, body=b'{"status":"\\u001b[31m","reasons":[]}').reasons


def test_nobody_there_is_told_from_somebody_silent(tmp_path: Path) -> None:
    with pytest.raises(Unanswered) as gone:
        ask((TcpAddress(host="127.0.0.1", port=free_port()),), "GET", "/healthz")
    assert gone.value.gone
    with pytest.raises(Unanswered) as no_path:
        ask((UnixAddress(path=str(tmp_path / "none.sock")),), "GET", "/healthz")
    assert no_path.value.gone
    with socket.create_server(("127.0.0.1", 0)) as hung:
        silent = TcpAddress(host="127.0.0.1", port=hung.getsockname()[1])
        with pytest.raises(Unanswered) as unanswered:
            ask((TcpAddress(host="127.0.0.1", port=free_port()), silent), "GET", "/healthz", timeout_s=0.1)
    assert not unanswered.value.gone


def test_somebody_who_may_not_be_asked_is_not_gone(tmp_path: Path) -> None:
    (tmp_path / "folder").touch()
    with pytest.raises(Unanswered) as unanswered:
        ask((UnixAddress(path=str(tmp_path / "folder" / "a.sock")),), "GET", "/healthz")
    assert (unanswered.value.gone, unanswered.value.code) == (False, errno.ENOTDIR)


async def test_somebody_who_answers_a_byte_at_a_time_is_left_at_the_deadline() -> None:
    async def dribble(connection: ScriptedConnection) -> None:
        while True:
            await connection.send(b"x")
            await asyncio.sleep(0.02)  # slow enough that only the deadline, and no limit of size, can end it

    async with RecordingUpstream(dribble) as slow:
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unanswered) as unanswered:
            await asyncio.to_thread(ask, (TcpAddress(host="127.0.0.1", port=slow.port),), "GET", "/healthz", timeout_s=0.3)
        assert asyncio.get_running_loop().time() - began < 2
    assert not unanswered.value.gone


@pytest.mark.parametrize(
    ("body", "ready_page"),
    [
        (b'{"status":"ready","reasons":[],"identity":{"source":"file","state":"fresh","expires_in_s":9}}\n', True),
        (b'{"status":"ready","reasons":[],"identity":{}}', False),
        (b'{"status":"ready","reasons":[]}', False),
        (b'{"status":"up"}', False),
        (b"ok\n", False),
        (b"[]", False),
        (b"\xff", False),
        (DEEP, False),
    ],
)
def test_the_page_of_a_robin_is_told_from_others(body: bytes, ready_page: bool) -> None:
    assert Answer(status=200, body=body).readiness is ready_page


def test_every_interface_is_asked_on_loopback_and_a_passed_socket_nowhere() -> None:
    assert dialled(TcpAddress(host="", port=4001)) == (TcpAddress(host="127.0.0.1", port=4001), TcpAddress(host="::1", port=4001))
    assert dialled(ActivatedAddress(name="admin")) == ()


def test_the_place_comes_from_the_flag_then_the_environment_then_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ROBIN_ADMIN_ADDR", raising=False)
    config = tmp_path / "robin.env"
    config.write_text("ROBIN_ADMIN_ADDR=127.0.0.1:3\n")
    assert admin_places(arguments("--config", str(config))) == (TcpAddress(host="127.0.0.1", port=3),)
    monkeypatch.setenv("ROBIN_ADMIN_ADDR", "127.0.0.1:2")
    assert admin_places(arguments("--config", str(config))) == (TcpAddress(host="127.0.0.1", port=2),)
    for flag in ("--admin", "--admin-addr"):
        assert admin_places(arguments(flag, "unix:/run/a.sock")) == (UnixAddress(path="/run/a.sock"),)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--admin", "off"), "robin: there is no admin address to ask; name it, such as --admin 127.0.0.1:4001\n"),
        (("--admin", "systemd:admin"), "robin: there is no admin address to ask; name it, such as --admin 127.0.0.1:4001\n"),
        (("--admin", "4001"), 'robin: --admin: "4001" is a port alone; write 127.0.0.1:4001\n'),
    ],
)
def test_without_a_place_to_ask_it_exits_2(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        admin_places(arguments(*words))
    assert caught.value.code == 2
    assert capsys.readouterr().err == message
