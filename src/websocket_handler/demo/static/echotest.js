import { LineChart } from "./chart.js";
import { describeClose } from "./close-codes.js";
import { Retry } from "./retry.js";

const $ = (id) => document.getElementById(id);
const MAX_LOG_LINES = 500, MAX_SHOWN_CHARACTERS = 200, MAX_SHOWN_BYTES = 12, CHART_SECONDS = 60, TICK_MS = 500;
const PROBE_TIMEOUT_MS = 3000;
const SIGNS = { sent: "→", received: "←", open: "●", close: "○", error: "!", info: "·" };
const TEMPORARY = [1001, 1006, 1012, 1013]; // close codes after which the page connects again

let socket = null;
let isWanted = false;    // whether the user wants a connection: it is opened again if it is lost
let failure = null;      // the log line of the failed attempts to connect
let inFlight = [];       // sent messages, oldest first: the echo server keeps the order
let burst = null;        // the payload while the load test runs
let echoes = 0, echoesAtTick = 0, peak = 0;
let times = [];          // round-trip times since the last tick, in ms
const rates = [];        // {time, values: [echoes per second]}, for the chart
const retry = new Retry(open);
const chart = new LineChart($("chart"), {
  name: "Echoes per second", unit: "echoes/s", seconds: CHART_SECONDS, series: ["echoes per second"],
  format: (value) => Math.round(value).toLocaleString("en"),
});

// Connection

function connect() {
  disconnect();
  isWanted = true;
  failure = null;
  open();
}

function open() {
  const names = $("subprotocols").value.split(",").map((name) => name.trim()).filter(Boolean);
  const url = $("url").value;
  try {
    socket = new WebSocket(url, names);
  } catch (error) {
    isWanted = false;    // an invalid URL or subprotocol
    log("error", error.message);
    show("detail", error.message, "bad");
    return;
  }
  const current = socket;
  let wasOpen = false;
  socket.binaryType = "arraybuffer";
  inFlight = [];
  showState();
  socket.onopen = () => {
    wasOpen = true;
    if (current === socket) opened();
  };
  socket.onmessage = (event) => current === socket && receive(event.data);
  socket.onclose = (event) => {
    if (current !== socket) return;
    stopBurst();
    if (wasOpen) closed(event);
    else if (isWanted) failed(url);
    else show("detail", "not connected");
    showState();
  };
}

function opened() {
  retry.stop();
  failure = null;
  const version = document.cookie.match(/(?:^|; )websocket-version=([^;]*)/);
  const extras = [version && decodeURIComponent(version[1]), socket.protocol && `subprotocol ${socket.protocol}`,
    socket.extensions && `extensions ${socket.extensions}`].filter(Boolean).join(", ");
  log("open", `open${extras ? `: ${extras}` : ""}`);
  show("detail", `open${extras ? ` · ${extras}` : ""}`, "good");
  showState();
}

/** Called when an open connection has ended. */
function closed(event) {
  const line = `${event.wasClean ? "closed" : "lost"}: ${describeClose(event)}`;
  log("close", line);
  if (isWanted && TEMPORARY.includes(event.code)) return connectLater(line);
  isWanted = false;
  show("detail", line);
}

/** Called when no connection was made. Repeated attempts share one line of the log. */
async function failed(url) {
  connectLater("could not connect");
  if (failure) {
    failure.attempts += 1;
    failure.line.querySelector(".rtt").textContent = `${failure.attempts} attempts`;
    return;
  }
  const current = failure = { line: log("error", "could not connect"), attempts: 1 };
  const reason = await reasonOf(url);
  current.line.querySelector(".text").textContent = `could not connect: ${reason}`;
  $("log").scrollTop = $("log").scrollHeight;
  if (failure === current) show("detail", `Could not connect: ${reason}. The page tries again.`, "bad");
}

/** Returns the likely reason of a failed connection. The browser hides it from scripts, so this
 *  makes an HTTP request to the same address. */
