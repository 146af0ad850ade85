// A library of npm as an echo server: echo_server.js LIBRARY. Prints its port.
const http = require("http");

const library = process.argv[2];
const server = http.createServer((request, response) => response.writeHead(426).end());

const kinds = {
  "websocket-driver": () => {
    const driver = require("websocket-driver");
    server.on("upgrade", (request, socket, body) => {
      const peer = driver.http(request);
      peer.io.write(body);
      socket.on("error", () => {});
      socket.on("end", () => socket.end());
      socket.pipe(peer.io).pipe(socket);
      peer.on("close", () => socket.end());
      peer.messages.pipe(peer.messages);
      peer.start();
    });
  },
  websocket: () => {
    const { server: Server } = require("websocket");
    const all = new Server({ httpServer: server, autoAcceptConnections: true, maxReceivedFrameSize: 1 << 20 });
    all.on("connect", (peer) => {
      peer.on("message", ({ type, utf8Data, binaryData }) =>
        type === "utf8" ? peer.sendUTF(utf8Data) : peer.sendBytes(binaryData));
    });
  },
  "ws 1.1": () => {
    const { Server } = require("ws1");
    new Server({ server, perMessageDeflate: false }).on("connection", (peer) => {
      peer.on("message", (data, { binary }) => peer.send(data, { binary }));
    });
  },
};

kinds[library]();
server.listen(0, "127.0.0.1", () => console.log(`serving on ${server.address().port}`));
