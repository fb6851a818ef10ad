// Light or dark: as the system has it, unless somebody has chosen otherwise here.
import { $ } from "./dom.js";

const KEY = "scalingnote.theme"; // localStorage: a taste, not a secret

const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

function show() {
  $("theme").textContent = dark() ? "light" : "dark";
  $("theme").setAttribute("aria-label", `Use ${$("theme").textContent} colours`);
}

export function toggle() {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  localStorage.setItem(KEY, document.documentElement.dataset.theme);
  show();
}

export function start() {
  const chosen = localStorage.getItem(KEY);
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  $("theme").addEventListener("click", toggle);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();
}