async function reasonOf(url) {
  const { host, href } = new URL(url.replace(/^ws/, "http"), location.href);
  try {
    const options = { method: "HEAD", mode: "no-cors", cache: "no-store", signal: AbortSignal.timeout(PROBE_TIMEOUT_MS) };
    const { type, status } = await fetch(href, options);
    if (status === 404) return `${host} answers, but has no such path (404)`;
    return type === "opaque" || status < 400 || status === 426
      ? `${host} answers, but refuses this WebSocket; its log should tell why`
      : `${host} answers with status ${status}`;
  } catch {
    return `no server answers at ${host}`;
  }
}

function connectLater(reason) {
  const seconds = retry.schedule();
  if (!failure) show("detail", `${reason}; next attempt in ${seconds.toFixed(1)} s`, "bad");
  showState();
}

/** Closes the connection, or ends the attempts to connect. */
function disconnect(code, reason) {
  try {
    socket?.close(code, reason);
  } catch (error) {
    log("error", error.message); // a code or reason that scripts must not send
    show("detail", error.message, "bad");
    $("detail").scrollIntoView({ block: "nearest" });
    return;
  }
  if (isWanted && socket?.readyState === WebSocket.CLOSED) show("detail", "not connected");
  isWanted = false;
  retry.stop();
  showState();
}

function showState() {
  const state = isWanted && (failure || socket?.readyState === WebSocket.CLOSED) ? "reconnecting"
    : ["connecting", "open", "closing", "closed"][socket ? socket.readyState : 3];
  if ($("status").dataset.state !== state) $("status").dataset.state = $("status").textContent = state;
  const isOpen = state === "open";
  for (const id of ["send", "ping", "file", "send-random", "close"]) $(id).disabled = !isOpen;
  $("disconnect").disabled = state === "closed" || state === "closing";
  $("disconnect").textContent = state === "reconnecting" ? "Stop trying" : "Disconnect";
  $("connect").disabled = !["closed", "reconnecting"].includes(state);
  $("burst-start").disabled = !isOpen || burst !== null;
  $("burst-stop").disabled = burst === null;
}

function show(id, text, kind = "") {
  $(id).textContent = text;
  $(id).dataset.kind = kind;
}

// Sending and receiving

function send(data, kind = "message") {
  if (socket?.readyState !== WebSocket.OPEN) return;
  inFlight.push({ data, kind, at: performance.now() });
  socket.send(data);
  if (kind === "burst") return;
  log("sent", describe(data));
  show("result", `→ ${describe(data)}`);
  $("result").scrollIntoView({ block: "nearest" });
}

function receive(data) {
  const sent = inFlight.shift();
  const rtt = sent ? performance.now() - sent.at : NaN;
  const verified = sent !== undefined && isSame(sent.data, data);
  echoes += 1;
  times.push(rtt);
  if (sent?.kind === "burst" && verified) {
    if (burst) send(burst, "burst");
    return;
  }
  const time = sent ? milliseconds(rtt) : "";
  const line = log("received", (verified ? "" : "differs from the sent message: ") + describe(data), time);
  line.dataset.verified = verified;
  line.dataset.rtt = rtt.toFixed(3);
  if (verified) show("result", sent.kind === "ping" ? `latency ${time}` : `← ${describe(data)} · ${time}`, "good");
  else show("result", `← not the sent message: ${describe(data)}`, "bad");
}

