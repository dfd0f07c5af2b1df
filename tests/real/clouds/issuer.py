"""An OpenID Connect issuer at a public-looking address: discovery and keys over TLS, out of files. It starts what follows when it listens.

versitygw fetches the keys of an issuer over https from public addresses only, as AWS does; so both run in a network namespace of their own,
in which the loopback device has such an address. Arguments: address, folder with tls.crt, tls.key and jwks.json, command.
"""

import http.server
import json
import ssl
import subprocess
import sys
from pathlib import Path

address, folder, *command = sys.argv[1:]
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)


class Handler(http.server.BaseHTTPRequestHandler):
    """Both documents."""

    def do_GET(self) -> None:
        documents = {
            "/.well-known/openid-configuration": json.dumps({"issuer": f"https://{address}", "jwks_uri": f"https://{address}/jwks"}),
            "/jwks": Path(folder, "jwks.json").read_text(),
        }
        body = documents.get(self.path, "").encode()
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = http.server.ThreadingHTTPServer((address, 443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(Path(folder, "tls.crt"), Path(folder, "tls.key"))
server.socket = context.wrap_socket(server.socket, server_side=True)
subprocess.Popen(command)
server.serve_forever()
