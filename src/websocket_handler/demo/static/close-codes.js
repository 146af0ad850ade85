const MEANINGS = {
  1000: "normal closure", 1001: "going away", 1002: "protocol error", 1003: "unsupported data",
  1005: "no code", 1006: "no close frame", 1007: "invalid data", 1008: "policy violation",
  1009: "message too big", 1010: "missing extension", 1011: "internal error",
  1012: "service restart", 1013: "try again later", 1014: "bad gateway",
};

/** Returns the meaning of a close code, or an empty string. */
export function meaningOf(code) {
  return MEANINGS[code] ?? (code >= 4000 ? "private code of the application" : "");
}

/** Returns the description of a `CloseEvent`, such as `1001 (going away) “restart”`. */
export function describeClose(event) {
  const meaning = meaningOf(event.code);
  return event.code + (meaning && ` (${meaning})`) + (event.reason && ` “${event.reason}”`);
}
