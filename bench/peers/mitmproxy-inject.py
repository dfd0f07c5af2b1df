"""An addon of mitmproxy: the credential of every request."""

TOKEN = "Bearer @token@"


def request(flow):
    flow.request.headers["Authorization"] = TOKEN
