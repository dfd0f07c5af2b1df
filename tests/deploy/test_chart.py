"""What the gateway's chart and kustomizations render holds what makes it safe. Helm and kustomize themselves run in tests/real."""

import json
import re
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml
from tests.deploy.config_keys import config_schema
from tests.deploy.dockerfile import DOCKERFILE, stages
from tests.deploy.renders import AGENTS, CHART, KUSTOMIZATIONS, VARIANTS, Objects, as_text, digest, kept, rendered_from
from tests.planes.gateway.rig import wall_now
from tests.rows import every_row

from robin.cli.main import COMMANDS, parser_of
from robin.config.agent_environment import REPLACED_ROOTS
from robin.config.gateway_load import load_gateway
from robin.config.manifest import check_manifest
from robin.planes.gateway.new_authority import make_authority
from robin.planes.gateway.settings import GatewaySettings
from robin.policy.address_guard import AddressClass, classify

RENDERS = {name: kept(name) for name in VARIANTS}
by_render = pytest.mark.parametrize("render", RENDERS.values(), ids=RENDERS.keys())


def of(render: Objects, kind: str) -> dict[str, dict[str, Any]]:
    """Objects of a kind by name."""
    return {name: one for (its, _, name), one in render.items() if its == kind}


def pods(render: Objects) -> Iterator[dict[str, Any]]:
    """Each template of a pod."""
    for one in (*of(render, "Deployment").values(), *of(render, "Job").values()):
        yield one["spec"]["template"]
    for one in of(render, "CronJob").values():
        yield one["spec"]["jobTemplate"]["spec"]["template"]


def config_of(render: Objects) -> dict[str, Any]:
    """The map `gateway` of robin.yaml."""
    (gateway,) = of(render, "ConfigMap").values()
    section: dict[str, Any] = gateway["data"]["robin.yaml"]["gateway"]
    return section


def test_the_kept_renders_are_those_of_these_templates():
    assert rendered_from() == digest(), (
        'the chart or a kustomization has changed: ROBIN_RENDER=1 make real ARGS="-k renders", and look at the difference'
    )


def test_every_peer_is_named_by_namespace_and_labels_or_is_a_network():
    with every_row() as row:
        for name, render in RENDERS.items():
            for policy, one in of(render, "NetworkPolicy").items():
                with row(f"{name} {policy}"):
                    rules = [*one["spec"].get("ingress", ()), *one["spec"].get("egress", ())]
                    for rule in rules:
                        assert rule["ports"], "no rule opens every port"
                        assert rule.get("from", rule.get("to")) or policy == "robin-canary", "an empty list is everyone"
                        for peer in (*rule.get("from", ()), *rule.get("to", ())):
                            assert peer.keys() in ({"namespaceSelector", "podSelector"}, {"ipBlock"})
                            assert all(selector.get("matchLabels") for key, selector in peer.items() if key != "ipBlock")


@by_render
def test_selectors_select_the_pods_that_they_are_for(render: Objects):
    labels = [pod["metadata"]["labels"] for pod in pods(render)]
    (gateway,) = [one for one in labels if one["app.kubernetes.io/component"] == "gateway"]
    for (kind, _, name), one in render.items():
        selectors = []
        if kind == "Service":
            selectors = [one["spec"]["selector"]]
        elif kind == "PodDisruptionBudget":
            selectors = [one["spec"]["selector"]["matchLabels"]]
        elif kind == "NetworkPolicy" and one["metadata"]["namespace"] == "robin-egress":
            selectors = [one["spec"]["podSelector"].get("matchLabels", {})]
        for selector in selectors:
            assert any(selector.items() <= one.items() for one in labels), name
    for policy in of(render, "NetworkPolicy").values():
        if policy["metadata"]["namespace"] != "robin-egress":
            (peer,) = policy["spec"]["egress"][0]["to"]
            assert peer["podSelector"]["matchLabels"].items() <= gateway.items()
            served = [8081, 8080] if config_of(render).get("routes") else [8081]
            assert policy["spec"]["egress"][0]["ports"] == [{"protocol": "TCP", "port": port} for port in served]


