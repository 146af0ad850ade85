// Clients of Socket.IO with default transports: socketio_load.js URL CLIENTS. Reads commands from
// standard input and answers each with a line of JSON: "echo ROUNDS" and "news COUNT".
const path = require("path");
const { io } = require(path.join(__dirname, "../../tests/peers/node_modules/socket.io-client"));

const [url, count] = [process.argv[2], Number(process.argv[3])];
const AT_ONCE = 40;
const RETRY_MS = 20000; // a race in python-socketio may lose the connection to the namespace
const clients = [];
const answer = (value) => console.log(JSON.stringify(value));

function connect() {
  return new Promise((resolve, reject) => {
    const client = io(url, { forceNew: true, reconnection: false, timeout: 60000 });
    const retry = setTimeout(() => { client.close(); resolve(connect()); }, RETRY_MS);
    client.on("connect_error", reject);
    client.on("connect", () => {
      clearTimeout(retry);
      const engine = client.io.engine;
      if (engine.transport.name === "websocket") resolve(client);
      else engine.on("upgrade", () => resolve(client));
    });
  });
}

async function work(left) {
  while (left.length) { left.pop(); clients.push(await connect()); }
}

async function echo(rounds) {
  for (let round = 0; round < rounds; round++) {
    await Promise.all(clients.map((client) => client.emitWithAck("echo", "hello")));
  }
  return clients.length * rounds;
}

function news(count) {
  const delays = [];
  return new Promise((resolve) => {
    for (const client of clients) {
      client.on("news", ([begin]) => {
        delays.push(performance.timeOrigin + performance.now() - begin * 1000);
        if (delays.length === count * clients.length) {
          clients.forEach((one) => one.off("news"));
          resolve(delays);
        }
      });
    }
    answer("waiting");
  });
}

async function main() {
  const left = Array(count).fill(0);
  await Promise.all(Array.from({ length: AT_ONCE }, () => work(left)));
  answer(clients.filter((client) => client.io.engine.transport.name === "websocket").length);
  const lines = require("readline").createInterface({ input: process.stdin });
  for await (const line of lines) {
    const [command, number] = line.split(" ");
    answer(await (command === "echo" ? echo : news)(Number(number)));
  }
}

main().then(() => process.exit(0));
