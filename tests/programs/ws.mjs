// What the programs by Node's `ws` share: where it is, and WebSockets on streams of HTTP/2.

import { createRequire } from "node:module";

/** The library, of the modules in this directory. */
export function library(directory) {
  try {
    return createRequire(`${directory}/`)("ws");
  } catch (error) {
    console.log(`missing ${error.code}`);
    process.exit(0);
  }
}

/** A WebSocket on a stream that extended CONNECT has opened: `ws` has no HTTP/2 of its own, but takes any stream. */
export function onStream(WebSocket, stream, isServer) {
  const socket = new WebSocket(null, undefined, { autoPong: true, closeTimeout: 30_000 });
  socket._isServer = isServer;
  stream.setNoDelay = () => {};
  socket.setSocket(stream, Buffer.alloc(0), { maxPayload: 1 << 24, skipUTF8Validation: false, allowSynchronousEvents: true });
  return socket;
}
