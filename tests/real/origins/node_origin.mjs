// An origin made of Node's http module that answers with what it parsed, in hexadecimal JSON; `n` counts the requests read to their end.
import http from "node:http";

let count = 0;
const hex = (text) => Buffer.from(text, "latin1").toString("hex");

const server = http.createServer({ maxHeaderSize: 1 << 18 }, (request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    const raw = request.rawHeaders;
    const fields = [];
    for (let at = 0; at < raw.length; at += 2) fields.push([hex(raw[at]), hex(raw[at + 1])]);
    const document = { n: ++count, method: hex(request.method), target: hex(request.url), fields, body: Buffer.concat(parts).toString("hex") };
    const text = JSON.stringify(document);
    response.setHeader("X-Origin", "node");
    if (request.method === "HEAD") response.setHeader("X-Echo", text);
    response.setHeader("Content-Length", text.length);
    response.end(text);
  });
});
server.maxHeadersCount = 2000;
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
