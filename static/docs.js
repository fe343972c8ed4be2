// The API's own description, shown by Swagger UI.
window.SwaggerUIBundle({ url: "/openapi.json", dom_id: "#docs", deepLinking: true });
