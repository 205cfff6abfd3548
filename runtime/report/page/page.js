"use strict";
// Draws the runs of `data` (runtime/report/report_data.h). Colour and dashes tell runs apart, or the
// curves of one; marks tell curves of a chart apart; nothing depends on colour alone.

const palettes = {
  light: ["#0068a8", "#c24e00", "#007a5a", "#a03d86", "#7a6400", "#3f4bb8", "#8c2d2d", "#444b55"],
  dark: ["#5cb8f0", "#ff9a52", "#3fd0a2", "#ec9fd4", "#efe04a", "#a9b1ff", "#ff9d9d", "#d5dae0"],
};
const dashes = [null, [8, 3], [2, 2], [9, 3, 2, 3], [14, 4], [4, 4], [2, 5], [9, 2, 2, 2, 2, 2]];
const shapes = [null, "circle", "square", "triangle"];

// One chart each; a curve that no run has is left out, and a chart without curves too. `dull` is the value of
// a run that does not use the thing: without overflow, nothing to show.
const charts = [
  {id: "loss", title: "Loss", wide: true, smooth: true, curves: [
    {key: "loss", name: "train"}, {key: "validation", name: "validation", shape: "circle"},
    {key: "ema_validation", name: "validation, averaged weights", shape: "square"}]},
  {id: "grad_norm", title: "Gradient norm", note: "before clipping", log: true, smooth: true,
    curves: [{key: "grad_norm", name: "norm"}], line: "clip_threshold"},
  {id: "clip_coefficient", title: "Clip coefficient", smooth: true, dull: 1, curves: [{key: "clip_coefficient", name: "coefficient"}]},
  {id: "learning_rate", title: "Learning rate", curves: [{key: "learning_rate", name: "rate"}]},
  {id: "loss_scale", title: "Loss scale", note: "crosses: overflow", log: true, stairs: true, dull: 1, curves: [
    {key: "loss_scale", name: "scale"}, {key: "overflow", name: "overflow", shape: "cross"}]},
  {id: "throughput", title: "Throughput", note: "tokens a second", smooth: true, zero: true,
    curves: [{key: "tokens_per_second", name: "tokens/s"}]},
  {id: "phases", title: "Time of a step", note: "seconds, mean of the ranks", smooth: true, zero: true, curves: [
    {key: "compute_seconds", name: "compute"}, {key: "wait_seconds", name: "wait", shape: "circle"},
    {key: "data_seconds", name: "data", shape: "square"}]},
];
// The chart that a finding of the doctor speaks of.
const chart_of_finding = {
  vanishing_gradients: "grad_norm", exploding_gradients: "grad_norm", clipping_always: "clip_coefficient",
  clipping_never: "clip_coefficient", loss_scale_thrash: "loss_scale", loss_scale_sinking: "loss_scale",
  slow_data: "phases", slow_rank: "phases",
};

const by_id = id => document.getElementById(id);
const state = {data: JSON.parse(by_id("data").textContent), axis: "steps", smoothing: 0, window: null, hidden: new Set(),
  statistic: null, layer_run: 0, etag: null, busy: false};
const live = state.data === null;
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = () => document.documentElement.dataset.theme === "dark";

function element(tag, text, attributes) {
  const made = Object.assign(document.createElement(tag), attributes);
  if (text !== undefined) made.textContent = text;
  return made;
}

function short(value) {
  if (value === null || !isFinite(value)) return "";
  const size = Math.abs(value);
  for (const [limit, suffix] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]])
    if (size >= limit) return +(value / (suffix === "k" ? 1e3 : limit)).toPrecision(4) + suffix;
  if (size > 0 && size < 1e-3) return Number(value.toPrecision(4)).toExponential();
  return String(+value.toPrecision(4));
}

function exact(value) {
  if (value === null || value === undefined || !isFinite(value)) return "none";
  return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e7 ? String(+value.toPrecision(6)) : value.toExponential(4);
}

