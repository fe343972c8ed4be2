// Files that are dropped anywhere on the page, or pasted.

/** Call `onFiles` with the files of each drop and each paste. */
export function acceptFiles(onFiles) {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const highlight = (on) => document.body.classList.toggle("dropping", on);

  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault(); // otherwise the browser would leave the page and open the file
    event.dataTransfer.dropEffect = "copy";
    highlight(true);
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) highlight(false); });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    highlight(false);
    if (event.dataTransfer.files.length) onFiles([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    // A file that comes with text, such as a copied table cell, is meant for the text field with the focus.
    if (!files.length || event.clipboardData.types.includes("text/plain")) return;
    event.preventDefault();
    onFiles(files);
  });
}
