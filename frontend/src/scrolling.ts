import { useCallback, useEffect, useRef, useState } from "react";

/** Follow what grows at its end, unless the reader has gone up. `ref` is for the box that scrolls. */
export function useStickToEnd(content: unknown) {
  const ref = useRef<HTMLDivElement>(null);
  const [atEnd, setAtEnd] = useState(true);
  const sticks = useRef(true);

  const toEnd = useCallback(() => {
    sticks.current = true;
    ref.current?.scrollTo({ top: ref.current.scrollHeight });
  }, []);
  useEffect(() => {
    const box = ref.current!;
    let top = 0;
    const look = () => {
      const isNear = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
      if (isNear || box.scrollTop < top) sticks.current = isNear; // what grows at the end is no move of the reader
      top = box.scrollTop;
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
