// What the page does without asking the server.
const columns = () => Math.min(3, Math.max(1, Math.floor(window.innerWidth / 360)));
let fitting = columns();
window.addEventListener("resize", () => {
  if (columns() === fitting) return;
  fitting = columns();
  window.dash_clientside.set_props("columns", { data: fitting });
});
window.dash_clientside = window.dash_clientside || {};
window.dash_clientside.rlgen = {
  // The selections of both tables, as ids. A table that has not reported yet keeps what it had.
  choose(runs, experiments, before) {
    const ids = (rows) => rows === undefined || rows === null ? [] : rows.ids || rows.map((r) => r.id);
    const chosen = { runs: ids(runs).sort(), experiments: ids(experiments).sort() };
    return JSON.stringify(chosen) === JSON.stringify(before)
      ? window.dash_clientside.no_update : chosen;
  },
  clear() {
    return [[], []];
  },
  selected(chosen) {
    if (!chosen) return "";
    const many = (n, noun) => (n ? [`${n} ${noun}${n === 1 ? "" : "s"}`] : []);
    const said = [...many(chosen.runs.length, "run"), ...many(chosen.experiments.length, "experiment")];
    return said.length ? `${said.join(" and ")} chosen` : "nothing chosen";
  },
  // The chart is made once there are curves, so that the table need not wait for it, and is changed
  // from then on. Axes that were zoomed stay so while points arrive: plotly's own uirevision forgets
  // it, since Dash hands it back the layout with the ranges in it.
  plot(chart) {
    const drawn = document.querySelector("#graph .js-plotly-plot");
    if (!chart || !drawn || !drawn.layout) return chart;
    const { figure, style } = chart.props;
    const same = figure.layout.uirevision === drawn.layout.uirevision;
    for (const [name, axis] of Object.entries(same ? drawn.layout : {})) {
      if (axis?.autorange !== false) continue;
      Object.assign(figure.layout[name], { range: axis.range, autorange: false });
    }
    window.dash_clientside.set_props("graph", { figure, style });
    return window.dash_clientside.no_update;
  },
  // What is chosen is seen in the other list too: an experiment for all of its runs, and they for it.
  list(shown, chosen, rows) {
    const boxes = [shown !== "runs", shown !== "experiments"];
    const nothing = window.dash_clientside.no_update;
    if (!chosen) return [...boxes, nothing, nothing];
    const members = Map.groupBy(rows, (row) => row.experiment);
    const of = (name) => (members.get(name) || []).map((row) => row.id);
    let { runs, experiments } = chosen;
    if (shown === "runs") {
      runs = [...new Set([...runs, ...experiments.flatMap(of)])];
      experiments = [];
    } else {
      const whole = [...members.keys()].filter((name) => of(name).every((id) => runs.includes(id)));
      experiments = [...new Set([...experiments, ...whole])];
      runs = runs.filter((id) => !whole.some((name) => of(name).includes(id)));
    }
    return [...boxes, { ids: runs }, { ids: experiments }];
  },
  tab(shown) {
    return [shown !== "curves", shown === "curves"];
  },
  find(text, options) {
    const wanted = { ...options, quickFilterText: text || "" };
    return [wanted, wanted];
  },
  columns,
  // The address always says what is seen, so that it can be sent to someone; figures that nobody
  // chose are left to the page.
  keep(chosen, view, list, figures, x, seeds, logs, smoothing, find, offered) {
    if (!chosen) return window.dash_clientside.no_update;
    const said = new URLSearchParams();
    chosen.runs.forEach((id) => said.append("run", id));
    chosen.experiments.forEach((name) => said.append("experiment", name));
    said.append("view", view);
    if (list === "experiments") said.append("list", list);
    const own = JSON.stringify(figures) === JSON.stringify(offered.figures);
    (own ? [] : figures || []).forEach((name) => said.append("figure", name));
    if (x && x !== offered.x) said.append("x", x);
    if (seeds === "each") said.append("seeds", seeds);
    if (logs && logs.length) said.append("log", logs.join(""));
    if (smoothing) said.append("smoothing", smoothing);
    if (find) said.append("find", find);
    const readable = said.toString().replaceAll("%2F", "/");
    window.history.replaceState(null, "", `?${readable}`);
    return window.dash_clientside.no_update;
  },
  frame(index, frames) {
    const [said, source] = frames[index];
    return [source, said];
  },
};