// y at x, linear between the points of two rising lists.
function interpolate([xs, ys], x) {
  let low = 0, high = xs.length - 1;
  if (high < 0) return 0;
  if (x <= xs[0]) return xs[0] > 0 ? ys[0] * Math.max(x, 0) / xs[0] : ys[0];
  if (x >= xs[high]) return ys[high];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= x) low = middle; else high = middle;
  }
  return ys[low] + (ys[high] - ys[low]) * (x - xs[low]) / (xs[high] - xs[low]);
}

// A step of a run, on the axis chosen.
function place(run, step) {
  if (state.axis === "steps") return step;
  return state.axis === "tokens" ? interpolate(run.axes.tokens, step) : interpolate(run.axes.seconds, step) / 3600;
}

// Moving average with weights that fall by `factor` a point, without bias at the beginning.
function smooth(values, factor) {
  let sum = 0, weight = 0;
  return values.map(value => {
    if (value === null) return null;
    sum = factor * sum + (1 - factor) * value;
    weight = factor * weight + (1 - factor);
    return sum / weight;
  });
}

function draw_shape(context, shape, x, y, fill, size) {
  context.save();
  context.setLineDash([]);
  context.strokeStyle = context.fillStyle = fill;
  context.lineWidth = 1.5;
  context.beginPath();
  if (shape === "circle") context.arc(x, y, size, 0, 7);
  if (shape === "square") context.rect(x - size, y - size, 2 * size, 2 * size);
  if (shape === "triangle") { context.moveTo(x - size, y + size); context.lineTo(x + size, y + size); context.lineTo(x, y - size); context.closePath(); }
  if (shape === "cross") {
    context.moveTo(x - size, y - size); context.lineTo(x + size, y + size);
    context.moveTo(x - size, y + size); context.lineTo(x + size, y - size);
    context.stroke();
  } else {
    context.fill();
  }
  context.restore();
}

// The curves of a chart over all runs shown: label, points and style of each.
function lines_of(chart) {
  const runs = state.data.runs, palette = palettes[dark() ? "dark" : "light"], lines = [];
  const kinds = chart.curves.filter(curve => runs.some(run => run.curves[curve.key]));
  runs.forEach((run, index) => {
    const dull = chart.dull !== undefined && !run.curves.overflow && (run.curves[chart.curves[0].key]?.[1] ?? []).every(y => y === chart.dull || y === null);
    if (state.hidden.has(run.label) || dull) return;
    kinds.forEach(kind => {
      const points = run.curves[kind.key];
      if (!points) return;
      const look = runs.length > 1 ? index : chart.curves.indexOf(kind);
      const line = {label: runs.length > 1 ? `${run.label}: ${kind.name}` : kind.name, color: palette[look % palette.length],
        dash: dashes[look % dashes.length], shape: kind.shape ?? null, xs: points[0].map(step => place(run, step)), ys: points[1]};
      if (kind.shape === "cross") { line.color = colour("--mark"); line.dash = null; line.points_only = true; }
      if (chart.smooth && state.smoothing > 0 && !kind.shape) {
        lines.push({...line, label: line.label + " (raw)", raw: true});
        line.ys = smooth(line.ys, state.smoothing);
      }
      lines.push(line);
    });
    if (chart.line && run[chart.line] !== null && run.steps > 0) {
      const ends = [1, run.steps].map(step => place(run, step));
      const label = runs.length > 1 ? `${run.label}: clip threshold` : "clip threshold";
      lines.push({label, color: runs.length > 1 ? palette[index % palette.length] : colour("--mark"), dash: [3, 3], thin: true,
        xs: ends, ys: ends.map(() => run[chart.line])});
    }
  });
  return lines;
}

