// The Align screen: pattern, circle, drag to edit, the card's buttons.
import { askHere, drives, keysOn, live, post, serverNow, state, stop, toast } from "./shell.js";
import { ageWords, Picture, standing } from "./picture.js";
import uPlot from "./vendor/uplot.js";

const byId = (id) => document.getElementById(id);
const base = document.body.dataset.base;
const SVG = "http://www.w3.org/2000/svg";
const boxes = { pattern: byId("pattern"), image: byId("image") };
const pictures = { pattern: new Picture(boxes.pattern), image: new Picture(boxes.image) };
let frozen = false;
let zoom = 1;
let edit = null; // centre of the circle as dragged, px
let profile = null;
let profiling = false;
let grip_share = 1;
let zoomed_for = null;

// --- pictures ------------------------------------------------------------------------------
live.addEventListener("picture", async (event) => {
  const { header, jpeg } = event.detail;
  if (frozen && header.stream === "pattern") return;
  await pictures[header.stream].show(header, jpeg);
  performance.mark(`shown-${header.stream}`);
  if (header.stream === "pattern") { fitView(header); if (edit?.frame !== header.frame) edit = null; if (isNewlyDrawn(header)) drawPattern(); describe(header); }
  else { byId("image-caption").textContent = `${header.frame || "live"} · ${header.target || "survey"}`; drawScale(boxes.image, header); }
});
// The first look at a crystal's pattern shows its spots; afterwards the view is the viewer's.
function fitView(header) {
  const o = header.overlay ?? {};
  if (!o.centre || !o.spots?.length || zoomed_for === header.target) return;
  zoomed_for = header.target;
  const reach = Math.max(...o.spots.map(([x, y]) => Math.max(Math.abs(x - o.centre[0]), Math.abs(y - o.centre[1]))));
  zoom = Math.min(6, Math.max(1, header.shape[1] / (2.9 * reach)));
}
live.addEventListener("clear", (event) => {
  pictures[event.detail].clear();
  byId(`${event.detail}-age`).textContent = "–";
  if (event.detail === "pattern") { byId("pattern-twin").textContent = "no pattern yet"; byId("deep").hidden = true; }
});
// Five times a second the same empty overlay need not be drawn again.
let drawn = "";
function isNewlyDrawn(header) {
  const key = `${header.frame}/${header.shape}/${JSON.stringify(header.overlay)}/${zoom}`;
  if (key === drawn) return false;
  drawn = key;
  return true;
}
let described_ms = 0;
function describe(header) {
  if (header.live && Date.now() - described_ms < 2000) return;
  described_ms = Date.now();
  const overlay = header.overlay ?? {};
  byId("pattern-twin").textContent = `${header.frame || "live picture"}: ${overlay.words ?? "not read yet"}; ${Math.round(header.electrons)} electrons`;
  const deep = byId("deep");
  deep.hidden = !header.frame;
  deep.href = `${base}/frame/${header.frame}/16bit.png`;
  const spectrum = byId("spectrum");
  spectrum.hidden = !header.frame;
  spectrum.href = `${base}/frame/${header.frame}/spectrum.png`;
}

function el(name, attributes, css) { const at = document.createElementNS(SVG, name); for (const [k, v] of Object.entries(attributes)) at.setAttribute(k, v); if (css) at.setAttribute("class", css); return at; }
function ellipse(into, e, css) {
  const shape = { cx: e.x, cy: e.y, rx: Math.max(e.rx, 0.5), ry: Math.max(e.ry, 0.5), transform: `rotate(${e.turn_deg} ${e.x} ${e.y})` };
  into.append(el("ellipse", shape, "halo"), el("ellipse", shape, css));
}
const on = (layer) => document.querySelector(`[data-layer="${layer}"]`)?.checked;

