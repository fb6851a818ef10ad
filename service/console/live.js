// The last fifteen minutes as the service keeps them itself, as small charts drawn here. Everything shown comes from /history.
import { chart } from "./chart.js";
import { $, answerOf, element, milliseconds, say } from "./dom.js";

const REFRESH_SECONDS = 5;
const LEAST_SECONDS = 60; // of the scale, after a start
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.01 ? 2 : 1)}%`;
const perSecond = (value) => `${value >= 100 ? value.toFixed(0) : value.toFixed(1)}/s`;

let shown = false;
let timer = null;

// Each: its id, title, how a value is written, and lines: name, class and value of a sample. `limit` is a line across.
const CHARTS = (history) => [
  { id: "rate", title: "Searches", write: perSecond, lines: [["asked", "one", (s) => s.requests_per_second]] },
  {
    id: "latency", title: "Latency, refusals among it", write: milliseconds, limit: ["budget", history.budget_ms],
    lines: [["p50", "one", (s) => s.p50_ms], ["p99", "two", (s) => s.p99_ms]],
  },
  { id: "budget", title: "Within the budget, of those let in", write: percent, most: 1, lines: [["share", "good-line", (s) => s.in_budget_share]] },
  {
    id: "degraded", title: "Degraded share", write: percent, least: 0.01,
    lines: [["less effort", "one", (s) => s.degraded_share?.deadline_effort ?? null], ["no fields", "two", (s) => s.degraded_share?.deadline_fields ?? null]],
  },
  {
    id: "shed", title: "Shed, late and failed", write: perSecond,
    lines: [["shed", "one", (s) => s.shed_per_second], ["late", "two", (s) => s.late_per_second], ["failed", "bad-line", (s) => s.failed_per_second]],
  },
  { id: "recall", title: "Live recall", write: percent, most: 1, lines: [["recall", "good-line", (s) => s.recall]], none: "not measured" },
];

async function refresh() {
  clearTimeout(timer);
  if (!shown) return;
  try {
    draw(await answerOf(await fetch("/history")));
    say($("live-error"), "");
  } catch (error) {
    say($("live-error"), trouble(error));
  }
  clearTimeout(timer);
  if (shown) timer = setTimeout(refresh, 1000 * REFRESH_SECONDS);
}

function trouble({ problem, message }) {
  if (!problem) return `The service does not answer: ${message}`;
  const one = problem.status === 404 ? ". The last minutes are those of one process: open the console of one replica, by its own address" : "";
  return `${problem.title}: ${message}${one}`;
}

function draw(history) {
  const { samples } = history;
  const minutes = Math.round(history.kept_seconds / 60);
  say($("live-about"), samples.length ? `The last ${minutes} minutes of this instance, a point each ${history.interval_seconds} s; a gap is a time without requests. Prometheus keeps more.` : `The first point comes ${history.interval_seconds} s after the start.`);
  const end = samples.length ? Date.parse(samples.at(-1).at) : Date.now();
  const first = samples.length ? Date.parse(samples[0].at) : end;
  const span = { start: Math.max(end - 1000 * history.kept_seconds, Math.min(first, end - 1000 * LEAST_SECONDS)), end };
  $("charts").replaceChildren(...CHARTS(history).map((wanted) => figure(wanted, samples, span)));
}

function figure(wanted, samples, span) {
  const lines = wanted.lines.map(([name, kind, read]) => ({ name, kind, points: samples.map((sample) => [Date.parse(sample.at), read(sample)]) }));
  const last = lines.map(({ name, kind, points }) => [name, kind, points.at(-1)?.[1] ?? null]);
  const now = last.map(([name, , value]) => `${name} ${value === null ? wanted.none ?? "–" : wanted.write(value)}`);
  if (wanted.limit) now.push(`${wanted.limit[0]} ${wanted.write(wanted.limit[1])}`);
  const legend = element("ul", "legend lines", ...last.map(([, kind], at) => element("li", kind, now[at])));
  if (wanted.limit) legend.append(element("li", "limit", now.at(-1)));
  const made = element("section", "card chart-card", element("h2", "", wanted.title), chart(wanted, lines, span, `${wanted.title}: now ${now.join(", ")}`), legend);
  made.id = `chart-${wanted.id}`;
  return made;
}

export function show(visible) {
  shown = visible;
  refresh();
}
