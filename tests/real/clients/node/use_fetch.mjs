// Node's own fetch, the undici package with pipelining, and the http module, each told nothing but a base URL.
import { createHash } from "node:crypto";
import http from "node:http";
import { Readable } from "node:stream";
import { createRequire } from "node:module";

const { BASE_URL: base, PLACEHOLDER: placeholder, PACKAGES: packages } = process.env;
const require = createRequire(`${packages}/`);
const { Client, WebSocket: UndiciWebSocket } = require("undici");
const Ws = require("ws");
const key = { authorization: `Bearer ${placeholder}`, "x-api-key": placeholder };
const tell = (step, got) => console.log(JSON.stringify({ step, got }));
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

async function* pieces(count, size) {
  for (let number = 0; number < count; number++) yield Buffer.alloc(size, number % 256);
}

async function byFetch() {
  tell("fetch get", (await (await fetch(`${base}/echo?x=1`, { headers: key })).json()).target);
  const posted = await fetch(`${base}/echo`, { method: "POST", body: JSON.stringify({ a: "é" }), headers: key });
  tell("fetch post", (await posted.json()).body.bytes);
  const streamed = await fetch(`${base}/echo`, { method: "POST", body: Readable.toWeb(Readable.from(pieces(64, 65536))), duplex: "half" });
  const seen = await streamed.json();
  tell("fetch streamed", [seen.body, seen.fields.find(([name]) => name.toLowerCase() === "transfer-encoding")?.[1]]);
  const form = new FormData();
  form.append("f", new Blob([Buffer.alloc(1_000_000)]), "f.bin");
  tell("fetch form", (await (await fetch(`${base}/echo`, { method: "POST", body: form })).json()).body.bytes > 1_000_000);
  const moved = await fetch(`${base}/redirect?to=/echo%3Fmoved`);
  tell("fetch redirect", [moved.redirected, (await moved.json()).target]);
  tell("fetch gzip", (await (await fetch(`${base}/gzip`)).text()).slice(0, 11));
  const paused = await fetch(`${base}/paused`);
  tell("fetch paused", await paused.text());
  const left = new AbortController();
  const endless = await fetch(`${base}/endless`, { signal: left.signal });
  tell("fetch left", (await endless.body.getReader().read()).value.length > 0);
  left.abort();
  const many = await Promise.all([...Array(100).keys()].map(async (n) => (await (await fetch(`${base}/echo?${n}`)).json()).target));
  tell("fetch concurrent", many.every((target, n) => target === `/echo?${n}`));
}

async function byUndici() {
  const client = new Client(base, { pipelining: 10 });
  const targets = await Promise.all(
    [...Array(50).keys()].map(async (n) => (await (await client.request({ method: "GET", path: `/echo?${n}` })).body.json()).target),
  );
  tell("undici pipelined", targets.every((target, n) => target === `/echo?${n}`));
  const large = await client.request({ method: "GET", path: "/large" });
  tell("undici large", sha256(Buffer.from(await large.body.arrayBuffer())));
  const early = await client.request({ method: "POST", path: "/refuse-early", body: Buffer.alloc(4_000_000) });
  tell("undici early", [early.statusCode, await early.body.text()]);
  tell("undici after", (await client.request({ method: "GET", path: "/echo" })).statusCode);
  const trailed = await client.request({ method: "GET", path: "/trailers" });
  tell("undici trailers", [await trailed.body.text(), trailed.trailers["x-sum"]]);
  await client.close();
}

function ask(options, write = (request) => request.end()) {
  return new Promise((resolve, reject) => {
    const events = [];
    const request = http.request(`${base}${options.path}`, options, (response) => {
      const parts = [];
      response.on("data", (part) => parts.push(part));
      response.on("error", reject);
      response.on("end", () => resolve({ response, body: Buffer.concat(parts), events, reused: request.reusedSocket }));
    });
    request.on("information", (info) => events.push(info.statusCode));
    request.on("continue", () => events.push("continue"));
    request.on("error", reject);
    write(request);
  });
}

async function byHttp() {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  const first = await ask({ agent, path: "/echo", headers: key });
  const second = await ask({ agent, path: "/echo?second" });
  tell("http reused", [first.reused, second.reused]);
  const expecting = await ask({ agent, path: "/echo", method: "PUT", headers: { Expect: "100-continue" } }, (request) =>
    request.on("continue", () => request.end(Buffer.alloc(100_000))),
  );
  tell("http expect", [expecting.events.includes("continue"), JSON.parse(expecting.body).body.bytes]);
  const summed = await ask({ agent, path: "/echo", method: "POST", headers: { Trailer: "X-Sum" } }, (request) => {
    request.write("summed");
    request.addTrailers({ "X-Sum": "7" });
    request.end();
  });
  tell("http trailers up", JSON.parse(summed.body).trailers);
  tell("http trailers down", (await ask({ agent, path: "/trailers" })).response.trailers);
  tell("http hints", (await ask({ agent, path: "/hints" })).events);
  tell("http head", (await ask({ agent, path: "/large", method: "HEAD" })).response.headers["content-length"]);
  tell("http bodiless", (await ask({ agent, path: "/status?is=304" })).response.statusCode);
  tell("http until close", (await ask({ agent, path: "/until-close" })).body.length);
  agent.destroy();
}

// Both WebSocket clients: what is sent comes back, text and binary, large, compressed where they offer it.
const sockets = base.replace("http:", "ws:") + "/socket";

async function byUndiciWebSocket() {
  const socket = new UndiciWebSocket(sockets);
  socket.binaryType = "arraybuffer";
  const got = [];
  await new Promise((resolve, reject) => {
    socket.onerror = reject;
    socket.onopen = () => {
      socket.send("é".repeat(1000));
      socket.send(Buffer.alloc(1 << 20, 7));
    };
    socket.onmessage = ({ data }) => {
      got.push(typeof data === "string" ? data.length : data.byteLength);
      if (got.length === 2) socket.close(1000, "enough");
    };
    socket.onclose = ({ code, wasClean }) => resolve(got.push(code, wasClean));
  });
  tell("undici websocket", got);
}

async function byWs() {
  const socket = new Ws(sockets, { perMessageDeflate: true });
  const got = [];
  await new Promise((resolve, reject) => {
    socket.on("error", reject);
    socket.on("open", () => socket.ping("are you there"));
    socket.on("pong", (data) => {
      got.push(data.toString());
      socket.send(Buffer.alloc(1 << 20, 9));
    });
    socket.on("message", (data) => {
      got.push(data.length, socket.extensions);
      socket.close(4000, "enough");
    });
    socket.on("close", (code, reason) => resolve(got.push(code, reason.toString())));
  });
  tell("ws websocket", got);
}

if (process.argv[2] === "sockets") {
  await byUndiciWebSocket();
  await byWs();
} else {
  await byFetch();
  await byUndici();
  await byHttp();
}