function isSame(sent, received) {
  if (typeof sent === "string" || typeof received === "string") return sent === received;
  const a = new Uint8Array(sent), b = new Uint8Array(received);
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

async function sendFiles(files) {
  for (const file of files) {
    log("info", `${file.name}, ${bytes(file.size)}`);
    send(await file.arrayBuffer());
  }
}

function sendRandom() {
  const data = new Uint8Array(number("random-size"));
  for (let at = 0; at < data.length; at += 65536) crypto.getRandomValues(data.subarray(at, at + 65536));
  send(data.buffer);
}

// Load test

function startBurst() {
  const size = number("burst-size");
  burst = "x".repeat(size);
  log("info", `keeping ${number("burst-in-flight")} messages of ${bytes(size)} in flight`);
  for (let i = number("burst-in-flight"); i > 0; i--) send(burst, "burst");
  showState();
}

function stopBurst() {
  if (burst) log("info", `load test stopped after a total of ${echoes.toLocaleString("en")} echoes`);
  burst = null;
  showState();
}

function tick() {
  const rate = (echoes - echoesAtTick) * 1000 / TICK_MS;
  echoesAtTick = echoes;
  peak = Math.max(peak, rate);
  const now = performance.now() / 1000;
  rates.push({ time: now, values: [rate] });
  if (rates.length > CHART_SECONDS * 1000 / TICK_MS) rates.shift();
  $("rate").textContent = Math.round(rate).toLocaleString("en");
  $("peak").textContent = Math.round(peak).toLocaleString("en");
  $("total").textContent = echoes.toLocaleString("en");
  if (times.length) {
    times.sort((a, b) => a - b);
    $("median").textContent = milliseconds(times[times.length >> 1]);
    $("p99").textContent = milliseconds(times[Math.floor(times.length * 0.99)]);
    times = [];
  }
  chart.draw(rates, now);
}

// Log

function log(kind, text, note = "") {
  const list = $("log"), line = document.createElement("li");
  const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  const time = new Date().toTimeString().slice(0, 8) + String(Date.now() % 1000 / 1000).slice(1).padEnd(4, "0").slice(0, 4);
  line.dataset.kind = kind;
  for (const [tag, name, content] of [["time", "", time], ["span", "sign", SIGNS[kind]], ["span", "text", text], ["span", "rtt", note]]) {
    const part = line.appendChild(document.createElement(tag));
    part.className = name;
    part.textContent = content;
  }
  list.append(line);
  while (list.children.length > MAX_LOG_LINES) list.firstChild.remove();
  if (isAtEnd) list.scrollTop = list.scrollHeight;
  return line;
}

function describe(data) {
  if (typeof data === "string") {
    return data.length > MAX_SHOWN_CHARACTERS ? `${data.slice(0, MAX_SHOWN_CHARACTERS)}… (${data.length.toLocaleString("en")} characters)` : data || "(empty text)";
  }
  const first = new Uint8Array(data, 0, Math.min(MAX_SHOWN_BYTES, data.byteLength));
  const digits = Array.from(first, (byte) => byte.toString(16).padStart(2, "0"));
  return `${bytes(data.byteLength)}: ${digits.join(" ")}${data.byteLength > MAX_SHOWN_BYTES ? " …" : ""}`;
}

function bytes(count) {
  return `${count.toLocaleString("en")} ${count === 1 ? "byte" : "bytes"}`;
}

function milliseconds(value) {
  return `${value < 10 ? value.toFixed(2) : value.toFixed(0)} ms`;
}

/** Returns the value of a number field, limited to its minimum and maximum. */
function number(id) {
  const field = $(id);
  field.value = Math.min(Number(field.max), Math.max(Number(field.min), Math.trunc(Number(field.value)) || 1));
  return Number(field.value);
}

$("url").value = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/echoserver`;
$("connect").onclick = connect;
$("disconnect").onclick = () => disconnect();
$("send").onclick = () => send($("text").value);
$("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send($("text").value);
  }
};
$("ping").onclick = () => send(`ping ${Math.round(performance.now())}`, "ping");
$("file").onchange = async () => { await sendFiles($("file").files); $("file").value = ""; };
$("send-random").onclick = sendRandom;
$("close").onclick = () => disconnect(Number($("close-code").value), $("close-reason").value);
$("burst-start").onclick = startBurst;
$("burst-stop").onclick = stopBurst;
$("clear").onclick = () => $("log").replaceChildren();
$("copy").onclick = () => navigator.clipboard?.writeText(Array.from($("log").children, (line) => line.innerText.replace(/\n/g, " ")).join("\n"));
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
addEventListener("dragleave", () => document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  sendFiles(event.dataTransfer.files);
});
setInterval(tick, TICK_MS);
tick();
connect();
