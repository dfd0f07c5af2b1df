"""The reason words: with one of them `detail` of an error begins, `why` and `reason` of a record are one. What each means, for people.

A word that is a public code too is explained as that code, and so are those of passports.
"""

from collections.abc import Mapping
from typing import Final

from robin.wire.sts import STS_ERRORS


def _table(rows: str) -> Mapping[str, str]:
    return {word: meaning for word, _, meaning in (row.strip().partition(" | ") for row in rows.strip().splitlines())}


ENGINE_WORDS: Final = _table("""
bad_line | the request line is not METHOD SP target SP HTTP/1.1
bad_target | the request target holds a control or a byte that is not ASCII, or has another form than this method needs
bad_host | exactly one valid Host is required
bad_head | the head does not end where it should
bad_field | a field line is not valid HTTP/1.1, or there is a bare CR or LF, or a control
bad_length | Content-Length is not one decimal number
bad_te | Transfer-Encoding is not exactly one chunked, or came in HTTP/1.0
bad_framing | more than one field says how long the body is
bad_upgrade | the fields of an upgrade do not fit together
leading_crlf | more than four CRLF came before a request
dot_segment | the path has a segment . or .., which servers resolve in different ways
bad_chunk | a chunk of the body is malformed
chunk_overhead | sizes, extensions and padding of the chunks outweigh their data
bad_trailer | the trailer section is malformed or too large
head | the head of the request did not arrive in time
body | no byte of the request body came in time
expectation | Expect asks for something else than 100-continue
too_many_fields | the head has more field lines than are allowed
method | the method is not served here
version | only HTTP/1.0 and HTTP/1.1 are served
host | the Host is not the target, not that of the CONNECT, or not in the list of allowed ones
origin | a browser page of another origin sent this
sec_fetch_site | a browser sent this across sites
required_header | the field that every request must have is missing
uid | this user may not use the socket
no_credentials | the kernel does not say whose connection this is
not_loopback | the listener serves this machine only
own_via | Via names this Robin: the request went through it already
own_address | the name resolves to this Robin itself
starting | the source of the identity was not asked yet
missing | there is no file, or no token in its field
unreadable | the file cannot be opened or read
not_a_file | the path is no regular file
torn | the file changed while it was read
exhausted | Robin has no descriptor left to read the file with
empty | the token is empty
empty_reply | the reply of the Workload API holds no identity
no_match | no identity of the reply is the one of the settings
unchanged | the agent gives the token that Robin has already
deadline_exceeded | the source or the issuer did not answer in time
internal | the source or the grant failed; the log has more
unavailable | gRPC code: the agent cannot serve this now
permission_denied | gRPC code: the agent does not know this workload
canceled | gRPC code: the call was cancelled
unknown | gRPC code of the agent; of a signed request: x-amz-content-sha256 is neither a digest nor UNSIGNED-PAYLOAD
not_found | gRPC code of the agent
already_exists | gRPC code of the agent
resource_exhausted | gRPC code: the agent has too much to do
failed_precondition | gRPC code of the agent
aborted | gRPC code of the agent
out_of_range | gRPC code of the agent
data_loss | gRPC code of the agent
unauthenticated | gRPC code of the agent
invalid_argument | gRPC code: the agent refuses the audience
unimplemented | gRPC code: the agent has no such service
too_large | a token, a file, a body or a response is larger than is allowed
bom | the token begins with a byte order mark
not_b64token | the token has characters that a bearer token cannot have
not_jwt | the token is no JWT
bad_alg | the header of the token names no algorithm, or none that is allowed
bad_typ | the header of the token has another type than that of a JWT
bad_exp | exp is missing or no date
bad_nbf | nbf is no date
bad_signature_length | the signature is not as long as the algorithm makes it: the token was cut short
bad_sub | the subject is missing, malformed, or that of another workload
bad_reply | the reply of the Workload API cannot be read
empty_field | the reply of the Workload API holds an empty field
not_yet_valid | the token or the certificate is valid only later; compare the clocks
bad_aud | the audience of the token is another, or too many
unknown_ca | the certificate is not from a CA that is trusted here
name_mismatch | the certificate is not for the name of the URL
expired | the token or the certificate has expired, or is about to
alert | the other side ended the TLS handshake
idle | no byte came within the time for that
cut | the response broke off
bad_response | the response is malformed
upgrade | the upstream switched protocols without being asked, or without the right proof
connections | the limit of connections is reached
queue | every connection to the upstream is busy
descriptors | the process can open no more files and sockets
held | the bodies that are held whole take all the memory that is meant for them
""")
"""Those of docs/reference/faults.md; some of them also stand in details of the gateway."""