@by_render
def test_pods_are_confined_as_the_image_is_made_to_be(render: Objects):
    for pod in pods(render):
        spec, context = pod["spec"], pod["spec"]["securityContext"]
        assert f"{context['runAsUser']}:{context['runAsGroup']}" == stages(DOCKERFILE.read_text())[1].one("USER").rest
        assert context["runAsNonRoot"] is True
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        publishes = pod["metadata"]["labels"]["app.kubernetes.io/component"] == "trust"
        assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (publishes, False)
        assert not {"hostNetwork", "hostPID", "shareProcessNamespace"} & spec.keys()
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        for volume in spec.get("volumes", ()):
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o440
                assert context["fsGroup"] == 10001
                assert not publishes or [one["key"] for one in volume["secret"]["items"]] == ["tls.crt"], "certificates, no key"
        assert all(mount["readOnly"] for mount in container.get("volumeMounts", ()))


@by_render
def test_no_object_holds_a_key_and_none_in_a_namespace_of_agents_names_a_secret(render: Objects):
    for (kind, namespace, _), one in render.items():
        assert kind != "Secret"
        assert "PRIVATE KEY" not in json.dumps(one)
        if namespace != "robin-egress" and kind != "Bundle":
            assert "secret" not in json.dumps(one).lower()


def test_the_trust_job_may_write_its_config_map_alone():
    (role,) = of(RENDERS["shared"], "Role").values()
    rules = [(rule["resources"], rule["verbs"], rule.get("resourceNames")) for rule in role["rules"]]
    assert rules == [(["configmaps"], ["get", "patch"], ["robin-trust"]), (["configmaps"], ["create"], None)]
    (first,), (hourly,) = of(RENDERS["shared"], "Job").values(), of(RENDERS["shared"], "CronJob").values()
    template = first["spec"]["template"]
    assert template == hourly["spec"]["jobTemplate"]["spec"]["template"]
    words = template["spec"]["containers"][0]["args"]
    asked = parser_of(COMMANDS[words[0]]).parse_args(words[1:])
    assert (asked.keep, asked.public_roots, asked.configmap) == ("", True, [("agents", "robin-trust")])


def test_a_trust_job_that_changes_has_another_name_since_a_job_cannot_be_changed():
    names: dict[str, set[str]] = {}
    for render in RENDERS.values():
        for name, job in of(render, "Job").items():
            names.setdefault(json.dumps(job["spec"], sort_keys=True), set()).add(name)
    assert len(names) > 1, "some renders differ in it"
    assert all(len(one) == 1 for one in names.values()), "what is the same is not made again"
    assert len(set.union(*names.values())) == len(names)


def test_what_the_gateway_cannot_reload_replaces_its_pods():
    digests: dict[str, set[str]] = {}
    for render in RENDERS.values():
        config = config_of(render)
        (annotations,) = [pod["metadata"]["annotations"] for pod in pods(render) if "annotations" in pod["metadata"]]
        kept_for_life = json.dumps([config.get(key) for key in ("name", "listeners", "admin", "audit")], sort_keys=True)
        digests.setdefault(kept_for_life, set()).add(annotations["robin-gateway/restart"])
    assert len(digests) > 3, "shared, another name, routes, mtls"
    assert all(len(one) == 1 for one in digests.values()), "a change of rules replaces none"
    assert len(set.union(*digests.values())) == len(digests)


def test_a_disruption_budget_lets_every_node_be_drained():
    found = {}
    for name, render in RENDERS.items():
        (gateway,) = [one for one in of(render, "Deployment").values() if one["metadata"]["name"].startswith("robin-gateway")]
        for budget in of(render, "PodDisruptionBudget").values():
            assert budget["spec"]["minAvailable"] < gateway["spec"]["replicas"], name
        found[name] = (gateway["spec"]["replicas"], len(of(render, "PodDisruptionBudget")))
    assert (found["shared"], found["one-replica"], found["per-agent"]) == ((2, 1), (1, 0), (1, 0))


