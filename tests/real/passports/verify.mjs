// Verify requests with http-message-signatures, which is not ours: one JSON object on standard input, the verdicts on standard output.
// Profile wimse-httpsig has no keyid: the key is the one in the request's own workload identity token.
import { createRequire } from "node:module";
import { createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";

const { httpbis } = createRequire(`${process.env.PACKAGES}/`)("http-message-signatures");
const verdicts = [];
for (const { method, url, headers } of JSON.parse(readFileSync(0, "utf8"))) {
  const wit = headers["workload-identity-token"].split(".")[1];
  const { jwk } = JSON.parse(Buffer.from(wit, "base64url")).cnf;
  const key = createPublicKey({ key: jwk, format: "jwk" });
  const found = { id: "cnf", algs: ["ed25519"], verify: async (data, signature) => verify(null, data, key, signature) };
  let verdict;
  try {
    verdict = await httpbis.verifyMessage({ keyLookup: async () => found }, { method, url, headers });
  } catch (error) {
    verdict = error.constructor.name;
  }
  verdicts.push(verdict);
}
console.log(JSON.stringify({ step: "verdicts", got: verdicts }));
