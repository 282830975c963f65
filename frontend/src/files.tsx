import type { FileUIPart } from "ai";
import { useEffect, useState } from "react";

import { File as FileIcon } from "./icons.tsx";
import { useSession } from "./parts.tsx";
import type { Session } from "./session.ts";

/** Files by their address on the service, fetched once, since a picture's address needs the user's token. */
const fetched = new Map<string, Promise<string>>();

function localAddress(session: Session, url: string): Promise<string> {
  const path = new URL(url, location.href).pathname;
  let address = fetched.get(path);
  if (address === undefined) {
    address = session
      .token()
      .then((token) => fetch(path, { headers: token === undefined ? {} : { Authorization: `Bearer ${token}` } }))
      .then((response) => {
        if (!response.ok) throw new Error(`HTTP ${response.status}`);
        return response.blob();
      })
      .then((blob) => URL.createObjectURL(blob));
    address.catch(() => fetched.delete(path));
    fetched.set(path, address);
  }
  return address;
}

export function Picture({ url, name }: { url: string; name: string }) {
  const session = useSession();
  const [address, setAddress] = useState<string>();
  const [failed, setFailed] = useState(false);
  useEffect(() => {
    let gone = false;
    localAddress(session, url).then(
      (made) => gone || setAddress(made),
      () => gone || setFailed(true),
    );
    return () => void (gone = true);
  }, [session, url]);
  if (failed) return <span className="left-out">[picture: {name || "gone"}]</span>;
  return address ? <img src={address} alt={name} /> : <span className="picture-waits" aria-label={name} />;
}

/** A file of a message: a picture is shown, another can be saved. */
export function FileView({ part }: { part: FileUIPart }) {
  const session = useSession();
  const name = part.filename ?? "file";
  if (part.mediaType.startsWith("image/")) return <Picture url={part.url} name={part.filename ?? ""} />;
  async function save() {
    const link = document.createElement("a");
    link.href = await localAddress(session, part.url);
    link.download = name;
    link.click();
  }
  return (
    <button type="button" className="file" onClick={() => void save()}>
      <FileIcon />
      {name}
    </button>
  );
}
