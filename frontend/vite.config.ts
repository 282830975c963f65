import { createHash } from "node:crypto";
import { readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";

const BEST = 9;

/** Everything that the page is made of, beside the packages of npm, which the lock file names by their hashes. */
const SOURCES = ["src", "index.html", "package-lock.json", "tsconfig.json", "vite.config.ts", "../packages/ai-sdk/src"];

/** Keep the scripts and styles compressed, and say of which sources they were made (tests/contract/test_playground.py). */
function compressed(): Plugin {
  let out = "";
  return {
    name: "compressed",
    configResolved: (config) => void (out = config.build.outDir),
    closeBundle() {
      for (const name of readdirSync(join(out, "assets"))) {
        const file = join(out, "assets", name);
        writeFileSync(`${file}.gz`, gzipSync(readFileSync(file), { level: BEST }));
        rmSync(file);
      }
      writeFileSync(join(out, "sources.sha256"), `${hashOf(SOURCES)}\n`);
    },
  };
}

/** The hash of a list of the files' hashes and names, one a line, in order. */
function hashOf(paths: string[]): string {
  const lines = paths.flatMap(filesIn).map((file) => `${hashed(readFileSync(file))}  ${file}\n`);
  return hashed(lines.sort().join(""));
}

function filesIn(path: string): string[] {
  return statSync(path).isFile() ? [path] : readdirSync(path).flatMap((name) => filesIn(join(path, name)));
}

function hashed(content: string | Buffer): string {
  return createHash("sha256").update(content).digest("hex");
}

export default defineConfig({
  plugins: [react(), compressed()],
  base: "/playground/",
  // The package's sources lie outside this folder, and their imports are found here.
  resolve: { alias: { "@chatapi/ai-sdk": "../../packages/ai-sdk/src/index.ts" }, dedupe: ["ai"] },
  build: {
    outDir: "../src/chatapi/playground/static",
    emptyOutDir: true,
    target: "es2023",
    assetsInlineLimit: 0, // the page's CSP allows no data: address
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 1_000,
  },
  server: { proxy: { "/api": "http://127.0.0.1:8000", "/playground/session": "http://127.0.0.1:8000" } },
});
