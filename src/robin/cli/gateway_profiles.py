"""The provider profiles that `robin gateway --init` writes: where the keys of an agent's usual services belong."""

from typing import Final

PLACEHOLDER: Final = "robin-placeholder"
PLACEHOLDER_VARIABLES: Final = ("GH_TOKEN", "OPENAI_API_KEY", "ANTHROPIC_API_KEY")
"""Programs that do not start, or do not ask, without a key."""

KEYS: Final = {"github-git": "github", "github-api": "github", "openai": "openai", "anthropic": "anthropic", "mcp": "mcp"}
"""The file of the folder `keys` for each profile."""

PROFILES: Final = {
    "github-git": """\
# git over HTTPS: fetch and push. The key is a token with access to the repositories that the programs need, and no others.
id: github-git
display_name: GitHub, git over HTTPS
credentials:
  - {name: token, auth_style: basic, placeholder: robin-placeholder}
endpoints:
  - {host: github.com, path: "/*/*/info/refs", methods: [GET]}
  - {host: github.com, path: "/*/*/git-upload-pack", methods: [POST]}
  - {host: github.com, path: "/*/*/git-receive-pack", methods: [POST]}   # push: remove this line, and it is refused
""",
    "github-api": """\
# gh and the REST and GraphQL APIs. read-write has no DELETE; a GraphQL mutation may do all that the token may.
id: github-api
display_name: GitHub, its API
credentials:
  - {name: token, placeholder: robin-placeholder}
endpoints:
  - {host: api.github.com, access: read-write}
""",
    "openai": """\
id: openai
display_name: OpenAI
credentials:
  - {name: token, placeholder: robin-placeholder}
endpoints:
  - {host: api.openai.com, path: "/v1/**"}
""",
    "anthropic": """\
id: anthropic
display_name: Anthropic
credentials:
  - {name: token, auth_style: header, header_name: X-Api-Key, placeholder: robin-placeholder}
endpoints:
  - {host: api.anthropic.com, path: "/v1/**"}
""",
    "mcp": """\
# An MCP server over HTTP: replace the host and the path by those of yours.
id: mcp
display_name: An MCP server over HTTP
credentials:
  - {name: token, placeholder: robin-placeholder}
endpoints:
  - {host: mcp.example.com, path: /mcp, methods: [GET, POST, DELETE]}
""",
}
"""By id; each is the file `profiles/ID.yaml`."""
