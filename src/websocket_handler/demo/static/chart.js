/* Charts as SVG with axes and units. A chart is as wide as its <figure>, also after a resize. */

const MIN_TOP = 4;               // of the vertical axis, so that its marks are whole numbers
const NARROW_PX = 420;           // below this width some labels of the horizontal axis are omitted

const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/** Returns a number in a short form: 0.4, 950, 1.2K, 35M. */
export function compact(value) {
  return COMPACT.format(value < 10 ? Math.round(value * 10) / 10 : value);
}

/** Returns a new SVG or HTML element. */
export function element(name, attributes = {}, ...children) {
  const isShape = ["svg", "g", "path", "rect", "line", "text"].includes(name);
  const made = isShape ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** The parts that all charts have: a caption, a vertical axis, a description for screen readers, and
 *  the values below the pointer. A subclass implements `highest()`, `paint(plot)`, and
 *  `nearest(plot, x)`, which returns `{x, text}` of the values next to a place, or undefined. */
class Chart {
  #pointer = null;               // px from the left edge; null without a pointer over the chart

  constructor(figure, name, unit, format) {
    Object.assign(this, { figure, name, unit, format });
    this.caption = element("figcaption");
    this.svg = element("svg", { role: "img", "aria-label": name });
    figure.append(this.caption, this.svg);
    new ResizeObserver(() => this.redraw()).observe(figure);
    this.svg.addEventListener("pointermove", ({ clientX }) => this.#point(clientX - this.svg.getBoundingClientRect().left));
    this.svg.addEventListener("pointerleave", () => this.#point(null));
  }

  redraw() {
    const { clientWidth: width, clientHeight: height } = this.svg;
    if (!width) return;          // the chart is hidden
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const step = roundStep(Math.max(this.highest(), MIN_TOP) / 4);
    const top = Math.ceil(Math.max(this.highest(), MIN_TOP) / step) * step;
    const marks = Array.from({ length: Math.round(top / step) + 1 }, (_, i) => i * step);
    const left = Math.max(...marks.map((mark) => this.format(mark).length)) * .45 * rem + .6 * rem;
    const plot = { rem, left, right: width - .4 * rem, top: 1.7 * rem, bottom: height - 1.5 * rem, width };
    plot.y = (value) => plot.bottom - value / top * (plot.bottom - plot.top);
    this.svg.replaceChildren(
      element("text", { x: 0, y: .75 * rem }, this.unit),
      ...marks.flatMap((mark) => [
        line(plot.left, plot.y(mark), plot.right, plot.y(mark), mark ? "grid" : "axis"),
        element("text", { x: plot.left - .4 * rem, y: plot.y(mark) + .25 * rem, "text-anchor": "end" }, this.format(mark)),
      ]),
      ...this.paint(plot),
      ...this.#valuesAtPointer(plot),
    );
  }

  #point(x) {
    this.#pointer = x;
    this.redraw();
  }

  #valuesAtPointer(plot) {
    const found = this.#pointer === null ? undefined : this.nearest(plot, this.#pointer);
    if (!found) return [];
    return [
      line(found.x, plot.top, found.x, plot.bottom, "pointer"),
      element("text", { class: "values", x: plot.right, y: .75 * plot.rem, "text-anchor": "end" }, found.text),
    ];
  }
}

/** Lines over the last `seconds`. `series` are names, at most two. */
export class LineChart extends Chart {
  #points = [];
  #end = 0;

  constructor(figure, { name, unit, seconds, series, format = compact }) {
    super(figure, name, unit, format);
    Object.assign(this, { seconds, series, end: "now" });
    this.draw([], 0);
  }

  /** Draws points `{time, values}`: `time` in seconds, one value per series. `end` is the time at
   *  the right edge. */
  draw(points, end) {
    this.#points = points;
    this.#end = end;
    const last = points.at(-1)?.values ?? [];
    const items = this.series.map((name, i) => element("span", {},
      element("i", { class: colour(i) }), `${name} `, element("b", {}, last.length ? this.format(last[i]) : "–")));
    this.caption.replaceChildren(...(items.length > 1 ? items : []));
    const values = this.series.map((name, i) => `${name} ${last.length ? this.format(last[i]) : "unknown"}`);
    this.svg.setAttribute("aria-label",
      `${this.name}, last ${this.seconds} seconds: ${values.join(", ")}; highest ${this.format(this.highest())}`);
    this.redraw();
  }

  highest() {
    return Math.max(0, ...this.#points.flatMap((point) => point.values));
  }

  paint(plot) {
    const parts = [];
    for (let part = 0; part <= 4; part++) {
      const at = plot.left + part / 4 * (plot.right - plot.left);
      const ago = this.seconds * (1 - part / 4);
      const label = ago === 0 ? this.end : `−${ago % 60 ? `${ago} s` : `${ago / 60} min`}`;
      const isOmitted = part % 2 && plot.width < NARROW_PX;
      const anchor = part === 0 ? "start" : part === 4 ? "end" : "middle";
      parts.push(line(at, plot.bottom, at, plot.bottom + .3 * plot.rem, "axis"),
        element("text", { x: at, y: plot.bottom + 1.2 * plot.rem, "text-anchor": anchor }, isOmitted ? "" : label));
    }
    this.series.forEach((_, i) => parts.push(...this.#curve(i, plot)));
    return parts;
  }

  nearest(plot, at) {
    const distance = (point) => Math.abs(this.#x(plot, point.time) - at);
    const [found] = this.#shown().sort((one, other) => distance(one) - distance(other));
    if (!found) return undefined;
    const ago = Math.round(this.#end - found.time), values = found.values.map((value) => this.format(value));
    const named = values.length > 1 ? values.map((value, i) => `${this.series[i]} ${value}`) : values;
    return { x: this.#x(plot, found.time), text: `${ago ? `−${ago} s` : this.end}: ${named.join(", ")}` };
  }

  #x(plot, time) {
    return plot.right - (this.#end - time) / this.seconds * (plot.right - plot.left);
  }

  #shown() {
    return this.#points.filter((point) => point.time >= this.#end - this.seconds);
  }

  #curve(series, plot) {
    const points = this.#shown(), x = (time) => this.#x(plot, time);
    if (!points.length) return [];
    const path = points.map((point) => `${x(point.time).toFixed(1)},${plot.y(point.values[series]).toFixed(1)}`).join("L");
    const shapes = [element("path", { class: colour(series), d: `M${path}${points.length === 1 ? "h.01" : ""}` })];
    if (series === 0 && points.length > 1) {
      const area = `M${path}V${plot.bottom}H${x(points[0].time).toFixed(1)}Z`;
      shapes.unshift(element("path", { class: `area ${colour(series)}`, d: area }));
    }
    return shapes;
  }
}

/** One bar per label. */
export class BarChart extends Chart {
  #values = [];

  constructor(figure, { name, unit, labels, format = compact }) {
    super(figure, name, unit, format);
    this.labels = labels;
    this.draw(labels.map(() => 0), "–");
  }

  /** Draws one value per label, below the text `caption`. */
  draw(values, caption) {
    this.#values = values;
    this.caption.textContent = caption;
    const bars = values.map((value, i) => value && `${this.labels[i]}: ${value}`).filter(Boolean);
    this.svg.setAttribute("aria-label", `${this.name}: ${bars.join(", ") || "none"}`);
    this.redraw();
  }

  highest() {
    return Math.max(0, ...this.#values);
  }

  paint(plot) {
    const each = (plot.right - plot.left) / this.labels.length, every = plot.width < NARROW_PX ? 3 : 2;
    return this.#values.flatMap((value, i) => {
      const at = plot.left + i * each, top = plot.y(value);
      const bar = element("rect", { class: colour(0), x: at + each * .12, y: top, width: each * .76, height: plot.bottom - top, rx: 2 });
      if (i % every) return [bar];
      return [bar, element("text", { x: at + each / 2, y: plot.bottom + 1.2 * plot.rem, "text-anchor": "middle" }, this.labels[i])];
    });
  }

  nearest(plot, at) {
    const each = (plot.right - plot.left) / this.labels.length;
    const bar = Math.min(this.labels.length - 1, Math.max(0, Math.floor((at - plot.left) / each)));
    return { x: plot.left + (bar + .5) * each, text: `${this.labels[bar]}: ${this.format(this.#values[bar])}` };
  }
}

function colour(series) {
  return ["first", "second"][series];
}

function line(x1, y1, x2, y2, className) {
  return element("line", { x1, y1, x2, y2, class: className });
}

/** Returns the next of 1, 2, 5, 10, 20, 50 … */
function roundStep(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}
