"""The broker as a plane of the runtime: its keys, its audit log, its socket; and the verifier with its listeners, where configured."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from robin.admin.readiness import Readiness
from robin.app.plane import Listener, Parts, Plane, RuntimeSettings
from robin.app.runtime import run
from robin.app.shutdown import EXIT_SETTINGS, StartFailure
from robin.app.verifying import BUNDLE_POLL_S, VerifierParts, build_verifier, lock_state, open_audit_file, start_failures
from robin.config.broker import parse_svid_endpoint
from robin.config.broker_load import BrokerSettings, IssueSettings, VerifySettings
from robin.config.load import environment
from robin.config.parse import InvalidValue
from robin.model.address import TcpAddress, UnixAddress
from robin.model.caller import Caller, ListenerRule
from robin.model.faults import Fault
from robin.model.limits import Deadlines, Limits
from robin.planes.broker.attest import Attestor, AttestSettings
from robin.planes.broker.columns import BROKER_COLUMNS
from robin.planes.broker.forward_auth import ForwardAuth, ForwardAuthConnection
from robin.planes.broker.inbound import InboundSteps
from robin.planes.broker.ipc import CONNECTIONS, BrokerPolicy, IpcConnection, IpcServer
from robin.planes.broker.issuer import Issuer, IssuerSettings
from robin.planes.broker.keys import KeyFileRefused, check_folders, load_public_keys
from robin.planes.broker.metrics import PassportMetrics
from robin.planes.broker.mounted_keys import load_issuer_keys, mark_of
from robin.planes.broker.records import PassportAudit
from robin.planes.broker.responses import PassportRefusals
from robin.planes.broker.svid_source import SvidSource
from robin.planes.broker.verifier import Verifier
from robin.policy.addresses import refuse_own_listeners
from robin.policy.passport_inbound import InboundPolicy
from robin.proxy.connection import serve_connection
from robin.proxy.engine import Engine
from robin.proxy.refusal import refuse_connection
from robin.telemetry.audit import AuditLog, note_end, reopen_audit
from robin.telemetry.recorder import Recorder
from robin.transport.dial import Dialer
from robin.transport.pool import Pool
from robin.transport.resolve import Resolver
from robin.wire.passport_keys import PublicKey


def run_broker(settings: BrokerSettings) -> int:
    """Run the broker until it has drained. Returns the exit code of `robin broker`."""
    runtime = RuntimeSettings(
        plane="broker", admin=(settings.admin,), admin_setting="broker.admin.listen", drain_max_s=settings.drain_max_s
    )
    return run(runtime, partial(BrokerPlane, with_environment(settings, environment())), environment())


def with_environment(settings: BrokerSettings, environ: Mapping[str, str]) -> BrokerSettings:
    """Settings with what the platform gives by the environment: POD_UID, and SPIFFE_ENDPOINT_SOCKET where no endpoint is set."""
    issue = settings.issue
    if issue is None or issue.identity is None:
        return settings
    identity = replace(issue.identity, pod_uid=environ.get("POD_UID", ""))
    if identity.endpoint is None:
        try:
            identity = replace(identity, endpoint=parse_svid_endpoint(environ.get("SPIFFE_ENDPOINT_SOCKET", "")))
        except InvalidValue as error:
            where = "broker.issue.identity.endpoint is not set, and SPIFFE_ENDPOINT_SOCKET"
            raise StartFailure(EXIT_SETTINGS, f"{where}: {error}; {error.fix}") from None
    return replace(settings, issue=replace(issue, identity=identity))


class BrokerPlane(Plane):
    """One broker, one verifier, or both in one process with one audit log."""

    def __init__(self, settings: BrokerSettings, parts: Parts) -> None:
        self._parts = parts
        self._metrics = PassportMetrics()
        self.readables = (self._metrics,)
        self.started_fields = {"issuer": settings.issuer}
        self._verifying: VerifierParts | None = None
        self._recorder: Recorder | None = None
        self._svids: SvidSource | None = None
        self._watching: asyncio.Task[Any] | None = None
        self._polled_at = 0.0
        with start_failures():
            settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_folders(settings.state_dir, None if settings.issue is None else Path(settings.issue.socket))
            self._lock = lock_state(settings.state_dir)  # before the keys: of two processes at once one may make one
            self._state_dir, self._keys_dir = settings.state_dir, settings.keys_dir
            self._keys_mark = () if settings.keys_dir is None else mark_of(settings.keys_dir)
            issuer = self._issuer = None if settings.issue is None else _build_issuer(settings, settings.issue, parts)
            signers = {} if settings.verify is None else load_public_keys(settings.verify.bundle_keys)
            file, self._used_at = open_audit_file(settings, parts.clock)
        self._audit_log = AuditLog(file, monotonic=parts.clock.monotonic, on_end=note_end(parts.events))
        self._audit = PassportAudit(self._audit_log, parts.clock.wall)
        listeners: list[Listener] = []
        if settings.issue is not None and issuer is not None:
            listeners.append(self._build_ipc(settings, settings.issue, issuer))
        if settings.verify is not None:
            listeners += self._build_verifier(settings, settings.verify, signers)
        self.listeners = tuple(listeners)
        self.chores = (self._poll,)

    def readiness(self, *, started: bool, draining: bool) -> Readiness:
        """Not ready while no valid bundle is in force, earlier proofs may be replayed, or the audit file cannot be written."""
        reasons = [] if self._verifying is None else self._verifying.reasons(self._parts.clock.wall())
        if self._audit.failure:
            reasons.append("audit_unavailable")
        if self._svids is not None and (problem := self._svids.problem):
            reasons.append(problem)
        return Readiness(started=started, draining=draining, reasons=tuple(reasons))

    async def start(self) -> None:
        """Follow the Workload API."""
        if self._svids is not None:
            self._watching = self._parts.tasks.start(self._svids.watch(), "workload api")

    async def close(self) -> None:
        """Stop following it."""
        if self._watching is not None:
            self._watching.cancel()

    def reload(self) -> None:
        """Read bundle and keys again, and go on in a new audit file if the old one was renamed."""
        self._poll_bundle()
        self._load_keys()
        self._parts.tasks.start(reopen_audit(self._audit_log, self._parts.events), "audit reopen")

    def flush(self) -> None:
        """Write the lines of the exchanges that ended."""
        if self._recorder is not None:
            self._recorder.flush()

    async def seal(self) -> None:
        """Write what waits, and close the audit log."""
        await self._audit.close()
        os.close(self._lock)

    def _poll(self, now: float) -> None:
        if now - self._polled_at >= BUNDLE_POLL_S:
            self._polled_at = now
            self._poll_bundle()
            self._poll_keys()
            self._parts.on_ready_change()

    def _load_keys(self) -> None:
        if self._issuer is not None:
            try:
                self._issuer.use_keys(load_issuer_keys(self._state_dir, self._keys_dir, now=0, auto_create=False))
            except (KeyFileRefused, OSError) as error:
                self._parts.events.error("keys_refused", detail=str(error))
            else:
                self._parts.events.info("keys_loaded")

    def _poll_keys(self) -> None:
        """A mounted folder is read when it changed; what is in the broker's own folder is for the signal."""
        if self._keys_dir is not None and (mark := mark_of(self._keys_dir)) != self._keys_mark:
            self._keys_mark = mark
            self._load_keys()

    def _poll_bundle(self) -> None:
        if self._verifying is not None:
            self._verifying.bundle.poll()

    def _build_attestor(self, trust_domain: str, issue: IssueSettings, identity: AttestSettings) -> Attestor:
        clock = self._parts.clock
        assert identity.endpoint is not None
        self._svids = SvidSource(identity.endpoint, trust_domain=trust_domain, hint=identity.hint, wall=clock.wall, on_change=self._on_svid)
        self._metrics.svid_expiry_s = self._svid_expiry_s
        return Attestor(
            identity,
            self._svids,
            trust_domain=trust_domain,
            socket=issue.socket,
            octets=self._octets,
            wall=clock.wall,
            monotonic=clock.monotonic,
        )

    def _octets(self, size: int) -> bytes:
        return bytes.fromhex(self._parts.entropy.token_hex(size))

    def _svid_expiry_s(self) -> float | None:
        ends_at = None if self._svids is None else self._svids.expires_at
        return None if ends_at is None else ends_at - self._parts.clock.wall()

    def _on_svid(self, code: str, detail: str) -> None:
        if code:
            self._parts.events.warning("svid_unavailable", code=code, detail=detail)
        else:
            self._parts.events.info("svid_loaded", detail=detail)
        self._parts.on_ready_change()

    def _build_ipc(self, settings: BrokerSettings, issue: IssueSettings, issuer: Issuer) -> Listener:
        parts, identity = self._parts, issue.identity
        server = IpcServer(
            BrokerPolicy(issuer=settings.issuer, peers=issue.peers, routes=issue.routes),
            issuer,
            self._audit,
            self._metrics,
            loop=parts.loop,
            drain=parts.drain,
            new_stream=lambda: IpcConnection(parts.loop, parts.sweeper),
            wall=parts.clock.wall,
            monotonic=parts.clock.monotonic,
            attestor=None if identity is None else self._build_attestor(settings.trust_domain, issue, identity),
        )
        admission = parts.build_admission(connections=CONNECTIONS, serve=server.serve, refuse=_close_at_once)
        return Listener(
            setting="broker.issue.socket",
            addresses=(UnixAddress(path=issue.socket, mode=issue.socket_mode, group=issue.socket_group),),
            rule=ListenerRule(unix=True),
            take=admission.take,
        )

    def _build_verifier(self, settings: BrokerSettings, verify: VerifySettings, signers: dict[str, PublicKey]) -> list[Listener]:
        parts = self._parts
        self._verifying = build_verifier(
            verify,
            signers,
            state_dir=settings.state_dir,
            used_at=self._used_at,
            audit=self._audit,
            metrics=self._metrics,
            clock=parts.clock,
            on_load=self._on_bundle,
        )
        verifier = self._verifying.verifier
        listeners = []
        if verify.forward_auth is not None:
            listeners.append(self._build_forward_auth(verify, verify.forward_auth, verifier))
        if verify.inbound is not None:
            listeners.append(self._build_inbound(verify, *verify.inbound, verifier))
        return listeners

    def _build_forward_auth(self, verify: VerifySettings, address: TcpAddress, verifier: Verifier) -> Listener:
        parts = self._parts
        server = ForwardAuth(
            verifier,
            trusted=verify.trusted_proxies,
            max_body_bytes=verify.max_body_bytes,
            loop=parts.loop,
            drain=parts.drain,
            entropy=parts.entropy,
            new_stream=lambda: ForwardAuthConnection(parts.loop, parts.sweeper),
        )
        admission = parts.build_admission(connections=1024, serve=server.serve, refuse=_close_at_once)
        setting = "broker.verify.forward_auth.listen"
        return Listener(setting=setting, addresses=(address,), rule=ListenerRule(beyond_loopback=True), take=admission.take)

    def _build_inbound(self, verify: VerifySettings, address: TcpAddress, upstream: TcpAddress, verifier: Verifier) -> Listener:
        parts = self._parts
        limits, deadlines = Limits(), Deadlines()
        steps = InboundSteps(verifier, max_body_bytes=verify.max_body_bytes, entropy=parts.entropy)
        policy = InboundPolicy(
            verify.authorities,
            host=upstream.host,
            port=upstream.port,
            limit_bytes=verify.max_body_bytes + 1,
            within_s=verify.max_age_s + verify.clock_skew_s,
        )
        resolver = Resolver(parts.loop, is_own_listener=parts.own.has)
        dialer = Dialer(parts.loop, parts.sweeper, resolver=resolver, judge=refuse_own_listeners, tls=None, connect_s=deadlines.connect_s)
        engine = Engine(
            loop=parts.loop,
            policy=policy,
            credentials=steps,
            pool=Pool(parts.loop, dialer=dialer, sweeper=parts.sweeper, limits=limits, deadlines=deadlines, metrics=parts.metrics),
            limits=limits,
            deadlines=deadlines,
            metrics=parts.metrics,
            recorder=self._build_recorder(),
            events=parts.events,
            sweeper=parts.sweeper,
            tasks=parts.tasks,
            entropy=parts.entropy,
            clock=parts.clock,
            drain=parts.drain,
            refusals=PassportRefusals(),
            authenticate=steps.authenticate,
            judge=steps.judge,
            audit=steps.note,
            translate=steps.translate,
        )
        admission = parts.build_admission(
            connections=limits.connections, serve=partial(serve_connection, engine=engine), refuse=partial(refuse_connection, engine)
        )
        setting = "broker.verify.inbound.listen"
        return Listener(setting=setting, addresses=(address,), rule=ListenerRule(beyond_loopback=True), take=admission.take)

    def _build_recorder(self) -> Recorder:
        recorder = self._parts.build_recorder(Recorder, columns=BROKER_COLUMNS, mode="all", style="json", identity_source="passport")
        self._recorder = recorder
        self.readables = (recorder, self._metrics)
        return recorder

    def _on_bundle(self, event: str, detail: str) -> None:
        if event == "loaded":
            self._parts.events.info("bundle_loaded")
        else:
            self._metrics.bundle_reload_errors += 1
            self._parts.events.error("bundle_refused", code=event, detail=detail)


def _build_issuer(settings: BrokerSettings, issue: IssueSettings, parts: Parts) -> Issuer:
    keys = load_issuer_keys(settings.state_dir, settings.keys_dir, now=parts.clock.wall(), auto_create=settings.auto_create)
    issuer = IssuerSettings(
        issuer=settings.issuer,
        trust_domain=settings.trust_domain,
        passport_ttl_s=issue.passport_ttl_s,
        proof_ttl_s=issue.proof_ttl_s,
        proof_key_max_age_s=settings.proof_key_max_age_s,
        jose_alg_name=settings.jose_alg_name,
        extended=issue.extended,
    )
    return Issuer(issuer, keys, lambda size: bytes.fromhex(parts.entropy.token_hex(size)))


def _close_at_once(_caller: Caller, _fault: Fault) -> bytes:
    return b""