function drawScale(box, header) {
  const svg = box.querySelector(".overlay");
  const [rows, cols] = header.shape;
  svg.setAttribute("viewBox", `0 0 ${cols} ${rows}`);
  svg.replaceChildren();
  if (!header.pixel_nm) return;
  const nm = [50, 100, 200, 500, 1000, 2000, 5000].filter((n) => n / header.pixel_nm < cols / 3).pop() ?? 50;
  const px = nm / header.pixel_nm;
  const y = rows * 0.94;
  svg.append(el("line", { x1: cols * 0.04, x2: cols * 0.04 + px, y1: y, y2: y }, "halo"), el("line", { x1: cols * 0.04, x2: cols * 0.04 + px, y1: y, y2: y }, "ln-zero"), text(cols * 0.04, y - rows * 0.025, nm >= 1000 ? `${nm / 1000} µm` : `${nm} nm`, rows));
  const overlay = header.overlay ?? {};
  if (overlay.radius_px) svg.append(el("circle", { cx: cols / 2, cy: rows / 2, r: overlay.radius_px }, "ln-ghost"));
}
function text(x, y, words, rows) { const at = el("text", { x, y, "font-size": rows / 26 }); at.textContent = words; return at; }

function drawPattern() {
  const header = pictures.pattern.header;
  if (!header) return;
  const svg = boxes.pattern.querySelector(".overlay");
  const [rows, cols] = header.shape;
  const o = header.overlay ?? {};
  const centre = o.centre ?? [cols / 2, rows / 2];
  const w = cols / zoom, h = rows / zoom;
  const left = Math.min(Math.max(centre[0] - w / 2, 0), cols - w), top = Math.min(Math.max(centre[1] - h / 2, 0), rows - h);
  svg.setAttribute("viewBox", `${left} ${top} ${w} ${h}`);
  // the canvas is moved by attributes of a view, never by inline style of the page
  const canvas = pictures.pattern.canvas;
  canvas.style.transformOrigin = "0 0";
  canvas.style.transform = zoom === 1 ? "none" : `scale(${zoom}) translate(${(-100 * left) / cols}%, ${(-100 * top) / rows}%)`;
  svg.replaceChildren();
  if (on("rings") && o.inv_A_per_px) for (const d of [10, 5, 3, 2, 1.5, 1]) { const r = 1 / d / o.inv_A_per_px; if (r < cols) svg.append(el("circle", { cx: centre[0], cy: centre[1], r }, "ln-ring"), text(centre[0] + r * 0.7, centre[1] - r * 0.7, `${d} Å`, h)); }
  if (on("spots")) for (const [x, y] of o.spots ?? []) svg.append(el("circle", { cx: x, cy: y, r: w / 60 }, "ln-spot"));
  if (on("circle")) {
    for (const other of o.others ?? []) ellipse(svg, other, "ln-other");
    if (o.circle) {
      ellipse(svg, o.circle, "ln-circle");
      svg.append(el("circle", { cx: o.circle.x, cy: o.circle.y, r: Math.max(o.sigma_px, 1) }, "ln-band"));
    }
  }
  if (on("ghost") && o.ghost) { const r = Math.max(o.sigma_px, w / 80); svg.append(el("circle", { cx: o.ghost.x, cy: o.ghost.y, r }, "halo"), el("circle", { cx: o.ghost.x, cy: o.ghost.y, r }, "ln-ghost")); }
  if (on("zero") && o.centre) { const r = w / 40; for (const css of ["halo", "ln-zero"]) svg.append(el("line", { x1: centre[0] - r, x2: centre[0] + r, y1: centre[1], y2: centre[1] }, css), el("line", { x1: centre[0], x2: centre[0], y1: centre[1] - r, y2: centre[1] + r }, css)); }
  if (edit) ellipse(svg, moved(o, edit), "ln-edit");
  grip_share = 1;
  if (o.circle && card()?.dataset.action === "Tilt") {
    const at = edit ?? o.circle;
    const away = Math.hypot(at.x - centre[0], at.y - centre[1]);
    // a centre outside the view is held by a handle on the way to it
    if (away > 0.4 * w) grip_share = (0.4 * w) / away;
    const x = centre[0] + (at.x - centre[0]) * grip_share, y = centre[1] + (at.y - centre[1]) * grip_share;
    for (const css of ["halo", edit ? "ln-edit" : "ln-band"]) svg.append(el("line", { x1: centre[0], y1: centre[1], x2: x, y2: y }, css));
    svg.append(el("circle", { cx: x, cy: y, r: w / 42, id: "grip" }, "handle"));
    if (grip_share < 1) { const at_right = x > left + w / 2; const label = text(x, y - h / 26, `centre ${away.toFixed(0)} px away`, h); label.setAttribute("text-anchor", at_right ? "end" : "start"); svg.append(label); }
  }
  if (on("scale") && o.inv_A_per_px) { const g = [0.1, 0.2, 0.5, 1].filter((v) => v / o.inv_A_per_px < w / 3).pop() ?? 0.1; const px = g / o.inv_A_per_px; const x = left + w * 0.04, y = top + h * 0.95; for (const css of ["halo", "ln-zero"]) svg.append(el("line", { x1: x, x2: x + px, y1: y, y2: y }, css)); svg.append(text(x, y - h * 0.02, `${g} 1/Å`, h)); }
  for (const note of [...(o.notes ?? []), ...(header.notes ?? [])]) { svg.append(el("circle", { cx: note.x, cy: note.y, r: w / 70 }, "ln-note"), text(note.x + w / 50, note.y, note.text, h)); }
  if (profile) svg.append(el("line", { x1: profile.x0, y1: profile.y0, x2: profile.x1, y2: profile.y1 }, "ln-profile"));
}
function moved(o, to) { const dx = to.x - o.centre[0], dy = to.y - o.centre[1]; const r = Math.hypot(dx, dy); return { x: to.x, y: to.y, rx: r, ry: r, turn_deg: 0 }; }

