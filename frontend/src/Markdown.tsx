import { fileIn } from "@chatapi/ai-sdk";
import { memo, useRef } from "react";
import ReactMarkdown, { type Components, type Options } from "react-markdown";
import remarkGfm from "remark-gfm";

import { Picture } from "./files.tsx";
import { Check, Copy } from "./icons.tsx";
import { useCopied } from "./parts.tsx";

const PLUGINS: Options["remarkPlugins"] = [remarkGfm];
const FOOTNOTES: Options["remarkRehypeOptions"] = { footnoteLabelProperties: { className: ["visually-hidden"] } };
const SAFE = /^(https?:|mailto:)/i;

/** Links leave the page only when they are pressed; a picture is shown only if it is one of our own files. */
const COMPONENTS: Components = {
  a: ({ href, children }) =>
    href && SAFE.test(href) ? (
      <a href={href} target="_blank" rel="noopener noreferrer nofollow">{children}</a>
    ) : (
      <span>{children}</span>
    ),
  img: ({ src, alt }) =>
    typeof src === "string" && src.startsWith("/api/") && fileIn(src) !== undefined ? (
      <Picture url={src} name={alt ?? ""} />
    ) : (
      <span className="left-out">[picture: {alt || "without a name"}]</span>
    ),
  input: ({ checked }) => <input type="checkbox" checked={checked} disabled aria-label={checked ? "Done" : "Not done"} />,
  pre: ({ children }) => <Code>{children}</Code>,
  table: ({ children }) => (
    <div className="scrolls" tabIndex={0} role="region" aria-label="Table">
      <table>{children}</table>
    </div>
  ),
};

function Code({ children }: { children?: React.ReactNode }) {
  const text = useRef<HTMLPreElement>(null);
  const [copied, copy] = useCopied();
  const language = /language-(\S+)/.exec((children as { props?: { className?: string } } | undefined)?.props?.className ?? "");
  return (
    <div className="code">
      <div className="code-head">
        <span>{language?.[1] ?? "text"}</span>
        <button type="button" onClick={() => copy(text.current?.textContent ?? "")}>
          {copied ? <Check /> : <Copy />}
          {copied ? "Copied" : "Copy"}
        </button>
      </div>
      <pre ref={text} tabIndex={0} dir="ltr">{children}</pre>
    </div>
  );
}

/** Text in Markdown, made into elements and never into HTML: what looks like HTML is shown as it is. */
const Block = memo(function Block({ text }: { text: string }) {
  return (
    <ReactMarkdown remarkPlugins={PLUGINS} remarkRehypeOptions={FOOTNOTES} components={COMPONENTS} urlTransform={(url) => url}>
      {text}
    </ReactMarkdown>
  );
});

/** While an answer grows only its last block is read again. */
export function Markdown({ text }: { text: string }) {
  return (
    <div className="markdown">
      {blocksOf(text).map((block, index) => (
        <Block key={index} text={block} />
      ))}
    </div>
  );
}

/** Split text at empty lines where nothing is open across them: no list, no table, no fenced code, no definition. */
export function blocksOf(text: string): string[] {
  if (text.length < 2_000 || /^\[[^\]]+\]:/m.test(text)) return [text];
  const blocks: string[] = [];
  let block: string[] = [];
  let fence: string | undefined;
  for (const line of text.split("\n")) {
    if (fence === undefined && block.at(-1) === "" && /^[\p{L}#`~]/u.test(line)) {
      blocks.push(block.join("\n"));
      block = [];
    }
    const mark = /^ {0,3}(`{3,}|~{3,})/.exec(line)?.[1];
    if (fence === undefined) fence = mark;
    else if (mark?.startsWith(fence)) fence = undefined;
    block.push(line);
  }
  return [...blocks, block.join("\n")];
}
