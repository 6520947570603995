"use strict";
// Unpacks plotly.js, draws the charts that can be seen, and those inside folded parts when they are unfolded.
(async () => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const font = { family: getComputedStyle(document.body).fontFamily, size: 11.5 };
  const base = {
    autosize: true, font, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    hoverlabel: { font, align: "left" }, dragmode: "zoom",
    legend: { orientation: "h", x: 1, xanchor: "right", y: 1, yanchor: "bottom", font },
  };
  const axis = { automargin: false, gridcolor: "#8886", zerolinecolor: "#8886", linecolor: "#8886", fixedrange: false };
  const options = { displayModeBar: false, responsive: true };

  function fail(message) {
    const place = document.getElementById("failed");
    place.textContent = message + " All numbers are in the tables.";
    place.hidden = false;
  }

  async function unpack() {
    const packed = document.getElementById("plotly");
    const text = packed.textContent;
    const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    packed.remove();
  }

  const narrowed = new Map(); // annotations for a narrow and for a wide chart
  const seen = (place) => !place.closest("details.result:not([open])");

  async function draw(name) {
    const place = document.getElementById(name), { data, layout, narrow } = charts[name];
    const titled = Object.entries(layout).some(([key, value]) => key.startsWith("xaxis") && value.title);
    const top = layout.showlegend ? 30 : 4;
    const whole = { ...base, margin: { l: layout.yaxis.ticktext ? 80 : layout.yaxis.title ? 60 : 50, r: 18, t: top, b: titled ? 46 : 20 }, ...layout };
    for (const key of Object.keys(whole)) {
      if (/^[xy]axis\d*$/.test(key)) {
        const title = whole[key].title ? { title: { standoff: 6, font, ...whole[key].title } } : {};
        whole[key] = { ...axis, ...whole[key], ...title };
      }
    }
    if (narrow) {
      narrowed.set(place, [narrow, layout.annotations]);
      if (place.clientWidth < 900) whole.annotations = narrow;
    }
    delete charts[name];
    await Plotly.newPlot(place, data, whole, options);
  }

  async function drawSeen() {
    for (const name of Object.keys(charts)) {
      if (name in charts && seen(document.getElementById(name))) await draw(name);
    }
  }

  for (const frame of document.querySelectorAll(".scroll")) {
    if (frame.scrollWidth <= frame.clientWidth) continue;
    frame.tabIndex = 0;
    frame.setAttribute("role", "region");
    frame.setAttribute("aria-label", frame.querySelector("caption").textContent);
  }

  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", async () => {
      const text = document.getElementById(button.dataset.copy);
      const state = document.getElementById(button.getAttribute("aria-describedby"));
      try {
        await navigator.clipboard.writeText(text.textContent);
        state.textContent = "copied";
      } catch {
        text.closest("details").open = true;
        getSelection().selectAllChildren(text);
        state.textContent = "selected: copy it with the keyboard";
      }
    });
  }

  const unable = (error) => fail("The charts cannot be drawn in this browser (" + error + ").");
  try {
    await unpack();
    await drawSeen();
    document.addEventListener("toggle", () => void drawSeen().catch(unable), true);
  } catch (error) {
    unable(error);
  }
  const fit = (size) => {
    for (const place of document.querySelectorAll(".js-plotly-plot")) {
      const [narrow, wide] = narrowed.get(place) || [];
      const words = narrow ? { annotations: size.width || place.clientWidth < 900 ? narrow : wide } : {};
      Plotly.relayout(place, { ...size, ...words });
    }
  };
  addEventListener("beforeprint", () => fit({ width: 690, autosize: false }));
  addEventListener("afterprint", () => fit({ width: null, autosize: true }));
  performance.mark("drawn");
  document.documentElement.dataset.drawn = "yes";
})();
