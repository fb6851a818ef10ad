// The console. Everything shown comes from /search, /info and /readyz, and goes into the page as text, never as markup.
"use strict";

const STAGES = ["queue", "tokenize", "encode", "filter", "search", "fetch"];
const LONG_TEXT = 60; // characters: longer values are shown as a paragraph, shorter ones as a label with its value
const STATUS_SECONDS = 5;

const $ = (id) => document.getElementById(id);

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

const milliseconds = (value) => `${value < 10 ? value.toFixed(2) : value.toFixed(0)} ms`;

// What is asked

function readForm() {
  const body = { query: $("query").value, k: Number($("k").value) };
  const filter = $("filter").value.trim();
  if (filter) body.filter = JSON.parse(filter);
  if ($("timeout").value) body.timeout_ms = Number($("timeout").value);
  if ($("exact").checked) body.exact = true;
  return body;
}

function rememberInAddress(body) {
  const asked = new URLSearchParams({ q: body.query });
  if (body.k !== 10) asked.set("k", body.k);
  if (body.filter) asked.set("filter", JSON.stringify(body.filter));
  if (body.timeout_ms) asked.set("timeout_ms", body.timeout_ms);
  if (body.exact) asked.set("exact", "1");
  history.replaceState(null, "", `?${asked}`);
}

function recallFromAddress() {
  const asked = new URLSearchParams(location.search);
  $("query").value = asked.get("q") ?? "";
  $("k").value = asked.get("k") ?? 10;
  $("filter").value = asked.get("filter") ?? "";
  $("timeout").value = asked.get("timeout_ms") ?? "";
  $("exact").checked = asked.has("exact");
  return $("query").value !== "";
}

// What is answered

