"""The Kubernetes plane in the runtime: its settings in parts, its engine, its audit, the checks of the cluster, reloads of its policy."""

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from robin.admin.readiness import Readiness
from robin.app.plane import Listener, Parts, Plane, RuntimeSettings
from robin.app.runtime import run
from robin.app.shutdown import EXIT_BIND, EXIT_FAILED, EXIT_SETTINGS, StartFailure
from robin.config.kube import KubeRefused, KubeSettings, load_policy
from robin.config.load import environment
from robin.model.caller import Caller
from robin.model.faults import Fault, register_faults
from robin.model.limits import Deadlines, Limits
from robin.model.route import Endpoint, TlsProfile
from robin.planes.kube.access_record import KUBE_COLUMNS, AuditingRecorder
from robin.planes.kube.agents import Authenticator, MtlsSettings, TokensFile
from robin.planes.kube.audit import KubeAudit
from robin.planes.kube.bootstrap import Bootstrap
from robin.planes.kube.cluster import ClusterCalls
from robin.planes.kube.credentials import JitCredentials
from robin.planes.kube.decider import Decider
from robin.planes.kube.faults import KUBE_FAULTS
from robin.planes.kube.listener import TlsOpener
from robin.planes.kube.minting import Minter, MintSettings
from robin.planes.kube.refusals import StatusRefusals, translate
from robin.planes.kube.startup import RETRY_S, Dangerous, StartupChecks
from robin.planes.kube.state import StateFolder
from robin.policy.addresses import refuse_own_listeners
from robin.policy.control import permit_control
from robin.policy.kube.judge import KubePolicySettings
from robin.policy.kube.permit import Routes
from robin.policy.kube.rules import PolicyDocument
from robin.proxy.admission import ListenerRule
from robin.proxy.connection import serve_connection
from robin.proxy.engine import Engine
from robin.telemetry.audit import AuditLog
from robin.telemetry.audit_file import AuditFile, AuditUnavailable, load_checkpoint_key
from robin.transport.dial import Dialer
from robin.transport.http_client import HttpClient
from robin.transport.pool import Pool
from robin.transport.resolve import Resolver
from robin.transport.tls import TlsFileError, UpstreamTls
from robin.transport.tls_server import ServerTls

_POLL_S: Final = 1.0
_FLUSH_S: Final = 0.02
_DRAIN_S: Final = 30.0
SETTING_NAMES: Final = {
    "upstream_url": "cluster.url",
    "upstream_ca_file": "cluster.ca_file",
    "max_target_size": "limits.max_target",
    "max_head_size": "limits.max_header_bytes",
}


def run_kube(settings: KubeSettings) -> int:
    """Run the plane until it has drained. Returns the exit code of `robin kube`."""
    return run(runtime_settings(settings), partial(build_kube, settings), environment())


def runtime_settings(settings: KubeSettings) -> RuntimeSettings:
    """The part of the settings that is about the process."""
    unsafe = {"broad_minter": settings.unsafe_broad_minter, "self_minting": settings.unsafe_self_minting}
    warnings = [("unsafe", {"switch": name, "detail": f"--unsafe-{name.replace('_', '-')} is on"}) for name, on in unsafe.items() if on]
    return RuntimeSettings(
        plane="kube",
        admin=settings.admin,
        admin_setting="kube.admin.listen",
        drain_max_s=_DRAIN_S,
        unsafe=unsafe,
        warnings=tuple(warnings),
        setting_names=SETTING_NAMES,
    )


def build_kube(settings: KubeSettings, parts: Parts) -> "Kube":
    """Build the plane. Raises StartFailure, or OSError."""
    register_faults(KUBE_FAULTS)
    try:
        return Kube(settings, parts)
    except TlsFileError as error:
        raise StartFailure(EXIT_SETTINGS, f"kube: a TLS file cannot be used: {error}; give readable PEM files") from None
    except AuditUnavailable as error:
        raise StartFailure(EXIT_BIND if error.reason == "locked" else EXIT_FAILED, f"kube.audit.file: {error}") from None
    except ValueError as error:
        raise StartFailure(EXIT_SETTINGS, f"kube: {error}") from None


class PolicyHolder:
    """The policy in force. `poll` loads the file again when it changed; one that is not in order keeps the last good policy."""

    __slots__ = ("_on_load", "_path", "_polled_at", "_seen", "digest", "failure", "policy")

    def __init__(self, policy: PolicyDocument, path: str, on_load: Callable[[str], None]) -> None:
        self.policy = policy
        self.digest = policy.digest()
        self.failure = ""
        self._path = path
        self._on_load = on_load
        self._seen = self._stat()
        self._polled_at = 0.0

    def poll(self, now: float) -> None:
        """Look at the file once a second."""
        if now - self._polled_at >= _POLL_S:
            self._polled_at = now
            if self._path and (seen := self._stat()) != self._seen:
                self._seen = seen
                self.load()

    def load(self) -> None:
        """Load the file again."""
        if not self._path:
            return
        try:
            policy = load_policy(self._path)
        except KubeRefused as refused:
            self.failure = refused.errors[0] if refused.errors else "the policy is not in order"
            return
        self.policy, self.digest, self.failure = policy, policy.digest(), ""
        self._on_load(self.digest)

    def _stat(self) -> tuple[int, ...]:
        try:
            status = os.stat(self._path)
        except OSError:
            return ()
        return (status.st_ino, status.st_size, status.st_mtime_ns)