// Rows as dygraphs takes them: [x, y of each line], null where a line has no point at x, NaN at a gap.
function table_of(lines) {
  const rows = new Map();
  lines.forEach((line, column) => line.xs.forEach((x, k) => {
    let row = rows.get(x);
    if (!row) rows.set(x, row = [x, ...lines.map(() => null)]);
    row[column + 1] = line.ys[k] === null ? NaN : line.ys[k];
  }));
  return [...rows.values()].sort((a, b) => a[0] - b[0]);
}

function style_of(line) {
  const every = Math.max(1, Math.ceil(line.xs.length / 14));
  const draw = (g, name, context, x, y, fill, size, row) => {
    line.drawn = (line.drawn ?? 0) + 1;
    if (line.points_only || line.drawn % every === 0 || every === 1) draw_shape(context, line.shape, x, y, fill, 3.5);
  };
  return {color: line.raw ? line.color + "55" : line.color, strokePattern: line.dash, strokeWidth: line.points_only ? 0 : line.raw || line.thin ? 1 : 1.7,
    drawPoints: Boolean(line.shape), pointSize: 4, ...(line.shape ? {drawPointCallback: draw} : {})};
}

function sample_of(line) {
  const dash = (line.dash ?? []).join(" ");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("width", 30); svg.setAttribute("height", 12); svg.setAttribute("aria-hidden", "true");
  const mark = {circle: `<circle cx="15" cy="6" r="3.5" fill="${line.color}"/>`, square: `<rect x="11.5" y="2.5" width="7" height="7" fill="${line.color}"/>`,
    cross: `<path d="M11 2l8 8m0-8l-8 8" stroke="${line.color}" stroke-width="1.5"/>`}[line.shape] ?? "";
  svg.innerHTML = (line.points_only ? "" : `<path d="M0 6h30" stroke="${line.color}" stroke-width="2" stroke-dasharray="${dash}"/>`) + mark;
  return svg;
}

const axis_name = () => state.axis === "steps" ? "step" : state.axis === "tokens" ? "tokens" : "hours";
const axis_value = x => axis_name() === "step" ? `step ${Math.round(x)}` : axis_name() === "tokens" ? `${short(x)} tokens` : `${exact(x)} hours`;

// What stands above a chart: its lines, with their values under the pointer.
function show_values(chart, x, values) {
  const box = chart.box.querySelector(".values");
  box.replaceChildren();
  if (x !== null) box.append(element("span", axis_value(x)));
  chart.lines.forEach((line, column) => {
    if (line.raw) return;
    const item = element("span");
    item.append(sample_of(line), " ", line.label);
    if (x !== null && values[column] !== undefined) item.append(" ", element("b", exact(values[column])));
    box.append(item);
  });
}

// Of each line the point nearest to x.
function values_at(chart, x) {
  return chart.lines.map(line => {
    let low = 0, high = line.xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (line.xs[middle] <= x) low = middle; else high = middle;
    }
    const nearest = Math.abs((line.xs[high] ?? Infinity) - x) < Math.abs(line.xs[low] - x) ? high : low;
    return line.points_only && line.xs[nearest] !== x ? undefined : line.ys[nearest];
  });
}

// Behind the curves: the steps of findings shaded, steps that were not applied as ticks below.
function underlay(chart, context, area, g) {
  const edges = [area.x, area.x + area.w];
  state.data.runs.forEach(run => {
    if (state.hidden.has(run.label)) return;
    (run.findings ?? []).forEach(finding => {
      if (finding.severity === "info" || (chart_of_finding[finding.kind] ?? "loss") !== chart.id || !finding.steps) return;
      const [from, to] = finding.steps.map(step => Math.min(edges[1], Math.max(edges[0], g.toDomXCoord(place(run, step)))));
      context.fillStyle = colour("--shade");
      context.fillRect(from, area.y, Math.max(to - from, 2), area.h);
    });
    if (chart.id !== "loss") return;
    context.fillStyle = colour("--mark");
    run.unapplied.rows.forEach(([step]) => {
      const x = g.toDomXCoord(place(run, step));
      if (x >= edges[0] && x <= edges[1]) context.fillRect(x - 0.75, area.y + area.h - 7, 1.5, 7);
    });
  });
}

