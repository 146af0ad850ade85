// Node's ws: ws_echo.mjs PORT
import { WebSocketServer } from "ws";

const server = new WebSocketServer({
  host: "127.0.0.1", port: Number(process.argv[2]), maxPayload: 1 << 24, backlog: 4096,
});
server.on("connection", (ws) => {
  ws.on("message", (data, isBinary) => ws.send(data, { binary: isBinary }));
});