// --- age -----------------------------------------------------------------------------------
function tick() {
  for (const [stream, picture] of Object.entries(pictures)) {
    const header = picture.header;
    if (!header) continue;
    const now = standing(header, state, Date.now());
    picture.box.classList.toggle("stale", now === "stale");
    const age = byId(`${stream}-age`);
    age.classList.toggle("stale", now === "stale");
    age.textContent = ageWords(header, now, serverNow()) + (header.intact ? "" : " · NOT the picture that was taken");
    const words = picture.box.querySelector(".stale-words");
    words.hidden = now !== "stale";
    if (now === "stale") words.textContent = `no word from the instrument; ${ageWords(header, now, serverNow())}`;
  }
  arm();
}
setInterval(tick, 250);
function isStale() { const header = pictures.pattern.header; return state.newest === null || standing(header ?? { live: false }, state, Date.now()) === "stale" || (header && !header.intact); }

// --- the card ------------------------------------------------------------------------------
const card = () => byId("card");
let armed_for = null;
let armed_at = 0;
function arm() {
  const at = card();
  if (!at) return;
  if (armed_for !== at.dataset.proposal) { armed_for = at.dataset.proposal; armed_at = Date.now() + 600; edit = null; drawPattern(); }
  const outdated = state.newest && state.newest.proposal !== at.dataset.proposal;
  at.classList.toggle("outdated", Boolean(outdated));
  const approve = byId("approve");
  let why = approve.dataset.why;
  if (!why && isStale()) why = "the picture may not be so any more";
  if (!why && outdated) why = "the state has changed";
  if (!why && !drives()) why = "take the lease first";
  if (!why && edit) why = "the circle was dragged: approve as edited";
  approve.disabled = Boolean(why) || Date.now() < armed_at;
  byId("why-not").textContent = why;
}
function fields() {
  const at = card();
  return { proposal: at.dataset.proposal, revision: at.dataset.revision, epoch: state.newest?.lease?.epoch ?? at.dataset.epoch };
}
async function answer(what, more = {}) {
  const told = await post("/api/answer", { ...fields(), answer: what, ...more });
  if (told.ok) toast({ approve: "approved", edit: "approved as edited", reject: "rejected", undo: "the last tilt is taken back" }[what]); else toast(`Not done: ${told.why}`, true);
  return told;
}
document.addEventListener("click", async (event) => {
  const at = event.target.closest("button");
  if (!at || at.disabled || !at.closest("#card-column")) return;
  if (at.dataset.answer === "approve") await answer("approve");
  else if (at.dataset.answer) { const form = new FormData(byId("answer")); await answer(at.dataset.answer, { category: form.get("category") ?? "", reason: form.get("reason") ?? "", ...centreFields() }); }
  else if (at.id === "approve-edit") await answer("edit", { ...changes(), ...centreFields() });
  else if (at.id === "copy-python") { await navigator.clipboard.writeText(byId("python").textContent); toast("copied"); }
  else if (at.id === "skip") { const told = await post("/api/queue", { what: "skip", target: at.dataset.skip }); toast(told.ok ? "skipping" : told.why, !told.ok); }
  else if (at.id === "delegate-now") { const told = await post("/api/delegate", { ...fields(), ...envelope() }); toast(told.ok ? "running by itself within the envelope" : `Not done: ${told.why}`, !told.ok); }
  else if (at.id === "delegate-end") { const told = await post("/api/delegate", { end: "1", epoch: state.newest?.lease?.epoch ?? 0 }); toast(told.ok ? "it asks again" : told.why, !told.ok); }
});
function envelope() { return Object.fromEntries([...document.querySelectorAll("#delegate input")].map((i) => [i.name, i.value])); }
function changes() { return Object.fromEntries([...document.querySelectorAll("#edit input")].filter((i) => i.value !== i.dataset.was).map((i) => [i.name, i.value])); }
function centreFields() { const header = pictures.pattern.header; return edit ? { x_px: edit.x.toFixed(1), y_px: edit.y.toFixed(1), frame: header?.frame ?? "" } : { frame: header?.frame ?? "" }; }

