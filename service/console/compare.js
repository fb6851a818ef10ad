// The same query twice, side by side: approximate against exact, or on two open snapshots; and one query at another effort.
import { column } from "./answer.js";
import { call, forget, token } from "./operator.js";

const RANKED = 10; // times k: how far down exact search is looked at for ranks, as the service does for operators

const percent = (share) => `${(100 * share).toFixed(1)}%`;

export const NO_TOKEN = { title: "Operators only", detail: "Another effort and another snapshot are searched by an operators' route.", more: "Give the token under snapshots (key s), then search again." };

// Anybody may: `post` asks /search, within the `limits` of the service.
export async function exactly(body, post, limits) {
  const patient = { ...body, timeout_ms: limits.max_timeout_ms, exact: true }; // exact search is compared, not raced
  const approximate = await post({ ...body, exact: false });
  const exact = await post(patient);
  const ranks = await post({ ...patient, fields: [], k: Math.max(body.k, Math.min(RANKED * body.k, limits.max_k)) });
  if (new Set([approximate, exact, ranks].map((answer) => answer.snapshot)).size > 1) throw new Error("The snapshot was replaced meanwhile: search again.");
  const exactRank = rankOf(ranks.hits);
  const rank = rankOf(approximate.hits);
  const missed = exact.hits.filter((hit) => !rank.has(hit.id));
  const recall = exact.hits.length ? `${exact.hits.length - missed.length} of ${exact.hits.length} exact hits found` : "no document is eligible";
  return [
    column(approximate, { title: "Approximate", notes: [recall], why: (hit) => [cosine(hit), placed("exact rank", exactRank.get(hit.id), ranks.hits.length)] }),
    column(exact, { title: "Exact", why: (hit) => [cosine(hit), rank.has(hit.id) ? `approximate rank ${rank.get(hit.id)}` : "missed by approximate search"] }),
  ];
}

// Operators may: snapshots that are open, each at an effort of its own table.
export async function onSnapshots(ids, body, effort) {
  if (!token()) throw Object.assign(new Error(NO_TOKEN.detail), { shown: NO_TOKEN });
  const answers = [];
  for (const id of ids) answers.push(await asked(id, body, effort));
  const ranks = answers.map((answer) => rankOf(answer.hits));
  return answers.map((answer, at) => column(answer, {
    title: ids.length > 1 ? (at ? "Compared" : "Serving") : undefined,
    notes: [effortNote(answer)],
    missed: answer.missed,
    why: (hit) => [cosine(hit), placed("exact rank", hit.exact_rank, RANKED * body.k), ...(ids.length > 1 ? [elsewhere(ranks[1 - at].get(hit.id))] : [])],
  }));
}

async function asked(id, body, effort) {
  const { query, k, filter } = body;
  try {
    return await call(`/${id}/search`, { query, k, ...(filter ? { filter } : {}), ...(effort === null ? {} : { effort }) });
  } catch (error) {
    if (error.problem?.status === 401) forget();
    throw error;
  }
}

function effortNote(answer) {
  const found = answer.recall === null ? "no document is eligible" : `recall ${percent(answer.recall)} of this query`;
  if (answer.exact) return `exact by itself: the filter leaves few documents · ${found}`;
  return `effort ${answer.effort} · ${found} · ${percent(answer.expected_recall)} expected of this effort`;
}

const rankOf = (hits) => new Map(hits.map((hit, place) => [hit.id, place + 1]));
const cosine = (hit) => `cosine ${hit.score.toFixed(4)}`;
const placed = (name, rank, looked) => (rank ? `${name} ${rank}` : `${name} beyond ${looked}`);
const elsewhere = (rank) => (rank ? `rank ${rank} on the other` : "not on the other");
