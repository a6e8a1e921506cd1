// Node's own WebSocket client: says a few things to an echo and leaves in order.
const [url] = process.argv.slice(2);
const messages = ["hello", "x".repeat(100_000), new Uint8Array(70_000).fill(7)];
const socket = new WebSocket(url);
socket.binaryType = "arraybuffer";
const size = (data) => data.length ?? data.byteLength;
let answered = 0;
socket.onopen = () => messages.forEach((message) => socket.send(message));
socket.onerror = (event) => { console.error("error", event.message ?? ""); process.exit(1); };
socket.onmessage = ({ data }) => {
  const expected = messages[answered++];
  const same = typeof expected === "string" ? data === expected : Buffer.from(data).equals(Buffer.from(expected));
  if (!same) { console.error(`message ${answered}: ${size(data)} bytes, not ${size(expected)}`); process.exit(1); }
  if (answered === messages.length) socket.close(1000, "done");
};
socket.onclose = ({ code }) => { console.log(`closed ${code} after ${answered}`); process.exit(code === 1000 ? 0 : 1); };