// One finger scrolls the page; two zoom.
function touches(name) {
  const usual = Dygraph.defaultInteractionModel[name];
  return (event, g, context) => { if (event.touches.length > 1 || context.touching) { context.touching = event.touches.length > 0; usual(event, g, context); } };
}

function base_options() {
  return {legend: "never", connectSeparatedPoints: true, axisLineColor: colour("--line"), gridLineColor: colour("--grid"), axisLabelFontSize: 12,
    highlightCircleSize: 4, rightGap: 10, dateWindow: state.window, drawCallback: follow_zoom,
    interactionModel: {...Dygraph.defaultInteractionModel, touchstart: touches("touchstart"), touchmove: touches("touchmove"), touchend: touches("touchend")},
    axes: {x: {axisLabelFormatter: short, pixelsPerLabel: 60}, y: {axisLabelFormatter: short, axisLabelWidth: 54, pixelsPerLabel: 34}}};
}

function make_box(chart) {
  chart.box = element("section", undefined, {id: "chart_" + chart.id, className: chart.wide ? "wide" : ""});
  const head = element("div", undefined, {className: "head"}), title = element("h2", chart.title + " ");
  if (chart.note) title.append(element("small", chart.note));
  const log = element("button", "log", {type: "button", title: "logarithmic axis"});
  log.setAttribute("aria-pressed", String(Boolean(chart.log)));
  log.onclick = () => { chart.log = !chart.log; log.setAttribute("aria-pressed", String(chart.log)); draw_chart(chart); };
  head.append(title, log);
  chart.box.append(head, element("p", undefined, {className: "values"}), element("div", undefined, {className: "plot", role: "img", ariaLabel: chart.title}));
}

// Where only points are new the chart stays, with what is zoomed and highlighted in it.
function draw_chart(chart) {
  chart.lines = lines_of(chart);
  chart.box.hidden = chart.lines.length === 0;
  const labels = [axis_name(), ...chart.lines.map(line => line.label)];
  const series = Object.fromEntries(chart.lines.map(line => [line.label, style_of(line)]));
  const log = Boolean(chart.log && chart.lines.some(line => line.ys.some(y => y > 0)));
  const look = JSON.stringify([labels, log, dark()]);
  if (chart.graph && look === chart.look) return chart.graph.updateOptions({file: table_of(chart.lines), series});
  chart.graph?.destroy();
  chart.graph = null;
  if (chart.box.hidden) return;
  chart.look = look;
  chart.graph = new Dygraph(chart.box.querySelector(".plot"), table_of(chart.lines), {...base_options(), labels, series, logscale: log,
    stepPlot: Boolean(chart.stairs), includeZero: Boolean(chart.zero && !log), underlayCallback: (context, area, g) => underlay(chart, context, area, g),
    highlightCallback: (event, x) => show_values(chart, x, values_at(chart, x)), unhighlightCallback: () => show_values(chart, null)});
  show_values(chart, null);
}

// A zoom in one chart is one in all.
function follow_zoom(g, first) {
  if (first || state.busy) return;
  const window = g.isZoomed("x") ? g.xAxisRange() : null;
  if (String(window) === String(state.window)) return;
  set_window(window, g);
}

function set_window(window, from) {
  state.window = window;
  state.busy = true;
  graphs().forEach(g => { if (g !== from) g.updateOptions({dateWindow: window}); });
  state.busy = false;
  by_id("reset").disabled = window === null;
  if (live) poll_soon(150);
}

const heat_map = {graph: null};
const graphs = () => [...charts.map(chart => chart.graph), heat_map.graph].filter(Boolean);

