"use strict";
// Draws the page's charts with plotly as they come into view. What they show was decided where the page
// was made; this script only chooses between windows, hides and shows, and sets the colours of the ground.
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const nav = document.querySelector("nav.controls");
  const groups = JSON.parse(nav.dataset.groups); // of every group: its colour, its line style
  const charts = [...document.querySelectorAll(".chart")];
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const hidden = { hue: new Set(), dash: new Set() };
  let window_ = page.windows[0];
  let dark = prefersDark.matches;
  let printing = false;

  const config = {
    displaylogo: false, responsive: true, displayModeBar: matchMedia("(hover: hover)").matches && "hover", typesetMath: false, doubleClickDelay: 400,
    modeBarButtonsToRemove: ["zoom2d", "pan2d", "select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg" },
  };

  // Few values to many, from the ground upwards.
  const ramps = {
    light: [[0, "#eef3f7"], [0.35, "#a9cbe2"], [0.6, "#4f94c4"], [0.8, "#1b5c96"], [1, "#0a2647"]],
    dark: [[0, "#1d262e"], [0.35, "#1f4e6e"], [0.6, "#2f86a6"], [0.8, "#7cc8b4"], [1, "#fdf3b4"]],
  };

  function template() {
    const css = getComputedStyle(root);
    const of = (name) => css.getPropertyValue(name).trim();
    const axis = {
      gridcolor: of("--line"), zerolinecolor: of("--line"), linecolor: of("--line"), tickcolor: of("--line"),
      automargin: true, title: { standoff: 4, font: { size: 11, color: of("--quiet") } }, ticklen: 3,
    };
    return {
      layout: {
        font: { family: css.fontFamily, size: 11, color: of("--quiet") },
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        margin: { l: 36, r: 10, t: 10, b: 30 },
        xaxis: axis, yaxis: axis,
        hoverlabel: { bgcolor: of("--ground"), bordercolor: of("--line"), font: { family: css.fontFamily, color: of("--text"), size: 12 }, namelength: -1, align: "left" },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: of("--quiet"), activecolor: of("--text") },
      },
      data: { heatmap: [{ colorscale: ramps[dark ? "dark" : "light"] }] },
    };
  }

  const isHidden = (group) => hidden.hue.has(groups[group][0]) || hidden.dash.has(groups[group][1]);
  const number = (n) => n.toLocaleString("en");
  const percent = (x) => (100 * x).toPrecision(3) + "%";

  // The traces of a chart in the chosen window. Counts of distributions become logarithms of shares, and
  // the steps of histograms.
  function traces(figure) {
    const of = (figure) => figure.data[window_] ?? Object.values(figure.data)[0];
    const data = structuredClone(of(figure));
    if (figure.bins !== undefined) {
      const names = page.bins[figure.bins];
      const totals = figure.totals[window_] ?? [];
      const counts = data[0].z;
      data[0].customdata = counts.map((row) => row.map((n, e) => `${number(n)} values (${percent(n / totals[e])})`));
      data[0].text = counts.map((row, bin) => row.map(() => names[bin]));
      data[0].z = counts.map((row) => row.map((n, e) => (n > 0 ? Math.log10(n / totals[e]) : null)));
    }
    if (figure.counts !== undefined) {
      const from = page.figures[figure.counts];
      const totals = from.totals[window_] ?? [];
      for (const trace of data.filter((trace) => trace.ids)) {
        const epoch = trace.ids[0];
        trace.x = of(from)[0].y;
        trace.y = of(from)[0].z.map((row) => row[epoch] / totals[epoch]);
        trace.text = page.bins[from.bins];
        delete trace.ids;
      }
    }
    const epochs = new Set(pressed("epoch"));
    for (const trace of data) {
      const of = trace.legendgroup ?? "";
      if (of[0] === "g") trace.visible = !isHidden(of.slice(1));
      if (of[0] === "e") trace.visible = epochs.has(of);
    }
    return data;
  }

  const pressed = (name) =>
    [...document.querySelectorAll(`[data-${name}][aria-pressed=true]`)].map((button) => button.dataset[name]);

  function draw(chart) {
    const figure = page.figures[chart.dataset.figure];
    const layout = structuredClone(figure.layout);
    layout.template = template();
    if (printing) Object.assign(layout, { width: 220, height: 170, autosize: false });
    // Zooming survives what only hides, shows or recolours.
    layout.uirevision = 1;
    chart.dataset.drawn = "";
    return Plotly.react(chart, traces(figure), layout, config);
  }

  const isDrawn = (chart) => "drawn" in chart.dataset;
  const redraw = () => {
    for (const chart of charts) if (isDrawn(chart)) delete chart.dataset.drawn, unseen(chart);
  };

  // Draws what is in view or nearly, in the order of the page.
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        watch.unobserve(entry.target);
        draw(entry.target);
      }
    }
    root.dataset.ready ??= performance.now().toFixed(0);
  }, { rootMargin: "300px" });
  // `#all` behind the address: whoever takes pictures of the page cannot scroll.
  const all = location.hash === "#all";
  const unseen = (chart) => {
    watch.unobserve(chart);
    if (all) draw(chart);
    else watch.observe(chart);
  };

  function press(button, on) {
    button.setAttribute("aria-pressed", on);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { hue, dash, epoch, window: chosen } = button.dataset;
    const toggled = button.getAttribute("aria-pressed") !== "true";
    for (const [kind, i] of [["hue", hue], ["dash", dash]]) {
      if (i === undefined) continue;
      press(button, toggled);
      hidden[kind][toggled ? "delete" : "add"](Number(i));
      for (const row of document.querySelectorAll("[data-group]")) row.hidden = isHidden(row.dataset.group.slice(1));
      redraw();
    }
    if (epoch !== undefined) {
      press(button, toggled);
      redraw();
    }
    if (chosen !== undefined) {
      window_ = chosen;
      for (const other of button.parentElement.children) press(other, other === button);
      redraw();
    }
    if (button.id === "theme") ground(!dark);
  });

  document.getElementById("site")?.addEventListener("change", (event) => {
    const site = event.target.value;
    for (const of of document.querySelectorAll("[data-site]")) of.hidden = site !== "all" && of.dataset.site !== site;
    const measures = document.querySelector("#layers .measures");
    const n = document.getElementById("site").options.length - 1;
    measures?.style.setProperty("--n", site === "all" ? n : 1);
    redraw();
  });

  function ground(toDark) {
    dark = toDark;
    root.classList.toggle("dark", dark);
    const stops = ramps[dark ? "dark" : "light"].map(([at, color]) => `${color} ${100 * at}%`);
    for (const ramp of document.querySelectorAll(".ramp i")) ramp.style.background = `linear-gradient(90deg, ${stops})`;
    redraw();
  }
  prefersDark.addEventListener("change", (event) => ground(event.matches));

  // One box for all explanations, beside what they explain.
  const tip = document.getElementById("tip");
  const explain = (event) => {
    const of = event.target.closest?.("[data-tip], [data-v]");
    tip.hidden = !of;
    if (!of) return;
    tip.textContent = of.dataset.tip ?? of.dataset.v;
    const box = of.getBoundingClientRect();
    const below = box.bottom + tip.offsetHeight + 12 < innerHeight;
    tip.style.left = Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 12)) + "px";
    tip.style.top = (below ? box.bottom + 6 : box.top - tip.offsetHeight - 6) + "px";
  };
  document.addEventListener("mouseover", explain);
  document.addEventListener("focusin", explain);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // Paper is white and has no scroll bar: everything is drawn, in its size.
  let before;
  addEventListener("beforeprint", () => {
    before = dark;
    printing = true;
    ground(false);
    for (const chart of charts) if (chart.offsetParent) watch.unobserve(chart), draw(chart);
  });
  addEventListener("afterprint", () => {
    printing = false;
    ground(before);
  });

  ground(dark);
  charts.forEach(unseen);
})();
