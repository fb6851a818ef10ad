// The API key that this tab was given, where the service wants one.
const KEY = "scalingnote.key"; // sessionStorage: gone with the tab, never sent by itself

export const keep = (given) => sessionStorage.setItem(KEY, given);
export const headers = () => {
  const kept = sessionStorage.getItem(KEY);
  return kept === null ? {} : { "x-api-key": kept };
};
