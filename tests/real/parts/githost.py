"""A git host as people run one: nginx, fcgiwrap, git's own http-backend; nginx has the identity of each request judged (`auth_request`).

`judge_url` is asked by nginx about every request, with its fields, before git sees it: 2xx lets it through. A host with TLS asks nothing.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.real.parts import debian
from tests.real.parts.process import Server
from tests.real.parts.scratch import scratch_folder
from tests.real.parts.webservers import READY_TIMEOUT_S, nginx

from robin.testing.certificates import Leaf

SITE = """\
server {{
  listen 127.0.0.1:{port}{tls};
  client_max_body_size 0;
{judge}
  location / {{
    {ask}
    include /etc/nginx/fastcgi_params;
    fastcgi_pass unix:{socket};
    fastcgi_read_timeout 60;
    fastcgi_param SCRIPT_FILENAME {backend};
    fastcgi_param GIT_PROJECT_ROOT {repositories};
    fastcgi_param GIT_HTTP_EXPORT_ALL "";
    fastcgi_param PATH_INFO $uri;
    fastcgi_param GIT_CONFIG_COUNT 2;
    fastcgi_param GIT_CONFIG_KEY_0 safe.directory;
    fastcgi_param GIT_CONFIG_VALUE_0 *;
    fastcgi_param GIT_CONFIG_KEY_1 http.receivepack;
    fastcgi_param GIT_CONFIG_VALUE_1 true;
  }}
}}
"""
JUDGE = """\
  location = /judge {{
    internal;
    proxy_pass {judge_url};
    proxy_pass_request_body off;
    proxy_set_header Content-Length "";
    proxy_set_header X-Original $request_method:$request_uri;
  }}
"""
TLS = " ssl;\n  ssl_certificate {leaf.certificate_file};\n  ssl_certificate_key {leaf.key_file}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GitHost:
    """`url` serves bare repositories that lie in `repositories`."""

    url: str
    repositories: Path


@contextlib.contextmanager
def git_host(judge_url: str = "", *, leaf: Leaf | None = None) -> Iterator[GitHost]:
    """Running until the end of the block; with `leaf` over TLS."""
    backend = Path(subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip()) / "git-http-backend"
    with scratch_folder("git") as folder:
        repositories, socket = folder / "repositories", folder / "fcgi"
        repositories.mkdir()
        # HOME: git reads nobody's settings
        wrap = Server(
            "fcgiwrap", [debian.find("fcgiwrap"), "-c", "4", "-s", f"unix:{socket}"], folder=folder, environment={"HOME": str(folder)}
        )
        try:
            wrap.start(socket.exists, timeout_s=READY_TIMEOUT_S)
            os.chmod(socket, 0o666)
            site: dict[str, object] = {"socket": socket, "backend": backend, "repositories": repositories}
            site["judge"] = JUDGE.format(judge_url=judge_url) if judge_url else ""
            site["ask"] = "auth_request /judge;" if judge_url else ""
            site["tls"] = "" if leaf is None else TLS.format(leaf=leaf)
            with nginx(lambda port, _: SITE.format(port=port, **site)) as front:
                yield GitHost(url=front.url, repositories=repositories)
        finally:
            wrap.kill()