let quoting = 0;
async function askQuote(wanted) {
  const mine = ++quoting;
  const told = await post("/api/quote", wanted);
  if (mine !== quoting || !byId("quote")) return;
  for (const [name, value] of Object.entries(told.changes ?? {})) { const at = document.querySelector(`#edit input[name="${name}"]`); if (at && document.activeElement !== at) at.value = String(value); }
  const bad = told.ok ? told.refusal : told.why;
  byId("quote").classList.toggle("bad", Boolean(bad));
  byId("quote").textContent = bad || `${(told.rows ?? []).map((r) => `${r[0]} ${r[1]}`).join("; ")} cost ${Number(told.cost_e_per_A2).toPrecision(3)} e/Å², limits ok`;
  byId("approve-edit").disabled = Boolean(bad) || Object.keys(changes()).length === 0;
}
document.addEventListener("input", (event) => { if (event.target.closest?.("#edit")) askQuote(changes()); });

// --- drag, zoom, profile, read-out -----------------------------------------------------------
function toPicture(event) {
  const svg = boxes.pattern.querySelector(".overlay");
  const [x, y, w, h] = svg.getAttribute("viewBox").split(" ").map(Number);
  const rect = boxes.pattern.getBoundingClientRect();
  return { x: x + ((event.clientX - rect.left) / rect.width) * w, y: y + ((event.clientY - rect.top) / rect.height) * h };
}
let annotating = false;
byId("note-tool").addEventListener("click", () => { annotating = !annotating; byId("note-tool").setAttribute("aria-pressed", String(annotating)); });
async function annotate(p) {
  const header = pictures.pattern.header;
  const text = await askHere("Annotation at this place of the picture", { yes: "Keep", text: true });
  if (!text || !header?.frame) return;
  const told = await post("/api/label", { what_for: "annotation", frame: header.frame, x_px: p.x.toFixed(1), y_px: p.y.toFixed(1), text });
  if (!told.ok) { toast(told.why, true); return; }
  (header.notes ??= []).push({ x: p.x, y: p.y, text });
  drawPattern();
}
let dragging = null;
let drag_share = 1;
boxes.pattern.addEventListener("pointerdown", (event) => {
  if (event.target.id === "grip") { dragging = "grip"; drag_share = grip_share; byId("edit")?.setAttribute("open", ""); }
  else if (annotating) { annotate(toPicture(event)); return; }
  else if (profiling) { const p = toPicture(event); profile = { x0: p.x, y0: p.y, x1: p.x, y1: p.y }; dragging = "profile"; }
  if (dragging) { boxes.pattern.setPointerCapture(event.pointerId); event.preventDefault(); }
});
let lastQuote = 0;
boxes.pattern.addEventListener("pointermove", (event) => {
  const header = pictures.pattern.header;
  if (!header) return;
  const p = toPicture(event);
  if (dragging === "grip") { const c = header.overlay.centre; edit = { x: c[0] + (p.x - c[0]) / drag_share, y: c[1] + (p.y - c[1]) / drag_share, frame: header.frame }; drawPattern(); if (Date.now() - lastQuote > 150) { lastQuote = Date.now(); askQuote({ x_px: edit.x.toFixed(2), y_px: edit.y.toFixed(2) }); } return; }
  if (dragging === "profile") { profile = { ...profile, x1: p.x, y1: p.y }; drawPattern(); return; }
  const o = header.overlay ?? {};
  if (o.inv_A_per_px) { const g = Math.hypot(p.x - o.centre[0], p.y - o.centre[1]) * o.inv_A_per_px; byId("cursor").textContent = `x ${p.x.toFixed(0)} y ${p.y.toFixed(0)} · ${g.toFixed(3)} 1/Å${g > 0 ? ` · d ${(1 / g).toFixed(2)} Å` : ""}`; }
});
boxes.pattern.addEventListener("pointerup", async (event) => {
  const was = dragging; dragging = null;
  if (was === "grip" && edit) await askQuote({ x_px: edit.x.toFixed(2), y_px: edit.y.toFixed(2) });
  if (was === "profile" && profile) await showProfile();
});
async function showProfile() {
  const header = pictures.pattern.header;
  if (!header?.frame) return;
  const query = new URLSearchParams(Object.entries(profile).map(([k, v]) => [k, v.toFixed(2)]));
  const told = await (await fetch(`${base}/frame/${header.frame}/profile?${query}`)).json();
  byId("profile-figure").hidden = false;
  plot(byId("profile-plot"), [told.electrons.map((_, i) => i), told.electrons], [{ label: "px" }, { label: "electrons", stroke: colour("--accent"), width: 1.5 }]);
}
boxes.pattern.addEventListener("wheel", (event) => { event.preventDefault(); setZoom(zoom * (event.deltaY < 0 ? 1.2 : 1 / 1.2)); }, { passive: false });
function setZoom(to) { zoom = Math.min(12, Math.max(1, to)); drawPattern(); }
byId("zoom-in").addEventListener("click", () => setZoom(zoom * 1.5));
byId("zoom-out").addEventListener("click", () => setZoom(zoom / 1.5));
byId("zoom-reset").addEventListener("click", () => setZoom(1));
byId("gamma").addEventListener("input", (event) => { for (const p of Object.values(pictures)) p.restyle({ gamma: 1 / Number(event.target.value) }); });
byId("cmap").addEventListener("change", (event) => { for (const p of Object.values(pictures)) p.restyle({ map: event.target.value }); });
byId("freeze").addEventListener("click", () => toggleFreeze());
function toggleFreeze() { frozen = !frozen; byId("freeze").setAttribute("aria-pressed", String(frozen)); if (!frozen && state.pictures.pattern) pictures.pattern.show(state.pictures.pattern.header, state.pictures.pattern.jpeg).then(drawPattern); }
byId("profile-tool").addEventListener("click", () => { profiling = !profiling; profile = null; byId("profile-tool").setAttribute("aria-pressed", String(profiling)); byId("profile-figure").hidden = true; drawPattern(); });
for (const box of document.querySelectorAll("[data-layer]")) box.addEventListener("change", drawPattern);

