import { useEffect, useState } from "react";

export type Theme = "light" | "dark";

const KEPT = "chatapi-theme";

/** The system's theme, until the reader has chosen another. */
export function useTheme(): [Theme, (theme: Theme) => void] {
  const [theme, setTheme] = useState<Theme>(
    () => (localStorage.getItem(KEPT) as Theme | null) ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"),
  );
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
  }, [theme]);
  return [
    theme,
    (chosen) => {
      localStorage.setItem(KEPT, chosen);
      setTheme(chosen);
    },
  ];
}
