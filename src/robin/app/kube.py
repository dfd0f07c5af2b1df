"""The Kubernetes plane in the runtime: its settings in parts, its engine, its audit, the checks of the cluster, reloads of its policy."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from robin.admin.readiness import Readiness
from robin.app.plane import Listener, Parts, Plane, RuntimeSettings
from robin.app.runtime import run
from robin.app.shutdown import EXIT_BIND, EXIT_FAILED, EXIT_SETTINGS, StartFailure
from robin.config.kube import KubeSettings
from robin.config.kube_policy import KubeRefused, load_policy
from robin.config.load import environment
from robin.model.caller import Caller, ListenerRule
from robin.model.faults import Fault, name_settings
from robin.model.limits import Deadlines, Limits
from robin.model.route import Endpoint, TlsProfile
from robin.planes.kube.access_record import KUBE_COLUMNS, AuditingRecorder
from robin.planes.kube.agents import Authenticator, MtlsSettings, TokensFile
from robin.planes.kube.audit import KubeAudit
from robin.planes.kube.bodies import Bodies
from robin.planes.kube.bootstrap import Bootstrap
from robin.planes.kube.cluster import ClusterCalls, NoBootstrap
from robin.planes.kube.credentials import JitCredentials
from robin.planes.kube.decider import Decider
from robin.planes.kube.exchange import Connected, KubeExchange
from robin.planes.kube.listener import TlsOpener
from robin.planes.kube.metrics import KubeMetrics
from robin.planes.kube.minting import Minter, MintSettings
from robin.planes.kube.refusals import StatusRefusals, translate
from robin.planes.kube.sessions import Sessions
from robin.planes.kube.startup import RETRY_S, Dangerous, StartupChecks
from robin.planes.kube.state import StateFolder
from robin.policy.addresses import refuse_own_listeners
from robin.policy.control import permit_control
from robin.policy.kube.body import NO_BODY
from robin.policy.kube.judge import judge
from robin.policy.kube.permit import Routes
from robin.policy.kube.rules import PolicyDocument
from robin.proxy.connection import serve_connection
from robin.proxy.downstream import Downstream
from robin.proxy.engine import Engine
from robin.telemetry.audit import AuditLog, note_end, reopen_audit
from robin.telemetry.audit_file import AuditFile, AuditUnavailable, load_checkpoint_key
from robin.transport.dial import Dialer
from robin.transport.http_client import HttpClient
from robin.transport.pool import Pool
from robin.transport.resolve import Resolver
from robin.transport.tls import TlsFileError, UpstreamTls, file_identity, read_file
from robin.transport.tls_server import ServerTls

_POLL_S: Final = 1.0
DRAIN_S: Final = 30.0
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
        drain_max_s=DRAIN_S,
        unsafe=unsafe,
        warnings=tuple(warnings),
        setting_names=SETTING_NAMES,
    )


def build_kube(settings: KubeSettings, parts: Parts) -> "Kube":
    """Build the plane. Raises StartFailure, or OSError."""
    try:
        return Kube(settings, parts)
    except AuditUnavailable as error:
        raise StartFailure(EXIT_BIND if error.reason == "locked" else EXIT_FAILED, f"kube.audit.file: {error}") from None
    except ValueError as error:
        raise StartFailure(EXIT_SETTINGS, f"kube: {error}") from None


@contextmanager
def _tls_files(*files: tuple[str, str]) -> Iterator[None]:
    """A file that cannot be used ends the start; the message names it and its key. `files`: key and path, empty: none."""
    try:
        yield
    except TlsFileError as error:
        named = [(key, path) for key, path in files if path]
        for key, path in named:
            try:
                read_file(path, "it")
            except TlsFileError as unreadable:
                raise StartFailure(EXIT_SETTINGS, f"kube.{key}: {path}: {unreadable}; name a PEM file that can be read") from None
        keys = " or ".join(f"kube.{key} ({path})" for key, path in named)
        raise StartFailure(EXIT_SETTINGS, f"{keys}: {error}; give PEM files that fit") from None


class PolicyHolder:
    """The policy in force. `poll` loads the file again when it changed; one that is not in order keeps the last good policy."""

    __slots__ = ("_on_load", "_path", "_polled_at", "_seen", "digest", "failure", "policy")

    def __init__(self, policy: PolicyDocument, path: str, on_load: Callable[[bool], None]) -> None:
        """`on_load` is called after each attempt, with whether the file was in order."""
        self.policy = policy
        self.digest = policy.digest()
        self.failure = ""
        self._path = path
        self._on_load = on_load
        self._seen = file_identity(path)
        self._polled_at = 0.0

    def poll(self, now: float) -> None:
        """Look at the file once a second."""
        if now - self._polled_at >= _POLL_S:
            self._polled_at = now
            if self._path and file_identity(self._path) != self._seen:
                self.load()

    def load(self) -> None:
        """Load the file again."""
        if not self._path:
            return
        self._seen = file_identity(self._path)
        try:
            policy = load_policy(self._path)
        except KubeRefused as refused:
            self.failure = refused.errors[0] if refused.errors else "the policy is not in order"
            self._on_load(False)
            return
        self.policy, self.digest, self.failure = policy, policy.digest(), ""
        self._on_load(True)


class Kube(Plane):
    """One listener with TLS, one cluster, many agents."""

    def __init__(self, settings: KubeSettings, parts: Parts) -> None:
        self._settings = settings
        self._parts = parts
        folder = StateFolder(settings.state_dir, parts.clock.wall())
        if not settings.tls_cert_file:
            folder.ensure_listener()
        self._server_tls = self._build_server_tls(folder)
        self._roots = self._client_roots()
        self._trust = 0  # how often a root of agents was taken away
        self._endpoint = Endpoint(origin=settings.cluster.origin, tls=TlsProfile(ca_file=settings.cluster_ca_file or None))
        self._upstream_tls = _build_upstream_tls(settings, self._endpoint)
        tokens_file = Path(settings.tokens_file) if settings.tokens_file else folder.tokens_file
        self._tokens = TokensFile(tokens_file, parts.clock)
        self._audit_log = _open_audit(settings, folder, parts)
        self._audit = KubeAudit(self._audit_log, fsync="always" if settings.fsync == "always" else "writes")
        self._policies = PolicyHolder(settings.policy, settings.policy_file, self._on_policy)
        self._checking = False
        self._metrics = KubeMetrics()
        self._bodies = Bodies()
        self._sessions = Sessions(parts.loop, per_agent=settings.max_per_agent)
        self._bootstrap = Bootstrap(settings.bootstrap_token_file, settings.bootstrap_cert_file, parts.clock)
        self._pool = _build_pool(settings, parts, self._upstream_tls)
        calls = _build_calls(settings, self._pool, self._endpoint, self._bootstrap)
        minter = Minter(calls, _mint_settings(settings), parts.clock)
        self._checks = StartupChecks(
            calls,
            minter,
            self._accounts,
            unsafe_broad_minter=settings.unsafe_broad_minter,
            unsafe_self_minting=settings.unsafe_self_minting,
        )
        self._minter = minter
        self._recorder = parts.build_recorder(
            AuditingRecorder,
            columns=KUBE_COLUMNS,
            mode="all",
            style="json",
            identity_source="jit",
            audit=self._audit,
            sessions=self._sessions,
            bodies=self._bodies,
            kube_metrics=self._metrics,
        )
        self._engine = self._build_engine(folder)
        self.listeners = (self._build_listener(),)
        self.readables = (self._recorder, self._metrics)
        self.chores = (self._policies.poll, self._poll_tokens, self._poll_tls)
        self._tls_polled_at = 0.0
        self.started_fields = {"cluster": str(settings.cluster), "policy": self._policies.digest}
        self._metrics.is_agent = lambda name: name in self._policies.policy.agents
        self._metrics.sessions = self._sessions.kinds
        self._metrics.session_ends = self._sessions.ended
        self._metrics.policy_digest = lambda: self._policies.digest
        self._metrics.bootstrap_expiry_s = self._bootstrap.expires_in_s

    def readiness(self, *, started: bool, draining: bool) -> Readiness:
        """Ready while the checks have passed and the audit can be written."""
        reasons = [*self._checks.failures, *(["audit"] if self._audit.failure else [])]
        degraded = [name for name, failure in (("policy", self._policies.failure), ("tokens_file", self._tokens.failure)) if failure]
        degraded += [f"account:{account}" for account in self._checks.unchecked] if self._checks.passed else []
        return Readiness(started=started, draining=draining, reasons=tuple(reasons), degraded=tuple(degraded))

    async def start(self) -> None:
        """Check the cluster once; what does not pass yet is tried again each five seconds. Raises StartFailure."""
        self._audit.policy_loaded(self._policies.digest)
        try:
            await self._checks.run()
        except Dangerous as danger:
            raise StartFailure(EXIT_FAILED, str(danger)) from None
        if self._checks.warning:
            self._parts.events.warning("broad_minter", detail=self._checks.warning)
        if not self._checks.passed:
            self._warn_of_checks()
            self._parts.tasks.start(self._check_until_passed(), "startup checks")
        self._start_new_checks()

    def reload(self) -> None:
        """Load the policy and the certificates again, and go on in a new audit file if the old one was renamed."""
        self._policies.load()
        self._server_tls.reload()
        self._upstream_tls.reload()
        self._parts.tasks.start(reopen_audit(self._audit_log, self._parts.events), "audit reopen")

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
            before = self._checks.failures
            try:
                await self._checks.run()
            except Dangerous as danger:
                self._parts.events.error("startup_check_dangerous", detail=str(danger))
                self._parts.end(EXIT_FAILED)
                return
            if not self._checks.passed and self._checks.failures != before:
                self._warn_of_checks()
            self._parts.on_ready_change()
        self._start_new_checks()

    def _warn_of_checks(self) -> None:
        names = SETTING_NAMES | {"bootstrap_token_file": f"cluster.bootstrap.token_file ({self._settings.bootstrap_token_file})"}
        self._parts.events.warning("startup_checks", detail=name_settings(self._checks.detail, names))

    def _start_new_checks(self) -> None:
        """A policy may bring accounts at any time, also while the checks of the start are under way, which took their list before."""
        if self._checks.passed and self._checks.unchecked and not self._checking:
            self._checking = True
            self._parts.tasks.start(self._check_new_accounts(), "checks of new accounts")

    async def _check_new_accounts(self) -> None:
        """Until every account of the policy in force has passed; one that may mint too much is never served."""
        try:
            while self._checks.unchecked:
                try:
                    await self._checks.run_for_new_accounts()
                except Dangerous as danger:
                    self._parts.events.error("startup_check_dangerous", detail=str(danger))
                except (Fault, NoBootstrap):
                    pass  # the cluster does not answer now
                if self._checks.unchecked:
                    await asyncio.sleep(RETRY_S)
        finally:
            self._checking = False

    def _on_policy(self, loaded: bool) -> None:
        """A policy was loaded, or was not in order: what lasts is judged again by the one in force."""
        self._metrics.policy_reloads["ok" if loaded else "error"] += 1
        if loaded:
            self._audit.policy_loaded(self._policies.digest)
            self._sessions.judge_again(self._judge_session)
            self._start_new_checks()
        else:
            self._parts.events.warning("policy_refused", detail=self._policies.failure)

    def _poll_tokens(self, _now: float) -> None:
        if self._tokens.refresh():
            self._sessions.judge_again(self._judge_session)

    def _poll_tls(self, now: float) -> None:
        if now - self._tls_polled_at >= _POLL_S:
            self._tls_polled_at = now
            self._server_tls.refresh()

    def _judge_session(self, exchange: KubeExchange) -> str:
        """Why a session must end now, empty: it need not."""
        if not self._authenticator.still_holds(exchange):
            return "revoked"
        assert exchange.request is not None
        decision = judge(exchange.request, NO_BODY, exchange.agent, self._policies.policy, self._judging, now=self._parts.clock.wall())
        return "policy" if decision.code else ""

    def _build_server_tls(self, folder: StateFolder) -> ServerTls:
        settings = self._settings
        certificate_file = settings.tls_cert_file or str(folder.certificate_file)
        key_file = settings.tls_key_file or str(folder.key_file)
        client_ca_file = settings.client_ca_file or str(folder.ca_file)
        pair = ("tls.cert_file", certificate_file), ("tls.key_file", key_file)
        with _tls_files(*pair, ("authn.mtls.client_ca_file", client_ca_file)):
            return ServerTls(certificate_file, key_file, self._on_listener_reload, client_ca_file=client_ca_file, required=False)

    def _build_engine(self, folder: StateFolder) -> Engine:
        settings, parts = self._settings, self._parts
        mtls = MtlsSettings(trust_domains=frozenset(settings.trust_domains), cn=settings.cn, local=not settings.client_ca_file)
        self._authenticator = Authenticator(
            mtls=mtls,
            tokens=self._tokens,
            policies=self._policies,
            audit=self._audit,
            failures=self._metrics.auth_failures,
            clock=parts.clock,
            entropy=parts.entropy,
            trust=lambda: self._trust,
        )
        self._judging = judging = settings.judging
        routes = Routes(
            forward_headers=settings.forward_headers,
            prefix=settings.cluster.base_path,
            response_s=settings.response_s,
            idle_s=settings.idle_s,
        )
        return Engine(
            loop=parts.loop,
            policy=Decider(
                policies=self._policies,
                settings=judging,
                routes=routes,
                endpoint=self._endpoint,
                max_body=settings.max_body,
                bodies=self._bodies,
                still_holds=self._authenticator.still_holds,
                wall=parts.clock.wall,
            ),
            credentials=JitCredentials(
                self._minter,
                self._audit,
                self._checks,
                self._sessions,
                self._metrics,
                parts.clock,
                max_session_s=settings.max_session_s,
            ),
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
            authenticate=self._authenticator.authenticate,
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
        """A root of agents that was taken away ends what its certificates began: TLS looks at them in the handshake only."""
        self._parts.events.info("listener_certificate", detail=result)
        before, self._roots = self._roots, self._client_roots()
        if before <= self._roots:
            return
        self._trust += 1
        self._sessions.judge_again(self._judge_session)
        for connection in list(self._parts.drain.connections):
            if not isinstance(connection, Downstream) or not isinstance(connection.caller, Connected) or connection.caller.certificate:
                connection.begin_closing()  # also one that is in its handshake

    def _client_roots(self) -> frozenset[bytes]:
        return frozenset(self._server_tls.context.get_ca_certs(binary_form=True))


def _close_at_once(_caller: Caller, _fault: Fault) -> bytes:
    """Before the handshake there is nothing that a client could read."""
    return b""


def _limits(settings: KubeSettings) -> Limits:
    """Each connection of an agent may need one to the cluster and one to mint: sessions that are open must not keep others from either."""
    limits = Limits(head_bytes=settings.max_header_bytes, target_bytes=settings.max_target, fields=200)
    return replace(limits, upstream_connections=2 * limits.connections, upstream_total=2 * limits.connections)


def _deadlines(settings: KubeSettings) -> Deadlines:
    return Deadlines(response_s=settings.response_s, stream_idle_s=settings.idle_s, connect_s=settings.connect_s)


def _build_pool(settings: KubeSettings, parts: Parts, tls: UpstreamTls) -> Pool:
    resolver = Resolver(parts.loop, is_own_listener=parts.own.has)
    dialer = Dialer(parts.loop, parts.sweeper, resolver=resolver, judge=refuse_own_listeners, tls=tls, connect_s=settings.connect_s)
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


def _build_upstream_tls(settings: KubeSettings, endpoint: Endpoint) -> UpstreamTls:
    own = ("cluster.bootstrap.cert_file", settings.bootstrap_cert_file), ("cluster.bootstrap.key_file", settings.bootstrap_key_file)
    with _tls_files(("cluster.ca_file", settings.cluster_ca_file), *own):
        return UpstreamTls(lambda _profile, _result: None, profiles=_profiles(settings, endpoint))


def _build_calls(settings: KubeSettings, pool: Pool, endpoint: Endpoint, bootstrap: Bootstrap) -> ClusterCalls:
    origin = endpoint.origin
    place = {"scheme": origin.scheme, "host": origin.host}
    return ClusterCalls(
        client=HttpClient(pool),
        permit=permit_control(**place, port=origin.port, tls=_bootstrap_profile(settings, endpoint)),
        plain=permit_control(**place, port=origin.port, tls=endpoint.tls),
        bootstrap=bootstrap,
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


def _open_audit(settings: KubeSettings, folder: StateFolder, parts: Parts) -> AuditLog:
    key = load_checkpoint_key(Path(settings.checkpoint_key_file)) if settings.checkpoint_key_file else None
    path = Path(settings.audit_file) if settings.audit_file else folder.audit_file
    file = AuditFile(path, plane="kube", wall=parts.clock.wall, key=key, checkpoint_every=settings.checkpoint_every)
    return AuditLog(file, monotonic=parts.clock.monotonic, on_end=note_end(parts.events))
