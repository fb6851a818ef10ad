// Operators' part: the registry, the gate's reports, and the swap. Everything shown comes from /snapshots and below.
import { $, age, bytes, calledOff, element, moment, questions, say, seconds } from "./dom.js";
import * as operator from "./operator.js";

const QUIET_SECONDS = 5;
const RUNNING_SECONDS = 0.5;

let shown = false;
let arriving = false; // until the token's field or the list has the keyboard
let timer = null;
let watched = ""; // of the last progress that was shown: the list is read again when it differs
let rows = [];
let compared = null; // id of the snapshot whose report and differences are open
const askedSwap = questions();
const askedList = questions(); // and the details in it

// Asking

async function call(path, body, signal) {
  const token = operator.token();
  try {
    return await operator.call(path, body, signal);
  } catch (error) {
    if (error.problem?.status === 401 && token === operator.token()) signOut(token ? error.problem.detail : "");
    throw error;
  }
}

function signOut(why) {
  askedSwap();
  askedList();
  operator.forget();
  say($("token-error"), why);
  $("sign-in").hidden = false;
  $("operator").hidden = true;
  arrive();
}

async function refresh() {
  clearTimeout(timer);
  if (!shown) return;
  let pause = QUIET_SECONDS;
  const signal = askedSwap();
  try {
    const swap = await call("/swap", undefined, signal);
    if (swap.running) pause = RUNNING_SECONDS;
    await showSwap(swap);
    $("sign-in").hidden = true;
    $("operator").hidden = false;
    say($("operator-error"), "");
  } catch (error) {
    showTrouble(error);
  }
  if (signal.aborted) return; // whoever asks anew sets the time
  arrive();
  clearTimeout(timer);
  if (shown && operator.token()) timer = setTimeout(refresh, 1000 * pause); // without one there is nothing to ask
}

function arrive() {
  const at = document.activeElement; // who is somewhere here already stays there
  if (arriving && (at.closest("[hidden]") || !at.closest("#view-snapshots"))) ($("sign-in").hidden ? $("registry") : $("token")).focus();
  arriving = false;
}

function showTrouble(error) {
  if (calledOff(error)) return;
  const { problem } = error;
  if (problem?.code === "admin_disabled") {
    $("sign-in").hidden = $("operator").hidden = true;
  }
  if (problem?.code === "unauthorized") say($("operator-error"), "");
  else say($("operator-error"), problem ? `${problem.title}: ${error.message}` : `The service does not answer: ${error.message}`);
}

// The swap

async function showSwap(swap) {
  const state = swap.running ? `${swap.snapshot} · ${swap.state}` : swap.state;
  say($("swap-state"), `${state} since ${moment(swap.since)}`);
  $("swap-state").className = `badge ${swap.running ? "warn" : swap.state === "failed" ? "bad" : "good"}`;
  say($("swap-ids"), swap.desired === swap.serving ? `serving ${swap.serving ?? "nothing"}` : `desired ${swap.desired ?? "nothing"} · serving ${swap.serving ?? "nothing"}`);
  showSteps(swap);
  showFailure(swap);
  const now = JSON.stringify([swap.desired, swap.serving, swap.state, swap.began_at, swap.last_error]);
  if (now !== watched) await showList();
  watched = now;
}

function showSteps(swap) {
  const total = swap.steps.reduce((sum, step) => sum + step.seconds, 0);
  $("steps").replaceChildren(...swap.steps.map((step) => {
    const made = element("li", step.running ? "running" : "", element("span", "", step.name), element("span", "figure", seconds(step.seconds)));
    if (step.running) made.setAttribute("aria-current", "step");
    return made;
  }));
  say($("steps-about"), swap.snapshot && swap.steps.length ? `${swap.running ? "Loading" : "Last swap:"} ${swap.snapshot}, ${seconds(total)}${swap.running ? " so far" : ""}` : "");
}

