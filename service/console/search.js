// Searching: what is asked, and what is answered. Everything shown comes from /search and /info.
import { $, element, milliseconds, problemText } from "./dom.js";

const STAGES = ["queue", "tokenize", "encode", "filter", "search", "fetch"];
const LONG_TEXT = 60; // characters: longer values are shown as a paragraph, shorter ones as a label with its value

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
  history.replaceState(null, "", `?${asked}${location.hash}`);
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
  showError(`${problem.status} · ${problem.title}`, problemText(problem), `${problem.code} · request ${problem.request_id}${spent}`);
}

export function showError(title, detail, more) {
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

// Keys

function moveAmongHits(step) {
  const hits = [...document.querySelectorAll(".hit")];
  const at = hits.indexOf(document.activeElement);
  if (at + step < 0) $("query").focus();
  else hits[Math.min(at + step, hits.length - 1)]?.focus();
}

export function onKey(event) {
  const typing = event.target.matches("input") && event.target.id !== "query";
  if (event.key === "/" && !event.target.matches("input, textarea")) {
    event.preventDefault();
    $("query").select();
  } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && !typing) {
    event.preventDefault();
    moveAmongHits(event.key === "ArrowDown" ? 1 : -1);
  }
}

export function describeSnapshot(info) {
  const filterable = info.snapshot.documents.columns.filter((column) => column.filterable);
  $("k").max = info.settings.max_k;
  $("fields").textContent = filterable.length
    ? `Filter on ${filterable.map((column) => `${column.name} (${column.type})`).join(", ")}`
    : "This snapshot has no fields to filter on";
}

export function start() {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  if (recallFromAddress()) search();
}
