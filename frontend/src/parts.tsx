// Small pieces that several parts of the page share.
import { createContext, type ReactNode, useContext, useEffect, useId, useRef, useState, useSyncExternalStore } from "react";

import type { Session } from "./session.ts";

export const SessionContext = createContext<Session | null>(null);

export function useSession(): Session {
  return useContext(SessionContext)!;
}

export function IconButton({ label, children, ...rest }: { label: string; children: ReactNode } & React.ComponentProps<"button">) {
  return (
    <button type="button" className="icon" aria-label={label} title={label} {...rest}>
      {children}
    </button>
  );
}

export function useMedia(query: string): boolean {
  return useSyncExternalStore(
    (changed) => {
      const media = matchMedia(query);
      media.addEventListener("change", changed);
      return () => media.removeEventListener("change", changed);
    },
    () => matchMedia(query).matches,
  );
}

export function useOnline(): boolean {
  return useSyncExternalStore(
    (changed) => {
      addEventListener("online", changed);
      addEventListener("offline", changed);
      return () => {
        removeEventListener("online", changed);
        removeEventListener("offline", changed);
      };
    },
    () => navigator.onLine,
  );
}

/** Run `action` whenever the tab is shown again. */
export function useReturn(action: () => void): void {
  const latest = useRef(action);
  latest.current = action;
  useEffect(() => {
    const look = () => document.visibilityState === "visible" && latest.current();
    document.addEventListener("visibilitychange", look);
    return () => document.removeEventListener("visibilitychange", look);
  }, []);
}

/** Whole seconds until that moment, counted down; 0 once it is over. */
export function useCountdown(until: number | undefined): number {
  const left = () => Math.max(0, Math.ceil(((until ?? 0) - Date.now()) / 1_000));
  const [seconds, setSeconds] = useState(left);
  useEffect(() => {
    setSeconds(left());
    if (left() === 0) return;
    const timer = setInterval(() => setSeconds(left()), 250);
    return () => clearInterval(timer);
  }, [until]);
  return seconds;
}

export interface Choice {
  label: string;
  icon: ReactNode;
  act: () => void;
  danger?: boolean;
}

/** A button that opens a menu: arrow keys move, Escape closes and gives the focus back. */
export function Menu({ label, icon, choices }: { label: string; icon: ReactNode; choices: Choice[] }) {
  const [open, setOpen] = useState(false);
  const id = useId();
  const root = useRef<HTMLDivElement>(null);
  const button = useRef<HTMLButtonElement>(null);

  useEffect(() => {
    if (!open) return;
    root.current?.querySelector<HTMLElement>("[role=menuitem]")?.focus();
    const leave = (event: Event) => !root.current?.contains(event.target as Node) && setOpen(false);
    document.addEventListener("pointerdown", leave);
    return () => document.removeEventListener("pointerdown", leave);
  }, [open]);

  function move(event: React.KeyboardEvent) {
    if (!open) return;
    const items = [...root.current!.querySelectorAll<HTMLElement>("[role=menuitem]")];
    const at = items.indexOf(document.activeElement as HTMLElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step !== undefined) {
      event.preventDefault();
      items.at((at + step) % items.length)?.focus();
    } else if (event.key === "Escape" || event.key === "Tab") {
      event.stopPropagation();
      setOpen(false);
      if (event.key === "Escape") button.current?.focus();
    }
  }

  return (
    <div className="menu" ref={root} onKeyDown={move}>
      <button
        ref={button}
        type="button"
        className="icon"
        aria-label={label}
        title={label}
        aria-haspopup="menu"
        aria-expanded={open}
        aria-controls={open ? id : undefined}
        onClick={() => setOpen(!open)}
      >
        {icon}
      </button>
      {open && (
        <ul role="menu" id={id} aria-label={label}>
          {choices.map((choice) => (
            <li key={choice.label} role="none">
              <button
                type="button"
                role="menuitem"
                tabIndex={-1}
                className={choice.danger ? "danger" : undefined}
                onClick={() => {
                  setOpen(false);
                  button.current?.focus();
                  choice.act();
                }}
              >
                {choice.icon}
                {choice.label}
              </button>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

/** Pages that come by plain HTTP from another machine have no `navigator.clipboard`; they can copy what is selected. */
export async function toClipboard(text: string): Promise<void> {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const focused = document.activeElement as HTMLElement | null;
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  focused?.focus();
  if (!copied) throw new Error("The browser does not let this page copy.");
}

/** Whether a text was copied a moment ago, and what copies one. */
export function useCopied(): [boolean, (text: string) => void] {
  const [copied, setCopied] = useState(false);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const copy = (text: string) => {
    void toClipboard(text).then(() => {
      setCopied(true);
      clearTimeout(timer.current);
      timer.current = setTimeout(() => setCopied(false), 1_500);
    }, () => {});
  };
  return [copied, copy];
}

/** An amount of US dollars; one below ten cents with two digits that say something. */
export function dollars(amount: number): string {
  return amount >= 0.1 || amount === 0 ? `$${amount.toFixed(2)}` : `$${amount.toLocaleString("en", { maximumSignificantDigits: 2 })}`;
}
