// Files given to the page as a whole: dropped anywhere, or pasted.

export function acceptFiles(onFiles) {
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  const light = (on) => document.body.classList.toggle("dropping", on);

  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault(); // else the browser would leave the page to open the file
    event.dataTransfer.dropEffect = "copy";
    light(true);
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) light(false); });
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    light(false);
    if (event.dataTransfer.files.length) onFiles([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    // What comes with text (a cell, a paragraph) belongs to the field it was pasted into.
    if (!files.length || event.clipboardData.types.includes("text/plain")) return;
    event.preventDefault();
    onFiles(files);
  });
}
