"use strict";
// Draws the page's charts as they come into view. What they show was decided where the page was made; this script
// only chooses between windows, hides and shows, and sets the colours of the ground.
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const charts = [...document.querySelectorAll(".chart")];
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const hidden = { hue: new Set(), dash: new Set() };
  const kept = history.state ?? {};
  let window_ = page.windows[0];
  let dark = kept.dark ?? prefersDark.matches;
  let printing = false;

  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const isHidden = (group) => hidden.hue.has(page.groups[group].hue) || hidden.dash.has(page.groups[group].dash);
  const windowOf = (data) => data[window_] ?? Object.values(data)[0];
  const faint = (color) => color + "2a";

  // Numbers.
  const trim = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
  const plain = (x) => {
    const size = Math.abs(x);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return x.toExponential(1).replace("e+", "e");
    return trim(x.toFixed(size < 1 ? 4 : size < 100 ? 3 : 1));
  };
  const minus = (text) => text.replace("-", "−");
  const shown = (kind, x) => minus(kind === "share" ? trim((100 * x).toFixed(2)) + " %" : kind === "count" ? trim(x.toFixed(1)) : plain(x));
  // A tick has as many decimals as its step needs.
  const tick = (kind, step) => (x) => {
    const by = kind === "share" ? 100 : 1;
    const scaled = by * x;
    const whole = (d) => Math.abs(by * step * 10 ** d - Math.round(by * step * 10 ** d)) < 1e-6 * 10 ** d * by * step;
    const decimals = [0, 1, 2, 3, 4, 5].find(whole) ?? 6;
    const text = Math.abs(scaled) >= 1e5 || decimals > 5 ? scaled.toExponential(0).replace("e+", "e") : scaled.toFixed(decimals);
    return minus(kind === "share" ? text + "%" : text);
  };

  const thousands = (x) => (x >= 1e4 ? trim((x / 1000).toFixed(1)) + "k" : String(x));

  // One box for all explanations, above or below what it is about, never on it.
  const tip = document.getElementById("tip");
  function showTip(nodes, box, x) {
    tip.replaceChildren(...nodes);
    tip.hidden = false;
    const below = box.bottom + tip.offsetHeight + 10 < innerHeight || box.top < tip.offsetHeight + 10;
    tip.style.left = Math.max(8, Math.min(x, innerWidth - tip.offsetWidth - 12)) + "px";
    tip.style.top = (below ? box.bottom + 4 : box.top - tip.offsetHeight - 4) + "px";
  }
  const hideTip = () => { tip.hidden = true; };
  const element = (name, text, style) => {
    const node = document.createElement(name);
    node.textContent = text;
    if (style) Object.assign(node.style, style);
    return node;
  };
  // A title, and rows of colour, value and name.
  const MOST = 14;
  function rows(title, of) {
    const nodes = [element("b", title)];
    for (const { color, value, name } of of.slice(0, MOST)) {
      const row = element("div", "");
      row.append(element("i", "", { background: color ?? "transparent" }), element("span", value), element("em", name));
      nodes.push(row);
    }
    if (of.length > MOST) nodes.push(element("em", `and ${of.length - MOST} more`));
    return nodes;
  }

  // Curves that are the same all along: each is drawn as the gaps of the others.
  function coinciding(curves, range) {
    const near = 0.004 * (range[1] - range[0]);
    const same = (a, b) => a.xs.length === b.xs.length && a.xs.every((x, i) => x === b.xs[i]) && a.y.every((y, i) => Math.abs(y - b.y[i]) <= near);
    const sets = [];
    for (const curve of curves) {
      const set = sets.find((set) => same(set[0], curve));
      if (set) set.push(curve);
      else sets.push([curve]);
    }
    for (const set of sets.filter((set) => set.length > 1)) {
      const piece = 9;
      set.forEach((curve, k) => Object.assign(curve, { dashes: [piece, piece * (set.length - 1)], offset: -piece * k }));
    }
  }

  // The curves of a chart as it is now, in a form common to all kinds.
  function curvesOf(chart) {
    if (chart.x === "density") {
      const site = page.sites[chart.site];
      const middles = site.edges.slice(1).map((edge, i) => (edge + site.edges[i]) / 2);
      const out = [];
      for (const number of chart.of) {
        const from = page.charts[number];
        const of = windowOf(from.data);
        const group = page.groups[from.g];
        const every = chart.epochs ?? [[of.epochs.at(-1), group.color]];
        for (const [epoch, color] of every) {
          const column = of.epochs.indexOf(epoch);
          if (column < 0 || (!chart.epochs && isHidden(from.g))) continue;
          const density = of.density[column].map((n) => n / 1e5);
          out.push({
            xs: [site.edges[0], ...middles, site.edges.at(-1)], y: [0, ...density, 0], color,
            dashes: chart.epochs ? [] : group.line, name: chart.epochs ? `epoch ${epoch}` : group.name, fill: chart.of.length === 1,
            zeros: of.zeros[column], zeroText: of.names[column], widths: site.edges.slice(1).map((edge, i) => edge - site.edges[i]),
          });
        }
      }
      return out;
    }
    return windowOf(chart.data).filter((curve) => !isHidden(curve.g)).map((curve) => {
      const group = page.groups[curve.g];
      return { ...curve, xs: page.axes[curve.x], color: group.color, dashes: group.line, name: group.name };
    });
  }

  const ratio = () => (printing ? 2 : devicePixelRatio || 1);
  // Charts are drawn for paper while the page still has the layout of the screen: their size there is that of page.css.
  const sizeOf = (box) => (printing ? [220, 172] : [box.clientWidth, box.clientHeight]);
  const font = "11px system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif";

  function drawCurves(box, chart) {
    const [width, height] = sizeOf(box);
    const curves = curvesOf(chart);
    const density = chart.x === "density";
    const site = density ? page.sites[chart.site] : null;
    // Charts of one site have one height, but for that of the last epochs, which is about those alone.
    const most = density && (chart.epochs ? site.most : Math.max(...curves.flatMap((curve) => curve.y), 1e-6));
    const range = density ? [0, 1.06 * most] : chart.range;
    const kind = density ? "share" : chart.kind;
    coinciding(curves.filter((curve) => !curve.dots), range);
    // All on the same places.
    const xs = [...new Set(curves.flatMap((curve) => curve.xs))].sort((a, b) => a - b);
    const place = new Map(xs.map((x, i) => [x, i]));
    const aligned = (curve, ys) => {
      const out = new Array(xs.length).fill(null);
      curve.xs.forEach((x, i) => { out[place.get(x)] = ys[i]; });
      return out;
    };
    const data = [xs];
    const series = [{}];
    const bands = [];
    const offsets = [0];
    const add = (ys, of, offset = 0) => { data.push(ys); series.push({ scale: "y", spanGaps: true, ...of }); offsets.push(offset); };
    for (const curve of curves) {
      if (curve.low) {
        const edge = { stroke: "transparent", width: 0, points: { show: false } };
        add(aligned(curve, curve.high), edge);
        add(aligned(curve, curve.low), edge);
        bands.push({ series: [data.length - 2, data.length - 1], fill: faint(curve.color) });
      }
      curve.at = data.length;
      const alone = curve.dots || curve.xs.length === 1 || chart.x === "rate";
      add(aligned(curve, curve.y), {
        stroke: curve.color, width: 1.8, dash: curve.dashes.length ? curve.dashes : undefined, paths: curve.dots ? () => null : undefined,
        fill: curve.fill ? curve.color + "16" : undefined, points: { show: alone, size: curve.dots ? 6 : 5, fill: curve.dots ? css("--ground") : curve.color, width: 1.4 },
      }, curve.offset ?? 0);
    }
    const quiet = css("--quiet");
    const line = css("--line");
    const rates = ["= 0", ...Array.from({ length: 20 }, (_, k) => `${5 * k} to ${5 * k + 5} %`), "= 1"];
    const whole = chart.x === "epoch" || chart.x === "step";
    const axis = { stroke: quiet, font, ticks: { stroke: line, width: 1, size: 4 }, gap: 3 };
    const xAxis = { ...axis, grid: { show: false }, size: 22, label: density ? "value" : chart.x === "rate" ? "firing rate" : chart.x, labelSize: 14, labelGap: -3, labelFont: font };
    if (whole) xAxis.incrs = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 1e7, 1e8];
    if (whole) xAxis.values = (_, at) => at.map((x) => thousands(x));
    if (whole) xAxis.space = 46;
    if (chart.x === "rate") Object.assign(xAxis, { splits: () => [0, 1, 11, 20.99], values: () => ["= 0", "", "50 %", "= 1"] });
    if (density) {
      const ticks = spaced(site, (width - 60) / (site.edges.at(-1) - site.edges[0] || 1), 34);
      Object.assign(xAxis, { splits: () => ticks.map(([at]) => at), values: () => ticks.map(([, name]) => name) });
    }
    const ends = density ? [site.edges[0] - 0.3, site.edges.at(-1) + 0.3] : xs.length ? [xs[0], xs.at(-1)] : [0, 1];
    const air = whole || chart.x === "rate" ? 0.02 * (ends[1] - ends[0]) || 0.5 : 0;
    const options = {
      width, height, pxRatio: ratio(), legend: { show: false }, series, bands,
      cursor: { y: false, drag: { x: !density && chart.x !== "rate", y: false }, points: { show: false } },
      scales: {
        // Of a single point uPlot asks for a range of its own.
        x: { time: false, range: (_, low, high) => (xs.length < 2 || (low === xs[0] && high === xs.at(-1)) ? [ends[0] - air, ends[1] + air] : [low, high]) },
        y: { range: () => range },
      },
      padding: [8, density && site.zeros ? 16 + 9 * Math.min(12, curves.length) : 10, 0, 0],
      axes: [xAxis, {
        ...axis, scale: "y", grid: { stroke: line, width: 1 }, size: 44, space: 34,
        values: (_, at) => at.map(tick(kind, at.length > 1 ? at[1] - at[0] : Math.abs(at[0]) || 1)),
      }],
      hooks: {
        // The dashes of curves that coincide begin at different places.
        drawAxes: [(u) => { u.ctx.lineDashOffset = (offsets[1] ?? 0) * ratio(); }],
        drawSeries: [(u, i) => { u.ctx.lineDashOffset = (offsets[i + 1] ?? 0) * ratio(); }],
        draw: [(u) => { u.ctx.lineDashOffset = 0; }],
        setCursor: [(u) => {
          const { left, idx } = u.cursor;
          if (left < 0 || idx === null || idx === undefined) return hideTip();
          const at = u.posToVal(left, "x");
          const bounds = u.over.getBoundingClientRect();
          const found = curves.map((curve) => nearest(curve, at)).filter((of) => of && Math.abs(u.valToPos(of.x, "x") - left) < (curves.length > 1 && !of.curve.dots ? 30 : 24));
          if (!found.length) return hideTip();
          const lines = found.filter((of) => !of.curve.dots);
          const x = (lines[0] ?? found[0]).x;
          let title = `${chart.x} ${x.toLocaleString("en")}`;
          if (chart.x === "rate") title = `units that fire at ${rates[x] ?? ""} of the observations`;
          if (density) title = `values of ${site.names[bin(site, at)] ?? ""}`;
          const values = found.map(({ curve, i }) => {
            let value = shown(kind, curve.y[i]);
            if (density) value = shown("share", curve.y[bin(site, at) + 1] * curve.widths[bin(site, at)]);
            const note = curve.notes ? ` (${curve.notes[i]})` : curve.low ? ` (${shown(kind, curve.low[i])} to ${shown(kind, curve.high[i])})` : "";
            const what = curve.dots ? `${curve.name}, ${page.windows[0]}` : curve.name;
            return { color: curve.color, value: value + note, name: what, y: curve.y[i] };
          });
          values.sort((a, b) => b.y - a.y);
          if (density) values.push(...curves.map((curve) => ({ color: curve.color, value: shown("share", curve.zeros), name: `exactly 0, ${curve.name}` })).filter((of) => site.zeros));
          showTip(rows(title, values), box.getBoundingClientRect(), bounds.left + left - 60);
        }],
      },
    };
    box.replaceChildren();
    const plot = new uPlot(options, data, box);
    plot.over.addEventListener("mouseleave", hideTip);
    box.plot = { curves: curves.length, points: curves.map((curve) => curve.y.length), text: () => tip.textContent };
    if (density && site.zeros) box.append(zeroBars(curves));
  }

  // The share of exact zeros of every curve, as bars beside the density.
  function zeroBars(curves) {
    const bars = element("div", "");
    bars.className = "zeros";
    for (const curve of curves.slice(0, 12)) {
      const bar = element("i", "", { height: 100 * curve.zeros + "%", background: curve.color });
      const cell = element("span", "");
      cell.dataset.tip = `${curve.name}: ${curve.zeroText}`;
      cell.append(bar);
      bars.append(cell);
    }
    return bars;
  }

  // As many ticks of a site as have room beside each other: 0 and ±1 before others.
  function spaced(site, scale, room) {
    const order = ["0", "1", "−1", "0.1", "−0.1", "10", "−10"];
    const rank = ([, name]) => (order.includes(name) ? order.indexOf(name) : order.length);
    const out = [];
    for (const tick of [...site.ticks].sort((a, b) => rank(a) - rank(b))) {
      if (out.every(([at]) => Math.abs(at - tick[0]) * scale >= room)) out.push(tick);
    }
    return out.sort((a, b) => a[0] - b[0]);
  }

  const bin = (site, at) => site.edges.findIndex((edge, i) => at >= edge && at < site.edges[i + 1]);
  // The point of a curve that is nearest to a place.
  function nearest(curve, at) {
    let best = null;
    curve.xs.forEach((x, i) => { if (best === null || Math.abs(x - at) < Math.abs(curve.xs[best] - at)) best = i; });
    return best === null ? null : { curve, i: best, x: curve.xs[best] };
  }

  // Few values to many, from the ground upwards; the square root of the share, so that tails are seen too.
  const ramps = {
    light: [[0xff, 0xff, 0xff], [0xbf, 0xd9, 0xec], [0x4f, 0x94, 0xc4], [0x14, 0x4f, 0x86], [0x08, 0x1d, 0x3a]],
    dark: [[0x1b, 0x22, 0x29], [0x1f, 0x4e, 0x6e], [0x2f, 0x86, 0xa6], [0x8c, 0xd0, 0xba], [0xfd, 0xf3, 0xb4]],
  };
  for (const site of page.sites) site.most = 1e-6;
  const densest = (all, least) => all.flatMap((of) => of.density.flat()).reduce((most, n) => Math.max(most, n / 1e5), least);
  const heats = page.charts.filter((chart) => chart.x === "heat");
  for (const { site, data } of heats) page.sites[site].most = densest(Object.values(data), page.sites[site].most);
  const FULL = Math.ceil(10 * densest(heats.flatMap((chart) => chart.steps ?? Object.values(chart.data)), 0.05)) / 10;
  function shade(share) {
    const ramp = ramps[dark ? "dark" : "light"];
    const at = Math.min(1, Math.sqrt(share / FULL)) * (ramp.length - 1);
    const i = Math.min(ramp.length - 2, Math.floor(at));
    const mixed = ramp[i].map((a, k) => Math.round(a + (ramp[i + 1][k] - a) * (at - i)));
    return `rgb(${mixed})`;
  }

  function drawHeat(box, chart) {
    // Windows of training steps if the runs have them, else epochs.
    const of = chart.steps ?? windowOf(chart.data);
    const site = chart.steps ? page.sites[chart.site].steps : page.sites[chart.site];
    const [from, to] = chart.steps ? [of.from, of.to] : [of.epochs, of.epochs];
    const unit = chart.steps ? "step" : "epoch";
    const canvas = document.createElement("canvas");
    const [[width, height], scale] = [sizeOf(box), ratio()];
    [canvas.width, canvas.height] = [width * scale, height * scale];
    canvas.style.cssText = `width:${width}px;height:${height}px`;
    box.replaceChildren(canvas);
    const ctx = canvas.getContext("2d");
    ctx.scale(scale, scale);
    const [left, right, bottom, bar] = [44, width - 6, height - 24, site.zeros ? 26 : 0];
    const top = 6 + (bar ? bar + 8 : 0);
    const [low, high] = [site.edges[0], site.edges.at(-1)];
    // On whole pixels: cells that meet in the middle of one would leave a line.
    const whole = (at) => Math.round(at * scale) / scale;
    const y = (at) => whole(bottom - ((at - low) / (high - low || 1)) * (bottom - top));
    const n = Math.max(1, to.length);
    const x = (i) => whole(left + (i / n) * (right - left));
    const label = (text, at, height, align) => { ctx.textAlign = align; ctx.fillText(text, at, height); };
    for (let i = 0; i < to.length; i++) {
      of.density[i].forEach((d, k) => {
        ctx.fillStyle = shade(d / 1e5);
        const up = y(site.edges[k + 1]);
        ctx.fillRect(x(i), up, x(i + 1) - x(i), y(site.edges[k]) - up);
      });
      if (bar) {
        ctx.fillStyle = page.groups[chart.g].color;
        ctx.fillRect(x(i), 6 + bar * (1 - of.zeros[i]), Math.max(1, x(i + 1) - x(i) - (n < 40 ? 1 : 0)), bar * of.zeros[i]);
      }
    }
    ctx.strokeStyle = css("--line");
    ctx.strokeRect(left - 0.5, top - 0.5, right - left + 1, bottom - top + 1);
    if (bar) ctx.strokeRect(left - 0.5, 5.5, right - left + 1, bar + 1);
    ctx.fillStyle = css("--quiet");
    ctx.font = font;
    ctx.textBaseline = "middle";
    for (const [at, name] of spaced(site, (bottom - top) / (high - low || 1), 14)) label(name, left - 5, y(at), "right");
    if (bar) label("= 0", left - 5, 6 + bar / 2, "right");
    const step = Math.max(1, Math.ceil(((chart.steps ? 40 : 28) * n) / (right - left)));
    for (let i = 0; i < to.length; i += step) label(thousands(to[i]), (x(i) + x(i + 1)) / 2, bottom + 11, "center");
    label(unit, left - 5, bottom + 11, "right");
    canvas.onmousemove = (event) => {
      const bounds = canvas.getBoundingClientRect();
      const i = Math.floor(((event.clientX - bounds.left - left) / (right - left)) * n);
      const up = event.clientY - bounds.top;
      if (i < 0 || i >= to.length) return hideTip();
      const at = low + ((bottom - up) / (bottom - top)) * (high - low);
      const k = bin(site, at);
      const nodes = [element("b", from[i] === to[i] ? `${unit} ${to[i]}` : `${unit}s ${from[i]} to ${to[i]}`)];
      if (k >= 0) {
        const share = (of.density[i][k] / 1e5) * (site.edges[k + 1] - site.edges[k]);
        nodes.push(element("div", `${shown("share", share)} of the values are ${site.names[k]}`));
      }
      if (bar) nodes.push(element("div", of.names?.[i] ?? `${shown("share", of.zeros[i])} of the values are 0`));
      showTip(nodes, bounds, event.clientX - 60);
    };
    canvas.onmouseleave = hideTip;
    box.plot = { curves: to.length, points: of.density.map((column) => column.length) };
  }

  function draw(box) {
    const chart = page.charts[box.dataset.chart];
    box.dataset.drawn = "";
    if (chart.x === "heat") drawHeat(box, chart);
    else drawCurves(box, chart);
  }

  // What is in view first, the rest while the browser has nothing else to do; what is folded when it is unfolded.
  let waiting = 0;
  function drawAll() {
    clearTimeout(waiting);
    hideTip();
    const near = (box) => { const { top, bottom } = box.getBoundingClientRect(); return bottom > -200 && top < innerHeight + 400; };
    const todo = charts.filter((box) => box.clientWidth > 0 && !("drawn" in box.dataset));
    todo.filter(near).forEach(draw);
    root.dataset.ready ??= performance.now().toFixed(0);
    const rest = todo.filter((box) => !("drawn" in box.dataset));
    const some = () => {
      const until = performance.now() + 12;
      while (rest.length && performance.now() < until) draw(rest.shift());
      if (rest.length) waiting = setTimeout(some, 4);
      else root.dataset.drawn ??= performance.now().toFixed(0);
    };
    waiting = setTimeout(some, 4);
  }
  function redraw() {
    for (const box of charts) delete box.dataset.drawn;
    drawAll();
  }
  document.addEventListener("toggle", drawAll, true);

  const press = (button, on) => button.setAttribute("aria-pressed", on);
  function hide(kind, i, isShown) {
    hidden[kind][isShown ? "delete" : "add"](i);
    press(document.querySelector(`[data-${kind}="${i}"]`), isShown);
    for (const row of document.querySelectorAll("[data-group]")) row.classList.toggle("off", isHidden(row.dataset.group.slice(1)));
  }
  function choose(window) {
    window_ = window;
    for (const button of document.querySelectorAll("[data-window]")) press(button, button.dataset.window === window);
  }
  function site(value) {
    for (const of of document.querySelectorAll("[data-site]")) of.hidden = value !== "all" && of.dataset.site !== value;
    for (const grid of document.querySelectorAll(".measures")) grid.classList.toggle("one", value !== "all");
  }

  // Rows by the exact values of a column, downwards first.
  function sort(head) {
    const column = [...head.parentElement.children].indexOf(head);
    const body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => {
      const cell = row.children[column];
      const number = cell?.dataset.v !== undefined ? Number(cell.dataset.v) : Number.NaN;
      return Number.isNaN(number) ? cell?.textContent ?? "" : number;
    };
    const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? b - a : typeof a === "number" ? -1 : typeof b === "number" ? 1 : b.localeCompare(a, "en", { numeric: true }));
    const order = [...body.rows].map((row) => [key(row), row]).sort(([a], [b]) => (down ? compare(a, b) : compare(b, a)));
    body.append(...order.map(([, row]) => row));
  }

  document.addEventListener("click", (event) => {
    const head = event.target.closest(".sortable thead th");
    if (head) return sort(head);
    const link = event.target.closest(".contents a");
    const button = event.target.closest("button");
    if (link || !button) return;
    const { hue, dash, window: chosen } = button.dataset;
    const toggled = button.getAttribute("aria-pressed") !== "true";
    if (hue !== undefined) hide("hue", Number(hue), toggled);
    if (dash !== undefined) hide("dash", Number(dash), toggled);
    if (chosen !== undefined) choose(chosen);
    if (hue ?? dash ?? chosen) redraw();
    if (button.id === "theme") ground(!dark);
    if (button.className === "copy") {
      const text = button.nextElementSibling;
      getSelection().selectAllChildren(text);
      navigator.clipboard?.writeText(text.textContent).then(() => { button.textContent = "copied"; }, () => {});
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches(".sortable thead th")) sort(event.target);
  });
  document.getElementById("site")?.addEventListener("change", (event) => { site(event.target.value); redraw(); });

  function ground(toDark) {
    dark = toDark;
    root.classList.toggle("dark", dark);
    const stops = Array.from({ length: 9 }, (_, i) => shade(FULL * (i / 8) ** 2));
    for (const ramp of document.querySelectorAll(".ramp")) {
      ramp.style.setProperty("--stops", stops);
      [0, 1 / 16, 1 / 4, 9 / 16, 1].forEach((part, i) => { ramp.querySelectorAll("b")[i].textContent = Number((100 * part * FULL).toPrecision(2)) + "%"; });
    }
    redraw();
  }
  prefersDark.addEventListener("change", (event) => ground(event.matches));
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) width = innerWidth, redraw(); });

  // Which unit, which epoch: the strip's shapes say what it was.
  function unitTip(event, strip) {
    const box = strip.getBoundingClientRect();
    const at = (list, share) => list[Math.min(list.length - 1, Math.max(0, Math.floor(share * list.length)))];
    const unit = at(strip.dataset.units.split(","), (event.clientY - box.top) / box.height);
    const epoch = at(strip.dataset.epochs.split(","), (event.clientX - box.left) / box.width);
    showTip([element("b", `unit ${unit}`), element("div", `epoch ${epoch}: ${event.target.getAttribute("class")}`)], box, event.clientX - 40);
  }
  const explain = (event) => {
    const of = event.target.closest?.("[data-tip], [data-v]");
    const strip = event.target.closest?.(".strip svg");
    if (strip) return unitTip(event, strip);
    if (!of) return event.target.closest?.(".chart") ? undefined : hideTip();
    showTip([element("span", of.dataset.tip ?? of.dataset.v)], of.getBoundingClientRect(), of.getBoundingClientRect().left);
  };
  document.addEventListener("mouseover", explain);
  document.addEventListener("mousemove", (event) => { const strip = event.target.closest?.(".strip svg"); if (strip) unitTip(event, strip); });
  document.addEventListener("focusin", explain);
  document.addEventListener("scroll", hideTip, { passive: true });

  // Paper is white and has no scroll bar: everything that is not folded is drawn, in its size.
  let before;
  addEventListener("beforeprint", () => {
    before = dark;
    printing = true;
    ground(false);
    clearTimeout(waiting);
    for (const box of charts) if (box.clientWidth > 0) draw(box);
  });
  addEventListener("afterprint", () => {
    printing = false;
    ground(before);
  });

  // `#all` behind the address unfolds everything, for whoever takes pictures of the page.
  const all = location.hash === "#all";
  // What the reader chose outlives a reload.
  const details = [...document.querySelectorAll("details")];
  for (const i of kept.open ?? []) if (details[i]) details[i].open = true;
  for (const kind of ["hue", "dash"]) for (const i of kept[kind] ?? []) if (document.querySelector(`[data-${kind}="${i}"]`)) hide(kind, i, false);
  if (page.windows.includes(kept.window)) choose(kept.window);
  const select = document.getElementById("site");
  if (select && kept.site !== undefined) select.value = kept.site, site(select.value);
  if (all) for (const of of details) of.open = true;
  if (page.reload) {
    setInterval(() => {
      if (document.hidden) return;
      const state = { scroll: scrollY, dark, window: window_, site: select?.value, hue: [...hidden.hue], dash: [...hidden.dash] };
      history.replaceState({ ...state, open: details.flatMap((of, i) => (of.open ? [i] : [])) }, "");
      location.reload();
    }, 1000 * page.reload);
  }

  ground(dark);
  if (kept.scroll !== undefined) {
    history.scrollRestoration = "manual";
    scrollTo({ top: kept.scroll, behavior: "instant" });
  }
})();
