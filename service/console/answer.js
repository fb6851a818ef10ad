// One answer as a column: how many, how long and on what, what was given up, and the hits with the reason why each is there.
import { element, milliseconds } from "./dom.js";

const STAGES = ["queue", "tokenize", "encode", "filter", "search", "exact", "fetch"];
const LONG_TEXT = 60; // characters: longer values are shown as a paragraph, shorter ones as a label with its value

const percent = (share) => `${(100 * share).toFixed(1)}%`;

// `answer`: of /search or of /snapshots/ID/search. `why(hit, rank)`: texts that say why a hit is there. `missed`: hits that are not.
export function column(answer, { title, notes = [], why = () => [], missed = [] } = {}) {
  const made = element("section", "column");
  if (title) made.append(element("h2", "", title));
  made.append(summary(answer, notes), ...timings(answer.timings_ms));
  const every = [...answer.hits, ...missed];
  const best = Math.max(...every.map((hit) => hit.score), 0);
  const long = longFields(every);
  const list = element("ol", "hits", ...answer.hits.map((hit, place) => hitElement(hit, String(place + 1), best, long, why(hit, place + 1))));
  made.append(list);
  if (missed.length) {
    made.append(element("h3", "", `Missed: ${missed.length} that exact search finds`));
    made.append(element("ol", "hits", ...missed.map((hit) => hitElement(hit, "–", best, long, [`exact rank ${hit.exact_rank}`]))));
  }
  return made;
}

function summary(answer, notes) {
  const count = answer.hits.length === 1 ? "1 hit" : `${answer.hits.length} hits`;
  const line = element("p", "", element("strong", "count", count), " in ", element("strong", "total", milliseconds(total(answer.timings_ms))));
  if (answer.degraded) line.append(" ", element("span", "badge warn degraded", `degraded: ${answer.degraded.causes.join(", ")} · expected recall ${percent(answer.degraded.expected_recall)}`));
  if (answer.truncated) line.append(" ", element("span", "badge warn", "query cut at the tower's maximum length"));
  const about = element("p", "hint", "snapshot ", element("code", "snapshot-id", answer.snapshot));
  return element("div", "summary", line, about, ...notes.map((note) => element("p", "hint note", note)));
}

const total = (spent) => spent.total ?? Object.values(spent).reduce((sum, value) => sum + value, 0);

function timings(spent) {
  const known = STAGES.filter((stage) => stage in spent).map((stage) => [stage, spent[stage]]);
  const rest = total(spent) - known.reduce((sum, [, value]) => sum + value, 0);
  const parts = spent.total === undefined ? known : [...known, ["rest", Math.max(rest, 0)]];
  const bar = element("div", "bar", ...parts.map(([stage, value]) => {
    const part = element("span", stage);
    part.style.flexGrow = value;
    part.title = `${stage} ${milliseconds(value)}`;
    return part;
  }));
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", parts.map(([stage, value]) => `${stage} ${milliseconds(value)}`).join(", "));
  return [bar, element("ul", "legend", ...parts.map(([stage, value]) => element("li", stage, `${stage} ${milliseconds(value)}`)))];
}

// A field that is long in one hit is a paragraph in all of them.
function longFields(hits) {
  const isLong = (value) => typeof value === "string" && (value.length > LONG_TEXT || value.includes("\n"));
  return new Set(hits.flatMap((hit) => Object.keys(hit.fields ?? {}).filter((name) => isLong(hit.fields[name]))));
}

function hitElement(hit, rank, best, long, why) {
  const { title, ...fields } = hit.fields ?? {};
  const fill = element("i");
  fill.style.width = `${best > 0 ? Math.max(0, (100 * hit.score) / best) : 0}%`;
  const score = element("span", "score", hit.score.toFixed(4), element("span", "meter", fill));
  const name = element("span", "", title ? String(title) : hit.id);
  const made = element("li", "hit", element("h3", "", element("span", "rank", rank), name, score));
  made.tabIndex = -1;
  made.dataset.id = hit.id;
  if (why.length) made.append(element("p", "hint why", why.join(" · ")));
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
