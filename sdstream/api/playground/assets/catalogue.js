// The parameter catalogue of the server (GET /v1/parameters) in the shape the panel draws from.

/**
 * {parameters, processors}. A parameter keeps the members of the catalogue and gains `change` (hot, reload or refused), `minimum` and
 * `maximum` of its useful range, and `members` (of an object or of an item of a list). `processors` are {image, latent} lists.
 */
export function readCatalogue({ data, processors }) {
  const parameters = data.filter(({ name, processor }) => !processor && !/[.[]/.test(name)).map(readEntry);
  for (const parameter of parameters) {
    const path = new RegExp(`^${parameter.name}(\\[\\])?\\.(\\w+)$`);
    parameter.members = data.flatMap((entry) => {
      const match = path.exec(entry.name);
      return match ? [{ ...readEntry(entry), name: match[2] }] : [];
    });
  }
  const kinds = processors.map((kind) => ({ ...kind, parameters: kind.parameters.map((entry) => ({ ...readEntry(entry), name: entry.name.split(".").at(-1) })) }));
  return {
    parameters,
    processors: { image: kinds.filter(({ kind }) => kind === "image"), latent: kinds.filter(({ kind }) => kind === "latent") },
  };
}

/** The default of a parameter in a model family; families differ in some. */
export function defaultOf(parameter, family) {
  return parameter.defaults?.[family] ?? parameter.default ?? null;
}

function readEntry(entry) {
  const [minimum, maximum] = entry.slider ?? [entry.minimum, entry.maximum];
  return { ...entry, minimum: minimum ?? undefined, maximum: maximum ?? undefined, change: entry.update };
}