// Dark to bright with rising lightness, as viridis.
const ramp = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
function ramp_colour(share) {
  const at = Math.min(Math.max(share, 0), 1) * (ramp.length - 1), k = Math.min(Math.floor(at), ramp.length - 2);
  return `rgb(${ramp[k].map((from, i) => Math.round(from + (ramp[k + 1][i] - from) * (at - k))).join(",")})`;
}

// The range of a statistic, logarithmic where it spans more than a factor of 30.
function scale_of(rows) {
  const known = rows.flat().filter(value => value !== null), positive = known.filter(value => value > 0);
  const low = Math.min(...positive), high = Math.max(...known);
  const log = positive.length > 0 && known.every(value => value >= 0) && high > 30 * low;
  const from = log ? low : Math.min(...known);
  const share = value => high === from ? 0.5 : log ? Math.log(Math.max(value, low) / low) / Math.log(high / low) : (value - from) / (high - from);
  return {from, high, share, known: known.length > 0};
}

function draw_layers() {
  const runs = state.data.runs.filter(run => run.layers.steps.length > 0), box = by_id("layers");
  box.hidden = runs.length === 0;
  heat_map.graph?.destroy();
  heat_map.graph = null;
  if (box.hidden) return;
  const run = runs[Math.min(state.layer_run, runs.length - 1)], layers = run.layers, statistics = Object.keys(layers.values);
  if (!statistics.includes(state.statistic)) state.statistic = statistics.includes("grad_norm") ? "grad_norm" : statistics[0];
  fill_select(by_id("statistic"), statistics.map(name => [name, name.replaceAll("_", " ")]), state.statistic);
  fill_select(by_id("layer_run"), runs.map((each, index) => [index, each.label]), runs.indexOf(run));
  by_id("layers_of").hidden = runs.length < 2;
  const rows = layers.names.map((name, index) => layers.values[state.statistic][index] ?? []), scale = scale_of(rows);
  const xs = layers.steps.map(step => place(run, step)), box_values = box.querySelector(".values");
  const cells = e => {
    if (e.seriesIndex > 0 || !scale.known) return;
    const {x, y, w, h} = e.plotArea, edge = k => k < 0 ? -Infinity : k >= xs.length - 1 ? Infinity : e.dygraph.toDomXCoord((xs[k] + xs[k + 1]) / 2);
    const width = xs.length > 1 ? 0 : w;
    xs.forEach((at, k) => {
      const left = Math.max(x, edge(k - 1)), right = Math.min(x + w, edge(k) + width);
      if (right <= left) return;
      rows.forEach((row, index) => {
        if (row[k] === null || row[k] === undefined) return;
        e.drawingContext.fillStyle = ramp_colour(scale.share(row[k]));
        e.drawingContext.fillRect(left, y + h * (1 - (index + 1) / rows.length), right - left + 0.5, h / rows.length - (rows.length < 40 ? 1 : 0));
      });
    });
  };
  const every = Math.ceil(layers.names.length / 16);
  const ticker = () => layers.names.map((name, index) => ({v: index, label: name, index})).filter(tick => tick.index % every === 0);
  const options = base_options();
  options.axes.y = {ticker, axisLabelWidth: 84, drawGrid: false};
  const span = xs.length > 1 ? null : {dateWindow: state.window ?? [xs[0] - 1, xs[0] + 1]};
  heat_map.graph = new Dygraph(box.querySelector(".plot"), xs.map(x => [x, ...layers.names.map((name, index) => index)]), {...options, ...span,
    labels: [axis_name(), ...layers.names], valueRange: [-0.5, layers.names.length - 0.5], plotter: cells, highlightCircleSize: 0,
    highlightCallback: (event, x, points, row) => {
      const plot = box.querySelector(".plot").getBoundingClientRect();
      const index = Math.round(heat_map.graph.toDataYCoord(event.clientY - plot.top));
      if (!rows[index]) return;
      box_values.replaceChildren(element("span", axis_value(x)), element("span", layers.names[index]), element("b", exact(rows[index][row])));
    }, unhighlightCallback: () => explain()});
  const explain = () => { box_values.textContent = "Each cell is a layer at a step; where cells share a place, the greatest value. Brighter is greater."; };
  explain();
  const context = by_id("ramp").querySelector("canvas").getContext("2d");
  for (let k = 0; k < 160; ++k) { context.fillStyle = ramp_colour(k / 159); context.fillRect(k, 0, 1, 12); }
  by_id("ramp_low").textContent = scale.known ? short(scale.from) : "";
  by_id("ramp_high").textContent = scale.known ? short(scale.high) : "";
}

