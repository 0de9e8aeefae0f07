// Starting a search from a config.
import { ask, showError, enter, find } from "./api.js";

enter(async () => {
  const example = async () => { find("config").value = await ask("example"); };
  const from = new URLSearchParams(location.search).get("from");
  if (from) {
    find("name").value = from;
    find("config").value = await ask(`runs/${encodeURIComponent(from)}/config`);
  } else await example();
  find("example").addEventListener("click", () => example().catch(showError));
  find("file").addEventListener("change", async (event) => {
    const file = event.target.files[0];
    if (!file) return;
    if (file.size > 64000) showError(new Error(`${file.name} is too large for a config: at most 64 kB are taken`));
    else find("config").value = await file.text();
  });
  find("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    showError(null);
    find("go").disabled = true;
    try {
      const found = await ask("runs", { config: find("config").value, name: find("name").value || null });
      location.assign(`/runs/${encodeURIComponent(found.run)}`);
    } catch (error) { showError(error); find("go").disabled = false; }
  });
});
