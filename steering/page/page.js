"use strict";
/* Live page of a run. Server-sent events name what changed; the figures are then fetched. */
(() => {
  const $ = (id) => document.getElementById(id);
  const GREEK = { Gamma: "Γ", GAMMA: "Γ", Sigma: "Σ", Delta: "Δ", Lambda: "Λ" };
  const KINDS = [
    ["folded", "folded into the path", "#56b4e9"],
    ["outside_path", "outside the path", "#6b7a89"],
    ["outside_energy", "outside the energy axis", "#9aa7b3"],
    ["masked", "in masked pixels", "#cc79a7"],
    ["filtered", "filtered by the source", "#e69f00"],
  ];
  const Z90 = 1.6449;
  const state = { run: null, details: null, spectrum: null, layer: "intensity", lines: true, linked: false, busy: false, again: false };

  // --- small things ------------------------------------------------------------------------
  const known = (x) => typeof x === "number" && Number.isFinite(x);
  const digits = (x, n = 4) => {
    if (!known(x)) return "–";
    if (x !== 0 && (Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3)) return x.toExponential(Math.max(n - 2, 1));
    return Number(x.toPrecision(n)).toString().replace("-", "−");
  };
  const fixed = (x, n) => (known(x) ? x.toFixed(n).replace("-", "−") : "–");
  const whole = (x) => (known(x) ? x.toLocaleString("en-US") : "–");
  const pretty = (label) => label.split("|").map((part) => GREEK[part] || part).join("|");
  const text = (id, value) => { $(id).textContent = value ?? ""; };
  const tone = (node, name) => { node.classList.remove("good", "warn", "bad"); if (name) node.classList.add(name); };
  function element(tag, properties = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(properties)) {
      if (key === "style") Object.assign(node.style, value); else node[key] = value;
    }
    node.append(...children);
    return node;
  }
  function rows(id, made) { $(id).querySelector("tbody").replaceChildren(...made); }
  const cell = (value, className = "") => element("td", { className, textContent: value });
  // A number with as many decimals as its error carries.
  function decimals(sigma) { return known(sigma) && sigma > 0 ? Math.min(6, Math.max(0, 1 - Math.floor(Math.log10(sigma)))) : 4; }

  // --- fetching ----------------------------------------------------------------------------
  async function get(path) {
    const answer = await fetch(path, { cache: "no-store" });
    if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
    return answer.json();
  }

  async function refresh() {
    if (state.busy) { state.again = true; return; }
    state.busy = true;
    try {
      const { runs } = await get("/runs");
      choose(runs);
      if (state.run === null) { show("empty"); linked(true); return; }
      const path = `/runs/${encodeURIComponent(state.run)}`;
      const details = await get(path);
      if (details.has_spectrum && (!state.spectrum || state.spectrum.of !== details.run_id || state.spectrum.version !== details.version)) {
        state.spectrum = Object.assign(await get(`${path}/spectrum`), { of: details.run_id });
      } else if (!details.has_spectrum) state.spectrum = null;
      state.details = details;
      draw();
      linked(true);
    } catch (error) {
      console.warn(error);
      linked(false);
    } finally {
      state.busy = false;
      if (state.again) { state.again = false; refresh(); }
    }
  }

  function choose(runs) {
    const asked = new URLSearchParams(location.hash.slice(1)).get("run");
    const names = runs.map((run) => run.run_id);
    state.run = names.includes(asked) ? asked : names[0] ?? null;
    $("picker").hidden = runs.length < 2;
    $("runs").replaceChildren(...runs.map((run) => element("option", { value: run.run_id, textContent: `${run.run_id} (${run.status})`, selected: run.run_id === state.run })));
  }

  function linked(is) {
    state.linked = is;
    const pill = $("link");
    tone(pill, is ? "good" : "bad");
    if (!is) pill.textContent = "connection lost, trying again";
    else tick();
  }

  function tick() {
    if (!state.linked) return;
    const run = state.details;
    const pill = $("link");
    if (!run || run.status !== "running") { pill.textContent = "connected"; tone(pill, "good"); return; }
    const age = Math.max(0, Date.now() / 1000 - run.updated_ns / 1e9);
    tone(pill, age > 600 ? "warn" : "good");
    pill.textContent = age < 90 ? `live, ${age.toFixed(0)} s ago` : age < 5400 ? `last chunk ${(age / 60).toFixed(0)} min ago` : `last chunk ${(age / 3600).toFixed(0)} h ago`;
  }

  // --- drawing -----------------------------------------------------------------------------
  function show(which) { for (const id of ["empty", "live"]) $(id).hidden = id !== which; }

  function draw() {
    const run = state.details;
    const result = run.result || {};
    show("live");
    document.title = `${run.title} – Beamsteer`;
    text("title", run.title);
    const { sample = {}, instrument = {} } = run.experiment || {};
    text("setting", [sample.structure, instrument.name,
      known(instrument.ei_meV) && `Ei ${digits(instrument.ei_meV)} meV`,
      known(sample.temperature_K) && `${digits(sample.temperature_K)} K`,
      instrument.coarsen > 1 && `pixels coarsened ×${instrument.coarsen}`].filter(Boolean).join(" · "));
    const status = $("status");
    status.hidden = false;
    status.textContent = run.status;
    tone(status, run.status === "failed" ? "bad" : run.status === "running" ? "good" : "");
    $("failure").hidden = !run.error;
    text("failure", run.error && `${run.status === "failed" ? "The run failed" : "The run goes on, but"}: ${run.error}`);
    drawVerdicts(run, result);
    drawMap();
    drawHistory(run);
    drawRanking(run, result);
    drawParameters(run, result);
    drawChunks(run);
    drawEvents(result.events);
    tick();
  }

  function drawVerdicts(run, result) {
    const stop = result.stop;
    const best = (result.advice || [])[0];
    const none = !run.result;
    tone($("verdict-stop"), none ? "" : stop?.stop ? "good" : "");
    const left = stop?.minutes_to_target;
    const ended = run.status !== "running";
    text("stop-word", none ? (ended ? "Nothing" : "Waiting") : stop?.stop ? "Stop now" : !result.trusted ? "Test the model" : ended && known(left) ? `Short by ${fixed(left, left < 10 ? 1 : 0)} min` : known(left) ? `Go on: ${left < 10 ? fixed(left, 1) : fixed(left, 0)} min` : "Go on");
    text("stop-reason", none ? "No chunk has been folded yet." : stop?.reason);
    text("next-psi", best ? `ψ = ${digits(best.psi_deg)}°` : "–");
    text("next-more", best ? `for ${digits(best.minutes, 3)} min at Ei ${digits(best.ei_meV)} meV` : none ? "" : "No advice: " + (stop?.reason ?? "nothing gains."));
    tone($("verdict-trust"), none ? "" : result.trusted ? "good" : "bad");
    text("trust-badge", none ? "–" : result.trusted ? "✓ Trusted" : "✗ Not trusted");
    $("trust-reasons").replaceChildren(...(result.reasons || []).map((reason) => element("li", { textContent: reason })));
    const folded = run.chunks.filter((chunk) => chunk.status === "folded").length;
    text("used", known(result.minutes_used) ? `${fixed(result.minutes_used, 1)} min` : `${folded} chunks`);
    text("used-more", [`${folded} chunks folded`,
      run.chunks.length > folded && `${run.chunks.length - folded} set aside`,
      known(result.coverage_fraction) && `${fixed(100 * result.coverage_fraction, 0)} % of cells covered`,
      result.events && `${whole(result.events.folded)} of ${whole(result.events.read)} events folded`,
      known(run.estimate_seconds) && `estimate in ${digits(run.estimate_seconds, 2)} s`].filter(Boolean).join(" · "));
  }

  const AXIS = { color: "#a3b1c0", gridcolor: "#232e3a", zeroline: false, linecolor: "#2a3644", ticks: "outside", tickcolor: "#2a3644" };
  const LAYOUT = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "#0b1016", font: { color: "#e8edf2", size: 12.5, family: "system-ui, DejaVu Sans, sans-serif" }, showlegend: false };
  const CONFIG = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

  function edges(x) {
    if (x.length === 1) return [x[0] - 0.5, x[0] + 0.5];
    const middle = x.slice(1).map((value, i) => (value + x[i]) / 2);
    return [1.5 * x[0] - 0.5 * x[1], ...middle, 1.5 * x[x.length - 1] - 0.5 * x[x.length - 2]];
  }
  const transposed = (m) => m[0].map((_, j) => m.map((row) => row[j]));

  function drawMap() {
    const view = state.spectrum;
    $("map").classList.toggle("waiting", !view);
    if (!view) { Plotly.purge("map"); text("map-note", "No spectrum yet: the first chunk is still being folded."); return; }
    const residual = state.layer === "residual_sigma";
    const values = view[state.layer];
    const z = transposed(values);
    const energies = view.energy_edges_meV;
    const flat = [...view.intensity.flat(), ...view.model_intensity.flat()].filter((v) => v > 0).sort((a, b) => a - b);
    const top = flat.length ? flat[Math.floor(0.96 * (flat.length - 1))] : 1;
    const x = edges(view.path_position);
    // Square root stretches what is faint; the hover text and the colour bar carry true values.
    const root = (row) => row.map((v) => (v === null ? null : Math.sqrt(Math.max(v, 0))));
    const heat = {
      type: "heatmap", name: "map", x, y: energies, z: residual ? z : z.map(root), customdata: z, hoverongaps: false,
      zmin: residual ? -5 : 0, zmax: residual ? 5 : Math.sqrt(top),
      colorscale: residual ? [[0, "#2f8fd8"], [0.5, "#10161d"], [1, "#f5b942"]] : "Cividis",
      colorbar: { thickness: 12, outlinewidth: 0, title: { text: residual ? "σ" : "barn/meV/sr", side: "right", font: { size: 12 } }, tickfont: { size: 11 } },
      hovertemplate: residual ? "E %{y:.2f} meV<br>%{customdata:.2f} σ<extra></extra>" : "E %{y:.2f} meV<br>%{customdata:.4g} barn/meV/sr<extra></extra>",
    };
    if (!residual) {
      const marks = [0, 0.1, 0.25, 0.5, 0.75, 1].map((share) => share * top);
      heat.colorbar.tickvals = marks.map(Math.sqrt);
      heat.colorbar.ticktext = marks.map((mark) => digits(mark, 2));
    }
    const lines = [];
    const modes = view.branches[0]?.length ?? 0;
    const starts = new Set(view.segment_breaks);
    for (let mode = 0; mode < modes && state.lines; mode++) {
      const px = [], py = [];
      view.branches.forEach((energy, bin) => {
        if (starts.has(bin)) { px.push(null); py.push(null); }
        px.push(view.path_position[bin]);
        py.push(known(energy[mode]) && energy[mode] > 0 ? energy[mode] : null);
      });
      lines.push({ type: "scatter", mode: "lines", name: `branch ${mode + 1}`, x: px, y: py, line: { color: residual ? "#ffffff" : "#ff9d5c", width: 1.3 }, opacity: 0.95, hovertemplate: `branch ${mode + 1}: %{y:.2f} meV<extra></extra>` });
    }
    let reach = 0, first = energies.length - 1;
    view.intensity.forEach((row) => row.forEach((v, j) => { if (v !== null) { reach = Math.max(reach, j + 1); first = Math.min(first, j); } }));
    const highest = Math.max(...view.branches.flat().filter(known), 0);
    const upper = reach ? Math.min(energies[energies.length - 1], Math.max(energies[reach], 1.04 * highest)) : energies[energies.length - 1];
    const layout = Object.assign({}, LAYOUT, {
      plot_bgcolor: "#3c4653", margin: { l: 56, r: 8, t: 8, b: 30 }, uirevision: state.run,
      xaxis: Object.assign({}, AXIS, { tickvals: view.tick_positions, ticktext: view.tick_labels.map(pretty), tickangle: 0, tickfont: { size: $("map").clientWidth < 500 ? 12 : 15, color: "#e8edf2" }, range: [x[0], x[x.length - 1]], showgrid: false }),
      yaxis: Object.assign({}, AXIS, { title: { text: "energy transfer (meV)" }, range: [reach ? energies[first] : energies[0], upper], showgrid: false }),
      shapes: view.tick_positions.map((position) => ({ type: "line", x0: position, x1: position, yref: "paper", y0: 0, y1: 1, line: { color: "#e8edf2", width: 0.8 } })),
    });
    Plotly.react("map", [heat, ...lines], layout, CONFIG);
    text("map-note", (residual ? "(measured − model) / σ: blue below, amber above the model." : "Colour grows with the square root of the intensity.") + " Grey cells have no exposure: unknown, not empty. Lines: estimated branches.");
  }

  function relativeTarget(run, name) {
    const targets = run.experiment?.targets || {};
    return targets.per_parameter?.[name] ?? targets.relative_sigma;
  }

  const ROW = 122; // pixels per row of small plots
  function drawHistory(run) {
    const history = run.history || [];
    if (!history.length) { Plotly.purge("history"); $("history").replaceChildren(element("p", { className: "note", textContent: "No estimate yet." })); $("history").style.height = "auto"; return; }
    const node = $("history");
    if (!node.classList.contains("js-plotly-plot")) node.replaceChildren();
    const names = history[history.length - 1].parameters.map((one) => one.name);
    const width = node.clientWidth || 800;
    const across = Math.min(names.length, width > 720 ? 4 : width > 360 ? 2 : 1);
    const down = Math.ceil(names.length / across);
    node.style.height = `${down * ROW + 62}px`;
    const traces = [], shapes = [], notes = [];
    const layout = Object.assign({}, LAYOUT, { margin: { l: 46, r: 8, t: 24, b: 38 }, shapes, annotations: notes, uirevision: state.run });
    const narrow = width < 720;
    const gapX = 50 / (width - 54), gapY = down > 1 ? 28 / (down * ROW) : 0;
    names.forEach((name, k) => {
      const suffix = k ? String(k + 1) : "";
      const column = k % across, row = Math.floor(k / across);
      const w = (1 - gapX * (across - 1)) / across, h = (1 - gapY * (down - 1)) / down;
      const x0 = column * (w + gapX), y1 = 1 - row * (h + gapY);
      const points = history.map((step) => Object.assign({ minutes: step.minutes_used, trusted: step.trusted }, step.parameters.find((one) => one.name === name) || {})).filter((p) => known(p.value) && known(p.sigma));
      if (!points.length) return;
      const last = points[points.length - 1];
      traces.push({
        type: "scatter", mode: "lines+markers", name, xaxis: `x${suffix}`, yaxis: `y${suffix}`,
        x: points.map((p) => p.minutes), y: points.map((p) => p.value),
        error_y: { type: "data", array: points.map((p) => Z90 * p.sigma), color: "#8fd0f5", thickness: 1.4, width: 3 },
        line: { color: "#3f7ea6", width: 1 },
        marker: { size: 6.5, color: points.map((p) => (p.trusted ? "#56b4e9" : "#0b1016")), line: { color: "#8fd0f5", width: 1.4 } },
        hovertemplate: `${name} %{y:.4g} ± %{error_y.array:.2g} (90 %)<br>%{x:.1f} min<extra></extra>`,
      });
      const target = relativeTarget(run, name);
      if (known(target)) {
        const half = Z90 * target * Math.abs(last.value);
        shapes.push({ type: "rect", xref: `x${suffix} domain`, x0: 0, x1: 1, yref: `y${suffix}`, y0: last.value - half, y1: last.value + half, fillcolor: "#f0e442", opacity: 0.16, line: { width: 0 }, layer: "below" });
      }
      // The later half sets the scale, so that a wild first estimate does not flatten the rest.
      const late = points.slice(Math.floor(points.length / 2));
      let low = Math.min(...late.map((p) => p.value - 2.4 * p.sigma)), high = Math.max(...late.map((p) => p.value + 2.4 * p.sigma));
      if (!(high > low)) { low -= 1; high += 1; }
      notes.push({ text: `<b>${name.replace(/[<>&]/g, "")}</b>  ${fixed(last.value, decimals(last.sigma))} ± ${fixed(last.sigma, decimals(last.sigma))}`, xref: "paper", yref: "paper", x: x0, y: y1, xanchor: "left", yanchor: "bottom", showarrow: false, font: { size: narrow ? 10.5 : 12.5 } });
      layout[`xaxis${suffix}`] = Object.assign({}, AXIS, { domain: [x0, x0 + w], anchor: `y${suffix}`, title: row === down - 1 ? { text: "minutes used", font: { size: 11 }, standoff: 4 } : undefined, rangemode: "tozero", tickfont: { size: 11 }, nticks: 5, showticklabels: row === down - 1 || k + across >= names.length });
      layout[`yaxis${suffix}`] = Object.assign({}, AXIS, { domain: [y1 - h, y1], anchor: `x${suffix}`, range: [low, high], tickfont: { size: 11 }, nticks: 4 });
    });
    Plotly.react(node, traces, layout, Object.assign({}, CONFIG, { displayModeBar: false }));
  }

  function drawRanking(run, result) {
    const advice = result.advice || [];
    const most = Math.max(...advice.map((one) => one.gain_per_minute).filter(known), 1e-12);
    const policy = advice[0]?.policy;
    text("policy", policy === "falsification" || (result.trusted === false && advice.length) ? "falsification: chosen to test the model" : policy ? `best first, by ${policy}` : "best first");
    rows("ranking", advice.slice(0, 8).map((one, i) => {
      const fill = element("i", { style: { width: `${Math.max(0, 100 * (one.gain_per_minute || 0) / most)}%` } });
      const gauge = element("td", { className: "left" }, element("div", { className: "gauge" }, element("div", { className: "track" }, fill), element("span", { textContent: digits(one.gain_per_minute, 3) })));
      return element("tr", { className: i ? "" : "best" }, cell(String(i + 1)), cell(`${digits(one.psi_deg)}°`), cell(`${digits(one.ei_meV)} meV`), cell(`${digits(one.minutes, 3)} min`), gauge);
    }));
    if (!advice.length) rows("ranking", [element("tr", {}, element("td", { colSpan: 5, className: "wrap", textContent: run.result ? "No orientation is worth a move." : "Comes with the first estimate." }))]);
    drawStrip(run, advice);
  }

  // Where psi may go, where it has been (bars), what is advised (numbered diamonds).
  function drawStrip(run, advice) {
    const measured = run.chunks.filter((chunk) => chunk.status === "folded" && known(chunk.psi_deg));
    const limits = run.experiment?.motion?.limits_deg;
    const all = [...measured.map((chunk) => chunk.psi_deg), ...advice.map((one) => one.psi_deg), ...(limits || [])].filter(known);
    if (!all.length) { $("strip").replaceChildren(); return; }
    let low = Math.min(...all), high = Math.max(...all);
    if (high - low < 1) { low -= 5; high += 5; }
    const at = (psi) => 14 + 372 * (psi - low) / (high - low);
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 400 64");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `psi from ${low} to ${high} degrees: ${measured.length} measured, ${advice.length} advised`);
    const add = (tag, properties, content) => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [key, value] of Object.entries(properties)) node.setAttribute(key, value);
      if (content !== undefined) node.textContent = content;
      svg.append(node);
    };
    add("line", { x1: 14, x2: 386, y1: 40, y2: 40, stroke: "#5b6b7b", "stroke-width": 1.5 });
    for (let i = 0; i <= 4; i++) {
      const psi = low + (high - low) * i / 4;
      add("line", { x1: at(psi), x2: at(psi), y1: 40, y2: 45, stroke: "#5b6b7b" });
      add("text", { x: at(psi), y: 58, fill: "#a3b1c0", "font-size": 11.5, "text-anchor": "middle" }, `${digits(psi, 3)}°`);
    }
    for (const chunk of measured) add("line", { x1: at(chunk.psi_deg), x2: at(chunk.psi_deg), y1: 27, y2: 40, stroke: "#56b4e9", "stroke-width": 3 });
    advice.slice(0, 8).reverse().forEach((one, i, shown) => {
      if (!known(one.psi_deg)) return;
      const rank = shown.length - i, x = at(one.psi_deg), y = 15, r = rank === 1 ? 11 : 8.5;
      add("path", { d: `M${x} ${y - r}L${x + r} ${y}L${x} ${y + r}L${x - r} ${y}Z`, fill: rank === 1 ? "#f0e442" : "#151c25", stroke: "#f0e442", "stroke-width": 1.3 });
      add("text", { x, y: y + 4, "font-size": 11, "font-weight": 700, fill: rank === 1 ? "#10161d" : "#f0e442", "text-anchor": "middle" }, String(rank));
    });
    $("strip").replaceChildren(svg);
  }

  function drawParameters(run, result) {
    const parameters = result.parameters || [];
    text("unit", parameters[0]?.unit ? `${parameters[0].unit.replace("angstrom^2", "Å²")}, σ = 68 %` : "");
    rows("parameters", parameters.map((one) => {
      const target = relativeTarget(run, one.name);
      const ratio = known(target) && one.value ? one.sigma / (target * Math.abs(one.value)) : null;
      const n = decimals(one.sigma);
      const gauge = element("div", { className: "gauge" });
      if (known(ratio)) {
        gauge.append(
          element("div", { className: "track" }, element("i", { className: ratio > 1 ? "over" : "", style: { width: `${Math.min(100, 50 * ratio)}%` } }), element("b", { style: { left: "50%" } })),
          element("span", { textContent: ratio > 1 ? `${digits(ratio, 2)}×` : "✓ met" }));
      }
      return element("tr", {}, cell(one.name, "left"), cell(fixed(one.value, n)), cell(`± ${fixed(one.sigma, n)}`), element("td", { className: "left" }, gauge));
    }));
    if (!parameters.length) rows("parameters", [element("tr", {}, element("td", { colSpan: 4, className: "wrap", textContent: "Comes with the first estimate." }))]);
  }

  function drawChunks(run) {
    const aside = run.chunks.filter((chunk) => chunk.status !== "folded");
    text("chunk-count", `${run.chunks.length - aside.length} folded, ${aside.length} set aside`);
    const folded = run.chunks.filter((chunk) => chunk.status === "folded").slice(-40).reverse();
    rows("chunks", [
      ...aside.slice().reverse().map((chunk) => element("tr", { className: "aside" }, cell(`⚠ ${chunk.chunk}`, "left"), element("td", { className: "wrap", colSpan: 3, textContent: `${chunk.status}: ${chunk.reason || "no reason given"}` }))),
      ...folded.map((chunk) => element("tr", {}, cell(chunk.chunk, "left"), cell(known(chunk.psi_deg) ? `${digits(chunk.psi_deg)}°` : "–"), cell(digits(chunk.minutes, 3)), cell(`${whole(chunk.events?.folded)} of ${whole(chunk.events?.read)}`))),
    ]);
    if (!run.chunks.length) rows("chunks", [element("tr", {}, element("td", { colSpan: 4, className: "wrap", textContent: "None has arrived yet." }))]);
  }

  function drawEvents(events) {
    if (!events) { $("events-bar").replaceChildren(); rows("events", []); text("events-check", "No events yet."); return; }
    const total = events.read || 1;
    const shown = KINDS.filter(([kind]) => known(events[kind]));
    $("events-bar").replaceChildren(...shown.map(([kind, label, color]) => element("span", { title: `${label}: ${whole(events[kind])}`, style: { background: color, flexGrow: String(events[kind] / total) } })));
    rows("events", shown.map(([kind, label, color]) => element("tr", {}, element("td", { className: "left" }, element("span", { className: "swatch", style: { background: color } }), label), cell(whole(events[kind])), cell(`${(100 * events[kind] / total).toFixed(1)} %`))));
    const lost = events.read - shown.reduce((sum, [kind]) => sum + events[kind], 0);
    text("events-check", lost === 0 ? `✓ ${whole(events.read)} read, all accounted for.` : `⚠ ${whole(events.read)} read, ${whole(lost)} not accounted for.`);
  }

  // --- wiring ------------------------------------------------------------------------------
  document.querySelectorAll("[data-layer]").forEach((button) => button.addEventListener("click", () => {
    state.layer = button.dataset.layer;
    document.querySelectorAll("[data-layer]").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    drawMap();
  }));
  $("branches").addEventListener("click", () => {
    state.lines = !state.lines;
    $("branches").setAttribute("aria-pressed", String(state.lines));
    drawMap();
  });
  $("runs").addEventListener("change", (event) => { location.hash = new URLSearchParams({ run: event.target.value }).toString(); });
  addEventListener("hashchange", refresh);
  let resized = 0;
  addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => { if (state.details) { drawMap(); drawHistory(state.details); } }, 150); });
  setInterval(tick, 1000);
  const events = new EventSource("/events");
  events.addEventListener("open", refresh);
  events.addEventListener("update", refresh);
  events.addEventListener("error", () => linked(false));
  refresh();
})();
