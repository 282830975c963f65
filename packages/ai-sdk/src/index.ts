export type { components, operations, paths } from "./api.ts";
export type { Answer, ChatapiMessage, ChatapiMetadata, ClientTool, Part } from "./messages.ts";
export { answersAreReady, answersIn, callsToCarryOut, fileIn, filesOf, textOf, turnIn } from "./messages.ts";
export type { Problem, Schemas } from "./problems.ts";
export { errorOf, ProblemError, problemOf } from "./problems.ts";
export type { ChatapiOptions, RequestMetadata, WhenBusy } from "./transport.ts";
export { ChatapiTransport } from "./transport.ts";
