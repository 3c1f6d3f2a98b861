// Small pictures that only look on.
import { live, state } from "./shell.js";
import { Picture, standing } from "./picture.js";
let pictures = {};
function find() {
  pictures = {};
  for (const box of document.querySelectorAll(".thumb[data-stream]")) {
    pictures[box.dataset.stream] = new Picture(box);
    const known = state.pictures[box.dataset.stream];
    if (known) pictures[box.dataset.stream].show(known.header, known.jpeg);
  }
}
find();
document.body.addEventListener("htmx:afterSwap", find);
live.addEventListener("picture", (event) => pictures[event.detail.header.stream]?.show(event.detail.header, event.detail.jpeg));
live.addEventListener("clear", (event) => pictures[event.detail]?.clear());
setInterval(() => { for (const p of Object.values(pictures)) if (p.header) p.box.classList.toggle("stale", standing(p.header, state, Date.now()) === "stale"); }, 500);