function showFailure(swap) {
  const failure = swap.last_error;
  $("failure").hidden = failure === null;
  if (failure === null) return;
  say($("failure-title"), failure.snapshot ? `${failure.snapshot} was refused: ${failure.code}` : failure.code);
  say($("failure-reason"), failure.reason);
  const next = swap.next_attempt_seconds === null ? "" : ` · next attempt in ${seconds(swap.next_attempt_seconds)}`;
  say($("failure-more"), failure.attempts ? `attempt ${failure.attempts} at ${moment(failure.at)}${next}` : "");
}

// The registry

async function showList() {
  const signal = askedList();
  drawList(await call("", undefined, signal));
  if (rows.some((row) => row.id === compared)) attempt(() => showDetails(compared, signal)); // a slow report keeps no swap from being shown
}

function drawList(answer) {
  rows = answer.snapshots;
  const unreadable = Object.entries(answer.unreadable).map(([id, reason]) => element("li", "snapshot", element("h3", "", element("code", "", id), badge("unreadable", "bad")), element("p", "reason", reason)));
  const had = document.activeElement?.dataset?.key; // keyboards stay where they are
  $("registry").replaceChildren(...rows.map(snapshotElement), ...unreadable);
  if (had) document.querySelector(`[data-key="${had}"]`)?.focus();
  say($("registry-empty"), rows.length || unreadable.length ? "" : "No snapshot is published yet.");
}

const badge = (text, kind) => element("span", `badge ${kind}`, text);

function snapshotElement(row) {
  const title = element("h3", "", element("code", "", row.id));
  if (row.desired) title.append(badge("desired", "good"));
  if (row.serving) title.append(badge("serving", "good"));
  else if (row.open) title.append(badge("kept open", "good"));
  if (row.gate) title.append(verdictBadge(row.gate));
  const facts = {
    age: age(row.age_seconds),
    documents: row.documents.toLocaleString(),
    size: bytes(row.bytes),
    space: `${short(row.space)} · ${row.dim}`,
    index: `${row.index} · ${row.precision}`,
    retention: row.retained === null ? "not measured" : `${(100 * row.retained).toFixed(1)}%`,
  };
  if (row.parent) facts.parent = row.parent;
  const made = element("li", "snapshot", title, factList(facts), buttons(row));
  made.id = `snapshot-${row.id}`;
  return made;
}

function verdictBadge(verdict) {
  if (verdict.passed && verdict.accepted) return badge("passed the gate", "good");
  const failed = verdict.failed_checks.join(", ");
  return verdict.forced ? badge(`forced past ${failed}`, "warn") : badge(failed ? `refused: ${failed}` : "refused", "bad");
}

const factList = (facts) =>
  element("dl", "", ...Object.entries(facts).map(([name, value]) => element("div", "", element("dt", "", name), element("dd", "", value))));

function buttons(row) {
  const activate = button("Activate", `activate-${row.id}`, () => askWhy(`Activate ${row.id}`, `/${row.id}/activate`));
  activate.classList.add("change");
  const details = button(compared === row.id ? "Hide details" : "Details", `details-${row.id}`, () => toggleDetails(row.id));
  details.classList.add("plain");
  details.setAttribute("aria-expanded", String(compared === row.id));
  return element("p", "actions", activate, details);
}

function button(text, key, act) {
  const made = element("button", "", text);
  made.type = "button";
  made.dataset.key = key;
  made.addEventListener("click", act);
  return made;
}

// One snapshot: the gate's reports, and how it differs from another

async function toggleDetails(id) {
  compared = compared === id ? null : id;
  await attempt(showList);
}

async function showDetails(id, signal) {
  const place = element("div", "details");
  const others = rows.filter((row) => row.id !== id);
  place.append(element("h4", "", "Gate"), ...(await gateElements(id, signal)));
  if (others.length) place.append(element("h4", "", "Compared with"), comparison(id, others));
  $(`snapshot-${id}`).append(place);
}

async function gateElements(id, signal) {
  try {
    const last = await call(`/${id}/gate`, undefined, signal);
    return [last, ...last.earlier].map((report, place) => {
      const summary = element("summary", "", verdictBadge(report), ` ${moment(report.at)}`);
      const made = element("details", "report", summary);
      if (report.reason) made.append(element("p", "reason", report.reason));
      const about = [report.against && `compared with ${report.against}`, report.why && `why: ${report.why}`, `took ${seconds(report.seconds)}`];
      made.append(element("p", "hint", about.filter(Boolean).join(" · ")), checkTable(report.checks));
      made.open = place === 0;
      return made;
    });
  } catch (error) {
    if (["not_found", "swap_running"].includes(error.problem?.code)) return [element("p", "hint", error.message)];
    throw error;
  }
}

