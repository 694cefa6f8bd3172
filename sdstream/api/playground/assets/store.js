// What the page remembers: the key for this browser, and the settings for next time. Storage may be forbidden; then nothing is kept.

const KEY = "sdstream.key";
const SETTINGS = "sdstream.settings.1";

/** The key from `#key=` of the address, which is taken out of the address bar and the history at once, or the one kept before. */
export function takeKey() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const given = fragment.get("key");
  if (given !== null) {
    fragment.delete("key");
    const rest = fragment.toString();
    history.replaceState(null, "", `${location.pathname}${location.search}${rest ? `#${rest}` : ""}`);
    keepKey(given.trim());
    return given.trim();
  }
  return read(KEY) ?? "";
}

export const keepKey = (key) => write(KEY, key);
export const forgetKey = () => remove(KEY);

/** The settings of last time, or null. */
export function loadSettings() {
  try {
    const settings = JSON.parse(read(SETTINGS) ?? "null");
    return settings && typeof settings.params === "object" ? settings : null;
  } catch {
    return null;
  }
}

export const saveSettings = (settings) => write(SETTINGS, JSON.stringify(settings));
export const forgetSettings = () => remove(SETTINGS);

function read(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

function write(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // private window or full: the page works without
  }
}

function remove(name) {
  try {
    localStorage.removeItem(name);
  } catch {
    // as above
  }
}