async function search() {
  let body;
  try {
    body = readForm();
  } catch (error) {
    showError("The filter is not JSON", String(error.message), 'For example: {"field": "value", "other": {"$gte": 3}}');
    return;
  }
  rememberInAddress(body);
  $("form").querySelector("button").disabled = true;
  try {
    const response = await fetch("/search", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    const answer = await response.json();
    if (response.ok) showAnswer(answer, body);
    else showProblem(answer);
  } catch (error) {
    showError("The service does not answer", String(error.message), "Is it still running?");
  } finally {
    $("form").querySelector("button").disabled = false;
  }
}

function showProblem(problem) {
  const spent = problem.spent_ms ? ` · spent: ${Object.entries(problem.spent_ms).map(([k, v]) => `${k} ${milliseconds(v)}`).join(", ")}` : "";
  const detail = problem.errors ? problem.errors.map((error) => `${error.path}: ${error.message}`).join("\n") : problem.detail;
  showError(`${problem.status} · ${problem.title}`, detail, `${problem.code} · request ${problem.request_id}${spent}`);
}

function showError(title, detail, more) {
  $("error-title").textContent = title;
  $("error-detail").textContent = detail;
  $("error-more").textContent = more;
  $("error").hidden = false;
  delete $("error").dataset.passing;
  $("answer").hidden = true;
}

function showAnswer(answer, body) {
  $("error").hidden = true;
  $("answer").hidden = false;
  $("count").textContent = answer.hits.length === 1 ? "1 hit" : `${answer.hits.length} hits`;
  $("total").textContent = milliseconds(answer.timings_ms.total);
  $("snapshot").textContent = answer.snapshot;
  $("truncated").hidden = !answer.truncated;
  showDegraded(answer.degraded);
  showTimings(answer.timings_ms);
  const best = Math.max(...answer.hits.map((hit) => hit.score), 0);
  const long = longFields(answer.hits);
  $("hits").replaceChildren(...answer.hits.map((hit, rank) => hitElement(hit, rank + 1, best, long)));
  $("curl").textContent = curlLine(body);
}

function showDegraded(degraded) {
  $("degraded").hidden = degraded === null;
  if (degraded === null) return;
  const recall = (100 * degraded.expected_recall).toFixed(1);
  $("degraded").textContent = `degraded: ${degraded.causes.join(", ")} · expected recall ${recall}%`;
}

function showTimings(timings) {
  const known = STAGES.filter((stage) => stage in timings).map((stage) => [stage, timings[stage]]);
  const rest = timings.total - known.reduce((sum, [, value]) => sum + value, 0);
  const parts = [...known, ["rest", Math.max(rest, 0)]];
  $("bar").replaceChildren(...parts.map(([stage, value]) => {
    const part = element("span", stage);
    part.style.flexGrow = value;
    part.title = `${stage} ${milliseconds(value)}`;
    return part;
  }));
  $("bar").setAttribute("aria-label", parts.map(([stage, value]) => `${stage} ${milliseconds(value)}`).join(", "));
  $("legend").replaceChildren(...parts.map(([stage, value]) => element("li", stage, `${stage} ${milliseconds(value)}`)));
}

// A field that is long in one hit is a paragraph in all of them.
function longFields(hits) {
  const isLong = (value) => typeof value === "string" && (value.length > LONG_TEXT || value.includes("\n"));
  return new Set(hits.flatMap((hit) => Object.keys(hit.fields ?? {}).filter((name) => isLong(hit.fields[name]))));
}

function hitElement(hit, rank, best, long) {
  const { title, ...fields } = hit.fields ?? {};
  const fill = element("i");
  fill.style.width = `${best > 0 ? Math.max(0, (100 * hit.score) / best) : 0}%`;
  const score = element("span", "score", hit.score.toFixed(4), element("span", "meter", fill));
  const name = element("span", "", title ? String(title) : hit.id);
  const made = element("li", "hit", element("h3", "", element("span", "rank", String(rank)), name, score));
  made.tabIndex = -1;
  if (hit.fields === null) made.append(element("p", "hint", "fields were left out for want of time"));
  else made.append(...fieldElements(title ? { ...fields, id: hit.id } : fields, long));
  return made;
}

function fieldElements(fields, long) {
  const given = Object.entries(fields).filter(([, value]) => value !== null && value !== "");
  const paragraphs = given.filter(([name]) => long.has(name)).map(([, value]) => element("p", "text", String(value)));
  const short = given.filter(([name]) => !long.has(name));
  const list = element("dl", "", ...short.map(([name, value]) => element("div", "", element("dt", "", name), element("dd", "", String(value)))));
  return short.length ? [...paragraphs, list] : paragraphs;
}

function curlLine(body) {
  const quoted = JSON.stringify(body).replaceAll("'", "'\\''");
  return `curl -s ${location.origin}/search -H 'content-type: application/json' -d '${quoted}'`;
}

// What runs

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
    if ($("answer").hidden) showError(problem.title, problem.detail, problem.code);
    $("error").dataset.passing = "yes"; // goes by itself once the service is ready
    return;
  }
  if ($("error").dataset.passing) $("error").hidden = true;
  const { snapshot } = info;
  const swap = info.desired !== info.serving ? ` · wanted: ${info.desired} (${info.state})` : "";
  setStatus(`${snapshot.name} · ${snapshot.documents.count.toLocaleString()} documents · ${snapshot.index.kind} · ${snapshot.query_tower.precision}${swap}`, true);
  $("k").max = info.settings.max_k;
  const filterable = snapshot.documents.columns.filter((column) => column.filterable);
  $("fields").textContent = filterable.length
    ? `Filter on ${filterable.map((column) => `${column.name} (${column.type})`).join(", ")}`
    : "This snapshot has no fields to filter on";
}

function setStatus(text, ready) {
  $("status").textContent = text;
  $("status").className = `status ${ready ? "ready" : "unready"}`;
}

// Keys

function moveAmongHits(step) {
  const hits = [...document.querySelectorAll(".hit")];
  const at = hits.indexOf(document.activeElement);
  if (at + step < 0) $("query").focus();
  else hits[Math.min(at + step, hits.length - 1)]?.focus();
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input") && event.target.id !== "query";
  if (event.key === "/" && !event.target.matches("input")) {
    event.preventDefault();
    $("query").select();
  } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && !typing) {
    event.preventDefault();
    moveAmongHits(event.key === "ArrowDown" ? 1 : -1);
  }
});

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});

if (recallFromAddress()) search();
showStatus();
setInterval(showStatus, STATUS_SECONDS * 1000);