class Kube(Plane):
    """One listener with TLS, one cluster, many agents."""

    def __init__(self, settings: KubeSettings, parts: Parts) -> None:
        self._settings = settings
        self._parts = parts
        folder = StateFolder(settings.state_dir, parts.clock.wall())
        if not settings.tls_cert_file:
            folder.ensure_listener()
        self._server_tls = ServerTls(
            settings.tls_cert_file or str(folder.certificate_file),
            settings.tls_key_file or str(folder.key_file),
            self._on_listener_reload,
            client_ca_file=settings.client_ca_file or str(folder.ca_file),
            required=False,
        )
        self._endpoint = Endpoint(origin=settings.cluster.origin, tls=TlsProfile(ca_file=settings.cluster_ca_file or None))
        self._upstream_tls = UpstreamTls(lambda _profile, _result: None, profiles=_profiles(settings, self._endpoint))
        tokens_file = Path(settings.tokens_file) if settings.tokens_file else folder.tokens_file
        self._tokens = TokensFile(tokens_file, parts.clock)
        self._audit = _open_audit(settings, folder, parts)
        self._policies = PolicyHolder(settings.policy, settings.policy_file, self._audit.policy_loaded)
        self._pool = _build_pool(settings, parts, self._upstream_tls)
        calls = _build_calls(settings, parts, self._pool, self._endpoint)
        minter = Minter(calls, _mint_settings(settings), parts.clock)
        self._checks = StartupChecks(
            calls,
            minter,
            self._accounts,
            unsafe_broad_minter=settings.unsafe_broad_minter,
            unsafe_self_minting=settings.unsafe_self_minting,
        )
        self._minter = minter
        self._recorder = AuditingRecorder(
            parts.metrics,
            parts.writer,
            columns=KUBE_COLUMNS,
            mode="all",
            style="json",
            wall=parts.clock.wall,
            prefix=parts.entropy.token_hex(8),
            identity_source="jit",
            later=lambda flush: parts.loop.call_later(_FLUSH_S, flush),
            audit=self._audit,
        )
        self._engine = self._build_engine(folder)
        self.listeners = (self._build_listener(),)
        self.readables = (self._recorder,)
        self.chores = (self._policies.poll,)
        self.started_fields = {"cluster": str(settings.cluster), "policy": self._policies.digest}
        self._ca_file = folder.ca_file

    def readiness(self, *, started: bool, draining: bool) -> Readiness:
        """Ready while the checks have passed and the audit can be written."""
        reasons = [*self._checks.failures, *(["audit"] if self._audit.failure else [])]
        return Readiness(started=started, draining=draining, reasons=tuple(reasons))

    async def start(self) -> None:
        """Check the cluster once; what does not pass yet is tried again each five seconds. Raises StartFailure."""
        self._audit.policy_loaded(self._policies.digest)
        try:
            await self._checks.run()
        except Dangerous as danger:
            raise StartFailure(EXIT_FAILED, str(danger)) from None
        if not self._checks.passed:
            self._parts.events.warning("startup_checks", detail=", ".join(self._checks.failures))
            self._parts.tasks.start(self._check_until_passed(), "startup checks")

    def reload(self) -> None:
        """Load the policy and the listener's certificate again."""
        self._policies.load()
        self._server_tls.reload()
        self._upstream_tls.reload()

    def flush(self) -> None:
        """Count the exchanges that ended and write their lines."""
        self._recorder.flush()

    async def close(self) -> None:
        """Seal the audit."""
        await self._audit.close()

    def _accounts(self) -> list[tuple[str, str]]:
        settings = self._minter.settings
        agents = self._policies.policy.agents.values()
        pairs = ((settings.account_of(agent.name, agent.service_account), settings.secret_of(agent.name)) for agent in agents)
        return list(dict.fromkeys(pairs))

    async def _check_until_passed(self) -> None:
        while not self._checks.passed:
            await asyncio.sleep(RETRY_S)
            try:
                await self._checks.run()
            except Dangerous as danger:  # nothing is minted for an agent until it is mended
                self._parts.events.error("startup_check_dangerous", detail=str(danger))
            self._parts.on_ready_change()

    def _build_engine(self, folder: StateFolder) -> Engine:
        settings, parts = self._settings, self._parts
        mtls = MtlsSettings(trust_domains=frozenset(settings.trust_domains), cn=settings.cn, local=not settings.client_ca_file)
        authenticator = Authenticator(
            mtls=mtls, tokens=self._tokens, policies=self._policies, audit=self._audit, clock=parts.clock, entropy=parts.entropy
        )
        judging = KubePolicySettings(
            tiers=settings.tiers,
            inspect_bodies=settings.inspect_bodies,
            lower_dry_run=settings.lower_dry_run,
            protected=settings.protected,
            max_target=settings.max_target,
        )
        routes = Routes(
            forward_headers=settings.forward_headers,
            prefix=settings.cluster.base_path,
            response_s=settings.response_s,
            idle_s=settings.idle_s,
        )
        return Engine(
            loop=parts.loop,
            policy=Decider(policies=self._policies, settings=judging, routes=routes, endpoint=self._endpoint, max_body=settings.max_body),
            credentials=JitCredentials(self._minter, self._audit, self._policies, self._checks, parts.clock),
            pool=self._pool,
            limits=_limits(settings),
            deadlines=_deadlines(settings),
            metrics=parts.metrics,
            recorder=self._recorder,
            events=parts.events,
            sweeper=parts.sweeper,
            tasks=parts.tasks,
            entropy=parts.entropy,
            clock=parts.clock,
            drain=parts.drain,
            refusals=StatusRefusals("robin"),
            authenticate=authenticator.authenticate,
            translate=translate,
        )

    def _build_listener(self) -> Listener:
        opener = TlsOpener(self._parts.loop, self._server_tls)
        admission = self._parts.build_admission(
            connections=self._engine.limits.connections,
            serve=partial(serve_connection, engine=self._engine, open_stream=opener),
            refuse=_close_at_once,
        )
        rule = ListenerRule(beyond_loopback=bool(self._settings.tls_cert_file))
        return Listener(setting="kube.listen", addresses=self._settings.listen, rule=rule, take=admission.take)

    def _on_listener_reload(self, result: str) -> None:
        self._parts.events.info("listener_certificate", detail=result)


