// Before the first paint: the theme that this browser chose.
try {
  document.documentElement.dataset.theme = localStorage.getItem("lodestem-theme") || "dark";
} catch {
  document.documentElement.dataset.theme = "dark";
}
