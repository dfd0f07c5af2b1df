"""Uses a bucket as boto3 does by default: small and large objects, odd keys, listings, and what is refused. One JSON object a line.

Arguments: the URL of the service. Its own keys are made up.
"""

import hashlib
import io
import json
import os
import sys
import urllib.error
import urllib.request

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

URL = sys.argv[1]
ODD = "a b/ü+&=~*'()!@$;,:%25 x/y"


def tell(step: str, got: object) -> None:
    print(json.dumps({"step": step, "got": got}), flush=True)


def client(**options: object) -> object:
    chosen = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, **options)
    return boto3.client("s3", endpoint_url=URL, region_name="us-east-1", config=chosen)


s3 = client()
s3.put_object(Bucket="bucket", Key="small", Body=b"hello", Metadata={"a": "b  c"}, ContentType="text/plain")
tell("small", s3.get_object(Bucket="bucket", Key="small")["Body"].read().decode())
s3.put_object(Bucket="bucket", Key="empty", Body=b"")
tell("empty", s3.head_object(Bucket="bucket", Key="empty")["ContentLength"])
s3.put_object(Bucket="bucket", Key=ODD, Body=b"odd")
tell("odd", s3.get_object(Bucket="bucket", Key=ODD)["Body"].read().decode())
tell("listed", [one["Key"] for one in s3.list_objects_v2(Bucket="bucket", Prefix=ODD[:8])["Contents"]] == [ODD])
large = os.urandom(20 << 20)
s3.upload_fileobj(io.BytesIO(large), "bucket", "large", Config=TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=8 << 20))
whole = io.BytesIO()
s3.download_fileobj("bucket", "large", whole)
tell("large", hashlib.sha256(whole.getvalue()).digest() == hashlib.sha256(large).digest())
tell("range", s3.get_object(Bucket="bucket", Key="small", Range="bytes=1-3")["Body"].read().decode())
s3.delete_object(Bucket="bucket", Key="empty")
try:
    s3.head_object(Bucket="bucket", Key="empty")
except ClientError as error:
    tell("deleted", error.response["ResponseMetadata"]["HTTPStatusCode"])
digested = client(request_checksum_calculation="when_required")
digested.put_object(Bucket="bucket", Key="digested", Body=b"x" * 100_000)
tell("digested", digested.head_object(Bucket="bucket", Key="digested")["ContentLength"])
try:
    urllib.request.urlopen(s3.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "small"}))
except urllib.error.HTTPError as error:
    tell("signed url", [error.code, json.loads(error.read())["code"]])
