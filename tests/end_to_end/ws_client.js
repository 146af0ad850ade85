// npm's ws as a client of an echo server: node ws_client.js URL, or URL CODE REASON to have the
// server close. Prints the result as one line of JSON.
"use strict";

const path = require("path");
const WebSocket = require(path.join(__dirname, "..", "peers", "node_modules", "ws"));

const [url, code, reason] = process.argv.slice(2);
const MIB = 1 << 20;
const messages = ["", "hello", "\u20ac\u{1f600}", Buffer.alloc(0), Buffer.from([0, 1, 255]),
    Buffer.alloc(MIB, "abc"), "x".repeat(MIB), Buffer.alloc(20 * MIB, 7)];
const seen = { echoes: 0, wrong: 0, pong: null, close: null };

const ws = new WebSocket(url, code ? [] : ["one", "two"], { perMessageDeflate: false });
const patience = setTimeout(() => { console.error("no end"); process.exit(1); }, 20000);

function expect(sent) {
    return new Promise((resolve) => ws.once("message", (data, isBinary) => {
        const same = isBinary !== (typeof sent === "string") && data.equals(Buffer.from(sent));
        same ? seen.echoes++ : seen.wrong++;
        resolve();
    }));
}

async function run() {
    seen.subprotocol = ws.protocol;
    for (const message of messages) {
        const echo = expect(message);
        ws.send(message);
        await echo;
    }
    const whole = expect("one two three");
    ws.send("one ", { fin: false });
    ws.send("two ", { fin: false });
    ws.send("three", { fin: true });
    await whole;
    await new Promise((resolve) => {
        ws.once("pong", (data) => { seen.pong = data.toString(); resolve(); });
        ws.ping("are you there");
    });
    ws.close(4321, "done \u20ac");
}

ws.on("open", code ? () => ws.send(`${code} ${reason}`) : run);
ws.on("close", (received, why) => {
    seen.close = [received, why.toString()];
    clearTimeout(patience);
    console.log(JSON.stringify(seen));
});
