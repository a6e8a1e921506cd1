// Talks HTTP/2 to the origin of the tests through the proxy, by the client of Node.
//
// Called as `http2.mjs ORIGIN URL [CA]`, ORIGIN being `files` where only files are served; prints `fine` if every answer was right.
// All requests are streams of one connection, at the same time.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import http2 from "node:http2";

const [origin, url, authority] = process.argv.slice(2);
const session = http2.connect(url, authority ? { ca: readFileSync(authority) } : {});
const pattern = (length) => Buffer.from(Array.from({ length }, (_, i) => i % 251));

function ask(method, path, pieces = []) {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ":method": method, ":path": path }, { endStream: !pieces.length });
    const body = [];
    let head;
    stream.on("response", (fields) => { head = fields; });
    stream.on("data", (piece) => body.push(piece));
    stream.on("error", reject);
    stream.on("end", () => resolve({ head, status: head[":status"], body: Buffer.concat(body) }));
    pieces.forEach((piece) => stream.write(piece));
    stream.end();
  });
}

async function equals(asked, expected) {
  const { status, body } = await asked;
  assert.equal(status, 200);
  assert.ok(body.equals(expected), `${expected.length} bytes came back as ${body.length}`);
}

const all = [1, 1000, 300_000].flatMap((length) => {
  const body = pattern(length);
  const got = Array.from({ length: 10 }, () => equals(ask("GET", `/bytes/${length}`), body));
  if (origin !== "files") got.push(equals(ask("POST", "/copy", [body.subarray(0, 1), body.subarray(1)].filter((p) => p.length)), body));
  return got;
});
await Promise.all(all);
assert.equal((await ask("HEAD", "/bytes/1000")).head["content-length"], "1000");
session.close();
console.log("fine");
