"""The demo's one page: a form of the run's fields, and what draws with it."""

import json
from html import escape

from diffax.demo.drawing import Studio
from diffax.report.style import SHEET

_STYLE = """
[hidden] { display: none !important; }
.demo { display: grid; grid-template-columns: 330px minmax(0, 1fr); gap: 14px; align-items: start; margin-top: 18px; }
.demo .card + .card { margin-top: 0; }
form > div { margin-bottom: 14px; }
label { display: flex; justify-content: space-between; font-size: 13px; font-weight: 500; margin-bottom: 4px; }
label output { color: var(--accent); font-weight: 600; font-variant-numeric: tabular-nums; }
textarea, select, input[type=number], button { font: inherit; color: inherit; background: var(--page); width: 100%;
  border: 1px solid var(--edge); border-radius: 7px; padding: 7px 10px; display: block; }
textarea { resize: vertical; }
:is(textarea, select, input, button):focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
input[type=range] { width: 100%; margin: 4px 0; accent-color: var(--accent); display: block; }
.ticks { display: flex; justify-content: space-between; color: var(--soft); font-size: 11.5px; }
.row { display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 8px; }
button { cursor: pointer; }
button.main { background: #2563c9; border-color: #2563c9; color: #fff; font-weight: 600; padding: 9px; }
button:disabled { opacity: .55; cursor: default; }
#error { color: var(--bad); margin: 10px 0 0; font-size: 14px; overflow-wrap: anywhere; }
#error:empty, #waiting:empty { display: none; }
#empty { display: grid; place-items: center; min-height: 320px; color: var(--soft); text-align: center; }
#picture { width: 100%; max-width: 680px; image-rendering: pixelated; }
.below { display: flex; justify-content: space-between; gap: 16px; margin: 8px 0 0; max-width: 680px; }
.busy #shown { opacity: .45; transition: opacity .2s .3s; }
a { color: var(--accent); }
@media (max-width: 800px) { .demo { grid-template-columns: minmax(0, 1fr); } .demo > :last-child { order: -1; }
  #empty { min-height: 120px; } }
"""

_SCRIPT = """
const $ = id => document.getElementById(id), form = $("form"), counts = JSON.parse($("counts").textContent);
let busy = false, again = false, shown = null;

function asked() {
  const told = {};
  for (const field of form.elements) {
    if (!field.name) continue;
    if (field.name === "steps") told.steps = counts[field.value];
    else if (field.tagName === "TEXTAREA") told[field.name] = field.value;
    else told[field.name] = field.value === "" ? null : Number(field.value);
  }
  return told;
}

function label() {
  const told = asked();
  for (const output of form.querySelectorAll("output")) output.value = told[output.htmlFor.value];
}

async function draw() {
  if (busy) { again = true; return; }
  busy = true;
  const told = asked();
  document.body.classList.add("busy");
  const before = $("status").textContent;
  $("status").textContent = "drawing ...";
  try {
    const reply = await fetch("/draw", {method: "POST", headers: {"Content-Type": "application/json"},
      body: JSON.stringify(told)});
    if (!reply.ok) throw new Error((await reply.json()).error);
    const url = URL.createObjectURL(await reply.blob());
    $("picture").src = url;
    await $("picture").decode();
    if (shown) URL.revokeObjectURL(shown);
    shown = url;
    $("picture").alt = "samples" + (told.prompt ? " of: " + told.prompt : "");
    $("save").href = url;
    $("save").download = "seed" + told.seed + ".png";
    $("shown").hidden = $("save").hidden = false;
    $("empty").hidden = true;
    $("error").textContent = "";
    $("status").textContent = "seed " + told.seed + ("guidance" in told ? ", guidance " + told.guidance : "") +
      ", " + told.steps + " steps: " + Number(reply.headers.get("Seconds")).toFixed(2) + " s";
  } catch (error) {
    $("error").textContent = error instanceof TypeError ? "No answer: is the demo still running?" : error.message;
    $("status").textContent = before;
  }
  busy = false;
  document.body.classList.remove("busy");
  if (again) { again = false; draw(); }
}

async function wait() {
  try {
    const waiting = await (await fetch("/waiting")).json();
    $("waiting").textContent = waiting.length ? "Being compiled, once: " + waiting.join(", ") + " steps" : "";
    if (waiting.length) setTimeout(wait, 1000);
  } catch (error) { setTimeout(wait, 5000); }
}

form.addEventListener("input", event => {
  const field = event.target;  // in tenths when moved, the run's own until then
  if (field.name === "guidance") field.value = Math.round(10 * field.value) / 10;
  label();
});
form.addEventListener("change", event => { if (shown && event.target.tagName !== "TEXTAREA") draw(); });
form.addEventListener("submit", event => { event.preventDefault(); draw(); });
form.addEventListener("keydown", event => {
  if (event.key === "Enter" && event.target.tagName === "TEXTAREA" && !event.shiftKey) {
    event.preventDefault(); draw();
  }
});
$("new").addEventListener("click", () => { form.elements.seed.value = Math.floor(Math.random() * 2 ** 31); draw(); });
label(); wait();
"""


def page(run: Studio) -> str:
    """The page of a run, in one file; it draws by POST to /draw."""
    counts = sorted(run.fields["steps"].limits)
    parts = "\n".join(_part(name, field, counts) for name, field in run.fields.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>{escape(run.title)}</title><style>{SHEET}{_STYLE}</style></head>
<body><main><header><h1>{escape(run.title)}</h1><p class="soft">{escape(run.about)}</p></header>
<div class="demo"><form id="form" class="card" autocomplete="off" novalidate>
{parts}
<button class="main" id="draw">Draw</button>
<p id="error" role="alert"></p>
</form>
<div class="card"><div id="empty">Nothing drawn yet.</div>
<figure id="shown" hidden><img id="picture" alt=""></figure>
<p class="soft below"><span id="status" role="status"></span><a id="save" hidden>Save the picture</a></p>
<p class="soft" id="waiting"></p></div></div>
</main><script type="application/json" id="counts">{json.dumps(counts)}</script><script>{_SCRIPT}</script></body></html>
"""


def _part(name, field, counts):
    """One field with its label."""
    title, value = name.replace("_", " ").capitalize(), field.default
    if name in ("prompt", "negative_prompt"):
        rows = 3 if name == "prompt" else 1
        return _labeled(name, title, f'<textarea id="{name}" name="{name}" rows="{rows}">{escape(value)}</textarea>')
    if name == "class":
        options = "".join(f"<option>{label}</option>" for label in range(field.limits[1] + 1))
        return _labeled(
            name, title, f'<select id="class" name="class"><option value="">all, in turn</option>{options}</select>'
        )
    if name == "seed":
        number = f'<input type="number" id="seed" name="seed" value="{value}">'
        return _labeled(name, title, f'<div class="row">{number}<button type="button" id="new">New seed</button></div>')
    title = "Samples" if name == "n" else title
    if name == "steps":
        ticks = "".join(f"<span>{count}</span>" for count in counts) if len(counts) > 1 else ""
        return _slider(name, title, 0, len(counts) - 1, 1, counts.index(value), f'<div class="ticks">{ticks}</div>')
    return _slider(name, title, *field.limits, "any" if name == "guidance" else 1, value)


def _slider(name, title, lo, hi, step, value, below=""):
    bar = f'<input type="range" id="{name}" name="{name}" min="{lo}" max="{hi}" step="{step}" value="{value}">'
    return _labeled(name, title, bar + below, f'<output for="{name}"></output>')


def _labeled(name, title, control, beside=""):
    return f'<div><label for="{name}">{title}{beside}</label>{control}</div>'
