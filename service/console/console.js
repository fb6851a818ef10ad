// The console: three views of one page, and the line that says what runs. It comes from /readyz and /info.
import { $ } from "./dom.js";
import * as live from "./live.js";
import * as searching from "./search.js";
import * as snapshots from "./snapshots.js";
import * as theme from "./theme.js";

const STATUS_SECONDS = 5;
const VIEWS = ["search", "live", "snapshots"];
const KEYS = { s: "snapshots", l: "live", "/": "search" };

async function showStatus() {
  try {
    const [ready, info] = await Promise.all([fetch("/readyz"), fetch("/info")]);
    const problem = ready.ok ? null : await ready.json();
    describe(problem, await info.json());
  } catch {
    setStatus("the service does not answer", false);
  }
}

function describe(problem, info) {
  if (problem) {
    setStatus(problem.title.toLowerCase(), false);
    if ($("answer").hidden) searching.showError(problem.title, problem.detail, problem.code);
    $("error").dataset.passing = "yes"; // goes by itself once the service is ready
    return;
  }
  if ($("error").dataset.passing) $("error").hidden = true;
  const { snapshot } = info;
  const swap = info.desired !== info.serving ? ` · wanted: ${info.desired} (${info.state})` : "";
  setStatus(`${snapshot.name} · ${snapshot.documents.count.toLocaleString()} documents · ${snapshot.index.kind} · ${snapshot.query_tower.precision}${swap}`, true);
  searching.describeSnapshot(info);
}

function setStatus(text, ready) {
  $("status").textContent = text;
  $("status").className = `status ${ready ? "ready" : "unready"}`;
}

function showView() {
  const wanted = VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : VIEWS[0];
  for (const view of VIEWS) {
    $(`view-${view}`).hidden = view !== wanted;
    const link = document.querySelector(`nav a[href="#${view}"]`);
    if (view === wanted) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  live.show(wanted === "live");
  snapshots.show(wanted === "snapshots");
  if (wanted === "live") $("view-live").focus();
  if (wanted !== "search") return;
  $("query").focus();
  searching.describeOpen();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.matches("input, textarea, select");
  if (event.key === "Escape" && typing) {
    event.preventDefault(); // what was typed stays
    event.target.blur();
  }
  if (event.key in KEYS && !typing) location.hash = KEYS[event.key];
  if (event.key === "t" && !typing) theme.toggle();
  if (!$("view-search").hidden || event.key === "/") searching.onKey(event);
});

addEventListener("hashchange", showView);
theme.start();
searching.start();
snapshots.start();
showView();
showStatus();
setInterval(showStatus, STATUS_SECONDS * 1000);
