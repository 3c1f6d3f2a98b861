// The frame round every screen: the live line, STOP, the lease, keys.  Nothing here decides anything.
const body = document.body;
const base = body.dataset.base;
const byId = (id) => document.getElementById(id);
export const live = new EventTarget();
export const state = { newest: null, offset_ms: 0, heard_ms: 0, lost_since: null, pictures: {} };

export async function post(path, fields) {
  const answer = await fetch(base + path, {
    method: "POST",
    headers: { "Content-Type": "application/x-www-form-urlencoded", "X-CSRF-Token": body.dataset.csrf },
    body: new URLSearchParams(fields),
  });
  let told = {};
  try { told = await answer.json(); } catch { told = { why: `unexpected answer ${answer.status}` }; }
  return { ok: answer.ok, status: answer.status, ...told };
}

export function toast(words, bad = false) {
  const box = document.createElement("div");
  box.className = bad ? "toast bad" : "toast";
  box.textContent = words;
  byId("toasts").append(box);
  setTimeout(() => box.remove(), bad ? 12000 : 5000);
}

export const serverNow = () => Date.now() + state.offset_ms;
export const drives = () => {
  const holder = state.newest?.lease?.holder;
  return Boolean(holder && holder.session === body.dataset.session);
};

// --- the live line -------------------------------------------------------------------------
let socket = null;
let retry = 0;
const RETRIES_S = [1, 2, 5];

