"""One token of either source, laid open; why there is none, where there is none; its bytes stay hidden."""

import asyncio
import re
from pathlib import Path

import pytest

from robin.cli.one_token import NoToken, OneToken, fetch_one
from robin.config.load import Loaded, load
from robin.identity.settings import IdentitySettings
from robin.model.secret import Secret
from robin.testing.authority import IdentityAuthority
from robin.testing.manual_clock import ManualClock
from robin.testing.tokens import encode_segment
from robin.testing.workload_api import Refusal, WorkloadApi, answer_never, answer_with
from robin.transport.clock import SystemClock
from robin.wire.workload_api import JwtSvid


def settings(**environ: str) -> IdentitySettings:
    loaded = load({}, {"ROBIN_UPSTREAM_URL": "https://broker.example", **environ})
    assert isinstance(loaded, Loaded), [str(error) for error in loaded]
    return loaded.settings.identity


def svid_settings(socket: str, **environ: str) -> IdentitySettings:
    svid = {"ROBIN_TOKEN_SOURCE": "jwtsvid", "ROBIN_AUDIENCE": "broker.test", "ROBIN_SPIFFE_SOCKET": f"unix://{socket}"}
    return settings(**svid, **environ)


def failed(token: OneToken) -> list[str]:
    return [check.code for check in token.laid_open.checks if not check.passed]


def test_a_good_file_passes_every_check(token_file: Path) -> None:
    token = fetch_one(settings(ROBIN_TOKEN_FILE=str(token_file), ROBIN_AUDIENCE="broker.test"), SystemClock())
    assert failed(token) == []
    assert token.laid_open.claims is not None
    assert token.laid_open.claims["aud"] == ["broker.test"]
    assert token.expires_in_s == pytest.approx(600, abs=30)
    assert "Secret(hidden)" in repr(token)


def test_time_left_is_negative_once_it_has_expired(token_file: Path) -> None:
    clock = ManualClock(wall=SystemClock().wall() + 3600)
    token = fetch_one(settings(ROBIN_TOKEN_FILE=str(token_file)), clock)
    assert failed(token) == ["identity_expired"]
    assert token.expires_in_s == pytest.approx(-3000, abs=30)


@pytest.mark.parametrize("exp", ["1" + "0" * 400, "-1" + "0" * 400, "true", "1e999", '"soon"'])
def test_an_expiry_that_is_no_date_leaves_no_time_to_tell(tmp_path: Path, exp: str) -> None:
    token = b".".join([encode_segment(b'{"alg":"ES256"}'), encode_segment(b'{"exp":%s}' % exp.encode()), encode_segment(bytes(64))])
    (tmp_path / "token").write_bytes(token)
    assert fetch_one(settings(ROBIN_TOKEN_FILE=str(tmp_path / "token")), SystemClock()).expires_in_s is None


def test_an_opaque_token_has_no_claims_and_no_time_left(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"opaque-token\n")
    token = fetch_one(settings(ROBIN_TOKEN_FILE=str(tmp_path / "token"), ROBIN_TOKEN_FORMAT="opaque"), SystemClock())
    assert (token.laid_open.claims, token.expires_in_s, failed(token)) == (None, None, [])


def test_a_missing_file_is_no_token_and_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "none")
    with pytest.raises(
        NoToken, match=rf"^missing: the file of ROBIN_TOKEN_FILE does not exist; .+ \(ROBIN_TOKEN_FILE is {re.escape(path)}\)$"
    ):
        fetch_one(settings(ROBIN_TOKEN_FILE=path), SystemClock())


async def test_a_jwt_svid_is_fetched_for_the_one_audience(tmp_path: Path, authority: IdentityAuthority) -> None:
    svid = JwtSvid(spiffe_id="spiffe://robin.test/app", svid=Secret(authority.jwt_svid(audience="broker.test", path="/app")))
    api = WorkloadApi(answer_with((svid,)))
    await api.start_unix(str(tmp_path / "a.sock"))
    token = await asyncio.to_thread(fetch_one, svid_settings(str(tmp_path / "a.sock")), SystemClock())
    await api.close()
    assert failed(token) == []
    assert [request.audiences for request in api.requests] == [("broker.test",)]


async def test_a_refusal_of_the_workload_api_is_no_token(tmp_path: Path) -> None:
    api = WorkloadApi(answer_with(Refusal(code="PermissionDenied", text="no identity issued")))
    await api.start_unix(str(tmp_path / "a.sock"))
    with pytest.raises(NoToken, match=r"^permission_denied: .*create a registration entry that selects this workload$"):
        await asyncio.to_thread(fetch_one, svid_settings(str(tmp_path / "a.sock")), SystemClock())
    api.answer = answer_with(())
    with pytest.raises(NoToken, match=r"^empty_reply: "):
        await asyncio.to_thread(fetch_one, svid_settings(str(tmp_path / "a.sock")), SystemClock())
    await api.close()


async def test_a_workload_api_that_hangs_is_given_up(tmp_path: Path) -> None:
    api = WorkloadApi(answer_never)
    await api.start_unix(str(tmp_path / "a.sock"))
    with pytest.raises(NoToken, match=r"^deadline_exceeded: "):
        await asyncio.to_thread(fetch_one, svid_settings(str(tmp_path / "a.sock"), ROBIN_SVID_FETCH_TIMEOUT="1s"), SystemClock())
    await api.close()
