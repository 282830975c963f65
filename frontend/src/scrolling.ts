import { useCallback, useEffect, useRef, useState } from "react";

/** Follow what grows at its end, unless the reader has gone up. `ref` is for the box that scrolls. */
export function useStickToEnd(content: unknown) {
  const ref = useRef<HTMLDivElement>(null);
  const [atEnd, setAtEnd] = useState(true);
  const sticks = useRef(true);

  const toEnd = useCallback(() => ref.current?.scrollTo({ top: ref.current.scrollHeight }), []);
  useEffect(() => {
    const box = ref.current!;
    const look = () => {
      sticks.current = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
      setAtEnd(sticks.current);
    };
    box.addEventListener("scroll", look, { passive: true });
    const grown = new ResizeObserver(() => sticks.current && toEnd());
    grown.observe(box.firstElementChild!);
    return () => {
      box.removeEventListener("scroll", look);
      grown.disconnect();
    };
  }, [toEnd]);
  useEffect(() => {
    if (sticks.current) toEnd();
  }, [content, toEnd]);
  return { ref, atEnd, toEnd };
}
