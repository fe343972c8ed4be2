// Shows the OpenAPI description of the service in Swagger UI.

/**
 * A plugin that sends each text field of a form as it was typed.
 *
 * Without the plugin, Swagger UI parses the text as JSON, and sends an array as comma-separated values. Swagger UI does
 * not change the content of a JSON string, so the plugin turns each text into a JSON string.
 */
function textAsTyped({ fn }) {
  const quote = (value) => (typeof value === "string" && value !== "" ? JSON.stringify(value) : value);
  const quoted = (fields) => Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, quote(value)]));
  const wrap = (call) => (request) =>
    call(request.requestContentType === "multipart/form-data"
      ? { ...request, requestBody: quoted(request.requestBody) }
      : request);
  return { fn: { buildRequest: wrap(fn.buildRequest), execute: wrap(fn.execute) } };
}

window.SwaggerUIBundle({ url: "/openapi.json", dom_id: "#docs", deepLinking: true, plugins: [textAsTyped] });
