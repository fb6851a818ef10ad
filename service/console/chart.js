// A small line chart as SVG. Time runs to the right; what is null is a gap.
const NAMESPACE = "http://www.w3.org/2000/svg";
const WIDTH = 320;
const HEIGHT = 90;
const TOP = 14; // room for the scale's text

function svg(tag, attributes, ...children) {
  const made = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// `options`: write (a value as text), limit ([name, value]), most (fixed end of the scale), least (smallest end of it).
export function chart(options, lines, span, label) {
  const values = lines.flatMap((line) => line.points.map(([, value]) => value)).filter((value) => value !== null);
  const top = options.most ?? Math.max(...values, options.limit?.[1] ?? 0, options.least ?? 0, 1e-9);
  const bottom = options.most === undefined ? 0 : lowest(values);
  const x = (at) => ((at - span.start) / (span.end - span.start)) * WIDTH;
  const y = (value) => HEIGHT - ((Math.min(value, top) - bottom) / (top - bottom)) * (HEIGHT - TOP);
  const drawn = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT + 2}`, class: "chart", role: "img", "aria-label": label });
  drawn.append(svg("line", { x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT, class: "axis" }));
  if (options.limit) drawn.append(svg("line", { x1: 0, x2: WIDTH, y1: y(options.limit[1]), y2: y(options.limit[1]), class: "limit" }));
  for (const line of lines) drawn.append(...pieces(line.points).map((points) => piece(points, line.kind, x, y)));
  if (values.length) drawn.append(svg("text", { x: 2, y: 10, class: "scale" }, options.most ? `${options.write(bottom)} to ${options.write(top)}` : `to ${options.write(top)}`));
  else drawn.append(svg("text", { x: WIDTH / 2, y: HEIGHT / 2, class: "scale nothing" }, options.none ?? "no requests"));
  return drawn;
}

// Shares near one differ in their last digits: the scale begins at a round share below them.
const lowest = (values) => [0.99, 0.9, 0.5].find((share) => values.every((value) => value >= share)) ?? 0;

function pieces(points) {
  const found = [];
  let open = null;
  for (const point of points) {
    if (point[1] === null) open = null;
    else if (open) open.push(point);
    else found.push((open = [point]));
  }
  return found;
}

function piece(points, kind, x, y) {
  if (points.length === 1) return svg("circle", { cx: x(points[0][0]), cy: y(points[0][1]), r: 2, class: `dot ${kind}` });
  return svg("polyline", { points: points.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" "), class: `line ${kind}` });
}
