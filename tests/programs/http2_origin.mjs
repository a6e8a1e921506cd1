// An origin over HTTP/2 by Node, in clear text by prior knowledge, or over TLS.
//
// Called as `http2_origin.mjs [KEY CERT]`; prints its port. Serves `/bytes/N` and `/copy` like the other origins of the tests, until
// its standard input ends.

import { readFileSync } from "node:fs";
import http2 from "node:http2";

const [key, cert] = process.argv.slice(2);
const server = key
  ? http2.createSecureServer({ key: readFileSync(key), cert: readFileSync(cert) })
  : http2.createServer();
const pattern = (length) => Buffer.from(Array.from({ length }, (_, i) => i % 251));

server.on("stream", (stream, fields) => {
  stream.on("error", () => {});
  const [, kind, number] = fields[":path"].split("/");
  if (kind === "copy") {
    const body = [];
    stream.on("data", (piece) => body.push(piece));
    stream.on("end", () => { stream.respond({ ":status": 200 }); stream.end(Buffer.concat(body)); });
    return;
  }
  const body = kind === "bytes" ? pattern(Number(number)) : Buffer.from("node");
  stream.respond({ ":status": 200, "content-length": body.length }, { endStream: fields[":method"] === "HEAD" });
  if (fields[":method"] !== "HEAD") stream.end(body);
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit()).resume();
