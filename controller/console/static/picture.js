// One picture: decoded, coloured, scaled in the browser; greyed when it may not be so any more.
const MAPS = {
  viridis: [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]],
  cividis: [[0, 34, 78], [65, 77, 107], [124, 123, 120], [188, 175, 111], [254, 232, 56]],
};

export function table(map, gamma) {
  const out = new Uint8ClampedArray(768);
  for (let i = 0; i < 256; i++) {
    const v = Math.pow(i / 255, gamma);
    const stops = MAPS[map];
    let rgb = [255 * v, 255 * v, 255 * v];
    if (stops) { const t = v * (stops.length - 1); const k = Math.min(Math.floor(t), stops.length - 2); rgb = stops[k].map((c, j) => c + (stops[k + 1][j] - c) * (t - k)); }
    out.set(rgb, 3 * i);
  }
  return out;
}

export class Picture {
  constructor(box) {
    this.box = box;
    this.canvas = box.querySelector("canvas");
    this.look = { map: "grey", gamma: 1 };
    this.header = null;
    this.raw = null;
  }

  async show(header, jpeg) {
    const bitmap = await createImageBitmap(jpeg);
    if (this.header && header.arrived_ms < this.header.arrived_ms) { bitmap.close(); return; }
    this.header = header;
    this.canvas.width = bitmap.width; this.canvas.height = bitmap.height;
    // box, canvas and overlay share one shape, so that an overlay lies where it belongs
    this.box.style.aspectRatio = `${bitmap.width} / ${bitmap.height}`;
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    this.raw = this.look.map === "grey" && this.look.gamma === 1 ? null : context.getImageData(0, 0, this.canvas.width, this.canvas.height);
    this.source = jpeg;
    this.box.classList.add("has-picture");
    if (this.raw) this.paint();
  }

  clear() {
    this.header = null;
    this.box.classList.remove("has-picture", "stale");
    this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.box.querySelector(".overlay")?.replaceChildren();
  }

  async restyle(look) {
    this.look = { ...this.look, ...look };
    if (this.header) await this.show({ ...this.header, arrived_ms: this.header.arrived_ms }, this.source);
  }

  paint() {
    const colours = table(this.look.map, this.look.gamma);
    const out = new ImageData(new Uint8ClampedArray(this.raw.data), this.raw.width, this.raw.height);
    const d = out.data;
    for (let i = 0; i < d.length; i += 4) { const k = 3 * d[i]; d[i] = colours[k]; d[i + 1] = colours[k + 1]; d[i + 2] = colours[k + 2]; }
    this.canvas.getContext("2d").putImageData(out, 0, 0);
  }
}

// How a picture stands: live, held (taken, beam blanked since, nothing has changed) or stale.
export function standing(header, state, now_ms) {
  if (state.lost_since !== null || state.newest === null) return "stale";
  if (state.newest.shell.mode === "REPLAY") return "held";
  if (state.newest.shell.state === "OFFLINE") return "stale";
  const age = state.newest.shell.instrument_age_s;
  if (age !== null && age > 2) return "stale";
  if (now_ms - state.heard_ms > 2000) return "stale";
  if (header.live && now_ms - header.arrived_ms > 2000 && state.newest.shell.beam_class === "on") return "stale";
  return header.live ? "live" : "held";
}

export function ageWords(header, standingNow, serverNow_ms) {
  const age_s = Math.max(0, (serverNow_ms - Date.parse(header.utc)) / 1000);
  const words = age_s < 10 ? `${age_s.toFixed(1)} s` : age_s < 120 ? `${age_s.toFixed(0)} s` : age_s < 7200 ? `${(age_s / 60).toFixed(0)} min` : age_s < 172800 ? `${(age_s / 3600).toFixed(1)} h` : `${(age_s / 86400).toFixed(0)} days`;
  return standingNow === "held" ? `taken ${words} ago, held` : `age ${words}`;
}
