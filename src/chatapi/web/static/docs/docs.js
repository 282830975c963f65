// Starts Swagger UI. In a file of its own, because the page's Content-Security-Policy allows no script in the page.
"use strict";

const target = document.getElementById("swagger-ui");

window.ui = SwaggerUIBundle({
  url: target.dataset.document,
  domNode: target,
  deepLinking: true,
  persistAuthorization: false, // a token has no business in the browser's storage
  validatorUrl: null, // would send the document to a server of Swagger's
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
});
