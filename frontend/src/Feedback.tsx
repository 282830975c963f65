import { useState } from "react";

import { Down, Up } from "./icons.tsx";
import { IconButton, useSession } from "./parts.tsx";

type Rating = "up" | "down";

/** A thumb up or down; pressed again, it is taken back. */
export function Feedback({ messageId, given }: { messageId: number; given: Rating | undefined }) {
  const session = useSession();
  const [rating, setRating] = useState(given);

  async function rate(pressed: Rating) {
    const next = pressed === rating ? undefined : pressed;
    setRating(next);
    const path = `/messages/${messageId}/feedback`;
    await (next ? session.request("PUT", path, { rating: next }) : session.request("DELETE", path)).catch(() => setRating(rating));
  }

  return (
    <>
      <IconButton label="Good answer" aria-pressed={rating === "up"} onClick={() => void rate("up")}><Up /></IconButton>
      <IconButton label="Bad answer" aria-pressed={rating === "down"} onClick={() => void rate("down")}><Down /></IconButton>
    </>
  );
}
