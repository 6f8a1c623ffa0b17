"""The look of ``report.html``: one sheet, light and dark, phone to desktop. Data for `html`, no behavior."""

SHEET = """
:root { color-scheme: light dark; --page: #f6f7f8; --card: #ffffff; --ink: #1b2127; --soft: #5b6672; --edge: #e1e5e9;
  --rule: #edf0f2; --accent: #2563c9; --dot: #2563c9; --bad: #d3225f; --good: #14804a; }
@media (prefers-color-scheme: dark) {
  :root { --page: #101418; --card: #171c22; --ink: #e6eaee; --soft: #94a0ac; --edge: #2a323a; --rule: #222930;
    --accent: #6ea8fe; --dot: #6ea8fe; --bad: #ff6b96; --good: #55c98c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 56px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 36px 0 12px; letter-spacing: -.005em; }
h3 { font-size: 14px; margin: 0 0 8px; }
p { margin: 0 0 8px; }
small, .soft { color: var(--soft); font-size: 13px; }
header p { margin: 4px 0 0; }
.meter { height: 5px; border-radius: 3px; background: var(--edge); margin: 14px 0 0; overflow: hidden; }
.meter i { display: block; height: 100%; background: var(--accent); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(145px, 1fr)); gap: 1px; margin-top: 18px;
  background: var(--edge); border: 1px solid var(--edge); border-radius: 10px; overflow: hidden; }
.tiles div { background: var(--card); padding: 12px 16px; }
.tiles b { display: block; font-size: 22px; line-height: 1.3; font-weight: 600; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: 13px; }
.tiles em { display: block; color: var(--soft); font-size: 12.5px; font-style: normal; }
.card { background: var(--card); border: 1px solid var(--edge); border-radius: 10px; padding: 16px; }
.card + .card { margin-top: 14px; }
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 14px; align-items: start; }
figure { margin: 0; }
figure img { display: block; max-width: 100%; height: auto; border-radius: 6px; }
.pair > div > .card > figure img { width: 100%; }
figcaption { color: var(--soft); font-size: 13px; margin-top: 6px; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
.earlier { display: grid; grid-template-columns: repeat(auto-fill, minmax(105px, 1fr)); gap: 14px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: 14px;
  margin-top: 14px; }
.charts .card { margin: 0; }
.chart { display: flex; flex-direction: column; }
.chart figcaption { margin: 0 0 8px; }
.chart figcaption span { color: var(--accent); font-weight: 600; font-variant-numeric: tabular-nums; margin: 0 6px; }
.plot { display: grid; grid-template-columns: 46px minmax(0, 1fr); grid-template-rows: 150px 20px; }
.tall .plot { grid-template-rows: 290px 20px; }
.area { position: relative; border-left: 1px solid var(--edge); border-bottom: 1px solid var(--edge); }
.area svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: hidden; }
.area path { fill: none; vector-effect: non-scaling-stroke; }
.area .rules { stroke: var(--rule); stroke-width: 1; }
.area .dots { stroke: var(--dot); stroke-width: 3.2; stroke-linecap: round; opacity: .3; }
.area .few { stroke: var(--dot); stroke-width: 6; stroke-linecap: round; opacity: .7; }
.area .band { fill: var(--dot); opacity: .2; }
.area .line { stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.area .bad { stroke: var(--bad); stroke-width: 2; }
.ylabels, .xlabels { position: relative; color: var(--soft); font-size: 11.5px; font-variant-numeric: tabular-nums; }
.xlabels { grid-column: 2; }
.ylabels span { position: absolute; right: 7px; transform: translateY(-50%); white-space: nowrap; }
.xlabels span { position: absolute; top: 4px; transform: translateX(-50%); white-space: nowrap; }
.area i { position: absolute; top: 0; bottom: 0; }
.area i b { display: none; position: absolute; top: 6px; z-index: 1; padding: 3px 8px; border-radius: 6px;
  white-space: nowrap; background: var(--card); border: 1px solid var(--edge);
  font: 12px/1.4 system-ui, sans-serif; pointer-events: none; }
.area i.l b { left: calc(50% + 8px); } .area i.r b { right: calc(50% + 8px); }
.area i:hover { background: linear-gradient(var(--edge), var(--edge)) center / 1px 100% no-repeat; }
.area i:hover b { display: block; }
.scores { display: flex; flex-wrap: wrap; gap: 10px 36px; margin-bottom: 12px; }
.scores b { display: block; font-size: 24px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { text-align: left; padding: 4px 14px 4px 0; vertical-align: top; border-top: 1px solid var(--rule); }
tr:first-child > * { border-top: 0; }
th { font-weight: 500; color: var(--soft); white-space: nowrap; width: 1%; }
td { overflow-wrap: anywhere; }
thead th { color: var(--soft); }
.many td, .many th { white-space: nowrap; width: auto; font-variant-numeric: tabular-nums; }
.parts { display: flex; flex-wrap: wrap; gap: 0 20px; }
.groups { columns: 330px 2; column-gap: 14px; }
.groups .card { break-inside: avoid; margin: 0 0 14px; }
.note { color: var(--bad); font-size: 13px; }
footer { margin-top: 36px; color: var(--soft); font-size: 12.5px; }
@media (max-width: 700px) {
  main { padding: 18px 14px 40px; }
  .pair { grid-template-columns: minmax(0, 1fr); }
  .tall .plot { grid-template-rows: 220px 20px; }
  .card { padding: 12px; }
  .tiles { grid-template-columns: repeat(2, 1fr); }
  .tiles div:last-child:nth-child(odd) { grid-column: span 2; }
  .earlier { grid-template-columns: repeat(3, 1fr); }
}
"""
