// The client of Socket.IO in JavaScript: socketio_client.js URL OPTIONS. Uses every feature once
// and prints the results as one line of JSON.
const { io } = require("socket.io-client");

const [url, options] = process.argv.slice(2);
const results = { events: [] };
const socket = io(url, { extraHeaders: { "X-Agent": "node" }, ...JSON.parse(options || "{}") });
const ask = (...event) => socket.timeout(15000).emitWithAck(...event);

function finish() {
  console.log(JSON.stringify(results));
  process.exit(0);
}

async function use() {
  results.echo = await ask("echo", "héllo", { a: [1, null] });
  const [binary, nested] = await ask("echo", Buffer.from([0, 255]), { deep: Buffer.alloc(70000, 7) });
  results.binary = [[...binary], nested.deep.length, nested.deep[69999]];
  await new Promise((resolve) => (socket.emit("remember", "me"), resolve()));
  await ask("echo");
  results.session = await ask("recall");
  results.environ = await ask("environ");
  socket.on("question", (number, answer) => answer(number + 1));
  results.asked = await ask("ask");
  const other = io(new URL("/other", url).href, JSON.parse(options || "{}"));
  results.namespace = await other.timeout(15000).emitWithAck("echo", 1, 2);
  socket.emit("join", "room");
  await ask("echo");
  const news = new Promise((resolve) => socket.on("news", resolve));
  await fetch(new URL("/emit?room=room&text=hi", url));
  results.news = await news;
  results.transport = socket.io.engine.transport.name;
  socket.on("disconnect", (reason) => { results.reason = reason; finish(); });
  socket.emit("leave");
}

socket.on("greeting", (names) => results.events.push(names));
socket.on("connect", () => use().catch((error) => { results.error = String(error); finish(); }));
socket.once("connect_error", (error) => {
  results.refused = [error.message, error.data ?? null];
  console.log(JSON.stringify(results));
  socket.disconnect(); // the process ends once the session is closed
});
setTimeout(() => { results.error = "time is up"; finish(); }, 40000).unref();