function checkTable(checks) {
  const lines = checks.map((check) => {
    const verdict = check.passed ? badge("passed", "good") : badge(check.forcible ? "failed, can be forced" : "failed", "bad");
    const name = element("th", "", check.name);
    name.scope = "row";
    const cells = [name, element("td", "figure", figure(check.value)), element("td", "figure", figure(check.limit)), element("td", "", verdict)];
    if (check.detail) cells[3].append(element("p", "hint", check.detail));
    return element("tr", "", ...cells);
  });
  return table(["check", "value", "limit", "verdict"], lines);
}

const short = (hash) => hash.slice(0, 12);

function figure(value) {
  if (value === null) return "–";
  if (typeof value === "number" && value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(1);
  if (typeof value === "number") return value.toLocaleString(undefined, { maximumSignificantDigits: 6 });
  return /^[0-9a-f]{64}$/.test(value) ? short(value) : String(value);
}

function table(heads, lines) {
  const cells = heads.map((head) => Object.assign(element("th", "", head), { scope: "col" }));
  for (const line of lines) [...line.cells].forEach((cell, at) => (cell.dataset.head = heads[at])); // narrow screens show no row of heads
  return element("div", "scroll", element("table", "", element("thead", "", element("tr", "", ...cells)), element("tbody", "", ...lines)));
}

function comparison(id, others) {
  const place = element("div", "");
  const asked = questions();
  const choice = element("select", "", ...others.map((row) => Object.assign(element("option", "", row.id + (row.serving ? " (serving)" : "")), { value: row.id })));
  choice.setAttribute("aria-label", `Compare ${id} with`);
  choice.value = (others.find((row) => row.serving) ?? others[0]).id;
  const compare = async () => {
    place.replaceChildren();
    const { first, second, facts } = await call(`/${choice.value}/diff/${id}`, undefined, asked());
    const lines = facts.map((fact) => {
      const name = Object.assign(element("th", "", fact.name.replaceAll("_", " ")), { scope: "row" });
      return element("tr", fact.equal ? "" : "differs", name, element("td", "figure", figure(fact.first)), element("td", "figure", figure(fact.second)));
    });
    place.replaceChildren(table(["", first, second], lines));
  };
  choice.addEventListener("change", () => attempt(compare));
  attempt(compare);
  return element("div", "", choice, place);
}

// Changing

function askWhy(title, path) {
  $("change-title").textContent = title;
  $("why").value = "";
  $("force").checked = false;
  say($("change-error"), "");
  $("change").dataset.path = path;
  $("change").showModal();
  $("why").focus();
}

async function change() {
  const body = { why: $("why").value.trim() };
  if ($("force").checked) body.force = true;
  $("change-go").disabled = true;
  try {
    await call($("change").dataset.path, body);
    $("change").close();
    await refresh();
  } catch (error) {
    say($("change-error"), error.problem ? `${error.problem.title}: ${error.message}` : `The service does not answer: ${error.message}`);
  } finally {
    $("change-go").disabled = false;
  }
}

async function attempt(work) {
  try {
    await work();
  } catch (error) {
    showTrouble(error);
  }
}

export function show(visible) {
  shown = arriving = visible;
  watched = "";
  refresh();
}

export function start() {
  $("sign-in").addEventListener("submit", (event) => {
    event.preventDefault();
    operator.keep($("token").value.trim());
    $("token").value = "";
    say($("token-error"), "");
    watched = "";
    arriving = true;
    refresh();
  });
  $("sign-out").addEventListener("click", () => {
    arriving = true;
    signOut("");
  });
  $("rollback").addEventListener("click", () => askWhy("Roll back to the snapshot before", "/rollback"));
  $("change-form").addEventListener("submit", (event) => {
    event.preventDefault();
    change();
  });
  $("change-cancel").addEventListener("click", () => $("change").close());
}