GATEWAY_WORDS: Final = _table("""
private | the address is in a private network that no rule opens here
cgnat | the address is in 100.64.0.0/10, which no rule opens here
loopback | the address is this machine's
unspecified | the address is 0.0.0.0/8 or ::
link_local | the address is link-local
metadata | the address is that of a cloud's metadata service
multicast | the address is multicast
reserved | the address is reserved, for documentation or benchmarks, or not assigned
embedded | the address is IPv6 with an IPv4 address inside
self | the address is one of this host, of a listener, or of gateway.addresses.self_names
denied | the address is in gateway.addresses.deny
outside | the address is not in allowed_ips of the provider's endpoint
authority | the target is not HOST:PORT
label | a label of the host is empty, too long, or has other characters than letters, digits, - and _
length | the host is empty or longer than 253 characters
numeric | the last label is a number, which some programs read as an address
ipv6 | the address in brackets is no IPv6 address
zone | the address has a zone
idna | the name has no form in ASCII
not_ascii | there are characters outside ASCII
port | the port is missing or not 1 to 65535
wildcard | a * stands where none may
too_broad | the pattern matches more than one owner's names
no_slash | the path does not begin with /
bad_escape | a % is not followed by two hexadecimal digits
double_escape | an escape gives a % again, which some servers decode twice
encoded_slash | / or \\ is escaped, which some servers decode before they split the path
empty_segment | the path has //, which some servers shorten
octet | the path has a control, ;, \\ or another octet that servers read in different ways
origin_form | the target is a path alone: a forward proxy needs CONNECT or a whole URL
not_a_proxy | the target is that of a proxy, and the listener serves routes
https | an https target came over a network in cleartext
scheme | the credential of the caller is neither Bearer nor Basic jwt:TOKEN; or the target has another scheme than its CONNECT
target | the target is not the authority of its CONNECT; or it holds a placeholder
no_credential | the request has no token for this gateway
issuer | no issuer of this listener signs such tokens
issuer_keys | the keys of the token's issuer cannot be had now
trust_domain | the subject is no SPIFFE ID of the trust domain
kubernetes | namespace and ServiceAccount of the token are not those of its subject
namespace | the namespace of the token is not one of this issuer's
unknown_kid | the issuer has no key with this id
missing_kid | the issuer has several keys, and the token names none
bad_kid | the id of the key is malformed
key_mismatch | the key is of another kind than the algorithm
signature | the signature does not verify
malformed | the token is no compact JWS, the field holds no token, or the file is not one line of visible ASCII
algorithm | the algorithm is not one of the issuer's
critical_header | the header has crit
bad_iss | iss is missing or another
bad_iat | iat is no date
issued_in_future | iat lies in the future; compare the clocks
too_long_lived | the token lives longer than max_lifetime
certificate | the certificate of the client does not name exactly one caller, or does not verify
connections_per_caller | the caller has as many connections as one may have
inflight_per_caller | the caller has as many requests at once as one may have
rps_per_caller | the caller sent as many requests in this second as one may
tunnels | there are as many tunnels as are allowed
tunnels_per_caller | the caller has as many tunnels as one may have
mints | as many leaf certificates were signed in this second as are allowed, in all or for one caller
ca_expired | the CA of the bridge is not valid now
name_constraints | the CA of the bridge may not sign for this host
no_ca | a rule needs to see requests, and there is no CA to bridge with
audit | the decision cannot be recorded
route | no route has this host and path
token | the parent gateway does not accept the token of this relay
token_file | the file with the token for the parent cannot be used
connect | no connection to the issuer
protocol | the issuer's response is no HTTP as it should be
tls | the TLS connection to the issuer failed
timeout | the issuer gave no response in time
closed | the endpoint of the profile is closed; or the client ended its handshake without an alert
access | the endpoint of the profile does not allow this method
deny_rule | a rule of the profile's endpoint denies this
rules | no rule of the profile's endpoint allows this
websocket | the endpoint of the profile allows WebSocket handshakes only
place | a placeholder was sent to a place where its credential is not written
field | a placeholder was sent in a field in which it is not replaced
signed_url | the URL carries a signature of its own
chunked | the client signs its body in chunks
repeated | x-amz-content-sha256 is there more than once, or for this hop only
plaintext | an unsigned body travels over TLS only
stripped | x-amz-content-sha256 is not forwarded, and so cannot be signed
several | the field holds more than one token
open_to_others | others can read or write the file of the credential
issuer_rate | too many calls to this issuer are waiting
too_many_calls | the grant needs more calls than are allowed
no_sub | the identity token has no subject
no_iat | the identity token has no iat
too_long | the identity token lives longer than the issuer accepts
bad_dates | a date of the identity token has a fraction
invalid_request | the issuer says that the request lacks something or has it twice
invalid_client | the issuer does not know the client
invalid_grant | the issuer refused the token that it was given
unauthorized_client | the issuer does not let this client use this grant
unsupported_grant_type | the issuer does not support this kind of grant
invalid_scope | the issuer does not know a scope
invalid_target | the issuer does not know the audience or the resource
temporarily_unavailable | the issuer cannot serve this now
server_error | the issuer failed
slow_down | the issuer asks for a pause
access_token | the issuer's token is missing or malformed
token_type | the issuer's token is of another type than the profile expects
issued_token_type | the issuer's token is of another kind than was asked for
expires_in | the issuer's lifetime is no number
expire_time | the issuer's expiry is no date
json | the issuer's response is no JSON object
media_type | the issuer's response has another media type
content_coding | the issuer's response is compressed
duplicate_member | the issuer's response has a member twice
xml | the issuer's response is no XML document as it should be
document_type | the issuer's response has a document type
access_key | the keys in the issuer's response are malformed
session_token | the session token in the issuer's response is malformed
expiration | the expiry in the issuer's response is no date
reload | a new configuration took the credential away from this caller and place
response_too_large | the response to a call of Robin's own is larger than is allowed
too_many_identities | the profiles need identity tokens for more audiences than a process may have
done | how a tunnel or an exchange ended: as it should
max_age | how a tunnel ended: timeouts.tunnel_max has passed
error | how an exchange ended: fault of the record has the code
""")
"""Those of docs/reference/gateway.md."""

