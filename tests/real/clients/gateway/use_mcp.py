"""The MCP SDK over Streamable HTTP: initialize, list the tools, call one; one JSON object a line for each step."""

import asyncio
import json
import sys

from mcp import ClientSession
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client

TOKEN = {"Authorization": "Bearer robin-placeholder"}


async def main() -> None:
    async with (
        create_mcp_http_client(headers=TOKEN) as http,
        streamable_http_client(sys.argv[1], http_client=http) as streams,
        ClientSession(*streams[:2]) as session,
    ):
        print(json.dumps({"step": "server", "got": (await session.initialize()).server_info.name}))
        print(json.dumps({"step": "tools", "got": [tool.name for tool in (await session.list_tools()).tools]}))
        result = await session.call_tool("add", {"a": 1, "b": 2})
        print(json.dumps({"step": "call", "got": result.content[0].text}))


asyncio.run(main())
