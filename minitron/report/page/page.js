// Draws each chart of the page; what could not be drawn says so in its place.
for (const place of document.querySelectorAll(".chart")) {
  const spec = JSON.parse(document.getElementById(place.dataset.spec).textContent);
  vegaEmbed(place, spec, { mode: "vega-lite", renderer: "svg", actions: false, tooltip: { theme: "dark" } })
    .catch((error) => { place.textContent = "This chart could not be drawn: " + error; console.error(error); });
}
