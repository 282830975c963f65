import { useCallback, useEffect, useState } from "react";

import { Session, signIn, signOut, type SignedOut } from "./session.ts";
import { SignIn } from "./SignIn.tsx";
import { Workspace } from "./Workspace.tsx";

export function App() {
  const [state, setState] = useState<Session | SignedOut | Error>();

  const enter = useCallback((token?: string, refused?: string) => {
    setState(undefined);
    signIn(token, refused).then(setState, (error: Error) => setState(error));
  }, []);
  useEffect(() => enter(), [enter]);

  const leave = useCallback((refused?: string) => {
    signOut(refused);
    enter(undefined, refused);
  }, [enter]);

  if (state === undefined) return <main className="splash" aria-busy="true" aria-label="Signing in" />;
  if (state instanceof Session) return <Workspace session={state} onLeave={leave} />;
  if (state instanceof Error) {
    return (
      <main className="splash">
        <div className="card" role="alert">
          <h1>The service cannot be reached</h1>
          <p>{state.message}</p>
          <button className="primary" onClick={() => enter()}>Try again</button>
        </div>
      </main>
    );
  }
  return <SignIn signedOut={state} onToken={enter} />;
}
