"""Requests to be signed, with their signatures: the one that AWS published, and others that botocore signs alike (tests/real)."""

from dataclasses import dataclass, field

TIME = 1_440_938_160  # 2015-08-30T12:36:00Z
KEY_ID = "AKIDEXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TOKEN = "FwoGZXIvYXdzEXAMPLE//////////token=="


@dataclass(frozen=True, kw_only=True)
class Case:
    """`fields` are those of the caller; `hashed`: it announces the digest of its body."""

    name: str
    signature: str
    method: str = "GET"
    target: str = "/"
    host: str = "example.amazonaws.com"
    fields: dict[str, str] = field(default_factory=dict)
    body: str = ""
    service: str = "service"
    token: str = TOKEN
    unsigned: bool = False


S3 = {"service": "s3", "host": "bucket.s3.us-east-1.amazonaws.com"}
CASES = (
    Case(name="published", signature="5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", token=""),
    Case(name="token", signature="0401ac2c561ec643816bfd53e6d8a6f96385b7692e46f1979b8dd07f252f915d"),
    Case(name="port", signature="f6ecbdab0abe85156e88b8417f0c84956d1ed3aa401e9ef44129e612006ad2f4", host="127.0.0.1:8333"),
    Case(
        name="query",
        signature="e7fd8d0b5f457f762a64b1c7743cd91fb204d7d02345e1592bbe027b1cfeab56",
        target="/?b=2&a=1&a=0&flag=&c=%20%2B%2F&A=~",
    ),
    Case(name="no values", signature="15e94c62c5f70199c939461484b78b01d57bb938e1e650ee34d7f0064da5ddfa", target="/?Action"),
    Case(name="path", signature="ba797d5310ec1319c8f6344a7a533da7f63e6ed3c4ae16fc7101ac6ec4b21040", target="/a//b/./c/../d%20e/"),
    Case(
        name="escapes",
        signature="24932f20e5e494c68b9f7d5039c8cd6a63f154ed5b51eac179627ef79b85fefc",
        target="/model/vendor.name-v1%3A0/invoke",
    ),
    Case(
        name="raw colon",
        signature="09e86be7abf29532f14d1031bd0771f8a7c8d3aecb9a56054d0038f78ea6d03c",
        target="/model/vendor.name-v1:0/invoke",
    ),
    Case(
        name="fields",
        signature="b9dcda3b6a9bdf6ec4854c78f49658b273398009395f87406204d5e0c2440f45",
        fields={"X-Amz-Target": "T.Get", "Content-Type": "application/x-amz-json-1.0", "X-Amz-A": "b   c"},
    ),
    Case(
        name="post",
        signature="9f484bf59145f4bfc6d4eaf8d6fd8163376fb54bca0a854f35505b81e7590bc6",
        method="POST",
        fields={"Content-Type": "text/plain"},
        body="Action=Test&Version=1",
    ),
    Case(
        name="md5",
        signature="a507aa87a2abe426a91e13edb344f0ae69f0fec2e2332c8a4732959392522d71",
        method="PUT",
        fields={"Content-MD5": "rL0Y20zC+Fzt72VPzMSk2A=="},
        body="foo",
    ),
    Case(name="s3 get", signature="37bcf5a8fbbbb0e5476220a5ef2822c61661b9f9cf39b1b89996f9b48d591c74", target="/key", **S3),
    Case(
        name="s3 path", signature="833ec00ff6c1b52089105e42282042761916e5f011cba4d75841f3fd941f2abb", target="/a//b/./%C3%A9%20~%2A", **S3
    ),
    Case(
        name="s3 query",
        signature="06ed93dd249e748728887a354533aa6c59ae583e36b2c5547ea572a0d14ef8ce",
        target="/?list-type=2&prefix=a%2Fb&delimiter=%2F",
        **S3,
    ),
    Case(
        name="s3 put",
        signature="b946126771056878adb109dada8f7fc7ba20579858102355bfda4abadddd2ab6",
        method="PUT",
        target="/key",
        body="hello",
        fields={"x-amz-acl": "private"},
        **S3,
    ),
    Case(
        name="s3 unsigned",
        signature="6ab974cc9f1f1a7c3ed1a593ad0ecb75521fae383932ac62f6b4da409555fcf5",
        method="PUT",
        target="/key",
        body="hello",
        unsigned=True,
        **S3,
    ),
)