function fill_select(select, entries, chosen) {
  if (select.options.length !== entries.length || entries.some(([value, text], k) => select.options[k].text !== text))
    select.replaceChildren(...entries.map(([value, text]) => element("option", text, {value})));
  select.value = chosen;
}

function table(box, titles, rows) {
  const made = element("table"), head = element("tr");
  titles.forEach(title => head.append(element("th", title)));
  made.append(element("thead"), element("tbody"));
  made.tHead.append(head);
  made.tBodies[0].append(...rows.map(cells => { const row = element("tr"); cells.forEach(cell => row.append(element("td", cell))); return row; }));
  box.querySelector(".scroll").replaceChildren(made);
}

function draw_tables() {
  const {runs, config} = state.data, many = runs.length > 1, names = [...new Set(runs.flatMap(run => run.facts.map(fact => fact[0])))];
  table(by_id("facts"), ["", ...runs.map(run => run.label)], names.map(name => [name, ...runs.map(run => (run.facts.find(fact => fact[0] === name) ?? ["", ""])[1])]));
  by_id("config").hidden = config.length === 0;
  table(by_id("config"), ["key", ...runs.map(run => run.label)], config.map(entry => [entry.key, ...entry.values]));
  const steps = runs.flatMap(run => run.unapplied.rows.map(([step, outcome, why]) => [...(many ? [run.label] : []), String(step), outcome.replace("_", " "), why]));
  by_id("unapplied").hidden = steps.length === 0;
  const counted = runs.flatMap(run => Object.values(run.unapplied.counts)).reduce((sum, count) => sum + count, 0);
  by_id("unapplied").querySelector(".values").textContent = (counted > steps.length ? `The newest ${steps.length} of ${counted}: ` : "") + runs.map(run => (many ? run.label + ": " : "") +
    (Object.entries(run.unapplied.counts).map(([outcome, count]) => `${count} ${outcome.replace("_", " ")}`).join(", ") || "none")).join("; ");
  table(by_id("unapplied"), [...(many ? ["run"] : []), "step", "outcome", "why"], steps);
}

function draw_findings() {
  const found = state.data.runs.flatMap(run => (run.findings ?? []).map(finding => [run, finding]));
  by_id("findings").hidden = found.length === 0;
  by_id("findings").querySelector(".scroll").replaceChildren(...found.map(([run, finding]) => {
    const box = element("div", undefined, {className: "finding"}), head = element("p");
    const where = [state.data.runs.length > 1 ? run.label : "", finding.steps ? `steps ${finding.steps[0]} to ${finding.steps[1]}` : "", (finding.layers ?? []).join(", ")];
    head.append(element("span", finding.severity, {className: "severity " + finding.severity}), " ", element("b", finding.kind.replaceAll("_", " ")), " ",
      where.filter(Boolean).join(" · "));
    box.append(head, element("p", finding.evidence));
    if ((finding.causes ?? []).length > 0) box.append(element("p", "Likely: " + finding.causes.join("; ")));
    (finding.advice ?? []).forEach(advice => {
      const line = element("p");
      if (advice.set) line.append("Try ", element("code", "--set " + advice.set), ": ");
      line.append(advice.why);
      box.append(line);
    });
    if (finding.replay) box.append(element("p", "To compute the step again: lockstep replay " + finding.replay));
    return box;
  }));
}

