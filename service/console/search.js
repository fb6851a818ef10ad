// Searching: what is asked. Everything shown comes from /search, from /info, and for operators from /snapshots.
import { column } from "./answer.js";
import * as comparing from "./compare.js";
import { $, answerOf, element, milliseconds, problemText, say } from "./dom.js";
import { bodyText, read, withCondition } from "./filter.js";
import * as key from "./key.js";
import * as operator from "./operator.js";

const EXACT = "exact"; // of the choice "beside it"; any other value is the id of a snapshot
let serving = null;
let known = ""; // of the snapshot whose columns and efforts are shown
let limits = { max_k: 1000, max_timeout_ms: 1000 }; // as long as /info has not said

// What is asked

function readForm() {
  const body = { query: $("query").value, k: Number($("k").value) };
  const filter = $("filter").value.trim();
  if (filter) {
    read(filter); // throws what is wrong with it
    body.filter = filter;
  }
  if ($("timeout").value && !asOperator()) body.timeout_ms = Number($("timeout").value);
  if ($("exact").checked && !asOperator()) body.exact = true;
  return body;
}

function rememberInAddress(body) {
  const asked = new URLSearchParams({ q: body.query });
  if (body.k !== 10) asked.set("k", body.k);
  if (body.filter) asked.set("filter", body.filter);
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

function addCondition() {
  const { value: name, dataset: { type } } = $("column").selectedOptions[0];
  try {
    $("filter").value = withCondition($("filter").value.trim(), { name, type }, $("operator-name").value, $("value").value);
    $("value").value = "";
    say($("filter-error"), "");
  } catch (error) {
    say($("filter-error"), error.message);
  }
}

// What is answered

async function search() {
  let body;
  try {
    body = readForm();
  } catch (error) {
    showError("The filter cannot be sent", error.message, 'For example: {"field": "value", "other": {"$gte": 3}}');
    return;
  }
  rememberInAddress(body);
  $("submit").disabled = true;
  try {
    show(await columns(body), body);
  } catch (error) {
    showFailure(error);
  } finally {
    $("submit").disabled = false;
  }
}

// An effort or another snapshot: searched by the operators' route, which has no budget, no exact search and is not for anybody's curl.
function asOperator() {
  return $("effort").value !== "" || !["", EXACT].includes($("beside").value);
}

function chosen() {
  $("timeout").disabled = $("exact").disabled = asOperator();
}

async function columns(body) {
  const effort = $("effort").value === "" ? null : Number($("effort").value);
  const beside = $("beside").value;
  if (asOperator()) return comparing.onSnapshots(["", EXACT].includes(beside) ? [serving] : [serving, beside], body, effort);
  if (beside === EXACT) return comparing.exactly(body, post, limits);
  return [column(await post(body))];
}

async function post(body) {
  const response = await fetch("/search", { method: "POST", headers: { "content-type": "application/json", ...key.headers() }, body: bodyText(body) });
  return answerOf(response);
}

function showFailure(error) {
  const { problem } = error;
  $("key-form").hidden = problem?.code !== "key_unknown";
  if (error.shown) showError(error.shown.title, error.shown.detail, error.shown.more);
  else if (problem) {
    const spent = problem.spent_ms ? ` · spent: ${Object.entries(problem.spent_ms).map(([k, v]) => `${k} ${milliseconds(v)}`).join(", ")}` : "";
    showError(`${problem.status} · ${problem.title}`, problemText(problem), `${problem.code} · request ${problem.request_id}${spent}`);
  } else showError("The service does not answer", String(error.message), "Is it still running?");
}

export function showError(title, detail, more) {
  $("error-title").textContent = title;
  $("error-detail").textContent = detail;
  $("error-more").textContent = more;
  $("error").hidden = false;
  delete $("error").dataset.passing;
  $("answer").hidden = true;
}

function show(made, body) {
  $("error").hidden = $("key-form").hidden = true;
  $("answer").hidden = false;
  $("columns").replaceChildren(...made);
  $("columns").className = made.length > 1 ? "columns two" : "columns";
  $("curl").textContent = curlLine(body);
  $("curl").parentElement.hidden = asOperator();
}

function curlLine(body) {
  const quoted = bodyText(body).replaceAll("'", "'\\''");
  const own = "x-api-key" in key.headers() ? ' -H "X-API-Key: $KEY"' : "";
  return `curl -s ${location.origin}/search -H 'content-type: application/json'${own} -d '${quoted}'`;
}

// Keys

function moveAmongHits(step) {
  const hits = [...document.querySelectorAll(".hit")];
  const at = hits.indexOf(document.activeElement);
  if (at + step < 0) $("query").focus();
  else hits[Math.min(at + step, hits.length - 1)]?.focus();
}

export function onKey(event) {
  const typing = event.target.matches("input, select") && event.target.id !== "query";
  if (event.key === "/" && !event.target.matches("input, textarea")) {
    event.preventDefault();
    $("query").select();
  } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && !typing) {
    event.preventDefault();
    moveAmongHits(event.key === "ArrowDown" ? 1 : -1);
  }
}

// What there is to choose from

const option = (value, text) => Object.assign(element("option", "", text), { value });

function columnOption({ name, type }) {
  const made = option(name, name);
  made.dataset.type = type;
  return made;
}

function fill(select, options) {
  const chosen = select.value;
  select.replaceChildren(...options);
  if (options.some((made) => made.value === chosen)) select.value = chosen;
}

export function describeSnapshot(info) {
  if (info.serving === known) return;
  known = serving = info.serving;
  limits = info.settings;
  $("k").max = limits.max_k;
  const { documents, index } = info.snapshot;
  const filterable = documents.columns.filter((each) => each.filterable);
  $("fields").textContent = filterable.length
    ? `Filter on ${filterable.map((each) => `${each.name} (${each.type})`).join(", ")}`
    : "This snapshot has no fields to filter on";
  $("conditions").hidden = filterable.length === 0;
  fill($("column"), filterable.map(columnOption));
  const efforts = index.efforts.map((row) => option(String(row.effort), `${row.effort} · recall ${(100 * row.recall_at_10).toFixed(1)}% · p99 ${milliseconds(row.p99_ms)}`));
  fill($("effort"), [option("", `as planned: ${index.default_effort}, less for want of time`), ...efforts]);
  describeOpen();
}

// The former snapshot, where one is kept open, is known to operators only.
export async function describeOpen() {
  let others = [];
  if (operator.token()) {
    try {
      const registry = await operator.call("");
      serving = registry.serving;
      others = registry.snapshots.filter((row) => row.open && !row.serving).map((row) => option(row.id, `snapshot ${row.id}`));
    } catch {
      // the snapshots' view says what is wrong
    }
  }
  fill($("beside"), [option("", "nothing"), option(EXACT, "exact search"), ...others]);
  chosen();
}

export function start() {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    key.keep($("key").value.trim());
    $("key").value = "";
    search();
  });
  for (const id of ["effort", "beside"]) $(id).addEventListener("change", chosen);
  $("add").addEventListener("click", addCondition);
  $("value").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    addCondition();
  });
  if (recallFromAddress()) search();
}
