"""The shipped manifests hold what makes them safe; a real API server judges their schema, strictly, in tests/real."""

import asyncio
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.dockerfile import DOCKERFILE, stages
from tests.journeys.life import launched, probe

from robin.admin.pages import Pages
from robin.admin.readiness import Readiness
from robin.config.load import Loaded, load
from robin.config.settings import SidecarSettings
from robin.config.table import SETTINGS
from robin.model.identity import IdentityState, IdentityStatus
from robin.model.message import RequestHead
from robin.wire.http1 import parse_request

MANIFESTS = Path(__file__).parents[2] / "deploy" / "kubernetes"
FILES = sorted(MANIFESTS.glob("*.yaml"))
TOKENS = "/var/run/secrets/tokens"

by_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
WITH_A_TOKEN_FILE = [path for path in FILES if path.name != "sidecar-spiffe.yaml"]


def objects(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def pod(path: Path) -> dict[str, Any]:
    """The one pod spec of a manifest."""
    (found,) = [one["spec"] if one["kind"] == "Pod" else one["spec"]["template"]["spec"] for one in objects(path) if one["kind"] in PODS]
    return dict(found)


PODS = ("Pod", "Job", "DaemonSet")


def containers(path: Path) -> list[dict[str, Any]]:
    spec = pod(path)
    return [*spec.get("initContainers", []), *spec["containers"]]


def robin_of(path: Path) -> dict[str, Any]:
    (found,) = [one for one in containers(path) if one["name"] == "robin"]
    return dict(found)


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container.get("env", [])}


def settings(path: Path) -> SidecarSettings:
    loaded = load({}, environment(robin_of(path)))
    assert isinstance(loaded, Loaded), loaded
    return loaded.settings


def test_these_manifests_are_shipped():
    assert [path.name for path in FILES] == ["daemonset.yaml", "job-classic.yaml", "job.yaml", "sidecar-spiffe.yaml", "sidecar.yaml"]


@by_file
def test_robin_takes_the_settings(path: Path):
    assert set(environment(robin_of(path))) <= SETTINGS.keys()
    chosen = settings(path)
    if path in WITH_A_TOKEN_FILE:
        assert chosen.identity.token_file == f"{TOKENS}/token"
    else:
        mounts = {one["mountPath"] for one in robin_of(path)["volumeMounts"]}
        assert environment(robin_of(path))["ROBIN_SPIFFE_SOCKET"] == "unix:///run/spire/sockets/agent.sock"
        assert mounts == {"/run/spire/sockets"}, "the folder, so that a new socket of a restarted agent is seen"
    assert chosen.identity.audience is not None
    assert all(isinstance(value, str) for value in environment(robin_of(path)).values()), "Kubernetes takes only strings here"


@pytest.mark.parametrize("path", WITH_A_TOKEN_FILE, ids=lambda path: path.name)
def test_the_token_is_for_the_audience_rotates_and_is_robins_alone(path: Path):
    spec = pod(path)
    (volume,) = [one for one in spec["volumes"] if one["name"] == "tokens"]
    (source,) = volume["projected"]["sources"]
    token = source["serviceAccountToken"]
    assert token["path"] == "token"
    assert token["audience"] == settings(path).identity.audience
    assert token["expirationSeconds"] >= 600, "the API server refuses less"
    mounts = {one["name"]: mount for one in containers(path) for mount in one.get("volumeMounts", []) if mount["name"] == "tokens"}
    assert set(mounts) == {"robin"}, "the application must not see the token"
    assert mounts["robin"] == {"name": "tokens", "mountPath": TOKENS, "readOnly": True}, "and no subPath, which would never rotate"
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["fsGroup"] == 10001, "else a user that is not root cannot read it"


@by_file
def test_robin_is_confined_as_the_image_is_made_to_be(path: Path):
    robin = robin_of(path)
    context = robin["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsUser']}" == stages(DOCKERFILE.read_text())[1].one("USER").rest
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert {**pod(path)["securityContext"], **context}["runAsNonRoot"] is True
    assert pod(path)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "shareProcessNamespace"} & pod(path).keys()


@by_file
def test_the_pod_waits_longer_than_the_longest_drain(path: Path):
    assert pod(path)["terminationGracePeriodSeconds"] > settings(path).lifecycle.drain_max_s


