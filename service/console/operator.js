// Calls of operators' routes, with the token that this tab was given.
import { answerOf } from "./dom.js";
import { bodyText } from "./filter.js";

const TOKEN = "scalingnote.token"; // sessionStorage: gone with the tab, never sent by itself

export const token = () => sessionStorage.getItem(TOKEN);
export const keep = (given) => sessionStorage.setItem(TOKEN, given);
export const forget = () => sessionStorage.removeItem(TOKEN);

export async function call(path, body, signal) {
  const options = { headers: { authorization: `Bearer ${token() ?? ""}` }, signal };
  if (body !== undefined) Object.assign(options, { method: "POST", body: bodyText(body) });
  return answerOf(await fetch(`/snapshots${path}`, options));
}
