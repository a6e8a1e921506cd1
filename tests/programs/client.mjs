// Talks to the origin of the tests through the proxy, by the HTTP client of Node.
//
// Called as `client.mjs HOST:PORT [CA]`, the latter for HTTPS; prints `fine` if every answer was right. Connections are kept and shared.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import plain from "node:http";
import secure from "node:https";

const [hostname, port] = process.argv[2].split(":");
const authority = process.argv[3];
const http = authority ? secure : plain;
const ca = authority && readFileSync(authority);
const agent = new http.Agent({ keepAlive: true, maxSockets: 4, ca });
const pattern = (length) => Buffer.from(Array.from({ length }, (_, i) => i % 251));

function ask(method, path, { pieces = [], headers = {} } = {}) {
  return new Promise((resolve, reject) => {
    const request = http.request({ hostname, port, agent, method, path, headers }, (response) => {
      const body = [];
      response.on("data", (piece) => body.push(piece));
      response.on("error", reject);
      response.on("end", () =>
        resolve({ status: response.statusCode, body: Buffer.concat(body), trailers: response.trailers }));
    });
    request.on("error", reject);
    pieces.forEach((piece) => request.write(piece));
    request.end();
  });
}

const lengths = [0, 1, 4096, 300_000];
await Promise.all(lengths.flatMap((length) => {
  const body = pattern(length);
  const sized = { pieces: [body], headers: { "Content-Length": length } };
  const chunked = { pieces: [body.subarray(0, 9), body.subarray(9)].filter((piece) => piece.length) };
  return [
    ask("POST", "/echo", sized),
    ask("PUT", "/echo", chunked),
    ask("GET", `/bytes/${length}`),
    ask("GET", `/chunked/${length}`),
  ].map(async (answer) => {
    const { status, body: echoed } = await answer;
    assert.equal(status, 200);
    assert.ok(echoed.equals(body), `${length} bytes came back as ${echoed.length}`);
  });
}));

assert.equal((await ask("HEAD", "/bytes/1000")).body.length, 0);
assert.equal((await ask("DELETE", "/status/204")).status, 204);
assert.equal((await ask("GET", "/status/304")).status, 304);
assert.equal((await ask("GET", "/status/503")).status, 503);
agent.destroy();
console.log("fine");
