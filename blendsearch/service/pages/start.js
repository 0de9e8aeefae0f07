// Starting a search from a config.
import { ask, complain, enter, find } from "./api.js";

enter(async () => {
  const example = async () => { find("config").value = await ask("example"); };
  await example();
  find("example").addEventListener("click", () => example().catch(complain));
  find("file").addEventListener("change", async (event) => {
    const file = event.target.files[0];
    if (!file) return;
    if (file.size > 64000) complain(new Error(`${file.name} is too large for a config: at most 64 kB are taken`));
    else find("config").value = await file.text();
  });
  find("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    complain(null);
    find("go").disabled = true;
    try {
      const found = await ask("runs", { config: find("config").value, name: find("name").value || null });
      location.assign(`/runs/${encodeURIComponent(found.run)}`);
    } catch (error) { complain(error); find("go").disabled = false; }
  });
});