document.addEventListener("keydown", (event) => {
  if (event.target.matches("input,select,textarea") || event.ctrlKey || event.metaKey || event.altKey || event.repeat && !event.key.startsWith("Arrow")) return;
  const focused = event.target.closest?.("#card, #pattern");
  if (!focused && !keysOn) return;
  const key = event.key.toLowerCase();
  const press = (id) => { const at = byId(id); if (at && !at.disabled) at.click(); };
  const open = (id) => { const at = byId(id); if (at) { at.open = true; at.querySelector("input,select,button")?.focus(); event.preventDefault(); } };
  if (key === "a") press("approve");
  else if (key === "e") open("edit");
  else if (key === "r") open("reject");
  else if (key === "s") press("skip");
  else if (key === "+") setZoom(zoom * 1.5);
  else if (key === "-") setZoom(zoom / 1.5);
  else if (key === "0") setZoom(1);
  else if (key === "o") { for (const box of document.querySelectorAll(".centre [data-layer]")) box.checked = !box.checked; drawPattern(); }
  else if (key === " " && focused?.id === "pattern") { event.preventDefault(); toggleFreeze(); }
  else if (key.startsWith("arrow") && focused?.id === "pattern") nudge(event);
});
function nudge(event) {
  const o = pictures.pattern.header?.overlay;
  if (!o?.circle || card()?.dataset.action !== "Tilt") return;
  event.preventDefault();
  const step = event.shiftKey ? 10 : 1;
  const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
  const at = edit ?? o.circle;
  edit = { x: at.x + by[0], y: at.y + by[1], frame: pictures.pattern.header.frame };
  byId("edit")?.setAttribute("open", "");
  drawPattern();
  askQuote({ x_px: edit.x.toFixed(2), y_px: edit.y.toFixed(2) });
}

