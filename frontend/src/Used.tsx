import type { Schemas } from "@chatapi/ai-sdk";
import { useEffect, useRef, useState } from "react";

import { dollars, useSession } from "./parts.tsx";

/** The user's name; pressed, it says what the user has used in the last thirty days. */
export function Used() {
  const session = useSession();
  const [open, setOpen] = useState(false);
  const [total, setTotal] = useState<Schemas["Amounts"]>();
  const root = useRef<HTMLDivElement>(null);

  useEffect(() => {
    if (!open) return;
    session.request<Schemas["UsageReport"]>("GET", "/usage").then((report) => setTotal(report.total), () => {});
    const leave = (event: Event) => !root.current?.contains(event.target as Node) && setOpen(false);
    document.addEventListener("pointerdown", leave);
    return () => document.removeEventListener("pointerdown", leave);
  }, [open, session]);

  return (
    <div className="user" ref={root} onKeyDown={(event) => event.key === "Escape" && setOpen(false)}>
      <button type="button" className="quiet" aria-expanded={open} title="What you have used" onClick={() => setOpen(!open)}>
        {session.demo ? "Demo" : session.userId}
      </button>
      {open && total && (
        <div className="used" role="status">
          <strong>The last 30 days</strong>
          <span>{`${count(total.turns)} answers of a model`}</span>
          <span>{`${count(total.input_tokens)} tokens read, ${count(total.output_tokens)} written`}</span>
          {total.cost !== null && <span>{dollars(total.cost)}</span>}
        </div>
      )}
    </div>
  );
}

function count(number: number): string {
  return number.toLocaleString("en");
}
