// A WebSocket server by Node's `ws`: sends every message back.
//
// Called as `ws_server.mjs MODULES h1|h2`; prints its port, and serves until its standard input ends. `close CODE REASON` closes
// like that, `abort` cuts the connection, `ping` is answered by a ping and, when that is answered, by `ponged`. Prints `missing`
// with a reason where ws is not installed.

import http from "node:http";
import http2 from "node:http2";
import { library, onStream } from "./ws.mjs";

const [modules, protocol] = process.argv.slice(2);
const WebSocket = library(modules);

function echo(socket) {
  socket.on("error", () => {});
  socket.on("message", (data, isBinary) => {
    const [word, code, reason] = isBinary ? [] : data.toString().split(" ");
    if (word === "close") socket.close(Number(code), reason);
    else if (word === "abort") socket.terminate();
    else if (word === "ping") socket.once("pong", () => socket.send("ponged")).ping("are you there");
    else socket.send(data, { binary: isBinary });
  });
}

function http2Server() {
  return http2.createServer({ settings: { enableConnectProtocol: true } }).on("stream", (stream, fields) => {
    stream.on("error", () => {});
    if (fields[":method"] !== "CONNECT" || fields[":protocol"] !== "websocket") {
      stream.respond({ ":status": 400 }, { endStream: true });
      return;
    }
    stream.respond({ ":status": 200, "sec-websocket-protocol": "chat" });
    echo(onStream(WebSocket, stream, true));
  });
}

function http1Server() {
  const server = http.createServer();
  const options = { server, maxPayload: 1 << 24, perMessageDeflate: true, handleProtocols: () => "chat" };
  new WebSocket.Server(options).on("connection", echo);
  return server;
}

const server = protocol === "h2" ? http2Server() : http1Server();
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit()).resume();
