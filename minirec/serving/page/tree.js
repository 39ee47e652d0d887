// Draws a beam search: a column a level, a line from each beam to the one it grew from.

const SVG = "http://www.w3.org/2000/svg";
const ROW = 18, TOP = 26, BAR = 46;

function svg(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Beams of a level that are alive, best first, with the place of the beam each grew from.
function alive(levels, level, most) {
  const { sids, scores, children, allowed } = levels[level];
  const before = level ? new Map(levels[level - 1].sids.map((sid, place) => [sid, place])) : null;
  return sids.map((sid, place) => ({
    sid, place, score: scores[place], children: children[place], allowed: allowed[place],
    parent: before ? before.get(sid.slice(0, sid.lastIndexOf("<"))) : undefined,
    token: sid.slice(sid.lastIndexOf("<")),
  })).filter((beam) => beam.score !== null).slice(0, most);
}

export function drawTree(box, levels, most) {
  if (!levels.length) { box.replaceChildren(); return; }
  const columns = levels.map((_, level) => alive(levels, level, most));
  const tallest = Math.max(1, ...columns.map((column) => column.length));
  const wide = 230, width = wide * levels.length, height = TOP + ROW * tallest + 6;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}` });
  const y = (place) => TOP + ROW * place + 9;
  const widest = levels.map((level) => Math.max(1, ...level.children));
  columns.forEach((column, level) => {
    const x = wide * level;
    // A beam lives on where one of the next level grew from it.
    const parents = new Set((columns[level + 1] ?? []).map((beam) => beam.parent));
    const isLast = level === columns.length - 1;
    const all = levels[level].scores.filter((score) => score !== null).length;
    picture.append(svg("text", { x, y: 12, class: "head" },
      `level ${level + 1}: ${all} beams` + (column.length < all ? `, ${column.length} drawn` : "")));
    for (const beam of column) {
      const lives = isLast || parents.has(beam.place);
      if (beam.parent !== undefined && beam.parent < most) {
        const from = x - wide + 180, to = x - 4;
        picture.append(svg("path", { class: lives ? "" : "dead",
          d: `M${from},${y(beam.parent)} C${from + 25},${y(beam.parent)} ${to - 25},${y(beam.place)} ${to},${y(beam.place)}` }));
      }
      const name = svg("text", { x, y: y(beam.place) + 4, class: lives ? "" : "dead" },
        `${beam.token} ${Math.exp(beam.score).toPrecision(2)}`);
      const removed = beam.children - beam.allowed;
      name.append(svg("title", {}, `${beam.sid}: log-probability ${beam.score}; ${beam.children} ways on, ${removed} removed by the filter`));
      picture.append(name);
      if (beam.children) {
        const full = (BAR * beam.children) / widest[level], left = (BAR * beam.allowed) / widest[level];
        picture.append(svg("rect", { class: "all", x: x + 128, y: y(beam.place) - 4, width: Math.max(1, full), height: 8, rx: 2 }));
        picture.append(svg("rect", { class: "left", x: x + 128, y: y(beam.place) - 4, width: left, height: 8, rx: 2 }));
      }
    }
  });
  box.replaceChildren(picture);
}
