import { BarChart, LineChart, compact, element } from "./chart.js";
import { describeClose, meaningOf } from "./close-codes.js";
import { Retry } from "./retry.js";

const CHART_SECONDS = 120;
const MIN_INTERVAL_S = 0.5;      // below it, rates would be inexact
const SILENCE_MS = 5000;         // without a message for this long, the figures are stale
const STATUSES = {
  400: "bad request", 401: "not logged in", 403: "forbidden, for example a foreign Origin", 404: "not found",
  426: "version not supported", 429: "too many connections from one address", 500: "error in the application",
  503: "connection limit reached, or shutting down",
};

const $ = (id) => document.getElementById(id);
const samples = [];              // the messages of the last two minutes
let received = new Date();       // the time of the last message
let silence;                     // the timer of SILENCE_MS
const retry = new Retry(watch);

// Figures

/** Returns a number of bytes in a short form: 950 B, 1.2 KB. */
const size = (value) => compact(value).replace(/^[\d.]+/, "$& ") + "B";
const count = (value) => value.toLocaleString("en");

/** Name, label, value and note of each figure. */
function figures(now) {
  const { messages_received: inward, messages_sent: outward } = now.traffic;
  const [rateIn, rateOut] = rates("messages").at(-1)?.values ?? [];
  const exhausted = now.threads_exhausted ? `; ${count(now.threads_exhausted)} times no thread was free` : "";
  return [
    ["open", "Open connections", count(now.open), `${count(now.accepted)} accepted so far`],
    ["received", "Messages received", perSecond(rateIn), `${count(inward)} so far`],
    ["sent", "Messages sent", perSecond(rateOut), `${count(outward)} so far`],
    ["buffered", "Unsent data", size(now.buffered), "waiting for peers that read slowly"],
    ["blocked", "Blocking listeners", count(now.listener_takeovers), `calls longer than 3\u00a0ms${exhausted}`],
    ["cpu", "CPU", processorTime(now), "of one core, whole process"],
    ["uptime", "Running for", duration(now.at - now.started), `since ${clock(new Date(now.started * 1000))}`],
  ];
}

function perSecond(rate) {
  return rate === undefined ? "–" : `${compact(rate)} /s`;
}

function processorTime(now) {
  const before = samples.at(-2);
  return before ? `${(100 * (now.cpu - before.cpu) / (now.time - before.time)).toFixed(0)} %` : "–";
}

function duration(seconds) {
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86_400)} days`;
}

function clock(date) {
  return date.toTimeString().slice(0, 8);
}

function drawFigures(now) {
  $("figures").replaceChildren(...figures(now).map(([name, label, value, note]) => element("div", {},
    element("dt", {}, label),
    element("dd", { class: "value", "data-figure": name }, value),
    element("dd", { class: "note", "data-note": name }, note))));
}

// Charts

/** Returns received and sent messages or bytes per second, one point per message but the first. */
function rates(name) {
  return samples.slice(1).map((now, i) => {
    const before = samples[i];
    const rate = (key) => (now.traffic[key] - before.traffic[key]) / (now.time - before.time);
    return { time: now.time, values: [rate(`${name}_received`), rate(`${name}_sent`)] };
  });
}

function figure(name) {
  return document.querySelector(`[data-chart="${name}"]`);
}

function lineChart(name, title, unit, series, format) {
  return new LineChart(figure(name), { name: title, unit, seconds: CHART_SECONDS, series, format });
}

const charts = {
  messages: lineChart("messages", "Messages per second", "messages/s", ["received", "sent"]),
  bytes: lineChart("bytes", "Bytes per second", "bytes/s", ["received", "sent"], size),
  connections: lineChart("connections", "Open connections", "connections", ["open"]),
};
let roundTrips = null;           // a bar chart; its bars are known from the first message

function drawCharts(now) {
  charts.messages.draw(rates("messages"), now.time);
  charts.bytes.draw(rates("bytes"), now.time);
  charts.connections.draw(samples.map((one) => ({ time: one.time, values: [one.open] })), now.time);
  const { bounds, counts } = now.round_trips, total = counts.reduce((sum, value) => sum + value, 0);
  const labels = [...bounds.map((bound) => bound < 1 ? `${bound * 1000} ms` : `${bound} s`), "more"];
  roundTrips ??= new BarChart(figure("round-trips"), { name: "Ping round-trip times", unit: "pongs", labels });
  roundTrips.draw(counts, total ? `${count(total)} pongs so far, ${(1000 * now.round_trips.total / total).toFixed(1)} ms on average. A bar counts those up to its time.`
    : "No pong yet: a peer that is silent for 20 s is pinged.");
}

function drawTable(id, heads, counts, meaning) {
  const rows = Object.entries(counts).map(([key, value]) => element("tr", {},
    element("td", {}, key), element("td", {}, meaning(Number(key))), element("td", {}, count(value))));
  const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)));
  $(id).replaceChildren(rows.length
    ? element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows))
    : element("p", { class: "none" }, "None so far."));
}

function draw(now) {
  if (samples.length && samples[0].started !== now.started) samples.length = 0; // another process
  if (now.time - samples.at(-1)?.time < MIN_INTERVAL_S) samples.pop(); // the first after a reconnect
  samples.push(now);
  while (samples[0].time < now.time - CHART_SECONDS) samples.shift();
  drawFigures(now);
  drawCharts(now);
  drawTable("closed", ["Code", "Meaning", "Connections"], now.closed, meaningOf);
  drawTable("refused", ["Status", "Meaning", "Requests"], now.refused, (status) => STATUSES[status] ?? "");
}

// Connection

/** Greys the figures and tells why they are old; without a `reason` they are new. */
function setStale(reason = "") {
  document.querySelector("main").classList.toggle("stale", Boolean(reason));
  $("age").hidden = !reason;
  for (const chart of Object.values(charts)) chart.end = reason && samples.length ? clock(received) : "now";
  if (!reason) return;
  const age = samples.length ? `These figures are of ${clock(received)}` : "No figures yet";
  $("age").textContent = `${age}: ${reason}. The page connects again by itself.`;
  for (const chart of Object.values(charts)) chart.redraw();
}

function show(state) {
  if ($("status").dataset.state !== state) $("status").dataset.state = $("status").textContent = state;
}

function watch() {
  const socket = new WebSocket(location.href.replace(/^http/, "ws").replace(/#.*/, ""));
  let isOpen = false;
  socket.onopen = () => {
    isOpen = true;
    retry.stop();
    show("open");
  };
  socket.onmessage = (event) => {
    clearTimeout(silence);
    silence = setTimeout(setStale, SILENCE_MS, "the server has sent nothing since");
    received = new Date();
    setStale();
    draw(JSON.parse(event.data));
  };
  socket.onclose = (event) => {
    clearTimeout(silence);
    if (isOpen) setStale(`the connection was closed with ${describeClose(event)}`);
    else if (!samples.length) setStale("no connection to the server");
    show("reconnecting");
    retry.schedule();
  };
}

watch();