KUBE_WORDS: Final = _table("""
target_form | the target is not a path that begins with /
path_char | the path has a byte or an escape that servers read in different ways
path_segment | the path has an empty segment, . or ..
path_legacy | the path has one of the old prefixes watch/ and proxy/
path_name | group, version, resource, namespace or name in the path is not one that the API server takes
query | the query is one that Robin and the API server could read differently
encoding | the body is compressed, and cannot be judged
impersonation | the agent asks to act as another user
streams | the agent has as many sessions open as one may
bodies | the agent has as many bodies on their way as one may
bootstrap | the cluster does not accept Robin's own credential
mint | the cluster did not mint a token for the agent's account
startup | the checks of the cluster have not passed yet
upstream | the API server refuses the token that it minted, or ended the session
redirect | the API server redirects
token_expiry | how a session ended: its token was about to expire
max_session | how a session ended: it had lasted as long as one may
rule_expired | how a session ended: the rule that allowed it has ended
policy | how a session ended: the policy changed and does not allow it any more
revoked | the credentials of the agent were revoked
client | how a session ended: the agent left
complete | how an exchange ended: as it should
shutdown | how a session ended: Robin stopped
""")
"""Those of docs/reference/kube.md."""

OUTCOME_WORDS: Final = _table("""
forwarded | the request was sent, and the response was relayed whole; or a tunnel was opened
local_response | Robin responded itself, by design
client_closed | the caller left before the end
upstream_aborted | the response broke off after its head had been sent to the caller
drain_cut | the exchange was still in progress when the drain ended
""")
"""Those of docs/reference/outcomes.md that are no codes."""

WORDS: Final[Mapping[str, tuple[str, str]]] = {
    **{word: (meaning, "faults.md#reason-words") for word, meaning in ENGINE_WORDS.items()},
    **{word: (meaning, "gateway.md#reason-words") for word, meaning in GATEWAY_WORDS.items()},
    **dict.fromkeys(sorted(STS_ERRORS), ("an error code of AWS STS, as it was received", "gateway.md#reason-words")),
    **{word: (meaning, "kube.md#reason-words") for word, meaning in KUBE_WORDS.items()},
    **{word: (meaning, "outcomes.md") for word, meaning in OUTCOME_WORDS.items()},
}
"""What each word means, and its place below docs/reference."""
