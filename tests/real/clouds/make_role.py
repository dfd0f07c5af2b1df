"""Makes an OIDC provider, and a role that trusts one subject of it; prints its ARN.

Arguments: the URL of IAM, issuer, thumbprint, audience, subject.
"""

import json
import sys

import boto3

url, issuer, thumbprint, audience, subject = sys.argv[1:]
iam = boto3.client("iam", endpoint_url=url, region_name="us-east-1")
provider = iam.create_open_id_connect_provider(Url=f"https://{issuer}", ClientIDList=[audience], ThumbprintList=[thumbprint])
trust = {
    "Effect": "Allow",
    "Principal": {"Federated": provider["OpenIDConnectProviderArn"]},
    "Action": "sts:AssumeRoleWithWebIdentity",
    "Condition": {"StringEquals": {f"{issuer}:aud": audience, f"{issuer}:sub": subject}},
}
role = iam.create_role(RoleName="tester", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}))
allowed = {"Effect": "Allow", "Action": "s3:*", "Resource": ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"]}
iam.put_role_policy(RoleName="tester", PolicyName="s3", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allowed]}))
print(role["Role"]["Arn"])