function draw_header() {
  const runs = state.data.runs, palette = palettes[dark() ? "dark" : "light"];
  by_id("title").textContent = runs.length === 1 ? runs[0].label : `${runs.length} runs`;
  document.title = runs.map(run => run.label).join(", ") + " · Lockstep";
  by_id("runs").hidden = runs.length < 2;
  by_id("runs").replaceChildren(...runs.map((run, index) => {
    const label = element("label"), box = element("input", undefined, {type: "checkbox", checked: !state.hidden.has(run.label)});
    box.onchange = () => { box.checked ? state.hidden.delete(run.label) : state.hidden.add(run.label); draw(); };
    label.append(box, sample_of({color: palette[index % palette.length], dash: dashes[index % dashes.length]}), run.label);
    return label;
  }));
  by_id("empty").hidden = runs.some(run => run.steps > 0);
  if (!live) by_id("status").textContent = runs.length === 1 && runs[0].total_steps ? `step ${runs[0].steps} of ${runs[0].total_steps}` : "";
}

function draw() {
  if (!state.data) return;
  draw_header();
  charts.forEach(draw_chart);
  draw_layers();
  draw_tables();
  draw_findings();
}

let timer = null;
function poll_soon(milliseconds) {
  clearTimeout(timer);
  timer = setTimeout(poll, milliseconds);
}

// The steps looked at, for curves in full detail. Of the axes of several runs the widest span.
function query() {
  if (!state.window || !state.data) return "";
  const steps = state.data.runs.flatMap(run => state.window.map(x => state.axis === "steps" ? x
    : interpolate([...(state.axis === "tokens" ? run.axes.tokens : run.axes.seconds)].reverse(), state.axis === "hours" ? x * 3600 : x)));
  const low = Math.min(...steps), high = Math.max(...steps), margin = (high - low) / 4;
  return `?from=${Math.max(0, Math.floor(low - margin))}&to=${Math.ceil(high + margin)}`;
}

// Nothing is redrawn under a finger or a pressed button.
let pressed = false;
addEventListener("pointerdown", () => { pressed = true; });
for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => { pressed = false; });

async function poll() {
  if (document.hidden || pressed) return poll_soon(500);
  const status = by_id("status");
  try {
    const asked = query();
    const answer = await fetch("data.json" + asked, {cache: "no-store", headers: state.etag ? {"If-None-Match": state.etag} : {}});
    if (answer.status !== 304) {
      if (!answer.ok) throw new Error(await answer.text() || answer.statusText);
      const data = await answer.json();
      while (pressed) await new Promise(resolve => setTimeout(resolve, 100));
      state.data = data;
      state.etag = answer.headers.get("ETag");
      draw();
    }
    const {runs} = state.data;
    status.textContent = "live · " + (runs.length === 1 ? `step ${runs[0].steps}${runs[0].total_steps ? " of " + runs[0].total_steps : ""}` : `${runs.length} runs`);
    status.className = "";
  } catch (problem) {
    status.textContent = "not up to date: " + problem.message;
    status.className = "lost";
  }
  poll_soon(2000);
}

function choose_theme() {
  const chosen = by_id("theme").value, system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  document.documentElement.dataset.theme = chosen || system;
  draw();
}

charts.forEach(chart => { make_box(chart); by_id("charts").append(chart.box); });
by_id("axis").onchange = event => { state.axis = event.target.value; set_window(null, null); draw(); if (live) poll_soon(0); };
by_id("smoothing").oninput = event => { state.smoothing = +event.target.value; by_id("smoothing_value").textContent = event.target.value; charts.forEach(draw_chart); };
by_id("reset").onclick = () => { set_window(null, null); };
by_id("statistic").onchange = event => { state.statistic = event.target.value; draw_layers(); };
by_id("layer_run").onchange = event => { state.layer_run = +event.target.value; draw_layers(); };
by_id("theme").onchange = choose_theme;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", choose_theme);
choose_theme();
if (live) poll();
