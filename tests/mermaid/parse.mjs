// Has Mermaid parse every .mmd file of a directory; says how many, and fails at the first that it does not take.
// Of a gantt with a .json file beside it, each name in that list must begin the name of exactly one bar.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { JSDOM } from "jsdom";

const { window } = new JSDOM("<!doctype html><body></body>");
globalThis.window = window;
globalThis.document = window.document;
const { default: mermaid } = await import("mermaid");

const directory = process.argv[2];
const files = readdirSync(directory).filter((name) => name.endsWith(".mmd"));
if (files.length === 0) throw new Error("nothing to parse");
mermaid.initialize({ startOnLoad: false });
for (const name of files) {
  const parsed = await mermaid.parse(readFileSync(join(directory, name), "utf8"));
  console.log(`${name}: ${parsed.diagramType}`);
  const expected = join(directory, name.replace(/\.mmd$/, ".json"));
  if (existsSync(expected)) await checkBars(name, JSON.parse(readFileSync(expected, "utf8")));
}
console.log(`${files.length} diagrams parsed`);

// Mermaid keeps character codes in a form of its own until the picture is drawn.
function shown(text) {
  return text.replace(/ﬂ°°(\d+)¶ß/g, (_, code) => String.fromCodePoint(Number(code)));
}

async function checkBars(name, names) {
  const diagram = await mermaid.mermaidAPI.getDiagramFromText(readFileSync(join(directory, name), "utf8"));
  const bars = diagram.db.getTasks().map((bar) => shown(bar.task));
  if (bars.length !== names.length) throw new Error(`${name}: ${bars.length} bars, not ${names.length}`);
  for (const one of names) {
    const at = bars.findIndex((bar) => bar === one || bar.startsWith(`${one} `));
    if (at < 0) throw new Error(`${name}: no bar ${JSON.stringify(one)} among ${JSON.stringify(bars)}`);
    bars.splice(at, 1);
  }
  console.log(`${name}: ${names.length} names read as they were`);
}
