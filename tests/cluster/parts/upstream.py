"""Servers at the node's own address, where pods reach them, also by the names that cluster DNS has for it."""

import asyncio
import socket
import ssl
from typing import Self

from tests.cluster.parts.cluster import NodeCluster
from tests.cluster.parts.services import NODE_ADDRESS
from tests.real.parts.upstream import Judge, JudgingUpstream

from robin.testing.recording_upstream import RecordingUpstream
from robin.testing.server import ScriptedServer


class _OnTheNode(ScriptedServer):
    """A server whose socket is opened in the node's network: it stays there."""

    cluster: NodeCluster

    async def start(self) -> Self:
        with self.cluster.node.network():
            listener = socket.create_server((self.host, self.port))
        self._server = await asyncio.get_running_loop().create_server(self._protocol, sock=listener, ssl=self.tls)
        return self


class ClusterUpstream(_OnTheNode, JudgingUpstream):
    """`async with ClusterUpstream(cluster, judge, tls=..., port=...) as upstream:`; see JudgingUpstream."""

    def __init__(self, cluster: NodeCluster, judge: Judge, *, tls: ssl.SSLContext, port: int) -> None:
        super().__init__(judge, tls=tls)
        self.cluster, self.host, self.port = cluster, NODE_ADDRESS, port


class ClusterService(_OnTheNode, RecordingUpstream):
    """`async with ClusterService(cluster, port=...) as service:`, over plain HTTP; see RecordingUpstream."""

    def __init__(self, cluster: NodeCluster, *, port: int) -> None:
        super().__init__(host=NODE_ADDRESS, port=port)
        self.cluster = cluster
