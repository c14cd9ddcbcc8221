// Has Mermaid parse every .mmd file of a directory; says how many, and fails at the first that it does not take.
import { readdirSync, readFileSync } from "node:fs";
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
}
console.log(`${files.length} diagrams parsed`);
