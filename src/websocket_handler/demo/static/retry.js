const FIRST_DELAY_MS = 500, MAX_DELAY_MS = 10_000;

/** Calls `connect` after delays that double from 0.5 s to 10 s. Up to half of each delay is
 *  random, so that the pages of a restarted server do not all return at once. */
export class Retry {
  #connect;
  #attempts = 0;
  #timer = null;

  constructor(connect) {
    this.#connect = connect;
    addEventListener("online", () => this.#timer !== null && this.#run());
  }

  /** Schedules the next attempt; returns its delay in seconds. */
  schedule() {
    const delay = Math.min(MAX_DELAY_MS, FIRST_DELAY_MS * 2 ** this.#attempts++) * (1 - Math.random() / 2);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#run(), delay);
    return delay / 1000;
  }

  /** Ends the attempts. The next delay is the first one again. */
  stop() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#attempts = 0;
  }

  #run() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#connect();
  }
}
