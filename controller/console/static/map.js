// The map: a click chooses a region, the list does the same without a mouse.
const base = document.body.dataset.base;
document.addEventListener("click", (event) => {
  const region = event.target.closest("[data-region]");
  if (region) location.href = `${base}/map?region=${encodeURIComponent(region.dataset.region)}`;
});
document.addEventListener("change", (event) => {
  if (!event.target.matches("[data-layer]")) return;
  const which = { regions: ".region", dose: ".dose", limits: ".scalebar" }[event.target.dataset.layer];
  for (const at of document.querySelectorAll(`.overlay ${which}`)) at.classList.toggle("visually-hidden", !event.target.checked);
});