def test_the_networks_that_a_gateway_may_reach_are_the_public_ones_of_the_address_guard():
    rules = of(RENDERS["shared"], "NetworkPolicy")["robin-gateway-egress"]["spec"]["egress"]
    (rule,) = [one for one in rules if {"0.0.0.0/0", "2000::/3"} == {peer.get("ipBlock", {}).get("cidr") for peer in one["to"]}]
    assert rule["ports"] == [{"protocol": "TCP", "port": 1, "endPort": 65535}], "no UDP: no rule could see QUIC"
    blocks = [peer["ipBlock"] for peer in rule["to"]]
    rooms, holes = [ip_network(one["cidr"]) for one in blocks], [ip_network(net) for one in blocks for net in one["except"]]
    never = "169.254.169.254 168.63.129.16 100.100.100.200 192.0.0.192 fd00:ec2::254 0.1.2.3 127.0.0.1 ::1 10.1.2.3 172.31.0.1 192.168.1.1"
    never += " ::ffff:8.8.8.8 64:ff9b::1 2002:808::1 2001::1 fe80::1 fc00::1 ff02::1 2001:db8::1 3fff::1 5f00::1 100::1"
    never += " 224.0.0.1 255.255.255.255 198.19.0.1 203.0.113.1"
    edges = [
        net[index] + step
        for net in holes
        for index, step in ((0, 0), (-1, 0), (0, -1), (-1, 1))
        if 0 < int(net[index]) + step < 1 << net.max_prefixlen
    ]
    for address in (*map(ip_address, never.split()), *edges):
        allowed = any(address in room for room in rooms) and not any(address in hole for hole in holes)
        assert allowed == (classify(address) is AddressClass.PUBLIC), address


def settings_of(render: Objects, folder: Path) -> GatewaySettings:
    """The settings that Robin reads in the pod, with the files that are mounted there."""
    (gateway,) = of(render, "ConfigMap").values()
    text = yaml.safe_dump(gateway["data"]["robin.yaml"])
    certificate, key = make_authority("robin-bridge-ca-test", days=30, permit_dns=[], now=wall_now())
    for path in set(re.findall(r"/(?:etc|var/run)/[^ \n]+", text)):
        target = folder / path.strip("/")
        text = text.replace(f"{path}\n", f"{target}\n")
        files = {target / "tls.crt": certificate, target / "tls.key": key} if "/ca/" in path else {target: key}
        for file, content in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            file.chmod(0o440)
    (folder / "robin.yaml").write_text(text)
    settings, found = load_gateway(str(folder / "robin.yaml"))
    assert settings is not None, found
    return settings


