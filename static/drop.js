// Accepts files that the user drops anywhere on the page, or pastes.

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
    // Some programs copy a text together with a picture of it, for example a table cell. Then the user wants to paste
    // the text into the text field with the focus.
    if (!files.length || event.clipboardData.types.includes("text/plain")) return;
    event.preventDefault();
    onFiles(files);
  });
}
