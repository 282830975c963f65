import type { ReactNode } from "react";

function icon(paths: ReactNode) {
  return () => (
    <svg viewBox="0 0 24 24" width="18" height="18" fill="none" stroke="currentColor" strokeWidth="1.75" strokeLinecap="round" strokeLinejoin="round" aria-hidden="true">
      {paths}
    </svg>
  );
}

export const Plus = icon(<path d="M12 5v14M5 12h14" />);
export const Send = icon(<path d="M12 19V5M5.500 11.500 12 5l6.500 6.500" />);
export const Stop = icon(<rect x="6.500" y="6.500" width="11" height="11" rx="2" fill="currentColor" stroke="none" />);
export const Clip = icon(<path d="m20 11.500-8.300 8.300a5.200 5.200 0 0 1-7.400-7.400l8.300-8.300a3.500 3.500 0 0 1 4.900 4.900l-8.300 8.300a1.700 1.700 0 0 1-2.400-2.400l7.600-7.600" />);
export const Pencil = icon(<path d="M4 20h4L19 9a2.800 2.800 0 0 0-4-4L4 16v4z" />);
export const Again = icon(<path d="M20 11a8 8 0 1 0-2.300 6.300M20 5v6h-6" />);
export const Copy = icon(<><rect x="9" y="9" width="11" height="11" rx="2" /><path d="M5 15H4V5a1 1 0 0 1 1-1h10v1" /></>);
export const Check = icon(<path d="m5 12.500 4.500 4.500L19 7.500" />);
export const Cross = icon(<path d="M6 6l12 12M18 6 6 18" />);
export const Dots = icon(<><circle cx="5" cy="12" r="1.200" fill="currentColor" /><circle cx="12" cy="12" r="1.200" fill="currentColor" /><circle cx="19" cy="12" r="1.200" fill="currentColor" /></>);
export const Pin = icon(<path d="M12 16v5M8 4h8l-1 6 3 3v3H6v-3l3-3-1-6z" />);
export const Archive = icon(<><rect x="3.500" y="4" width="17" height="5" rx="1" /><path d="M5.500 9v10a1 1 0 0 0 1 1h11a1 1 0 0 0 1-1V9M10 13h4" /></>);
export const Trash = icon(<path d="M4 7h16M9 7V4h6v3M6.500 7l.8 12a1 1 0 0 0 1 1h7.400a1 1 0 0 0 1-1l.8-12" />);
export const Search = icon(<><circle cx="11" cy="11" r="6.500" /><path d="m16 16 4 4" /></>);
export const Menu = icon(<path d="M4 7h16M4 12h16M4 17h16" />);
export const Tasks = icon(<path d="m3.500 6.500 1.500 1.500 2.500-3M3.500 12.500 5 14l2.500-3M3.500 18.500 5 20l2.500-3M11 7h9M11 13h9M11 19h9" />);
export const Sun = icon(<><circle cx="12" cy="12" r="4" /><path d="M12 2.500v2M12 19.500v2M2.500 12h2M19.500 12h2M5.300 5.300l1.400 1.400M17.300 17.300l1.400 1.400M5.300 18.700l1.400-1.400M17.300 6.700l1.400-1.400" /></>);
export const Moon = icon(<path d="M20 14.500A8.500 8.500 0 0 1 9.500 4a8.500 8.500 0 1 0 10.500 10.500z" />);
export const Wrench = icon(<path d="M20 6.500a5 5 0 0 1-6.600 6.300L7 19.200a2 2 0 0 1-2.800-2.800l6.400-6.400A5 5 0 0 1 17 3.500l-3 3 .5 3 3 .5 2.500-3.500z" />);
export const Thought = icon(<path d="M9 18h6M10 21h4M12 3a6 6 0 0 0-3.500 10.900c.6.500 1 1.200 1 2v.100h5v-.100c0-.8.400-1.500 1-2A6 6 0 0 0 12 3z" />);
export const Up = icon(<path d="M7 11v9H4v-9h3zm0 0 4-7c1.500 0 2.300 1 2 2.500L12.500 10H18a2 2 0 0 1 2 2.400l-1.200 6A2 2 0 0 1 16.800 20H7" />);
export const Down = icon(<path d="M17 13V4h3v9h-3zm0 0-4 7c-1.500 0-2.300-1-2-2.500l.5-3.500H6a2 2 0 0 1-2-2.400l1.200-6A2 2 0 0 1 7.200 4H17" />);
export const Left = icon(<path d="m14 6-6 6 6 6" />);
export const Right = icon(<path d="m10 6 6 6-6 6" />);
export const ToEnd = icon(<path d="M12 5v14M6 13l6 6 6-6" />);
export const File = icon(<path d="M6 3h8l5 5v12a1 1 0 0 1-1 1H6a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1zm8 0v5h5" />);
export const Out = icon(<path d="M10 4H5v16h5M15 8l4 4-4 4M19 12H9" />);
