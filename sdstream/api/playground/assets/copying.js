// Buttons that copy a text, and say for a moment whether they did.

const COPIED_MS = 1500;

/** `button` has a label in a span and copies `text()`. Without permission `select` marks the text, ready for the keyboard. */
export function copyOnClick(button, text, select) {
  const label = button.querySelector("span");
  const before = label.textContent;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      label.textContent = "Copied";
    } catch {
      select();
      label.textContent = "Selected";
    }
    setTimeout(() => (label.textContent = before), COPIED_MS);
  });
}
