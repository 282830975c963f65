// The AI SDK checks chunks with zod, which makes functions of text unless it is told not to; the page's CSP forbids that.
// Imported before everything else, since zod looks when a schema is made.
import { config } from "zod/v4/core";

config({ jitless: true });
