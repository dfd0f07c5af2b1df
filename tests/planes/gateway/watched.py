"""Runs `robin` and writes each TCP connection that it begins to the file DIALS, by an audit event, before anything is sent.

Each file that it opens to write is in the file `written` beside that.
"""

import os
import socket
import sys

_OUT = os.open(os.environ["DIALS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
_WRITTEN = os.open(os.path.join(os.path.dirname(os.environ["DIALS"]), "written"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect":
        sock, address = arguments
        if isinstance(sock, socket.socket) and sock.type & socket.SOCK_STREAM and sock.family != socket.AF_UNIX:
            os.write(_OUT, f"{address[0]} {address[1]}\n".encode())  # type: ignore[index]
    elif event == "robin.connect":
        os.write(_OUT, "{} {}\n".format(*arguments).encode())
    elif event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & _TO_WRITE:
            os.write(_WRITTEN, f"{path}\n".encode())


sys.dont_write_bytecode = True  # of the interpreter, where a module is newer than what it compiled
sys.addaudithook(_note)

from robin.cli.main import main  # noqa: E402

sys.exit(main())
