// Tables as CSV files.

// Spreadsheets run text that begins like a formula: an apostrophe makes it text.
function quote(value) {
  if (value === null || value === undefined) return "";
  let text = String(value);
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function formatCsv(lines) {
  return lines.map((line) => line.map(quote).join(",")).join("\r\n") + "\r\n";
}

export function saveCsv(name, lines) {
  const address = URL.createObjectURL(new Blob([formatCsv(lines)], { type: "text/csv" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