// --- plots ---------------------------------------------------------------------------------
const plots = new Map();
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
function plot(into, data, series, more = {}) {
  plots.get(into)?.destroy();
  const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") }, size: 40 };
  plots.set(into, new uPlot({ width: Math.max(into.clientWidth, 180), height: 150, series, legend: { show: false }, cursor: { y: false }, scales: { x: { time: false } }, axes: [{ ...axis, size: 28 }, axis], ...more }, data, into));
}
function drawErrors() {
  const at = byId("errors");
  const into = byId("error-plot");
  const rows = at ? JSON.parse(at.dataset.rows) : [];
  if (!rows.length) { plots.get(into)?.destroy(); plots.delete(into); return; }
  plot(into, [rows.map((r) => r[0]), rows.map((r) => r[1])], [{ label: "pattern" }, { label: "mrad", stroke: colour("--beam"), width: 1.6, points: { show: true, size: 6, fill: colour("--beam") } }], { scales: { x: { time: false, range: (u, a, b) => [Math.max(0, a - 0.5), b + 0.5] }, y: { range: (u, a, b) => [0, b * 1.15 + 0.05] } } });
}
document.body.addEventListener("htmx:afterSwap", (event) => { if (event.target.id === "card-column") { drawErrors(); tick(); drawPattern(); } });
document.body.addEventListener("htmx:beforeSwap", (event) => {
  // somebody is typing on this very proposal: leave the card alone
  const active = document.activeElement;
  if (event.target.id === "card-column" && active?.closest?.("#card details[open]") && state.newest?.proposal === card()?.dataset.proposal) event.detail.shouldSwap = false;
});
live.addEventListener("theme", drawErrors);
window.addEventListener("resize", drawErrors);
drawErrors();
export { stop };
