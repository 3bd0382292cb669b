"use strict";
// Folded parts are opened for printing, but for lists of cell keys and copies of
// tables: nobody looks those up from paper.
const folded = [];
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not([open], .cells, .take)")) { part.open = true; folded.push(part); }
});
addEventListener("afterprint", () => { while (folded.length) folded.pop().open = false; });

// Plotly travels gzipped. The page's policy admits exactly its text, by hash, and nothing else.
async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

const PAPER = 660;

async function draw(places) {
  const library = document.createElement("script");
  library.textContent = await unpack(document.getElementById("plotly").textContent.trim());
  document.head.append(library);
  for (const place of places) {
    const figure = JSON.parse(document.getElementById(place.dataset.figure).textContent);
    const font = { family: getComputedStyle(document.body).fontFamily, size: 13 };
    const options = {
      responsive: true, displaylogo: false, modeBarButtons: [["toImage"]],
      toImageButtonOptions: { format: "svg", filename: place.dataset.figure },
    };
    place.replaceChildren();
    await Plotly.newPlot(place, figure.data, { ...figure.layout, font, hoverlabel: { font } }, options);
  }
  // On paper a figure is as wide as a page, not as the window was.
  const redraw = (size) => Promise.all([...places].map((place) => Plotly.relayout(place, size)));
  addEventListener("beforeprint", () => redraw({ width: PAPER }));
  addEventListener("afterprint", () => redraw({ width: null, autosize: true }));
  // Where Plotly measures text: empty, and outside of all landmarks.
  document.getElementById("js-plotly-tester")?.setAttribute("aria-hidden", "true");
}

const places = document.querySelectorAll(".plot");
if (places.length) {
  draw(places).catch((error) => {
    for (const place of places) place.textContent = "This browser cannot draw the curves; the numbers are below.";
    console.error(error);
  });
}
