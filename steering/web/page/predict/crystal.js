/* The structure on a canvas: balls with their element's letters, sticks to nearest neighbours. */

import { $, text } from "../dom.js";

const COLOURS = ["#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#a3b1c0"];
const MOST = 600;
let atoms = [], bonds = [], edges = [], symbols = [];
let turn = { yaw: 0.5, pitch: 0.35, zoom: 1 };

const add = (a, b, f = 1) => a.map((x, k) => x + f * b[k]);
const times = (v, m) => [0, 1, 2].map((k) => v[0] * m[0][k] + v[1] * m[1][k] + v[2] * m[2][k]);
const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);

function inverse(m) {
  const [[a, b, c], [d, e, f], [g, h, i]] = m;
  const det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  return [[e * i - f * h, c * h - b * i, b * f - c * e], [f * g - d * i, a * i - c * g, c * d - a * f], [d * h - e * g, b * g - a * h, a * e - b * d]].map((row) => row.map((x) => x / det));
}

/** Atoms of the conventional cell, those on its faces repeated. */
function fill(structure) {
  const cell = structure.lattice_A, back = inverse(cell), found = [];
  const corners = [0, 1, 2, 3, 4, 5, 6, 7].map((k) => times(times([k & 1, (k >> 1) & 1, k >> 2], cell), inverse(structure.primitive_lattice_A)));
  const span = [0, 1, 2].map((k) => [Math.floor(Math.min(...corners.map((c) => c[k]))) - 1, Math.ceil(Math.max(...corners.map((c) => c[k]))) + 1]);
  structure.positions.forEach((position, n) => {
    for (let i = span[0][0]; i <= span[0][1]; i++) for (let j = span[1][0]; j <= span[1][1]; j++) for (let k = span[2][0]; k <= span[2][1]; k++) {
      const place = times(add(position, [i, j, k]), structure.primitive_lattice_A);
      if (times(place, back).every((x) => x > -1e-3 && x < 1 + 1e-3)) found.push({ place, symbol: structure.symbols[n] });
      if (found.length > 4 * MOST) return;
    }
  });
  return found.slice(0, MOST);
}

export function showCrystal(structure) {
  symbols = [...new Set(structure.symbols)];
  atoms = fill(structure);
  const centre = times([0.5, 0.5, 0.5], structure.lattice_A);
  for (const atom of atoms) atom.place = add(atom.place, centre, -1);
  const nearest = Math.min(...atoms.flatMap((a, i) => atoms.slice(i + 1).map((b) => distance(a.place, b.place))));
  bonds = [];
  atoms.forEach((a, i) => atoms.slice(i + 1).forEach((b) => { if (distance(a.place, b.place) < 1.15 * nearest) bonds.push([a, b]); }));
  const bits = [0, 1, 2, 3, 4, 5, 6, 7];
  const corner = (k) => add(times([k & 1, (k >> 1) & 1, k >> 2], structure.lattice_A), centre, -1);
  edges = bits.flatMap((k) => [1, 2, 4].filter((b) => !(k & b)).map((b) => [corner(k), corner(k | b)]));
  const lengths = structure.lattice_A.map((v) => Math.hypot(...v).toFixed(3));
  const told = `${structure.formula}: ${structure.atoms} atoms in the primitive cell; conventional a, b, c = ${lengths.join(", ")} Å`;
  text("crystal-note", `${told}. Sticks join nearest neighbours.`);
  $("crystal").setAttribute("aria-label", told);
  draw();
}

function draw() {
  const canvas = $("crystal"), pen = canvas.getContext("2d");
  const { width, height } = canvas;
  pen.clearRect(0, 0, width, height);
  const extent = Math.max(...edges.flat().map((p) => Math.hypot(...p)), 1e-6);
  const scale = (0.42 * Math.min(width, height) * turn.zoom) / extent;
  const [cy, sy, cp, sp] = [Math.cos(turn.yaw), Math.sin(turn.yaw), Math.cos(turn.pitch), Math.sin(turn.pitch)];
  const seen = ([x, y, z]) => {
    const u = cy * x + sy * y, v = -sy * x + cy * y;
    return { x: width / 2 + scale * u, y: height / 2 - scale * (cp * z + sp * v), depth: cp * v - sp * z };
  };
  const line = (a, b, colour, thick) => { pen.strokeStyle = colour; pen.lineWidth = thick; pen.beginPath(); pen.moveTo(a.x, a.y); pen.lineTo(b.x, b.y); pen.stroke(); };
  for (const [a, b] of edges) line(seen(a), seen(b), "#5b6b7b", 1);
  for (const [a, b] of bonds) line(seen(a.place), seen(b.place), "#8392a1", 4);
  const radius = Math.min(22, Math.max(6, 0.32 * scale));
  pen.font = `600 ${Math.max(9, radius * 0.85)}px system-ui, sans-serif`;
  pen.textAlign = "center"; pen.textBaseline = "middle";
  for (const { atom, at } of atoms.map((one) => ({ atom: one, at: seen(one.place) })).sort((a, b) => b.at.depth - a.at.depth)) {
    pen.fillStyle = COLOURS[symbols.indexOf(atom.symbol) % COLOURS.length];
    pen.beginPath(); pen.arc(at.x, at.y, radius, 0, 2 * Math.PI); pen.fill();
    pen.strokeStyle = "#0b1016"; pen.lineWidth = 1.5; pen.stroke();
    pen.fillStyle = "#0b1016"; pen.fillText(atom.symbol, at.x, at.y + 1);
  }
}

export function listenToCrystal() {
  const canvas = $("crystal");
  let from = null;
  canvas.addEventListener("pointerdown", (event) => { from = event; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointerup", () => { from = null; });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return;
    turn.yaw += (event.clientX - from.clientX) / 120;
    turn.pitch = Math.min(1.57, Math.max(-1.57, turn.pitch + (event.clientY - from.clientY) / 120));
    from = event;
    draw();
  });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: ["yaw", -0.12], ArrowRight: ["yaw", 0.12], ArrowUp: ["pitch", -0.12], ArrowDown: ["pitch", 0.12], "+": ["zoom", 0.1], "-": ["zoom", -0.1] };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    turn[move[0]] += move[1];
    turn.zoom = Math.min(4, Math.max(0.4, turn.zoom));
    draw();
  });
}

/** How it is turned, for those who look at it from outside. */
export const turned = () => ({ ...turn, atoms: atoms.length, bonds: bonds.length });