@by_render
def test_robin_takes_the_settings_and_the_pod_waits_longer_than_the_longest_drain(render: Objects, tmp_path: Path):
    settings = settings_of(render, tmp_path)
    (gateway,) = [pod["spec"] for pod in pods(render) if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "gateway"]
    assert gateway["terminationGracePeriodSeconds"] == settings.drain_max_s + 30
    (container,) = gateway["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    served = {one.name: str(one.addresses[0]) for one in settings.listeners} | {"probes": str(settings.probes[0])}
    assert served == {name: f"0.0.0.0:{port}" for name, port in ports.items()}
    service = of(render, "Service")[config_of(render)["name"]]
    assert {one["name"] for one in service["spec"]["ports"]} >= ports.keys() - {"probes"}


@pytest.mark.parametrize(
    ("name", "audience", "callers"), [("reverse", "robin-gateway-routes", ()), ("reverse-callers", "reports", ("apps",))]
)
def test_routes_are_for_tokens_of_an_audience_of_their_own_from_agents_and_callers(name: str, audience: str, callers: tuple[str, ...]):
    render = RENDERS[name]
    config = config_of(render)
    (listener,) = [one for one in config["listeners"] if one["kind"] == "reverse"]
    issuers = {one["name"]: (one["audiences"], one["namespaces"]) for one in config["issuers"]}
    assert (listener["auth"], [issuers.pop(one) for one in listener["issuers"]]) == ("jwt", [([audience], ["agents", *callers])])
    assert all(found == (["robin-gateway"], ["agents"]) for found in issuers.values()), "those of the proxy"
    ingress = of(render, "NetworkPolicy")["robin-gateway-ingress"]["spec"]["ingress"]
    opened = [
        {peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in rule["from"]}
        for rule in ingress
        if 8080 in [port["port"] for port in rule["ports"]]
    ]
    assert opened == [{"agents"}, *([{*callers}] if callers else [])]
    assert {namespace for kind, namespace, _ in render if kind == "RoleBinding"} == {"agents", *callers}, "trust is for callers too"


def agent_pods(render: str = "agents") -> dict[str, dict[str, Any]]:
    found = {}
    for (kind, _, name), one in kept(render).items():
        if kind != "NetworkPolicy":
            found[name] = one if kind == "Pod" else one["spec"]["template"]
    return found


@pytest.mark.parametrize("name", ["coder", "coders", "once"])
def test_an_agent_has_a_relay_with_its_token_a_probe_and_nothing_secret(name: str):
    pod = agent_pods()[name]
    spec, (agent,) = pod["spec"], pod["spec"]["containers"]
    first = {one["name"]: one for one in spec["initContainers"]}
    assert list(first)[:2] == ["relay", "probe"], "before anything of the agent's own"
    assert (first["relay"]["restartPolicy"], "restartPolicy" in first["probe"]) == ("Always", False)
    mounts = {one["name"]: [mount["name"] for mount in one.get("volumeMounts", ())] for one in (agent, *first.values())}
    assert {container for container, names in mounts.items() if "robin-token" in names} == {"relay"}
    assert mounts["agent"] == ["robin-trust"]
    assert "secret" not in {key for volume in spec["volumes"] for key in volume}
    assert all(mount["readOnly"] and "subPath" not in mount for one in (agent, *first.values()) for mount in one.get("volumeMounts", ()))
    (token,) = [volume["projected"]["sources"] for volume in spec["volumes"] if volume["name"] == "robin-token"]
    assert token == [{"serviceAccountToken": {"path": "token", "audience": "robin-gateway", "expirationSeconds": 600}}]
    assert spec["automountServiceAccountToken"] is False
    policy = kept("agents")["NetworkPolicy", "agents", "robin-agent-egress"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()

    given = {one["name"]: one["value"] for one in agent["env"]}
    assert {given.pop(one) for one in REPLACED_ROOTS} == {"/etc/robin/trust/bundle.crt"}
    assert given.pop("NODE_EXTRA_CA_CERTS") == "/etc/robin/trust/ca.crt"
    assert given.pop("NODE_USE_ENV_PROXY") == "1"
    assert given.pop("NO_PROXY") == given.pop("no_proxy") == "localhost,127.0.0.1,::1"
    assert given == dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:8081")


@pytest.mark.parametrize("name", ["coder", "coders", "once"])
def test_a_lockdown_comes_first_and_is_all_that_may_administer_the_network(name: str):
    spec = agent_pods("locked")[name]["spec"]
    lockdown, relay = spec["initContainers"][:2]
    assert (lockdown["name"], relay["name"]) == ("lockdown", "relay")
    context = lockdown["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert (context["runAsUser"], context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (0, False, True)
    assert "NET_ADMIN" not in json.dumps([one for one in (*spec["initContainers"], *spec["containers"]) if one is not lockdown])
    asked = parser_of(COMMANDS[lockdown["args"][0]]).parse_args(lockdown["args"][1:])
    assert (asked.gateway, asked.dns) == ([("robin-gateway.robin-egress.svc.cluster.local", 8081)], ["resolv.conf"])


@pytest.mark.parametrize("name", ["coder", "coders", "once"])
def test_an_agent_without_dns_has_the_gateway_in_its_hosts_file_and_a_lookup_fails_at_once(name: str):
    spec = agent_pods("locked-dns-none")[name]["spec"]
    gateway = RENDERS["dns-none"]["Service", "robin-egress", "robin-gateway"]["spec"]["clusterIP"]
    (relay,) = [one for one in spec["initContainers"] if one["name"] == "relay"]
    asked = parser_of(COMMANDS[relay["args"][0]]).parse_args(relay["args"][1:])
    assert spec["hostAliases"] == [{"ip": gateway, "hostnames": [urlsplit(asked.parent).hostname]}]
    assert (spec["dnsPolicy"], spec["dnsConfig"]) == ("None", {"nameservers": ["127.0.0.1"]})
    for render in (kept("locked-dns-none"), RENDERS["dns-none"]):
        (rule,) = render["NetworkPolicy", "agents", "robin-agent-egress"]["spec"]["egress"]
        assert [one["port"] for one in rule["ports"]] == [8081], "no name server"
    assert gateway in config_of(RENDERS["dns-none"])["listeners"][0]["tls"]["minted_names"]


@pytest.mark.parametrize("name", [*dict.fromkeys((*VARIANTS, *KUSTOMIZATIONS))])
def test_g57_no_program_in_a_render_is_near_the_identity_of_robin(name: str):
    checked = check_manifest("---\n".join(as_text(one) for one in kept(name).values()).encode(), name)
    assert checked.findings == ()
    agents = (3, 0, 1) if name in AGENTS else None  # one pod has no label: it is no agent
    assert (checked.pods, checked.alone, checked.others) == (agents or (0, len(list(pods(kept(name)))), 0)), "all were looked at"


def test_a_pod_without_the_label_stays_as_it_is():
    assert agent_pods()["other"]["spec"] == {"containers": [{"name": "agent", "image": "registry.example/app:1"}]}


def test_relay_probe_and_canary_know_the_gateway_by_names_that_it_has():
    first = {one["name"]: one["args"] for one in agent_pods()["coder"]["spec"]["initContainers"] if "args" in one}
    config = RENDERS["shared"]["ConfigMap", "robin-egress", "robin-gateway"]["data"]["robin.yaml"]["gateway"]
    (listener,) = config["listeners"]
    relay = parser_of(COMMANDS[first["relay"][0]]).parse_args(first["relay"][1:])
    assert urlsplit(relay.parent).hostname in listener["tls"]["minted_names"]
    (asked,) = [word.partition("=")[2] for word in first["probe"] if word.startswith("--gateway=")]
    assert asked == f"{urlsplit(relay.parent).hostname}:8081"
    name, _, port = config["canary"].partition(":")
    canary = RENDERS["shared"]["Service", "robin-egress", name.partition(".")[0]]
    assert [str(one["port"]) for one in canary["spec"]["ports"]] == [port]


def test_the_charts_schema_has_the_keys_of_robin_yaml():
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["properties"]["config"] == config_schema(), "python -m tests.deploy.config_keys prints what has to stand there"


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"replica": 3}, ""),
        ({"auth": {"mode": "none"}}, "auth.mode"),
        ({"auth": {"mode": "open"}}, "topology"),
        (
            {
                "auth": {"mode": "open"},
                "topology": "per-agent",
                "agents": [{"namespace": "a", "podLabels": {"b": "c"}}],
                "config": {"providers": [{}]},
            },
            "config.providers",
        ),
        ({"config": {"listeners": []}}, "config"),
        ({"config": {"bridge": {"slots": {}}}}, "config.bridge"),
        ({"config": {"polcy": {}}}, "config"),
        ({"config": {"policy": {"rules": [{"name": "docs", "host": ["docs.example.com"]}]}}}, "config.policy.rules.0"),
        ({"config": {"identities": {"default": {"sorce": "file"}}}}, "config.identities.default"),
        ({"topology": "per-agent"}, "agents"),
        ({"pdb": {"minAvailable": "most"}}, "pdb.minAvailable"),
        ({"dns": {"mode": "none"}}, "service.clusterIP"),
        ({"dns": {"mode": "custom"}}, "dns.custom"),
        ({"dns": {"mode": "custom", "custom": [{"to": [{"podSelector": {"a": "b"}}], "ports": [{}]}]}}, "dns.custom.0.to.0"),
        ({"agents": [{"namespace": "agents", "podLabels": {}}]}, "agents.0.podLabels"),
    ],
)
def test_the_charts_schema_refuses(values: dict[str, Any], place: str):
    schema = json.loads((CHART / "values.schema.json").read_text())
    whole = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.validate(whole, schema)
    for key, value in values.items():
        whole[key] = {**whole[key], **value} if isinstance(value, dict) and key in whole else value
    found = [".".join(map(str, error.absolute_path)) for error in jsonschema.Draft7Validator(schema).iter_errors(whole)]
    assert place in found
