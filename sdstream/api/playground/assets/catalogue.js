// The parameter catalogue of the server (GET /v1/parameters) in the shape the panel draws from.

export function readCatalogue(body) { return body.data; }
