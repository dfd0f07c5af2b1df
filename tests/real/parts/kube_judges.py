"""Two ways to judge a service-account token at an upstream: ask the API server's TokenReview, or use the keys that OIDC discovery tells."""

import asyncio
import json
import time

from tests.real.parts.kube import KubeApi, from_base64url
from tests.real.parts.upstream import Verdict

from robin.testing.inspection import TokenRefused, inspect_token


class ReviewJudge:
    """Asks TokenReview about every single request."""

    def __init__(self, cluster: KubeApi, *, audience: str) -> None:
        self._cluster = cluster
        self._audience = audience

    async def judge(self, token: str) -> Verdict:
        """What the API server says; `exp` is read from the token once it said yes."""
        review = await asyncio.to_thread(self._cluster.review, token, audiences=[self._audience])
        if not review.authenticated:
            return Verdict(reason=review.error or "not authenticated", claims={})
        claims = json.loads(from_base64url(token.split(".")[1]))
        return Verdict(subject=review.username, expires_at=claims["exp"], claims=claims)


class DiscoveryJudge:
    """Reads issuer and keys once, anonymously, by OIDC discovery, and then judges offline."""

    def __init__(self, cluster: KubeApi, *, audience: str) -> None:
        self._issuer = str(cluster.discovery()["issuer"])
        self._jwks = cluster.jwks()
        self._audience = audience

    async def judge(self, token: str) -> Verdict:
        """Signature, issuer, audience and time."""
        try:
            claims = inspect_token(token.encode(), jwks=self._jwks, issuer=self._issuer, audience=self._audience, now=time.time())
        except TokenRefused as refused:
            return Verdict(reason=refused.reason, claims={})
        return Verdict(subject=claims["sub"], expires_at=claims["exp"], claims=claims)
