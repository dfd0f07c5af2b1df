"""Signs the requests on standard input with botocore, and writes their signatures: a JSON list in, a JSON list out."""

import datetime
import json
import sys
from types import SimpleNamespace

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials


def sign(case: dict) -> str:
    at = datetime.datetime.fromtimestamp(case["time"], datetime.UTC)
    botocore.auth.get_current_datetime = lambda remove_tzinfo=True: at.replace(tzinfo=None) if remove_tzinfo else at
    kind = botocore.auth.S3SigV4Auth if case["service"] == "s3" else botocore.auth.SigV4Auth
    keys = Credentials(case["key_id"], case["secret"], case["token"] or None)
    url = f"https://{case['host']}{case['target']}"
    request = AWSRequest(method=case["method"], url=url, headers={"Host": case["host"], **case["fields"]}, data=case["body"].encode())
    request.context["client_config"] = SimpleNamespace(s3={"payload_signing_enabled": not case["unsigned"]})
    kind(keys, case["service"], "us-east-1").add_auth(request)
    return request.headers["Authorization"].rpartition("Signature=")[2]


json.dump([sign(case) for case in json.load(sys.stdin)], sys.stdout)
