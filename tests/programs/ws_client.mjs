// Talks to the WebSocket servers of the tests through the proxy, by Node's `ws`: by Upgrade, or on streams of one HTTP/2
// connection.
//
// Called as `ws_client.mjs MODULES h1|h2 URL [CA]`, URL being `ws:` or `wss:`; prints `fine` if every answer was right, and
// `missing` with a reason where ws is not installed.

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import http2 from "node:http2";
import { library, onStream } from "./ws.mjs";

const [modules, protocol, url, authority] = process.argv.slice(2);
const WebSocket = library(modules);
const ca = authority && readFileSync(authority);
const session = protocol === "h2" && http2.connect(url.replace("ws", "http"), { ca });
if (session && !session.remoteSettings.enableConnectProtocol) await once(session, "remoteSettings");
const pattern = (length) => Buffer.alloc(length, Buffer.from(Array.from({ length: 251 }, (_, i) => i)));

async function open(options = {}) {
  if (!session) {
    const socket = new WebSocket(url, "chat", { ca, maxPayload: 1 << 24, ...options });
    await once(socket, "open");
    assert.equal(socket.protocol, "chat");
    return socket;
  }
  const stream = session.request({
    ":method": "CONNECT", ":protocol": "websocket", ":path": "/chat",
    "sec-websocket-version": "13", "sec-websocket-protocol": "chat",
  });
  const [fields] = await once(stream, "response");
  assert.equal(fields[":status"], 200);
  assert.equal(fields["sec-websocket-protocol"], "chat");
  return onStream(WebSocket, stream, false);
}

async function hears(socket, expected) {
  const [data, isBinary] = await once(socket, "message");
  assert.equal(isBinary, typeof expected !== "string");
  assert.ok(data.equals(Buffer.from(expected)), `${expected.length} came back as ${data.length}`);
}

async function echoes(socket, message, expected = message) {
  const heard = hears(socket, expected);
  socket.send(message);
  await heard;
}

async function talks(options) {
  const socket = await open(options);
  for (const message of ["hello", "", Buffer.alloc(0), "x".repeat(100_000), "\u00fc".repeat(70_000), pattern(1_000_000)]) {
    await echoes(socket, message);
  }
  // In frames of their own.
  const fragments = hears(socket, "one two three");
  for (const piece of ["one ", "two ", ""]) socket.send(piece, { fin: false });
  socket.send("three");
  await fragments;
  for (let nth = 0; nth < 100; nth++) await echoes(socket, `number ${nth}`);
  const pong = once(socket, "pong");
  socket.ping("are you there");
  assert.equal((await pong)[0].toString(), "are you there");
  await echoes(socket, "ping", "ponged");
  const closed = once(socket, "close");
  socket.close(1000, "done");
  const [code, reason] = await closed;
  assert.deepEqual([code, reason.toString()], [1000, "done"]);
}

async function isEnded(word, code, reason) {
  const socket = await open();
  socket.on("error", () => {});
  const closed = once(socket, "close");
  socket.send(word);
  const [got, why] = await closed;
  assert.deepEqual([got, why.toString()], [code, reason], word);
}

await talks();
await talks({ perMessageDeflate: false });
await Promise.all(Array.from({ length: 3 }, () => talks()));
await isEnded("close 4001 because", 4001, "because");
await isEnded("abort", 1006, "");
if (session) session.close();
console.log("fine");
