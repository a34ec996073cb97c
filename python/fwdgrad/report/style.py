"""The style sheet of a report's page, for a light and a dark screen."""

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d1d20; --quiet: #62626b;
  --line: #e2e2e6; --well: #f6f6f8; --deletion: #9a5b00; --insertion: #0b7a6f; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #17171a; --ink: #ececef; --quiet: #a2a2ac; --line: #34343b; --well: #212126;
    --deletion: #e5a53d; --insertion: #4fc3b4; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 2rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; font-weight: 650; letter-spacing: -.01em; }
h2 { margin: 3rem 0 .5rem; font-size: 1.25rem; line-height: 1.3; font-weight: 650; }
h3 { margin: 0; font-size: 1rem; font-weight: 650; }
figcaption, small, .file { color: var(--quiet); }
header { margin-bottom: 2rem; }
header p { margin: .5rem 0 0; }
.careful { padding-left: .8rem; border-left: 4px solid var(--deletion); font-weight: 600; }
.answer { font-size: 1.2rem; line-height: 1.5; }
p, ol, ul { max-width: 44rem; }
p { margin: .6rem 0; }
ol, ul { margin: .6rem 0; padding-left: 1.6rem; }
li { margin: .25rem 0; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .9rem; line-height: 1.45; }
figcaption h2, figcaption h3 { color: var(--ink); }
figcaption h2 { margin: .6rem 0 .1rem; font-size: 1rem; }
.pictures, .curves { display: grid; gap: 1.75rem 1.5rem; }
.pictures { grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.curves { grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
img, svg { display: block; width: 100%; height: auto; }
img { border-radius: 4px; }
img.coarse { image-rendering: pixelated; }
.regions { padding: 0; list-style: none; }
.scale { display: flex; align-items: center; gap: .5rem; margin-top: .35rem; }
.unit { display: block; }
.scale i.one { background: linear-gradient(90deg, #fff, #db5b26); }
.key { display: inline-block; margin-right: 1rem; }
.key i { display: inline-block; width: 1.6rem; vertical-align: middle;
  border-top: 4px solid var(--colour); }
.key i.dashed { border-top: 2px dashed var(--ink); }
.scale i { flex: 1; height: .5rem; border-radius: 4px; border: 1px solid var(--line);
  background: linear-gradient(90deg, #267abe, #fff, #db5b26); }
.scale i.ink { background: linear-gradient(90deg, rgba(0,98,178,.7), transparent,
  rgba(213,62,0,.7)); }
.scale i.ink.one { background: linear-gradient(90deg, transparent, rgba(213,62,0,.7)); }
.text { font-size: 1.2rem; line-height: 1.9; white-space: pre-wrap; margin-top: .8rem; }
.text span { border-radius: 3px; padding: .1em 0; }
.enough { text-decoration: underline; text-decoration-thickness: 2px;
  text-underline-offset: .25em; }
.note { font-size: .9rem; line-height: 1.45; color: var(--quiet); }
.note .scale { max-width: 24rem; }
.bars { max-width: none; padding: 0; list-style: none; font-variant-numeric: tabular-nums; }
.bars li { display: grid; grid-template-columns: minmax(9rem, 15rem) 1fr 8rem; gap: 0 1rem;
  align-items: center; margin: 0; padding: .3rem 0; border-top: 1px solid var(--line); }
.bars li:first-child { border-top: 0; }
.bars small { display: inline; margin-left: .4rem; }
.bar { position: relative; height: 1.3rem; }
.bar i, .bar b, .bar u { position: absolute; top: 0; bottom: 0; }
.bar i { border-radius: 2px; }
.bar b { top: calc(50% - 1px); bottom: calc(50% - 1px); background: var(--ink); }
.bar u { border-left: 1px solid var(--ink); }
.value { text-align: right; white-space: nowrap; }
table.all th small { display: inline; }
.deletion { --colour: var(--deletion); }
.insertion { --colour: var(--insertion); }
.curves svg { margin-top: .5rem; max-width: 34rem; }
.grid { stroke: var(--line); }
.tick { fill: var(--quiet); font: 13px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
.line { fill: none; stroke: var(--colour); stroke-width: 4; stroke-linejoin: round; }
.chance { fill: none; stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 6 4; }
.area { fill: var(--colour); fill-opacity: .16; }
table { border-collapse: collapse; width: 100%; max-width: 44rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .4rem 0; border-top: 1px solid var(--line); text-align: left;
  vertical-align: baseline; }
tr:first-child > * { border-top: 0; }
th { width: 11.5rem; padding-right: 1rem; font-weight: 400; color: var(--quiet); }
small { font-size: .85rem; margin-left: .4rem; }
pre { margin: .5rem 0 1.25rem; padding: .8rem 1rem; max-width: 100%; overflow-x: auto;
  border-radius: 6px; background: var(--well); font-size: .85rem; overflow-wrap: normal; }
details { margin-top: .25rem; border-top: 1px solid var(--line); }
details figure { max-width: 24rem; }
summary { cursor: pointer; padding: .6rem 0; font-weight: 600; }
summary:focus-visible, pre:focus-visible { outline: 2px solid var(--insertion);
  outline-offset: 2px; }
@media (max-width: 40rem) {
  body { padding-top: 1.25rem; }
  h1 { font-size: 1.5rem; }
  .bars li { grid-template-columns: 1fr auto; }
  .bars small { display: inline; margin-left: .4rem; }
  .bars .bar { grid-row: 2; grid-column: 1 / -1; }
  th { width: 8.5rem; }
  small { display: block; margin-left: 0; }
}
@media (max-width: 30rem) { .tick { font-size: 15px; } }
"""
