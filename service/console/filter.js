// Filters are sent as they were typed: an integer beyond 2^53 would not outlive being parsed and written again.
const LISTS = ["$in", "$nin"];

// The text of a request's body, in which `filter` is a text already.
export function bodyText({ filter, ...rest }) {
  const text = JSON.stringify(rest);
  return filter ? `${text.slice(0, -1)},"filter":${filter}}` : text;
}

// What the text of a filter holds; throws where that is no object.
export function read(text) {
  let filter;
  try {
    filter = JSON.parse(text);
  } catch (error) {
    throw new Error(`The filter is not JSON: ${error.message}`);
  }
  if (filter === null || typeof filter !== "object" || Array.isArray(filter)) throw new Error(`The filter is not an object in braces: ${text}`);
  return filter;
}

// The text of a filter with a condition more; `filter` may be empty, `typed` is JSON where the column's type is no text.
export function withCondition(filter, { name, type }, operator, typed) {
  const known = filter ? read(filter) : {};
  const condition = `{${JSON.stringify(name)}:{${JSON.stringify(operator)}:${operand({ name, type }, operator, typed)}}}`;
  if (Object.keys(known).length === 0) return condition;
  return Object.hasOwn(known, name) ? `{"$and":[${filter},${condition}]}` : `${filter.slice(0, -1)},${condition.slice(1)}`;
}

function operand(column, operator, typed) {
  if (operator === "$exists") return String(typed.trim() !== "false");
  if (!LISTS.includes(operator)) return value(column, typed);
  return `[${typed.split(",").map((one) => value(column, one)).join(",")}]`;
}

function value({ name, type }, typed) {
  if (type === "string") return JSON.stringify(typed.trim());
  try {
    JSON.parse(typed);
  } catch (error) {
    throw new Error(`${name} is of type ${type}: ${error.message}`);
  }
  return typed.trim();
}