@by_file
def test_probes_ask_for_pages_that_are_there_on_the_admin_port(path: Path):
    robin = robin_of(path)
    probes = {name: robin[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe") if name in robin}
    if not probes:
        assert path.name == "job-classic.yaml", "there the admin listener is the pod's own"
        return
    (port,) = robin["ports"]
    assert port == {"name": "admin", "containerPort": 4001}
    assert [one.port for one in settings(path).listeners.admin if hasattr(one, "port")] == [4001]
    pages = Pages(status=_ready, scrape=lambda _: ("text/plain", b""), begin_drain=None)
    for name, asked in probes.items():
        assert asked["port"] == "admin"
        assert pages.respond(_get(asked["path"]), local=False).status == 200, name
    assert probes["startupProbe"]["path"] == "/startupz", "this is what holds the application back until there is an identity"
    assert ("readinessProbe" in probes) is (path.name == "daemonset.yaml"), "as a sidecar it would make the whole pod unready"


def _ready() -> Readiness:
    fresh = IdentityStatus(source="file", state=IdentityState.FRESH, expires_in_s=60.0, usable=True, reasons=())
    return Readiness(started=True, draining=False, identities=(fresh,))


def _get(path: str) -> RequestHead:
    return parse_request(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), target_bytes=1000, fields_max=10)


@pytest.mark.parametrize("name", ["sidecar.yaml", "sidecar-spiffe.yaml", "job.yaml"])
def test_a_native_sidecar_is_an_init_container_that_stays(name: str):
    (robin,) = pod(MANIFESTS / name)["initContainers"]
    assert (robin["name"], robin["restartPolicy"]) == ("robin", "Always")


@by_file
def test_the_application_holds_no_credential_and_calls_robin(path: Path):
    for one in containers(path):
        if one["name"] in ("app", "work"):
            assert environment(one) == {"OPENAI_BASE_URL": "http://127.0.0.1:4000/v1", "OPENAI_API_KEY": "unused"}


def test_the_daemonset_listens_where_its_folder_is_and_for_listed_users_only():
    path = MANIFESTS / "daemonset.yaml"
    chosen, spec = settings(path), pod(path)
    (address,) = chosen.listeners.proxy
    (volume,) = [one for one in spec["volumes"] if one["name"] == "run"]
    assert str(address) == f"unix:{volume['hostPath']['path']}/robin.sock"
    assert chosen.listeners.allow_uids == (20001, 20002)
    (owner,) = spec["initContainers"]
    assert owner["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN", "FOWNER"]}
    assert owner["command"][0] == stages(DOCKERFILE.read_text())[1].one("ENTRYPOINT").exec_form[0], "there is no shell in the image"
    assert not [one for one in owner["volumeMounts"] if one["name"] == "tokens"]


async def test_the_classic_job_waits_for_robin_works_and_quits_it(tmp_path: Path):
    """The shell lines of the manifest, word for word but for the ports and the work itself, beside a real Robin with its settings (K6)."""
    if shutil.which("curl") is None:
        pytest.skip("NOT TESTED: the manifest's work container uses curl")
    path = MANIFESTS / "job-classic.yaml"
    (work,) = [one for one in pod(path)["containers"] if one["name"] == "work"]
    given = {key: value for key, value in environment(robin_of(path)).items() if key == "ROBIN_ADMIN_QUIT"}
    for code in (0, 7):
        async with launched(tmp_path, settings=given) as rig:
            await rig.robin.listening()
            script = work["args"][0].replace("http://127.0.0.1:4001", rig.robin.admin_url)
            call = f"curl -sf {rig.robin.url}/v1/models >/dev/null && (exit {code})"
            script, count = re.subn(r"^/work;", f"{call};", script, flags=re.MULTILINE)
            assert count == 1
            process = await asyncio.create_subprocess_exec(*work["command"], script, stdout=asyncio.subprocess.DEVNULL)
            assert await process.wait() == code, "the work's own exit code is the container's"
            assert await rig.robin.returned() == 0
            assert [seen.target for _, seen in rig.seen] == [b"/v1/models"]


async def test_without_the_switch_the_classic_job_would_never_end(tmp_path: Path):
    async with launched(tmp_path) as rig:
        await rig.robin.started()
        assert (await probe(rig.robin, "/quitquitquit", "POST"))[0] == 404
        assert rig.robin.returncode is None
