// What the page remembers: the key for this browser, and the settings for next time. Storage may be forbidden; then nothing is kept.

const KEY = "sdstream.key";
const SETTINGS = "sdstream.settings.1";
const IMAGE = "sdstream.settings.1.image";

/** The key from `#key=` of the address, or the one kept before. */
export const takeKey = () => takeGivenKey() ?? read(KEY) ?? "";

/** The key from `#key=` of the address, which is taken out of the address bar and the history at once, and kept; or null. */
export function takeGivenKey() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const given = fragment.get("key");
  if (given === null) return null;
  fragment.delete("key");
  const rest = fragment.toString();
  history.replaceState(null, "", `${location.pathname}${location.search}${rest ? `#${rest}` : ""}`);
  keepKey(given.trim());
  return given.trim();
}

export const keepKey = (key) => write(KEY, key);
export const forgetKey = () => remove(KEY);

/** The settings of last time, or null. */
export function loadSettings() {
  try {
    const settings = JSON.parse(read(SETTINGS) ?? "null");
    if (!settings?.params || typeof settings.params !== "object") return null;
    const image = read(IMAGE);
    return image ? { ...settings, params: { ...settings.params, ip_adapter_style_image_url: image } } : settings;
  } catch {
    return null;
  }
}

let keptImage; // not known before the first `saveSettings`

/**
 * Keep `settings`. A style image that is data lies apart and is written when it is another: a slider changes settings sixty times a
 * second, and an image takes megabytes. Where a browser has no room for it, the rest is kept.
 */
export function saveSettings(settings) {
  const { ip_adapter_style_image_url: image, ...params } = settings.params;
  const data = image?.startsWith("data:") ? image : null;
  write(SETTINGS, JSON.stringify(data === null ? settings : { ...settings, params }));
  if (data === keptImage) return;
  keptImage = data;
  remove(IMAGE);
  if (data !== null) write(IMAGE, data);
}

export function forgetSettings() {
  remove(SETTINGS);
  remove(IMAGE);
  keptImage = null;
}

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
