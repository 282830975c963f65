// Real Better Auth servers for the tests, on loopback ports and in memory, one for each configuration named in the
// argument:  node server.mjs '{"NAME": {"jwks": {…}, "jwt": {…}, "cookieCache": false | "secret" | "key"}, …}'
// Prints {"NAME": "http://127.0.0.1:PORT", …} when all of them listen; ends when its standard input does.
import { createServer } from "node:http";

import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { createAuthEndpoint, sessionMiddleware } from "better-auth/api";
import { signJWT } from "better-auth/crypto";
import { toNodeHandler } from "better-auth/node";
import { bearer, jwt } from "better-auth/plugins";

const secret = process.env.BETTER_AUTH_SECRET;

// What teams do that want a token signed with the shared secret: a plugin of their own.
const plainToken = {
  id: "plain-token",
  endpoints: {
    plainToken: createAuthEndpoint("/plain-token", { method: "GET", use: [sessionMiddleware] }, async (ctx) =>
      ctx.json({ token: await signJWT({ userId: ctx.context.session.user.id }, secret, 900) }),
    ),
  },
};

async function start({ jwks, jwt: jwtOptions, cookieCache }) {
  const tables = { user: [], session: [], account: [], verification: [], jwks: [] };
  let handler;
  const server = createServer((request, response) => {
    const control = controls[request.url];
    if (control === undefined) return handler(request, response);
    control();
    response.writeHead(204).end();
  });
  // What time would do, or an administrator.
  const controls = {
    "/control/rotate": () => tables.jwks.forEach((key) => (key.expiresAt = new Date(Date.now() - 1000))),
    "/control/forget-keys": () => tables.jwks.splice(0),
    "/control/expire-sessions": () => tables.session.forEach((row) => (row.expiresAt = new Date(Date.now() - 1000))),
  };
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const baseURL = `http://127.0.0.1:${server.address().port}`;
  handler = toNodeHandler(
    betterAuth({
      baseURL,
      secret,
      database: memoryAdapter(tables),
      emailAndPassword: { enabled: true },
      session: { cookieCache: { enabled: Boolean(cookieCache), strategy: "jwt", maxAge: 300 } },
      plugins: [
        jwt({ jwks, jwt: jwtOptions, ...(cookieCache === "key" ? { sessionCookieCache: true } : {}) }),
        bearer(),
        plainToken,
      ],
      rateLimit: { enabled: false },
      telemetry: { enabled: false },
    }),
  );
  return baseURL;
}

const urls = {};
for (const [name, options] of Object.entries(JSON.parse(process.argv[2]))) urls[name] = await start(options);
console.log(JSON.stringify(urls));
process.stdin.resume().on("end", () => process.exit(0));
