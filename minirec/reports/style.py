"""The style sheet of the report pages; it stands inside the page, light and dark."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fbfaf8; --card: #ffffff; --line: #e4e1da; --ink: #1f2530; --muted: #646b78;
  --grid: #e9e6df; --model: #2457c5; --popularity: #8a8f99; --item_transition: #c26a12;
  --system: #12806f; --item_head: #b92f4c;
  --other: #7a4fb5; --wash: #eef3fd;
  --series-0: #2457c5; --series-1: #c26a12; --series-2: #12806f; --series-3: #7a4fb5;
  --series-4: #b92f4c; --series-5: #71771a; --series-6: #2a8fbd; --series-7: #8a8f99;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171c; --card: #1b1f26; --line: #2e343e; --ink: #e6e8ec; --muted: #a0a7b4;
    --grid: #2a3039; --model: #85acff; --popularity: #8b93a1; --item_transition: #eda45a;
    --system: #5cc9b5; --item_head: #f58a9f;
    --other: #c3a1f2; --wash: #1d2a45;
    --series-0: #85acff; --series-1: #eda45a; --series-2: #5cc9b5; --series-3: #c3a1f2;
    --series-4: #f58a9f; --series-5: #c3c765; --series-6: #7ccdf0; --series-7: #8b93a1;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 68rem; margin: 0 auto; padding: clamp(1.25rem, 4vw, 3.5rem) 1.25rem 4rem; }
h1 {
  font-size: clamp(1.7rem, 5vw, 2.5rem); line-height: 1.15; letter-spacing: -0.02em;
  margin: 0.1em 0 0.25em; overflow-wrap: anywhere;
}
h2 { font-size: 1.3rem; letter-spacing: -0.01em; margin: 0 0 0.75rem; }
h3 { font-size: 1rem; margin: 0 0 0.5rem; overflow-wrap: anywhere; }
h4 { font-size: 0.8rem; color: var(--muted); font-weight: 600; margin: 1rem 0 0.25rem; }
section { margin-top: 3rem; }
p { margin: 0 0 0.75rem; }
code { font-size: 0.92em; }
small { font-size: 0.78rem; color: var(--muted); font-weight: 400; }
.kicker { color: var(--model); font-weight: 600; font-size: 0.85rem; margin: 0; }
.meta, .note, .muted, figcaption, caption { color: var(--muted); }
.note { max-width: 46rem; margin: -0.45rem 0 1.1rem; }
.verdict {
  max-width: 46rem; font-size: 1.08rem; margin: 1.25rem 0; padding-left: 1rem;
  border-left: 3px solid var(--model);
}
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(8.75rem, 1fr)); gap: 0.75rem;
  margin: 1.5rem 0 0;
}
.tiles > div, .card, figure {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
}
.tiles > div { padding: 0.85rem 1rem; }
.tiles dt { color: var(--muted); font-size: 0.85rem; }
.tiles dd {
  margin: 0.1rem 0 0; font-size: 1.55rem; font-weight: 600; line-height: 1.25;
  font-variant-numeric: tabular-nums;
}
.tiles small, td small { display: block; }
.columns {
  display: grid; gap: 1.25rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr));
}
.columns > * { min-width: 0; }
.stack { display: grid; gap: 2rem; }
.stack > * { min-width: 0; }
.scroll { overflow-x: auto; }
.scroll:focus-visible { outline: 2px solid var(--model); outline-offset: 4px; }
table {
  border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 0.95rem;
}
caption { text-align: left; font-size: 0.88rem; padding-bottom: 0.6rem; }
caption strong { display: block; color: var(--ink); font-size: 1rem; }
th, td { padding: 0.32rem 0.5rem; text-align: right; vertical-align: top; line-height: 1.3; }
th:first-child { text-align: left; padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
thead th { font-weight: 600; vertical-align: bottom; border-bottom: 1px solid var(--ink); }
tbody th { font-weight: 500; color: var(--muted); white-space: nowrap; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody tr.first + tr > * { border-top: 1px solid var(--line); }
tbody tr + tr.first > * { border-top: 1px solid var(--ink); }
td small { white-space: nowrap; }
.words td { text-align: left; }
figure { margin: 0; padding: 1rem; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: inherit; }
figcaption { font-size: 0.88rem; margin-top: 0.6rem; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; margin-bottom: 0.35rem; }
.swatch {
  display: inline-block; width: 0.7em; height: 0.7em; border-radius: 2px; margin-right: 0.4em;
  background: var(--other);
}
.swatch.model { background: var(--model); }
.swatch.popularity { background: var(--popularity); }
.swatch.item_transition { background: var(--item_transition); }
.swatch.system { background: var(--system); }
.swatch.item_head { background: var(--item_head); }
.swatch.target { background: var(--ink); }
.plain { margin-top: 1rem; }
.swatch.series-0 { background: var(--series-0); }
.swatch.series-1 { background: var(--series-1); }
.swatch.series-2 { background: var(--series-2); }
.swatch.series-3 { background: var(--series-3); }
.swatch.series-4 { background: var(--series-4); }
.swatch.series-5 { background: var(--series-5); }
.swatch.series-6 { background: var(--series-6); }
.swatch.series-7 { background: var(--series-7); }
.cards {
  display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr));
}
.card { padding: 1rem 1.1rem; font-size: 0.9rem; overflow-wrap: anywhere; }
.card h4:first-of-type { margin-top: 0.5rem; }
.card ul, .card ol { margin: 0; padding-left: 1.4rem; }
.card ul { list-style: "· "; padding-left: 0.9rem; }
.card li { margin: 0.15rem 0; }
.card .target { margin: 0; font-weight: 600; }
.hit { color: var(--model); font-weight: 600; }
.tag {
  background: var(--wash); color: var(--model); border-radius: 4px; padding: 0.05rem 0.4rem;
  font-size: 0.75rem; white-space: nowrap;
}
summary { cursor: pointer; font-weight: 600; }
summary:focus-visible { outline: 2px solid var(--model); outline-offset: 4px; }
pre {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem;
  overflow-x: auto; font-size: 0.85rem; line-height: 1.45;
}
@media (max-width: 30rem) {
  .metrics { font-size: 0.8rem; }
  .metrics th, .metrics td { padding-left: 0.15rem; padding-right: 0.15rem; }
  .metrics th:first-child { padding-left: 0; }
  .metrics thead th { font-size: 0.7rem; }
  .metrics tbody th { white-space: normal; }
  .metrics small { font-size: 0.65rem; white-space: normal; }
  .metrics thead .swatch { display: block; margin: 0 0 0.25rem auto; }
}
@media print { :root { --page: #fff; } section, figure, .card { break-inside: avoid; } }
"""
