import { useState } from "react";

import type { SignedOut } from "./session.ts";

/** How to get a token, and where to put it. */
export function SignIn({ signedOut, onToken }: { signedOut: SignedOut; onToken: (token: string) => void }) {
  const [token, setToken] = useState("");
  return (
    <main className="splash">
      <form
        className="card sign-in"
        onSubmit={(event) => {
          event.preventDefault();
          onToken(token.trim().replace(/^Bearer\s+/i, "").replace(/\s+/g, "")); // one that was copied may be broken into lines
        }}
      >
        <h1>Sign in with a token</h1>
        {signedOut.refused && <p role="alert" className="warning">{signedOut.refused}</p>}
        <p>The service knows you by a token. There are two ways to get one:</p>
        <dl>
          <dt>On the service's machine</dt>
          <dd><code>chatapi token YOUR_NAME</code></dd>
          <dt>From {signedOut.issuer ?? "Better Auth"}, once signed in there</dt>
          <dd><code>{signedOut.issuer ?? ""}/api/auth/token</code></dd>
        </dl>
        <label htmlFor="token">Token</label>
        <textarea
          id="token"
          rows={4}
          value={token}
          onChange={(event) => setToken(event.target.value)}
          spellCheck={false}
          autoComplete="off"
          required
          autoFocus
        />
        <p className="hint">It is kept in this tab, and forgotten when the tab is closed.</p>
        <button className="primary" disabled={!token.trim()}>Sign in</button>
      </form>
    </main>
  );
}
