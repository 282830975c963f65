// The page's style and icon, which come with its script: each file of its own would be a request more for a first visit.
// The page's CSP allows neither a style in the page's text nor a data: address.
import icon from "./icon.svg?raw";
import style from "./style.css?inline";

const sheet = new CSSStyleSheet();
sheet.replaceSync(style);
document.adoptedStyleSheets = [sheet];

const link = document.createElement("link");
link.rel = "icon";
link.href = URL.createObjectURL(new Blob([icon], { type: "image/svg+xml" }));
document.head.append(link);
