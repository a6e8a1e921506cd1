// The client of Node's package `ws`: says a few things to an echo, is silent for a while, and sends more than it may.
import { createRequire } from "node:module";
const [url] = process.argv.slice(2);
let WebSocket;
try { WebSocket = createRequire(import.meta.url)("ws"); }
catch {
  try { WebSocket = createRequire("/usr/share/nodejs/")("ws"); }
  catch { console.log("missing: node has no package ws"); process.exit(0); }
}
const socket = new WebSocket(url);
const messages = ["hello", "x".repeat(100_000), "y".repeat(700_000)];
let answered = 0;
let pings = 0;
socket.on("ping", () => pings++);
socket.on("open", () => messages.forEach((message) => socket.send(message)));
socket.on("error", (error) => { console.error(error.message); process.exit(1); });
socket.on("message", (data) => {
  if (data.toString() !== messages[answered++]) { console.error(`message ${answered}`); process.exit(1); }
  if (answered < messages.length) return;
  console.log(`echo ${answered}`);
  const look = setInterval(() => {
    if (pings < 3) return;
    clearInterval(look);
    console.log("idle");
    socket.send(Buffer.alloc(2_000_000));
  }, 20);
});
socket.on("close", (code) => { console.log(`closed ${code}`); process.exit(0); });
