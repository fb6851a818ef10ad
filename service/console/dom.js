// What every part of the console uses. Values go into the page as text, never as markup.
export const $ = (id) => document.getElementById(id);

export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

export const milliseconds = (value) => `${value < 10 ? value.toFixed(2) : value.toFixed(0)} ms`;

export const seconds = (value) => (value < 1 ? milliseconds(1000 * value) : `${value.toFixed(1)} s`);

export function age(total) {
  const [size, unit] = [[86400, "d"], [3600, "h"], [60, "min"]].find(([one]) => total >= one) ?? [1, "s"];
  return `${Math.round(total / size)} ${unit}`;
}

export function bytes(value) {
  const [size, unit] = [[1e9, "GB"], [1e6, "MB"]].find(([one]) => value >= one) ?? [1e3, "kB"];
  return `${(value / size).toFixed(1)} ${unit}`;
}

export const moment = (iso) => new Date(iso).toLocaleString();

export const problemText = (problem) =>
  problem.errors ? problem.errors.map((error) => `${error.path}: ${error.message}`).join("\n") : problem.detail;

// What an answer holds; otherwise throws what is wrong, with its problem where it has one: a proxy's page has none.
export async function answerOf(response) {
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Error(`HTTP ${response.status} without JSON`);
  }
  if (!response.ok) throw Object.assign(new Error(problemText(answer)), { problem: answer });
  return answer;
}

// A line of text that is only written when it changes, so that screen readers say it once.
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
  node.hidden = text === "";
}

// Answers may come in another order than they were asked for. Of one part of the page only the newest question is answered: each
// new one calls off those before it, which end in an AbortError.
export function questions() {
  let newest = new AbortController();
  return () => {
    newest.abort();
    newest = new AbortController();
    return newest.signal;
  };
}

export const calledOff = (error) => error.name === "AbortError";
