// Carries messages between the page and the kernel, wherever widgets live (anywidget's module format); shows nothing.
export default { render() {}, initialize({ model }) {
  const name = "{{ name }}", hear = ({ detail }) => detail.name === name && model.send(detail);
  const tell = (detail) => document.dispatchEvent(new CustomEvent("svdlab-tell", { detail: { name, ...detail } }));
  document.addEventListener("svdlab-ask", hear);
  model.on("msg:custom", (content, buffers) => tell({ ...content, data: buffers }));
  tell({ ready: true });
  return () => document.removeEventListener("svdlab-ask", hear);
} };
