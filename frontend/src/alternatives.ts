import type { Schemas } from "@chatapi/ai-sdk";

import type { Session } from "./session.ts";

/** One of several answers to the last message. */
export interface Alternative {
  turnId: number;
  text: string;
}

/** All answers to the conversation's last message as it is now, the oldest first; none if there is but one. */
export async function alternativesOf(session: Session, conversationId: number): Promise<Alternative[]> {
  const path = `/conversations/${conversationId}/messages?alternatives=true&order=desc&limit=20`;
  const { items } = await session.request<{ items: Schemas["Message"][] }>("GET", path);
  const earlier = new Map(items.map((item) => [item.turn_id, item.alternative_of]));
  const first = (turn: number): number => {
    const before = earlier.get(turn);
    return before === undefined ? turn : first(before);
  };
  const last = items[0] && first(items[0].turn_id);
  const together = items.filter((item) => first(item.turn_id) === last);
  const question = together.find((item) => item.role === "user")?.content;
  const asked = new Set(together.filter((item) => item.content === question).map((item) => item.turn_id));
  const answers = together.filter((item) => item.role === "assistant" && item.status === "completed" && asked.has(item.turn_id));
  return answers.length > 1 ? answers.reverse().map((item) => ({ turnId: item.turn_id, text: item.content })) : [];
}
