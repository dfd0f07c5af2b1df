"""The same trust domain kept by SPIRE itself: its server and agent, join-token attestation, the unix workload attestor.

What a test does with a domain is said once, in `spiffe.SpiffeDomain`; here is only how SPIRE is started, told and read.
"""

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.real.parts import gobuild
from tests.real.parts.ports import held_port
from tests.real.parts.process import Server
from tests.real.parts.scratch import scratch_folder
from tests.real.parts.spiffe import CALL_TIMEOUT_S, TRUST_DOMAIN, AuthorityRefused, Call, SpiffeDomain, running

NODE = f"spiffe://{TRUST_DOMAIN}/node"  # the alias of the agent, whatever its join token was
_SERVER_CONF = """
server {{
  bind_address = "127.0.0.1"
  bind_port = {port}
  socket_path = "{folder}/authority.sock"
  trust_domain = "{trust_domain}"
  data_dir = "{folder}/server"
  log_level = "INFO"
  experimental {{
    cache_reload_interval = "{sync_s}s"
  }}
}}
plugins {{
  DataStore "sql" {{
    plugin_data {{
      database_type = "sqlite3"
      connection_string = "{folder}/server/datastore.sqlite3"
    }}
  }}
  NodeAttestor "join_token" {{
    plugin_data {{}}
  }}
  KeyManager "disk" {{
    plugin_data {{
      keys_path = "{folder}/server/keys.json"
    }}
  }}
}}
"""
_AGENT_CONF = """
agent {{
  data_dir = "{folder}/agent"
  log_level = "DEBUG"
  server_address = "127.0.0.1"
  server_port = {port}
  socket_path = "{folder}/agent.sock"
  trust_bundle_path = "{folder}/bootstrap.pem"
  trust_domain = "{trust_domain}"
  join_token = "{join_token}"
  experimental {{
    sync_interval = "{sync_s}s"
  }}
}}
plugins {{
  NodeAttestor "join_token" {{
    plugin_data {{}}
  }}
  KeyManager "disk" {{
    plugin_data {{
      directory = "{folder}/agent"
    }}
  }}
  WorkloadAttestor "unix" {{
    plugin_data {{
      discover_workload_path = true
    }}
  }}
}}
"""
_CODES = {"Fetched JWT SVID": "OK", "No identity issued": "PermissionDenied", "Could not fetch JWT-SVID": "Unavailable"}


class SpireDomain(SpiffeDomain):
    """Made by `spire_domain()`; `authority` is spire-server and `agent` spire-agent."""

    def __init__(self, folder: Path, programs: Path, spire: Path, port: int, *, sync_s: float) -> None:
        super().__init__(folder, programs, sync_s=sync_s)
        self._server_program = spire / "spire-server"
        self._port = port
        for name in ("server", "agent"):
            (folder / name).mkdir()
        conf = folder / "server.conf"
        conf.write_text(_SERVER_CONF.format(folder=folder, port=port, trust_domain=TRUST_DOMAIN, sync_s=sync_s))
        self.authority = Server("authority", [self._server_program, "run", "-config", conf], folder=folder)
        self._agent_conf = folder / "agent.conf"
        self.agent = Server("agent", [spire / "spire-agent", "run", "-config", self._agent_conf], folder=folder)

    def start_authority(self) -> None:
        self.authority.start(self._server_is_well)

    def start_agent(self) -> None:
        """The first time with a join token; later by the identity it then got."""
        if not self._agent_conf.exists():
            (self.folder / "bootstrap.pem").write_text(self._run("bundle", "show"))
            join_token = self._run("token", "generate", "-spiffeID", NODE).split()[-1]
            texts = {
                "folder": self.folder,
                "port": self._port,
                "trust_domain": TRUST_DOMAIN,
                "join_token": join_token,
                "sync_s": self.sync_s,
            }
            self._agent_conf.write_text(_AGENT_CONF.format(**texts))
        super().start_agent()

    def create_entry(
        self, path: str, *, selectors: Sequence[str] | None = None, jwt_ttl_s: int = 30, hint: str = "", entry_id: str = ""
    ) -> str:
        chosen = [f"unix:uid:{os.getuid()}"] if selectors is None else selectors
        words = ["-parentID", NODE, "-spiffeID", self.spiffe_id(path), "-jwtSVIDTTL", str(jwt_ttl_s)]
        words += [word for selector in chosen for word in ("-selector", selector)]
        words += ["-hint", hint] if hint else []
        words += ["-entryID", entry_id] if entry_id else []
        (result,) = self._tell("entry", "create", *words)["results"]
        return str(result["entry"]["id"])

    def delete_entry(self, entry_id: str) -> None:
        self._tell("entry", "delete", "-entryID", entry_id)

    def rotate_key(self) -> str:
        prepared = str(self._tell("localauthority", "jwt", "prepare")["prepared_authority"]["authority_id"])
        self._tell("localauthority", "jwt", "activate", "-authorityID", prepared)
        return prepared

    def forget_key(self, kid: str) -> None:
        for step in ("taint", "revoke"):
            self._tell("localauthority", "jwt", step, "-authorityID", kid)

    def bundle(self) -> dict[str, Any]:
        """Its JWT authorities alone, as the Workload API gives them."""
        found = json.loads(self._run("bundle", "show", "-format", "spiffe"))
        return {
            "keys": [{name: value for name, value in key.items() if name != "use"} for key in found["keys"] if key["use"] == "jwt-svid"]
        }

    def calls(self, pid: int) -> list[Call]:
        """As SPIRE's debug log tells them: what a call took is not in it."""
        found = re.finditer(rf'msg="([^"]+)".* method=FetchJWTSVID .*\bpid={pid}\b', self.agent.log_text())
        return [Call(method="FetchJWTSVID", code=_CODES[line[1]], took_s=0.0) for line in found if line[1] in _CODES]

    def _server_is_well(self) -> bool:
        with contextlib.suppress(AuthorityRefused):
            self._run("healthcheck")
            return True
        return False

    def _tell(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._run(*words, "-output", "json"))
        return found

    def _run(self, *words: str) -> str:
        flags_at = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
        command = [self._server_program, *words[:flags_at], "-socketPath", self._authority_socket, *words[flags_at:]]
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=CALL_TIMEOUT_S)
        if asked.returncode != 0:
            raise AuthorityRefused((asked.stderr + asked.stdout).strip())
        return asked.stdout


@contextlib.contextmanager
def spire_domain(*, sync_s: float = 0.2, start: bool = True) -> Iterator[SpireDomain]:
    """As `spiffe.stand_in_domain`, with SPIRE."""
    programs, spire = gobuild.find(gobuild.SPIFFE), gobuild.find(gobuild.SPIRE)
    with (
        scratch_folder("spire") as folder,
        held_port() as port,
        running(SpireDomain(folder, programs, spire, port, sync_s=sync_s), start=start) as domain,
    ):
        yield domain
