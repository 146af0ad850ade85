// A library of npm as a client: echo_client.js LIBRARY URL VERSION TEXT... Prints each
// answer on a line, then the code of the server's close frame.
const net = require("net");

const [library, url, version, ...texts] = process.argv.slice(2);
let next = 0;

function goOn(send, close) {
  if (next < texts.length) send(texts[next++]);
  else close();
}

const kinds = {
  "websocket-driver": () => {
    const { hostname, port } = new URL(url);
    const driver = require("websocket-driver").client(url);
    const socket = net.connect(port, hostname);
    const more = () => goOn((text) => driver.text(text), () => driver.close("", 1000));
    driver.on("open", more);
    driver.on("message", ({ data }) => { console.log(data); more(); });
    driver.on("close", ({ code }) => { console.log(code); socket.end(); });
    socket.pipe(driver.io).pipe(socket);
    driver.start();
  },
  websocket: () => {
    const { client: Client } = require("websocket");
    const client = new Client({ webSocketVersion: Number(version), maxReceivedFrameSize: 1 << 20 });
    client.on("connectFailed", (error) => { throw error; });
    client.on("connect", (peer) => {
      const more = () => goOn((text) => peer.sendUTF(text), () => peer.close(1000));
      peer.on("message", ({ utf8Data }) => { console.log(utf8Data); more(); });
      peer.on("close", (code) => console.log(code));
      more();
    });
    client.connect(url, [], "http://127.0.0.1");
  },
  "ws 1.1": () => {
    const Client = require("ws1");
    const peer = new Client(url, { protocolVersion: Number(version), perMessageDeflate: false });
    const more = () => goOn((text) => peer.send(text), () => peer.close(1000));
    peer.on("open", more);
    peer.on("message", (data) => { console.log(data); more(); });
    peer.on("close", (code) => console.log(code));
  },
};

kinds[library]();