def _close_at_once(_caller: Caller, _fault: Fault) -> bytes:
    """Before the handshake there is nothing that a client could read."""
    return b""


def _limits(settings: KubeSettings) -> Limits:
    return Limits(head_bytes=settings.max_header_bytes, target_bytes=settings.max_target, fields=200, upstream_total=256)


def _deadlines(settings: KubeSettings) -> Deadlines:
    return Deadlines(response_s=settings.response_s, stream_idle_s=settings.idle_s, connect_s=settings.connect_s)


def _build_pool(settings: KubeSettings, parts: Parts, tls: UpstreamTls) -> Pool:
    resolver = Resolver(parts.loop, is_own_listener=parts.own.has)
    dialer = Dialer(parts.loop, resolver=resolver, judge=refuse_own_listeners, tls=tls, connect_s=settings.connect_s)
    return Pool(
        parts.loop, dialer=dialer, sweeper=parts.sweeper, limits=_limits(settings), deadlines=_deadlines(settings), metrics=parts.metrics
    )


def _bootstrap_profile(settings: KubeSettings, endpoint: Endpoint) -> TlsProfile:
    """A client certificate makes a profile, and so a pool, of its own: the API server would honour it before the bearer."""
    return TlsProfile(
        ca_file=None if endpoint.tls is None else endpoint.tls.ca_file,
        certificate_file=settings.bootstrap_cert_file or None,
        key_file=settings.bootstrap_key_file or None,
    )


def _profiles(settings: KubeSettings, endpoint: Endpoint) -> list[TlsProfile]:
    return [_bootstrap_profile(settings, endpoint), *([endpoint.tls] if endpoint.tls is not None else [])]


def _build_calls(settings: KubeSettings, parts: Parts, pool: Pool, endpoint: Endpoint) -> ClusterCalls:
    origin = endpoint.origin
    place = {"scheme": origin.scheme, "host": origin.host}
    return ClusterCalls(
        client=HttpClient(pool),
        permit=permit_control(**place, port=origin.port, tls=_bootstrap_profile(settings, endpoint)),
        plain=permit_control(**place, port=origin.port, tls=endpoint.tls),
        bootstrap=Bootstrap(settings.bootstrap_token_file, parts.clock),
        prefix=settings.cluster.base_path.decode("ascii"),
    )


def _mint_settings(settings: KubeSettings) -> MintSettings:
    jit = settings.jit
    return MintSettings(
        namespace=jit.namespace,
        service_account=jit.service_account,
        ttl_s=jit.ttl_s,
        audiences=jit.audiences,
        bind_secret=jit.bind_secret,
        timeout_s=jit.timeout_s,
    )


def _open_audit(settings: KubeSettings, folder: StateFolder, parts: Parts) -> KubeAudit:
    key = load_checkpoint_key(Path(settings.checkpoint_key_file)) if settings.checkpoint_key_file else None
    path = Path(settings.audit_file) if settings.audit_file else folder.audit_file
    file = AuditFile(path, plane="kube", wall=parts.clock.wall, key=key, checkpoint_every=settings.checkpoint_every)
    return KubeAudit(AuditLog(file, monotonic=parts.clock.monotonic), fsync="always" if settings.fsync == "always" else "writes")
