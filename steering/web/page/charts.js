/* What the charts have in common. Plotly is loaded before the modules. */

export const { Plotly } = globalThis;
export const Z90 = 1.6449;

export const AXIS = { color: "#a3b1c0", gridcolor: "#232e3a", zeroline: false, linecolor: "#2a3644", ticks: "outside", tickcolor: "#2a3644" };
export const LAYOUT = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "#0b1016", font: { color: "#e8edf2", size: 12.5, family: "system-ui, DejaVu Sans, sans-serif" }, showlegend: false };
export const CONFIG = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