function connect() {
  if (!body.dataset.session) return;
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}${base}/live`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { retry = 0; beat(); };
  socket.onmessage = (event) => {
    if (typeof event.data === "string") onText(JSON.parse(event.data));
    else onPicture(event.data);
  };
  socket.onclose = () => {
    askWhether();
    if (state.lost_since === null) state.lost_since = new Date();
    showLost();
    setTimeout(connect, 1000 * RETRIES_S[Math.min(retry++, RETRIES_S.length - 1)]);
  };
}

// A console that is there again and does not know this page any more: sign in anew.
async function askWhether() {
  try { if ((await fetch(`${base}/part/settings`, { headers: { "HX-Request": "true" } })).status === 401) location.reload(); } catch { /* not there yet */ }
}

function beat() {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ kind: "beat", ms: Date.now() }));
}
setInterval(beat, 2000);

function onText(message) {
  if (message.kind === "state") onState(message);
  if (message.kind === "stopped") showStopped(message);
  if (message.kind === "clear") { delete state.pictures[message.stream]; live.dispatchEvent(new CustomEvent("clear", { detail: message.stream })); }
}

function onPicture(buffer) {
  const view = new DataView(buffer);
  const length = view.getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const jpeg = new Blob([new Uint8Array(buffer, 4 + length)], { type: "image/jpeg" });
  header.arrived_ms = Date.now();
  if (socket?.readyState === WebSocket.OPEN) socket.send('{"kind":"got"}');
  state.pictures[header.stream] = { header, jpeg };
  live.dispatchEvent(new CustomEvent("picture", { detail: { header, jpeg } }));
}

let changed = null;
let stopping = null;
let wasState = body.dataset.state;
function onState(message) {
  const shell = message.shell;
  const offset = message.server_ms - Date.now();
  // the smallest delay seen is nearest to the truth
  state.offset_ms = state.newest === null ? offset : Math.max(state.offset_ms, offset);
  state.newest = message;
  state.heard_ms = Date.now();
  if (state.lost_since !== null) { state.lost_since = null; showLost(); document.body.dispatchEvent(new Event("changed")); }
  const mode = byId("mode");
  if (mode.textContent !== shell.mode) { mode.textContent = shell.mode; mode.className = `mode mode-${shell.mode.toLowerCase()}`; document.title = document.title.replace(/HARDWARE|SIMULATOR|REPLAY/, shell.mode); }
  const chip = byId("chip");
  if (chip.dataset.state !== shell.state) { chip.dataset.state = shell.state; chip.querySelector(".shape").textContent = shell.shape; byId("chip-word").textContent = shell.state; }
  set("sentence", shell.sentence); set("beam", shell.beam); set("vacuum", shell.vacuum); set("dose", shell.dose || "–");
  byId("beam").dataset.beam = shell.beam_class;
  set("driver", shell.driver + (drives() ? " (you)" : ""));
  const pose = shell.pose;
  if (pose && pose.alpha_deg !== undefined) set("pose", `α ${pose.alpha_deg.toFixed(2)}° β ${(pose.beta_deg ?? 0).toFixed(2)}°`);
  const old = shell.state === "OFFLINE";
  for (const id of ["pose", "vacuum", "dose"]) byId(id).classList.toggle("old", old);
  const count = byId("alarm-count");
  if (count) { count.hidden = !shell.alarms; count.textContent = `${shell.alarms}!`; }
  for (const [id, words] of [["wall-sentence", shell.sentence], ["wall-beam", shell.beam], ["wall-alarms", shell.alarms]]) if (byId(id)) byId(id).textContent = words;
  const wall = byId("wall-state");
  if (wall) { wall.dataset.state = shell.state; wall.textContent = `${shell.shape} ${shell.state}`; }
  document.title = (shell.state === "NEEDS APPROVAL" ? "▲ " : "") + document.title.replace(/^▲ /, "");
  showLease(message);
  if (stopping?.done && stopping.seen && !["STOPPED", "STOPPING"].includes(shell.state)) { byId("stop-bar").hidden = true; stopping = null; }
  if (stopping?.done && shell.state === "STOPPED") stopping.seen = true;
  const kbd = document.querySelector(".stop kbd");
  if (kbd) kbd.textContent = drives() ? "Esc" : "Enter";
  if (shell.state === "NEEDS APPROVAL" && wasState !== "NEEDS APPROVAL" && drives()) softSound();
  wasState = shell.state;
  // also the first time: something may have happened since this page was rendered
  if (changed !== message.changed) document.body.dispatchEvent(new Event("changed"));
  changed = message.changed;
  live.dispatchEvent(new CustomEvent("state", { detail: message }));
}

function set(id, words) { const at = byId(id); if (at && at.textContent !== String(words)) at.textContent = words; }

function showLost() {
  const bar = byId("lost");
  bar.hidden = state.lost_since === null;
  if (state.lost_since === null) return;
  const since = state.lost_since.toTimeString().slice(0, 8);
  const last = state.newest?.shell.state ?? "unknown";
  bar.textContent = `No connection since ${since}. The run goes on by itself; last known: ${last}. STOP is tried over HTTP; at the panel: blank the beam, or close the column valve.`;
  byId("beam").dataset.beam = "unknown"; set("beam", "UNKNOWN");
}
setInterval(() => {
  if (state.newest !== null && Date.now() - state.heard_ms > 2000 && state.lost_since === null) { state.lost_since = new Date(state.heard_ms); showLost(); }
}, 250);

// --- STOP ----------------------------------------------------------------------------------
export function stop() {
  const bar = byId("stop-bar");
  bar.hidden = false; bar.className = "bar"; bar.textContent = "STOP sent…";
  const began = performance.now();
  stopping = { began, done: false };
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ kind: "stop" }));
  post("/api/stop", {}).then((told) => showStopped(told)).catch(() => undefined);
  setTimeout(() => { if (stopping && !stopping.done) { bar.textContent = "NOT CONFIRMED, use the panel: blank the beam, or close the column valve."; } }, 1000);
}
function showStopped(told) {
  if (stopping === null || stopping.done) return;
  const bar = byId("stop-bar");
  if (!told.confirmed) { bar.textContent = told.words ?? told.why ?? "NOT CONFIRMED, use the panel"; return; }
  stopping.done = true;
  const took = Math.round(performance.now() - stopping.began);
  bar.className = "bar confirmed";
  bar.dataset.ms = String(took);
  bar.textContent = `Stopped: ${told.words} (${took} ms after the click). The run waits for you.`;
}
byId("stop-form").addEventListener("submit", (event) => { event.preventDefault(); stop(); });

// --- lease ---------------------------------------------------------------------------------
function showLease(message) {
  const lease = message.lease;
  const ask = byId("lease-ask");
  if (ask) ask.textContent = drives() ? "Renew" : lease?.holder ? "Ask to drive" : "Take the lease";
  const release = byId("lease-release");
  if (release) release.hidden = !drives();
  const bar = byId("lease-bar");
  const asked = lease?.asked_by;
  bar.hidden = !asked;
  if (!asked) { bar.replaceChildren(); return; }
  const left = Math.max(0, 15 - lease.asked_s).toFixed(0);
  if (drives()) {
    if (!bar.querySelector("button")) {
      const words = document.createElement("span"); words.id = "lease-words";
      const button = document.createElement("button"); button.className = "small"; button.textContent = "Refuse"; button.dataset.lease = "refuse";
      bar.replaceChildren(words, " ", button);
    }
    set("lease-words", `${asked.name} asks to drive and will in ${left} s.`);
  } else bar.textContent = `${asked.name} asked ${lease.holder?.name} to drive; passes on in ${left} s unless refused.`;
}

document.addEventListener("click", async (event) => {
  const at = event.target.closest("[data-lease],[data-queue],[data-ack],[data-post],[data-theme-toggle],[data-keys-toggle]");
  if (!at || at.disabled) return;
  if (at.dataset.lease) {
    const told = await post(`/api/lease/${at.dataset.lease}`, { epoch: state.newest?.lease?.epoch ?? 0 });
    toast(told.ok ? told.last : told.why, !told.ok);
  } else if (at.dataset.queue) await queue(at.dataset);
  else if (at.dataset.ack) { const told = await post("/api/acknowledge", { key: at.dataset.ack }); if (!told.ok) toast(told.why, true); document.body.dispatchEvent(new Event("changed")); }
  else if (at.dataset.post) { const told = await post(`/api/${at.dataset.post}`, Object.fromEntries(new URLSearchParams(at.dataset.fields))); if (told.ok) location.reload(); else toast(told.why, true); }
  else if (at.dataset.themeToggle !== undefined) setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  else if (at.dataset.keysToggle !== undefined) { keysOn = !keysOn; remember("lodestem-keys", keysOn ? "1" : ""); set("keys-state", keysOn ? "on" : "off"); }
});

// A question that leaves everything else in reach: nothing may ever stand before STOP.
export function askHere(words, { yes = "Yes", text = false } = {}) {
  byId("question")?.remove();
  const box = document.createElement("form");
  box.id = "question"; box.className = "question"; box.setAttribute("role", "alertdialog"); box.setAttribute("aria-label", words);
  const line = document.createElement("p"); line.textContent = words;
  const input = document.createElement("input"); input.name = "text"; input.maxLength = 200; input.hidden = !text; input.setAttribute("aria-label", words);
  const ok = document.createElement("button"); ok.className = "primary"; ok.textContent = yes;
  const no = document.createElement("button"); no.type = "button"; no.className = "secondary"; no.textContent = "No";
  box.append(line, input, ok, no);
  document.body.append(box);
  (text ? input : no).focus();
  return new Promise((done) => {
    box.addEventListener("submit", (event) => { event.preventDefault(); box.remove(); done(text ? input.value : "yes"); });
    no.addEventListener("click", () => { box.remove(); done(null); });
  });
}

async function queue(wanted) {
  if (wanted.sure && (await askHere(wanted.sure, { yes: "Yes, go on" })) === null) return;
  const fields = { what: wanted.queue, target: wanted.target ?? "", epoch: state.newest?.lease?.epoch ?? 0, sure: wanted.sure ? "1" : "" };
  const told = await post("/api/queue", fields);
  toast(told.ok ? "asked; the run does it after the present step" : told.why, !told.ok);
}

function remember(name, value) { try { localStorage.setItem(name, value); } catch { /* private window */ } }
function recall(name) { try { return localStorage.getItem(name); } catch { return null; } }
function setTheme(theme) { document.documentElement.dataset.theme = theme; remember("lodestem-theme", theme); live.dispatchEvent(new Event("theme")); }
export let keysOn = recall("lodestem-keys") === "1";
set("keys-state", keysOn ? "on" : "off");

// --- keys ----------------------------------------------------------------------------------
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    event.preventDefault(); event.stopPropagation();
    if (event.repeat) return;
    if (drives()) stop(); else byId("stop").focus();
    return;
  }
  if (event.key.toLowerCase() === "k" && event.ctrlKey) { event.preventDefault(); openPalette(); return; }
  if (event.target.matches?.("input,select,textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "?") location.href = `${base}/help`;
}, true);

function openPalette() {
  const dialog = byId("palette");
  if (dialog.open) return;
  byId("palette-text").value = "";
  fillPalette("");
  dialog.show();
  byId("palette-text").focus();
}
function fillPalette(text) {
  const links = [...document.querySelectorAll(".screens a")].filter((a) => a.textContent.toLowerCase().includes(text.toLowerCase()));
  byId("palette-list").replaceChildren(...links.map((a) => { const li = document.createElement("li"); const link = document.createElement("a"); link.href = a.href; link.textContent = a.firstChild.textContent; li.append(link); return li; }));
}
byId("palette-text").addEventListener("input", (event) => fillPalette(event.target.value));
byId("palette-text").addEventListener("keydown", (event) => { if (event.key === "Enter") byId("palette-list").querySelector("a")?.click(); });
document.addEventListener("click", (event) => { if (byId("palette").open && !event.target.closest("#palette")) byId("palette").close(); });

let audio = null;
function softSound() {
  try {
    audio ??= new AudioContext();
    if (audio.state !== "running") return;
    const tone = audio.createOscillator(); const gain = audio.createGain();
    tone.frequency.value = 520; gain.gain.value = 0.04;
    tone.connect(gain).connect(audio.destination); tone.start(); tone.stop(audio.currentTime + 0.15);
  } catch { /* no sound here */ }
}

// --- replay --------------------------------------------------------------------------------
const slider = byId("slider");
if (slider) {
  let playing = null;
  const go = () => post("/api/replay", { share: slider.value / 1000 });
  slider.addEventListener("input", () => { set("slider-time", `${(slider.value / 10).toFixed(0)} %`); go(); });
  byId("play").addEventListener("click", () => {
    if (playing) { clearInterval(playing); playing = null; byId("play").textContent = "Play"; return; }
    if (slider.value === "1000") slider.value = "0";
    byId("play").textContent = "Hold";
    playing = setInterval(() => { slider.value = String(Number(slider.value) + 4); set("slider-time", `${(slider.value / 10).toFixed(0)} %`); go(); if (slider.value === "1000") byId("play").click(); }, 400);
  });
}

// --- first look round ------------------------------------------------------------------------
byId("tour-open")?.addEventListener("click", () => byId("tour").show());
byId("tour-close")?.addEventListener("click", () => { remember("lodestem-tour", "seen"); byId("tour").close(); });
if (byId("tour") && body.dataset.mode === "SIMULATOR" && body.dataset.screen === "overview" && body.dataset.name === "local operator" && !recall("lodestem-tour")) byId("tour").show();

// --- small forms -----------------------------------------------------------------------------
document.addEventListener("click", async (event) => {
  const forms = { "note-save": ["note", "/api/note"], "mask-save": ["mask", "/api/label"], "lockout-now": ["lockout", "/api/lockout"] };
  const found = forms[event.target.id];
  if (!found) return;
  const form = byId(found[0]);
  const told = await post(found[1], Object.fromEntries(new FormData(form)));
  toast(told.ok ? "kept" : told.why, !told.ok);
  if (told.ok && found[0] !== "mask") location.reload();
});

connect();
