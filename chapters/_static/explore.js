// The figure of the page "Explore it yourself": five sliders, a table of recorded runs, one curve.
// The page holds this script and its data inline; no other page loads it. Two integer matrices,
// which come with the data, say which run a setting is. Nothing is interpolated.
(() => {
"use strict";

const STYLE = `
.explore { --muted: var(--pst-color-text-muted, var(--jp-ui-font-color2, #666));
  --back: var(--pst-color-background, var(--jp-layout-color0, #fff));
  --edge: var(--pst-color-border, var(--jp-border-color1, #bbb)); --this: #0975c0;
  background-color: var(--pst-color-background, transparent);
  color: var(--pst-color-text-base, var(--jp-ui-font-color1, #222)); max-width: 42rem; margin: 0; }
.explore .settings { display: flex; flex-wrap: wrap; gap: 0.35rem; margin: 0 0 0.8rem; }
.explore button { background: var(--back); border: 1px solid var(--edge); border-radius: 0.3rem;
  color: inherit; cursor: pointer; font: inherit; font-size: 0.85rem; min-height: 2rem;
  padding: 0.15rem 0.6rem; }
.explore button:hover { border-color: var(--this); }
.explore button[aria-pressed="true"] { border-color: var(--this); box-shadow: 0 0 0 1px var(--this); }
.explore label { align-items: center; display: grid; gap: 0 0.8rem; margin: 0; min-height: 2.1rem;
  grid-template-columns: 12.5rem 1fr 5rem; font-size: 0.92rem; }
.explore input { accent-color: var(--this); margin: 0; min-width: 0; width: 100%; }
.explore label span:last-child { font-variant-numeric: tabular-nums; text-align: right; }
.explore svg { display: block; overflow: visible; font-size: 13.5px; margin: 0.8rem 0 0.2rem; }
.explore text { fill: currentColor; stroke: var(--back); stroke-width: 3px; paint-order: stroke; }
.explore .grid, .explore .axis { stroke: currentColor; stroke-width: 0.6; opacity: 0.18; }
.explore .axis { opacity: 1; }
.explore .level { stroke: currentColor; stroke-dasharray: 4 3; }
.explore .posted { stroke: var(--muted); stroke-width: 5; opacity: 0.7; fill: none; }
.explore .this { stroke: var(--this); stroke-width: 2.2; fill: none; }
.explore text.name { font-weight: 600; }
.explore .said { margin: 0.5rem 0; min-height: 4.7em; }
.explore figcaption { font-size: 0.9rem; margin: 0; padding: 0; text-align: left; }
@media (max-width: 600px) {
  .explore label { grid-template-columns: 1fr auto; padding: 0.25rem 0; }
  .explore input { grid-column: 1 / 3; grid-row: 2; min-height: 1.8rem; }
}`;
const HEIGHT = 280, LEFT = 54, RIGHT = 98, TOP = 30, BOTTOM = 44; // of the drawing, in pixels

const times = (matrix, vector) =>
  matrix.map((row) => row.reduce((sum, weight, k) => sum + weight * vector[k], 0));

// --- numbers as words -------------------------------------------------------------------------

const grouped = (number, digits = 3) => number.toLocaleString("en", { maximumSignificantDigits: digits });
const percent = (tenThousandths) => `${(tenThousandths / 100).toFixed(1)} %`;

// A factor, given as its power of two: "× 256", "/ 256"; in words "times 256", "divided by 256".
function factor(power, [above, below] = ["×", "/"]) {
  if (power === 0) return "as posted";
  return `${power > 0 ? above : below} ${grouped(2 ** Math.abs(power), 9)}`;
}

function spoken(power) {
  return factor(power, ["times", "divided by"]);
}

function powerOfTen(exponent) {
  return "10" + String(exponent).replace(/./g, (sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]);
}

// 2.13 or 1,050 or 4.04 × 10¹⁹.
function level(value) {
  if (value >= 1e-4 && value < 1e5) return grouped(value, 4);
  const [digits, exponent] = value.toExponential(2).split("e");
  return `${Number(digits) === 1 ? "" : `${Number(digits)} × `}${powerOfTen(Number(exponent))}`;
}

// --- the curve --------------------------------------------------------------------------------

// 1, 2 and 5 of every decade, with the two that enclose the values; at most seven get a label.
function logAxis(values) {
  const every = Array.from({ length: 150 }, (_, k) => Number(`${[1, 2, 5][k % 3]}e${Math.floor(k / 3) - 10}`));
  const low = every.findLastIndex((tick) => tick <= Math.min(...values));
  const high = every.findIndex((tick) => tick >= Math.max(...values));
  const range = every.map((_, k) => k).slice(low, high + 1);
  const sparse = range.length > 7 ? range.filter((k) => k % 3 === 0) : range;
  const step = Math.ceil(sparse.length / 7);
  const ticks = sparse.filter((_, k) => k % step === 0).map((k) => every[k]);
  const [bottom, top] = [every[low], every[high]].map(Math.log);
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (top - Math.log(value)) / (top - bottom);
  return { ticks, y };
}

// The part of a run before its first loss that is not finite, and a cross if it ends early.
function line(run, kind, x, y, epochs) {
  const end = run.losses.findIndex((loss) => loss === null);
  const losses = end < 0 ? run.losses : run.losses.slice(0, end);
  if (losses.length === 0) return "";
  const points = losses.map((loss, k) => `${x(k + 1).toFixed(1)} ${y(loss).toFixed(1)}`);
  const cross = losses.length < epochs ? `M${points.at(-1)}m-5-5l10 10m0-10l-10 10` : "";
  return `<path class="${kind}" d="M${points.join("L")}${cross}"/>`;
}

// Names beside the ends of the lines, moved apart where they would touch.
function names(ends) {
  ends.sort((a, b) => a.y - b.y);
  const close = ends.length === 2 && ends[0].x === ends[1].x;
  const short = close ? Math.max(0, 18 - (ends[1].y - ends[0].y)) / 2 : 0;
  return ends.map((end, k) =>
    `<text class="name" x="${end.x + 10}" y="${(end.y + 5 + (k ? short : -short)).toFixed(1)}">${end.name}</text>`);
}

function drawing(width, epochs, run, posted, message) {
  const runs = [["posted", "as posted", posted], ["this", "this setting", run]].filter(([, , r]) => r);
  const finite = runs.flatMap(([, , r]) => r.losses).filter((loss) => loss !== null);
  const { ticks, y } = logAxis([1.2, 2.5, ...finite]);
  const right = width - RIGHT, foot = HEIGHT - BOTTOM;
  const x = (epoch) => LEFT + (right - LEFT) * (epoch - 1) / (epochs - 1);
  const parts = ticks.map((tick) => `<path class="grid" d="M${LEFT} ${y(tick)}H${right}"/>` +
    `<text x="${LEFT - 7}" y="${y(tick) + 5}" text-anchor="end">${level(tick)}</text>`);
  for (const epoch of [1, 5, 10, 15, 20].filter((e) => e <= epochs)) {
    parts.push(`<text x="${x(epoch)}" y="${foot + 18}" text-anchor="middle">${epoch}</text>`);
  }
  parts.push(`<path class="axis" fill="none" d="M${LEFT} ${TOP}V${foot}H${right}"/>`,
    `<text x="${(LEFT + right) / 2}" y="${HEIGHT - 6}" text-anchor="middle">epoch</text>`,
    `<text x="0" y="14">training loss (nats)</text>`,
    `<path class="level" d="M${LEFT} ${y(Math.LN10)}H${right}"/>`);
  const curves = runs.map(([kind, , r]) => line(r, kind, x, y, epochs));
  const ends = runs.filter(([, , r]) => r.losses[0] !== null).map(([, name, r]) => {
    const losses = r.losses.filter((loss) => loss !== null);
    return { name, x: x(losses.length), y: y(losses.at(-1)) };
  });
  parts.push(...curves, ...names(ends));
  parts.push(`<text x="${right - 4}" y="${y(Math.LN10) - 5}" text-anchor="end">ln 10</text>`);
  if (message) parts.push(`<text x="${(LEFT + right) / 2}" y="${TOP + 24}" text-anchor="middle" class="name">${message}</text>`);
  return parts.join("");
}

// --- the figure -------------------------------------------------------------------------------

// [test accuracy, share of dead units, step of divergence or null, loss of each epoch …] as written
// by Python; 0 is a setting without a run, undefined one outside the grid.
function unpack(row) {
  return row && { accuracy: row[0], dead: row[1], diverged: row[2], losses: row.slice(3) };
}

function result(run) {
  if (run === undefined) return "No run was made this far out.";
  if (run === 0) return "This setting is not yet run.";
  const right = `${percent(run.accuracy)} of the test images are right at the end`;
  if (run.diverged !== null) { // units that are no finite number do not count as dead
    return `From step ${grouped(run.diverged, 9)} on the loss is no finite number, and the run stops. ${right}.`;
  }
  return `${right}, and ${percent(run.dead)} of the hidden units are dead. ` +
    `The loss of the last epoch is ${level(run.losses.at(-1))}.`;
}

function same(setting, twin, names) {
  if (setting.every((power) => power === 0)) return "This is the net as posted.";
  if (twin.every((power) => power === 0)) return "It is the posted net in disguise: the same outputs at every step.";
  const changed = [];
  for (const layer1 of [1, 3]) { // weights, then learning rates
    const [one, two] = twin.slice(layer1, layer1 + 2), name = names[layer1];
    if (one === two) changed.push([name.replace("layer 1", "both layers"), one]);
    else changed.push([name, one], [names[layer1 + 1], two]);
  }
  const list = changed.filter(([, power]) => power !== 0).map(([name, power]) => `${name} ${spoken(power)}`);
  return `Its twin, with inputs as posted: ${list.join(", ")}, the rest as posted.`;
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function slider([name, powers], onInput) {
  const input = element("input", { type: "range", min: 0, max: powers.length - 1, step: 1 });
  const value = element("span", { ariaHidden: "true" });
  const show = () => {
    value.textContent = factor(powers[input.value]);
    input.setAttribute("aria-valuetext", `${name} ${spoken(powers[input.value])}`);
  };
  input.addEventListener("input", () => { show(); onInput(); });
  return {
    row: element("label", {}, element("span", { textContent: name }), input, value),
    get: () => powers[input.value],
    set: (power) => { input.value = powers.indexOf(power); show(); },
  };
}

function start(root) {
  const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const runOf = (setting) => unpack(data.runs[times(data.invariants, setting).join()]);
  const posted = runOf(data.sliders.map(() => 0)) || null;
  const chart = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  chart.setAttribute("role", "img");
  const said = element("p", { className: "said", role: "status", ariaLive: "polite" });
  const sliders = data.sliders.map((given) => slider(given, update));
  const buttons = data.presets.map(([label, setting]) => {
    const button = element("button", { type: "button", textContent: label });
    button.addEventListener("click", () => { sliders.forEach((s, k) => s.set(setting[k])); update(); });
    return button;
  });
  let waiting;

  function draw() {
    const setting = sliders.map((s) => s.get()), run = runOf(setting);
    const width = Math.max(290, root.clientWidth), plain = setting.every((power) => power === 0);
    chart.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    chart.setAttribute("width", width);
    chart.setAttribute("aria-label", `Training loss of each epoch, this setting beside the posted net. ${result(run)}`);
    const message = run === undefined ? "no run this far out" : run === 0 ? "not yet run" : "";
    chart.innerHTML = drawing(width, data.epochs, plain ? null : run, posted, message);
    data.presets.forEach(([, preset], k) =>
      buttons[k].setAttribute("aria-pressed", String(preset.every((power, i) => power === setting[i]))));
    const twin = times(data.unscaled, times(data.invariants, setting));
    return `${result(run)} ${same(setting, twin, data.sliders.map(([name]) => name))}`;
  }

  function update() { // the curve at once; the sentence when the slider rests, so it is read once
    const sentence = draw();
    clearTimeout(waiting);
    waiting = setTimeout(() => { said.textContent = sentence; }, 200);
  }

  const group = (name, className, items) => {
    const box = element("div", { className, role: "group", ariaLabel: name });
    box.append(...items);
    return box;
  };
  root.prepend(element("style", { textContent: STYLE }),
    group("Settings to start from", "settings", buttons),
    group("Factors on the posted settings", "factors", sliders.map((s) => s.row)), chart, said);
  sliders.forEach((s) => s.set(0));
  said.textContent = draw();
  new ResizeObserver(draw).observe(root);
}

for (const root of document.querySelectorAll(".explore:not([data-started])")) {
  root.dataset.started = "";
  start(root);
}
})();
