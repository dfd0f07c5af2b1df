"""A pod's network and one beyond it, made of two network namespaces: run as `unshare --net python pod_network.py`, it is told what to do.

In: a line of JSON, a list of `run` (a command for the pod's network) and `look`. Out: a line of JSON for what could be reached before, and
one for each command with its exit code, its last line of standard error, and with `look` what can be reached then.
"""

import errno
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence

POD = ("10.9.0.1/24", "fd00:9::1/64")
BEYOND = ("10.9.0.2/24", "10.9.0.3/24", "fd00:9::2/64", "fd00:9::3/64")
TCP = (53, 443, 8081)
UDP = (53, 443)
WAIT_S = 1.5


def ip(*words: str) -> None:
    """Configure the network that this process is in."""
    subprocess.run(["ip", *words], check=True, timeout=20)


def configure(link: str, addresses: Sequence[str]) -> None:
    """Addresses that can be used at once."""
    ip("link", "set", "lo", "up")
    for address in addresses:
        ip("address", "add", address, "dev", link, *(["nodad"] if ":" in address else []))
    ip("link", "set", link, "up")


def serve() -> None:
    """Beyond: accept on every port and address, until the other end is gone."""
    sys.stdin.readline()
    configure("beyond", BEYOND)
    tcp = [socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64) for port in TCP]
    udp = []
    for port in UDP:
        for address in BEYOND:  # an answer must come from the address that was asked
            host = address.partition("/")[0]
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((host, port))
            udp.append(sock)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    print("ready", flush=True)
    while True:
        for sock in select.select([*tcp, *udp], [], [], 1.0)[0]:
            if sock in tcp:
                sock.accept()[0].close()
            else:
                data, sender = sock.recvfrom(512)
                sock.sendto(data, sender)


def reachable() -> dict[str, bool]:
    """Every place beyond, by its name: `tcp 10.9.0.2:8081`."""
    found = {}
    waiting: dict[int, tuple[str, socket.socket]] = {}
    poll = select.poll()
    for address in BEYOND:
        host = address.partition("/")[0]
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        for kind, ports in ((socket.SOCK_STREAM, TCP), (socket.SOCK_DGRAM, UDP)):
            for port in ports:
                name = f"{'tcp' if kind == socket.SOCK_STREAM else 'udp'} {host}:{port}"
                sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
                found[name] = False
                try:
                    code = sock.connect_ex((host, port))
                    if kind == socket.SOCK_DGRAM:
                        sock.send(b"?")
                except OSError as error:
                    code = error.errno or errno.EIO
                if code in {0, errno.EINPROGRESS}:
                    waiting[sock.fileno()] = (name, sock)
                    poll.register(sock, select.POLLOUT if kind == socket.SOCK_STREAM else select.POLLIN)
    while waiting and (ready := poll.poll(WAIT_S * 1000)):
        for number, _ in ready:
            name, sock = waiting.pop(number)
            poll.unregister(number)
            found[name] = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            sock.close()
    return found


def main() -> None:
    """Make both networks, then do what is told."""
    script = [sys.executable, __file__, "serve"]
    with subprocess.Popen(["unshare", "--net", *script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as beyond:
        assert beyond.stdin is not None
        assert beyond.stdout is not None
        ip("link", "add", "pod", "type", "veth", "peer", "name", "beyond")
        ip("link", "set", "beyond", "netns", str(beyond.pid))
        configure("pod", POD)
        ip("route", "add", "default", "via", "10.9.0.2")
        ip("-6", "route", "add", "default", "via", "fd00:9::2")
        beyond.stdin.write("go\n")
        beyond.stdin.flush()
        beyond.stdout.readline()
        print(json.dumps(reachable()), flush=True)
        for step in json.loads(sys.stdin.readline()):
            ended = subprocess.run(step["run"], capture_output=True, text=True, check=False, timeout=60)
            said = (ended.stderr.strip() or ended.stdout.strip()).rpartition("\n")[2]
            print(json.dumps({"code": ended.returncode, "said": said, "reachable": reachable() if step["look"] else {}}), flush=True)
        beyond.stdin.close()


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
